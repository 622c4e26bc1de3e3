//! The files of a sandbox.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::io::AsyncWriteExt;

use super::{
    Sandbox,
    tree::{self, Transfer},
    work::{Work, failed},
};
use crate::{
    backend::helper::wire::work,
    error::{Error, Result},
    exec::Stdin,
    process::ChildStdin,
};

/// The most that [`Files::read`] takes into memory.
const MOST_READ: usize = 64 << 20;

/// The most entries that are told at a time, and the most bytes of their names.
const MOST_ENTRIES: usize = 1_000_000;
const MOST_NAMES: usize = 256 << 20;

/// The most bytes of names where fewer entries will do.
const FEW_NAMES: usize = 4 << 20;

/// The files of a [`Sandbox`], made by [`Sandbox::files`].
///
/// Everything is done inside, by the sandbox's own user and with its rights: a path is what a command
/// there would find, wherever its links lead. Relative paths start in the sandbox's working directory.
///
/// ```no_run
/// # async fn demo() -> openbrain::Result<()> {
/// use openbrain::{Exec, Sandbox};
///
/// let sandbox = Sandbox::builder().create().await?;
/// let files = sandbox.files();
/// files.write("program.py", "print(6 * 7)").await?;
/// sandbox.run(Exec::new("python3 program.py > answer")).await?;
/// assert_eq!(files.read("answer").await?, b"42\n");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Every verb fails with `file_failed` when the file is missing, in the way or not permitted
/// ([`Error::io_kind`] says which), and with `sandbox_lost` when the sandbox has ended.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a>(pub(super) &'a Sandbox);

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileEntry {
    /// As asked for by [`Files::stat`], a name by [`Files::list`], below the directory by
    /// [`Files::search`].
    pub path: PathBuf,
    /// What it is; links are not followed.
    pub kind: FileKind,
    /// Permissions: the lower twelve bits of `st_mode` (`stat(2)`).
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// When its content was changed last.
    pub modified: SystemTime,
    /// Where a symbolic link leads.
    pub target: Option<PathBuf>,
}

/// Entries that were [found](Files::find).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The entries, by path.
    pub entries: Vec<FileEntry>,
    /// Whether there are more.
    pub truncated: bool,
}

/// How a file is [written](Files::writer).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Whether the content is added to that of the file, instead of taking its place.
    pub append: bool,
    /// Permissions that the file gets when it is complete: the lower twelve bits of `st_mode`
    /// (`stat(2)`). Absent: it keeps its own, and a new one has 0644, less what the umask takes.
    pub mode: Option<u32>,
}

/// A file that is read piece by piece, made by [`Files::reader`]. Dropping it ends that.
#[derive(Debug)]
pub struct FileReader(Work);

/// A file that is written piece by piece, made by [`Files::writer`]. Dropping it ends that.
#[derive(Debug)]
pub struct FileWriter {
    work: Work,
    stdin: Option<ChildStdin>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A named pipe, a socket or a device.
    Other,
}

impl FileKind {
    /// Its stable name, as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Link => "link",
            Self::Other => "other",
        }
    }
}

impl FileReader {
    /// The next piece, of at most 256 KiB; none at the end. No more is read than is asked for, but for
    /// what fits into a pipe.
    ///
    /// # Errors
    ///
    /// As those of [`Files`]. What came before may not be all of the file then.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(self.0.next_bytes().await?.map(<[u8]>::to_vec))
    }
}

impl FileWriter {
    /// Adds a piece. Waits until the sandbox has taken it, but for what fits into a pipe.
    ///
    /// # Errors
    ///
    /// As those of [`Files`].
    pub async fn write(&mut self, piece: &[u8]) -> Result<()> {
        let written = match &mut self.stdin {
            Some(stdin) => stdin.write_all(piece).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        let Err(error) = written else { return Ok(()) };
        // The command has ended, and tells why.
        self.stdin = None;
        self.work.rest().await?;
        Err(failed("cannot write the file in the sandbox", error))
    }

    /// Ends the file, and waits until it is complete.
    ///
    /// # Errors
    ///
    /// As those of [`Files`].
    pub async fn finish(mut self) -> Result<()> {
        if let Some(mut stdin) = self.stdin.take() {
            // A command that no longer reads tells why at its end.
            let _ = stdin.shutdown().await;
        }
        self.work.finish().await
    }
}

impl Sandbox {
    /// The files of the sandbox.
    pub fn files(&self) -> Files<'_> {
        Files(self)
    }
}

impl Files<'_> {
    /// The content of a regular file of up to 64 MiB.
    pub async fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let mut work = Work::start(self.0, work::READ, &[path], Stdin::Null).await?;
        let mut content = Vec::new();
        while let Some(bytes) = work.next_bytes().await? {
            content.extend_from_slice(bytes);
            if content.len() > MOST_READ {
                let path = path.display();
                return Err(Error::invalid(format!("`{path}` is longer than 64 MiB"))
                    .with_remedy("download it, or read it piece by piece"));
            }
        }
        Ok(content)
    }

    /// Replaces the content of a file; makes it, and the directories above it, when they are missing.
    pub async fn write(&self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) -> Result<()> {
        self.put(work::WRITE, path.as_ref(), content.into()).await
    }

    /// Adds to the content of a file; makes it, and the directories above it, when they are missing.
    pub async fn append(&self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) -> Result<()> {
        self.put(work::APPEND, path.as_ref(), content.into()).await
    }

    /// Opens a regular file of any length, to be read piece by piece from a byte on. Beyond its end
    /// there is nothing to read.
    ///
    /// It is read by a command in the sandbox, which has the time of a command, however slowly its
    /// pieces are taken.
    pub async fn reader(&self, path: impl AsRef<Path>, offset: u64) -> Result<FileReader> {
        let offset = offset.to_string();
        let arguments = [path.as_ref(), Path::new(&offset)];
        let mut work = Work::start(self.0, work::READ, &arguments, Stdin::Null).await?;
        work.begun().await?;
        Ok(FileReader(work))
    }

    /// Opens a file to be written piece by piece; makes it, and the directories above it, when they
    /// are missing. It is written in place: one that is given up half-way has what was written so far.
    ///
    /// It is written by a command in the sandbox, which has the time of a command, however slowly its
    /// pieces come.
    pub async fn writer(
        &self,
        path: impl AsRef<Path>,
        options: WriteOptions,
    ) -> Result<FileWriter> {
        let WriteOptions { append, mode } = options;
        let name = if append { work::APPEND } else { work::WRITE };
        let mode = mode.map(|mode| format!("{:o}", mode & 0o7777));
        let arguments: Vec<_> =
            [path.as_ref()].into_iter().chain(mode.as_deref().map(Path::new)).collect();
        let mut work = Work::start(self.0, name, &arguments, Stdin::Pipe).await?;
        let stdin = work.take_stdin();
        Ok(FileWriter { work, stdin })
    }

    async fn put(&self, name: &[u8], path: &Path, content: Vec<u8>) -> Result<()> {
        Work::start(self.0, name, &[path], Stdin::Bytes(content)).await?.finish().await
    }

    /// What is known of a file.
    pub async fn stat(&self, path: impl AsRef<Path>) -> Result<FileEntry> {
        let path = path.as_ref();
        let mut found = self.entries(work::STAT, &[path]).await?;
        let missing = || failed("cannot stat", std::io::ErrorKind::NotFound.into());
        found.pop().ok_or_else(missing)
    }

    /// The entries of a directory, by name.
    pub async fn list(&self, path: impl AsRef<Path>) -> Result<Vec<FileEntry>> {
        self.entries(work::LIST, &[path.as_ref()]).await
    }

    /// Everything below a directory whose name matches a pattern, in which `*` is any text and `?` one
    /// byte. Directories that may not be read are left out.
    pub async fn search(&self, path: impl AsRef<Path>, pattern: &str) -> Result<Vec<FileEntry>> {
        self.entries(work::SEARCH, &[path.as_ref(), Path::new(pattern)]).await
    }

    /// At most so many entries of a directory, or, with a pattern, of everything below it that matches
    /// as [`search`](Self::search) says, with up to 4 MiB of names; which of them, when there are more,
    /// is up to the sandbox.
    pub async fn find(
        &self,
        path: impl AsRef<Path>,
        pattern: Option<&str>,
        most: usize,
    ) -> Result<Found> {
        let path = path.as_ref();
        match pattern {
            None => self.some(work::LIST, &[path], most, FEW_NAMES).await,
            Some(pattern) => {
                self.some(work::SEARCH, &[path, Path::new(pattern)], most, FEW_NAMES).await
            }
        }
    }

    async fn entries(&self, name: &[u8], paths: &[&Path]) -> Result<Vec<FileEntry>> {
        let Found { entries, truncated } = self.some(name, paths, MOST_ENTRIES, MOST_NAMES).await?;
        if truncated {
            return Err(Error::invalid(format!("more than {MOST_ENTRIES} files were found"))
                .with_remedy("look into fewer directories at a time"));
        }
        Ok(entries)
    }

    /// At most so many entries, whose names have at most so many bytes together.
    async fn some(
        &self,
        name: &[u8],
        paths: &[&Path],
        most: usize,
        mut room: usize,
    ) -> Result<Found> {
        let mut work = Work::start(self.0, name, paths, Stdin::Null).await?;
        let (mut entries, mut truncated) = (Vec::new(), false);
        while let Some((_, entry)) = work.next_entry().await? {
            let target = entry.target.as_ref().map_or(0, |target| target.as_os_str().len());
            let length = entry.path.as_os_str().len() + target;
            if entries.len() == most || length > room {
                truncated = true;
                break;
            }
            room -= length;
            entries.push(entry);
        }
        entries.sort_by(|one: &FileEntry, other| one.path.cmp(&other.path));
        Ok(Found { entries, truncated })
    }

    /// Makes a directory and those above it. One that is there already is as good.
    pub async fn mkdir(&self, path: impl AsRef<Path>) -> Result<()> {
        self.act(work::MAKE, &[path.as_ref()]).await
    }

    /// Removes a file, a link or an empty directory.
    pub async fn remove(&self, path: impl AsRef<Path>) -> Result<()> {
        self.act(work::REMOVE, &[path.as_ref()]).await
    }

    /// Removes a file, or a directory with everything in it.
    pub async fn remove_all(&self, path: impl AsRef<Path>) -> Result<()> {
        self.act(work::REMOVE_ALL, &[path.as_ref()]).await
    }

    /// Gives a file another name, in place of what has that name.
    pub async fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.act(work::RENAME, &[from.as_ref(), to.as_ref()]).await
    }

    async fn act(&self, name: &[u8], paths: &[&Path]) -> Result<()> {
        Work::start(self.0, name, paths, Stdin::Null).await?.finish().await
    }

    /// Copies everything below a directory of the host to a directory of the sandbox, which is made
    /// when it is missing. Links are copied as links, files with several names and files with holes as
    /// what they are; permissions and times of files are kept. What has a name that is written to is
    /// replaced, and a link on the way there is not followed.
    ///
    /// A regular file is copied to the path `to`, in place of a file of that name; the directories above
    /// it are made when they are missing.
    ///
    /// Of the host nothing is read outside of `from`, though a sandbox changes it meanwhile: no link is
    /// followed, not even `from` itself, and pipes, sockets and devices are left out. A file that grows
    /// is copied up to where it ended.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// use openbrain::Sandbox;
    ///
    /// let sandbox = Sandbox::builder().create().await?;
    /// sandbox.files().upload("project", "/workspace/project").await?;
    /// sandbox.files().upload("notes.txt", "/workspace/notes.txt").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn upload(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Transfer> {
        tree::upload(self.0, from.as_ref(), to.as_ref()).await
    }

    /// Copies everything below a directory of the sandbox to a directory of the host, which is made
    /// when it is missing, as [`Files::upload`] does. Files of the same name are replaced. A regular file
    /// is copied to the path `to`.
    ///
    /// Nothing is written outside of that directory, or beside that file, whatever the sandbox says:
    /// links are made and never followed, set-user-ID bits are dropped, pipes, sockets and devices are
    /// left out. A file that grows is copied up to where it ended.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// use openbrain::Sandbox;
    ///
    /// let sandbox = Sandbox::builder().create().await?;
    /// sandbox.files().download("/workspace/target", "target").await?;
    /// sandbox.files().download("/workspace/report.txt", "report.txt").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn download(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Transfer> {
        tree::download(self.0, from.as_ref(), to.as_ref()).await
    }
}
