//! Opening what is below a directory, and nothing else.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// How often the kernel may ask to try again, because something was renamed meanwhile
/// (`openat2(2)`, `RESOLVE_BENEATH`). Somebody who renames on and on gets a refusal.
const ATTEMPTS: u32 = 32;

/// Opens a path below a directory by `openat2(2)`, as `resolve` says how; an empty path is the
/// directory itself.
pub(crate) fn open(
    directory: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = flags | OFlags::CLOEXEC;
    let attempt = || rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve);
    let is_to_be_repeated =
        |result: &Result<OwnedFd, Errno>| matches!(result, Err(Errno::AGAIN | Errno::INTR));
    (1..ATTEMPTS)
        .map(|_| attempt())
        .find(|result| !is_to_be_repeated(result))
        .unwrap_or_else(attempt)
}
