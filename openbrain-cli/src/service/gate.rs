//! How many commands run at once, and how many requests wait for that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::Refusal;

/// How long a request waits for its turn. Clients that wait longer are better told.
const PATIENCE: Duration = Duration::from_secs(30);

/// When a refused request may be tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A bounded number of places, and a bounded queue before them.
#[derive(Debug)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    size: u32,
    waiting: AtomicUsize,
    queue: usize,
}

/// Somebody in the queue; leaves it when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Gate {
    pub(super) fn new(places: u32, queue: u32) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places as usize)),
            size: places,
            waiting: AtomicUsize::new(0),
            queue: queue as usize,
        }
    }

    /// How many requests wait now.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a place, which is free again when the permit is dropped.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(permit);
        }
        let busy = || Refusal::Busy { retry_after: RETRY_AFTER };
        let _waiting = self.queue_up().ok_or_else(busy)?;
        let place = Arc::clone(&self.places).acquire_owned();
        // A closed semaphore is the same to the caller as one without a free place.
        timeout(PATIENCE, place).await.ok().and_then(Result::ok).ok_or_else(busy)
    }

    /// Waits until every place is free.
    pub(super) async fn none(&self) {
        let _all = self.places.acquire_many(self.size).await;
    }

    fn queue_up(&self) -> Option<Waiting<'_>> {
        let room = |waiting: usize| (waiting < self.queue).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        Some(Waiting(&self.waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{Gate, Refusal};

    #[tokio::test]
    async fn who_finds_no_room_in_the_queue_is_sent_away() {
        let gate = Gate::new(1, 1);
        let first = gate.enter().await.unwrap();
        let mut second = Box::pin(gate.enter());
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(gate.waiting(), 1);
        assert!(matches!(gate.enter().await, Err(Refusal::Busy { .. })));
        drop(first);
        assert!(second.await.is_ok());
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test]
    async fn who_leaves_the_queue_makes_room() {
        let gate = Gate::new(1, 1);
        let _first = gate.enter().await.unwrap();
        let mut second = Box::pin(gate.enter());
        assert!(second.as_mut().now_or_never().is_none());
        drop(second);
        assert_eq!(gate.waiting(), 0);
    }
}
