//! Standard input of a bridged command.

use crate::{
    EAGAIN, EINTR,
    bridge::{CHUNK, CLOEXEC, NAME, NONE, close, remove, text::print},
    sys::number,
    syscall,
    wire::bridge,
};

/// Standard input that arrives in pieces.
pub struct Input {
    /// The write end, until the input has ended.
    pub writer: i32,
    /// Lengths of the pieces that are there, by their number.
    lengths: [u64; bridge::PIECES],
    pub arrived: u64,
    pub taken: u64,
    /// After so many pieces the input ends.
    pub end: u64,
    /// The piece that is being written, and how much of it is left in the file.
    pub piece: i32,
    name: [u8; NAME],
    left: u64,
    /// What was read of it and not yet written: a part of the buffer.
    buffer: &'static mut [u8; CHUNK],
    from: usize,
    to: usize,
    last: u8,
    is_terminal: bool,
}

/// What came of an attempt to write.
pub enum Written {
    More,
    /// The reader has enough for now.
    Full,
    /// A whole piece was written.
    Piece,
    /// There is no reader any more, or nothing to write.
    Closed,
}

impl Input {
    pub fn new(writer: i32, buffer: &'static mut [u8; CHUNK], is_terminal: bool) -> Self {
        Self {
            writer,
            lengths: [0; bridge::PIECES],
            arrived: 0,
            taken: 0,
            end: u64::MAX,
            piece: NONE,
            name: [0; NAME],
            left: 0,
            buffer,
            from: 0,
            to: 0,
            last: b'\n',
            is_terminal,
        }
    }

    /// Notes a piece. A file may be told of more than once.
    pub fn announce(&mut self, number: u64, length: u64) {
        if number == self.arrived && number < self.taken + bridge::PIECES as u64 {
            self.lengths[number as usize % bridge::PIECES] = length;
            self.arrived += 1;
        }
    }

    pub fn has_something(&self) -> bool {
        self.writer != NONE
            && (self.piece != NONE || self.taken < self.arrived || self.taken >= self.end)
    }

    pub fn open(&mut self, directory: i32) {
        let length = self.lengths[self.taken as usize % bridge::PIECES];
        let mut name = [0u8; NAME];
        name[0] = bridge::PIECE;
        let dot = 1 + print(self.taken, &mut name[1..]);
        name[dot] = b'.';
        print(length, &mut name[dot + 1..]);
        self.piece = syscall!(number::OPENAT, directory, name.as_ptr(), CLOEXEC, 0) as i32;
        if self.taken > 0 {
            remove(directory, &self.name);
        }
        self.name = name;
        self.left = length;
    }

    /// Writes the next part of the piece.
    pub fn write(&mut self) -> Written {
        if self.from == self.to {
            let wanted = self.left.min(CHUNK as u64);
            let read = if self.left == 0 {
                0
            } else {
                syscall!(number::READ, self.piece, self.buffer.as_mut_ptr(), wanted)
            };
            if read <= 0 {
                close(self.piece);
                self.piece = NONE;
                self.taken += 1;
                return Written::Piece;
            }
            self.left -= read as u64;
            (self.from, self.to) = (0, read as usize);
        }
        let part = &self.buffer[self.from..self.to];
        match syscall!(number::WRITE, self.writer, part.as_ptr(), part.len()) {
            written if written > 0 => {
                self.from += written as usize;
                self.last = self.buffer[self.from - 1];
                Written::More
            }
            EINTR => Written::More,
            EAGAIN => Written::Full,
            _ => Written::Closed,
        }
    }

    /// Ends the input. A terminal has no end of its own: the character that stands for it is
    /// typed, twice within a line, which it only completes the first time.
    pub fn finish(&mut self) -> Written {
        const END_OF_INPUT: u8 = 4;
        if self.is_terminal {
            let typed = [END_OF_INPUT; 2];
            let count = if self.last == b'\n' { 1 } else { 2 };
            match syscall!(number::WRITE, self.writer, typed.as_ptr(), count) {
                EAGAIN => return Written::Full,
                1 if count == 2 => {
                    self.last = b'\n';
                    return Written::More;
                }
                _ => {}
            }
        }
        Written::Closed
    }

    /// Nothing is written any more.
    pub fn stop(&mut self) {
        if !self.is_terminal {
            close(self.writer);
        }
        close(self.piece);
        (self.writer, self.piece) = (NONE, NONE);
    }
}
