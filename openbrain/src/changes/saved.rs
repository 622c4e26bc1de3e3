//! Changes that are kept until somebody applies or discards them.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{
    Change, Changes, EntryKind, Written, content,
    folder::{Fingerprint, Folder},
    text,
    walk::Origin,
};
use crate::error::{Error, ErrorKind, Result};

/// How long changes are kept: a later [`Changes::save`] removes older ones.
pub const KEPT_FOR: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The form of the manifest that this version writes and reads.
const VERSION: u32 = 1;

const MANIFEST: &str = "manifest.json";
const CONTENTS: &str = "contents";

/// Changes of mounts that were [saved](Changes::save), until they are applied or discarded.
#[derive(Debug)]
pub struct SavedChanges {
    /// The directory that they are in.
    directory: PathBuf,
    pub(super) manifest: Manifest,
    /// Nobody else applies or discards them meanwhile.
    _lock: OwnedFd,
}

/// What is written of saved changes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    id: String,
    /// When they were saved, RFC 3339.
    saved_at: String,
    pub(super) mounts: Vec<SavedMount>,
    pub(super) items: Vec<Item>,
}

/// A mount that has changed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedMount {
    /// Where the sandbox had it.
    #[serde(with = "text::path")]
    pub(super) target: PathBuf,
    /// Where it is on the host.
    #[serde(with = "text::path")]
    pub(super) source: PathBuf,
    pub(super) inode: u64,
    /// The file system that it is on, where that is known.
    #[serde(default)]
    pub(super) device: Option<Device>,
    /// Whom new files belong to; `None` for whoever applies them.
    pub(super) owner: Option<(u32, u32)>,
}

/// A file system, by its number. That is another one after the next start of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Device {
    number: u64,
    /// The start of the machine since which it has the number.
    boot: String,
}

/// An entry with what it takes to apply it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) change: Change,
    /// Index of its mount.
    pub(super) mount: usize,
    /// Its path below the mount.
    #[serde(with = "text::path")]
    pub(super) path: PathBuf,
    pub(super) before: Option<Fingerprint>,
    pub(super) has_moved: bool,
    pub(super) after: Option<Fingerprint>,
    /// Number of the file with its content; files of the same number are hard links to one.
    pub(super) content: Option<u64>,
    pub(super) anchor: Option<Anchor>,
}

/// A path that has not changed, and is the same file as an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Anchor {
    #[serde(with = "text::path")]
    pub(super) path: PathBuf,
    pub(super) print: Fingerprint,
}

/// Saves what can be applied; `None` when that is nothing.
pub(super) fn save(changes: &Changes, directory: &Path) -> Result<Option<SavedChanges>> {
    let Some(written) = &changes.written else {
        return Err(Error::invalid("the new contents of these changes are not here").with_remedy(
            "save them in the process that has the sandbox, before they are released",
        ));
    };
    // What the sandbox has of its own is not applied, whatever is missing of it.
    let truncated = written.truncated.iter().map(|index| &written.layers.layers[*index]);
    if let Some(mount) = truncated.into_iter().find(|layer| layer.mount().is_some()) {
        let what = "a truncated list of changes cannot be saved: that of";
        return Err(Error::invalid(format!("{what} {}", text::quoted(&mount.target))).with_remedy(
            "mount a smaller directory as overlay: at most 100000 files may change, with paths of \
                 16 MiB together",
        ));
    }
    let cannot = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::ResourceBusy => "ask for its changes again when nothing writes there",
            _ => "make room there, or save them below another directory",
        };
        let what = format!("cannot save the changes in `{}`", directory.display());
        Error::new(ErrorKind::FileFailed, what).with_source(error).with_remedy(remedy)
    };
    let (mounts, items) = plan(changes, written);
    if items.is_empty() {
        return Ok(None);
    }
    make_private(directory).map_err(cannot)?;
    remove_old(directory).map_err(cannot)?;
    let (id, path) = new_place(directory).map_err(cannot)?;
    let saved_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let manifest = Manifest { version: VERSION, id, saved_at, mounts, items };
    let filled = lock(&path).and_then(|lock| {
        let saved = SavedChanges { directory: path.clone(), manifest, _lock: lock };
        saved.fill(changes, written).map(|()| saved)
    });
    filled.map(Some).map_err(|error| {
        // What is left of it is removed when it is old.
        let _ = fs::remove_dir_all(&path);
        cannot(error)
    })
}

/// The mounts that have changed, and their entries.
fn plan(changes: &Changes, written: &Written) -> (Vec<SavedMount>, Vec<Item>) {
    let (mut mounts, mut items, mut known) = (Vec::new(), Vec::new(), HashMap::new());
    for (index, (change, origin)) in (0..).zip(changes.entries.iter().zip(&written.origins)) {
        let layer = &written.layers.layers[origin.layer];
        let Some(lower) = layer.mount() else { continue };
        let mount = *known.entry(origin.layer).or_insert_with(|| {
            let found = rustix::fs::fstat(lower.folder.root());
            let (inode, device) = found.map_or((0, 0), |stat| (stat.st_ino, stat.st_dev));
            let (target, source) = (layer.target.clone(), lower.path.clone());
            let device = Some(Device::of(device));
            mounts.push(SavedMount { target, source, inode, device, owner: lower.owner });
            mounts.len() - 1
        });
        let Origin { layer: _, path, before, has_moved, after, anchor, is_linked } = origin;
        let content = after.filter(|after| after.kind() != EntryKind::Directory).map(|after| {
            // Odd numbers are those of files with several links.
            if *is_linked { after.inode << 1 | 1 } else { index << 1 }
        });
        items.push(Item {
            change: change.clone(),
            mount,
            path: path.clone(),
            before: *before,
            has_moved: *has_moved,
            after: *after,
            content,
            anchor: anchor.clone().map(|(path, print)| Anchor { path, print }),
        });
    }
    (mounts, items)
}

impl Device {
    /// The file system of this number (`st_dev`, `stat(2)`) now.
    pub(super) fn of(number: u64) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { number, boot: boot.trim_end().to_owned() }
    }

    /// Whether this is known to be another one.
    pub(super) fn is_other(&self, other: &Self) -> bool {
        self.boot == other.boot && self.number != other.number
    }
}

impl SavedChanges {
    /// The saved changes of this name below a directory. Whoever has them keeps others from applying
    /// and discarding them.
    ///
    /// # Errors
    ///
    /// `invalid_request` when there are none of this name, or somebody else has them.
    pub fn load(directory: &Path, id: &str) -> Result<Self> {
        let (path, lock) = take(directory, id)?;
        let manifest = read_manifest(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => unknown(id),
            _ => cannot_read(id, error),
        })?;
        Ok(Self { directory: path, manifest, _lock: lock })
    }

    /// Removes the saved changes of this name, also when they cannot be read any more.
    ///
    /// # Errors
    ///
    /// `invalid_request` when there are none of this name, or somebody else has them; `file_failed` when
    /// they cannot be removed.
    pub fn discard_by_id(directory: &Path, id: &str) -> Result<()> {
        let (path, _lock) = take(directory, id)?;
        remove(&path).map_err(|error| cannot_remove(&path, error))
    }

    /// The names of all saved changes below a directory, the oldest first, with the times when they
    /// were saved.
    ///
    /// # Errors
    ///
    /// `file_failed` when the directory cannot be read; one that is missing has none.
    pub fn list(directory: &Path) -> Result<Vec<(String, SystemTime)>> {
        let list = || -> io::Result<Vec<(String, SystemTime)>> {
            let mut found = Vec::new();
            for (path, saved_at) in places(directory)? {
                if path.join(MANIFEST).exists()
                    && let Some(name) = path.file_name().and_then(|name| name.to_str())
                {
                    found.push((name.to_owned(), saved_at));
                }
            }
            found.sort_by_key(|(_, saved_at)| *saved_at);
            Ok(found)
        };
        list().map_err(|error| {
            Error::new(ErrorKind::FileFailed, format!("cannot read `{}`", directory.display()))
                .with_source(error)
                .with_remedy("it is to be a directory of yours, with the mode 0700")
        })
    }

    /// The name by which they are applied or discarded.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// When they were saved, RFC 3339.
    pub fn saved_at(&self) -> &str {
        &self.manifest.saved_at
    }

    /// The mounts that have changed: where the sandbox had them, and where they are on the host.
    pub fn mounts(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.manifest.mounts.iter().map(|mount| (&*mount.target, &*mount.source))
    }

    /// What is left to be applied.
    pub fn changes(&self) -> Changes {
        Changes {
            id: Some(self.manifest.id.clone()),
            entries: self.manifest.items.iter().map(|item| item.change.clone()).collect(),
            truncated: false,
            written: None,
        }
    }

    /// Removes them.
    ///
    /// # Errors
    ///
    /// `file_failed` when they cannot be removed.
    pub fn discard(self) -> Result<()> {
        remove(&self.directory).map_err(|error| cannot_remove(&self.directory, error))
    }

    /// A content that was saved.
    pub(super) fn content(&self, number: u64) -> io::Result<File> {
        File::open(self.directory.join(CONTENTS).join(number.to_string()))
    }

    /// Writes down what is left, or removes everything when nothing is.
    pub(super) fn write(&self) -> io::Result<()> {
        if self.manifest.items.is_empty() {
            return remove(&self.directory);
        }
        let (path, new) = (self.directory.join(MANIFEST), self.directory.join("manifest.new"));
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(&self.manifest).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(new, path)
    }

    /// Copies the contents, and writes the manifest when they are there.
    fn fill(&self, changes: &Changes, written: &Written) -> io::Result<()> {
        let contents = self.directory.join(CONTENTS);
        fs::DirBuilder::new().mode(0o700).create(&contents)?;
        let saved = changes.entries.iter().zip(&written.origins);
        let saved = saved.filter(|(change, _)| change.mount.is_some());
        for (item, (_, origin)) in self.manifest.items.iter().zip(saved) {
            let is_file = item.after.is_some_and(|after| after.kind() == EntryKind::File);
            let (Some(number), true) = (item.content, is_file) else { continue };
            let path = contents.join(number.to_string());
            let file = File::options().write(true).create_new(true).mode(0o600).open(path);
            let mut file = match file {
                // Another link of the same file.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            copy_unchanged(&written.layers.layers[origin.layer].upper, item, &mut file)?;
        }
        self.write()
    }
}

/// Copies the content of a file that is still what was reported.
fn copy_unchanged(upper: &Folder, item: &Item, to: &mut File) -> io::Result<()> {
    let changed = || {
        let what = format!("{} has changed since the report", text::quoted(&item.change.path));
        io::Error::new(io::ErrorKind::ResourceBusy, what)
    };
    let from = upper.file(&item.path)?;
    // It lies in memory, where the blocks of a file are exactly what it has beside holes.
    let meta = from.metadata()?;
    let most = meta.blocks() * 512;
    if meta.len() != item.after.map_or(0, |after| after.size) {
        return Err(changed());
    }
    content::copy(&from, to, most).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => changed(),
        _ => error,
    })?;
    let found = upper.stat(&item.path)?.ok_or_else(changed)?.print;
    let expected = item.after.ok_or_else(changed)?;
    // Letting ourselves in has changed the permissions, and the time of that.
    let same =
        (found.inode, found.size, found.mtime) == (expected.inode, expected.size, expected.mtime);
    if same && from.metadata()?.ino() == expected.inode { Ok(()) } else { Err(changed()) }
}

/// Makes a directory that is its owner's alone.
fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).recursive(true).create(directory)
}

/// A new directory with a name of its own.
fn new_place(directory: &Path) -> io::Result<(String, PathBuf)> {
    loop {
        let mut bytes = [0u8; 4];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let id = format!("{:08x}", u32::from_ne_bytes(bytes));
        let path = directory.join(&id);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| (id, path)),
        }
    }
}

/// The directory of the saved changes of this name, and the lock that keeps others away.
fn take(directory: &Path, id: &str) -> Result<(PathBuf, OwnedFd)> {
    if !is_id(id) {
        return Err(unknown(id));
    }
    let path = directory.join(id);
    match lock(&path) {
        Ok(lock) => Ok((path, lock)),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => unknown(id),
            io::ErrorKind::WouldBlock => Error::invalid(format!(
                "the saved changes `{id}` are in use"
            ))
            .with_remedy("another openbrain applies or shows them; try again when it is done"),
            _ => cannot_read(id, error),
        }),
    }
}

/// Removes saved changes. Without their manifest they are none any more, whatever becomes of the rest.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path.join(MANIFEST)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_dir_all(path)
}

/// Whether this may be the name of saved changes.
fn is_id(name: &str) -> bool {
    name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Keeps others away from saved changes.
fn lock(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

/// The directories of saved changes, and when they were last written.
fn places(directory: &Path) -> io::Result<Vec<(PathBuf, SystemTime)>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Ok(meta) = entry.metadata()
            && meta.is_dir()
        {
            found.push((entry.path(), meta.modified()?));
        }
    }
    Ok(found)
}

/// Removes what is too old, and nobody has.
fn remove_old(directory: &Path) -> io::Result<()> {
    let now = SystemTime::now();
    for (path, saved_at) in places(directory)? {
        let is_old = now.duration_since(saved_at).is_ok_and(|age| age > KEPT_FOR);
        let is_ours = path.file_name().and_then(|name| name.to_str()).is_some_and(is_id);
        if is_old
            && is_ours
            && let Ok(_lock) = lock(&path)
        {
            // Somebody may have been faster.
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

fn read_manifest(path: &Path) -> io::Result<Manifest> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(path.join(MANIFEST))?)?;
    match manifest.version {
        VERSION => Ok(manifest),
        version => Err(io::Error::other(format!("version {version} is of another openbrain"))),
    }
}

fn unknown(id: &str) -> Error {
    Error::invalid(format!("there are no saved changes `{id}`"))
        .with_remedy("`openbrain changes` lists those that there are")
}

fn cannot_remove(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::FileFailed, format!("cannot remove `{}`", path.display()))
        .with_source(error)
        .with_remedy("remove the directory yourself")
}

fn cannot_read(id: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::FileFailed, format!("cannot read the saved changes `{id}`"))
        .with_source(error)
        .with_remedy(format!("if they cannot be mended, run `openbrain discard {id}`"))
}
