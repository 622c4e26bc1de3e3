//! What is kept ready of which shape, without making any of it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long something stays ready, and how long a shape that nobody asks for is kept.
pub(super) const AGE: Duration = Duration::from_secs(5 * 60);
/// How many shapes are known. Of several, one that was asked for a single time goes first.
const MOST_SHAPES: usize = 8;
/// How many things are ready, of all shapes together.
const MOST_READY: usize = 64;
/// Time after a failure until the next attempt; it doubles up to the longest.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Things that are ready, by their shape.
#[derive(Debug)]
pub(super) struct Shelves<S, T> {
    /// How many are wanted of a shape.
    size: usize,
    /// The shape that was used last is the last one.
    shelves: Vec<Shelf<S, T>>,
}

#[derive(Debug)]
struct Shelf<S, T> {
    shape: S,
    used: Instant,
    /// Whether some are to be kept ready.
    is_wanted: bool,
    /// The oldest first.
    ready: VecDeque<(T, Instant)>,
    trouble: Option<Trouble>,
}

/// The last attempt has failed.
#[derive(Debug)]
struct Trouble {
    what: String,
    delay: Duration,
    again: Instant,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<S> {
    /// Make one of this shape.
    Make(S),
    /// Wait until then, or until something is asked for or taken.
    Wait(Instant),
}

impl<S: Clone + PartialEq, T> Shelves<S, T> {
    pub(super) fn new(size: usize) -> Self {
        Self { size, shelves: Vec::new() }
    }

    /// Notes that a shape is asked for. One that is asked for a second time is wanted from then on.
    /// Returns what has to go for it.
    pub(super) fn ask(&mut self, shape: &S, now: Instant) -> Vec<T> {
        self.touch(shape, now, false)
    }

    /// Notes that a shape is wanted.
    pub(super) fn want(&mut self, shape: &S, now: Instant) -> Vec<T> {
        self.touch(shape, now, true)
    }

    fn touch(&mut self, shape: &S, now: Instant, is_wanted: bool) -> Vec<T> {
        if let Some(at) = self.shelves.iter().position(|shelf| shelf.shape == *shape) {
            let shelf = self.shelves.remove(at);
            self.shelves.push(Shelf { used: now, is_wanted: true, ..shelf });
            return Vec::new();
        }
        let gone = match self.shelves.iter().position(|shelf| !shelf.is_wanted) {
            _ if self.shelves.len() < MOST_SHAPES => Vec::new(),
            once => self.shelves.remove(once.unwrap_or(0)).contents(),
        };
        let (shape, ready) = (shape.clone(), VecDeque::new());
        self.shelves.push(Shelf { shape, used: now, is_wanted, ready, trouble: None });
        gone
    }

    /// Takes the oldest that is ready.
    pub(super) fn take(&mut self, shape: &S) -> Option<T> {
        self.shelf(shape)?.ready.pop_front().map(|(thing, _)| thing)
    }

    /// Why nothing is ready, when that is known.
    pub(super) fn trouble(&mut self, shape: &S) -> Option<&str> {
        self.shelf(shape)?.trouble.as_ref().map(|trouble| trouble.what.as_str())
    }

    /// Whether some of a shape are missing.
    pub(super) fn lacks(&mut self, shape: &S) -> bool {
        let has_room = self.has_room();
        let size = self.size;
        has_room && self.shelf(shape).is_some_and(|shelf| shelf.lacks(size))
    }

    /// Keeps what was made; gives back what finds no place.
    pub(super) fn put(&mut self, shape: &S, thing: T, now: Instant) -> Option<T> {
        if !self.lacks(shape) {
            return Some(thing);
        }
        let shelf = self.shelf(shape)?;
        shelf.trouble = None;
        shelf.ready.push_back((thing, now));
        None
    }

    /// Notes that one could not be made.
    pub(super) fn failed(&mut self, shape: &S, what: String, now: Instant) {
        let Some(shelf) = self.shelf(shape) else { return };
        let delay = shelf.trouble.as_ref().map_or(FIRST_DELAY, |trouble| trouble.delay * 2);
        let delay = delay.min(LONGEST_DELAY);
        shelf.trouble = Some(Trouble { what, delay, again: now + delay });
    }

    /// What is to be done, and what is too old.
    pub(super) fn next(&mut self, now: Instant) -> (Next<S>, Vec<T>) {
        let mut old = Vec::new();
        for shelf in self.shelves.extract_if(.., |shelf| shelf.used + AGE <= now) {
            old.extend(shelf.contents());
        }
        for shelf in &mut self.shelves {
            let young = shelf.ready.partition_point(|(_, made)| *made + AGE <= now);
            old.extend(shelf.ready.drain(..young).map(|(thing, _)| thing));
        }
        let size = self.size;
        let mut lacking = self.shelves.iter().rev().filter(|shelf| shelf.lacks(size));
        let is_due = |shelf: &&Shelf<S, T>| shelf.trouble.as_ref().is_none_or(|t| t.again <= now);
        let next = match lacking.find(is_due) {
            Some(shelf) if self.has_room() => Next::Make(shelf.shape.clone()),
            _ => {
                let times = self.shelves.iter().flat_map(Shelf::times).filter(|at| *at > now);
                Next::Wait(times.min().unwrap_or(now + AGE))
            }
        };
        (next, old)
    }

    /// Takes everything away.
    pub(super) fn clear(&mut self) -> Vec<T> {
        self.shelves.drain(..).flat_map(Shelf::contents).collect()
    }

    fn shelf(&mut self, shape: &S) -> Option<&mut Shelf<S, T>> {
        self.shelves.iter_mut().find(|shelf| shelf.shape == *shape)
    }

    fn has_room(&self) -> bool {
        self.shelves.iter().map(|shelf| shelf.ready.len()).sum::<usize>() < MOST_READY
    }
}

impl<S, T> Shelf<S, T> {
    fn lacks(&self, size: usize) -> bool {
        self.is_wanted && self.ready.len() < size
    }

    fn contents(self) -> Vec<T> {
        self.ready.into_iter().map(|(thing, _)| thing).collect()
    }

    /// When something is to be done about it.
    fn times(&self) -> impl Iterator<Item = Instant> {
        let oldest = self.ready.front().map(|(_, made)| *made + AGE);
        let again = self.trouble.as_ref().map(|trouble| trouble.again);
        oldest.into_iter().chain(again).chain([self.used + AGE])
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{AGE, FIRST_DELAY, LONGEST_DELAY, MOST_READY, MOST_SHAPES, Next, Shelves};

    const SECOND: Duration = Duration::from_secs(1);

    /// Makes whatever is to be made at this moment; returns how many, and what went.
    fn fill(shelves: &mut Shelves<char, u32>, now: Instant) -> (u32, Vec<u32>) {
        let (mut made, mut gone) = (0, Vec::new());
        loop {
            let (next, old) = shelves.next(now);
            gone.extend(old);
            match next {
                Next::Make(shape) => assert_eq!(shelves.put(&shape, made, now), None),
                Next::Wait(until) => {
                    assert!(until > now);
                    return (made, gone);
                }
            }
            made += 1;
        }
    }

    #[test]
    fn the_second_request_for_a_shape_has_some_made() {
        let (mut shelves, now) = (Shelves::new(2), Instant::now());
        shelves.ask(&'a', now);
        assert_eq!(fill(&mut shelves, now).0, 0);
        shelves.ask(&'a', now);
        assert_eq!(fill(&mut shelves, now).0, 2);
        assert_eq!([(); 3].map(|()| shelves.take(&'a')), [Some(0), Some(1), None]);
        assert_eq!(shelves.take(&'b'), None);
        assert_eq!(fill(&mut shelves, now).0, 2);
    }

    #[test]
    fn what_was_not_asked_for_any_more_is_given_back() {
        let (mut shelves, now) = (Shelves::new(1), Instant::now());
        assert_eq!(shelves.put(&'a', 7, now), Some(7));
        shelves.want(&'a', now);
        assert_eq!(shelves.put(&'a', 7, now), None);
        assert_eq!(shelves.put(&'a', 8, now), Some(8));
    }

    #[test]
    fn an_old_one_is_replaced_while_its_shape_is_in_use() {
        let (mut shelves, start) = (Shelves::new(1), Instant::now());
        shelves.want(&'a', start);
        assert_eq!(fill(&mut shelves, start).0, 1);
        assert_eq!(shelves.next(start + SECOND).0, Next::Wait(start + AGE));
        shelves.ask(&'a', start + SECOND);
        assert_eq!(fill(&mut shelves, start + AGE), (1, vec![0]));
        assert_eq!(fill(&mut shelves, start + AGE + SECOND), (0, vec![0]));
        shelves.ask(&'a', start + AGE + SECOND);
        assert_eq!(fill(&mut shelves, start + AGE + SECOND).0, 0, "it was forgotten");
    }

    #[test]
    fn shapes_that_were_asked_for_once_go_first() {
        let (mut shelves, now) = (Shelves::new(1), Instant::now());
        shelves.want(&'a', now);
        assert_eq!(fill(&mut shelves, now).0, 1);
        for once in ('b'..='z').take(3 * MOST_SHAPES) {
            assert!(shelves.ask(&once, now).is_empty());
        }
        let others: Vec<char> = ('A'..='Z').take(MOST_SHAPES).collect();
        let gone = others.iter().flat_map(|other| shelves.want(other, now));
        assert_eq!(gone.collect::<Vec<_>>(), [0], "the one that was used longest ago");
        assert_eq!(shelves.take(&'a'), None);
    }

    #[test]
    fn all_shapes_together_have_a_limit() {
        let (mut shelves, now) = (Shelves::new(MOST_READY - 1), Instant::now());
        shelves.want(&'a', now);
        shelves.want(&'b', now);
        assert_eq!(fill(&mut shelves, now).0 as usize, MOST_READY);
        assert!(!shelves.lacks(&'a'));
        assert_eq!(shelves.clear().len(), MOST_READY);
    }

    #[test]
    fn failures_are_told_and_tried_again_more_and_more_slowly() {
        let (mut shelves, mut now) = (Shelves::<char, u32>::new(1), Instant::now());
        let mut delay = FIRST_DELAY;
        for _ in 0..10 {
            shelves.want(&'a', now);
            assert_eq!(shelves.next(now).0, Next::Make('a'));
            shelves.failed(&'a', "no memory".into(), now);
            assert_eq!(shelves.trouble(&'a'), Some("no memory"));
            assert_eq!(shelves.next(now).0, Next::Wait(now + delay));
            now += delay;
            delay = (delay * 2).min(LONGEST_DELAY);
        }
        assert_eq!(delay, LONGEST_DELAY);
        assert_eq!(shelves.put(&'a', 1, now), None);
        assert_eq!(shelves.trouble(&'a'), None);
    }
}
