//! Secrets: the caller's environment, descriptors and files, and those of the request.

use std::{
    collections::BTreeSet,
    fs,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
};

use openbrain::{ErrorKind, Exec, Mount, MountMode, Settings};

use crate::{
    host::{self, Place, engine, passes, probe},
    sys::{c, open},
};

const SECRET: &str = "hunter2-in-the-environment";

/// Every file of `/proc` in which a secret of somebody else's could show.
fn texts_of_all_processes() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.parse::<u32>().is_ok() {
            for file in ["environ", "cmdline", "comm", "mountinfo", "status"] {
                let path = format!("/proc/{name}/{file}");
                found.push((path.clone(), fs::read(path).unwrap_or_default()));
            }
        }
    }
    found
}

fn contains(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|window| window == word.as_bytes())
}

mod probes {
    use super::*;

    probe! {
        fn environment_is_clean() {
            let names: BTreeSet<String> = std::env::vars().map(|(name, _)| name).collect();
            let expected = [
                "HOME", "LANG", "LOGNAME", "OPENBRAIN_TEST_PROBE", "PATH", "RUST_BACKTRACE", "SHELL", "USER",
            ];
            assert_eq!(names, expected.map(str::to_owned).into());
            for (path, text) in texts_of_all_processes() {
                assert!(!contains(&text, "hunter2"), "{path}");
            }
            assert_eq!(std::env::var("HOME").unwrap(), "/home/sandbox");
        }
    }

    probe! {
        fn descriptors_are_three() {
            let directory = open("/proc/self/fd", libc::O_RDONLY).unwrap();
            let mut names: Vec<i64> = fs::read_dir("/proc/self/fd").unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap())
                .collect();
            names.sort();
            // One is ours, one belongs to the listing.
            assert_eq!(names, [0, 1, 2, directory, directory + 1]);
            for fd in 0..3 {
                let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
                let link = link.to_string_lossy().into_owned();
                assert!(link == "/dev/null" || link.starts_with("pipe:"), "{fd}: {link}");
            }
            assert_eq!(std::env::current_dir().unwrap().to_str(), Some("/workspace"));
            assert!(sys!(libc::SYS_openat, 251, c("..").as_ptr(), libc::O_PATH, 0).is_err());
        }
    }

    probe! {
        fn own_secret_is_here_only() {
            assert_eq!(std::env::var("TOKEN").unwrap(), "s3cret-of-the-request");
            for (path, text) in texts_of_all_processes() {
                let own = path.ends_with("/environ") && !path.starts_with("/proc/1/");
                assert!(own || !contains(&text, "s3cret-of-the-request"), "{path}");
            }
        }
    }

    probe! {
        fn secret_file_can_be_read_only() {
            assert_eq!(fs::read_to_string("/run/secrets/token").unwrap(), "hunter2");
            for flags in [libc::O_WRONLY, libc::O_RDWR] {
                let errno = open("/run/secrets/token", flags).unwrap_err();
                assert!([libc::EACCES, libc::EROFS].contains(&errno), "errno {errno}");
            }
            assert!(fs::remove_file("/run/secrets/token").is_err());
            assert!(fs::set_permissions("/run/secrets/token", fs::Permissions::from_mode(0o666)).is_err());
        }
    }
}

mod stages {
    use super::*;

    stage! {
        fn with_a_poisoned_environment() {
            passes(probe("secrets::probes::environment_is_clean"));
        }
    }

    stage! {
        /// Two hundred descriptors that are not closed by `execve`, of what no sandbox may see.
        fn with_many_descriptors() {
            let place = Place::new();
            let directory = fs::File::open(place.outside()).unwrap();
            let root = fs::File::open("/").unwrap();
            let mut raw = Vec::new();
            for i in 0..200 {
                let file = if i % 2 == 0 { &directory } else { &root };
                // `dup(2)` clears the flag.
                raw.push(sys!(libc::SYS_dup, file.as_raw_fd()).unwrap());
            }
            let _ = sys!(libc::SYS_dup2, directory.as_raw_fd(), 251);
            for _ in 0..3 {
                passes(probe("secrets::probes::descriptors_are_three").mount(place.work()));
            }
            assert!(place.work().join("file").exists());
            place.assert_outside_unchanged();
        }
    }
}

#[test]
fn environment_of_the_host_stays_outside() {
    host::stage("secrets::stages::with_a_poisoned_environment", |command| {
        for name in [
            "AWS_SECRET_ACCESS_KEY",
            "SSH_AUTH_SOCK",
            "PYTHONPATH",
            "BASH_ENV",
            "ENV",
            "PERL5LIB",
            "NODE_OPTIONS",
            "LD_LIBRARY_PATH",
            "GLIBC_TUNABLES",
            "DOCKER_HOST",
            "http_proxy",
            "OPENBRAIN_TOKEN",
            "IFS",
            "PS4",
        ] {
            command.env(name, SECRET);
        }
    });
}

#[test]
fn descriptors_of_the_host_stay_outside() {
    host::stage("secrets::stages::with_many_descriptors", |_| {});
    passes(probe("secrets::probes::descriptors_are_three"));
}

#[test]
fn secrets_of_the_request_are_in_no_text() {
    let secret = "s3cret-of-the-request";
    passes(probe("secrets::probes::own_secret_is_here_only").env("TOKEN", secret));
    let says = |text: String| assert!(!text.contains(secret), "{text}");
    // A request that runs, one that does not, one that is refused.
    let exec = || Exec::argv(["/bin/true"]).sandbox().env("TOKEN", secret).stdin_bytes(secret);
    let output = engine().run_blocking(exec()).unwrap();
    says(format!("{output:?}"));
    says(serde_json::to_string(&output).unwrap());
    let spec = Settings::default().resolve(exec()).unwrap();
    says(serde_json::to_string(&spec).unwrap());
    for (bad, kind) in [
        (Exec::argv(["/nonexistent"]).sandbox().env("TOKEN", secret), ErrorKind::CommandNotFound),
        (exec().mount("/nonexistent"), ErrorKind::InvalidRequest),
        (exec().workdir("/nonexistent"), ErrorKind::InvalidRequest),
        (exec().env("A=B", secret), ErrorKind::InvalidRequest),
    ] {
        let error = engine().run_blocking(bad).unwrap_err();
        assert_eq!(error.kind(), kind);
        says(format!(
            "{error} {error:?} {} {}",
            error.to_json(),
            error.remedy().unwrap_or_default()
        ));
    }
}

#[test]
fn a_secret_in_a_file_can_be_read_and_nothing_else() {
    let place = Place::new();
    let token = place.outside().join("token");
    fs::write(&token, "hunter2").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o400)).unwrap();
    let before = host::hash(&place.outside());
    let mount = Mount::new(&token, "/run/secrets/token", MountMode::Ro);
    passes(probe("secrets::probes::secret_file_can_be_read_only").mount_at(mount));
    assert_eq!(host::hash(&place.outside()), before);
}
