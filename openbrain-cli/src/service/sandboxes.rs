//! The sandboxes that callers keep open: found by name, no more of them than the settings allow, and
//! forgotten when they have ended.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use openbrain::{Caller, Error, Result, Sandbox, SessionEnd};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, warn};

use super::Refusal;

/// How long the end of a sandbox is waited for.
const END: Duration = Duration::from_secs(5);

/// The sandboxes that are open.
#[derive(Debug)]
pub(super) struct Sandboxes {
    places: Arc<Semaphore>,
    all: Mutex<HashMap<String, Arc<OpenSandbox>>>,
    count: watch::Sender<usize>,
}

/// A sandbox that stays open until its caller ends it, its time is over, or the server ends.
#[derive(Debug)]
pub(crate) struct OpenSandbox {
    sandbox: Sandbox,
    caller: Caller,
    created_at: SystemTime,
    is_paused: AtomicBool,
    /// Cancelled when it is to end.
    ending: CancellationToken,
    /// Whether it has ended, and why that could not be confirmed.
    ended: watch::Sender<Option<std::result::Result<(), Arc<Error>>>>,
    /// Free again when it has ended, though a request still looks at it.
    place: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Sandboxes {
    pub(super) fn new(most: u32) -> Self {
        Self {
            places: Arc::new(Semaphore::new(most as usize)),
            all: Mutex::default(),
            count: watch::Sender::default(),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Room for one more. Nobody waits for it: it may be taken for an hour.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::TooManySandboxes)
    }

    /// Notes a sandbox, and forgets it when it has ended.
    pub(super) fn put(
        self: &Arc<Self>,
        sandbox: Sandbox,
        caller: Caller,
        place: OwnedSemaphorePermit,
    ) -> Arc<OpenSandbox> {
        let (sandbox_id, surface) = (sandbox.id().to_owned(), caller.surface.as_str());
        info!(sandbox_id, surface, backend = sandbox.backend().as_str(), "sandbox opened");
        let open = Arc::new(OpenSandbox {
            sandbox,
            caller,
            created_at: SystemTime::now(),
            is_paused: AtomicBool::new(false),
            ending: CancellationToken::new(),
            ended: watch::Sender::default(),
            place: Mutex::new(Some(place)),
        });
        self.change(|all| all.insert(sandbox_id, Arc::clone(&open)));
        let watched = watch_over(Arc::clone(&open), Arc::clone(self));
        tokio::spawn(watched.in_current_span());
        open
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<OpenSandbox>> {
        self.lock().get(id).cloned()
    }

    /// Those of a caller, the newest first.
    pub(super) fn of(&self, caller: &Caller) -> Vec<Arc<OpenSandbox>> {
        let is_theirs = |open: &&Arc<OpenSandbox>| open.caller == *caller;
        let mut found: Vec<_> = self.lock().values().filter(is_theirs).cloned().collect();
        found.sort_by_key(|open| std::cmp::Reverse(open.created_at));
        found
    }

    /// Ends them all.
    pub(super) fn end(&self) {
        self.lock().values().for_each(|open| open.end());
    }

    /// Waits until there is none.
    pub(super) async fn none(&self) {
        // The sender is here, so there is always something to wait for.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<String, Arc<OpenSandbox>>) -> T) {
        let mut all = self.lock();
        change(&mut all);
        self.count.send_replace(all.len());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<OpenSandbox>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the end of a sandbox, or for the wish to end it, and forgets it then.
async fn watch_over(open: Arc<OpenSandbox>, sandboxes: Arc<Sandboxes>) {
    let sandbox_id = open.id();
    let ended = tokio::select! {
        end = open.sandbox.ended() => Ok(end),
        () = open.ending.cancelled() => open.sandbox.kill().await.map(|()| SessionEnd::Killed),
    };
    match &ended {
        Ok(end) => info!(sandbox_id, ?end, "sandbox ended"),
        Err(error) => warn!(sandbox_id, %error, "the end of a sandbox is not confirmed"),
    }
    sandboxes.change(|all| all.remove(sandbox_id));
    open.place.lock().unwrap_or_else(PoisonError::into_inner).take();
    open.ended.send_replace(Some(ended.map(drop).map_err(Arc::new)));
}

impl OpenSandbox {
    /// Its name, which is as good as a key: nobody can guess it.
    pub(crate) fn id(&self) -> &str {
        self.sandbox.id()
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(crate) fn created_at(&self) -> SystemTime {
        self.created_at
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused.load(Relaxed)
    }

    /// Stops every process in it.
    pub(crate) async fn pause(&self) -> Result<()> {
        self.sandbox.pause().await?;
        self.is_paused.store(true, Relaxed);
        Ok(())
    }

    /// Lets every process in it go on.
    pub(crate) async fn resume(&self) -> Result<()> {
        self.sandbox.resume().await?;
        self.is_paused.store(false, Relaxed);
        Ok(())
    }

    /// Begins to end it.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }

    /// Ends it, and waits a while for that: whether it has ended by then. The error says why that is
    /// not certain.
    pub(crate) async fn end_in_time(&self) -> std::result::Result<bool, Arc<Error>> {
        self.end();
        match timeout(END, self.ended()).await {
            Ok(ended) => ended.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Waits until it has ended. The error says why that is not certain.
    pub(crate) async fn ended(&self) -> std::result::Result<(), Arc<Error>> {
        let mut ended = self.ended.subscribe();
        // The sender is here, so there is always something to wait for.
        let ended = ended.wait_for(Option::is_some).await;
        ended.ok().and_then(|ended| ended.clone()).unwrap_or(Ok(()))
    }
}
