//! What belongs to one client for as long as it is connected: its commands and sandboxes, and what a
//! person allowed it for good.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::service::{Kept, OpenSandbox};

/// Commands that a person allows for the rest of a session; more are asked for each time.
const MOST_ALLOWED: usize = 256;

/// A client that is connected: over standard input and output, or by a session of HTTP.
#[derive(Debug, Default)]
pub(super) struct Session {
    commands: Mutex<Vec<Weak<Kept>>>,
    sandboxes: Mutex<Vec<Weak<OpenSandbox>>>,
    allowed: Mutex<HashSet<String>>,
    /// How often the client came back for the rest of a stream of events that it had lost.
    resumed: AtomicU64,
    gone: CancellationToken,
}

/// The sessions of HTTP that have called a tool, by their id.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Weak<Session>>>);

impl Session {
    /// Cancelled when the client has said goodbye, or has closed its end.
    pub(super) fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// The command ends with the session, unless it has ended before.
    pub(super) fn own(&self, kept: &Arc<Kept>) {
        let mut commands = lock(&self.commands);
        commands.retain(|kept| kept.upgrade().is_some_and(|kept| !kept.progress().ended));
        commands.push(Arc::downgrade(kept));
        drop(commands);
        // The client may have left while the command was being started.
        if self.gone.is_cancelled() {
            kept.cancel();
        }
    }

    /// The sandbox ends with the session, unless it has ended before.
    pub(super) fn own_sandbox(&self, open: &Arc<OpenSandbox>) {
        let mut sandboxes = lock(&self.sandboxes);
        sandboxes.retain(|open| open.strong_count() > 0);
        sandboxes.push(Arc::downgrade(open));
        drop(sandboxes);
        // The client may have left while the sandbox was being created.
        if self.gone.is_cancelled() {
            open.end();
        }
    }

    /// Ends every command and every sandbox of the client.
    pub(super) fn end(&self) {
        self.gone.cancel();
        self.running().iter().for_each(|kept| kept.cancel());
        self.open().iter().for_each(|open| open.end());
    }

    /// Waits until every command and every sandbox of the client has ended.
    pub(super) async fn ended(&self) {
        let (running, open) = (self.running(), self.open());
        join_all(running.iter().map(|kept| kept.ended())).await;
        join_all(open.iter().map(|open| open.ended())).await;
    }

    fn open(&self) -> Vec<Arc<OpenSandbox>> {
        lock(&self.sandboxes).iter().filter_map(Weak::upgrade).collect()
    }

    fn running(&self) -> Vec<Arc<Kept>> {
        lock(&self.commands).iter().filter_map(Weak::upgrade).collect()
    }

    /// A person allows this request for the rest of the session.
    pub(super) fn allow(&self, request: String) {
        let mut allowed = lock(&self.allowed);
        if allowed.len() < MOST_ALLOWED {
            allowed.insert(request);
        }
    }

    pub(super) fn allows(&self, request: &str) -> bool {
        lock(&self.allowed).contains(request)
    }

    pub(super) fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }
}

/// A session that nobody has any more, because its client was silent for too long.
impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

impl Sessions {
    /// From now on the session is found by this id.
    pub(super) fn remember(&self, id: &str, session: &Arc<Session>) {
        let mut sessions = lock(&self.0);
        if !sessions.contains_key(id) {
            sessions.retain(|_, session| session.strong_count() > 0);
            sessions.insert(id.to_owned(), Arc::downgrade(session));
        }
    }

    /// The client has deleted its session.
    pub(super) fn end(&self, id: &str) {
        let session = lock(&self.0).remove(id);
        if let Some(session) = session.and_then(|session| session.upgrade()) {
            session.end();
        }
    }

    /// The client asks for the rest of a stream of events.
    pub(super) fn resume(&self, id: &str) {
        if let Some(session) = lock(&self.0).get(id).and_then(Weak::upgrade) {
            session.resumed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
