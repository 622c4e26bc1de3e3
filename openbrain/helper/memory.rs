//! The memory watch: the fallback where no cgroup limits the sandbox.

use crate::{sys::number, syscall};

const AT_FDCWD: usize = -100isize as usize;
const DIRECTORY_CLOEXEC: usize = 0o2200000;

/// Whether the processes in `/proc`, which inside a sandbox are its own, use more than `limit` bytes.
///
/// The quick sum counts a page that is shared after a `fork` once for each process. Only when that
/// is above the limit, the exact proportional sizes are read, which takes the kernel much longer.
pub fn exceeds(limit: u64, page_size: u64) -> bool {
    sum(private_pages) * page_size > limit && sum(proportional_size) > limit
}

/// Sums `measure` over all processes.
fn sum(measure: fn(&[u8]) -> u64) -> u64 {
    let proc = syscall!(number::OPENAT, AT_FDCWD, c"/proc".as_ptr(), DIRECTORY_CLOEXEC, 0);
    if proc < 0 {
        return 0;
    }
    let mut total = 0;
    let mut entries = [0u64; 512];
    loop {
        let length = syscall!(number::GETDENTS64, proc, entries.as_mut_ptr(), 4096);
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
                total += measure(name);
            }
            at += size.max(20);
        }
    }
    syscall!(number::CLOSE, proc);
    total
}

/// Resident pages that no file backs, from `statm`.
fn private_pages(pid: &[u8]) -> u64 {
    let mut buffer = [0u8; 128];
    let text = read(pid, b"/statm\0", &mut buffer);
    let mut fields = text.split(|b| *b == b' ').map(number_in).skip(1);
    let (resident, shared) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
    resident.saturating_sub(shared)
}

/// The proportional set size that no file backs, from `smaps_rollup`, in bytes.
fn proportional_size(pid: &[u8]) -> u64 {
    let mut buffer = [0u8; 1024];
    let text = read(pid, b"/smaps_rollup\0", &mut buffer);
    let line = text.split(|b| *b == b'\n').find(|line| line.starts_with(b"Pss_Anon:"));
    line.map_or(0, |line| number_in(line) * 1024)
}

/// Reads `/proc/<pid><file>`; both parts are as short as the kernel makes them.
fn read<'a>(pid: &[u8], file: &[u8], buffer: &'a mut [u8]) -> &'a [u8] {
    let mut path = [0u8; 64];
    let mut end = 0;
    let digits = pid.iter().take_while(|b| b.is_ascii_digit()).take(20);
    for byte in b"/proc/".iter().chain(digits).chain(file) {
        path[end] = *byte;
        end += 1;
    }
    let fd = syscall!(number::OPENAT, AT_FDCWD, path.as_ptr(), 0o2000000, 0);
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
