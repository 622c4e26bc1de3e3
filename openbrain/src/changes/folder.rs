//! A directory that is looked into without leaving it: nothing below is reached through a link, or in
//! another mount.

use std::{
    ffi::{CStr, OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags, StatxTimestamp},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::EntryKind;
use crate::beneath;

/// A directory and what is below it.
#[derive(Debug)]
pub(crate) struct Folder {
    root: OwnedFd,
    /// Whether permissions may be changed to get in: it is ours, and nobody else looks at it.
    is_abandoned: bool,
}

/// What is known of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) print: Fingerprint,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    /// The mount that it is in.
    pub(crate) mount: u64,
    /// A character device 0:0: overlayfs has it in place of what is deleted.
    pub(crate) is_whiteout: bool,
}

/// What tells that an entry is still the same, and has not been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    pub(crate) inode: u64,
    /// `st_mode`: kind and permissions.
    pub(crate) mode: u32,
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) ctime: (i64, u32),
}

/// What we give ourselves of a directory to write to it.
pub(crate) const WIDENED: Mode = Mode::WUSR.union(Mode::XUSR);

impl Folder {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root, is_abandoned: false }
    }

    /// The same, whose permissions may be changed to get in.
    pub(crate) fn abandoned(self) -> Self {
        Self { is_abandoned: true, ..self }
    }

    /// A directory below, as a folder of its own with the same rights.
    pub(crate) fn below(&self, path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok(Self { root: self.open(path, flags)?, is_abandoned: self.is_abandoned })
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a directory to be listed.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        self.get_in(path, Mode::RWXU);
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens a regular file to be read. What is none is refused, and never waited for.
    pub(crate) fn file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = self.open(path, flags).or_else(|error| {
            self.get_in(path, Mode::RUSR);
            if self.is_abandoned { self.open(path, flags) } else { Err(error) }
        })?;
        let file = File::from(opened);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Opens (`O_PATH`) the directory that an entry is in.
    pub(crate) fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path.parent().unwrap_or(Path::new("")), OFlags::PATH | OFlags::DIRECTORY)
    }

    /// What is known of an entry; `None` when there is none.
    pub(crate) fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        if path.as_os_str().is_empty() {
            return stat_at(self.root(), path.as_os_str());
        }
        match self.parent(path) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            parent => stat_at(parent?.as_fd(), name(path)?),
        }
    }

    pub(crate) fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        match beneath::open(&self.root, path, flags | OFlags::NOFOLLOW, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => Err(io::ErrorKind::ResourceBusy.into()),
            result => Ok(result?),
        }
    }

    /// Gives ourselves these rights to what nobody else looks at any more. What that does not help
    /// fails again.
    fn get_in(&self, path: &Path, rights: Mode) {
        if !self.is_abandoned {
            return;
        }
        let Ok(entry) = self.open(path, OFlags::PATH) else { return };
        let Ok(stat) = rustix::fs::fstat(&entry) else { return };
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if !is_link && !mode.contains(rights) {
            let _ = rustix::fs::chmod(by_descriptor(&entry), mode | rights);
        }
    }
}

/// The path by which what is open can be named again, whatever has become of its own path.
pub(crate) fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// The name of an entry in its directory.
pub(crate) fn name(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// What is known of an entry of a directory, or of the directory itself by an empty name; `None` when
/// there is none.
pub(crate) fn stat_at(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Stat>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let found = match rustix::fs::statx(directory, name, flags, wanted) {
        Err(Errno::NOENT) => return Ok(None),
        found => found?,
    };
    let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
    let mode = u32::from(found.stx_mode);
    let is_device = FileType::from_raw_mode(mode) == FileType::CharacterDevice;
    Ok(Some(Stat {
        print: Fingerprint {
            inode: found.stx_ino,
            mode,
            size: found.stx_size,
            mtime: time(found.stx_mtime),
            ctime: time(found.stx_ctime),
        },
        links: found.stx_nlink,
        uid: found.stx_uid,
        mount: found.stx_mnt_id,
        is_whiteout: is_device && (found.stx_rdev_major, found.stx_rdev_minor) == (0, 0),
    }))
}

/// The names in a directory that was opened to be listed, at most so many, sorted.
pub(crate) fn names(directory: &OwnedFd, most: usize) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            names.push(OsStr::from_bytes(name.to_bytes()).to_owned());
        }
        if names.len() > most {
            break;
        }
    }
    names.sort();
    Ok(names)
}

impl Stat {
    pub(crate) fn kind(&self) -> EntryKind {
        self.print.kind()
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == EntryKind::Directory
    }
}

impl Fingerprint {
    pub(crate) fn kind(&self) -> EntryKind {
        match FileType::from_raw_mode(self.mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Link,
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket => EntryKind::Socket,
            _ => EntryKind::Device,
        }
    }

    /// The lower twelve bits of the mode.
    pub(crate) fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Whether this is what was found before. The times and the size of a directory change with what
    /// is in it, which is looked at by itself, and its owner may write to it where we had to.
    pub(crate) fn is_same(&self, found: &Self) -> bool {
        match self.kind() {
            EntryKind::Directory => {
                let has_same_mode = [self.mode, self.mode | WIDENED.as_raw_mode()];
                self.inode == found.inode && has_same_mode.contains(&found.mode)
            }
            _ => self == found,
        }
    }

    /// Whether this is what was found before, but for the number of its links, which changes its
    /// `ctime`.
    pub(crate) fn is_same_content(&self, found: &Self) -> bool {
        Self { ctime: found.ctime, ..*self } == *found
    }
}
