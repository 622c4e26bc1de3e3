//! Work on files, as a command that runs inside: the helper itself, which is there in every sandbox.

use std::{
    ffi::OsString,
    future::poll_fn,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use super::{
    Sandbox,
    files::{FileEntry, FileKind},
};
use crate::{
    backend::helper::wire::{self, Change, Entry, work},
    error::{Error, ErrorKind, Result},
    event::Event,
    exec::{Exec, Stdin},
    output::Status,
    process::{ChildStdin, Process},
};

/// The helper, which executes this path until the command takes its place.
const HELPER: &str = "/proc/self/exe";

/// The longest path that Linux takes (`PATH_MAX`).
pub(super) const PATH_MAX: u32 = 4096;

/// The longest piece of a file's content.
const LONGEST_PIECE: u32 = 64 * 1024;

/// A part of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<T> {
    Bytes(T),
    /// So many zeros that take no room.
    Hole(u32),
    /// The end.
    End,
}

/// Work that has begun, and what it says. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Work {
    process: Process,
    /// What is said of a failure, and of which kind it is.
    what: String,
    kind: ErrorKind,
    heard: Vec<u8>,
    /// How much of `heard` was taken.
    taken: usize,
    /// What was said on standard error: the name of the program, or that of another one.
    said: Vec<u8>,
    is_over: bool,
}

impl Work {
    /// Starts work of this name on these paths.
    pub(super) async fn start(
        sandbox: &Sandbox,
        name: &[u8],
        paths: &[&Path],
        stdin: Stdin,
    ) -> Result<Self> {
        let mut arguments = Vec::new();
        for path in paths {
            arguments.push(text(path)?);
        }
        let on = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        let what = format!("cannot {} `{on}` in the sandbox", String::from_utf8_lossy(name));
        let exec = Self::command(name, arguments).stdin(stdin);
        Ok(Self::of(sandbox.spawn(exec).await?, what, ErrorKind::FileFailed))
    }

    /// The command that does this work.
    pub(super) fn command(name: &[u8], arguments: impl IntoIterator<Item = String>) -> Exec {
        let words = [HELPER.as_bytes(), work::FILES, name];
        let words = words.map(|word| String::from_utf8_lossy(word).into_owned());
        Exec::argv(words.into_iter().chain(arguments))
    }

    /// The work that such a command does; `what` and `kind` are those of its failure.
    pub(super) fn of(process: Process, what: String, kind: ErrorKind) -> Self {
        let (heard, said) = (Vec::new(), Vec::new());
        Self { process, what, kind, heard, taken: 0, said, is_over: false }
    }

    pub(super) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.process.take_stdin()
    }

    /// Waits until there are so many bytes; false when there is nothing more. The end of the work is
    /// looked at there, so that nothing of a failed one is taken for all of it.
    async fn fill(&mut self, count: usize) -> Result<bool> {
        poll_fn(|cx| self.poll_fill(cx, count)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, count: usize) -> Poll<Result<bool>> {
        if self.taken > LONGEST_PIECE as usize {
            self.heard.drain(..self.taken);
            self.taken = 0;
        }
        while self.heard.len() - self.taken < count {
            if self.is_over {
                return Poll::Ready(match self.heard.len() == self.taken {
                    true => Ok(false),
                    false => Err(self.garbled()),
                });
            }
            match ready!(self.process.poll_event(cx))? {
                Some(Event::Stdout(bytes)) => self.heard.extend_from_slice(&bytes),
                Some(Event::Ended(output)) => {
                    self.is_over = true;
                    self.check(output.status)?;
                }
                Some(Event::Stderr(bytes)) => {
                    self.said.extend_from_slice(&bytes);
                    if !work::FILES.starts_with(&self.said) {
                        return Poll::Ready(Err(self.no_helper()));
                    }
                }
                None => self.is_over = true,
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Waits until it is known whether the work can be done: until it says something, or is done.
    pub(super) async fn begun(&mut self) -> Result<()> {
        self.fill(1).await.map(drop)
    }

    /// The next bytes, exactly so many; none at the end.
    async fn take(&mut self, count: usize) -> Result<Option<&[u8]>> {
        if count > 0 && !self.fill(count).await? {
            return Ok(None);
        }
        Ok(Some(self.took(count)))
    }

    /// Whatever comes next; none at the end.
    pub(super) async fn next_bytes(&mut self) -> Result<Option<&[u8]>> {
        match self.fill(1).await? {
            true => self.take(self.heard.len() - self.taken).await,
            false => Ok(None),
        }
    }

    /// The next entry; none at the end.
    pub(super) async fn next_entry(&mut self) -> Result<Option<(Entry, FileEntry)>> {
        let Some(bytes) = self.take(size_of::<Entry>()).await? else { return Ok(None) };
        let entry = wire::read::<Entry>(bytes, 0);
        let sound = |entry: &Entry| entry.path <= PATH_MAX && entry.link <= PATH_MAX;
        let entry = entry.filter(sound).ok_or_else(|| self.garbled())?;
        let path = self.take_path(entry.path).await?;
        let link = self.take_path(entry.link).await?;
        let kind = kind_of(&entry);
        let described = FileEntry {
            path,
            kind,
            mode: entry.mode & 0o7777,
            size: entry.size,
            modified: time(entry.mtime, entry.mtime_ns),
            target: (entry.link > 0).then_some(link),
        };
        Ok(Some((entry, described)))
    }

    /// What has happened next in a directory that is watched; none at the end.
    pub(super) async fn next_change(&mut self) -> Result<Option<(Change, PathBuf)>> {
        // Nothing is taken before all is there, so that a wait can be given up.
        let size = size_of::<Change>();
        if !self.fill(size).await? {
            return Ok(None);
        }
        let change = wire::read::<Change>(&self.heard, self.taken);
        let change =
            change.filter(|change| change.path <= PATH_MAX).ok_or_else(|| self.garbled())?;
        let length = change.path as usize;
        if !self.fill(size + length).await? {
            return Err(self.garbled());
        }
        let path = self.took(size + length)[size..].to_vec();
        Ok(Some((change, OsString::from_vec(path).into())))
    }

    async fn take_path(&mut self, length: u32) -> Result<PathBuf> {
        let bytes = self.take(length as usize).await?.map(<[u8]>::to_vec);
        bytes.map(|bytes| OsString::from_vec(bytes).into()).ok_or_else(|| self.garbled())
    }

    /// The next piece of a content.
    pub(super) async fn next_piece(&mut self) -> Result<Piece<&[u8]>> {
        self.next_piece_of(&mut None).await
    }

    /// The next piece of a content of which so much is left: exactly so much comes.
    pub(super) async fn next_piece_of(&mut self, left: &mut Option<u64>) -> Result<Piece<&[u8]>> {
        let piece = poll_fn(|cx| self.poll_piece(cx)).await?;
        if let Some(left) = left {
            let rest = match piece {
                Piece::Bytes(length) => left.checked_sub(length as u64),
                Piece::Hole(length) => left.checked_sub(length.into()),
                Piece::End => Some(0).filter(|end| end == left),
            };
            *left = rest.ok_or_else(|| self.garbled())?;
        }
        Ok(match piece {
            Piece::Bytes(length) => Piece::Bytes(self.took(length)),
            Piece::Hole(length) => Piece::Hole(length),
            Piece::End => Piece::End,
        })
    }

    /// Waits for the next piece, whose bytes are [`took`](Self::took) then.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece<usize>>> {
        const HEADER: usize = size_of::<u32>();
        let is_there = ready!(self.poll_fill(cx, HEADER))?;
        let length = wire::read::<u32>(&self.heard, self.taken).filter(|_| is_there);
        let (piece, count) = match length {
            Some(0) => (Piece::End, 0),
            Some(length @ 1..=LONGEST_PIECE) => (Piece::Bytes(length as usize), length as usize),
            Some(length) if length > work::HOLE => (Piece::Hole(length & !work::HOLE), 0),
            _ => return Poll::Ready(Err(self.garbled())),
        };
        if !ready!(self.poll_fill(cx, HEADER + count))? {
            return Poll::Ready(Err(self.garbled()));
        }
        self.taken += HEADER;
        Poll::Ready(Ok(piece))
    }

    /// So many bytes, of those that are there.
    pub(super) fn took(&mut self, count: usize) -> &[u8] {
        self.taken += count;
        &self.heard[self.taken - count..self.taken]
    }

    /// Waits until the work is done, and says whether it was.
    pub(super) async fn finish(mut self) -> Result<()> {
        self.rest().await
    }

    /// As [`finish`](Self::finish), for work that is still needed.
    pub(super) async fn rest(&mut self) -> Result<()> {
        while self.next_bytes().await?.is_some() {}
        Ok(())
    }

    fn no_helper(&self) -> Error {
        Error::unavailable(format!("{}: openbrain's helper does not run there", self.what))
            .with_remedy(
                "the image needs a /tmp whose files can be executed, and this machine's \
                 architecture; run commands such as `cat` and `tar` instead",
            )
    }

    /// What the end of the helper means.
    fn check(&self, status: Status) -> Result<()> {
        let error = match status {
            Status::Exited(_) if self.said != work::FILES => return Err(self.no_helper()),
            Status::Exited(0) => return Ok(()),
            Status::Exited(errno) => io::Error::from_raw_os_error(errno),
            Status::TimedOut => io::ErrorKind::TimedOut.into(),
            Status::Signaled(_) | Status::Cancelled => io::ErrorKind::Interrupted.into(),
        };
        let failed = Error::new(self.kind, &self.what).with_source(error);
        Err(match status {
            Status::TimedOut => failed.with_remedy(
                "it took longer than a command may in a sandbox: do it in parts, or raise \
                 `security.sandbox.timeout_seconds` before the sandbox is created",
            ),
            _ => failed,
        })
    }

    pub(super) fn garbled(&self) -> Error {
        Error::new(ErrorKind::Internal, format!("{}: the answer is garbled", self.what))
            .with_remedy("report this with the output of `openbrain doctor --json`")
    }
}

/// A failure about a file.
pub(super) fn failed(what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::FileFailed, what).with_source(error)
}

/// The error as one of a stream; what the operating system said stays what it was.
pub(super) fn as_io(error: Error) -> io::Error {
    let kind = error.io_kind().unwrap_or(io::ErrorKind::ConnectionAborted);
    io::Error::new(kind, error)
}

/// A path as the helper takes it: as text, whatever its bytes are.
pub(super) fn text(path: &Path) -> Result<String> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= PATH_MAX as usize {
        return Err(Error::invalid(format!("{path:?} cannot be a path"))
            .with_remedy("a path has 1 to 4095 bytes, of which none is NUL"));
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text += &chunk.valid().replace('%', "%25");
        text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02x}")));
    }
    Ok(text)
}

fn kind_of(entry: &Entry) -> FileKind {
    match entry.kind() {
        Entry::FILE => FileKind::File,
        Entry::DIRECTORY => FileKind::Directory,
        Entry::LINK => FileKind::Link,
        _ => FileKind::Other,
    }
}

/// The time of a file; one that no clock tells is the beginning of 1970.
fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let since = Duration::new(seconds.unsigned_abs(), nanoseconds.min(999_999_999));
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if seconds < 0 { epoch.checked_sub(since) } else { epoch.checked_add(since) };
    time.unwrap_or(epoch)
}
