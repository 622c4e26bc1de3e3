//! Making and deleting sandboxes, on a thread of its own: whoever asked for one may vanish (a dropped
//! future, a panic, the end of its runtime), and the sandbox is deleted all the same.
//!
//! What even the end of the whole process leaves, the server deletes when the sandbox's life is over;
//! as long as somebody holds the [`Lease`], the keeper prolongs it.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    client::{Client, ListFilter},
    create::{LIFE, RUN},
    failure::{Failure, FailureKind},
    wire::CreateSandbox,
};
use crate::{
    backend::BoxFuture,
    error::{Error, Result},
};

/// How long a deletion that fails is tried again.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long after a creation whose answer was lost its sandbox may still appear.
const APPEARS: Duration = Duration::from_secs(60);

/// The least life that a server takes.
const SHORTEST: Duration = Duration::from_secs(60);

/// A sandbox that somebody holds. Dropping it deletes the sandbox.
#[derive(Debug)]
pub(super) struct Lease {
    client: Client,
    id: String,
    deleted: bool,
    /// When it ends though it is held. Dropping this ends the renewals.
    end: watch::Sender<Option<Instant>>,
    /// Why it has ended though it is held.
    over: watch::Receiver<Option<Release>>,
}

impl Lease {
    /// Makes a sandbox and keeps it alive, for `life` if that is limited. When the future is dropped,
    /// the sandbox is deleted as soon as there is one.
    pub(super) async fn create(
        client: Client,
        request: CreateSandbox,
        life: Option<Duration>,
    ) -> Result<Self> {
        let (answer, created) = oneshot::channel();
        spawn(Work::Awaited, async move {
            let made = client.create(&request).await;
            if made.as_ref().is_err_and(may_have_arrived) {
                let run = request.metadata.get(RUN).cloned();
                spawn(Work::Awaited, delete_lost(client.clone(), run))?;
            }
            let lease = made.map(|sandbox| Self::new(client, sandbox.id, life));
            // When nobody waits any more, the lease is dropped here.
            let _ = answer.send(lease);
            Ok(())
        })?;
        match created.await {
            Ok(Ok(lease)) => lease,
            Ok(Err(failure)) => Err(failure.into()),
            Err(_) => Err(gone()),
        }
    }

    fn new(client: Client, id: String, life: Option<Duration>) -> Result<Self> {
        let (end, ends) = watch::channel(life.map(|life| Instant::now() + life));
        let (is_over, over) = watch::channel(None);
        let lease = Self { client: client.clone(), id: id.clone(), deleted: false, end, over };
        spawn(Work::Idle, async move {
            let release = hold(&client, &id, ends).await;
            is_over.send_replace(release);
            if release == Some(Release::Expired) {
                let _ = delete(client, id).await;
            }
            Ok(())
        })?;
        Ok(lease)
    }

    /// Sets when the sandbox ends, from now.
    pub(super) fn live(&self, life: Duration) {
        self.end.send_replace(Some(Instant::now() + life));
    }

    /// Whether its time is over.
    pub(super) fn has_expired(&self) -> bool {
        *self.over.borrow() == Some(Release::Expired)
    }

    /// Becomes the reason of its end, should it end while it is held.
    pub(super) fn over(&self) -> watch::Receiver<Option<Release>> {
        self.over.clone()
    }

    /// Leaves the sandbox to the server, which deletes it at the end of its time: after a minute at
    /// the soonest.
    pub(super) async fn leave(mut self) -> Result<()> {
        let left =
            self.end.borrow().map_or(LIFE, |at| at.saturating_duration_since(Instant::now()));
        let (client, id) = (self.client.clone(), self.id.clone());
        let (answer, renewed) = oneshot::channel();
        spawn(Work::Awaited, async move {
            let _ = answer.send(client.renew(&id, SystemTime::now() + left.max(SHORTEST)).await);
            Ok(())
        })?;
        renewed.await.map_err(|_| gone())??;
        self.deleted = true;
        Ok(())
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Deletes the sandbox. The deletion goes on when the future is dropped.
    pub(super) async fn delete(mut self) -> Result<()> {
        self.deleted = true;
        let (answer, deleted) = oneshot::channel();
        let work = delete(self.client.clone(), self.id.clone());
        spawn(Work::Awaited, async move {
            let _ = answer.send(work.await);
            Ok(())
        })?;
        match deleted.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(gone()),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.deleted {
            let work = delete(self.client.clone(), self.id.clone());
            // Without a thread there is still the end of the sandbox's life.
            let _ = spawn(Work::Awaited, async move {
                let _ = work.await;
                Ok(())
            });
        }
    }
}

/// Waits a bounded time until every sandbox that nobody holds any more is deleted, and says whether
/// they are.
pub(crate) fn settle(time: Duration) -> bool {
    let Some(awaited) = keeper().as_ref().and_then(Keeper::own).map(|own| Arc::clone(&own.awaited))
    else {
        return true;
    };
    let (count, changed) = &*awaited;
    let count = count.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = changed.wait_timeout_while(count, time, |count| *count > 0);
    !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
}

/// Whether a creation that failed may have made a sandbox.
fn may_have_arrived(failure: &Failure) -> bool {
    use FailureKind::{Lost, SandboxUnreachable, Surprise, TimedOut};
    matches!(failure.kind(), Lost | TimedOut | Surprise | SandboxUnreachable)
}

/// Deletes what a creation made whose answer was lost; the server may still be at it.
async fn delete_lost(client: Client, run: Option<String>) -> Result<()> {
    let Some(run) = run else { return Ok(()) };
    let metadata = BTreeMap::from([(RUN.to_owned(), run)]);
    let filter = ListFilter { metadata, ..ListFilter::default() };
    let end = Instant::now() + APPEARS;
    let mut pause = Duration::from_millis(250);
    while Instant::now() < end {
        if let Ok(found) = client.list(&filter).await
            && !found.is_empty()
        {
            for sandbox in found {
                delete(client.clone(), sandbox.id).await?;
            }
            return Ok(());
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
    Ok(())
}

async fn delete(client: Client, id: String) -> Result<(), Failure> {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(250);
    loop {
        match client.delete(&id).await {
            Ok(_) => return Ok(()),
            Err(failure) if Instant::now() + pause > end => return Err(failure),
            Err(_) => sleep(pause).await,
        }
        pause *= 2;
    }
}

/// Why a sandbox has ended that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// The server does not know it any more.
    Gone,
    /// Its time was over.
    Expired,
}

/// Prolongs the life of a sandbox until it is no longer held, or has ended.
async fn hold(
    client: &Client,
    id: &str,
    mut ends: watch::Receiver<Option<Instant>>,
) -> Option<Release> {
    loop {
        let end = *ends.borrow_and_update();
        let over = async {
            match end {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let prolong = async {
            loop {
                // One that fails is followed by others before the life is over; one that is gone
                // needs none.
                let renewed = client.renew(id, SystemTime::now() + LIFE).await;
                if renewed.is_err_and(|failure| failure.kind() == FailureKind::NotFound) {
                    return;
                }
                sleep(LIFE / 3).await;
            }
        };
        tokio::select! {
            biased;
            changed = ends.changed() => match changed {
                Ok(()) => {}
                Err(_) => return None,
            },
            () = over => return Some(Release::Expired),
            () = prolong => return Some(Release::Gone),
        }
    }
}

/// The thread, once it has started.
static KEEPER: Mutex<Option<Keeper>> = Mutex::new(None);

struct Keeper {
    /// The process that it runs in: a forked child has no threads but the one that forked.
    process: u32,
    /// Not bounded, because dropping a lease must not wait: there is at most one entry for each.
    work: mpsc::UnboundedSender<(Work, BoxFuture<'static, Result<()>>)>,
    awaited: Arc<(Mutex<usize>, Condvar)>,
}

/// Whether [`settle`] waits for a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Awaited,
    Idle,
}

fn spawn(kind: Work, work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    let mut keeper = keeper();
    if keeper.as_ref().and_then(Keeper::own).is_none() {
        let started = Keeper::start().map_err(|error| {
            Error::unavailable("cannot start the thread that deletes sandboxes").with_source(error)
        })?;
        // What the parent's thread was given is not for this process to drop: sandboxes are the
        // parent's.
        std::mem::forget(keeper.replace(started));
    }
    let keeper = keeper.as_ref().ok_or_else(gone)?;
    if kind == Work::Awaited {
        *keeper.awaited.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }
    keeper.work.send((kind, Box::pin(work))).map_err(|_| gone())
}

fn keeper() -> MutexGuard<'static, Option<Keeper>> {
    KEEPER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    /// The same, unless it is that of the process which this one was forked from.
    fn own(&self) -> Option<&Self> {
        (self.process == std::process::id()).then_some(self)
    }

    fn start() -> io::Result<Self> {
        let (work, mut arriving) = mpsc::unbounded_channel();
        let awaited = Arc::new((Mutex::new(0), Condvar::new()));
        let process = std::process::id();
        let keeper = Self { process, work, awaited: Arc::clone(&awaited) };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let serve = async move {
            while let Some((kind, work)) = arriving.recv().await {
                let done = Done((kind == Work::Awaited).then(|| Arc::clone(&awaited)));
                tokio::spawn(async move {
                    let _done = done;
                    let _: Result<()> = work.await;
                });
            }
        };
        thread::Builder::new()
            .name("openbrain-keeper".into())
            .spawn(move || runtime.block_on(serve))?;
        Ok(keeper)
    }
}

/// Counts a piece of work as done, even one that panics.
struct Done(Option<Arc<(Mutex<usize>, Condvar)>>);

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(awaited) = &self.0 {
            *awaited.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            awaited.1.notify_all();
        }
    }
}

fn gone() -> Error {
    Error::unavailable("the thread that makes and deletes sandboxes has ended")
        .with_remedy("report this with the output of `openbrain doctor --json`")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use tokio::sync::{mpsc, oneshot};

    use super::{Duration, Keeper, Work, keeper, settle, spawn};

    /// As in a forked child.
    #[tokio::test]
    async fn the_thread_of_another_process_is_not_waited_for() {
        let (work, _arriving) = mpsc::unbounded_channel();
        let awaited = Arc::new((Mutex::new(1), Condvar::new()));
        std::mem::forget(keeper().replace(Keeper { process: 0, work, awaited }));
        assert!(settle(Duration::ZERO));
        let (answer, done) = oneshot::channel();
        let work = async move {
            let _ = answer.send(());
            Ok(())
        };
        spawn(Work::Awaited, work).unwrap();
        done.await.unwrap();
    }
}
