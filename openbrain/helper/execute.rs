//! Executing a program with the environment of the helper itself, where the library does not know
//! that environment.

use core::{
    ffi::CStr,
    ptr::{addr_of, addr_of_mut, null},
};

use crate::{EACCES, ENOENT, is_missing, sys::number, syscall};

/// A list of texts that end with a NUL byte; the list ends with a null pointer.
type Texts = *const *const u8;

const ENOMEM: isize = -12;
/// Longer than any path that the kernel takes (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// What the helper was started with. Set once, before any other process exists.
static mut ENVIRONMENT: Texts = null();

/// Keeps the environment for a later [`execute`].
pub fn keep_environment(environment: Texts) {
    // SAFETY: there is one thread, and this is the only write.
    unsafe { *addr_of_mut!(ENVIRONMENT) = environment };
}

/// Executes `argv` with the kept environment, in which `changes` replace what has their name.
/// Returns only with an error.
pub fn execute(argv: Texts, changes: Texts) -> isize {
    let Some(environment) = changed(changes) else {
        return ENOMEM;
    };
    // SAFETY: the library gives at least one argument.
    let name = bytes(unsafe { *argv });
    if name.contains(&b'/') {
        return try_path(name.as_ptr(), argv, environment);
    }
    let path = entries(environment).find_map(|entry| bytes(entry).strip_prefix(b"PATH="));
    let mut reason = ENOENT;
    for directory in path.unwrap_or(b"/usr/bin:/bin").split(|byte| *byte == b':') {
        let mut candidate = [0u8; PATH_MAX];
        let directory = if directory.is_empty() { b"." } else { directory };
        let length = directory.len() + 1 + name.len();
        if length >= PATH_MAX {
            continue;
        }
        candidate[..directory.len()].copy_from_slice(directory);
        candidate[directory.len()] = b'/';
        candidate[directory.len() + 1..length].copy_from_slice(name);
        match try_path(candidate.as_ptr(), argv, environment) {
            ENOENT => {}
            // A file that may not be executed is a better explanation than one that is missing.
            error => reason = error,
        }
    }
    reason
}

fn try_path(path: *const u8, argv: Texts, environment: Texts) -> isize {
    const ENOTDIR: isize = -20;
    match syscall!(number::EXECVE, path, argv, environment) {
        EACCES if is_missing(path as usize) => ENOENT,
        ENOTDIR => ENOENT,
        error => error,
    }
}

/// The kept environment without what `changes` replace, and `changes`.
fn changed(changes: Texts) -> Option<Texts> {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS: usize = 0x22;
    // SAFETY: one thread.
    let kept = unsafe { *addr_of!(ENVIRONMENT) };
    let count = entries(kept).count() + entries(changes).count() + 1;
    let size = count * size_of::<usize>();
    let list = syscall!(number::MMAP, 0, size, READ_WRITE, PRIVATE_ANONYMOUS, -1isize, 0);
    if list < 0 {
        return None;
    }
    let list = list as *mut *const u8;
    let is_replaced = |entry: &*const u8| entries(changes).any(|c| name_of(c) == name_of(*entry));
    let all = entries(kept).filter(|entry| !is_replaced(entry)).chain(entries(changes));
    for (index, entry) in all.enumerate() {
        // SAFETY: the mapping has room for all of both lists, and is zero after them.
        unsafe { list.add(index).write(entry) };
    }
    Some(list)
}

fn entries(texts: Texts) -> impl Iterator<Item = *const u8> {
    let mut next = texts;
    core::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: the list ends with a null pointer, after which this is not called again.
        let entry = unsafe { *next };
        if entry.is_null() {
            return None;
        }
        // SAFETY: as above.
        next = unsafe { next.add(1) };
        Some(entry)
    })
}

fn name_of(entry: *const u8) -> &'static [u8] {
    let entry = bytes(entry);
    entry.split(|byte| *byte == b'=').next().unwrap_or(entry)
}

/// The bytes of a text, without the NUL at its end.
fn bytes(text: *const u8) -> &'static [u8] {
    // SAFETY: arguments and environment of this process end with a NUL byte and stay where they are.
    unsafe { CStr::from_ptr(text.cast()) }.to_bytes()
}
