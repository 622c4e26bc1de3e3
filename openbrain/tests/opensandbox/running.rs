//! Sandboxes that end while a command runs in them.

use std::time::{Duration, Instant, SystemTime};

use openbrain::Process;

use crate::{
    docker,
    lab::{Lab, assert_error, rest, run, shell, until},
};

async fn up(lab: &Lab) -> Process {
    let mut process = lab.engine().spawn(shell("echo up; exec sleep 100")).await.unwrap();
    until(&mut process, "up").await;
    lab.front.until("POST", "/renew-expiration").await;
    process
}

/// The end of a run whose sandbox is lost, which comes soon.
async fn lost(process: Process, word: &str) {
    let start = Instant::now();
    let error = rest(process).await.unwrap_err();
    assert_error(&error, "sandbox_lost", &[word], "look at what it did before running it again");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_sandbox_that_expires_during_a_run_is_lost() {
    run("expires", async |lab: &Lab| {
        let process = up(lab).await;
        let id = lab.sandbox().await.id;
        lab.look.renew(&id, SystemTime::now() + Duration::from_secs(1)).await.unwrap();
        lost(process, "expired").await;
    });
}

#[test]
fn a_sandbox_that_somebody_else_deletes_is_lost() {
    run("deleted", async |lab: &Lab| {
        let process = up(lab).await;
        // The engine, which deletes what it lost, may be sooner: then the server fails at this one.
        let _ = lab.look.delete(&lab.sandbox().await.id).await;
        lost(process, "somebody deleted it").await;
    });
}

#[test]
fn a_container_that_is_killed_is_lost() {
    run("container", async |lab: &Lab| {
        let process = up(lab).await;
        let id = lab.sandbox().await.id;
        docker::ask("POST", &format!("/containers/sandbox-{id}/kill")).await;
        lost(process, "is Failed").await;
    });
}

/// The helper is gone before, or just after, it has told of the start: the command never runs twice.
#[test]
fn a_command_whose_helper_is_killed_at_once_runs_once() {
    run("helper-killed", async |lab: &Lab| {
        let directory = tempfile::tempdir().unwrap();
        // The parent of the guard, whose child the command is.
        let script = "echo ran >> ran; kill -9 $(cut -d ' ' -f 4 /proc/$PPID/stat); sleep 60";
        let exec = shell(script).mount(directory.path());
        let (error, _) = lab.error(&lab.engine(), exec).await;
        assert_error(&error, "sandbox_lost", &["helper in the sandbox"], "part of the command");
        let ran = std::fs::read_to_string(directory.path().join("ran")).unwrap();
        assert_eq!(ran, "ran\n");
    });
}
