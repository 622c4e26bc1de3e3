//! Waiting for something that a command says, without taking it away from whoever reads.

use std::{collections::VecDeque, future::poll_fn};

use super::{CHUNK, Process, Step, Stream};
use crate::error::{Error, ErrorKind, Result};

/// The most that is held for whoever reads afterwards.
const MOST_HELD: usize = 8 << 20;

/// The longest text that is looked for.
const LONGEST: usize = 4096;

impl Process {
    /// Waits until the command has said something: until these bytes are in its standard output or in
    /// its standard error, in one piece. False when both have ended before.
    ///
    /// What was read meanwhile is not lost: events and the result have it afterwards. A further call
    /// goes on behind what the last one has found. To wait for a limited time, wrap it in
    /// `tokio::time::timeout`; nothing is lost then either.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// use openbrain::Exec;
    ///
    /// let mut server = Exec::new("python3 -um http.server 8000").sandbox().spawn().await?;
    /// if !server.wait_for_output("Serving HTTP").await? {
    ///     println!("{}", server.wait().await?.stderr_text());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `wait_failed` when the command has said 8 MiB that nobody has read; `invalid_request` for
    /// nothing, and for more than 4096 bytes; when the backend lost the command.
    #[doc(alias = "wait_for_log")]
    pub async fn wait_for_output(&mut self, text: impl AsRef<[u8]>) -> Result<bool> {
        let mut search = [Search::new(text.as_ref())?, Search::new(text.as_ref())?];
        if self.held.find(&mut search) {
            return Ok(true);
        }
        while !self.held.is_full() {
            if self.is_over() {
                return Ok(false);
            }
            match poll_fn(|cx| self.poll_new(cx)).await? {
                Step::Read(stream, n) => self.held.push(stream, &self.buffer[..n]),
                // The result is still to be had.
                Step::Ended => return Ok(false),
            }
            if self.held.find_in_last(&mut search) {
                return Ok(true);
            }
        }
        let mebibytes = MOST_HELD >> 20;
        let what = format!("the command said {mebibytes} MiB of something else");
        Err(Error::new(ErrorKind::WaitFailed, what)
            .with_remedy("read its events, which are not held then"))
    }
}

/// Pieces of output that were looked at and are still to be delivered.
#[derive(Debug, Default)]
pub(super) struct Held {
    pieces: VecDeque<(Stream, Vec<u8>)>,
    /// How many bytes these are, of each stream.
    bytes: [usize; 2],
    /// How many of each stream were found already: what is looked for next begins behind them.
    passed: [usize; 2],
}

impl Held {
    fn push(&mut self, stream: Stream, bytes: &[u8]) {
        self.bytes[stream as usize] += bytes.len();
        // A command that says little at a time costs no more than one that says much.
        match self.pieces.back_mut() {
            Some((last, piece)) if *last == stream && piece.len() + bytes.len() <= CHUNK => {
                piece.extend_from_slice(bytes);
            }
            _ => self.pieces.push_back((stream, bytes.to_vec())),
        }
    }

    /// Moves the first piece to the front of a buffer that is long enough for any.
    pub(super) fn deliver(&mut self, buffer: &mut [u8]) -> Option<(Stream, usize)> {
        let (stream, piece) = self.pieces.pop_front()?;
        buffer[..piece.len()].copy_from_slice(&piece);
        self.bytes[stream as usize] -= piece.len();
        let passed = &mut self.passed[stream as usize];
        *passed = passed.saturating_sub(piece.len());
        Some((stream, piece.len()))
    }

    /// Looks through everything that was not passed.
    fn find(&mut self, search: &mut [Search<'_>; 2]) -> bool {
        let mut before = [0; 2];
        self.pieces.iter().any(|(stream, piece)| {
            let index = *stream as usize;
            let found = search[index].look(piece, before[index], &mut self.passed[index]);
            before[index] += piece.len();
            found
        })
    }

    /// Looks through what is new in the last piece.
    fn find_in_last(&mut self, search: &mut [Search<'_>; 2]) -> bool {
        let Some((stream, piece)) = self.pieces.back() else { return false };
        let index = *stream as usize;
        let before = self.bytes[index] - piece.len();
        search[index].look(piece, before, &mut self.passed[index])
    }

    /// Whether so much is held that nobody waits any longer; a piece costs memory itself.
    fn is_full(&self) -> bool {
        self.bytes.iter().sum::<usize>() + self.pieces.len() * 64 >= MOST_HELD
    }
}

/// A search for a text in pieces that arrive one by one, in linear time (Knuth, Morris and Pratt).
pub(crate) struct Search<'a> {
    text: &'a [u8],
    /// For each length that fits: how much of it still fits when the next byte does not.
    fallback: Vec<usize>,
    /// How much of the text the end of what was seen has.
    fits: usize,
    /// How many bytes were seen.
    seen: usize,
}

impl<'a> Search<'a> {
    /// A search for 1 to 4096 bytes.
    pub(crate) fn new(text: &'a [u8]) -> Result<Self> {
        if text.is_empty() || text.len() > LONGEST {
            return Err(Error::invalid(format!("{} bytes cannot be waited for", text.len()))
                .with_remedy(format!("wait for 1 to {LONGEST} bytes")));
        }
        let mut search = Self { text, fallback: vec![0], fits: 0, seen: 0 };
        for byte in &text[1..] {
            search.advance(*byte);
            search.fallback.push(search.fits);
        }
        search.fits = 0;
        Ok(search)
    }

    fn advance(&mut self, byte: u8) {
        while self.fits > 0 && self.text[self.fits] != byte {
            self.fits = self.fallback[self.fits - 1];
        }
        self.fits += usize::from(self.text[self.fits] == byte);
    }

    /// Looks through what is new in a piece with so many bytes of its stream before it, behind what
    /// was `passed`, which a find moves on.
    fn look(&mut self, piece: &[u8], before: usize, passed: &mut usize) -> bool {
        let from = self.seen.max(*passed).saturating_sub(before).min(piece.len());
        self.seen = before + piece.len();
        let found = self.find(&piece[from..]);
        if let Some(end) = found {
            *passed = before + from + end;
        }
        found.is_some()
    }

    /// What comes next does not follow what came before.
    pub(crate) fn begin_anew(&mut self) {
        self.fits = 0;
    }

    /// Where the text ends in these bytes, when it does.
    pub(crate) fn find(&mut self, piece: &[u8]) -> Option<usize> {
        for (at, byte) in piece.iter().enumerate() {
            self.advance(*byte);
            if self.fits == self.text.len() {
                return Some(at + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{any, prop_assert_eq, proptest},
    };

    use super::{Held, Search, Stream};

    fn search(text: &[u8]) -> [Search<'_>; 2] {
        [Search::new(text).unwrap(), Search::new(text).unwrap()]
    }

    #[test]
    fn what_was_found_is_not_found_again() {
        let mut held = Held::default();
        held.push(Stream::Stdout, b"aba");
        held.push(Stream::Stderr, b"b");
        held.push(Stream::Stdout, b"ba");
        let mut found = 0;
        while held.find(&mut search(b"ab")) {
            found += 1;
        }
        assert_eq!(found, 2);
        // What was delivered is not looked at any more.
        let mut buffer = [0; 8];
        assert_eq!(held.deliver(&mut buffer), Some((Stream::Stdout, 3)));
        assert_eq!(&buffer[..3], b"aba");
        assert_eq!(held.passed, [1, 0]);
        assert!(held.find(&mut search(b"a")));
        assert!(!held.find(&mut search(b"a")));
    }

    proptest! {
        #[test]
        fn a_text_is_found_in_any_pieces(
            text in vec(0u8..3, 1..5),
            pieces in vec((any::<bool>(), vec(0u8..3, 0..6)), 0..12),
        ) {
            let (mut held, mut last) = (Held::default(), search(&text));
            let (mut all, mut at_once) = ([Vec::new(), Vec::new()], false);
            for (is_error, piece) in &pieces {
                let stream = if *is_error { Stream::Stderr } else { Stream::Stdout };
                all[stream as usize].extend_from_slice(piece);
                held.push(stream, piece);
                at_once = at_once || held.find_in_last(&mut last);
            }
            let expected = all.iter().any(|all| all.windows(text.len()).any(|part| part == text));
            prop_assert_eq!(at_once, expected);
            held.passed = [0; 2];
            prop_assert_eq!(held.find(&mut search(&text)), expected);
        }
    }
}
