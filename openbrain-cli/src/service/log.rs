//! The output of a command that is remembered: its beginning and its end, in bounded memory.

use std::{collections::VecDeque, sync::Arc};

use openbrain::{Captured, Record};

/// What a record costs beside its bytes, so that many short ones are bounded too.
const OVERHEAD: u64 = 128;

/// One stream of a command.
#[derive(Debug)]
pub(super) struct Log {
    head: Vec<Entry>,
    tail: VecDeque<Entry>,
    /// What head and tail may cost each.
    half: u64,
    head_cost: u64,
    tail_cost: u64,
    /// How many bytes the stream had so far.
    total: u64,
}

/// A record, and where in its stream its bytes are.
#[derive(Debug)]
struct Entry {
    record: Arc<Record>,
    bytes: Box<[u8]>,
    offset: u64,
}

/// A part of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Where in the stream the bytes begin: later than asked when what was there is dropped.
    pub(crate) offset: u64,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
    /// Where to go on.
    pub(crate) next_offset: u64,
    /// How many bytes the stream had so far.
    pub(crate) total: u64,
    /// Whether the command has ended and the stream with it.
    pub(crate) ended: bool,
}

impl Entry {
    fn cost(&self) -> u64 {
        // The record holds the text of the same bytes.
        2 * self.bytes.len() as u64 + OVERHEAD
    }

    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl Log {
    /// A log that costs at most so many bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            half: limit / 2,
            head_cost: 0,
            tail_cost: 0,
            total: 0,
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// What the log costs now.
    pub(super) fn cost(&self) -> u64 {
        self.head_cost + self.tail_cost
    }

    /// Adds the next record of the stream, in place of the oldest of the tail when there is no room.
    pub(super) fn push(&mut self, record: Arc<Record>, bytes: &[u8]) {
        let entry = Entry { record, bytes: bytes.into(), offset: self.total };
        self.total = entry.end();
        let cost = entry.cost();
        if self.tail.is_empty() && self.head_cost + cost <= self.half {
            self.head_cost += cost;
            self.head.push(entry);
            return;
        }
        self.tail_cost += cost;
        self.tail.push_back(entry);
        self.shorten(self.half);
    }

    /// Drops the oldest of the tail until it costs no more than this, and lets the head grow no
    /// further. The last record stays.
    pub(super) fn trim(&mut self, most: u64) {
        self.half = self.half.min(self.head_cost.max(most));
        self.shorten(most);
    }

    fn shorten(&mut self, most: u64) {
        while self.tail_cost > most && self.tail.len() > 1 {
            if let Some(entry) = self.tail.pop_front() {
                self.tail_cost -= entry.cost();
            }
        }
    }

    /// The first record after this number that is still there.
    pub(super) fn after(&self, seq: u64) -> Option<&Arc<Record>> {
        let is_old = |entry: &Entry| entry.record.seq <= seq;
        let head = self.head.partition_point(is_old);
        let found =
            self.head.get(head).or_else(|| self.tail.get(self.tail.partition_point(is_old)));
        found.map(|entry| &entry.record)
    }

    /// At most `most` bytes from an offset on, or from where there is something after it. They have
    /// no hole.
    pub(super) fn read(&self, offset: u64, most: usize) -> Slice {
        let mut slice = Slice {
            offset: offset.min(self.total),
            bytes: Vec::new(),
            next_offset: offset.min(self.total),
            total: self.total,
            ended: false,
        };
        let is_before = |entry: &Entry| entry.end() <= offset;
        let head = self.head.iter().skip(self.head.partition_point(is_before));
        let tail = self.tail.iter().skip(self.tail.partition_point(is_before));
        for entry in head.chain(tail) {
            if slice.bytes.is_empty() && entry.offset > slice.offset {
                slice.offset = entry.offset;
                slice.next_offset = entry.offset;
            }
            let room = most - slice.bytes.len();
            if entry.offset > slice.next_offset || room == 0 {
                break;
            }
            let rest = &entry.bytes[(slice.next_offset - entry.offset) as usize..];
            slice.bytes.extend_from_slice(&rest[..rest.len().min(room)]);
            slice.next_offset = slice.offset + slice.bytes.len() as u64;
        }
        slice
    }

    /// Everything that is there, as the library collects a stream.
    pub(super) fn captured(&self) -> Captured {
        let mut bytes: Vec<u8> = Vec::new();
        self.head.iter().for_each(|entry| bytes.extend_from_slice(&entry.bytes));
        let resumed = self.tail.front().map_or(self.total, |entry| entry.offset);
        let missing = resumed - bytes.len() as u64;
        if missing > 0 {
            let note = format!("\n[openbrain: {missing} bytes omitted]\n");
            bytes.extend_from_slice(note.as_bytes());
        }
        self.tail.iter().for_each(|entry| bytes.extend_from_slice(&entry.bytes));
        Captured { bytes, truncated: missing > 0, total: self.total }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use openbrain::{Data, Record, RecordKind};

    use super::{Log, OVERHEAD};

    /// A log with ten records of ten bytes, of which two fit in the head and two in the tail.
    fn log() -> Log {
        let mut log = Log::new(4 * (20 + OVERHEAD));
        for seq in 1..=10 {
            let text = format!("{seq:010}");
            let kind = RecordKind::Stdout(Data::Data(text.clone()));
            let record = Record { seq, time: String::new(), kind };
            log.push(Arc::new(record), text.as_bytes());
        }
        log
    }

    #[test]
    fn head_and_tail_stay() {
        let captured = log().captured();
        let expected = "00000000010000000002\n[openbrain: 60 bytes omitted]\n00000000090000000010";
        assert_eq!(String::from_utf8(captured.bytes).unwrap(), expected);
        assert_eq!((captured.truncated, captured.total), (true, 100));
    }

    #[test]
    fn reading_never_joins_across_a_hole() {
        let log = log();
        let first = log.read(5, 1000);
        assert_eq!((first.offset, first.next_offset, first.bytes.len()), (5, 20, 15));
        let second = log.read(first.next_offset, 12);
        assert_eq!((second.offset, second.next_offset, second.bytes.len()), (80, 92, 12));
        let third = log.read(second.next_offset, 1000);
        assert_eq!(
            (third.offset, third.next_offset, &third.bytes[..]),
            (92, 100, &b"00000010"[..])
        );
        let end = log.read(100, 10);
        assert_eq!((end.offset, end.next_offset, end.bytes.len()), (100, 100, 0));
        assert_eq!(log.read(u64::MAX, 10).offset, 100);
    }

    #[test]
    fn records_are_found_by_number() {
        let log = log();
        let after = |seq| log.after(seq).map(|record| record.seq);
        assert_eq!([after(0), after(1), after(2), after(9)], [Some(1), Some(2), Some(9), Some(10)]);
        assert_eq!(after(10), None);
    }

    #[test]
    fn a_trimmed_log_keeps_its_last_record() {
        let mut log = log();
        log.trim(0);
        assert_eq!(log.after(2).map(|record| record.seq), Some(10));
        assert_eq!(log.cost(), 3 * (20 + OVERHEAD));
    }
}
