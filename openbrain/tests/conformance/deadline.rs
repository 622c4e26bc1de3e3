//! Time limits: everything is killed, what was printed is kept, and the result comes at once.

use std::time::{Duration, Instant};

use openbrain::{Output, Status};

use crate::{
    support::{Fixture, UP},
    trees::{self, AT_ONCE, Tree},
};

const DEADLINE: Duration = Duration::from_millis(300);

pub(crate) async fn deadline_kills_a_sleeper(f: &Fixture) {
    times_out(f, &trees::SLEEPER).await;
}

pub(crate) async fn deadline_kills_who_ignores_term(f: &Fixture) {
    times_out(f, &trees::IGNORES_TERM).await;
}

pub(crate) async fn deadline_kills_a_grandchild_that_holds_the_pipe(f: &Fixture) {
    times_out(f, &trees::GRANDCHILD).await;
}

pub(crate) async fn deadline_kills_a_daemon(f: &Fixture) {
    times_out(f, &trees::DAEMON).await;
}

pub(crate) async fn deadline_kills_a_detached_daemon(f: &Fixture) {
    times_out(f, &trees::DETACHED).await;
}

pub(crate) async fn deadline_kills_a_hidden_daemon(f: &Fixture) {
    times_out(f, &trees::HIDDEN).await;
}

pub(crate) async fn deadline_kills_the_stopped(f: &Fixture) {
    times_out(f, &trees::STOPPED).await;
}

pub(crate) async fn deadline_kills_another_process_group(f: &Fixture) {
    times_out(f, &trees::OTHER_GROUP).await;
}

async fn times_out(f: &Fixture, tree: &Tree) {
    let (exec, mut leash) = tree.plant(f);
    let started = Instant::now();
    let run = f.run(exec.timeout(DEADLINE));
    let (output, ()) = tokio::join!(run, tree.up(&mut leash));
    let elapsed = started.elapsed();
    leash.is_gone(&output).await;
    assert!(elapsed < DEADLINE + AT_ONCE + f.place.start(), "{elapsed:?}");
    assert!(output.duration < DEADLINE + AT_ONCE, "{:?}", output.duration);
    is_timed_out(f, &output);
    assert_eq!(output.stdout_text(), "so far\n");
}

fn is_timed_out(f: &Fixture, output: &Output) {
    assert_eq!(output.status, Status::TimedOut);
    assert!(output.timed_out() && !output.success());
    assert_eq!((output.exit_code(), output.signal()), (None, None));
    assert!(output.duration >= DEADLINE, "{:?}", output.duration);
    // A server's engine may be busy; that it does not answer in time is then told.
    if f.place.start() == Duration::ZERO {
        assert_eq!(output.warnings.iter().find(|w| w.contains("kill")), None);
    }
}

/// The exit code of a command that ends within the grace is not its own choice.
pub(crate) async fn deadline_leaves_time_to_end(f: &Fixture) {
    let mut leash = f.leash();
    let script = format!("trap 'echo bye; exit 0' TERM; sleep 1000 & {UP}; wait");
    let exec = leash.hold(f, f.shell(script)).timeout(DEADLINE);
    let (output, ()) = tokio::join!(f.run(exec), leash.up(1));
    is_timed_out(f, &output);
    assert_eq!(output.stdout_text(), "bye\n");
    assert!(!leash.is_held());
}

pub(crate) async fn deadline_fires_though_nobody_reads(f: &Fixture) {
    let mut leash = f.leash();
    let exec = leash.hold(f, f.shell(format!("trap '' TERM; {UP}; yes"))).timeout(DEADLINE);
    let process = f.spawn(exec).await;
    let started = Instant::now();
    leash.up(1).await;
    leash.released().await;
    assert!(started.elapsed() < DEADLINE + AT_ONCE, "{:?}", started.elapsed());
    let output = process.wait().await.unwrap();
    is_timed_out(f, &output);
    assert!(output.stdout_text().starts_with("y\ny\n"));
    // What the pipe held, and nothing that was written after.
    assert!(output.stdout.total <= f.place.ahead() as u64, "{}", output.stdout.total);
}

pub(crate) async fn a_command_in_time_is_not_timed_out(f: &Fixture) {
    let output = f.run(f.shell("exit 3").timeout(Duration::from_secs(50))).await;
    assert_eq!(output.status, Status::Exited(3));
    assert!(output.duration < Duration::from_secs(5), "{:?}", output.duration);
}
