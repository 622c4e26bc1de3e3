//! The commands that are remembered: found by name, and no more of them than there is memory for.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openbrain::Caller;

use super::kept::Kept;

/// How many commands are remembered that have ended.
const MOST_ENDED: usize = 1000;

/// The commands that are remembered.
#[derive(Debug)]
pub(super) struct Shelf {
    books: Mutex<Books>,
    /// What their output costs, and may cost.
    used: AtomicU64,
    most: u64,
    keep: Duration,
}

#[derive(Debug, Default)]
struct Books {
    all: HashMap<String, Arc<Kept>>,
    /// Those that have ended, the oldest end first.
    ended: VecDeque<String>,
}

impl Shelf {
    pub(super) fn new(most: u64, keep: Duration) -> Self {
        Self { books: Mutex::default(), used: AtomicU64::new(0), most, keep }
    }

    /// How long a command that has ended is remembered.
    pub(super) fn keep(&self) -> Duration {
        self.keep
    }

    /// What the output of all costs.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn put(&self, kept: &Arc<Kept>) {
        self.books().all.insert(kept.exec_id().to_owned(), Arc::clone(kept));
    }

    pub(super) fn find(&self, exec_id: &str) -> Option<Arc<Kept>> {
        self.books().all.get(exec_id).cloned()
    }

    pub(super) fn of(&self, caller: &Caller) -> Vec<Arc<Kept>> {
        let is_theirs = |kept: &&Arc<Kept>| kept.caller().name == caller.name;
        let mut found: Vec<_> = self.books().all.values().filter(is_theirs).cloned().collect();
        found.sort_by_key(|kept| std::cmp::Reverse(kept.started_at()));
        found
    }

    /// The output of a command costs so much more, or less. Makes room: by forgetting those that
    /// have ended, the oldest first. False when that is not enough.
    pub(super) fn grow(&self, change: i64) -> bool {
        self.used.fetch_add(change as u64, Ordering::Relaxed);
        while self.used() > self.most {
            if !self.forget_oldest() {
                return false;
            }
        }
        true
    }

    /// A command has ended.
    pub(super) fn ended(&self, exec_id: &str) {
        let mut books = self.books();
        books.ended.push_back(exec_id.to_owned());
        let too_many = books.ended.len() > MOST_ENDED;
        drop(books);
        if too_many {
            self.forget_oldest();
        }
    }

    pub(super) fn forget(&self, exec_id: &str) {
        let mut books = self.books();
        books.ended.retain(|ended| ended != exec_id);
        if let Some(kept) = books.all.remove(exec_id) {
            self.used.fetch_sub(kept.cost(), Ordering::Relaxed);
        }
    }

    fn forget_oldest(&self) -> bool {
        let oldest = self.books().ended.front().cloned();
        oldest.inspect(|exec_id| self.forget(exec_id)).is_some()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
