//! Sandboxes that stay open.

use std::{
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use openbrain::{ErrorKind, Exec, Limits, NewSandbox, Process, Sandbox, Status, Stdin};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    support::{Fixture, Leash, UP, succeeds, until},
    trees::{self, AT_ONCE},
};

async fn shell(sandbox: &Sandbox, script: impl Into<String>) -> String {
    let output = sandbox.run(Exec::new(script)).await.unwrap();
    assert_eq!((output.status, output.stderr_text().as_str()), (Status::Exited(0), ""));
    output.stdout_text()
}

/// A sandbox in which a leash can be taken.
async fn leashed(f: &Fixture, new: NewSandbox) -> (Sandbox, Leash) {
    let leash = f.leash();
    let new = f.share_with(new);
    let new = leash.variables().into_iter().fold(new, |new, (name, value)| new.env(name, value));
    (f.create(new).await, leash)
}

/// The error of whatever is asked of a sandbox that has ended.
async fn is_lost(sandbox: &Sandbox) -> String {
    let error = sandbox.run(Exec::new("true")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
    assert!(error.remedy().is_some());
    error.to_string()
}

pub(crate) async fn files_persist_between_commands(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    for path in ["/workspace/a", "/tmp/b", "$HOME/c"] {
        shell(&sandbox, format!("echo in {path} > {path}; ln -s {path} /tmp/link")).await;
        assert_eq!(shell(&sandbox, "cat /tmp/link; rm /tmp/link").await.lines().count(), 1);
    }
    let other = f.create(NewSandbox::default()).await;
    assert_eq!(shell(&other, "ls /workspace /tmp").await, "/tmp:\n\n/workspace:\n");
}

pub(crate) async fn every_command_has_the_environment_of_the_sandbox(f: &Fixture) {
    let new = NewSandbox::default().env("A", "of the sandbox").env("B", "of the sandbox");
    let sandbox = f.create(new.workdir("/tmp")).await;
    let script = "echo $A; echo $B; pwd; B=changed; cd /";
    let exec = || Exec::new(script).env("B", "of the command");
    for _ in 0..2 {
        let output = sandbox.run(exec()).await.unwrap();
        assert_eq!(output.stdout_text(), "of the sandbox\nof the command\n/tmp\n");
    }
    let moved = sandbox.run(exec().workdir("/workspace")).await.unwrap();
    assert!(moved.stdout_text().ends_with("/workspace\n"));
}

pub(crate) async fn the_facts_of_a_sandbox_are_told(f: &Fixture) {
    let new = NewSandbox::default().name("a-name").label("for", "a.test");
    let sandbox = f.create(new).await;
    assert_eq!(sandbox.name(), Some("a-name"));
    assert_eq!(sandbox.labels()["for"], "a.test");
    let output = sandbox.run(Exec::new("true")).await.unwrap();
    assert_eq!(output.sandbox_id.as_deref(), Some(sandbox.id()));
    assert_eq!(output.backend, sandbox.backend());
    assert_eq!(output.isolation, *sandbox.isolation());
    let other = f.create(NewSandbox::default()).await;
    assert_ne!(other.id(), sandbox.id());
}

pub(crate) async fn a_background_process_outlives_its_command(f: &Fixture) {
    let (sandbox, mut leash) = leashed(f, NewSandbox::default()).await;
    shell(
        &sandbox,
        format!("({UP}; exec sleep 1000 \"$MARK\") >/dev/null 2>&1 & echo $! >/tmp/pid"),
    )
    .await;
    leash.up(1).await;
    assert!(leash.is_held());
    shell(&sandbox, "kill -0 $(cat /tmp/pid)").await;
    shell(&sandbox, "kill $(cat /tmp/pid)").await;
    leash.released().await;
}

pub(crate) async fn a_killed_command_takes_nobody_else_along(f: &Fixture) {
    let (sandbox, mut other) = leashed(f, NewSandbox::default()).await;
    let script = format!("({UP}; exec sleep 1000 \"$MARK\") >/dev/null 2>&1 &");
    shell(&sandbox, script).await;
    other.up(1).await;
    for tree in &trees::ALL {
        let mut leash = f.leash();
        let exec = leash.hold_inside(f, Exec::new(tree.source()));
        let process = sandbox.spawn(exec.timeout(Duration::from_secs(1000))).await.unwrap();
        tree.up(&mut leash).await;
        process.kill();
        assert_eq!(process.wait().await.unwrap().status, Status::Cancelled);
        assert!(!leash.is_held(), "a process is left of {tree:?}");
        assert!(other.is_held(), "{tree:?} took another command along");
    }
    sandbox.kill().await.unwrap();
    other.released().await;
}

pub(crate) async fn commands_run_beside_each_other(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    shell(&sandbox, "mkfifo /tmp/there /tmp/back").await;
    let one = sandbox.run(Exec::new("echo ping >/tmp/there; cat /tmp/back"));
    let two = sandbox.run(Exec::new("cat /tmp/there; echo pong >/tmp/back"));
    let (one, two) = tokio::join!(one, two);
    assert_eq!(one.unwrap().stdout_text(), "pong\n");
    assert_eq!(two.unwrap().stdout_text(), "ping\n");
}

pub(crate) async fn many_commands_run_one_after_the_other(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    for n in 0..30 {
        let output = sandbox.run(Exec::new(format!("echo {n}; exit {n}"))).await.unwrap();
        assert_eq!((output.exit_code(), output.stdout_text()), (Some(n), format!("{n}\n")));
    }
}

/// More at a time than process 1 starts.
pub(crate) async fn a_hundred_commands_at_once_are_all_right(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let exec = |n: i32| sandbox.run(Exec::new(format!("sleep 0.2; exit {n}")));
    let mut ended: Vec<_> = Vec::new();
    let mut running = (0..100).map(|n| Box::pin(exec(n))).collect::<Vec<_>>();
    for process in &mut running {
        // All are asked for before the first one is waited for.
        let _ = timeout(Duration::ZERO, process.as_mut()).await.map(|output| ended.push(output));
    }
    assert!(ended.is_empty());
    for (n, process) in (0..).zip(running) {
        assert_eq!(process.await.unwrap().exit_code(), Some(n));
    }
}

pub(crate) async fn a_terminal_persists_nothing_and_finds_everything(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    shell(&sandbox, "echo found > /tmp/file").await;
    for _ in 0..3 {
        let exec = Exec::new("stty size; cat /tmp/file; read line; echo \"got $line\"; tty");
        let mut process = sandbox.spawn(exec.tty(33, 77).stdin(Stdin::Pipe)).await.unwrap();
        until(&mut process, "found").await;
        let mut stdin = process.take_stdin().unwrap();
        stdin.write_all(b"typed\n").await.unwrap();
        let said = until(&mut process, "/dev/pts/").await;
        assert!(said.contains("got typed"), "{said}");
    }
}

pub(crate) async fn dropping_a_sandbox_leaves_nothing(f: &Fixture) {
    let (sandbox, mut leash) = leashed(f, NewSandbox::default()).await;
    let running = grow(&sandbox, &mut leash).await;
    drop(sandbox);
    leash.released().await;
    let error = running.wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
}

/// A background process and a running command, both up.
async fn grow(sandbox: &Sandbox, leash: &mut Leash) -> Process {
    let script =
        format!("({UP}; exec sleep 1000 \"$MARK\") >/dev/null 2>&1 & {UP}; exec sleep 1000");
    let running = sandbox.spawn(Exec::new(script)).await.unwrap();
    leash.up(2).await;
    running
}

pub(crate) async fn killing_a_sandbox_leaves_nothing(f: &Fixture) {
    let (sandbox, mut leash) = leashed(f, NewSandbox::default()).await;
    let running = grow(&sandbox, &mut leash).await;
    sandbox.kill().await.unwrap();
    assert!(!leash.is_held());
    let error = running.wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
    assert!(is_lost(&sandbox).await.contains("it was killed"));
    sandbox.kill().await.unwrap();
}

pub(crate) async fn the_time_of_a_sandbox_ends_it_though_nobody_looks(f: &Fixture) {
    let started = Instant::now();
    // On a server it takes a while until both run.
    let time = Duration::from_millis(if f.place.is_on_a_server() { 5000 } else { 1500 });
    let (sandbox, mut leash) = leashed(f, NewSandbox::default().timeout(time)).await;
    let running = grow(&sandbox, &mut leash).await;
    leash.released().await;
    assert!(started.elapsed() >= time, "{:?}", started.elapsed());
    assert!(started.elapsed() < time + AT_ONCE + f.place.start(), "{:?}", started.elapsed());
    let error = running.wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
    assert!(is_lost(&sandbox).await.contains("its time was over"));
    let error = sandbox.renew(time).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
}

/// Its end is an event, also while orders are given.
pub(crate) async fn the_end_of_a_sandbox_is_heard(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default().timeout(Duration::from_secs(60))).await;
    let ending = async {
        sandbox.ended().await;
        assert_eq!(is_lost(&sandbox).await, "the sandbox has ended: its time was over");
    };
    let renewing = async {
        for time in [1000, 500, 1].map(Duration::from_secs) {
            sandbox.renew(time).await.unwrap();
        }
    };
    tokio::join!(ending, renewing);
    let sandbox = f.create(NewSandbox::default()).await;
    tokio::join!(sandbox.ended(), async { sandbox.kill().await.unwrap() });
    sandbox.ended().await;
}

pub(crate) async fn a_renewed_sandbox_lives_on(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    // It has this long to be renewed, whatever else the machine does.
    sandbox.renew(Duration::from_secs(4)).await.unwrap();
    sandbox.renew(Duration::from_secs(1000)).await.unwrap();
    shell(&sandbox, "sleep 4.2").await;
    sandbox.renew(Duration::from_millis(100)).await.unwrap();
    sandbox.ended().await;
    let error = sandbox.run(Exec::new("true")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
    for silly in [Duration::ZERO, Duration::MAX] {
        let error = sandbox.renew(silly).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
}

pub(crate) async fn a_paused_sandbox_stands_still(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let script = "n=0; while :; do n=$((n + 1)); echo $n; done";
    let mut process = sandbox.spawn(Exec::new(script)).await.unwrap();
    until(&mut process, "100\n").await;
    sandbox.pause().await.unwrap();
    // What was written before still arrives; then nothing does.
    while timeout(Duration::from_millis(200), process.next_event()).await.is_ok() {}
    let error = sandbox.run(Exec::new("true")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    assert!(error.to_string().contains("paused"));
    sandbox.resume().await.unwrap();
    process.next_event().await.unwrap();
    drop(process);
    shell(&sandbox, "true").await;
}

/// What stands still can be ended all the same.
pub(crate) async fn a_paused_command_can_be_ended(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    for end in [Process::cancel, Process::kill] {
        let mut process = sandbox.spawn(Exec::new("echo up; exec sleep 1000")).await.unwrap();
        until(&mut process, "up\n").await;
        sandbox.pause().await.unwrap();
        let started = Instant::now();
        end(&process);
        assert_eq!(process.wait().await.unwrap().status, Status::Cancelled);
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
        sandbox.resume().await.unwrap();
    }
    shell(&sandbox, "true").await;
}

pub(crate) async fn what_belongs_to_the_sandbox_is_refused(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let memory = Limits { memory: Some(1 << 40), ..Limits::default() };
    for exec in [
        Exec::new("true").mount(f.directory()),
        Exec::new("true").allow_network(true),
        Exec::new("true").limits(memory),
        Exec::new("true").direct(),
    ] {
        let error = sandbox.run(exec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    }
    shell(&sandbox, "true").await;
}

pub(crate) async fn a_command_that_cannot_start_harms_nobody(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    for _ in 0..if f.place.is_on_a_server() { 3 } else { 100 } {
        let error = sandbox.run(Exec::argv(["no such program"])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CommandNotFound);
    }
    let error = sandbox.run(Exec::new("true").workdir("/no/such/directory")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    let error = sandbox.run(Exec::argv(["no such program"]).tty(1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound);
    shell(&sandbox, "true").await;
}

pub(crate) async fn an_abandoned_start_leaves_nothing(f: &Fixture) {
    let (sandbox, mut leash) = leashed(f, NewSandbox::default()).await;
    let script = format!("{UP}; exec sleep 1000 \"$MARK\"");
    // Over the time that a start takes, so that it is abandoned at every stage.
    let (times, step) = if f.place.is_on_a_server() { (12, 15_000) } else { (50, 20) };
    for n in 0..times {
        let start = sandbox.spawn(Exec::new(script.clone()));
        let _ = timeout(Duration::from_micros(n * step), start).await.map(drop);
    }
    let last = sandbox.spawn(Exec::new(script)).await.unwrap();
    leash.up(1).await;
    drop(last);
    leash.released().await;
    shell(&sandbox, "true").await;
}

/// A sandbox that was kept ends with its time, whoever has dropped it.
pub(crate) async fn a_kept_sandbox_lives_until_the_end_of_its_time(f: &Fixture) {
    let (sandbox, mut leash) = leashed(f, NewSandbox::default()).await;
    grow_and_leave(&sandbox, &mut leash).await;
    let time = Duration::from_secs(3);
    sandbox.renew(time).await.unwrap();
    let started = Instant::now();
    sandbox.keep().await.unwrap();
    assert!(leash.is_held() || started.elapsed() >= time);
    leash.released().await;
    assert!(started.elapsed() > time / 2, "{:?}", started.elapsed());
}

/// A background process that has no stream of ours.
async fn grow_and_leave(sandbox: &Sandbox, leash: &mut Leash) {
    let script = format!("({UP}; exec sleep 1000 \"$MARK\") >/dev/null 2>&1 &");
    shell(sandbox, script).await;
    leash.up(1).await;
}

/// The owner is killed; what it has kept lives on, and what it has not is gone.
pub(crate) async fn a_killed_owner_leaves_what_it_has_kept(f: &Fixture) {
    if f.is_own_process() {
        return keep_and_wait(f).await;
    }
    let (mut kept, mut held) = (f.leash(), f.leash());
    let mut child = f.own_process();
    for (leash, prefix) in [(&kept, "KEPT"), (&held, "HELD")] {
        for (name, value) in leash.variables() {
            child.env(format!("{prefix}_{name}"), value);
        }
    }
    let mut child = child.spawn().unwrap();
    // The last line is written when the one is kept.
    held.up(2).await;
    kept.up(1).await;
    child.kill().await.unwrap();
    held.released().await;
    assert!(kept.is_held());
    kept.released().await;
}

async fn keep_and_wait(f: &Fixture) {
    let variable = |name: String| std::env::var(name).unwrap();
    let open = async |prefix: &str| {
        let mut new = f.share_with(NewSandbox::default());
        for name in ["LEASH", "MARK"] {
            new = new.env(name, variable(format!("{prefix}_{name}")));
        }
        let sandbox = f.create(new).await;
        let script = format!("({UP}; exec sleep 1000 \"$MARK\") >/dev/null 2>&1 &");
        shell(&sandbox, script).await;
        sandbox
    };
    let (kept, held) = (open("KEPT").await, open("HELD").await);
    kept.renew(Duration::from_secs(3)).await.unwrap();
    kept.keep().await.unwrap();
    shell(&held, "exec 9>\"$LEASH\"; echo kept >&9").await;
    std::future::pending::<()>().await;
}

pub(crate) async fn a_mount_is_shared_with_every_command(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default().mount(f.directory())).await;
    shell(&sandbox, "echo one > file").await;
    assert_eq!(std::fs::read_to_string(f.directory().join("file")).unwrap(), "one\n");
    std::fs::write(f.directory().join("other"), "two").unwrap();
    assert_eq!(shell(&sandbox, "cat other").await, "two");
    let owner = std::fs::metadata(f.directory()).unwrap().uid();
    let found = std::fs::metadata(f.directory().join("file")).unwrap().uid();
    if f.belongs_to_the_owner() {
        assert_eq!(found, owner);
    }
}

/// The output that nobody reads holds its own command alone.
pub(crate) async fn a_slow_reader_holds_nobody_else(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let busy = sandbox.spawn(Exec::new("yes")).await.unwrap();
    for n in 0..5 {
        assert_eq!(shell(&sandbox, format!("echo {n}")).await, format!("{n}\n"));
    }
    drop(busy);
}

/// In a process of its own, whose descriptors and children can be counted.
pub(crate) async fn nothing_piles_up(f: &Fixture) {
    if !f.is_own_process() {
        return succeeds(f.own_process()).await;
    }
    let sandbox = f.create(NewSandbox::default()).await;
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let inside = async || {
        let counted = shell(&sandbox, "ls /proc | grep -c '^[0-9]'").await;
        counted.trim().parse::<usize>().unwrap()
    };
    shell(&sandbox, "true").await;
    let before = (count(), inside().await);
    for _ in 0..200 {
        shell(&sandbox, "true").await;
    }
    // The last one may still be on its way out, then as now; a leak would be one for each.
    let after = (count(), inside().await);
    assert!(after.0 < before.0 + 20 && after.1 < before.1 + 20, "{after:?}, and before {before:?}");
    drop(sandbox);
    assert!(openbrain::settle(Duration::from_secs(5)));
}
