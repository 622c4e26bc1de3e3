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
