//! Trees of files on their way into a sandbox and out of it.
//!
//! What comes out is hostile: every name is checked, and every path opened below the directory that it
//! belongs to, with no link on the way (`openat2(2)`).

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Seek, Write},
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

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, SeekFrom};
use tokio::io::AsyncWriteExt;

use super::{
    Sandbox,
    files::{FileEntry, FileKind},
    work::{Piece, Work, failed},
};
use crate::{
    backend::helper::wire::{self, Entry, work},
    beneath,
    error::{Error, Result},
    exec::Stdin,
    process::ChildStdin,
};

/// How much of a file is read at a time.
const PIECE: usize = 64 * 1024;

/// How many names of what was left out are kept: there may be more than memory for them.
const MOST_SKIPPED: usize = 10_000;

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// How many files, directories and links.
    pub entries: u64,
    /// Bytes of the contents of files, without their holes; a file with several names counts once.
    pub bytes: u64,
    /// What is neither, and was left out; the first 10,000 of them.
    pub skipped: Vec<PathBuf>,
}

impl Transfer {
    pub(super) fn skip(&mut self, path: PathBuf) {
        if self.skipped.len() < MOST_SKIPPED {
            self.skipped.push(path);
        }
    }
}

pub(super) async fn upload(sandbox: &Sandbox, from: &Path, to: &Path) -> Result<Transfer> {
    let cannot = |error| failed(&format!("cannot read `{}`", from.display()), error);
    if !fs::metadata(from).map_err(cannot)?.is_dir() {
        return Err(cannot(io::ErrorKind::NotADirectory.into()));
    }
    let mut work = Work::start(sandbox, work::UNPACK, &[to], Stdin::Pipe).await?;
    let mut transfer = Transfer::default();
    if let Some(stdin) = work.take_stdin() {
        let mut sender = Sender { stdin, names: HashMap::new(), transfer: &mut transfer };
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
    /// The first names of files with several, by device and inode.
    names: HashMap<(u64, u64), PathBuf>,
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
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            self.transfer.skip(path);
            return Ok(());
        }
        let link = match kind.is_symlink() {
            true => fs::read_link(place)?,
            false => self.first_name(&path, meta),
        };
        let has_content = kind.is_file() && link.as_os_str().is_empty();
        let entry = Entry {
            mode: meta.permissions().mode(),
            mtime: meta.mtime(),
            mtime_ns: meta.mtime_nsec() as u32,
            size: meta.size(),
            path: path.as_os_str().len() as u32,
            link: link.as_os_str().len() as u32,
            has_content: u32::from(has_content),
            ..Entry::default()
        };
        self.stdin.write_all(wire::bytes_of(&entry)).await?;
        self.stdin.write_all(path.as_os_str().as_bytes()).await?;
        self.stdin.write_all(link.as_os_str().as_bytes()).await?;
        if has_content {
            self.send_content(File::open(place)?, meta.blocks() * 512 < meta.size()).await?;
        }
        self.transfer.entries += 1;
        Ok(())
    }

    /// The name by which a file was sent already; empty for one that was not.
    fn first_name(&mut self, path: &Path, meta: &fs::Metadata) -> PathBuf {
        if meta.is_dir() || meta.nlink() < 2 {
            return PathBuf::new();
        }
        let first = self.names.entry((meta.dev(), meta.ino())).or_insert_with(|| path.to_owned());
        if first == path { PathBuf::new() } else { first.clone() }
    }

    async fn send_content(&mut self, file: File, has_holes: bool) -> io::Result<()> {
        if !has_holes || !self.send_with_holes(&file).await? {
            self.send_bytes(&file).await?;
        }
        self.stdin.write_all(&[0; 4]).await
    }

    /// False, with nothing sent, when the file system does not tell of holes.
    async fn send_with_holes(&mut self, mut file: &File) -> io::Result<bool> {
        let mut at = 0;
        loop {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data,
                // Nothing but a hole up to the end.
                Err(rustix::io::Errno::NXIO) => {
                    let end = rustix::fs::seek(file, SeekFrom::End(0))?;
                    self.send_hole(end.saturating_sub(at)).await?;
                    return Ok(true);
                }
                Err(_) if at == 0 => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let hole = rustix::fs::seek(file, SeekFrom::Hole(data))?;
            self.send_hole(data - at).await?;
            file.seek(io::SeekFrom::Start(data))?;
            self.send_bytes(file.take(hole - data)).await?;
            at = hole;
        }
    }

    async fn send_bytes(&mut self, mut from: impl Read) -> io::Result<()> {
        let mut piece = vec![0; 4 + PIECE];
        loop {
            let length = from.read(&mut piece[4..])?;
            if length == 0 {
                return Ok(());
            }
            piece[..4].copy_from_slice(&(length as u32).to_ne_bytes());
            self.stdin.write_all(&piece[..4 + length]).await?;
            self.transfer.bytes += length as u64;
        }
    }

    async fn send_hole(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let part = count.min(u64::from(work::HOLE - 1));
            self.stdin.write_all(&(work::HOLE | part as u32).to_ne_bytes()).await?;
            count -= part;
        }
        Ok(())
    }
}

pub(super) async fn download(sandbox: &Sandbox, from: &Path, to: &Path) -> Result<Transfer> {
    let mut work = Work::start(sandbox, work::PACK, &[from], Stdin::Null).await?;
    let place = Place::open(to)?;
    let mut transfer = Transfer::default();
    while let Some((entry, described)) = work.next_entry().await? {
        if described.kind == FileKind::Other {
            transfer.skip(described.path);
            continue;
        }
        let file = place.make(&described)?;
        if let (Some(mut file), 1) = (file, entry.has_content) {
            let cannot = |error| place.cannot(&described.path, error);
            transfer.bytes += receive(&mut work, &mut file, cannot).await?;
            finish(&file, &described).map_err(cannot)?;
        }
        transfer.entries += 1;
    }
    Ok(transfer)
}

/// Writes the content of a file, with its holes; returns how many bytes it has beside them.
async fn receive(
    work: &mut Work,
    file: &mut File,
    cannot: impl Fn(io::Error) -> Error,
) -> Result<u64> {
    let (mut length, mut holes) = (0u64, 0);
    loop {
        match work.next_piece().await? {
            Piece::Bytes(bytes) => {
                file.write_all(bytes).map_err(&cannot)?;
                length += bytes.len() as u64;
            }
            Piece::Hole(count) => {
                file.seek_relative(count.into()).map_err(&cannot)?;
                holes += u64::from(count);
            }
            Piece::End => break,
        }
    }
    if holes > 0 {
        // A hole at the end is there once the file is so long.
        file.set_len(length + holes).map_err(&cannot)?;
    }
    Ok(length)
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
