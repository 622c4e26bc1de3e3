//! What happens to the files of a sandbox, while it happens.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::{
    files::Files,
    work::{Work, text},
};
use crate::{
    backend::helper::wire::{change, work},
    error::{Error, ErrorKind, Result},
};

/// What happens below a directory of a sandbox, made by [`Files::watch`]. Dropping it ends the watch.
pub struct FileWatch(Work);

/// Something that has happened to a file of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileChange {
    /// Below the directory that is watched.
    pub path: PathBuf,
    /// What has happened.
    pub kind: FileChangeKind,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// What has happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileChangeKind {
    /// It is there now: new, or by another name than before.
    Created,
    /// Its content has changed.
    Modified,
    /// It is not there any more: removed, or by this name.
    Removed,
    /// Its permissions, its owner or its times have changed.
    Attributes,
    /// More has happened there than could be told: look at it anew. Without a path it is the whole
    /// directory.
    Lost,
}

impl Files<'_> {
    /// Watches a directory with everything below it. What happens from the return of this call on is
    /// told, whoever does it: a command of the sandbox, a verb of [`Files`], or the host in a mount.
    ///
    /// Up to 4096 directories are watched. Links are not followed. Of a directory that is new, its
    /// entries may be told twice; changes of the same kind that follow each other closely may be told
    /// once. A watch counts as a command, and ends at the latest with the sandbox.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// use openbrain::{Exec, Sandbox};
    ///
    /// let sandbox = Sandbox::builder().create().await?;
    /// let mut watch = sandbox.files().watch("/workspace").await?;
    /// sandbox.run(Exec::new("make")).await?;
    /// while let Some(change) = watch.next().await? {
    ///     println!("{:?} {}", change.kind, change.path.display());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `file_failed` also when there are more directories, or the kernel gives no more watches
    /// (`fs.inotify.max_user_watches`).
    pub async fn watch(&self, path: impl AsRef<Path>) -> Result<FileWatch> {
        let path = path.as_ref();
        let what = format!("cannot watch `{}` in the sandbox", path.display());
        let exec = Work::command(work::WATCH, [text(path)?]);
        let process = self.0.spawn_lasting(exec).await?;
        let mut work = Work::of(process, what, ErrorKind::FileFailed);
        match work.next_change().await.map_err(with_remedy)? {
            Some((first, _)) if first.kind == change::READY => Ok(FileWatch(work)),
            _ => Err(work.garbled()),
        }
    }
}

fn with_remedy(error: Error) -> Error {
    match error.io_kind() {
        Some(io::ErrorKind::StorageFull) => error.with_remedy(
            "watch a directory with at most 4096 others in it, or raise \
             `fs.inotify.max_user_watches` on the machine",
        ),
        _ => error,
    }
}

impl FileWatch {
    /// Waits for the next change; none once the directory itself is gone. A wait that is given up loses
    /// nothing.
    ///
    /// # Errors
    ///
    /// `sandbox_lost` when the sandbox has ended.
    pub async fn next(&mut self) -> Result<Option<FileChange>> {
        let Some((change, path)) = self.0.next_change().await? else { return Ok(None) };
        let kind = match change.kind {
            change::CREATED => FileChangeKind::Created,
            change::MODIFIED => FileChangeKind::Modified,
            change::REMOVED => FileChangeKind::Removed,
            change::ATTRIBUTES => FileChangeKind::Attributes,
            change::LOST => FileChangeKind::Lost,
            _ => return Err(self.0.garbled()),
        };
        Ok(Some(FileChange { path, kind, is_directory: change.is_directory == 1 }))
    }
}

impl fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileWatch")
    }
}
