//! Collected output with a limit: the head and the tail are kept, the middle is counted.

use std::collections::VecDeque;

use crate::output::Captured;

/// Collects one stream in at most `limit` bytes of memory, and a little more.
pub(super) struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    limit: usize,
    total: u64,
}

impl Capture {
    pub(super) fn new(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { head: Vec::new(), tail: VecDeque::new(), limit, total: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let half = self.limit - self.limit / 2;
        let (head, rest) = bytes.split_at(bytes.len().min(half - self.head.len()));
        self.head.extend_from_slice(head);
        let room = self.limit / 2;
        let rest = &rest[rest.len().saturating_sub(room)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(room);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    pub(super) fn finish(self) -> Captured {
        let Self { head: mut bytes, tail, total, .. } = self;
        let missing = total - (bytes.len() + tail.len()) as u64;
        if missing > 0 {
            let note = format!("\n[openbrain: {missing} bytes omitted]\n");
            bytes.extend_from_slice(note.as_bytes());
        }
        bytes.extend(tail);
        Captured { bytes, truncated: missing > 0, total }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{any, prop_assert, prop_assert_eq, proptest},
    };

    use super::{Capture, Captured};

    fn capture(limit: u64, chunks: &[Vec<u8>]) -> Captured {
        let mut capture = Capture::new(limit);
        chunks.iter().for_each(|chunk| capture.push(chunk));
        capture.finish()
    }

    #[test]
    fn head_and_tail_are_kept() {
        let captured = capture(4, &[b"abc".to_vec(), b"defgh".to_vec()]);
        assert_eq!(captured.bytes, b"ab\n[openbrain: 4 bytes omitted]\ngh");
        assert!(captured.truncated);
        assert_eq!(captured.total, 8);
    }

    proptest! {
        #[test]
        fn up_to_the_limit_nothing_changes(chunks in vec(vec(any::<u8>(), 0..9), 0..9), more in 0u64..5) {
            let all = chunks.concat();
            let captured = capture(all.len() as u64 + more, &chunks);
            prop_assert_eq!(captured, Captured { total: all.len() as u64, truncated: false, bytes: all });
        }

        #[test]
        fn beyond_the_limit_both_ends_survive(chunks in vec(vec(any::<u8>(), 0..9), 1..9), limit in 0u64..20) {
            let all = chunks.concat();
            let captured = capture(limit, &chunks);
            prop_assert_eq!(captured.total, all.len() as u64);
            prop_assert_eq!(captured.truncated, all.len() as u64 > limit);
            let (head, tail) = ((limit - limit / 2) as usize, (limit / 2) as usize);
            if captured.truncated {
                prop_assert!(captured.bytes.starts_with(&all[..head]));
                prop_assert!(captured.bytes.ends_with(&all[all.len() - tail..]));
            }
        }
    }
}
