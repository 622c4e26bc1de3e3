//! Reading `/proc`.

use crate::{AT_FDCWD, sys::number, syscall};

const DIRECTORY_CLOEXEC: usize = 0o2200000;

/// A path with a NUL byte at its end: longer than `/proc/<pid>/task/<tid>/smaps_rollup` ever is.
pub struct Path {
    bytes: [u8; 80],
    length: usize,
}

/// Calls `with` for every entry of a directory that is a number.
pub fn for_each_number(directory: &Path, mut with: impl FnMut(&Path)) {
    let fd = syscall!(number::OPENAT, AT_FDCWD, directory.bytes.as_ptr(), DIRECTORY_CLOEXEC, 0);
    if fd < 0 {
        return;
    }
    let mut entries = [0u64; 512];
    loop {
        let length = syscall!(number::GETDENTS64, fd, entries.as_mut_ptr(), 4096);
        if length <= 0 {
            break;
        }
        // SAFETY: the kernel has filled so many bytes of the buffer, which is plain integers.
        let bytes =
            unsafe { core::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), length as usize) };
        let mut at = 0;
        while at + 19 < bytes.len() {
            let size = u16::from_ne_bytes([bytes[at + 16], bytes[at + 17]]) as usize;
            let name = &bytes[at + 19..(at + size.max(20)).min(bytes.len())];
            if name[0].is_ascii_digit() {
                let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                with(&directory.join(&name[..end]));
            }
            at += size.max(20);
        }
    }
    syscall!(number::CLOSE, fd);
}

/// Reads the beginning of a file in a directory.
pub fn read<'a>(directory: &Path, name: &[u8], buffer: &'a mut [u8]) -> &'a [u8] {
    let path = directory.join(name);
    let fd = syscall!(number::OPENAT, AT_FDCWD, path.bytes.as_ptr(), 0o2000000, 0);
    if fd < 0 {
        return &[];
    }
    let length = syscall!(number::READ, fd, buffer.as_mut_ptr(), buffer.len());
    syscall!(number::CLOSE, fd);
    &buffer[..length.max(0) as usize]
}

/// The first number in a text.
pub fn number_in(text: &[u8]) -> u64 {
    let digits = text.iter().skip_while(|b| !b.is_ascii_digit()).take_while(|b| b.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + (digit - b'0') as u64)
}

impl Path {
    pub fn new(path: &[u8]) -> Self {
        let mut new = Self { bytes: [0; 80], length: 0 };
        new.push(path);
        new
    }

    /// The first number in it.
    pub fn number(&self) -> u64 {
        number_in(&self.bytes[..self.length])
    }

    pub fn join(&self, name: &[u8]) -> Self {
        let mut new = Self { bytes: self.bytes, length: self.length };
        new.push(b"/");
        new.push(name);
        new
    }

    /// Adds what fits; the last byte stays NUL.
    fn push(&mut self, more: &[u8]) {
        for byte in more {
            if self.length < self.bytes.len() - 1 {
                self.bytes[self.length] = *byte;
                self.length += 1;
            }
        }
    }
}
