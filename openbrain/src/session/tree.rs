//! Trees of files on their way into a sandbox and out of it.
//!
//! What comes out is hostile: every name is checked, and every path opened below the directory that it
//! belongs to, with no link on the way (`openat2(2)`).

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, PermissionsExt},
        },
    },
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use tokio::io::AsyncWriteExt;

use super::{
    Sandbox,
    files::{FileEntry, FileKind},
    work::{Work, failed},
};
use crate::{
    backend::helper::wire::{self, Entry, work},
    error::{Error, Result},
    exec::Stdin,
    process::ChildStdin,
};

/// How much of a file is read at a time.
const PIECE: usize = 64 * 1024;

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// How many files, directories and links.
    pub entries: u64,
    /// Bytes of the contents of files.
    pub bytes: u64,
    /// What is neither, and was left out.
    pub skipped: Vec<PathBuf>,
}

pub(super) async fn upload(sandbox: &Sandbox, from: &Path, to: &Path) -> Result<Transfer> {
    let cannot = |error| failed(&format!("cannot read `{}`", from.display()), error);
    if !fs::metadata(from).map_err(cannot)?.is_dir() {
        return Err(cannot(io::ErrorKind::NotADirectory.into()));
    }
    let mut work = Work::start(sandbox, work::UNPACK, &[to], Stdin::Pipe).await?;
    let mut transfer = Transfer::default();
    if let Some(stdin) = work.take_stdin() {
        let mut sender = Sender { stdin, transfer: &mut transfer };
        match sender.send_tree(from).await {
            // Whoever reads no more says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent.map_err(cannot)?,
        }
    }
    work.finish().await?;
    Ok(transfer)
}

/// Tells the helper of a tree of the host.
struct Sender<'a> {
    stdin: ChildStdin,
    transfer: &'a mut Transfer,
}

impl Sender<'_> {
    async fn send_tree(&mut self, root: &Path) -> io::Result<()> {
        let mut left = vec![PathBuf::new()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(root.join(&directory))? {
                let entry = entry?;
                let path = directory.join(entry.file_name());
                let meta = entry.metadata()?;
                if meta.is_dir() {
                    left.push(path.clone());
                }
                self.send(&entry.path(), path, &meta).await?;
            }
        }
        self.stdin.shutdown().await
    }

    async fn send(&mut self, place: &Path, path: PathBuf, meta: &fs::Metadata) -> io::Result<()> {
        let kind = meta.file_type();
        let link = match kind.is_symlink() {
            true => fs::read_link(place)?,
            false => PathBuf::new(),
        };
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            self.transfer.skipped.push(path);
            return Ok(());
        }
        let entry = Entry {
            mode: meta.permissions().mode(),
            mtime: meta.mtime(),
            mtime_ns: meta.mtime_nsec() as u32,
            size: meta.size(),
            path: path.as_os_str().len() as u32,
            link: link.as_os_str().len() as u32,
            has_content: u32::from(kind.is_file()),
            ..Entry::default()
        };
        self.stdin.write_all(wire::bytes_of(&entry)).await?;
        self.stdin.write_all(path.as_os_str().as_bytes()).await?;
        self.stdin.write_all(link.as_os_str().as_bytes()).await?;
        if kind.is_file() {
            self.send_content(File::open(place)?).await?;
        }
        self.transfer.entries += 1;
        Ok(())
    }

    async fn send_content(&mut self, mut file: File) -> io::Result<()> {
        let mut piece = vec![0; 4 + PIECE];
        loop {
            let length = file.read(&mut piece[4..])?;
            piece[..4].copy_from_slice(&(length as u32).to_ne_bytes());
            self.stdin.write_all(&piece[..4 + length]).await?;
            self.transfer.bytes += length as u64;
            if length == 0 {
                return Ok(());
            }
        }
    }
}

pub(super) async fn download(sandbox: &Sandbox, from: &Path, to: &Path) -> Result<Transfer> {
    let mut work = Work::start(sandbox, work::PACK, &[from], Stdin::Null).await?;
    let place = Place::open(to)?;
    let mut transfer = Transfer::default();
    while let Some((entry, described)) = work.next_entry().await? {
        if described.kind == FileKind::Other {
            transfer.skipped.push(described.path);
            continue;
        }
        let file = place.make(&described)?;
        if let (Some(mut file), 1) = (file, entry.has_content) {
            while let Some(piece) = work.next_piece().await? {
                file.write_all(piece).map_err(|e| place.cannot(&described.path, e))?;
                transfer.bytes += piece.len() as u64;
            }
            finish(&file, &described).map_err(|e| place.cannot(&described.path, e))?;
        }
        transfer.entries += 1;
    }
    Ok(transfer)
}

/// Gives a new file its permissions and its time.
fn finish(file: &File, entry: &FileEntry) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(entry.mode & 0o777))?;
    // A time that the file system cannot keep is no reason to fail.
    let _ = file.set_modified(entry.modified.max(SystemTime::UNIX_EPOCH));
    Ok(())
}

/// A directory of the host that is written to, and nothing beside it.
#[derive(Debug)]
struct Place {
    root: OwnedFd,
    path: PathBuf,
}

impl Place {
    fn open(path: &Path) -> Result<Self> {
        let open = || {
            fs::create_dir_all(path)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::open(path, flags, Mode::empty())?)
        };
        let cannot = |e| failed(&format!("cannot write to `{}`", path.display()), e);
        Ok(Self { root: open().map_err(cannot)?, path: path.to_owned() })
    }

    fn cannot(&self, path: &Path, error: io::Error) -> Error {
        failed(&format!("cannot write `{}`", self.path.join(path).display()), error)
    }

    /// Makes an entry; returns a file to be written.
    fn make(&self, entry: &FileEntry) -> Result<Option<File>> {
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
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve)?)
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
    use std::{fs, os::unix::fs::symlink, path::Path, time::SystemTime};

    use super::{FileEntry, FileKind, Place, Write};

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
