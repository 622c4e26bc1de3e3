//! Saved changes on their way to the host: everything is checked first, then each file is put in its
//! place at once.
//!
//! Every path is opened below the directory of its mount, with no link on the way (`openat2(2)`): the
//! host may have swapped a directory for a link since the report was made, and may do so now.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, Uid},
    io::Errno,
};

use serde::Serialize;

use super::{
    EntryKind, content,
    folder::{Fingerprint, Folder, by_descriptor, name, names, stat_at},
    saved::{Item, SavedChanges, SavedMount},
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
    /// # Errors
    ///
    /// `conflict` when the host has changed one of the files, naming them; `invalid_request` for a path
    /// that has not changed; `file_failed` when a file cannot be written: what was applied until then
    /// stays applied, and the rest stays saved.
    pub fn apply(&mut self, paths: &[PathBuf]) -> Result<Applied> {
        let selected = self.select(paths)?;
        let mut hosts = self.manifest.mounts.iter().map(Host::open).collect::<Result<Vec<_>>>()?;
        self.check(&selected, &hosts)?;
        let mut applying = Applying {
            saved: self,
            hosts: &mut hosts,
            selected: &selected,
            done: HashSet::new(),
            first_links: HashMap::new(),
            applied: Applied::default(),
        };
        let outcome = applying.run();
        let (done, mut applied) = (applying.done, applying.applied);
        applied.paths.sort();
        let finished = hosts.iter_mut().try_for_each(Host::finish);
        let (count, all) = (done.len(), selected.len());
        self.forget(&done, &hosts);
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
    fn check(&self, selected: &BTreeSet<usize>, hosts: &[Host]) -> Result<()> {
        let items = || selected.iter().map(|index| &self.manifest.items[*index]);
        let paths = |fits: fn(&Item) -> bool| -> HashSet<(usize, &Path)> {
            items().filter(|item| fits(item)).map(|item| (item.mount, &*item.path)).collect()
        };
        let deleted = paths(|item| item.after.is_none());
        let made = paths(Item::is_new_directory);
        let mut moved = BTreeSet::new();
        for item in items() {
            let host = &hosts[item.mount];
            let is_known = |path: &Path| deleted.contains(&(item.mount, path));
            let parent = item.path.parent().unwrap_or(Path::new(""));
            // Whatever is there now instead of that directory is looked at by itself.
            let comes_with_its_directory = made.contains(&(item.mount, parent));
            let is_due = !item.has_moved
                && (comes_with_its_directory || host.is_unchanged(item).unwrap_or(false))
                && (!item.empties_directory() || host.holds_only(item, is_known).unwrap_or(false));
            if !is_due {
                moved.insert(quoted(&item.change.path));
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        Err(moved_on(moved.iter().map(String::as_str), moved.len()))
    }

    /// Takes what was applied out of what is left. A file that has lost a hard link has another time
    /// now, which is not somebody else's doing.
    fn forget(&mut self, done: &HashSet<usize>, hosts: &[Host]) {
        let mut touched = HashSet::new();
        let items = std::mem::take(&mut self.manifest.items);
        for (index, item) in items.into_iter().enumerate() {
            if done.contains(&index) {
                touched.extend(item.before.map(|before| before.inode));
            } else {
                self.manifest.items.push(item);
            }
        }
        for item in &mut self.manifest.items {
            let Some(before) = item.before.filter(|before| touched.contains(&before.inode)) else {
                continue;
            };
            if let Ok(Some(found)) = hosts[item.mount].folder.stat(&item.path)
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

/// A mount's directory on the host.
#[derive(Debug)]
struct Host {
    folder: Folder,
    owner: Option<(Uid, Gid)>,
    /// Directories, and the permissions that they get in the end, the last first.
    modes: Vec<(OwnedFd, Mode)>,
}

impl Host {
    fn open(mount: &SavedMount) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = quoted(&mount.source);
        let root = rustix::fs::open(&mount.source, flags, Mode::empty()).map_err(|error| {
            Error::new(ErrorKind::FileFailed, format!("cannot open {source}"))
                .with_source(io::Error::from(error))
        })?;
        let found = rustix::fs::fstat(&root)
            .map_err(|e| Error::system(format!("cannot look at {source}"), e))?;
        if found.st_ino != mount.inode {
            return Err(moved_on([source.as_str()].into_iter(), 1));
        }
        let owner = mount.owner.filter(|_| rustix::process::geteuid().is_root());
        let owner = owner.map(|(user, group)| (Uid::from_raw(user), Gid::from_raw(group)));
        Ok(Self { folder: Folder::new(root), owner, modes: Vec::new() })
    }

    /// Whether the host has what it had when the report was made.
    fn is_unchanged(&self, item: &Item) -> io::Result<bool> {
        let parent = self.folder.parent(&item.path)?;
        let found = stat_at(parent.as_fd(), name(&item.path)?)?.map(|stat| stat.print);
        Ok(match (&item.before, &found) {
            (None, None) => true,
            (Some(before), Some(found)) => before.is_same(found),
            _ => false,
        })
    }

    /// Whether a directory has nothing in it but what is known.
    fn holds_only(&self, item: &Item, is_known: impl Fn(&Path) -> bool) -> io::Result<bool> {
        let names = names(&self.folder.directory(&item.path)?, usize::MAX)?;
        Ok(names.iter().all(|name| is_known(&item.path.join(name))))
    }

    /// Opens the directory that an entry is in, to be written to.
    fn parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        let parent = self.folder.parent(path)?;
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&parent)?.st_mode & 0o7777);
        let needed = Mode::WUSR | Mode::XUSR;
        if !mode.contains(needed) && !rustix::process::geteuid().is_root() {
            rustix::fs::chmod(by_descriptor(&parent), mode | needed)?;
            self.modes.push((parent.try_clone()?, mode));
        }
        Ok(parent)
    }

    fn give(&self, directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(directory, name, Some(user), Some(group), flags)?;
        }
        Ok(())
    }

    /// Gives directories their permissions, and waits until everything is on disk.
    fn finish(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        for (directory, mode) in self.modes.drain(..).rev() {
            let set = rustix::fs::chmod(by_descriptor(&directory), mode);
            outcome = outcome.and(set.map_err(io::Error::from));
        }
        let root = self.folder.open(Path::new(""), OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::syncfs(root)?;
        outcome
    }
}

/// The way through the selected entries.
struct Applying<'a> {
    saved: &'a SavedChanges,
    hosts: &'a mut [Host],
    selected: &'a BTreeSet<usize>,
    done: HashSet<usize>,
    /// The first path of each file with several.
    first_links: HashMap<(usize, u64), PathBuf>,
    applied: Applied,
}

/// What failed on which path.
type Failed = (PathBuf, io::Error);

impl Applying<'_> {
    /// What is new and modified comes first, each directory before what is in it, and what is deleted
    /// last: whoever interrupts this has too much rather than too little.
    fn run(&mut self) -> Result<(), Failed> {
        let saved = self.saved;
        for index in self.selected {
            let item = &saved.manifest.items[*index];
            let Some(after) = item.after else { continue };
            if matches!(after.kind(), EntryKind::Socket | EntryKind::Device) {
                self.applied.skipped.push(item.change.path.clone());
                self.done.insert(*index);
                continue;
            }
            if item.empties_directory() {
                self.delete(|other| {
                    other.mount == item.mount && other.path.starts_with(&item.path)
                })?;
            }
            self.step(*index, Self::make)?;
        }
        self.delete(|_| true)
    }

    /// Deletes what is to be deleted and fits, the innermost first.
    fn delete(&mut self, fits: impl Fn(&Item) -> bool) -> Result<(), Failed> {
        let saved = self.saved;
        for index in self.selected.iter().rev() {
            let item = &saved.manifest.items[*index];
            if item.after.is_none() && !self.done.contains(index) && fits(item) {
                self.step(*index, Self::remove)?;
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        index: usize,
        work: fn(&mut Self, &Item) -> io::Result<()>,
    ) -> Result<(), Failed> {
        let saved = self.saved;
        let item = &saved.manifest.items[index];
        let unchanged = self.hosts[item.mount].is_unchanged(item);
        let outcome = match unchanged {
            Ok(true) => work(self, item),
            Ok(false) => Err(io::ErrorKind::ResourceBusy.into()),
            Err(error) => Err(error),
        };
        outcome.map_err(|error| (item.change.path.clone(), error))?;
        self.done.insert(index);
        self.applied.paths.push(item.change.path.clone());
        Ok(())
    }

    fn remove(&mut self, item: &Item) -> io::Result<()> {
        let parent = self.hosts[item.mount].parent(&item.path)?;
        let flags = if item.empties_directory() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(&parent, name(&item.path)?, flags) {
            Err(Errno::NOTEMPTY) => Err(io::ErrorKind::ResourceBusy.into()),
            removed => Ok(removed?),
        }
    }

    fn make(&mut self, item: &Item) -> io::Result<()> {
        let kind = item.after.map(|after| after.kind());
        let host = &mut self.hosts[item.mount];
        let is_directory = kind == Some(EntryKind::Directory);
        if is_directory && !item.is_new_directory() {
            let directory = host.folder.open(&item.path, OFlags::PATH | OFlags::DIRECTORY)?;
            rustix::fs::chmod(by_descriptor(&directory), item.mode() | Mode::RWXU)?;
            host.modes.push((directory, item.mode()));
            return Ok(());
        }
        let parent = host.parent(&item.path)?;
        let temporary = temporary_name()?;
        let made = self
            .build(item, parent.as_fd(), &temporary)
            .and_then(|()| put_in_place(parent.as_fd(), &temporary, item));
        if made.is_err() {
            let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(&parent, &*temporary, flags);
            return made;
        }
        let host = &mut self.hosts[item.mount];
        if is_directory {
            let directory = host.folder.open(&item.path, OFlags::PATH | OFlags::DIRECTORY)?;
            // The host hands this bit of a directory down itself.
            let inherited = rustix::fs::fstat(&directory)?.st_mode & 0o2000;
            host.modes.push((directory, item.mode() | Mode::from_raw_mode(inherited)));
        }
        Ok(())
    }

    /// Makes an entry by a name that nobody knows.
    fn build(&mut self, item: &Item, parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let Some(after) = item.after else { return Ok(()) };
        if self.link_to_another(item, parent, name)? {
            return Ok(());
        }
        let host = &self.hosts[item.mount];
        match after.kind() {
            EntryKind::Directory => {
                rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
                host.give(parent, name)
            }
            EntryKind::Link => {
                let target = item.change.target.as_deref().ok_or(io::ErrorKind::InvalidData)?;
                rustix::fs::symlinkat(target, parent, name)?;
                host.give(parent, name)
            }
            EntryKind::Fifo => {
                rustix::fs::mkfifoat(parent, name, Mode::empty())?;
                host.give(parent, name)?;
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fifo = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                Ok(rustix::fs::chmod(by_descriptor(&fifo), item.mode())?)
            }
            EntryKind::File => self.write_file(item, after, parent, name),
            EntryKind::Socket | EntryKind::Device => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn write_file(
        &self,
        item: &Item,
        after: Fingerprint,
        parent: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<()> {
        let number = item.content.ok_or(io::ErrorKind::InvalidData)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        content::copy(&self.saved.content(number)?, &mut file)?;
        self.hosts[item.mount].give(parent, name)?;
        rustix::fs::fchmod(&file, item.mode())?;
        let (seconds, nanoseconds) = after.mtime;
        let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let modified = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
        // A time that the file system cannot keep is no reason to fail.
        let _ = rustix::fs::futimens(
            &file,
            &Timestamps { last_access: keep, last_modification: modified },
        );
        match item.before {
            // What replaces something must be whole before that is gone.
            Some(_) => file.sync_all(),
            None => Ok(()),
        }
    }

    /// Links an entry to a path that is the same file, if there is one.
    fn link_to_another(
        &mut self,
        item: &Item,
        parent: BorrowedFd<'_>,
        temporary: &str,
    ) -> io::Result<bool> {
        let Some(number) = item.content.filter(|number| number & 1 == 1) else { return Ok(false) };
        let host = &self.hosts[item.mount];
        let key = (item.mount, number);
        let (path, expected) = match (&item.anchor, self.first_links.get(&key)) {
            (Some(anchor), _) => {
                let found = host.folder.stat(&anchor.path)?.map(|stat| stat.print);
                let same = found.is_some_and(|found| anchor.print.is_same_content(&found));
                if !same {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                (anchor.path.clone(), anchor.print.inode)
            }
            (None, Some(first)) => {
                let found = host.folder.stat(first)?.ok_or(io::ErrorKind::ResourceBusy)?;
                (first.clone(), found.print.inode)
            }
            (None, None) => {
                self.first_links.insert(key, item.path.clone());
                return Ok(false);
            }
        };
        let from = host.folder.parent(&path)?;
        rustix::fs::linkat(&from, name(&path)?, parent, temporary, AtFlags::empty())?;
        let linked = stat_at(parent, temporary.as_ref())?;
        match linked.is_some_and(|linked| linked.print.inode == expected) {
            true => Ok(true),
            false => Err(io::ErrorKind::ResourceBusy.into()),
        }
    }
}

/// Gives an entry its name: at once, and never over something that was not there before.
fn put_in_place(parent: BorrowedFd<'_>, temporary: &str, item: &Item) -> io::Result<()> {
    let name = name(&item.path)?;
    let rename = |flags| rustix::fs::renameat_with(parent, temporary, parent, name, flags);
    let is_directory = |print: Option<Fingerprint>| {
        print.is_some_and(|print| print.kind() == EntryKind::Directory)
    };
    match (is_directory(item.before), is_directory(item.after)) {
        _ if item.before.is_none() => match rename(RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(io::ErrorKind::ResourceBusy.into()),
            // Not every file system has it; that there was nothing is known.
            Err(Errno::INVAL | Errno::NOSYS) => Ok(rename(RenameFlags::empty())?),
            renamed => Ok(renamed?),
        },
        (false, false) => {
            rename(RenameFlags::empty())?;
            // Two links of one file are not renamed over each other (`rename(2)`).
            match rustix::fs::unlinkat(parent, temporary, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        (was_directory, _) => {
            let flags = if was_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            match rename(RenameFlags::EXCHANGE) {
                Ok(()) => Ok(rustix::fs::unlinkat(parent, temporary, flags)?),
                Err(Errno::INVAL | Errno::NOSYS) => {
                    rustix::fs::unlinkat(parent, name, flags)?;
                    Ok(rename(RenameFlags::empty())?)
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// A name that nobody has, and that tells whose it is when it is left behind.
fn temporary_name() -> io::Result<String> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(".openbrain-{:016x}", u64::from_ne_bytes(bytes)))
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
