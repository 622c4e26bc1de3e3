//! What commands have changed: reported, kept, and applied to the host or discarded.
//!
//! A sandbox writes into layers of its own, of which the host's files are the lower ones. The report
//! compares the two where something was written, and nowhere else: it costs by what changed.

mod apply;
mod content;
mod diff;
mod folder;
mod layers;
mod names;
mod saved;
mod text;
mod walk;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::walk::Origin;
pub use self::{
    apply::Applied,
    layers::Layers,
    saved::{KEPT_FOR, SavedChanges},
};
pub(crate) use self::{
    folder::Folder,
    layers::{Given, Layer, Lower},
};
use crate::error::{Error, ErrorKind, Result};

/// The most entries of one report.
pub(crate) const MOST_ENTRIES: usize = 100_000;

/// What the commands of a sandbox have changed: in mounts of the mode `overlay`, and in what a sandbox has
/// of its own, its system's directories among it where they can be written to.
///
/// Compared are kinds, permissions, contents and the targets of links. A file that was rewritten with
/// the same content, or only touched, has not changed; neither has a directory whose entries did. Not
/// compared are owners, times and extended attributes, nor the permissions of a mount's own directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Changes {
    /// The name by which they are applied or discarded, once they are saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What has changed, each directory before what is in it: at most 100,000 entries, whose paths take
    /// at most 16 MiB together.
    pub entries: Vec<Change>,
    /// Whether something is missing: there was more than that, the report took longer than
    /// 30 seconds, or a directory could not be read.
    pub truncated: bool,
    /// Where the new contents are.
    #[serde(skip)]
    written: Option<Arc<Written>>,
}

/// One thing that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Change {
    /// Where it is, as the sandbox sees it.
    #[serde(with = "text::path")]
    #[schemars(with = "text::Text")]
    pub path: PathBuf,
    /// Target of the mount that it belongs to; absent for what the sandbox has of its own, which goes
    /// with it.
    #[serde(default, with = "text::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Text>")]
    pub mount: Option<PathBuf>,
    /// What has happened to it.
    pub change: ChangeKind,
    /// What it is, or was when it is deleted.
    pub kind: EntryKind,
    /// What it was, when that was something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_kind: Option<EntryKind>,
    /// Bytes of its content, for files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Permissions: the lower twelve bits of `st_mode` (`stat(2)`).
    pub mode: u32,
    /// The permissions it had, when they were others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_mode: Option<u32>,
    /// Where a symbolic link leads.
    #[serde(default, with = "text::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Text>")]
    pub target: Option<PathBuf>,
    /// Another path of the same file: both are hard links to it.
    #[serde(default, with = "text::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Text>")]
    pub hard_link_to: Option<PathBuf>,
    /// What has changed of a text, as a unified diff with paths below the mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Why a file has no diff, though its content has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_diff: Option<NoDiff>,
}

/// What has happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its content, its permissions, its target or its kind has changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A socket. It is not applied.
    Socket,
    /// A device. It is not applied.
    Device,
}

/// Why a file has no diff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoDiff {
    /// It is no text: it has NUL bytes, or is not UTF-8.
    Binary,
    /// It is longer than 256 KiB, or its comparison took too long.
    TooLarge,
    /// The diffs of the report are 2 MiB together.
    Limit,
    /// The sandbox could not read what was there.
    Unreadable,
}

/// Where the new contents of a report are, for those who save it.
struct Written {
    layers: Arc<Layers>,
    /// One for each entry.
    origins: Vec<Origin>,
    /// Indices of the layers of which something is missing in the report.
    truncated: Vec<usize>,
}

/// Somebody who waits for a report.
struct Waiting(Arc<Layers>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").finish_non_exhaustive()
    }
}

impl Changes {
    /// Compares the layers of a sandbox with what is below them, on a thread where that may block. When
    /// nobody waits for it any more it is given up.
    pub(crate) async fn report(layers: Layers) -> Result<Self> {
        let waiting = Waiting(Arc::new(layers));
        let layers = Arc::clone(&waiting.0);
        let report = tokio::task::spawn_blocking(move || Self::of(&layers)).await;
        report.map_err(|error| {
            Error::new(ErrorKind::Internal, "the report of changes ended early").with_source(error)
        })
    }

    fn of(layers: &Arc<Layers>) -> Self {
        let (entries, origins, truncated) = walk::walk(layers);
        let is_truncated = !truncated.is_empty();
        let written = Some(Arc::new(Written { layers: Arc::clone(layers), origins, truncated }));
        Self { id: None, entries, truncated: is_truncated, written }
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.truncated
    }

    /// How many entries were added, modified and deleted.
    pub fn counts(&self) -> [usize; 3] {
        [ChangeKind::Added, ChangeKind::Modified, ChangeKind::Deleted]
            .map(|kind| self.entries.iter().filter(|entry| entry.change == kind).count())
    }

    /// Saves the changes of mounts below a directory, with the new contents, so that they can be
    /// [applied](SavedChanges::apply) when the sandbox is gone; gives the report its `id`. `None` when
    /// no mount has changed.
    ///
    /// `directory` is made when it is missing; only its owner can read it. Whatever was saved there
    /// more than [`KEPT_FOR`] ago is removed. It reads and writes files, and blocks.
    ///
    /// # Errors
    ///
    /// `invalid_request` when the report of a mount is truncated, was not made by this process or was
    /// [released](Self::release); `file_failed` when the contents cannot be copied, or have changed since the report.
    pub fn save(&mut self, directory: &Path) -> Result<Option<SavedChanges>> {
        let saved = saved::save(self, directory)?;
        self.id = saved.as_ref().map(|saved| saved.id().to_owned());
        Ok(saved)
    }

    /// Lets go of the new contents: the report stays, and cannot be [saved](Self::save) any more.
    ///
    /// A report holds everything that the sandbox has written, in memory and in open files. Whoever
    /// remembers a result for long lets go of that.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// use openbrain::{Exec, Mount, MountMode};
    ///
    /// let mount = Mount::new("/path/to/project", "/workspace", MountMode::Overlay);
    /// let exec = Exec::new("make install").sandbox().mount_at(mount).changes();
    /// let mut output = exec.run().await?;
    /// output.changes.iter_mut().for_each(|changes| changes.release());
    /// # Ok(())
    /// # }
    /// ```
    pub fn release(&mut self) {
        self.written = None;
    }
}

impl Change {
    /// The entry in one line, as `git status --short` has it: `A /workspace/new`.
    fn line(&self) -> String {
        let letter = match self.change {
            ChangeKind::Added => 'A',
            ChangeKind::Modified if self.old_kind.is_some() => 'T',
            ChangeKind::Modified => 'M',
            ChangeKind::Deleted => 'D',
        };
        format!("{letter} {}", text::quoted(&self.path))
    }
}

/// One line, as `git status --short` has it: `A /workspace/new`, `M` for modified, `D` for deleted, `T`
/// for another kind of file. A path with control characters is quoted.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Changes, Layers};

    #[test]
    fn a_released_report_holds_nothing() {
        let layers = Arc::new(Layers::new((0, 0), Vec::new()));
        let mut changes = Changes::of(&layers);
        let copy = changes.clone();
        drop(copy);
        let held = Arc::downgrade(&layers);
        drop(layers);
        assert!(held.upgrade().is_some());
        changes.release();
        assert!(held.upgrade().is_none());
        let error = changes.save("/nowhere".as_ref()).unwrap_err();
        assert_eq!(error.code(), "invalid_request", "{error}");
    }
}
