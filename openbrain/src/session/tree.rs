//! Trees of files on their way into a sandbox and out of it.
//!
//! What comes out is hostile: every name is checked, and every path opened below the directory that it
//! belongs to, with no link on the way (`openat2(2)`). What goes in may be changed by a sandbox meanwhile,
//! and is read in the same way.

mod place;
mod source;

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::fs::SeekFrom;
use tokio::io::AsyncWriteExt;

use self::{
    place::Place,
    source::{Source, Tree},
};
use super::{
    Sandbox,
    files::{FileEntry, FileKind},
    work::{Piece, Work, failed},
};
use crate::{
    backend::helper::wire::{self, Entry, work},
    error::Result,
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
    let cannot = |path: &Path, error| failed(&format!("cannot read `{}`", path.display()), error);
    let source = Source::open(from).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => cannot(from, error)
            .with_remedy("name a regular file or a directory; no link is followed"),
        _ => cannot(from, error),
    })?;
    let (place, name) = match source {
        Source::Tree(_) => (to, None),
        Source::File(_) => parted(to).map(|(place, name)| (place, Some(name)))?,
    };
    let mut work = Work::start(sandbox, work::UNPACK, &[place], Stdin::Pipe).await?;
    let mut transfer = Transfer::default();
    if let Some(stdin) = work.take_stdin() {
        let (names, at) = (HashMap::new(), PathBuf::new());
        let mut sender = Sender { stdin, names, at, transfer: &mut transfer };
        let sent = match &source {
            Source::Tree(tree) => sender.send_tree(tree).await,
            Source::File(entry) => {
                sender.send(entry, name.map(PathBuf::from).unwrap_or_default()).await
            }
        };
        match sent.and(sender.stdin.shutdown().await) {
            // Whoever reads no more says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent.map_err(|error| match sender.at.as_os_str().is_empty() {
                true => cannot(from, error),
                false => cannot(&from.join(&sender.at), error),
            })?,
        }
    }
    work.finish().await?;
    Ok(transfer)
}

/// The directory that a file is to be in, and its name there.
fn parted(path: &Path) -> Result<(&Path, &OsStr)> {
    let last = path.as_os_str().as_bytes().rsplit(|byte| *byte == b'/').next();
    // The components leave out a slash at the end, or a dot.
    let name = path.file_name().filter(|name| Some(name.as_bytes()) == last);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match name {
        Some(name) => Ok((parent.unwrap_or(Path::new(".")), name)),
        None => Err(failed(
            &format!("`{}` is not the name of a file", path.display()),
            io::ErrorKind::InvalidInput.into(),
        )
        .with_remedy("say how the copy of the file is to be called")),
    }
}

/// Tells the helper of a tree of the host.
struct Sender<'a> {
    stdin: ChildStdin,
    /// The first names of files with several, by device and inode.
    names: HashMap<(u64, u64), PathBuf>,
    /// What is being read, below the root.
    at: PathBuf,
    transfer: &'a mut Transfer,
}

impl Sender<'_> {
    async fn send_tree(&mut self, tree: &Tree) -> io::Result<()> {
        let mut left = vec![PathBuf::new()];
        while let Some(directory) = left.pop() {
            self.at.clone_from(&directory);
            for (name, entry) in tree.entries(&directory)? {
                let path = directory.join(name);
                self.at.clone_from(&path);
                let entry = entry?;
                if entry.meta.is_dir() {
                    left.push(path.clone());
                }
                self.send(&entry, path).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, entry: &source::Entry, path: PathBuf) -> io::Result<()> {
        let source::Entry { file, meta } = entry;
        let kind = meta.file_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            self.transfer.skip(path);
            return Ok(());
        }
        let link = match kind.is_symlink() {
            true => entry.target()?,
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
            self.send_content(file, meta).await?;
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

    /// No more than the file has now: one that grows has no end.
    async fn send_content(&mut self, file: &File, meta: &fs::Metadata) -> io::Result<()> {
        let has_holes = meta.blocks() * 512 < meta.size();
        if !has_holes || !self.send_with_holes(file, meta.size()).await? {
            self.send_bytes(file.take(meta.size())).await?;
        }
        self.stdin.write_all(&[0; 4]).await
    }

    /// False, with nothing sent, when the file system does not tell of holes.
    async fn send_with_holes(&mut self, mut file: &File, size: u64) -> io::Result<bool> {
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                // Nothing but a hole up to the end.
                Err(rustix::io::Errno::NXIO) => size,
                Err(_) if at == 0 => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            self.send_hole(data - at).await?;
            at = match rustix::fs::seek(file, SeekFrom::Hole(data)) {
                Ok(hole) => hole.min(size),
                Err(_) => size,
            };
            file.seek(io::SeekFrom::Start(data))?;
            self.send_bytes(file.take(at - data)).await?;
        }
        Ok(true)
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
    let mut next = work.next_entry().await?;
    if let Some((entry, described)) = &mut next
        && described.path.as_os_str().is_empty()
    {
        return download_file(work, entry, described, to).await;
    }
    let place = Place::open(to)?;
    let mut transfer = Transfer::default();
    while let Some((entry, described)) = next {
        match described.kind {
            FileKind::Other => transfer.skip(described.path),
            _ => transfer.bytes += receive(&mut work, &place, &entry, &described).await?,
        }
        transfer.entries += u64::from(described.kind != FileKind::Other);
        next = work.next_entry().await?;
    }
    Ok(transfer)
}

/// Takes one regular file, and nothing else: its neighbours are none of the sandbox's business.
async fn download_file(
    mut work: Work,
    entry: &Entry,
    described: &mut FileEntry,
    to: &Path,
) -> Result<Transfer> {
    let (directory, name) = parted(to)?;
    if (described.kind, &described.target) != (FileKind::File, &None) {
        return Err(work.garbled());
    }
    described.path = name.into();
    // The way to it is the caller's, links and all.
    let place = Place::open(&directory.join(""))?;
    let bytes = receive(&mut work, &place, entry, described).await?;
    match work.next_entry().await? {
        None => Ok(Transfer { entries: 1, bytes, skipped: Vec::new() }),
        Some(_) => Err(work.garbled()),
    }
}

/// Makes an entry with its content, and returns how many bytes that has beside holes.
async fn receive(
    work: &mut Work,
    place: &Place,
    entry: &Entry,
    described: &FileEntry,
) -> Result<u64> {
    let cannot = |error| place.cannot(&described.path, error);
    let (Some(mut file), 1) = (place.make(described)?, entry.has_content) else { return Ok(0) };
    let (mut left, mut holes) = (Some(entry.size), 0);
    loop {
        match work.next_piece_of(&mut left).await? {
            Piece::Bytes(bytes) => file.write_all(bytes).map_err(cannot)?,
            Piece::Hole(count) => {
                file.seek_relative(count.into()).map_err(cannot)?;
                holes += u64::from(count);
            }
            Piece::End => break,
        }
    }
    if holes > 0 {
        // A hole at the end is there once the file is so long.
        file.set_len(entry.size).map_err(cannot)?;
    }
    finish(&file, described).map_err(cannot)?;
    Ok(entry.size - holes)
}

/// Gives a new file its permissions and its time.
fn finish(file: &File, entry: &FileEntry) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(entry.mode & 0o777))?;
    // A time that the file system cannot keep is no reason to fail.
    let _ = file.set_modified(entry.modified.max(SystemTime::UNIX_EPOCH));
    Ok(())
}
