//! Honesty: a layer that a machine does not give is an error, or is said to be missing. The command
//! never runs without it, and never on the host.

use std::{fs, path::PathBuf};

use openbrain::{CheckStatus, Error, ErrorKind, Exec, IsolationLevel, Output};

use crate::{
    host::{self, engine, passes, probe, run},
    sys::{End, Refused, forked, refuse},
};

const CASE: &str = "OPENBRAIN_TEST_CASE";

/// A command that leaves a mark where a host would let it.
fn marking() -> (Exec, PathBuf) {
    let mark = PathBuf::from(format!("/var/tmp/openbrain-abuse-{}", std::process::id()));
    (Exec::new(format!("echo ran > {}", mark.display())).sandbox(), mark)
}

/// Runs it; whatever comes of it, nothing has run on the host.
fn attempt() -> Result<Output, Error> {
    let (exec, mark) = marking();
    let result = engine().run_blocking(exec);
    assert!(!mark.exists(), "the command ran on the host");
    result
}

fn assert_unavailable(what: &str, kind: ErrorKind) {
    let error = attempt().expect_err(what);
    assert_eq!(error.kind(), kind, "{what}: {error:?}");
    assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()), "{what}: {error:?}");
    println!("{what}: {error:?}");
}

/// Runs `body` in a child with a user namespace of its own, in which it is root, as in a rootless
/// container: a process with threads cannot enter one.
fn in_user_namespace(body: impl FnOnce()) {
    let end = forked(|| {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            enter_user_namespace();
            body();
        }));
        i32::from(result.is_err())
    });
    assert_eq!(end, End::Exit(0));
}

fn enter_user_namespace() {
    // SAFETY: takes no memory.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    sys!(libc::SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS).unwrap();
    fs::write("/proc/self/setgroups", "deny").unwrap();
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
}

/// Everything that building a sandbox calls, and that a machine may refuse.
fn steps() -> Vec<(&'static str, Refused)> {
    use Refused::{Bits, Call, Value};
    let prctl = |option: i32| Value(libc::SYS_prctl, 0, option as u32);
    vec![
        ("clone", Bits(libc::SYS_clone, 0, libc::CLONE_NEWUSER as u32)),
        ("unshare", Call(libc::SYS_unshare)),
        ("mount", Call(libc::SYS_mount)),
        ("fsopen", Call(libc::SYS_fsopen)),
        ("fsconfig", Call(libc::SYS_fsconfig)),
        ("fsmount", Call(libc::SYS_fsmount)),
        ("move_mount", Call(libc::SYS_move_mount)),
        ("open_tree", Call(libc::SYS_open_tree)),
        ("mount_setattr", Call(libc::SYS_mount_setattr)),
        ("pivot_root", Call(libc::SYS_pivot_root)),
        ("umount2", Call(libc::SYS_umount2)),
        ("seccomp", Call(libc::SYS_seccomp)),
        ("landlock_restrict_self", Call(libc::SYS_landlock_restrict_self)),
        ("landlock_add_rule", Call(libc::SYS_landlock_add_rule)),
        ("sethostname", Call(libc::SYS_sethostname)),
        ("capset", Call(libc::SYS_capset)),
        ("setsid", Call(libc::SYS_setsid)),
        ("close_range", Call(libc::SYS_close_range)),
        ("prlimit64", Bits(libc::SYS_prlimit64, 2, u32::MAX)),
        ("no new privileges", prctl(libc::PR_SET_NO_NEW_PRIVS)),
        ("bounding set", prctl(libc::PR_CAPBSET_DROP)),
        ("secure bits", prctl(libc::PR_SET_SECUREBITS)),
        ("ambient set", prctl(libc::PR_CAP_AMBIENT)),
        ("dumpable", Value(libc::SYS_prctl, 0, libc::PR_SET_DUMPABLE as u32)),
        ("parent's death", prctl(libc::PR_SET_PDEATHSIG)),
    ]
}

mod stages {
    use super::*;

    stage! {
        /// The kernel has no such call, or a filter refuses it.
        fn without_one_call() {
            let case = std::env::var(CASE).unwrap();
            let (name, errno) = case.split_once('/').unwrap();
            let (_, refused) = steps().into_iter().find(|(step, _)| *step == name).unwrap();
            let errno = if errno == "ENOSYS" { libc::ENOSYS } else { libc::EPERM };
            refuse(&[refused], errno);
            match attempt() {
                Err(error) => {
                    // A helper that could not even read its plan is a failure of its own kind.
                    let kinds = [ErrorKind::SandboxUnavailable, ErrorKind::Internal];
                    assert!(kinds.contains(&error.kind()), "{name}: {error:?}");
                    println!("{name}: {error:?}");
                }
                Ok(output) => panic!("{name}: the sandbox started: {:?}", output.isolation),
            }
        }
    }

    stage! {
        fn without_landlock() {
            refuse(&[Refused::Call(libc::SYS_landlock_create_ruleset)], libc::ENOSYS);
            let output = run(Exec::new("true").sandbox());
            let layers = &output.isolation.layers;
            assert!(layers.iter().all(|layer| !layer.starts_with("landlock")), "{layers:?}");
            assert!(layers.iter().any(|layer| layer == "seccomp"));
            passes(probe("kernel::probes::no_mount_call_works"));
            passes(probe("kernel::probes::powers_are_locked"));
            passes(probe("files::probes::system_is_read_only"));
            let report = openbrain::doctor(&openbrain::Settings::default());
            let check = report.checks.iter().find(|check| check.id == "landlock").unwrap();
            assert_eq!(check.status, CheckStatus::Warning);
        }
    }

    stage! {
        /// The kernel's own limits on namespaces, each in turn, at nothing left.
        fn without_a_kind_of_namespace() {
            let kind = std::env::var(CASE).unwrap();
            in_user_namespace(|| {
                fs::write(format!("/proc/sys/user/max_{kind}_namespaces"), "0").unwrap();
                let error = match kind.as_str() {
                    "user" => ErrorKind::SandboxUnavailable,
                    // The kernel does not tell a limit of nothing from one that is reached.
                    _ => ErrorKind::ResourceExhausted,
                };
                assert_unavailable(&kind, error);
            });
        }
    }

    stage! {
        /// One user namespace is left, and a sandbox needs two.
        fn with_one_user_namespace() {
            in_user_namespace(|| {
                fs::write("/proc/sys/user/max_user_namespaces", "1").unwrap();
                assert_unavailable("the second user namespace", ErrorKind::ResourceExhausted);
            });
        }
    }

    stage! {
        fn in_a_user_namespace() {
            in_user_namespace(|| {
                let output = run(Exec::new("id -u; id -un").sandbox());
                assert_eq!(output.stdout_text(), "1000\nsandbox\n");
                passes(probe("kernel::probes::powers_are_locked"));
                passes(probe("files::probes::system_is_read_only"));
                let place = host::Place::new();
                passes(probe("files::probes::writes_are_seen_inside").mount(place.work()));
                assert!(place.work().join("new").exists());
            });
        }
    }

    stage! {
        /// A container covers parts of `/proc`; the kernel then gives no new one that shows them.
        fn with_a_covered_proc() {
            in_user_namespace(|| {
                let (none, slash) = (c"none".as_ptr(), c"/".as_ptr());
                sys!(libc::SYS_mount, none, slash, 0, libc::MS_REC | libc::MS_PRIVATE, 0).unwrap();
                let (null, covered) = (c"/dev/null".as_ptr(), c"/proc/uptime".as_ptr());
                sys!(libc::SYS_mount, null, covered, 0, libc::MS_BIND, 0).unwrap();
                assert_unavailable("a covered /proc", ErrorKind::SandboxUnavailable);
            });
        }
    }
}

#[test]
fn what_is_enforced_is_told() {
    let output = run(Exec::new("true").sandbox().allow_network(false));
    let isolation = &output.isolation;
    assert_eq!(isolation.level, IsolationLevel::Namespaces);
    assert_eq!(isolation.namespaces, ["user", "mount", "pid", "net", "ipc", "uts", "cgroup"]);
    assert_eq!(isolation.network, "none");
    for layer in ["second_user_namespace", "no_capabilities", "no_new_privs", "seccomp"] {
        assert!(isolation.layers.iter().any(|have| have == layer), "{layer}");
    }
    let open = run(Exec::new("true").sandbox());
    assert_eq!(open.isolation.network, "every TCP port of public hosts");
    for limit in ["memory", "pids", "disk", "open_files"] {
        assert!(isolation.limits.contains_key(limit), "{limit}");
    }
}

#[test]
fn a_step_that_is_refused_is_an_error() {
    for (name, _) in steps() {
        for errno in ["EPERM", "ENOSYS"] {
            host::stage("honesty::stages::without_one_call", |command| {
                command.env(CASE, format!("{name}/{errno}"));
            });
        }
    }
}

#[test]
fn a_kernel_without_landlock_is_told() {
    host::stage("honesty::stages::without_landlock", |_| {});
}

#[test]
fn a_kernel_without_namespaces_to_give_is_an_error() {
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        host::stage("honesty::stages::without_a_kind_of_namespace", |command| {
            command.env(CASE, kind);
        });
    }
    host::stage("honesty::stages::with_one_user_namespace", |_| {});
}

#[test]
fn a_rootless_container_is_a_host_like_any_other() {
    host::stage("honesty::stages::in_a_user_namespace", |_| {});
}

#[test]
fn a_covered_proc_is_an_error() {
    host::stage("honesty::stages::with_a_covered_proc", |_| {});
}

#[test]
fn a_sandbox_that_cannot_be_never_becomes_a_run_on_the_host() {
    let (exec, mark) = marking();
    let exec = exec.mount("/nonexistent");
    assert_eq!(engine().run_blocking(exec).unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert!(!mark.exists());
}
