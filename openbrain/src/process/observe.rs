//! Telling of a command's end to whoever keeps a record of it: once, whoever still listens.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{Facts, supervise::Ending};
use crate::{error::Result, output::Status};

/// How long the supervision leaves the telling to the reader of the output, who knows how much
/// there was, after a command has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whoever keeps a record of one command.
pub(crate) trait Observer: Send {
    /// Takes note of the end of the command of `facts`. Returns what its result should warn of.
    fn ended(self: Box<Self>, facts: &Facts, end: End) -> Option<String>;
}

/// The end of a command.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// From its start.
    pub(crate) duration: Duration,
    /// Bytes of standard output and standard error that were read until now.
    pub(crate) bytes: [u64; 2],
    /// Whether something of standard output and standard error is missing in the result; `None` when
    /// nobody has read them to their end.
    pub(crate) truncated: Option<[bool; 2]>,
    /// How often the sandbox refused something.
    pub(crate) denials: u64,
    /// What the caller should know, beside what was known at the start.
    pub(crate) warnings: Vec<String>,
}

/// What became of a command.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It ended in this way.
    Ended(Status),
    /// Its backend lost it, with this code and message.
    Failed(&'static str, String),
    /// Its supervision was dropped, with a runtime, and so it was killed.
    Dropped,
}

/// An observer and what it is to be told, for whoever knows the end first.
struct Observed {
    observer: Mutex<Option<Box<dyn Observer>>>,
    bytes: [AtomicU64; 2],
    facts: Facts,
}

/// The observer, as the reader of the output has it.
pub(super) struct Reading {
    observed: Arc<Observed>,
    /// Closed with the reader.
    _open: oneshot::Sender<()>,
}

/// The observer, as the supervision has it. Dropped, it tells what it knows.
pub(super) struct Telling {
    observed: Arc<Observed>,
    started: Instant,
    /// The end, once it is known.
    end: Option<End>,
    reading: oneshot::Receiver<()>,
}

/// The two sides of an observer of a command that was started at this moment.
pub(super) fn observe(
    observer: Box<dyn Observer>,
    facts: Facts,
    started: Instant,
) -> (Telling, Reading) {
    let observer = Mutex::new(Some(observer));
    let observed = Arc::new(Observed { observer, bytes: Default::default(), facts });
    let (open, reading) = oneshot::channel();
    let telling = Telling { observed: Arc::clone(&observed), started, end: None, reading };
    (telling, Reading { observed, _open: open })
}

impl Observed {
    /// Tells of the end, unless that was done.
    fn tell(&self, end: End) -> Option<String> {
        let observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let bytes = self.bytes.each_ref().map(|count| count.load(Ordering::Relaxed));
        observer?.ended(&self.facts, End { bytes, ..end })
    }
}

impl Reading {
    /// Counts bytes that were read of standard output (0) or standard error (1).
    pub(super) fn count(&self, stream: usize, bytes: u64) {
        self.observed.bytes[stream].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Tells of the end, unless that was done; returns what the result should warn of.
    pub(super) fn tell(&self, ending: &Ending, truncated: [bool; 2]) -> Option<String> {
        self.observed.tell(End { truncated: Some(truncated), ..End::of(ending) })
    }
}

impl Telling {
    /// Remembers the end.
    pub(super) fn know(&mut self, ending: &Result<Ending>) {
        self.end = Some(match ending {
            Ok(ending) => End::of(ending),
            Err(error) => {
                let outcome = Outcome::Failed(error.code(), error.to_string());
                End { outcome, ..End::dropped(self.started.elapsed()) }
            }
        });
    }

    /// Leaves the telling to the reader for a while, if there is one.
    pub(super) async fn wait(&mut self) {
        let _ = timeout(PATIENCE, &mut self.reading).await;
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or_else(|| End::dropped(self.started.elapsed()));
        // There is no result left that could warn of it; a missing end tells of itself.
        let _ = self.observed.tell(end);
    }
}

impl End {
    fn of(ending: &Ending) -> Self {
        let Ending { status, duration, resources: _, denials, warnings } = ending;
        Self {
            outcome: Outcome::Ended(*status),
            duration: *duration,
            bytes: [0; 2],
            truncated: None,
            denials: denials.iter().map(|denial| denial.count).sum(),
            warnings: warnings.clone(),
        }
    }

    fn dropped(duration: Duration) -> Self {
        let (outcome, bytes) = (Outcome::Dropped, [0; 2]);
        Self { outcome, duration, bytes, truncated: None, denials: 0, warnings: Vec::new() }
    }
}
