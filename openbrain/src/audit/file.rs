//! The file of the log: appended to by any number of processes, a record at a time.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// How long another process may hold the lock. It is held for one write, so that a longer time means
/// that somebody keeps it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the file may have been replaced by a new one when its lock is there.
const ATTEMPTS: u32 = 100;

/// The current file of the log, and how it gives way to a new one.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    /// Size at which a new file is begun.
    pub(super) max_size: u64,
    /// How many full files are kept.
    pub(super) keep_files: u32,
    /// The file, when it was written to before; without a lock.
    pub(super) open: Option<File>,
}

impl LogFile {
    /// Adds a line, which has its line feed, with one `write(2)`.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            let file = match self.open.take() {
                Some(file) => file,
                None => open(&self.path)?,
            };
            lock(&file, FlockOperation::NonBlockingLockExclusive)?;
            let meta = file.metadata()?;
            if !is_at(&meta, &self.path)? {
                continue;
            }
            check_file(&meta)?;
            if meta.len() > 0 && meta.len() + line.len() as u64 > self.max_size {
                rotate(&self.path, self.keep_files)?;
                continue;
            }
            let result = write(&file, meta.len(), line);
            // Closing the file unlocks it as well.
            if flock(&file, FlockOperation::Unlock).is_ok() {
                self.open = Some(file);
            }
            return result;
        }
        Err(io::Error::other("it is replaced again and again"))
    }
}

/// Writes a line behind what is there, or nothing.
fn write(mut file: &File, size: u64, line: &[u8]) -> io::Result<()> {
    let mut last = *b"\n";
    if size > 0 {
        file.read_exact_at(&mut last, size - 1)?;
    }
    // Whoever wrote last may have been cut off, by a machine that went down.
    let torn = last != *b"\n";
    let line = if torn { &[b"\n", line].concat() } else { line };
    let written = loop {
        match file.write(line) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    if written < line.len() {
        file.set_len(size)?;
        return Err(io::Error::new(io::ErrorKind::StorageFull, "there is no room for the record"));
    }
    Ok(())
}

/// Opens the file, which is made when it is missing, and its directory.
fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        check_directory(&fs::metadata(directory)?)?;
    }
    // A fifo must not make us wait; it is refused below.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => io::Error::other("it is a symbolic link"),
            _ => error,
        })?;
    check_file(&file.metadata()?)?;
    Ok(file)
}

/// Refuses a directory in which others could put another file in the place of ours.
fn check_directory(meta: &Metadata) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    if ![0, own].contains(&meta.uid()) {
        return Err(io::Error::other(format!("its directory belongs to user {}", meta.uid())));
    }
    let (others_write, sticky) = (meta.mode() & 0o022 != 0, meta.mode() & 0o1000 != 0);
    if others_write && !sticky {
        return Err(io::Error::other("others may write to its directory"));
    }
    Ok(())
}

/// Refuses what is not a file that its owner alone can read, or is also elsewhere.
fn check_file(meta: &Metadata) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    if !meta.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if meta.uid() != own {
        return Err(io::Error::other(format!("it belongs to user {}", meta.uid())));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(io::Error::other("others may read or write it; make it mode 0600"));
    }
    if meta.nlink() > 1 {
        return Err(io::Error::other("it has a second name elsewhere"));
    }
    Ok(())
}

/// Locks the file, waiting for a bounded time.
pub(super) fn lock(file: &File, how: FlockOperation) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(20);
    loop {
        match flock(file, how) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if Instant::now() < end => {
                sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(2));
            }
            Err(Errno::AGAIN) => return Err(io::Error::other("another process keeps it locked")),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether a file still has this name: another process may have begun a new one.
fn is_at(meta: &Metadata, path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (meta.dev(), meta.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The name of a full file: `audit.jsonl.1` is the youngest.
pub(super) fn full(path: &Path, number: u64) -> PathBuf {
    if number == 0 {
        return path.into();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

/// Gives every file the next higher number, and removes those that are too many. Whoever calls has
/// the lock of the current file.
fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let is_there = |number: &u64| fs::symlink_metadata(full(path, *number)).is_ok();
    let free = (1..).find(|number| !is_there(number)).unwrap_or(1);
    for number in (0..free).rev() {
        fs::rename(full(path, number), full(path, number + 1))?;
    }
    (u64::from(keep) + 1..=free).try_for_each(|number| fs::remove_file(full(path, number)))
}
