//! The memory watch: the fallback where no cgroup limits the sandbox.

use crate::{sys::number, syscall};

const AT_FDCWD: usize = -100isize as usize;
const DIRECTORY_CLOEXEC: usize = 0o2200000;

/// A path with a NUL byte at its end: longer than `/proc/<pid>/task/<tid>/smaps_rollup` ever is.
struct Path {
    bytes: [u8; 80],
    length: usize,
}

/// Whether the processes in `/proc`, which inside a sandbox are its own, use more than `limit` bytes.
///
/// The first sum is the cheapest and the highest: it counts files, and a page that several processes
/// share once for each. Only when it is above the limit, the next one is taken, and at last the exact
/// proportional sizes, which take the kernel longest.
pub fn exceeds(limit: u64, page_size: u64) -> bool {
    sum(resident_pages) * page_size > limit
        && sum(without_files) > limit
        && sum(proportional_size) > limit
}

/// Sums `measure` over all processes.
fn sum(measure: fn(&Path) -> u64) -> u64 {
    let mut total = 0;
    for_each_number(&Path::new(b"/proc"), |process| {
        total += match measure(process) {
            0 => of_threads(process, measure),
            size => size,
        };
    });
    total
}

/// What the other threads say of a process whose first thread has ended: they keep its memory, and
/// its own files say nothing any more.
fn of_threads(process: &Path, measure: fn(&Path) -> u64) -> u64 {
    let mut most = 0;
    for_each_number(&process.join(b"task"), |thread| most = most.max(measure(thread)));
    most
}

/// Calls `with` for every entry of a directory that is a number.
fn for_each_number(directory: &Path, mut with: impl FnMut(&Path)) {
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

/// Resident pages, from `statm`.
fn resident_pages(process: &Path) -> u64 {
    let mut buffer = [0u8; 128];
    let text = read(process, b"statm", &mut buffer);
    text.split(|b| *b == b' ').nth(1).map_or(0, number_in)
}

/// What is resident and no file backs, from `status`, in bytes.
fn without_files(process: &Path) -> u64 {
    let mut buffer = [0u8; 4096];
    fields(read(process, b"status", &mut buffer), [b"RssAnon:", b"RssShmem:"])
}

/// The proportional set size that no file backs, from `smaps_rollup`, in bytes. A process that has
/// closed itself to others (`PR_SET_DUMPABLE`) is counted in full.
fn proportional_size(process: &Path) -> u64 {
    let mut buffer = [0u8; 1024];
    match read(process, b"smaps_rollup", &mut buffer) {
        [] => without_files(process),
        text => fields(text, [b"Pss_Anon:", b"Pss_Shmem:"]),
    }
}

/// The sum of lines in kibibytes, in bytes.
fn fields<const N: usize>(text: &[u8], names: [&[u8]; N]) -> u64 {
    let lines = text.split(|b| *b == b'\n');
    let found = lines.filter(|line| names.iter().any(|name| line.starts_with(name)));
    found.map(|line| number_in(line) * 1024).sum()
}

/// Reads the beginning of a file in a directory.
fn read<'a>(directory: &Path, name: &[u8], buffer: &'a mut [u8]) -> &'a [u8] {
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
fn number_in(text: &[u8]) -> u64 {
    let digits = text.iter().skip_while(|b| !b.is_ascii_digit()).take_while(|b| b.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + (digit - b'0') as u64)
}

impl Path {
    fn new(path: &[u8]) -> Self {
        let mut new = Self { bytes: [0; 80], length: 0 };
        new.push(path);
        new
    }

    fn join(&self, name: &[u8]) -> Self {
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
