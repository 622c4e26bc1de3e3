//! Trees of files on their way into a sandbox and out of it, as [`Entry`]s with their contents.
//!
//! Files with several names are told of once, and then by their first name; holes are told as such.

use core::{ffi::CStr, ptr::null_mut};

use crate::{
    AT_FDCWD, EINTR, ENOENT,
    files::{
        CLOEXEC, Closed, DIRECTORY, Detail, EEXIST, EINVAL, EIO, ENAMETOOLONG, ENOTDIR, NOFOLLOW,
        NONBLOCK, PATH_MAX, Path, Result, check, look, make_all, next_bytes, open_directory, put,
        tell, walk, write_all,
    },
    sys::number,
    syscall,
    wire::{self, Entry, work::HOLE},
};

const ENXIO: isize = -6;
const O_PATH: usize = 0o10000000;
const WRITE_CREATE_NEW: usize = 0o301;

/// What `lseek(2)` counts from, or looks for.
#[derive(Clone, Copy)]
enum Seek {
    Start = 0,
    Current = 1,
    Data = 3,
    Hole = 4,
}

fn seek(fd: i32, offset: u64, seek: Seek) -> Result<u64> {
    check(syscall!(number::LSEEK, fd, offset, seek as usize)).map(|at| at as u64)
}

/// Tells of everything below a directory, the contents of files included: each in pieces with their
/// length before them, the last of no length. Of a regular file it tells by a path of no length.
pub fn pack(path: &CStr) -> Result {
    let directory = match open_directory(AT_FDCWD, path) {
        Err(ENOTDIR) => return pack_file(path),
        opened => opened?,
    };
    let mut names = Names::default();
    walk(directory, &mut Path::empty(), 0, Closed::Failure, &mut |directory, name, path| {
        let entry = match tell(directory, name, path, Some(&mut names)) {
            Err(ENOENT) => return Ok(()),
            told => told?,
        };
        if entry.has_content == 0 {
            return Ok(());
        }
        let flags = NOFOLLOW | NONBLOCK | CLOEXEC;
        let fd = check(syscall!(number::OPENAT, directory, name.as_ptr(), flags, 0))? as i32;
        let packed = look(fd, c"").and_then(|(_, detail)| pack_content(fd, entry.size, &detail));
        syscall!(number::CLOSE, fd);
        packed
    })
}

fn pack_file(path: &CStr) -> Result {
    // A named pipe would wait for its writer.
    let fd = check(syscall!(number::OPENAT, AT_FDCWD, path.as_ptr(), NONBLOCK | CLOEXEC, 0))?;
    let (mut entry, detail) = look(fd as i32, c"")?;
    if entry.kind() != Entry::FILE {
        return Err(EINVAL);
    }
    entry.has_content = 1;
    put(wire::bytes_of(&entry))?;
    pack_content(fd as i32, entry.size, &detail)
}

/// Tells exactly as much as was promised, whatever has become of the file: one that grows has no end,
/// and what one has lost is a hole.
fn pack_content(fd: i32, size: u64, detail: &Detail) -> Result {
    match detail.bytes_on_disk < size {
        true => pack_with_holes(fd, size)?,
        false => pack_bytes(fd, size)?,
    }
    put(&[0; 4])
}

/// The next bytes, exactly so many.
fn pack_bytes(fd: i32, mut count: u64) -> Result {
    while count > 0 {
        let bytes = next_bytes(fd, count)?;
        if bytes.is_empty() {
            return pack_hole(count);
        }
        put(&(bytes.len() as u32).to_ne_bytes())?;
        put(bytes)?;
        count -= bytes.len() as u64;
    }
    Ok(())
}

fn pack_with_holes(fd: i32, size: u64) -> Result {
    let mut at = 0;
    while at < size {
        let data = match seek(fd, at, Seek::Data) {
            Ok(data) => data.min(size),
            // Nothing but a hole up to the end.
            Err(ENXIO) => size,
            // The file system does not tell.
            Err(_) => {
                seek(fd, at, Seek::Start)?;
                return pack_bytes(fd, size - at);
            }
        };
        pack_hole(data - at)?;
        at = match seek(fd, data, Seek::Hole) {
            Ok(hole) => hole.min(size),
            // It is shorter by now, or was only a hole.
            Err(_) => size,
        };
        if data < at {
            seek(fd, data, Seek::Start)?;
            pack_bytes(fd, at - data)?;
        }
    }
    Ok(())
}

fn pack_hole(mut count: u64) -> Result {
    while count > 0 {
        let part = count.min(u64::from(HOLE - 1));
        put(&(HOLE | part as u32).to_ne_bytes())?;
        count -= part;
    }
    Ok(())
}

/// Makes below a directory what standard input tells of, as [`pack`] does: nothing beside it, no link
/// is followed.
pub fn unpack(path: &CStr) -> Result {
    make_all(path.to_bytes())?;
    let mut place =
        Place { root: open_directory(AT_FDCWD, path)?, parent: -1, path: Path::empty() };
    let mut header = [0u8; size_of::<Entry>()];
    while take(&mut header)? {
        let entry: Entry = wire::read(&header, 0).ok_or(EIO)?;
        let (name, link) = (take_path(entry.path)?, take_path(entry.link)?);
        unpack_one(&mut place, &entry, &name, &link)?;
    }
    Ok(())
}

fn unpack_one(place: &mut Place, entry: &Entry, path: &Path, link: &Path) -> Result {
    if entry.kind() == Entry::FILE && entry.link > 0 {
        return place.link(link, path);
    }
    let (directory, name) = place.parent_of(path)?;
    match entry.kind() {
        Entry::DIRECTORY => {
            // Its owner must be able to put something into it.
            let mode = entry.mode & 0o777 | 0o700;
            match syscall!(number::MKDIRAT, directory, name.as_ptr(), mode) {
                EEXIST => close(open_below(directory, name)?),
                made => check(made).map(drop)?,
            }
        }
        Entry::LINK => {
            syscall!(number::UNLINKAT, directory, name.as_ptr(), 0);
            let target = link.bytes.as_ptr();
            check(syscall!(number::SYMLINKAT, target, directory, name.as_ptr()))?;
        }
        Entry::FILE => {
            // What has the name may have others, which are not to be written to.
            syscall!(number::UNLINKAT, directory, name.as_ptr(), 0);
            let flags = WRITE_CREATE_NEW | NOFOLLOW | CLOEXEC;
            let fd =
                check(syscall!(number::OPENAT, directory, name.as_ptr(), flags, 0o600))? as i32;
            unpack_content(fd)?;
            check(syscall!(number::FCHMOD, fd, entry.mode & 0o777))?;
            let times = [entry.mtime, entry.mtime_ns as i64, entry.mtime, entry.mtime_ns as i64];
            syscall!(number::UTIMENSAT, fd, 0, times.as_ptr(), 0);
            close(fd);
        }
        _ => return Err(EINVAL),
    }
    Ok(())
}

fn unpack_content(fd: i32) -> Result {
    let mut length = [0u8; 4];
    let mut ends_with_hole = false;
    while take(&mut length)? && length != [0; 4] {
        let length = u32::from_ne_bytes(length);
        ends_with_hole = length & HOLE != 0;
        match ends_with_hole {
            true => drop(seek(fd, u64::from(length & !HOLE), Seek::Current)?),
            false => copy_in(fd, length as usize)?,
        }
    }
    if ends_with_hole {
        let end = seek(fd, 0, Seek::Current)?;
        check(syscall!(number::FTRUNCATE, fd, end))?;
    }
    Ok(())
}

/// Copies so many bytes of standard input to a file.
fn copy_in(fd: i32, mut left: usize) -> Result {
    let mut piece = [0u8; 4096];
    while left > 0 {
        let part = &mut piece[..left.min(4096)];
        if !take(part)? {
            return Err(EIO);
        }
        write_all(fd, part)?;
        left -= part.len();
    }
    Ok(())
}

/// Fills a buffer from standard input; false when that is at its end before the first byte.
fn take(buffer: &mut [u8]) -> Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        match syscall!(number::READ, 0, rest.as_mut_ptr(), rest.len()) {
            EINTR => {}
            0 if filled == 0 => return Ok(false),
            0 => return Err(EIO),
            length => filled += check(length)? as usize,
        }
    }
    Ok(true)
}

/// Takes a path of this length from standard input.
fn take_path(length: u32) -> Result<Path> {
    let mut path = Path::empty();
    path.length = length as usize;
    let bytes = path.bytes[..PATH_MAX - 1].get_mut(..path.length).ok_or(ENAMETOOLONG)?;
    if length > 0 && !take(bytes)? {
        return Err(EIO);
    }
    Ok(path)
}

fn close(fd: i32) {
    syscall!(number::CLOSE, fd);
}

/// Opens a directory in another one; a link is not followed.
fn open_below(directory: i32, name: &CStr) -> Result<i32> {
    let flags = O_PATH | DIRECTORY | NOFOLLOW | CLOEXEC;
    Ok(check(syscall!(number::OPENAT, directory, name.as_ptr(), flags, 0))? as i32)
}

/// A directory that is written to.
struct Place {
    root: i32,
    /// The directory that was written to last, and its path: most entries are beside the last one.
    parent: i32,
    path: Path,
}

impl Place {
    /// The directory of a path, which is made if need be, and the name in it.
    fn parent_of<'a>(&mut self, path: &'a Path) -> Result<(i32, &'a CStr)> {
        let bytes = &path.bytes[..path.length];
        let is_plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
        if !bytes.split(|byte| *byte == b'/').all(is_plain) {
            return Err(EINVAL);
        }
        let slash = bytes.iter().rposition(|byte| *byte == b'/');
        let name = &path.bytes[slash.map_or(0, |at| at + 1)..=path.length];
        let name = CStr::from_bytes_with_nul(name).map_err(|_| EINVAL)?;
        let directory = match slash {
            Some(slash) => self.enter(&bytes[..slash])?,
            None => self.root,
        };
        Ok((directory, name))
    }

    fn enter(&mut self, path: &[u8]) -> Result<i32> {
        if self.parent >= 0 && self.path.bytes[..self.path.length] == *path {
            return Ok(self.parent);
        }
        let mut at = self.root;
        for part in path.split(|byte| *byte == b'/') {
            let mut name = Path::empty();
            name.push(part)?;
            let below = open_or_make(at, &name);
            if at != self.root {
                close(at);
            }
            at = below?;
        }
        if self.parent >= 0 {
            close(self.parent);
        }
        self.path.length = 0;
        self.path.push(path)?;
        self.parent = at;
        Ok(at)
    }

    /// Gives a file one more name.
    fn link(&mut self, from: &Path, to: &Path) -> Result {
        let (directory, name) = self.parent_of(from)?;
        // What is entered next takes the place of this one.
        let directory = match directory == self.root {
            true => directory,
            false => open_below(directory, c".")?,
        };
        let linked = self.parent_of(to).and_then(|(other, new)| {
            syscall!(number::UNLINKAT, other, new.as_ptr(), 0);
            check(syscall!(number::LINKAT, directory, name.as_ptr(), other, new.as_ptr(), 0))
        });
        if directory != self.root {
            close(directory);
        }
        linked.map(drop)
    }
}

fn open_or_make(at: i32, name: &Path) -> Result<i32> {
    let text = CStr::from_bytes_until_nul(&name.bytes).map_err(|_| EINVAL)?;
    match open_below(at, text) {
        Err(ENOENT) => {
            syscall!(number::MKDIRAT, at, text.as_ptr(), 0o755);
            open_below(at, text)
        }
        opened => opened,
    }
}

/// The first names of files with several.
#[derive(Default)]
pub struct Names {
    /// Where they are; nothing before the first one.
    memory: Option<&'static mut Memory>,
}

/// How many places there are for files with several names; one that finds none is told of as files
/// of the same content.
const PLACES: usize = 1 << 18;
/// How many bytes their names may have together.
const ROOM: usize = 32 << 20;

/// Memory that costs nothing until it is written to, which the kernel gives filled with zeros.
struct Memory {
    places: [Known; PLACES],
    texts: [u8; ROOM],
    used: usize,
}

#[derive(Clone, Copy)]
struct Known {
    device: u64,
    inode: u64,
    /// Where the name is in the texts.
    at: u32,
    /// How long it is; 0 for an empty place.
    length: u32,
}

impl Names {
    /// The first name of this file. A file that is not known has the name that was given from now on,
    /// and none is returned.
    pub fn known(&mut self, device: u64, inode: u64, name: &[u8]) -> Option<&[u8]> {
        if self.memory.is_none() {
            self.memory = map_memory();
        }
        let memory = self.memory.as_deref_mut()?;
        // Neighbours in a directory often have neighbouring numbers: a multiplication spreads them.
        let first = (inode ^ device).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 46;
        for step in 0..64 {
            let place = &mut memory.places[(first as usize + step) % PLACES];
            let (at, length) = (place.at as usize, place.length as usize);
            if length > 0 && (place.device, place.inode) == (device, inode) {
                return memory.texts.get(at..at + length);
            }
            if length == 0 {
                let end = memory.used + name.len();
                let room = memory.texts.get_mut(memory.used..end)?;
                room.copy_from_slice(name);
                let (at, length) = (memory.used as u32, name.len() as u32);
                *place = Known { device, inode, at, length };
                memory.used = end;
                return None;
            }
        }
        None
    }
}

fn map_memory() -> Option<&'static mut Memory> {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS_NO_RESERVE: usize = 0x4022;
    let (size, flags) = (size_of::<Memory>(), PRIVATE_ANONYMOUS_NO_RESERVE);
    let base = syscall!(number::MMAP, null_mut::<u8>(), size, READ_WRITE, flags, -1isize, 0);
    // SAFETY: the mapping has this size, is aligned to a page, belongs to nobody else and is never
    // taken away; zeros are a value of the type.
    (base > 0).then(|| unsafe { &mut *(base as *mut Memory) })
}
