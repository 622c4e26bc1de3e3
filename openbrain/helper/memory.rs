//! The memory watch: the fallback where no cgroup limits the sandbox.

use crate::proc::{Path, for_each_number, number_in, read};

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
