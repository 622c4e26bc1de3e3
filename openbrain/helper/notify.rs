//! Watches a directory with everything below it, and tells what happens there (`inotify(7)`).

use core::{ffi::CStr, ptr::null_mut};

use crate::{
    AT_FDCWD, EINTR, ENOENT,
    files::{
        CLOEXEC, Closed, EINVAL, ENAMETOOLONG, ENOTDIR, Path, Result, check, flush, open_directory,
        put, walk,
    },
    sys::number,
    syscall,
    wire::{self, Change, change},
};

const MODIFY: u32 = 0x2;
const ATTRIBUTES: u32 = 0x4;
const MOVED_FROM: u32 = 0x40;
const MOVED_TO: u32 = 0x80;
const CREATE: u32 = 0x100;
const DELETE: u32 = 0x200;
const OVERFLOW: u32 = 0x4000;
const IGNORED: u32 = 0x8000;
const ONLY_DIRECTORY: u32 = 0x0100_0000;
const DO_NOT_FOLLOW: u32 = 0x0200_0000;
const NOT_UNLINKED: u32 = 0x0400_0000;
const IS_DIRECTORY: u32 = 0x4000_0000;
const ALL: u32 = MODIFY | ATTRIBUTES | MOVED_FROM | MOVED_TO | CREATE | DELETE;

const ENOSPC: isize = -28;
const EACCES: isize = crate::EACCES;

/// How many directories are watched.
const MOST: usize = 4096;

/// One directory.
struct Watch {
    /// Its number; 0 for none.
    number: i32,
    /// Below the root; of no length for the root itself.
    path: Path,
}

struct Watches {
    inotify: i32,
    root: &'static CStr,
    /// Memory that costs nothing until it is written to.
    all: &'static mut [Watch; MOST],
    /// How many of these were ever used.
    used: usize,
}

/// Tells what happens below a directory until it is gone.
pub fn watch(root: &'static CStr) -> Result {
    let mut watches = Watches { inotify: -1, root, all: map_memory()?, used: 0 };
    watches.begin()?;
    watches.add_below(b"", &mut |_, _| Ok(()))?;
    tell(change::READY, false, b"", b"")?;
    flush()?;
    // The largest event has a name of 255 bytes.
    let mut events = [0u64; 2048];
    loop {
        let size = size_of_val(&events);
        let length = match syscall!(number::READ, watches.inotify, events.as_mut_ptr(), size) {
            EINTR => continue,
            length => check(length)? as usize,
        };
        // SAFETY: the kernel has filled so many bytes of the buffer, which is plain integers.
        let mut bytes =
            unsafe { core::slice::from_raw_parts(events.as_ptr().cast::<u8>(), length) };
        while let Some((event, rest)) = split(bytes) {
            bytes = rest;
            if event.mask & OVERFLOW != 0 {
                // What follows has the numbers of watches that are no more.
                bytes = &[];
                match watches.begin_anew() {
                    Err(ENOENT | ENOTDIR) => return Ok(()),
                    begun => begun?,
                }
            } else if !watches.take(&event)? {
                return Ok(());
            }
        }
        flush()?;
    }
}

/// One event: `struct inotify_event`.
struct Event<'a> {
    number: i32,
    mask: u32,
    name: &'a [u8],
}

fn split(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    let word = |at| wire::read::<u32>(bytes, at);
    let (number, mask, length) = (word(0)? as i32, word(4)?, word(12)? as usize);
    let name = bytes.get(16..16 + length)?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(length);
    Some((Event { number, mask, name: &name[..end] }, &bytes[16 + length..]))
}

fn tell(kind: u32, is_directory: bool, path: &[u8], name: &[u8]) -> Result {
    let slash: &[u8] = if path.is_empty() || name.is_empty() { b"" } else { b"/" };
    let length = (path.len() + slash.len() + name.len()) as u32;
    let is_directory = u32::from(is_directory);
    put(wire::bytes_of(&Change { kind, is_directory, path: length, padding: 0 }))?;
    put(path)?;
    put(slash)?;
    put(name)
}

impl Watches {
    /// Watches the root, and nothing else.
    fn begin(&mut self) -> Result {
        syscall!(number::CLOSE, self.inotify);
        self.inotify = check(syscall!(number::INOTIFY_INIT1, CLOEXEC))? as i32;
        self.used = 0;
        self.add(b"", 0)
    }

    /// Watches everything that is there now, and tells that something was lost: what has come, gone or
    /// moved is not known.
    fn begin_anew(&mut self) -> Result {
        self.begin()?;
        match self.add_below(b"", &mut |_, _| Ok(())) {
            Ok(()) | Err(ENOENT | ENOTDIR | EACCES | ENOSPC | ENAMETOOLONG) => {}
            failed => return failed,
        }
        tell(change::LOST, false, b"", b"")
    }

    /// Tells of an event; false when the root is gone.
    fn take(&mut self, event: &Event<'_>) -> Result<bool> {
        let number = event.number;
        let Some(at) = self.all[..self.used].iter().position(|watch| watch.number == number) else {
            return Ok(true);
        };
        if event.mask & IGNORED != 0 {
            self.all[at].number = 0;
            return Ok(at > 0);
        }
        // Of the root's own attributes nobody is told by a name.
        if event.name.is_empty() {
            return Ok(true);
        }
        let kind = match event.mask & ALL {
            CREATE | MOVED_TO => change::CREATED,
            DELETE | MOVED_FROM => change::REMOVED,
            MODIFY => change::MODIFIED,
            _ => change::ATTRIBUTES,
        };
        let is_directory = event.mask & IS_DIRECTORY != 0;
        let mut path = Path::empty();
        let parent = &self.all[at].path;
        path.push_all(&parent.bytes[..parent.length])?;
        if path.push(event.name).is_err() {
            tell(change::LOST, false, b"", b"")?;
            return Ok(true);
        }
        let path = &path.bytes[..path.length];
        tell(kind, is_directory, path, b"")?;
        match kind {
            change::CREATED if is_directory => self.follow(path)?,
            change::REMOVED if is_directory => self.forget(path),
            _ => {}
        }
        Ok(true)
    }

    /// Watches a new directory, and tells of what was in it already.
    fn follow(&mut self, path: &[u8]) -> Result {
        let mut told = |path: &[u8], is_directory| tell(change::CREATED, is_directory, path, b"");
        let followed = self.add(path, DO_NOT_FOLLOW).and_then(|()| self.add_below(path, &mut told));
        match followed {
            // It has gone already, or is no longer what it was.
            Err(ENOENT | ENOTDIR | EACCES) => Ok(()),
            Err(ENOSPC | ENAMETOOLONG) => tell(change::LOST, true, path, b""),
            followed => followed,
        }
    }

    /// Ends the watches of a directory that has another path now, or none.
    fn forget(&mut self, path: &[u8]) {
        for watch in &mut self.all[..self.used] {
            let own = &watch.path.bytes[..watch.path.length];
            let is_below =
                own.strip_prefix(path).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
            if watch.number != 0 && is_below {
                syscall!(number::INOTIFY_RM_WATCH, self.inotify, watch.number);
                watch.number = 0;
            }
        }
    }

    /// Watches one directory.
    fn add(&mut self, path: &[u8], flags: u32) -> Result {
        let whole = self.whole(path)?;
        let mask = ALL | ONLY_DIRECTORY | NOT_UNLINKED | flags;
        let text = whole.bytes.as_ptr();
        let number = check(syscall!(number::INOTIFY_ADD_WATCH, self.inotify, text, mask))? as i32;
        let known = self.all[..self.used].iter().position(|watch| watch.number == number);
        let free = || self.all[..self.used].iter().position(|watch| watch.number == 0);
        let at = known.or_else(free).unwrap_or(self.used);
        let Some(watch) = self.all.get_mut(at) else {
            syscall!(number::INOTIFY_RM_WATCH, self.inotify, number);
            return Err(ENOSPC);
        };
        watch.number = number;
        watch.path.length = 0;
        watch.path.push_all(path)?;
        self.used = self.used.max(at + 1);
        Ok(())
    }

    /// Watches what is below a directory, and calls `told` for each entry with whether it is one.
    fn add_below(&mut self, path: &[u8], told: &mut dyn FnMut(&[u8], bool) -> Result) -> Result {
        let whole = self.whole(path)?;
        let text = CStr::from_bytes_until_nul(&whole.bytes).map_err(|_| EINVAL)?;
        let directory = open_directory(AT_FDCWD, text)?;
        let mut at = Path::empty();
        at.push_all(path)?;
        let walked = walk(directory, &mut at, 0, Closed::LeftOut, &mut |_, _, path| {
            let added = self.add(path, DO_NOT_FOLLOW);
            match added {
                Ok(()) | Err(ENOTDIR | ENOENT | EACCES) => told(path, added.is_ok()),
                Err(error) => Err(error),
            }
        });
        syscall!(number::CLOSE, directory);
        walked
    }

    fn whole(&self, path: &[u8]) -> Result<Path> {
        let mut whole = Path::empty();
        whole.push_all(self.root.to_bytes())?;
        if !path.is_empty() {
            whole.push(path)?;
        }
        Ok(whole)
    }
}

fn map_memory() -> Result<&'static mut [Watch; MOST]> {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS_NO_RESERVE: usize = 0x4022;
    let (size, flags) = (size_of::<[Watch; MOST]>(), PRIVATE_ANONYMOUS_NO_RESERVE);
    let base =
        check(syscall!(number::MMAP, null_mut::<u8>(), size, READ_WRITE, flags, -1isize, 0))?;
    // SAFETY: the mapping has this size, is aligned to a page, belongs to nobody else and is never
    // taken away; zeros are a value of the type.
    Ok(unsafe { &mut *(base as *mut [Watch; MOST]) })
}
