//! Supervision, once for all backends: deadline, cancellation, and a bound on every wait.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use crate::{
    backend::{Control, Ended, Order},
    error::Result,
    output::{Denial, Resources, Status},
};

/// Time between TERM and KILL.
const GRACE: Duration = Duration::from_millis(500);

/// Time for a backend to confirm a KILL. With [`GRACE`] it keeps the promise that a call returns
/// within a second of its deadline.
const CONFIRM: Duration = Duration::from_millis(400);

/// What the owner of a process asks of the supervision.
#[derive(Debug)]
pub(super) enum Request {
    /// An order for the backend as it is.
    Order(Order),
    /// End the command gently, then by force.
    Cancel,
    /// End the command by force.
    Kill,
}

/// How a supervised command ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) status: Status,
    pub(super) duration: Duration,
    pub(super) resources: Resources,
    pub(super) denials: Vec<Denial>,
    pub(super) warnings: Vec<String>,
}

impl Default for Ending {
    fn default() -> Self {
        Self {
            status: Status::Cancelled,
            duration: Duration::ZERO,
            resources: Resources::default(),
            denials: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// What happens when the next timer fires.
#[derive(Clone, Copy)]
enum Timer {
    /// Nothing: there is no deadline.
    Never,
    /// The deadline passes.
    Deadline(Instant),
    /// The grace after TERM is over.
    Kill(Instant),
    /// The backend did not confirm a KILL in time.
    GiveUp(Instant),
}

/// Watches one command until it has ended, and reports its end.
///
/// When the owner goes away without having asked for anything, the command is killed.
pub(super) async fn supervise(
    mut control: Box<dyn Control>,
    timeout: Option<Duration>,
    mut inbox: mpsc::Receiver<Request>,
    report: oneshot::Sender<Result<Ending>>,
) {
    let started = Instant::now();
    let mut verdict = None;
    let mut timer = timeout.map_or(Timer::Never, |t| Timer::Deadline(started + t));
    let mut owned = true;
    let ended = loop {
        tokio::select! {
            biased;
            ended = control.ended() => break ended,
            request = inbox.recv(), if owned => match request {
                Some(Request::Order(order)) => control.order(order),
                Some(Request::Cancel) => timer = terminate(&mut *control, &mut verdict, Status::Cancelled),
                Some(Request::Kill) => timer = kill(&mut *control, &mut verdict, Status::Cancelled),
                None => {
                    owned = false;
                    timer = kill(&mut *control, &mut verdict, Status::Cancelled);
                }
            },
            () = fires(timer) => match timer {
                Timer::Never => {}
                Timer::Deadline(_) => timer = terminate(&mut *control, &mut verdict, Status::TimedOut),
                Timer::Kill(_) => timer = kill(&mut *control, &mut verdict, Status::Cancelled),
                Timer::GiveUp(_) => break Ok(unconfirmed(verdict)),
            },
        }
    };
    let duration = started.elapsed();
    let ending = ended.map(|Ended { status, resources, denials, warnings }| Ending {
        status: verdict.unwrap_or(status),
        duration,
        resources,
        denials,
        warnings,
    });
    // The owner may be gone; then nobody wants to know.
    let _ = report.send(ending);
}

async fn fires(timer: Timer) {
    match timer {
        Timer::Never => std::future::pending().await,
        Timer::Deadline(at) | Timer::Kill(at) | Timer::GiveUp(at) => sleep_until(at).await,
    }
}

/// Asks the command to end; the first reason given is the one reported.
fn terminate(control: &mut dyn Control, verdict: &mut Option<Status>, why: Status) -> Timer {
    verdict.get_or_insert(why);
    control.order(Order::Terminate);
    Timer::Kill(Instant::now() + GRACE)
}

fn kill(control: &mut dyn Control, verdict: &mut Option<Status>, why: Status) -> Timer {
    verdict.get_or_insert(why);
    control.order(Order::Kill);
    Timer::GiveUp(Instant::now() + CONFIRM)
}

fn unconfirmed(verdict: Option<Status>) -> Ended {
    Ended {
        status: verdict.unwrap_or(Status::Cancelled),
        resources: Resources::default(),
        denials: Vec::new(),
        warnings: vec!["the kill was not confirmed in time; processes may still be ending".into()],
    }
}
