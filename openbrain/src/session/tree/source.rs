//! What of the host goes into a sandbox. A sandbox may have it mounted, and change it meanwhile: nothing
//! is reached through a link, and nobody is waited for.

use std::{
    ffi::{CStr, OsStr, OsString},
    fs::{File, Metadata},
    io,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Dir, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::beneath;

/// What is sent.
#[derive(Debug)]
pub(super) enum Source {
    /// A regular file.
    File(Entry),
    /// A directory with everything below.
    Tree(Tree),
}

/// A directory that is not left.
#[derive(Debug)]
pub(super) struct Tree(OwnedFd);

/// An entry of a directory, held open: to be read when it is a regular file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) file: File,
    pub(super) meta: Metadata,
}

impl Source {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = TO_BE_READ | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::LOOP) => return Err(refused("it is a symbolic link")),
            opened => File::from(opened?),
        };
        let meta = file.metadata()?;
        match (meta.is_dir(), meta.is_file()) {
            (true, _) => Ok(Self::Tree(Tree(file.into()))),
            (_, true) => Ok(Self::File(Entry { file, meta })),
            _ => Err(refused("it is neither a file nor a directory")),
        }
    }
}

/// A named pipe does not wait for its writer, and a terminal is nobody's.
const TO_BE_READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

impl Tree {
    /// The entries of a directory below, by their names; one that is gone before it was looked at is
    /// none.
    pub(super) fn entries(
        &self,
        path: &Path,
    ) -> io::Result<impl Iterator<Item = (OsString, io::Result<Entry>)> + use<>> {
        let directory = match open(&self.0, path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if is_gone(&error) && !path.as_os_str().is_empty() => None,
            directory => Some(directory?),
        };
        let listed = directory.as_ref().map(Dir::read_from).transpose()?;
        let found = listed.into_iter().flatten().filter_map(move |entry| {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Some((OsString::new(), Err(error.into()))),
            };
            let name: &CStr = entry.file_name();
            let name = OsStr::from_bytes(name.to_bytes());
            if name == "." || name == ".." {
                return None;
            }
            let found = Entry::open(directory.as_ref()?, name, entry.file_type());
            let is_gone = found.as_ref().is_err_and(is_gone);
            (!is_gone).then(|| (name.to_owned(), found))
        });
        Ok(found)
    }
}

impl Entry {
    fn open(directory: &OwnedFd, name: &OsStr, told: FileType) -> io::Result<Self> {
        let open = |flags| -> io::Result<Self> {
            let file = File::from(open(directory, Path::new(name), flags)?);
            let meta = file.metadata()?;
            Ok(Self { file, meta })
        };
        if told != FileType::RegularFile {
            let found = open(OFlags::PATH)?;
            // Not every file system tells, and what it told may have changed.
            if !found.meta.is_file() {
                return Ok(found);
            }
        }
        open(TO_BE_READ)
    }

    /// Where a symbolic link leads.
    pub(super) fn target(&self) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.file, "", Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }
}

fn open(directory: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(beneath::open(directory, path, flags | OFlags::NOFOLLOW, resolve)?)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        io::Read,
        os::unix::fs::symlink,
        path::Path,
        sync::atomic::{AtomicBool, Ordering},
    };

    use rustix::fs::{CWD, Mode, RenameFlags, mkfifoat, renameat_with};

    use super::{Source, Tree};

    fn tree(path: &Path) -> Tree {
        match Source::open(path).unwrap() {
            Source::Tree(tree) => tree,
            Source::File(_) => panic!("{path:?} is a directory"),
        }
    }

    /// Everything that is read of the files in a directory below.
    fn read(tree: &Tree, path: &str) -> io::Result<String> {
        let mut content = String::new();
        for entry in tree.entries(Path::new(path))? {
            let mut entry = entry.1?;
            if entry.meta.is_file() {
                entry.file.read_to_string(&mut content)?;
            }
        }
        Ok(content)
    }

    /// Somebody exchanges two names all the time, while somebody else looks.
    fn while_swapping(one: &Path, other: &Path, mut look: impl FnMut()) {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
                }
            });
            (0..5_000).for_each(|_| look());
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn what_is_swapped_meanwhile_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir_all(path("in/sub")).unwrap();
        fs::create_dir(path("outside")).unwrap();
        for (name, content) in
            [("in/file", "open"), ("in/sub/file", "open"), ("outside/file", "secret")]
        {
            fs::write(path(name), content).unwrap();
        }
        symlink(path("outside/file"), path("link")).unwrap();
        symlink(path("outside"), path("directory-link")).unwrap();
        mkfifoat(CWD, path("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        let tree = tree(&path("in"));
        let mut seen = 0;
        let mut look = |below: &str| {
            let content = read(&tree, below).unwrap_or_default();
            assert!(["", "open"].contains(&&*content), "{content}");
            seen += usize::from(!content.is_empty());
        };
        while_swapping(&path("in/file"), &path("link"), || look(""));
        while_swapping(&path("in/file"), &path("pipe"), || look(""));
        while_swapping(&path("in/sub"), &path("directory-link"), || look("sub"));
        assert!(seen > 0);
    }

    #[test]
    fn what_is_gone_meanwhile_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        for n in 0..10 {
            fs::write(path(&n.to_string()), "x").unwrap();
        }
        let tree = tree(directory.path());
        let mut entries = tree.entries(Path::new("")).unwrap();
        entries.next().unwrap().1.unwrap();
        fs::remove_dir(path("sub")).unwrap();
        (0..10).for_each(|n| fs::remove_file(path(&n.to_string())).unwrap());
        assert_eq!(entries.count(), 0);
        assert_eq!(tree.entries(Path::new("sub")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_named_is_a_file_or_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "x").unwrap();
        symlink(path("file"), path("link")).unwrap();
        mkfifoat(CWD, path("pipe"), Mode::RUSR).unwrap();
        assert!(matches!(Source::open(&path("file")), Ok(Source::File(_))));
        for (name, kind) in [
            ("link", io::ErrorKind::InvalidInput),
            ("pipe", io::ErrorKind::InvalidInput),
            ("none", io::ErrorKind::NotFound),
        ] {
            assert_eq!(Source::open(&path(name)).unwrap_err().kind(), kind, "{name}");
        }
    }
}
