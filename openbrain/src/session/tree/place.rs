//! Where a tree of a sandbox is written to on the host.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use crate::{
    beneath,
    error::{Error, Result},
    session::{
        files::{FileEntry, FileKind},
        work::failed,
    },
};

/// A directory of the host that is written to, and nothing beside it.
#[derive(Debug)]
pub(super) struct Place {
    root: OwnedFd,
    path: PathBuf,
}

impl Place {
    /// Opens a directory, which is made when it is missing. A link is one only with a slash after it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let open = || {
            fs::create_dir_all(path)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(rustix::fs::open(path, flags, Mode::empty())?)
        };
        let cannot = |e| failed(&format!("cannot write to `{}`", path.display()), e);
        Ok(Self { root: open().map_err(cannot)?, path: path.to_owned() })
    }

    pub(super) fn cannot(&self, path: &Path, error: io::Error) -> Error {
        failed(&format!("cannot write `{}`", self.path.join(path).display()), error)
    }

    /// Makes an entry; returns a file to be written.
    pub(super) fn make(&self, entry: &FileEntry) -> Result<Option<File>> {
        self.try_make(entry).map_err(|error| self.cannot(&entry.path, error))
    }

    fn try_make(&self, entry: &FileEntry) -> io::Result<Option<File>> {
        let (directory, name) = self.parent(&entry.path)?;
        match (entry.kind, &entry.target) {
            (FileKind::Directory, _) => {
                let mode = Mode::from_raw_mode(entry.mode & 0o777 | 0o700);
                match rustix::fs::mkdirat(&directory, name, mode) {
                    Err(rustix::io::Errno::EXIST) => {
                        self.below(&directory, Path::new(name)).map(drop)?;
                    }
                    made => made?,
                }
                Ok(None)
            }
            (FileKind::Link, Some(target)) => {
                make_room(&directory, name)?;
                rustix::fs::symlinkat(target, &directory, name)?;
                Ok(None)
            }
            (FileKind::File, Some(first)) => {
                let (from, first) = self.parent(first)?;
                make_room(&directory, name)?;
                rustix::fs::linkat(&from, first, &directory, name, AtFlags::empty())?;
                Ok(None)
            }
            _ => {
                make_room(&directory, name)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(0o600);
                let flags = flags | OFlags::NOFOLLOW;
                Ok(Some(rustix::fs::openat(&directory, name, flags, mode)?.into()))
            }
        }
    }

    /// The directory of a path, and the name in it.
    fn parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        // The components leave out what the bytes may still have: `a//b`, `a/./b`.
        let rebuilt: PathBuf = path.components().collect();
        let name = path.file_name().filter(|_| is_plain && rebuilt.as_os_str() == path.as_os_str());
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = self.below(&self.root, parent.unwrap_or(Path::new(".")))?;
        Ok((directory, name))
    }

    fn below(&self, directory: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(beneath::open(directory, path, OFlags::PATH | OFlags::DIRECTORY, resolve)?)
    }
}

/// Removes what has the name of something new, so that nothing is written through it.
fn make_room(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, os::unix::fs::symlink, path::Path, time::SystemTime};

    use super::{FileEntry, FileKind, Place};

    fn entry(path: &str, kind: FileKind, target: Option<&str>) -> FileEntry {
        FileEntry {
            path: path.into(),
            kind,
            mode: 0o6755,
            size: 0,
            modified: SystemTime::UNIX_EPOCH,
            target: target.map(Into::into),
        }
    }

    #[test]
    fn nothing_is_written_beside_the_place() {
        let directory = tempfile::tempdir().unwrap();
        let (inside, outside) = (directory.path().join("in"), directory.path().join("out"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "untouched").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        Place::open(&link).unwrap_err();
        Place::open(&link.join("")).unwrap();
        let place = Place::open(&inside).unwrap();
        let absolute = outside.join("new");
        for path in ["../out/new", "..", ".", "", "a/../../out/new", "a/./b", "a//b", "/", "a/"]
            .into_iter()
            .chain(absolute.to_str())
        {
            for kind in [FileKind::File, FileKind::Directory, FileKind::Link] {
                assert!(place.make(&entry(path, kind, Some("x"))).is_err(), "{path} {kind:?}");
            }
        }
        // A link that the tree itself makes is not followed either, nor one that was there.
        place.make(&entry("away", FileKind::Link, Some("../out"))).unwrap();
        symlink(&outside, inside.join("there")).unwrap();
        for path in ["away/new", "there/new", "away/file"] {
            assert!(place.make(&entry(path, FileKind::File, None)).is_err(), "{path}");
        }
        assert!(place.make(&entry("away", FileKind::Directory, None)).is_err());
        // No name is given to what is beside.
        for first in ["../out/file", "there/file", "away/file", absolute.to_str().unwrap()] {
            assert!(place.make(&entry("name", FileKind::File, Some(first))).is_err(), "{first}");
        }
        // A file in place of a link replaces the link and not what it leads to.
        symlink(outside.join("file"), inside.join("link")).unwrap();
        fs::hard_link(outside.join("file"), inside.join("hard")).unwrap();
        for name in ["link", "hard"] {
            let mut file = place.make(&entry(name, FileKind::File, None)).unwrap().unwrap();
            file.write_all(b"new").unwrap();
            assert_eq!(fs::read(inside.join(name)).unwrap(), b"new");
        }
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"untouched");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert!(!Path::new(&absolute).exists());
    }
}
