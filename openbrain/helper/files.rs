//! Work on the files of a sandbox, done inside it: as a command with every wall of a command, so that
//! no path that the sandbox has made is ever followed by anybody outside.
//!
//! The program is started with the name of the work and its paths. What is read goes to standard
//! output, what is written comes from standard input, trees and lists are [`Entry`]s; the exit code is
//! an error number, or 0.

use core::{
    ffi::CStr,
    ptr::{addr_of, addr_of_mut},
};

use crate::{
    AT_FDCWD, EACCES, EINTR, ENOENT, connect, exit, notify,
    sys::number,
    syscall,
    trees::{self, Names},
    wire::{self, Entry, work},
};

pub type Result<T = ()> = core::result::Result<T, isize>;

pub const CLOEXEC: usize = 0o2000000;
pub const NONBLOCK: usize = 0o4000;
const WRITE_CREATE: usize = 0o101;
const TRUNCATE: usize = 0o1000;
const APPEND: usize = 0o2000;
#[cfg(target_arch = "x86_64")]
pub const DIRECTORY: usize = 0o200000;
#[cfg(target_arch = "aarch64")]
pub const DIRECTORY: usize = 0o40000;
#[cfg(target_arch = "x86_64")]
pub const NOFOLLOW: usize = 0o400000;
#[cfg(target_arch = "aarch64")]
pub const NOFOLLOW: usize = 0o100000;
const REMOVE_DIRECTORY: usize = 0x200;

pub const EIO: isize = -5;
pub const EEXIST: isize = -17;
pub const ENOTDIR: isize = -20;
pub const EINVAL: isize = -22;
const EISDIR: isize = -21;
pub const ENAMETOOLONG: isize = -36;
const ELOOP: isize = -40;

/// Directories inside each other that are walked.
const DEEPEST: usize = 256;
/// Longer than any path that the kernel takes (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;
const BUFFER: usize = 64 * 1024;

/// A path in the making, with a NUL byte at its end.
pub struct Path {
    pub bytes: [u8; PATH_MAX],
    pub length: usize,
}

/// What is known of a file and told to nobody.
pub struct Detail {
    /// How many names it has.
    pub names: u32,
    pub device: u64,
    pub inode: u64,
    pub bytes_on_disk: u64,
}

/// What a walk does with one entry of a directory: the directory, the name with its NUL, the path from
/// where the walk began.
pub type Visit<'a> = &'a mut dyn FnMut(i32, &[u8], &[u8]) -> Result;

static mut BYTES: [u8; BUFFER] = [0; BUFFER];
static mut OUTPUT: [u8; BUFFER] = [0; BUFFER];
static mut USED: usize = 0;

/// Does the work that the arguments name, and ends. Says on standard error that it is this program:
/// where that could not be started, another one may have been.
pub fn run(arguments: &[*const u8]) -> ! {
    let _ = write_all(2, work::FILES);
    let text = |index: usize| {
        // SAFETY: arguments end with a NUL byte and stay where they are, in memory of this process
        // alone.
        let text = |text: &*const u8| unsafe { unescape((*text).cast_mut()) };
        arguments.get(index).map(text).unwrap_or_default()
    };
    let (path, other) = (text(1), text(2));
    let done = match text(0).to_bytes() {
        work::READ => read(path, other.to_bytes()),
        work::WRITE => write(path, TRUNCATE, other.to_bytes()),
        work::APPEND => write(path, APPEND, other.to_bytes()),
        work::STAT => stat(path),
        work::LIST => open_directory(AT_FDCWD, path).and_then(list),
        work::SEARCH => search(path, other.to_bytes()),
        work::MAKE => make_all(path.to_bytes()),
        work::REMOVE => remove(AT_FDCWD, path, false, 0),
        work::REMOVE_ALL => remove(AT_FDCWD, path, true, 0),
        work::RENAME => {
            let (from, to) = (path.as_ptr(), other.as_ptr());
            check(syscall!(number::RENAMEAT2, AT_FDCWD, from, AT_FDCWD, to, 0)).map(drop)
        }
        work::PACK => trees::pack(path),
        work::UNPACK => trees::unpack(path),
        work::CONNECT => connect::connect(path.to_bytes()),
        work::WATCH => notify::watch(path),
        work::WAIT_FOR_PORT => connect::wait_for_port(path.to_bytes()),
        _ => Err(EINVAL),
    };
    exit(match done.and_then(|()| flush()) {
        Ok(()) => 0,
        // Above are the codes of shells; no such number is an error of a file.
        Err(error @ -124..) => -error as i32,
        Err(_) => -EIO as i32,
    })
}

/// Turns `%` with two hexadecimal digits into the byte that it stands for, in place: an argument is
/// text on its way, and a path need not be.
///
/// # Safety
///
/// The text must end with a NUL byte, and nobody else may have it.
unsafe fn unescape<'a>(text: *mut u8) -> &'a CStr {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
    let (mut from, mut to) = (0, 0);
    // SAFETY: what is read ends with the NUL byte, and what is written is not longer.
    unsafe {
        loop {
            let byte = text.add(from).read();
            from += 1;
            let byte = match byte {
                b'%' if text.add(from).read() != 0 && text.add(from + 1).read() != 0 => {
                    let value =
                        digit(text.add(from).read()) << 4 | digit(text.add(from + 1).read());
                    from += 2;
                    value
                }
                byte => byte,
            };
            text.add(to).write(byte);
            if byte == 0 {
                return CStr::from_ptr(text.cast());
            }
            to += 1;
        }
    }
}

pub fn check(result: isize) -> Result<isize> {
    if result < 0 { Err(result) } else { Ok(result) }
}

fn read(path: &CStr, offset: &[u8]) -> Result {
    // A named pipe would wait for its writer.
    let flags = CLOEXEC | NONBLOCK;
    let fd = check(syscall!(number::OPENAT, AT_FDCWD, path.as_ptr(), flags, 0))? as i32;
    match look(fd, c"")?.0.kind() {
        Entry::FILE => {
            let offset = integer(offset, 10)?.unwrap_or(0);
            check(syscall!(number::LSEEK, fd, offset, 0))?;
            copy_out(fd, &mut |bytes| put(bytes))
        }
        Entry::DIRECTORY => Err(EISDIR),
        _ => Err(EINVAL),
    }
}

/// An argument that is a number, if there is one.
fn integer(digits: &[u8], base: u32) -> Result<Option<usize>> {
    if digits.is_empty() {
        return Ok(None);
    }
    let text = core::str::from_utf8(digits).map_err(|_| EINVAL)?;
    usize::from_str_radix(text, base).map(Some).map_err(|_| EINVAL)
}

/// Hands on the content of a file, piece by piece.
fn copy_out(fd: i32, to: &mut dyn FnMut(&[u8]) -> Result) -> Result {
    loop {
        let bytes = next_bytes(fd, u64::MAX)?;
        if bytes.is_empty() {
            return Ok(());
        }
        to(bytes)?;
    }
}

/// What a read of at most so many bytes gives; nothing at the end. Valid until the next read.
pub fn next_bytes(fd: i32, most: u64) -> Result<&'static [u8]> {
    let most = most.min(BUFFER as u64);
    loop {
        let length = syscall!(number::READ, fd, addr_of_mut!(BYTES), most);
        if length != EINTR {
            // SAFETY: one thread, and nobody keeps the slice beyond the next read.
            let bytes: &'static [u8; BUFFER] = unsafe { &*addr_of!(BYTES) };
            return Ok(&bytes[..check(length)? as usize]);
        }
    }
}

/// Writes standard input to a file whose directory is made if need be, and gives it these permissions,
/// if any.
fn write(path: &CStr, how: usize, mode: &[u8]) -> Result {
    let mode = integer(mode, 8)?;
    let flags = WRITE_CREATE | how | CLOEXEC | NONBLOCK;
    let open = || syscall!(number::OPENAT, AT_FDCWD, path.as_ptr(), flags, 0o644);
    let mut fd = open();
    if fd == ENOENT {
        let parents = path.to_bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        make_all(&path.to_bytes()[..parents])?;
        fd = open();
    }
    let fd = check(fd)? as i32;
    if look(fd, c"")?.0.kind() != Entry::FILE {
        return Err(EINVAL);
    }
    copy_out(0, &mut |bytes| write_all(fd, bytes))?;
    match mode {
        Some(mode) => check(syscall!(number::FCHMOD, fd, mode)).map(drop),
        None => Ok(()),
    }
}

pub fn write_all(fd: i32, mut bytes: &[u8]) -> Result {
    while !bytes.is_empty() {
        match syscall!(number::WRITE, fd, bytes.as_ptr(), bytes.len()) {
            EINTR => {}
            written => bytes = &bytes[check(written)? as usize..],
        }
    }
    Ok(())
}

/// Collects output.
pub fn put(bytes: &[u8]) -> Result {
    // SAFETY: one thread, and the references end with this function.
    let (output, used) = unsafe { (&mut *addr_of_mut!(OUTPUT), &mut *addr_of_mut!(USED)) };
    for part in bytes.chunks(BUFFER) {
        if *used + part.len() > BUFFER {
            write_all(1, &output[..*used])?;
            *used = 0;
        }
        output[*used..*used + part.len()].copy_from_slice(part);
        *used += part.len();
    }
    Ok(())
}

pub fn flush() -> Result {
    // SAFETY: as above.
    let (output, used) = unsafe { (&*addr_of!(OUTPUT), &mut *addr_of_mut!(USED)) };
    write_all(1, &output[..core::mem::take(used)])
}

/// Looks at a file without following a last link; an empty path is the directory's own descriptor.
pub fn look(directory: i32, path: &CStr) -> Result<(Entry, Detail)> {
    const EMPTY_PATH: usize = 0x1000;
    const NOFOLLOW: usize = 0x100;
    const BASIC: usize = 0x7ff;
    let mut found = [0u64; 32];
    let flags = if path.is_empty() { EMPTY_PATH } else { NOFOLLOW };
    let to = found.as_mut_ptr();
    check(syscall!(number::STATX, directory, path.as_ptr(), flags, BASIC, to))?;
    // The places of `struct statx` (`statx(2)`), in words of eight bytes.
    let entry = Entry {
        mode: (found[3] >> 32) as u32 & 0xffff,
        uid: (found[2] >> 32) as u32,
        gid: found[3] as u32,
        size: found[5],
        mtime: found[14] as i64,
        mtime_ns: found[15] as u32,
        ..Entry::default()
    };
    let detail = Detail {
        names: found[2] as u32,
        inode: found[4],
        bytes_on_disk: found[6] * 512,
        device: found[17],
    };
    Ok((entry, detail))
}

/// Tells of a file: its entry, its path, and where a link leads; with `names` also its first name
/// where it has several, or else that its content follows.
pub fn tell(directory: i32, name: &[u8], path: &[u8], names: Option<&mut Names>) -> Result<Entry> {
    let name = CStr::from_bytes_with_nul(name).map_err(|_| EINVAL)?;
    let (mut entry, detail) = look(directory, name)?;
    let mut buffer = [0u8; PATH_MAX];
    let mut link: &[u8] = &[];
    if entry.kind() == Entry::LINK {
        let to = buffer.as_mut_ptr();
        let length = syscall!(number::READLINKAT, directory, name.as_ptr(), to, PATH_MAX);
        link = &buffer[..check(length)? as usize];
    } else if let (Entry::FILE, Some(names)) = (entry.kind(), names) {
        if detail.names > 1 {
            link = names.known(detail.device, detail.inode, path).unwrap_or_default();
        }
        entry.has_content = u32::from(link.is_empty());
    }
    (entry.path, entry.link) = (path.len() as u32, link.len() as u32);
    put(wire::bytes_of(&entry))?;
    put(path)?;
    put(link)?;
    Ok(entry)
}

fn stat(path: &CStr) -> Result {
    tell(AT_FDCWD as i32, path.to_bytes_with_nul(), path.to_bytes(), None).map(drop)
}

pub fn open_directory(at: usize, path: &CStr) -> Result<i32> {
    let flags = DIRECTORY | CLOEXEC;
    Ok(check(syscall!(number::OPENAT, at, path.as_ptr(), flags, 0))? as i32)
}

fn list(directory: i32) -> Result {
    for_each(directory, &mut |name| {
        ignore_missing(tell(directory, name, &name[..name.len() - 1], None).map(drop))
    })
}

/// What has gone meanwhile is no failure of looking at the rest.
fn ignore_missing(result: Result) -> Result {
    if result == Err(ENOENT) { Ok(()) } else { result }
}

/// Calls `with` for the name of each entry of a directory, its NUL included.
fn for_each(directory: i32, with: &mut dyn FnMut(&[u8]) -> Result) -> Result {
    let mut entries = [0u64; 512];
    loop {
        let length = syscall!(number::GETDENTS64, directory, entries.as_mut_ptr(), 4096);
        if check(length)? == 0 {
            return Ok(());
        }
        // SAFETY: the kernel has filled so many bytes of the buffer, which is plain integers.
        let bytes =
            unsafe { core::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), length as usize) };
        let mut at = 0;
        while at + 19 < bytes.len() {
            let size = u16::from_ne_bytes([bytes[at + 16], bytes[at + 17]]) as usize;
            let name = &bytes[at + 19..(at + size.max(20)).min(bytes.len())];
            let end = name.iter().position(|b| *b == 0).ok_or(EIO)?;
            let name = &name[..=end];
            if name != b".\0" && name != b"..\0" {
                with(name)?;
            }
            at += size.max(20);
        }
    }
}

/// Whether a directory that may not be read is left out, or is a failure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    LeftOut,
    Failure,
}

/// Visits everything below a directory, a directory before its content; links are not followed.
pub fn walk(
    directory: i32,
    path: &mut Path,
    depth: usize,
    closed: Closed,
    visit: Visit<'_>,
) -> Result {
    if depth == DEEPEST {
        return Err(ELOOP);
    }
    for_each(directory, &mut |name| {
        let length = path.length;
        path.push(&name[..name.len() - 1])?;
        let visited = visit(directory, name, &path.bytes[..path.length]);
        let deeper = visited.and_then(|()| {
            let flags = DIRECTORY | NOFOLLOW | CLOEXEC;
            let below = syscall!(number::OPENAT, directory, name.as_ptr(), flags, 0);
            match below {
                ENOTDIR | ELOOP | ENOENT => return Ok(()),
                EACCES if closed == Closed::LeftOut => return Ok(()),
                _ => {}
            }
            let walked = walk(check(below)? as i32, path, depth + 1, closed, visit);
            syscall!(number::CLOSE, below);
            walked
        });
        path.length = length;
        deeper
    })
}

fn search(path: &CStr, pattern: &[u8]) -> Result {
    let directory = open_directory(AT_FDCWD, path)?;
    walk(directory, &mut Path::empty(), 0, Closed::LeftOut, &mut |directory, name, path| {
        match matches(&name[..name.len() - 1], pattern) {
            true => ignore_missing(tell(directory, name, path, None).map(drop)),
            false => Ok(()),
        }
    })
}

/// Whether a name matches a pattern, in which `*` is any text and `?` any byte.
fn matches(name: &[u8], pattern: &[u8]) -> bool {
    let (mut n, mut p) = (0, 0);
    // Where the last star was, and the name when it was met: one star at a time is tried again.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => (n, p) = (n + 1, p + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (n, p) = (from + 1, at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Makes a directory with those above it.
pub fn make_all(path: &[u8]) -> Result {
    let ends = (1..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]);
    for end in ends {
        let mut parent = Path::empty();
        parent.bytes.get_mut(..end).ok_or(ENAMETOOLONG)?.copy_from_slice(&path[..end]);
        let made = syscall!(number::MKDIRAT, AT_FDCWD, parent.bytes.as_ptr(), 0o755);
        if made < 0 && made != EEXIST {
            return Err(made);
        }
    }
    match end_is_directory(path) {
        true => Ok(()),
        false => Err(EEXIST),
    }
}

fn end_is_directory(path: &[u8]) -> bool {
    let mut whole = Path::empty();
    whole.bytes[..path.len()].copy_from_slice(path);
    let flags = DIRECTORY | CLOEXEC;
    let fd = syscall!(number::OPENAT, AT_FDCWD, whole.bytes.as_ptr(), flags, 0);
    syscall!(number::CLOSE, fd);
    fd >= 0 || path.is_empty()
}

/// Removes a file or an empty directory, or a directory with all that is in it.
fn remove(at: usize, path: &CStr, with_content: bool, depth: usize) -> Result {
    if depth == DEEPEST {
        return Err(ELOOP);
    }
    match syscall!(number::UNLINKAT, at, path.as_ptr(), 0) {
        EISDIR => {}
        result => return check(result).map(drop),
    }
    if with_content {
        let flags = DIRECTORY | NOFOLLOW | CLOEXEC;
        let directory = check(syscall!(number::OPENAT, at, path.as_ptr(), flags, 0))? as i32;
        let emptied = for_each(directory, &mut |name| {
            let name = CStr::from_bytes_with_nul(name).map_err(|_| EINVAL)?;
            ignore_missing(remove(directory as usize, name, true, depth + 1))
        });
        syscall!(number::CLOSE, directory);
        emptied?;
    }
    check(syscall!(number::UNLINKAT, at, path.as_ptr(), REMOVE_DIRECTORY)).map(drop)
}

impl Path {
    pub fn empty() -> Self {
        Self { bytes: [0; PATH_MAX], length: 0 }
    }

    /// As [`push`](Self::push), of a path; one of no length changes nothing.
    pub fn push_all(&mut self, path: &[u8]) -> Result {
        if path.is_empty() { Ok(()) } else { self.push(path) }
    }

    pub fn push(&mut self, name: &[u8]) -> Result {
        let slash = usize::from(self.length > 0);
        let end = self.length + slash + name.len();
        if end >= PATH_MAX {
            return Err(ENAMETOOLONG);
        }
        self.bytes[self.length] = b'/';
        self.bytes[self.length + slash..end].copy_from_slice(name);
        self.bytes[end] = 0;
        self.length = end;
        Ok(())
    }
}
