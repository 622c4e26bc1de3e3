//! What a command leaves running when it ends by itself.

use std::time::{Duration, Instant};

use openbrain::{Event, Output, Status};

use crate::{
    streams::dawdle,
    support::{Fixture, Leash, UP},
};

/// Runs a script that leaves `survivor` behind once that is up, holding every pipe.
async fn leave(f: &Fixture, survivor: &str) -> (Output, Leash) {
    let mut leash = f.leash();
    let script = format!("echo out; {UP}; (echo up >&9; exec {survivor}) & exit 3");
    let started = Instant::now();
    let run = f.run(leash.hold(f, f.shell(script)));
    let (output, ()) = tokio::join!(run, leash.up(1));
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_secs(1) + f.place.start(), "{elapsed:?}");
    assert_eq!(output.status, Status::Exited(3));
    assert!(output.stdout_text().starts_with("out\n"));
    (output, leash)
}

pub(crate) async fn a_background_process_survives(f: &Fixture) {
    let (output, mut leash) = leave(f, "sleep 1000 \"$MARK\"").await;
    assert_eq!(output.stdout_text(), "out\n");
    leash.up(2).await;
    assert!(leash.is_held());
    leash.kill_marked();
    leash.released().await;
}

pub(crate) async fn a_survivor_that_writes_does_not_hold_the_result(f: &Fixture) {
    let (_, mut leash) = leave(f, "yes").await;
    // Nobody reads what it writes; that ends it.
    leash.released().await;
}

/// One that writes faster than anybody reads: the pipe is never empty.
pub(crate) async fn a_survivor_that_never_pauses_does_not_hide_the_end(f: &Fixture) {
    let mut process = f.spawn(f.shell("yes & exit 3")).await;
    for _ in 0..2 * f.place.ahead() / 65536 * 2 {
        dawdle().await;
        match process.next_event().await.unwrap() {
            Some(Event::Stdout(_)) => {}
            Some(Event::Ended(output)) => return assert_eq!(output.status, Status::Exited(3)),
            other => panic!("{other:?}"),
        }
    }
    panic!("the end was not told");
}

pub(crate) async fn what_a_sandbox_leaves_running_ends_with_it(f: &Fixture) {
    let (output, leash) = leave(f, "sleep 1000 \"$MARK\"").await;
    assert_eq!(output.stdout_text(), "out\n");
    assert!(!leash.is_held());
}
