//! Collected output with a limit: the head and the tail are kept, the middle is counted.

use std::collections::VecDeque;

use crate::output::Captured;

/// Collects one stream in at most `limit` bytes of memory, and a little more.
#[derive(Clone)]
pub(crate) struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    limit: usize,
    total: u64,
}

impl Capture {
    pub(crate) fn new(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { head: Vec::new(), tail: VecDeque::new(), limit, total: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
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

    /// How many bytes there were.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// How many bytes are kept.
    pub(crate) fn size(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// At most `most` bytes from an offset on, or from where there is something after it, and where
    /// they begin. They have no hole.
    pub(crate) fn read(&self, offset: u64, most: usize) -> (u64, Vec<u8>) {
        let head = self.head.len() as u64;
        if offset < head {
            let rest = &self.head[offset as usize..];
            return (offset, rest[..rest.len().min(most)].to_vec());
        }
        let first = self.total - self.tail.len() as u64;
        let offset = offset.clamp(first, self.total);
        let rest = self.tail.range((offset - first) as usize..);
        (offset, rest.take(most).copied().collect())
    }

    pub(crate) fn finish(self) -> Captured {
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

    #[test]
    fn reading_never_joins_across_a_hole() {
        let mut capture = Capture::new(8);
        capture.push(b"0123456789abcdef");
        for (offset, most, expected) in [
            (0, 100, (0, &b"0123"[..])),
            (1, 2, (1, b"12")),
            (4, 100, (12, b"cdef")),
            (13, 2, (13, b"de")),
            (16, 100, (16, b"")),
            (u64::MAX, 100, (16, b"")),
        ] {
            assert_eq!(capture.read(offset, most), (expected.0, expected.1.to_vec()), "{offset}");
        }
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
