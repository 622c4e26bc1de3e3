//! Trees of files as tar archives, on their way into a sandbox and out of it.

mod header;

use std::{
    ffi::{OsStr, OsString},
    fmt, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    task::JoinHandle,
};

use self::header::{BLOCK, Extended, Header, Malformed, kind, padding};
use super::{
    Transfer,
    files::{FileEntry, FileKind, Files},
    work::{PATH_MAX, Piece, Work, as_io, failed},
};
use crate::{
    backend::helper::wire::{self, Entry, work},
    error::{Error, Result},
    exec::Stdin,
    process::ChildStdin,
};

/// How much of an archive is on its way.
const BUFFER: usize = 64 * 1024;

/// How many zeros an archive may have for holes: a file that takes no room has as many as it likes.
const MOST_ZEROS: u64 = 64 << 30;

/// The longest extended header that is read: a path, where it leads, and what nobody here needs.
const MOST_EXTENDED: u64 = 64 * 1024;

/// The permissions of a file that the sandbox is given.
const PERMISSIONS: u32 = 0o777;

/// An archive that comes out of a sandbox, made by [`Files::download_tar`]. Dropping it ends the work.
pub struct TarStream {
    archive: DuplexStream,
    /// Taken at the end of the archive.
    packing: Option<JoinHandle<Result<()>>>,
}

impl Files<'_> {
    /// Everything below a directory of the sandbox, as a tar archive that is read while it is made; or a
    /// regular file, by its name.
    ///
    /// Names are relative to the directory. Permissions, owners, times, symbolic links and files with
    /// several names are in it; pipes, sockets and devices are not, and holes are zeros, of which there
    /// may be 64 GiB: beyond that, [`Files::download`] keeps them as holes. It is of the form that every `tar` reads (`ustar`, extended by POSIX.1-2001 where something does not fit).
    ///
    /// What is in it was made in the sandbox: unpack it where a name or a link leads nowhere, or use
    /// [`Files::download`].
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// use openbrain::Sandbox;
    ///
    /// let sandbox = Sandbox::builder().create().await?;
    /// let mut archive = sandbox.files().download_tar("/workspace").await?;
    /// let mut file = tokio::fs::File::create("workspace.tar").await.unwrap();
    /// tokio::io::copy(&mut archive, &mut file).await.unwrap();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `file_failed` when there is nothing of this name, or it cannot be read. What fails later is an
    /// error of the stream, which then does not come to its end.
    pub async fn download_tar(&self, path: impl AsRef<Path>) -> Result<TarStream> {
        let path = path.as_ref();
        let mut work = Work::start(self.0, work::PACK, &[path], Stdin::Null).await?;
        work.begun().await?;
        let name = path.file_name().map(PathBuf::from);
        let (archive, to) = duplex(BUFFER);
        let packing = tokio::spawn(pack(work, name, to));
        Ok(TarStream { archive, packing: Some(packing) })
    }

    /// Makes below a directory of the sandbox, which is made when it is missing, what a tar archive
    /// has: of the forms `ustar`, POSIX.1-2001 and GNU, not compressed and not in a sparse format.
    ///
    /// Whatever the archive says, nothing is written beside the directory: no link is followed, no
    /// matter whether the archive has it or the sandbox had it. Names that are absolute or have `..` in
    /// them are an error; pipes and devices are left out; owners and set-user-ID bits are not kept.
    /// What was made before an error stays.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// use openbrain::Sandbox;
    ///
    /// let sandbox = Sandbox::builder().create().await?;
    /// let archive = tokio::fs::File::open("project.tar").await.unwrap();
    /// sandbox.files().upload_tar("/workspace/project", archive).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `file_failed` also when the archive cannot be read or understood.
    pub async fn upload_tar(
        &self,
        path: impl AsRef<Path>,
        archive: impl AsyncRead + Unpin + Send,
    ) -> Result<Transfer> {
        let mut work = Work::start(self.0, work::UNPACK, &[path.as_ref()], Stdin::Pipe).await?;
        let mut unpacked = Ok(Transfer::default());
        if let Some(stdin) = work.take_stdin() {
            let transfer = Transfer::default();
            unpacked = Unpack { archive, stdin, transfer }.run().await;
        }
        match unpacked {
            Ok(transfer) => work.finish().await.map(|()| transfer),
            Err(Failure::Archive(error)) => Err(error),
            // Whoever reads no more says why.
            Err(Failure::Sandbox(error)) => {
                Err(work.finish().await.err().unwrap_or_else(|| failed("cannot unpack", error)))
            }
        }
    }
}

/// Writes what the helper tells of as an archive; a single file has this name.
async fn pack(mut work: Work, mut name: Option<PathBuf>, mut to: DuplexStream) -> Result<()> {
    let mut zeros = MOST_ZEROS;
    while let Some((entry, mut described)) = work.next_entry().await? {
        let name = name.take();
        if described.path.as_os_str().is_empty() && described.kind == FileKind::File {
            described.path = name.ok_or_else(|| work.garbled())?;
        }
        // Whoever unpacks it relies on its names.
        let is_below =
            |path: &Path| path_below(path.as_os_str().as_bytes()).is_ok_and(|p| p == path);
        let first = described.target.as_deref().filter(|_| described.kind == FileKind::File);
        if !is_below(&described.path) || !first.is_none_or(is_below) {
            return Err(work.garbled());
        }
        let Some(header) = header_of(&entry, &described) else { continue };
        if (header.kind == kind::FILE) != (entry.has_content == 1) {
            return Err(work.garbled());
        }
        let holes = pack_one(&mut work, &mut to, &header, zeros).await?;
        zeros = holes.ok_or_else(|| too_many_zeros(&described.path))?;
    }
    to.write_all(&[0; 2 * BLOCK]).await.map_err(gone)
}

/// Writes an entry with its content, and returns how many zeros there may still be; none when there are
/// too many.
async fn pack_one(
    work: &mut Work,
    to: &mut DuplexStream,
    header: &Header,
    mut zeros: u64,
) -> Result<Option<u64>> {
    to.write_all(&header.blocks()).await.map_err(gone)?;
    if header.kind != kind::FILE {
        return Ok(Some(zeros));
    }
    // A hole comes in pieces; that it is too long is known before it is written.
    let (mut left, mut hole) = (Some(header.size), 0);
    loop {
        match work.next_piece_of(&mut left).await? {
            Piece::Bytes(bytes) => {
                write_zeros(to, std::mem::take(&mut hole)).await.map_err(gone)?;
                to.write_all(bytes).await.map_err(gone)?;
            }
            Piece::Hole(count) => {
                let Some(rest) = zeros.checked_sub(count.into()) else { return Ok(None) };
                (zeros, hole) = (rest, hole + u64::from(count));
            }
            Piece::End => break,
        }
    }
    write_zeros(to, hole + padding(header.size) as u64).await.map_err(gone)?;
    Ok(Some(zeros))
}

/// Whoever reads the archive has gone.
fn gone(error: io::Error) -> Error {
    failed("cannot write the archive", error)
}

fn too_many_zeros(path: &Path) -> Error {
    let error = io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 64 GiB of holes");
    failed(&format!("cannot write `{}` into the archive", path.display()), error)
        .with_remedy("download the directory itself, which keeps the holes of files")
}

async fn write_zeros(to: &mut DuplexStream, mut count: u64) -> io::Result<()> {
    const ZEROS: [u8; 16 * BLOCK] = [0; 16 * BLOCK];
    while count > 0 {
        let part = count.min(ZEROS.len() as u64);
        to.write_all(&ZEROS[..part as usize]).await?;
        count -= part;
    }
    Ok(())
}

/// An entry as an archive has it; none for what it does not have.
fn header_of(entry: &Entry, described: &FileEntry) -> Option<Header> {
    let mut path = described.path.as_os_str().as_bytes().to_vec();
    let kind = match (described.kind, &described.target) {
        (FileKind::File, None) => kind::FILE,
        (FileKind::File, Some(_)) => kind::HARD_LINK,
        (FileKind::Link, _) => kind::LINK,
        (FileKind::Directory, _) => {
            path.push(b'/');
            kind::DIRECTORY
        }
        (FileKind::Other, _) => return None,
    };
    let link = described.target.as_ref().map(|link| link.as_os_str().as_bytes().to_vec());
    Some(Header {
        kind,
        path,
        link: link.unwrap_or_default(),
        mode: described.mode,
        uid: entry.uid.into(),
        gid: entry.gid.into(),
        size: if kind == kind::FILE { entry.size } else { 0 },
        mtime: (entry.mtime, entry.mtime_ns.min(999_999_999)),
    })
}

/// Where an unpacking has failed.
enum Failure {
    Archive(Error),
    Sandbox(io::Error),
}

/// Tells the helper of what an archive has.
struct Unpack<R> {
    archive: R,
    stdin: ChildStdin,
    transfer: Transfer,
}

impl<R: AsyncRead + Unpin> Unpack<R> {
    async fn run(mut self) -> Result<Transfer, Failure> {
        let mut extended = Extended::default();
        while let Some(block) = self.next_block().await? {
            let about_others = Header::is_about_others(&block);
            let own =
                if about_others { Extended::default() } else { std::mem::take(&mut extended) };
            let Some(header) = Header::parse(&block, own).map_err(malformed)? else { break };
            match header.kind {
                kind::EXTENDED => {
                    let records = self.take(header.size).await?;
                    extended.read(&records).map_err(malformed)?;
                }
                kind::GLOBAL => drop(self.take(header.size).await?),
                kind::LONG_PATH => extended.path = Some(self.take_text(header.size).await?),
                kind::LONG_LINK => extended.link = Some(self.take_text(header.size).await?),
                _ => self.make(header).await?,
            }
        }
        self.stdin.shutdown().await.map_err(Failure::Sandbox)?;
        Ok(self.transfer)
    }

    /// The next block; none at the end of the archive, whether or not it has a mark there.
    async fn next_block(&mut self) -> Result<Option<[u8; BLOCK]>, Failure> {
        let mut block = [0; BLOCK];
        let first = self.archive.read(&mut block).await.map_err(unreadable)?;
        if first == 0 {
            return Ok(None);
        }
        self.archive.read_exact(&mut block[first..]).await.map_err(unreadable)?;
        Ok(Some(block))
    }

    /// What is said about other entries.
    async fn take(&mut self, size: u64) -> Result<Vec<u8>, Failure> {
        if size > MOST_EXTENDED {
            return Err(malformed(Malformed::Extended));
        }
        let mut bytes = vec![0; size as usize + padding(size)];
        self.archive.read_exact(&mut bytes).await.map_err(unreadable)?;
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    async fn take_text(&mut self, size: u64) -> Result<Vec<u8>, Failure> {
        let mut text = self.take(size).await?;
        text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
        Ok(text)
    }

    async fn make(&mut self, header: Header) -> Result<(), Failure> {
        let path = path_below(&header.path)?;
        if kind::SPECIAL.contains(&header.kind) {
            self.transfer.skip(path);
            return self.pass(None, header.size + padding(header.size) as u64).await;
        }
        // The directory itself is there.
        if path.as_os_str().is_empty() {
            return self.pass(None, header.size + padding(header.size) as u64).await;
        }
        let (kind, link) = match header.kind {
            kind::FILE => (Entry::FILE, Vec::new()),
            kind::HARD_LINK => (Entry::FILE, path_below(&header.link)?.into_os_string().into_vec()),
            kind::LINK => (Entry::LINK, header.link.clone()),
            kind::DIRECTORY => (Entry::DIRECTORY, Vec::new()),
            other => return Err(unknown(&path, other)),
        };
        if link.is_empty() && matches!(header.kind, kind::LINK | kind::HARD_LINK) {
            return Err(refused(&path, "leads nowhere"));
        }
        if link.len() >= PATH_MAX as usize || link.contains(&0) {
            return Err(refused(&path, "leads to what cannot be a path"));
        }
        let entry = Entry {
            mode: kind | header.mode & PERMISSIONS,
            mtime: header.mtime.0,
            mtime_ns: header.mtime.1,
            size: header.size,
            path: path.as_os_str().len() as u32,
            link: link.len() as u32,
            has_content: u32::from(header.kind == kind::FILE),
            ..Entry::default()
        };
        for bytes in [wire::bytes_of(&entry), path.as_os_str().as_bytes(), &link] {
            self.stdin.write_all(bytes).await.map_err(Failure::Sandbox)?;
        }
        self.transfer.entries += 1;
        if header.kind == kind::FILE {
            self.pass(Some(header.size), padding(header.size) as u64).await?;
            self.transfer.bytes += header.size;
        }
        Ok(())
    }

    /// Hands on a content of this size, in pieces, when there is one, and reads over so many bytes.
    async fn pass(&mut self, content: Option<u64>, over: u64) -> Result<(), Failure> {
        let mut piece = vec![0; 4 + BUFFER];
        let mut left = content.unwrap_or_default();
        while left > 0 {
            let length = left.min(BUFFER as u64) as usize;
            let (header, bytes) = piece[..4 + length].split_at_mut(4);
            self.archive.read_exact(bytes).await.map_err(unreadable)?;
            header.copy_from_slice(&(length as u32).to_ne_bytes());
            self.stdin.write_all(&piece[..4 + length]).await.map_err(Failure::Sandbox)?;
            left -= length as u64;
        }
        if content.is_some() {
            self.stdin.write_all(&[0; 4]).await.map_err(Failure::Sandbox)?;
        }
        let mut left = over;
        while left > 0 {
            let length = left.min(BUFFER as u64) as usize;
            self.archive.read_exact(&mut piece[..length]).await.map_err(unreadable)?;
            left -= length as u64;
        }
        Ok(())
    }
}

/// A name in an archive as a path below a directory; empty for the directory itself.
fn path_below(name: &[u8]) -> Result<PathBuf, Failure> {
    let shown = Path::new(OsStr::from_bytes(name));
    if name.starts_with(b"/") {
        return Err(refused(shown, "is an absolute path"));
    }
    if name.contains(&0) || name.len() >= PATH_MAX as usize {
        return Err(refused(shown, "cannot be a path"));
    }
    let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let mut path = Vec::new();
    for part in parts {
        if part == b".." {
            return Err(refused(shown, "leads out of the directory"));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    Ok(OsString::from_vec(path).into())
}

fn refused(path: &Path, why: &str) -> Failure {
    let error = io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let what = format!("cannot unpack: `{}` of the archive", path.display());
    let remedy = "write the file itself into the sandbox and unpack it by `tar` there";
    Failure::Archive(failed(&what, error).with_remedy(remedy))
}

fn unknown(path: &Path, kind: u8) -> Failure {
    refused(path, &format!("is of the unknown kind `{}`", kind.escape_ascii()))
}

fn malformed(why: Malformed) -> Failure {
    let error = io::Error::new(io::ErrorKind::InvalidData, why);
    let remedy = "give the archive as `tar -c` makes it, without compression";
    Failure::Archive(failed("cannot read the archive", error).with_remedy(remedy))
}

fn unreadable(error: io::Error) -> Failure {
    Failure::Archive(failed("cannot read the archive", error))
}

impl AsyncRead for TarStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.archive).poll_read(cx, buffer))?;
        if buffer.filled().len() > before || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // The archive is at its end when all of it is there.
        let Some(packing) = &mut self.packing else { return Poll::Ready(Ok(())) };
        let packed = ready!(Pin::new(packing).poll(cx));
        self.packing = None;
        Poll::Ready(packed.map_err(io::Error::other)?.map_err(as_io))
    }
}

impl Drop for TarStream {
    fn drop(&mut self) {
        if let Some(packing) = &self.packing {
            packing.abort();
        }
    }
}

impl fmt::Debug for TarStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TarStream")
    }
}
