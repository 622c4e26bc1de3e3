//! What the process that uses the library may do, and what may be done to it.

use std::{env, fs, time::Duration};

use openbrain::Status;
use tokio::task::JoinSet;

use crate::{
    support::{Fixture, succeeds},
    trees,
};

/// The kernel then reaps children itself, and `waitpid(2)` finds none.
pub(crate) async fn an_ignored_sigchld_changes_nothing(f: &Fixture) {
    if !f.is_own_process() {
        return succeeds(f.own_process_that_ignores("SIGCHLD")).await;
    }
    assert!(ignores(libc::SIGCHLD));
    for code in [0, 3] {
        let output = f.run(f.shell(format!("echo out; exit {code}"))).await;
        assert_eq!((output.status, output.stdout_text().as_str()), (Status::Exited(code), "out\n"));
    }
    let output = f.run(f.shell("kill -9 $$")).await;
    assert_eq!(output.status, Status::Signaled(libc::SIGKILL));
    let (exec, mut leash) = trees::DAEMON.plant(f);
    let run = f.run(exec.timeout(Duration::from_millis(300)));
    let (output, ()) = tokio::join!(run, trees::DAEMON.up(&mut leash));
    assert_eq!(output.status, Status::TimedOut);
    assert!(!leash.is_held());
    // The command itself has the default, or its own `waitpid` would fail.
    assert!(f.run(f.shell("(exit 3) & wait $!; test $? = 3")).await.success());
}

fn ignores(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    u64::from_str_radix(mask, 16).unwrap() >> (signal - 1) & 1 == 1
}

pub(crate) async fn a_killed_host_leaves_nothing(f: &Fixture) {
    if f.is_own_process() {
        return wait_for_the_end(f).await;
    }
    let mut leash = f.leash();
    let mut child = f.own_process().envs(leash.variables()).spawn().unwrap();
    leash.up(trees::ALL.iter().map(trees::Tree::lines).sum()).await;
    child.kill().await.unwrap();
    leash.released().await;
}

/// Runs every tree on the leash of the parent process.
async fn wait_for_the_end(f: &Fixture) {
    let mut running = JoinSet::new();
    for tree in &trees::ALL {
        let mut exec = f.share(f.shell(tree.source()));
        for name in ["LEASH", "MARK"] {
            exec = exec.env(name, env::var(name).unwrap());
        }
        let engine = f.engine.clone();
        running.spawn(async move { engine.run(exec).await });
    }
    let ended = running.join_next().await;
    panic!("a command has ended: {ended:?}");
}
