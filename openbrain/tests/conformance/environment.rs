//! The variables that a command sees.

use std::{collections::BTreeMap, env, os::unix::ffi::OsStringExt};

use openbrain::{Caller, Engine, ErrorKind, Exec, Settings, Surface, settings::AuditedExecs};

use crate::support::{Fixture, SECRET};

type Environment = BTreeMap<String, String>;

/// The whole environment of a command that is not a shell, which would add its own.
async fn environment(f: &Fixture, exec: impl FnOnce(Exec) -> Exec) -> Environment {
    environment_of(&f.engine, exec(f.argv(["env", "-0"]))).await
}

async fn environment_of(engine: &Engine, exec: Exec) -> Environment {
    let output = engine.run(exec).await.unwrap();
    let text = String::from_utf8(output.stdout.bytes).unwrap();
    let entries = text.split_terminator('\0').map(|entry| entry.split_once('=').unwrap());
    entries.map(|(name, value)| (name.into(), value.into())).collect()
}

fn own(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

pub(crate) async fn variables_are_set(f: &Fixture) {
    let found = environment(f, |exec| exec.env("ONE", "1").env("HOME", "/elsewhere")).await;
    assert_eq!(found["ONE"], "1");
    assert_eq!(found["HOME"], "/elsewhere");
}

pub(crate) async fn odd_names_and_values_are_kept(f: &Fixture) {
    let odd = [
        ("two.words with-signs", "a=b"),
        ("ünïcode", "€"),
        ("LINES_OF", "one\ntwo\n"),
        ("EMPTY", ""),
        ("1", " $HOME `id` "),
    ];
    let found =
        environment(f, |exec| odd.iter().fold(exec, |e, (name, value)| e.env(*name, *value)));
    let found = found.await;
    for (name, value) in odd {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
    }
}

pub(crate) async fn what_cannot_be_a_variable_is_refused(f: &Fixture) {
    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
        let error = f.refused(f.argv(["true"]).env(name, value)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error:?}");
    }
}

pub(crate) async fn the_environment_is_clean(f: &Fixture) {
    let mut expected = own(&[
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/home/sandbox"),
        ("USER", "sandbox"),
        ("LOGNAME", "sandbox"),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
    ]);
    assert_eq!(environment(f, |exec| exec).await, expected);
    expected.extend(own(&[("MINE", "1"), ("LANG", "C")]));
    assert_eq!(environment(f, |exec| exec.env("MINE", "1").env("LANG", "C")).await, expected);
}

/// What the image and its agent set, and nothing of openbrain's own.
pub(crate) async fn the_environment_is_that_of_the_image(f: &Fixture) {
    let found = environment(f, |exec| exec.env("MINE", "1").env("PATH", "/usr/bin:/bin")).await;
    assert_eq!((found["MINE"].as_str(), found["PATH"].as_str()), ("1", "/usr/bin:/bin"));
    let own = found.keys().find(|name| name.to_ascii_lowercase().contains("openbrain"));
    assert_eq!(own, None, "{found:?}");
}

pub(crate) async fn the_environment_is_the_callers(f: &Fixture) {
    let lossy = |text: std::ffi::OsString| String::from_utf8(text.into_vec()).unwrap();
    let mut expected: Environment =
        env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect();
    assert_eq!(environment(f, |exec| exec).await, expected);
    expected.extend(own(&[("MINE", "1"), ("PATH", "/usr/bin:/bin")]));
    let found = environment(f, |exec| exec.env("MINE", "1").env("PATH", "/usr/bin:/bin")).await;
    assert_eq!(found, expected);
}

pub(crate) async fn a_secret_of_the_host_is_absent(f: &Fixture) {
    f.alone(async || {
        assert_eq!(env::var(SECRET.0).unwrap(), SECRET.1);
        // Neither in the command, nor in any process that it can look at.
        let output = f.run(f.shell("cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'")).await;
        assert!(output.stdout_text().contains("PATH="), "{output:?}");
        assert!(!output.stdout_text().contains(SECRET.0), "{}", output.stdout_text());
        assert!(!output.stdout_text().contains(SECRET.1), "{}", output.stdout_text());
    })
    .await;
}

pub(crate) async fn a_variable_of_the_host_is_present(f: &Fixture) {
    f.alone(async || assert_eq!(environment(f, |exec| exec).await[SECRET.0], SECRET.1)).await;
}

/// What is asked for over REST or MCP sees what `server.pass_env` lists and what it sets itself.
pub(crate) async fn a_remote_caller_sees_what_is_passed_on(f: &Fixture) {
    f.alone(async || {
        let path = env::var("PATH").unwrap();
        for surface in [Surface::Rest, Surface::Mcp] {
            let engine = |passed: &[&str]| {
                let mut settings = f.engine.settings().clone();
                settings.audit.execs = AuditedExecs::None;
                settings.server.pass_env = passed.iter().map(|name| (*name).into()).collect();
                Engine::new(settings).for_caller(Caller::new(surface))
            };
            let exec = || f.argv(["/usr/bin/env", "-0"]);
            let none = environment_of(&engine(&[]), exec()).await;
            assert_eq!(none, own(&[]));
            let listed =
                environment_of(&engine(&["PATH", "NOWHERE"]), exec().env("MINE", "1")).await;
            assert_eq!(listed, own(&[("PATH", &path), ("MINE", "1")]));
            // No list passes on what is openbrain's own, keys above all.
            let all = environment_of(&engine(&["*", SECRET.0, "OPENBRAIN_*"]), exec()).await;
            assert_eq!(all.get("PATH"), Some(&path));
            let ours = all.keys().find(|name| name.starts_with("OPENBRAIN_"));
            assert_eq!(ours, None, "{:?}", all.keys());
        }
    })
    .await;
}

#[test]
fn a_direct_command_inherits_what_the_engine_was_given() {
    let engine = Engine::new(Settings::default())
        .with_environment([("GIVEN".into(), "yes".into()), ("PATH".into(), "/bin".into())]);
    let exec = Exec::new("echo $GIVEN; env").env("SET", "1");
    let output = engine.run_blocking(exec).unwrap();
    let text = output.stdout_text();
    assert!(text.starts_with("yes\n"), "{text}");
    assert!(text.contains("\nSET=1\n") && !text.contains("\nHOME="), "{text}");
}
