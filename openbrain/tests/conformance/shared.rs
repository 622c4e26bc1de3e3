//! Sandboxes of another process, and commands in the background.

use std::time::Duration;

use openbrain::{
    ErrorKind, Exec, Joined, LogOffsets, NewSandbox, Output, SharedSandbox, Status, Stdin,
};
use tokio::task::JoinHandle;

use crate::support::{Fixture, UP};

/// A sandbox that is shared, and somebody who has joined it.
async fn joined(f: &Fixture, new: NewSandbox) -> (Joined, JoinHandle<()>) {
    let shared = f.engine.share(f.create(new).await).unwrap();
    let SharedSandbox { id, .. } = shared.about();
    let host = tokio::spawn(shared.serve());
    (f.engine.join(&id).await.unwrap(), host)
}

async fn run(guest: &Joined, script: &str) -> Output {
    guest.run(Exec::new(script)).await.unwrap()
}

pub(crate) async fn a_guest_finds_what_the_owner_has(f: &Fixture) {
    let new = NewSandbox::default().env("A", "of the sandbox").workdir("/tmp");
    let (guest, _host) = joined(f, new).await;
    let output = run(&guest, "echo $A; pwd; echo kept > file; exit 7").await;
    assert_eq!(output.stdout_text(), "of the sandbox\n/tmp\n");
    assert_eq!(
        (output.status, output.sandbox_id.as_deref()),
        (Status::Exited(7), Some(guest.id()))
    );
    assert_eq!((output.backend, &output.isolation), (guest.backend(), guest.isolation()));
    assert!(output.warnings.is_empty(), "{:?}", output.warnings);
    let other = f.engine.join(guest.id()).await.unwrap();
    assert_eq!(other.files().read("file").await.unwrap(), b"kept\n");
    drop(other);
    assert_eq!(run(&guest, "cat file").await.stdout_text(), "kept\n");
}

pub(crate) async fn a_guest_has_its_commands_to_itself(f: &Fixture) {
    let leash = f.leash();
    let new = leash
        .variables()
        .into_iter()
        .fold(f.share_with(NewSandbox::default()), |new, (n, v)| new.env(n, v));
    let mut leash = leash;
    let (guest, _host) = joined(f, new).await;
    let script = format!("({UP}; exec setsid sleep 1000) & {UP}; exec sleep 1000");
    let exec = Exec::new(script).timeout(Duration::from_secs(3));
    let process = guest.spawn(exec).await.unwrap();
    leash.up(2).await;
    let output = process.wait().await.unwrap();
    assert_eq!(output.status, Status::TimedOut);
    leash.released().await;
    let exec =
        Exec::new("read line; echo got $line; stty size").stdin(Stdin::Bytes(b"it\n".to_vec()));
    let output = guest.run(exec.tty(33, 99)).await.unwrap();
    assert!(output.stdout_text().ends_with("got it\r\n33 99\r\n"), "{}", output.stdout_text());
}

pub(crate) async fn a_guest_may_do_what_the_owner_may(f: &Fixture) {
    let (guest, host) = joined(f, NewSandbox::default()).await;
    guest.pause().await.unwrap();
    assert!(guest.about().await.unwrap().paused);
    let error = guest.run(Exec::new("true")).await.unwrap_err();
    assert!(error.to_string().contains("paused"), "{error}");
    guest.resume().await.unwrap();
    guest.renew(Duration::from_secs(1000)).await.unwrap();
    let about = guest.about().await.unwrap();
    let left = about.expires_at.duration_since(std::time::SystemTime::now()).unwrap();
    assert!((900..=1000).contains(&left.as_secs()), "{left:?}");
    assert!(f.engine.shared().await.unwrap().contains(&about));
    let running = guest.spawn(Exec::new("sleep 1000")).await.unwrap();
    guest.kill().await.unwrap();
    guest.ended().await;
    host.await.unwrap();
    let error = running.wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
    let error = guest.run(Exec::new("true")).await.unwrap_err();
    assert_eq!(error.to_string(), "the sandbox has ended: it was killed");
    guest.kill().await.unwrap();
    let error = f.engine.join(guest.id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
}

pub(crate) async fn the_end_of_the_owner_is_the_end(f: &Fixture) {
    let (guest, host) = joined(f, NewSandbox::default()).await;
    let running = guest.spawn(Exec::new("sleep 1000")).await.unwrap();
    host.abort();
    guest.ended().await;
    let error = running.wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
    let error = guest.run(Exec::new("true")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
}

pub(crate) async fn what_is_written_in_the_background_is_kept(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let script =
        "mkfifo f; printf one; printf two; printf bad >&2; read x < f; printf three; exit 5";
    let command = sandbox.start(Exec::new(script)).await.unwrap();
    command.wait_for_log("onetwo", Duration::from_secs(20)).await.unwrap();
    command.wait_for_log("bad", Duration::from_secs(20)).await.unwrap();
    let logs = command.logs(LogOffsets { stdout: 3, stderr: 0 });
    assert_eq!(
        (&*logs.stdout.data.bytes(), &*logs.stderr.data.bytes()),
        (&b"two"[..], &b"bad"[..])
    );
    assert_eq!((logs.next(), logs.ended), (LogOffsets { stdout: 6, stderr: 3 }, false));
    assert_eq!(command.about().status, None);
    let error = command.wait_for_log("three", Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitFailed, "{error}");
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::TimedOut));
    // Whoever waits hears of what comes.
    let reading = command.next_logs(logs.next());
    let (more, _) = tokio::join!(reading, sandbox.run(Exec::new("echo > f")));
    assert_eq!((more.stdout.offset, &*more.stdout.data.bytes()), (6, &b"three"[..]));
    let end = command.wait().await;
    let end = end.as_ref().as_ref().unwrap();
    assert_eq!((end.status, end.stdout_text().as_str()), (Status::Exited(5), "onetwothree"));
    let error = command.wait_for_log("four", Duration::from_secs(20)).await.unwrap_err();
    assert!(error.to_string().ends_with("before it ended"), "{error}");
    assert!(command.logs(more.next()).ended);
}

pub(crate) async fn what_is_too_long_for_the_background_has_a_gap(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let limits = openbrain::Limits { output: Some(2000), ..Default::default() };
    let exec = Exec::new("seq 1 10000").limits(limits);
    let command = sandbox.start(exec).await.unwrap();
    let end = command.wait().await;
    let total = end.as_ref().as_ref().unwrap().stdout.total;
    let first = command.logs(LogOffsets::default());
    assert_eq!((first.stdout.offset, first.stdout.end(), first.ended), (0, 1000, false));
    let second = command.logs(first.next());
    assert_eq!((second.stdout.offset, second.stdout.end()), (total - 1000, total));
    assert!(second.ended && second.stdout.data.bytes().ends_with(b"9999\n10000\n"));
}

/// The end of the sandbox is the end of what runs in its background.
pub(crate) async fn the_background_ends_with_the_sandbox(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let command = sandbox.start(Exec::new("echo up; exec sleep 1000")).await.unwrap();
    command.wait_for_log("up", Duration::from_secs(20)).await.unwrap();
    let cancelled = sandbox.start(Exec::new("echo up; exec sleep 1000")).await.unwrap();
    cancelled.wait_for_log("up", Duration::from_secs(20)).await.unwrap();
    cancelled.cancel();
    let end = cancelled.wait().await;
    assert_eq!(end.as_ref().as_ref().unwrap().status, Status::Cancelled);
    sandbox.kill().await.unwrap();
    let end = command.wait().await;
    assert_eq!(end.as_ref().as_ref().unwrap_err().kind(), ErrorKind::SandboxLost);
    assert!(command.about().error.is_some());
}
