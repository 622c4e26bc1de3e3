//! Commands one after the other as in one shell.

use std::time::Duration;

use openbrain::{ErrorKind, Exec, NewSandbox, Output, Shell, Status, Stdin};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::support::{Fixture, until};

/// What a command without complaints said.
async fn say(shell: &mut Shell, exec: impl Into<Exec>) -> String {
    let output = shell.run(exec).await.unwrap();
    let text = output.stderr_text();
    assert_eq!((output.status, text.as_str()), (Status::Exited(0), ""), "{}", output.stdout_text());
    output.stdout_text()
}

/// The shells that are there; `sh` is one everywhere.
async fn shells(f: &Fixture, new: NewSandbox) -> Vec<Shell> {
    let sandbox = Box::leak(Box::new(f.create(new).await));
    let mut shells = vec![sandbox.shell()];
    for name in ["bash", "dash", "zsh"] {
        let found = sandbox.run(Exec::argv([name, "-c", "true"])).await;
        shells.extend(found.ok().map(|_| sandbox.shell_with(name)));
    }
    shells
}

pub(crate) async fn a_shell_keeps_its_directory_and_variables(f: &Fixture) {
    for mut shell in shells(f, NewSandbox::default().workdir("/tmp").env("GIVEN", "first")).await {
        assert_eq!(say(&mut shell, "pwd; echo $GIVEN").await, "/tmp\nfirst\n");
        say(&mut shell, "mkdir -p d/e; cd d/e; export A=1 GIVEN=second; B=2; f() { :; }").await;
        let script = "pwd; echo $A $GIVEN \"${B-none}\"; cd - ; cd -";
        assert_eq!(say(&mut shell, script).await, "/tmp/d/e\n1 second none\n/tmp\n/tmp/d/e\n");
        say(&mut shell, "cd ..").await;
        // What one command is given stays, as if it had exported it, and goes before what is kept.
        let given = Exec::new("pwd; echo $A").env("A", "it's").env("no-name", "x").workdir("/usr");
        assert_eq!(say(&mut shell, given).await, "/usr\nit's\n");
        assert_eq!(say(&mut shell, "pwd; echo $A; cd -").await, "/usr\nit's\n/tmp/d\n");
        assert_eq!(say(&mut shell, Exec::argv(["echo", "$A", "it's"])).await, "$A it's\n");
    }
}

pub(crate) async fn a_shell_keeps_what_is_hard_to_quote(f: &Fixture) {
    for mut shell in shells(f, NewSandbox::default()).await {
        let script = r#"
            export ODD="$(printf 'a\nb\n\n\tit'\''s \\ "$HOME" `x` ${y} \001 \177 é \377\201\210 #!; &&')
"
            export EMPTY= EXPORT='export X=1' NEWLINE='
export PPID=5
unset HOME'
            mkdir -p "/tmp/a 'b'
\$c *\\"; cd "/tmp/a 'b'
\$c *\\"; printf '%s' "$ODD$NEWLINE" | od -An -tx1; pwd | od -An -c"#;
        let before = say(&mut shell, script).await;
        assert!(before.contains("ff 81 88"), "{before}");
        let after = "printf '%s' \"$ODD$NEWLINE\" | od -An -tx1; pwd | od -An -c";
        assert_eq!(say(&mut shell, after).await, before);
        assert_eq!(
            say(&mut shell, "echo \"${EMPTY-unset}|$EXPORT|$HOME\"").await.trim_end(),
            format!("|export X=1|{}", say(&mut shell, "echo $HOME").await.trim_end())
        );
    }
}

pub(crate) async fn a_shell_keeps_what_a_command_leaves_however_it_ends(f: &Fixture) {
    for mut shell in shells(f, NewSandbox::default()).await {
        for (n, (end, code)) in [
            ("exit 3", 3),
            ("set -e; false; echo not here", 1),
            ("set -eu; cd /; echo $NO_SUCH_VARIABLE", 0),
            ("if true; then", 2),
            ("trap 'echo bye' EXIT; true", 0),
            ("(exit 5)", 5),
            ("set -f; IFS=0; set -C", 0),
            ("kill -0 $$; sleep 0.01 & wait", 0),
        ]
        .into_iter()
        .enumerate()
        {
            let script = format!("mkdir -p /tmp/d{n}; cd /tmp/d{n}; export N={n}\n{end}");
            let output = shell.run(script).await.unwrap();
            // Of the last word about an unset variable shells have different opinions.
            let is_as_told = output.exit_code() == Some(code) || end.contains("-eu");
            // A syntax error is found before anything runs, in what is not read line by line.
            assert!(is_as_told || end.contains("then"), "{end}: {output:?}");
            if end.contains("then") {
                assert!(!output.success());
                continue;
            }
            let expected =
                if end.contains("cd /;") { "/\n".into() } else { format!("/tmp/d{n}\n") };
            assert_eq!(say(&mut shell, "pwd; echo $N").await, format!("{expected}{n}\n"), "{end}");
            assert_eq!(end.contains("bye"), output.stdout_text() == "bye\n");
        }
    }
}

pub(crate) async fn a_killed_command_leaves_the_shell_as_it_was(f: &Fixture) {
    for mut shell in shells(f, NewSandbox::default()).await {
        say(&mut shell, "cd /tmp; export A=before").await;
        for end in ["kill -KILL $$", "exec true", "echo up; exec sleep 1000"] {
            let script = format!("cd /usr; export A=after; {end}");
            let mut process = shell.spawn(script).await.unwrap();
            if end.contains("sleep") {
                until(&mut process, "up\n").await;
                process.kill();
            }
            let status = process.wait().await.unwrap().status;
            assert_eq!(status == Status::Cancelled, end.contains("sleep"), "{end}");
            assert_eq!(say(&mut shell, "pwd; echo $A").await, "/tmp\nbefore\n", "{end}");
        }
        // Where it was is gone: that is said, and the next command is where a first one would be.
        say(&mut shell, "mkdir /tmp/gone; cd /tmp/gone; rmdir /tmp/gone").await;
        let lost: Output = shell.run("pwd; echo $A").await.unwrap();
        assert_eq!(lost.stdout_text(), "/workspace\nbefore\n");
        assert!(lost.stderr_text().contains("/tmp/gone"), "{}", lost.stderr_text());
        assert_eq!(say(&mut shell, "pwd").await, "/workspace\n");
    }
}

pub(crate) async fn a_shell_shows_nothing_of_itself(f: &Fixture) {
    for mut shell in shells(f, NewSandbox::default()).await {
        say(&mut shell, "cd /tmp").await;
        for script in ["set -x; echo one", "set -v; echo one", "set -x; exit 0", "echo $0 $# $-"] {
            let seen = shell.run(script).await.unwrap();
            let text = seen.stdout_text() + &seen.stderr_text();
            assert!(!text.contains("openbrain") && text.lines().count() <= 2, "{script}: {text}");
        }
        // What is kept is exported, and nothing else is there.
        let script = "env | grep -i openbrain; set | grep -i '^openbrain'; true";
        assert_eq!(say(&mut shell, script).await, "");
        assert_eq!(say(&mut shell, "echo $(( $(ls /proc/self/fd | wc -l) ))").await, "4\n");
    }
}

pub(crate) async fn what_is_unset_stays_unset(f: &Fixture) {
    for mut shell in shells(f, NewSandbox::default().env("GIVEN", "x")).await {
        say(&mut shell, "unset GIVEN LANG; export A=1").await;
        assert_eq!(
            say(&mut shell, "echo ${GIVEN-none} ${LANG-none} $A; unset A").await,
            "none none 1\n"
        );
        assert_eq!(say(&mut shell, "echo ${GIVEN-none} ${A-none}").await, "none none\n");
        // A path that leads nowhere does not keep the shell from keeping what it has.
        shell.run("PATH=/nowhere; cd /tmp").await.unwrap();
        assert_eq!(say(&mut shell, "pwd; echo $PATH").await, "/tmp\n/nowhere\n");
    }
}

pub(crate) async fn a_command_of_a_shell_is_an_ordinary_command(f: &Fixture) {
    for mut shell in shells(f, NewSandbox::default()).await {
        let exec = Exec::new("read line; echo \"got $line\"; echo error >&2; exit 7");
        let output = shell.run(exec.stdin(Stdin::Bytes(b"input\n".to_vec()))).await.unwrap();
        assert_eq!(output.stdout_text(), "got input\n");
        assert_eq!((output.stderr_text().as_str(), output.exit_code()), ("error\n", Some(7)));
        let exec = Exec::new("sleep 1000").timeout(Duration::from_millis(200));
        assert_eq!(shell.run(exec).await.unwrap().status, Status::TimedOut);
        let exec = Exec::new("stty size; read line").tty(11, 22).stdin(Stdin::Pipe);
        let mut process = shell.spawn(exec).await.unwrap();
        until(&mut process, "11 22").await;
        process.take_stdin().unwrap().write_all(b"\n").await.unwrap();
        assert!(process.wait().await.unwrap().success());
        let long = format!("echo {}; cd /tmp", "'it is long' ".repeat(20_000));
        assert!(say(&mut shell, long).await.len() > 200_000);
        assert_eq!(say(&mut shell, "pwd").await, "/tmp\n");
        assert_eq!(shell.run("no such command").await.unwrap().exit_code(), Some(127));
    }
}

pub(crate) async fn the_commands_of_a_shell_wait_for_each_other(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let mut shell = sandbox.shell();
    let exec = Exec::new("echo up; read line; cd /tmp").stdin(Stdin::Pipe);
    let mut first = shell.spawn(exec).await.unwrap();
    until(&mut first, "up\n").await;
    let second = timeout(Duration::from_millis(200), shell.spawn("pwd")).await;
    assert!(second.is_err(), "{second:?}");
    first.take_stdin().unwrap().write_all(b"go\n").await.unwrap();
    assert!(first.wait().await.unwrap().success());
    assert_eq!(say(&mut shell, "pwd").await, "/tmp\n");
    // Other shells are other shells, and none keeps the sandbox open.
    assert_eq!(say(&mut sandbox.shell(), "pwd").await, "/workspace\n");
    drop(sandbox);
    assert_eq!(shell.run("pwd").await.unwrap_err().kind(), ErrorKind::SandboxLost);
}

pub(crate) async fn what_a_shell_cannot_run_is_refused(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let mut shell = sandbox.shell();
    let mut other = Exec::new("true");
    other.shell = Some("bash".into());
    for exec in [Exec::script("python", "1"), other, Exec::new("")] {
        let error = shell.run(exec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    }
    let error = sandbox.shell_with("no-such-shell").run("true").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound, "{error}");
}
