//! Saved changes on their way to the host: everything is checked first, then each file is put in its
//! place at once.
//!
//! Every path is opened below the directory of its mount, with no link on the way (`openat2(2)`): the
//! host may have swapped a directory for a link since the report was made, and may do so now.

mod host;
mod place;
mod steps;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    path::{Component, Path, PathBuf},
};

use rustix::fs::Mode;
use serde::Serialize;

use self::{host::Hosts, steps::Applying};
use super::{
    EntryKind,
    folder::Fingerprint,
    saved::{Item, SavedChanges},
    text::{self, quoted},
};
use crate::error::{Error, ErrorKind, Result};

/// How many paths an error names.
const MOST_NAMED: usize = 10;

/// What was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Applied {
    /// The changes that the host has now, by their paths in the sandbox.
    #[serde(serialize_with = "text::list")]
    pub paths: Vec<PathBuf>,
    /// Sockets and devices, which are nothing without their process and their driver.
    #[serde(serialize_with = "text::list")]
    pub skipped: Vec<PathBuf>,
}

impl SavedChanges {
    /// Applies changes to the host: those of the named paths and of everything below them, or all when
    /// none is named. A path is as the sandbox saw it, or relative to its mount. A directory that a
    /// named path is new in comes along.
    ///
    /// First every concerned file of the host is compared with what it was when the sandbox was
    /// started and the report was made; if one has changed, nothing is applied. Then each file
    /// replaces its predecessor at once, with the time it had in the sandbox. New files belong to whom
    /// the mount belongs; set-user-id and set-group-id bits are left out unless they were there. Hard
    /// links among files that are applied together stay links. What was applied is not kept any more.
    ///
    /// When it was interrupted it is called again: what the host has already counts as applied.
    ///
    /// # Errors
    ///
    /// `conflict` when the host has changed one of the files, naming them; `invalid_request` for a path
    /// that has not changed; `file_failed` when a file cannot be written: what was applied until then
    /// stays applied, and the rest stays saved.
    pub fn apply(&mut self, paths: &[PathBuf]) -> Result<Applied> {
        let selected = self.select(paths)?;
        let mounts = selected.iter().map(|index| self.manifest.items[*index].mount).collect();
        let mut hosts = Hosts::open(&self.manifest.mounts, mounts)?;
        let has = self.already_there(&selected, &mut hosts);
        self.check(&selected, &has, &hosts)?;
        let mut applying = Applying::new(self, &mut hosts, &selected, &has);
        let outcome = applying.run();
        let (done, mut applied) = (applying.done, applying.applied);
        applied.paths.sort();
        let finished = hosts.finish();
        let (count, all) = (done.len(), selected.len());
        self.forget(&done, &mut hosts);
        let written = self.write();
        let failed = |what: String, error: io::Error| match error.kind() {
            io::ErrorKind::ResourceBusy => moved_on([what.as_str()].into_iter(), 1),
            _ => Error::new(
                ErrorKind::FileFailed,
                format!("cannot apply {what} ({count} of {all} changes are applied)"),
            )
            .with_source(error)
            .with_remedy("mend it and apply again: the rest is still saved"),
        };
        outcome.map_err(|(path, error)| failed(quoted(&path), error))?;
        finished.map_err(|error| failed("the permissions of directories".into(), error))?;
        written.map_err(|error| failed("what is left to the record".into(), error))?;
        Ok(applied)
    }

    /// The indices of what the paths name.
    fn select(&self, paths: &[PathBuf]) -> Result<BTreeSet<usize>> {
        let items = &self.manifest.items;
        if paths.is_empty() {
            return Ok((0..items.len()).collect());
        }
        let mut selected = BTreeSet::new();
        for path in paths {
            let plain: PathBuf = path.components().filter(|c| *c != Component::CurDir).collect();
            let is_meant = |item: &Item| match plain.is_absolute() {
                true => item.change.path.starts_with(&plain),
                false => item.path.starts_with(&plain),
            };
            let before = selected.len();
            selected.extend((0..items.len()).filter(|index| is_meant(&items[*index])));
            if selected.len() == before && !items.iter().any(is_meant) {
                return Err(Error::invalid(format!("{} has not changed", quoted(path)))
                    .with_remedy(format!("`openbrain changes {}` lists what has", self.id())));
            }
        }
        let known: HashMap<(usize, &Path), usize> =
            items.iter().enumerate().map(|(at, item)| ((item.mount, &*item.path), at)).collect();
        let above = selected.iter().flat_map(|index| {
            let item = &items[*index];
            item.path.ancestors().skip(1).filter_map(|path| known.get(&(item.mount, path)).copied())
        });
        let new = above.filter(|index| items[*index].is_new_directory()).collect::<Vec<_>>();
        selected.extend(new);
        Ok(selected)
    }

    /// Refuses everything when the host has moved on with anything.
    fn check(&self, selected: &BTreeSet<usize>, has: &HashSet<usize>, hosts: &Hosts) -> Result<()> {
        let items = || selected.iter().map(|index| (index, &self.manifest.items[*index]));
        let paths = |fits: &dyn Fn(&usize, &Item) -> bool| -> HashSet<(usize, &Path)> {
            let found = items().filter(|(index, item)| fits(index, item));
            found.map(|(_, item)| (item.mount, &*item.path)).collect()
        };
        let deleted = paths(&|_, item| item.after.is_none());
        let made = paths(&|index, item| item.is_new_directory() && !has.contains(index));
        let mut moved = BTreeSet::new();
        for (index, item) in items() {
            let host = &hosts[item.mount];
            let is_known = |path: &Path| deleted.contains(&(item.mount, path));
            let parent = item.path.parent().unwrap_or(Path::new(""));
            // Whatever is there now instead of that directory is looked at by itself.
            let comes_with_its_directory = made.contains(&(item.mount, parent));
            let is_due = || {
                !item.has_moved
                    && (comes_with_its_directory || host.is_unchanged(item).unwrap_or(false))
                    && (!item.empties_directory()
                        || host.holds_only(item, is_known).unwrap_or(false))
            };
            if !has.contains(index) && !is_due() {
                moved.insert(quoted(&item.change.path));
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        Err(moved_on(moved.iter().map(String::as_str), moved.len()))
    }

    /// What the host has already: an attempt was interrupted before the record forgot it.
    fn already_there(&self, selected: &BTreeSet<usize>, hosts: &mut Hosts) -> HashSet<usize> {
        let mut found = HashSet::new();
        // Directories that something else is in the place of: nothing is in them any more.
        let mut replaced = HashSet::new();
        for index in selected {
            let item = &self.manifest.items[*index];
            let place = |path| (item.mount, path);
            let is_in_replaced =
                item.path.parent().map(place).is_some_and(|p| replaced.contains(&p));
            let host = &hosts[item.mount];
            let is_as_before = host.is_unchanged(item).unwrap_or(false);
            if is_in_replaced && item.after.is_none()
                || !is_as_before && host.has(self, item).unwrap_or(false)
            {
                hosts.note_unlinked(item);
                found.insert(*index);
                if item.empties_directory() {
                    replaced.insert(place(&*item.path));
                }
            }
        }
        found
    }

    /// Takes what was applied out of what is left. A file that has lost a hard link has another time
    /// now, which is not somebody else's doing.
    fn forget(&mut self, done: &HashSet<usize>, hosts: &mut Hosts) {
        let mut index = 0..;
        self.manifest.items.retain(|_| index.next().is_some_and(|index| !done.contains(&index)));
        for item in &mut self.manifest.items {
            let Some(host) = hosts.beside(&self.manifest.mounts, item.mount) else { continue };
            let Some(before) = item.before.filter(|before| host.unlinked.contains(&before.inode))
            else {
                continue;
            };
            if let Ok(Some(found)) = host.folder.stat(&item.path)
                && before.is_same_content(&found.print)
            {
                item.before = Some(found.print);
            }
        }
    }
}

fn moved_on<'a>(paths: impl Iterator<Item = &'a str>, count: usize) -> Error {
    let named: Vec<&str> = paths.take(MOST_NAMED).collect();
    let more = if count > named.len() {
        format!(" and {} more", count - named.len())
    } else {
        String::new()
    };
    let named = named.join(", ");
    Error::new(ErrorKind::Conflict, format!("changed on the host meanwhile: {named}{more}"))
        .with_remedy(
            "nothing more was applied; name paths that did not change, or run the command again",
        )
}

impl Item {
    /// Whether there is a directory now where there was none.
    fn is_new_directory(&self) -> bool {
        let is_directory = |print: Fingerprint| print.kind() == EntryKind::Directory;
        self.after.is_some_and(is_directory) && !self.before.is_some_and(is_directory)
    }

    /// Whether there was a directory where there is none now.
    fn empties_directory(&self) -> bool {
        let is_directory = |print: Fingerprint| print.kind() == EntryKind::Directory;
        self.before.is_some_and(is_directory) && !self.after.is_some_and(is_directory)
    }

    /// The permissions that it gets.
    fn mode(&self) -> Mode {
        Mode::from_raw_mode(permissions(self.before, self.after))
    }
}

/// What is applied of the permissions: set-user-id and set-group-id bits only where they were.
fn permissions(before: Option<Fingerprint>, after: Option<Fingerprint>) -> u32 {
    let [before, after] = [before, after].map(|print| print.map_or(0, |print| print.permissions()));
    after & 0o1777 | after & before & 0o6000
}

#[cfg(test)]
mod tests {
    use super::{Fingerprint, permissions};

    #[test]
    fn a_file_becomes_set_user_id_only_when_it_was() {
        let print =
            |mode| Some(Fingerprint { inode: 1, mode, size: 0, mtime: (0, 0), ctime: (0, 0) });
        assert_eq!(permissions(None, print(0o106755)), 0o755);
        assert_eq!(permissions(print(0o100755), print(0o106755)), 0o755);
        assert_eq!(permissions(print(0o104755), print(0o106711)), 0o4711);
        assert_eq!(permissions(None, print(0o041777)), 0o1777);
    }
}
