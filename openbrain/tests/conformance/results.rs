//! How a command ended, and what is told about it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

use openbrain::{BackendName, Isolation, IsolationLevel, Status};
use serde_json::json;

use crate::support::{Fixture, Place};

pub(crate) async fn exit_codes_are_kept(f: &Fixture) {
    for code in [0, 1, 3, 124, 127, 255] {
        let output = f.run(f.shell(format!("exit {code}"))).await;
        assert_eq!(output.status, Status::Exited(code));
        assert_eq!(output.exit_code(), Some(code));
        assert_eq!((output.signal(), output.timed_out()), (None, false));
        assert_eq!(output.success(), code == 0);
    }
}

pub(crate) async fn a_failure_is_a_value(f: &Fixture) {
    let output = f.run(f.argv(["false"])).await;
    assert_eq!(output.status, Status::Exited(1));
}

pub(crate) async fn a_signal_is_no_exit_code(f: &Fixture) {
    for (name, signal) in
        [("KILL", libc::SIGKILL), ("SEGV", libc::SIGSEGV), ("TERM", libc::SIGTERM)]
    {
        let started = Instant::now();
        let exec = f.shell(format!("kill -{name} $$; sleep 1000")).timeout(Duration::from_secs(50));
        let output = f.run(exec).await;
        assert_eq!(output.status, Status::Signaled(signal));
        assert_eq!((output.exit_code(), output.signal()), (None, Some(signal)));
        assert!(!output.timed_out() && !output.success());
        assert!(started.elapsed() < Duration::from_secs(5) + f.place.start());
    }
}

/// A Rust program ignores SIGPIPE, and what is ignored stays so over an `execve`.
pub(crate) async fn signals_have_their_default_action(f: &Fixture) {
    let output = f.run(f.shell("kill -PIPE $$; exit 0")).await;
    assert_eq!(output.status, Status::Signaled(libc::SIGPIPE));
    let output = f.run(f.shell("grep -E '^Sig(Blk|Ign)' /proc/self/status")).await;
    let none = "0000000000000000";
    assert_eq!(output.stdout_text(), format!("SigBlk:\t{none}\nSigIgn:\t{none}\n"));
}

pub(crate) async fn check_tells_what_went_wrong(f: &Fixture) {
    let told = async |script: &str| {
        let exec = f.shell(script).timeout(Duration::from_millis(300));
        f.run(exec).await.check().map(|output| output.stdout_text()).map_err(|e| e.to_string())
    };
    let wrong = |text: &str| Err(text.to_owned());
    assert_eq!(told("echo fine; echo odd >&2").await, Ok("fine\n".to_owned()));
    assert_eq!(told("exit 3").await, wrong("the command exited with code 3"));
    let last = wrong("the command exited with code 1: it is full");
    assert_eq!(told("echo well >&2; echo it is full >&2; exit 1").await, last);
    assert_eq!(told("kill -9 $$").await, wrong("the command was ended by signal 9"));
    assert_eq!(told("sleep 1000").await, wrong("the command timed out"));
}

pub(crate) async fn the_place_and_its_isolation_are_told(f: &Fixture) {
    let output = f.run(f.argv(["true"])).await;
    match f.place {
        Place::Direct => {
            assert_eq!(output.backend, BackendName::Direct);
            let host = "host".to_owned();
            let none =
                Isolation { filesystem: host.clone(), network: host, ..Isolation::default() };
            assert_eq!(output.isolation, none);
        }
        Place::Opensandbox | Place::OpensandboxSession => {
            assert_eq!(output.backend, BackendName::Opensandbox);
            assert_eq!(output.isolation.level, IsolationLevel::Container);
            assert!(output.sandbox_id.is_some());
            let limits: Vec<_> = output.isolation.limits.keys().map(String::as_str).collect();
            assert_eq!(limits, ["memory", "open_files", "output"]);
        }
        Place::Embedded | Place::EmbeddedWarm | Place::EmbeddedSession => {
            assert_eq!(output.backend, BackendName::Embedded);
            assert_eq!(output.isolation.level, IsolationLevel::Namespaces);
            let namespaces = ["user", "mount", "pid", "net", "ipc", "uts", "cgroup"];
            assert_eq!(output.isolation.namespaces, namespaces);
            for layer in ["no_new_privs", "no_capabilities", "seccomp"] {
                assert!(
                    output.isolation.layers.iter().any(|l| l == layer),
                    "{:?}",
                    output.isolation
                );
            }
            let limits: Vec<_> = output.isolation.limits.keys().map(String::as_str).collect();
            assert_eq!(limits, ["disk", "memory", "open_files", "output", "pids"]);
        }
    }
}

pub(crate) async fn times_are_those_of_the_command(f: &Fixture) {
    let (before, clock) = (SystemTime::now(), Instant::now());
    let output = f.run(f.argv(["sleep", "0.3"])).await;
    let (elapsed, after) = (clock.elapsed(), SystemTime::now());
    // Counted from the moment when the library hears of the start.
    assert!(output.duration >= Duration::from_millis(200), "{:?}", output.duration);
    assert!(output.duration <= elapsed, "{:?} of {elapsed:?}", output.duration);
    assert!(before <= output.started_at && output.started_at <= after);
}

pub(crate) async fn execution_ids_are_unique(f: &Fixture) {
    let mut ids = BTreeSet::new();
    for _ in 0..5 {
        let process = f.spawn(f.argv(["true"])).await;
        let id = process.exec_id().to_owned();
        assert_eq!(process.wait().await.unwrap().exec_id, id);
        assert!(id.starts_with("exec_") && id.len() == 37, "{id}");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 5);
}

pub(crate) async fn processor_time_is_that_of_the_command(f: &Fixture) {
    let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    // The work is done by a grandchild, and one that the command does not wait for counts too.
    let output = f.run(f.shell(format!("({busy}) & wait; true"))).await;
    let cpu = Duration::from_millis(output.resources.cpu_ms.unwrap());
    assert!(cpu >= Duration::from_millis(20), "{cpu:?}");
    assert!(
        cpu <= output.duration + Duration::from_millis(100),
        "{cpu:?} of {:?}",
        output.duration
    );
    let idle = f.run(f.argv(["sleep", "0.2"])).await;
    assert!(idle.resources.cpu_ms.unwrap() < 100, "{:?}", idle.resources);
}

/// A child that shares the memory of its parent until its `execve` inherits the peak of the host
/// process (`exec_mmap` in the kernel).
pub(crate) async fn memory_is_that_of_the_command(f: &Fixture) {
    const MIB: u64 = 1 << 20;
    let ballast = vec![1u8; 200 << 20];
    let output = f.run(f.argv(["true"])).await;
    assert!(ballast.iter().step_by(4096).all(|byte| *byte == 1));
    let peak = output.resources.max_rss_bytes.unwrap();
    assert!((MIB / 4..32 * MIB).contains(&peak), "{peak}");
    let exec = f.shell("dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; true");
    let peak = f.run(exec).await.resources.max_rss_bytes.unwrap();
    assert!((64 * MIB..128 * MIB).contains(&peak), "{peak}");
}

pub(crate) async fn a_result_reads_the_same_in_json(f: &Fixture) {
    let output = f.run(f.shell("printf out; printf '\\377' >&2; exit 3")).await;
    let found = serde_json::to_value(&output).unwrap();
    let backend = match f.place {
        Place::Direct => "direct",
        Place::Embedded | Place::EmbeddedWarm | Place::EmbeddedSession => "embedded",
        Place::Opensandbox | Place::OpensandboxSession => "opensandbox",
    };
    for (name, expected) in [
        ("status", json!("exited")),
        ("exit_code", json!(3)),
        ("signal", json!(null)),
        ("success", json!(false)),
        ("timed_out", json!(false)),
        ("stdout", json!("out")),
        ("stderr", json!("\u{fffd}")),
        ("stderr_base64", json!("/w==")),
        ("stdout_truncated", json!(false)),
        ("stdout_bytes", json!(3)),
        ("stderr_bytes", json!(1)),
        ("duration_ms", json!(output.duration.as_millis() as u64)),
        ("backend", json!(backend)),
        ("exec_id", json!(output.exec_id)),
    ] {
        assert_eq!(found[name], expected, "{name}");
    }
    assert_eq!(found.get("stdout_base64"), None);
}
