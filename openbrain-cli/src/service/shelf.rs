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
use tokio::time::{Instant, sleep_until};

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
    ended: VecDeque<(Instant, String)>,
    /// Whether somebody waits for the time of the oldest.
    is_swept: bool,
}

impl Shelf {
    pub(super) fn new(most: u64, keep: Duration) -> Self {
        Self { books: Mutex::default(), used: AtomicU64::new(0), most, keep }
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
        let is_theirs = |kept: &&Arc<Kept>| kept.caller() == caller;
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

    /// A command has ended: it is forgotten when its time is over, or earlier.
    pub(super) fn ended(self: &Arc<Self>, exec_id: String) {
        let mut books = self.books();
        books.ended.push_back((Instant::now(), exec_id));
        let too_many = books.ended.len() > MOST_ENDED;
        let is_swept = std::mem::replace(&mut books.is_swept, true);
        drop(books);
        if too_many {
            self.forget_oldest();
        }
        if !is_swept {
            tokio::spawn(Arc::clone(self).sweep());
        }
    }

    /// Forgets commands when their time is over, until there is none that has ended. One task does it
    /// for all of them.
    async fn sweep(self: Arc<Self>) {
        while let Some(next) = self.forget_due() {
            sleep_until(next).await;
        }
    }

    /// Forgets those whose time is over; tells when that of the next one is.
    fn forget_due(&self) -> Option<Instant> {
        loop {
            let mut books = self.books();
            let Some((ended, _)) = books.ended.front() else {
                books.is_swept = false;
                return None;
            };
            let due = *ended + self.keep;
            if due > Instant::now() {
                return Some(due);
            }
            drop(books);
            self.forget_oldest();
        }
    }

    /// Forgets the one that ended first; false when there is none.
    fn forget_oldest(&self) -> bool {
        let mut books = self.books();
        let Some((_, exec_id)) = books.ended.pop_front() else { return false };
        let kept = books.all.remove(&exec_id);
        drop(books);
        if let Some(kept) = kept {
            self.used.fetch_sub(kept.cost(), Ordering::Relaxed);
        }
        true
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Duration, Instant, Shelf};

    /// One task waits, however many commands have ended, and none when there is nothing to forget.
    #[tokio::test(start_paused = true)]
    async fn what_has_ended_is_forgotten_in_time_by_one_task() {
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let (shelf, before) = (Arc::new(Shelf::new(1, Duration::from_secs(60))), tasks());
        for number in 0..super::MOST_ENDED + 500 {
            shelf.ended(number.to_string());
        }
        assert_eq!(shelf.books().ended.len(), super::MOST_ENDED);
        assert_eq!(tasks(), before + 1);
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(30)).await;
        shelf.ended("late".into());
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert_eq!(shelf.books().ended.len(), 1);
        while tasks() > before {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(shelf.books().ended.is_empty());
        assert!((90..92).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        shelf.ended("again".into());
        assert_eq!(tasks(), before + 1);
    }
}
