//! Supervision, once for all backends: deadline, cancellation, and a bound on every wait.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use super::observe::Telling;
use crate::{
    backend::{Control, Ended, Order},
    error::Result,
    output::{Denial, Resources, Status},
};

/// Time between TERM and KILL.
const GRACE: Duration = Duration::from_millis(500);

/// Time for a backend to confirm a KILL. With [`GRACE`] and the time for draining the streams
/// (`DRAIN`, 100 ms) it keeps the promise that a call returns within a second of its deadline.
const CONFIRM: Duration = Duration::from_millis(300);

/// How much its owner wants a command to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Not at all.
    None,
    /// Gently, then by force.
    Cancel,
    /// By force.
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

/// What an owner can ask for, on its way to the supervision.
pub(super) struct Inbox {
    /// Orders for the backend as they are.
    pub(super) orders: mpsc::Receiver<Order>,
    /// How much the command is wanted to end. Never lost, however many orders wait.
    pub(super) urgency: watch::Receiver<Urgency>,
}

/// Who is told of the end.
pub(super) struct Audience {
    /// Whoever has the process.
    pub(super) owner: oneshot::Sender<Result<Ending>>,
    /// Whoever keeps a record of it.
    pub(super) observer: Option<Telling>,
}

/// Watches one command until it has ended, and reports its end.
///
/// When nobody waits for the report any more, the command is killed, whoever may still hold a
/// handle to it.
pub(super) async fn supervise(
    control: Box<dyn Control>,
    started: Instant,
    timeout: Option<Duration>,
    mut inbox: Inbox,
    audience: Audience,
) {
    let Audience { mut owner, observer } = audience;
    let timer = timeout.map_or(Timer::Never, |t| Timer::Deadline(started + t));
    let mut s = Supervision { control, verdict: None, timer };
    let mut owned = true;
    let ended = loop {
        tokio::select! {
            biased;
            ended = s.control.ended() => break ended,
            () = owner.closed(), if owned => {
                owned = false;
                s.kill(Status::Cancelled);
            }
            Ok(()) = inbox.urgency.changed() => match *inbox.urgency.borrow_and_update() {
                Urgency::None => {}
                Urgency::Cancel => s.terminate(Status::Cancelled),
                Urgency::Kill => s.kill(Status::Cancelled),
            },
            Some(order) = inbox.orders.recv() => s.control.order(order),
            () = fires(s.timer) => match s.timer {
                Timer::Never => {}
                Timer::Deadline(_) => s.terminate(Status::TimedOut),
                Timer::Kill(_) => s.kill(Status::Cancelled),
                Timer::GiveUp(_) => break Ok(unconfirmed()),
            },
        }
    };
    let duration = started.elapsed();
    let removed = match (&ended, s.verdict) {
        (Ok(_), None) => s.control.removed().await,
        _ => Vec::new(),
    };
    let ending = ended.map(|Ended { status, resources, denials, mut warnings }| {
        warnings.extend(removed);
        let status = s.verdict.unwrap_or(status);
        Ending { status, duration, resources, denials, warnings }
    });
    let Some(mut observer) = observer else {
        // The owner may be gone; then nobody wants to know.
        let _ = owner.send(ending);
        return;
    };
    observer.know(&ending);
    if owner.send(ending).is_ok() {
        // For those who wait for the end of the supervision it is over.
        drop(inbox);
        observer.wait().await;
    }
}

/// A command under supervision.
struct Supervision {
    control: Box<dyn Control>,
    /// Why it was told to end; the first reason counts.
    verdict: Option<Status>,
    timer: Timer,
}

impl Supervision {
    /// Asks the command to end. Asking again does not give it more time.
    fn terminate(&mut self, why: Status) {
        self.verdict.get_or_insert(why);
        if matches!(self.timer, Timer::Never | Timer::Deadline(_)) {
            self.control.order(Order::Terminate);
            self.timer = Timer::Kill(Instant::now() + GRACE);
        }
    }

    /// Kills everything, once.
    fn kill(&mut self, why: Status) {
        self.verdict.get_or_insert(why);
        if !matches!(self.timer, Timer::GiveUp(_)) {
            self.control.order(Order::Kill);
            self.timer = Timer::GiveUp(Instant::now() + CONFIRM);
        }
    }
}

async fn fires(timer: Timer) {
    match timer {
        Timer::Never => std::future::pending().await,
        Timer::Deadline(at) | Timer::Kill(at) | Timer::GiveUp(at) => sleep_until(at).await,
    }
}

fn unconfirmed() -> Ended {
    Ended {
        status: Status::Cancelled,
        resources: Resources::default(),
        denials: Vec::new(),
        warnings: vec!["the kill was not confirmed in time; processes may still be ending".into()],
    }
}
