//! The comparison of what was written with what is below it.

mod compare;

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::OFlags;

use super::{
    Change, ChangeKind, EntryKind, Layer, Layers, MOST_ENTRIES, NoDiff,
    diff::Budget,
    folder::{self, Fingerprint, Folder, Stat, by_descriptor, stat_at},
    names::{self, Names},
};

/// The longest time for one report.
const MOST_TIME: Duration = Duration::from_secs(30);

/// How many entries may wait to be looked at.
const MOST_WAITING: usize = 4 * MOST_ENTRIES;

/// Where an entry of the report is, for those who save it.
#[derive(Debug)]
pub(super) struct Origin {
    /// Index of its layer.
    pub(super) layer: usize,
    /// Its path in the layer.
    pub(super) path: PathBuf,
    /// What the host has there; `None` for nothing.
    pub(super) before: Option<Fingerprint>,
    /// Whether the host has changed that since the sandbox was started.
    pub(super) has_moved: bool,
    /// What was written; `None` when it was deleted.
    pub(super) after: Option<Fingerprint>,
    /// A path that has not changed and is the same file.
    pub(super) anchor: Option<(PathBuf, Fingerprint)>,
    /// Whether it is a hard link.
    pub(super) is_linked: bool,
}

/// An entry that waits to be compared.
struct Task {
    path: PathBuf,
    upper: Option<Stat>,
    lower: Option<Stat>,
    /// Whether the sandbox sees what is below its directory, too.
    is_merged: bool,
    has_moved: bool,
}

/// What is told of an entry beside what it is now.
#[derive(Default)]
struct Details {
    target: Option<PathBuf>,
    diff: Option<Result<String, NoDiff>>,
}

/// The paths of one file.
#[derive(Default)]
struct Group {
    members: Vec<usize>,
    anchor: Option<(PathBuf, Fingerprint)>,
    /// What the host has at a path that has not changed.
    below: Option<u64>,
}

/// A report in the making.
#[derive(Default)]
struct Walk {
    entries: Vec<Change>,
    origins: Vec<Origin>,
    /// Whether something is missing of the layer that is being compared.
    is_truncated: bool,
    budget: Budget,
    names: Names,
}

/// What waits to be looked at.
#[derive(Default)]
struct Waiting {
    tasks: Vec<Task>,
    /// The length of their paths.
    bytes: usize,
}

/// Compares every layer; returns the entries, where they are, and the indices of the layers of which
/// something is missing.
pub(super) fn walk(layers: &Arc<Layers>) -> (Vec<Change>, Vec<Origin>, Vec<usize>) {
    let mut truncated = Vec::new();
    let mut walk = Walk::default();
    let since = layers.since;
    let deadline = Instant::now() + MOST_TIME;
    for (index, layer) in layers.layers.iter().enumerate() {
        let mut one = OneLayer {
            walk: &mut walk,
            layers,
            layer,
            index,
            since,
            deadline,
            groups: HashMap::new(),
        };
        let has_failed = one.compare().is_err();
        if std::mem::take(&mut walk.is_truncated) || has_failed {
            truncated.push(index);
        }
    }
    (walk.entries, walk.origins, truncated)
}

/// The comparison of one layer.
struct OneLayer<'a> {
    walk: &'a mut Walk,
    layers: &'a Layers,
    layer: &'a Layer,
    index: usize,
    since: (i64, u32),
    deadline: Instant,
    /// Files with several links, by inode.
    groups: HashMap<u64, Group>,
}

impl OneLayer<'_> {
    /// Looks at everything that was written, and at what is below where that matters.
    fn compare(&mut self) -> io::Result<()> {
        let nothing = OsStr::new("");
        let lower = match &self.layer.lower {
            Some(lower) => stat_at(lower.folder.root(), nothing)?,
            None => None,
        };
        let upper = stat_at(self.layer.upper.root(), nothing)?;
        let mount = lower.map(|lower| lower.mount);
        let is_merged = lower.is_some();
        let root = Task { path: PathBuf::new(), upper, lower, is_merged, has_moved: false };
        let mut left = Waiting::default();
        self.push_children(&root, &mut left);
        while let Some(mut task) = left.pop() {
            let is_full = self.walk.entries.len() == MOST_ENTRIES || self.walk.names.is_spent();
            if is_full
                || left.is_full()
                || self.layers.is_given_up()
                || Instant::now() > self.deadline
            {
                self.walk.is_truncated = true;
                break;
            }
            // What another mount covers on the host, the sandbox sees, and nobody here.
            let is_covered = task.lower.is_some_and(|lower| Some(lower.mount) != mount);
            if is_covered && self.given(&task).is_none() {
                (task.lower, task.has_moved) = (None, true);
            }
            self.visit(&task);
            self.push_children(&task, &mut left);
        }
        self.link_groups();
        Ok(())
    }

    /// Adds what is in a directory to what is left, so that the first name is the next.
    fn push_children(&mut self, task: &Task, left: &mut Waiting) {
        if ![task.upper, task.lower].iter().flatten().any(Stat::is_directory) {
            return;
        }
        match self.children(task) {
            Ok(children) => left.extend(children),
            Err(_) => self.walk.is_truncated = true,
        }
    }

    fn children(&mut self, task: &Task) -> io::Result<Vec<Task>> {
        let is_directory = |stat: Option<Stat>| stat.is_some_and(|stat| stat.is_directory());
        let open = |folder: &Folder| folder.directory(&task.path);
        let upper = is_directory(task.upper).then(|| open(&self.layer.upper)).transpose()?;
        let lower = match &self.layer.lower {
            Some(lower) if is_directory(task.lower) => Some(open(&lower.folder)?),
            _ => None,
        };
        let is_merged = task.is_merged && lower.is_some();
        let is_merged = is_merged && upper.as_ref().is_some_and(|upper| !is_opaque(upper));
        let mut found: BTreeSet<OsString> = BTreeSet::new();
        let hidden = if is_merged { None } else { lower.as_ref() };
        for directory in [upper.as_ref(), hidden].into_iter().flatten() {
            found.extend(folder::names(directory, MOST_ENTRIES)?);
        }
        let given = self.layer.given.keys().filter(|path| path.parent() == Some(&task.path));
        found.extend(given.filter_map(|path| path.file_name()).map(OsStr::to_owned));
        let stat = |directory: &Option<OwnedFd>, name: &OsStr| match directory {
            Some(directory) => stat_at(directory.as_fd(), name),
            None => Ok(None),
        };
        let (mut children, mut length) = (Vec::new(), 0);
        for name in found {
            // In a deep directory each name is a long path.
            length += task.length() + name.len();
            if length > names::MOST_WAITING {
                self.walk.is_truncated = true;
                break;
            }
            let mut written = stat(&upper, &name)?;
            // Elsewhere a device with these numbers is one that a command has made.
            if self.layer.lower.is_some() {
                written = written.filter(|stat| !stat.is_whiteout);
            }
            let path = task.path.join(&name);
            let below = match self.layer.given.get(&path) {
                Some(given) => Some(given.stat(written.as_ref())),
                None => stat(&lower, &name)?,
            };
            if written.is_some() || below.is_some() {
                children.push(Task {
                    path,
                    upper: written,
                    lower: below,
                    is_merged,
                    has_moved: task.has_moved,
                });
            }
        }
        Ok(children)
    }

    /// Notes an entry, if it has changed.
    fn visit(&mut self, task: &Task) {
        let mut change = match (&task.upper, &task.lower) {
            (None, None) => return,
            (Some(_), lower) if self.layer.is_skeleton(&task.path, lower.as_ref()) => return,
            (Some(upper), None) => Some((ChangeKind::Added, self.details(task, Some(upper), None))),
            (None, Some(lower)) => {
                Some((ChangeKind::Deleted, self.details(task, None, Some(lower))))
            }
            (Some(upper), Some(lower)) => {
                self.difference(task, upper, lower).map(|details| (ChangeKind::Modified, details))
            }
        };
        let group = task.upper.filter(|upper| upper.links > 1 && !upper.is_directory());
        if let Some(upper) = group {
            let next = self.walk.entries.len();
            let group = self.groups.entry(upper.print.inode).or_default();
            let below = task.lower.map(|lower| lower.print.inode);
            if change.is_none() && group.below.is_some_and(|other| Some(other) != below) {
                // Two files of the same content have become one.
                change = Some((ChangeKind::Modified, Details::default()));
            }
            match (&change, &task.lower) {
                (Some(_), _) => group.members.push(next),
                // A file with more links on the host would be tied to them all.
                (None, Some(lower)) if lower.links == 1 => {
                    group.below = below;
                    group.anchor.get_or_insert((task.path.clone(), lower.print));
                }
                (None, _) => group.below = group.below.or(below),
            }
        }
        if let Some((change, details)) = change {
            self.note(task, change, details, group.is_some());
        }
    }

    fn note(&mut self, task: &Task, change: ChangeKind, details: Details, is_linked: bool) {
        let Some(now) = task.upper.or(task.lower) else { return };
        let path = self.layer.seen(&task.path);
        let mount = self.layer.mount().map(|_| self.layer.target.clone());
        let texts = [Some(&path), mount.as_ref(), details.target.as_ref()];
        if !texts.into_iter().flatten().all(|text| self.walk.names.take(text)) {
            self.walk.is_truncated = true;
            return;
        }
        let both = task.upper.and(task.lower);
        let (diff, no_diff) = match details.diff {
            Some(Ok(diff)) => (Some(diff), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        self.walk.entries.push(Change {
            path,
            mount,
            change,
            kind: now.kind(),
            old_kind: both.map(|old| old.kind()).filter(|old| *old != now.kind()),
            size: (now.kind() == EntryKind::File).then_some(now.print.size),
            mode: now.print.permissions(),
            old_mode: both
                .map(|old| old.print.permissions())
                .filter(|old| *old != now.print.permissions()),
            target: details.target,
            hard_link_to: None,
            diff,
            no_diff,
        });
        let later = |old: &Stat| !old.is_directory() && old.print.ctime > self.since;
        let has_moved = task.has_moved
            || task.lower.as_ref().is_some_and(later)
            || task.lower.is_none() && self.has_lost_its_origin(task);
        self.walk.origins.push(Origin {
            layer: self.index,
            path: task.path.clone(),
            before: task.lower.map(|lower| lower.print),
            has_moved,
            after: task.upper.map(|upper| upper.print),
            anchor: None,
            is_linked,
        });
    }

    /// Whether the host has deleted since what was changed here: overlayfs marks what it has copied up, and
    /// a directory of the host from which something is gone has another time. A file that was renamed
    /// is marked, too; the directory tells them apart, unless it is itself gone or new.
    fn has_lost_its_origin(&self, task: &Task) -> bool {
        let Some(lower) = &self.layer.lower else { return false };
        let is_marked = || -> io::Result<bool> {
            let entry = self.layer.upper.open(&task.path, OFlags::PATH)?;
            let path = by_descriptor(&entry);
            Ok(rustix::fs::getxattr(&path, "user.overlay.origin", &mut [0; 256][..]).is_ok())
        };
        let has_changed = || -> io::Result<bool> {
            let parent = task.path.parent().unwrap_or(Path::new(""));
            Ok(lower.folder.stat(parent)?.is_some_and(|stat| stat.print.mtime > self.since))
        };
        has_changed().unwrap_or(false) && is_marked().unwrap_or(false)
    }

    /// Tells of every file with several links which path is the same file.
    fn link_groups(&mut self) {
        for group in std::mem::take(&mut self.groups).into_values() {
            let mut first = group.anchor.as_ref().map(|(path, _)| self.layer.seen(path));
            for member in group.members {
                // One that found no room is not there.
                let Some(entry) = self.walk.entries.get_mut(member) else { continue };
                if first.as_ref().is_none_or(|first| self.walk.names.take(first)) {
                    entry.hard_link_to.clone_from(&first);
                } else {
                    self.walk.is_truncated = true;
                }
                first.get_or_insert_with(|| entry.path.clone());
                self.walk.origins[member].anchor = group.anchor.clone();
            }
        }
    }
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.tasks.len() > MOST_WAITING || self.bytes > names::MOST_WAITING
    }

    /// Adds the entries of a directory, of which the first is the next.
    fn extend(&mut self, children: Vec<Task>) {
        self.bytes += children.iter().map(Task::length).sum::<usize>();
        self.tasks.extend(children.into_iter().rev());
    }

    fn pop(&mut self) -> Option<Task> {
        let task = self.tasks.pop()?;
        self.bytes -= task.length();
        Some(task)
    }
}

impl Task {
    fn length(&self) -> usize {
        self.path.as_os_str().len()
    }
}

/// Whether nothing of what is below a directory is seen in it.
fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0; 2];
    let found = rustix::fs::fgetxattr(directory, "user.overlay.opaque", &mut value[..]);
    found.is_ok_and(|length| value[..length] == *b"y")
}
