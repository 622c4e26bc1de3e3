//! The way through the entries that are applied, one after the other.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use super::{
    super::{
        EntryKind, content,
        folder::{Fingerprint, by_descriptor, name, stat_at},
        saved::{Item, SavedChanges},
    },
    Applied,
    host::{Host, Hosts, IN_THE_MAKING},
    place::{put_in_place, temporary_name, unlink},
};

/// The way through the selected entries.
pub(super) struct Applying<'a> {
    saved: &'a SavedChanges,
    hosts: &'a mut Hosts,
    selected: &'a BTreeSet<usize>,
    /// What the host has already.
    has: &'a HashSet<usize>,
    pub(super) done: HashSet<usize>,
    /// The first path of each file with several.
    first_links: HashMap<(usize, u64), PathBuf>,
    pub(super) applied: Applied,
}

/// What failed on which path.
pub(super) type Failed = (PathBuf, io::Error);

impl<'a> Applying<'a> {
    pub(super) fn new(
        saved: &'a SavedChanges,
        hosts: &'a mut Hosts,
        selected: &'a BTreeSet<usize>,
        has: &'a HashSet<usize>,
    ) -> Self {
        let (done, first_links) = (HashSet::new(), HashMap::new());
        Self { saved, hosts, selected, has, done, first_links, applied: Applied::default() }
    }

    /// What is new and modified comes first, each directory before what is in it, and what is deleted
    /// last: whoever interrupts this has too much rather than too little.
    pub(super) fn run(&mut self) -> Result<(), Failed> {
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
        let outcome = match self.hosts[item.mount].is_unchanged(item) {
            _ if self.has.contains(&index) => self.take_over(item),
            Ok(true) => {
                let outcome = work(self, item);
                // One that got its name back has another time, too.
                self.hosts.note_unlinked(item);
                outcome
            }
            Ok(false) => Err(io::ErrorKind::ResourceBusy.into()),
            Err(error) => Err(error),
        };
        outcome.map_err(|error| (item.change.path.clone(), error))?;
        self.done.insert(index);
        self.applied.paths.push(item.change.path.clone());
        Ok(())
    }

    /// Goes on from what an interrupted attempt has left.
    fn take_over(&mut self, item: &Item) -> io::Result<()> {
        if let Some(number) = item.content.filter(|number| number & 1 == 1) {
            self.first_links.entry((item.mount, number)).or_insert_with(|| item.path.clone());
        }
        match item.after.is_some_and(|after| after.kind() == EntryKind::Directory) {
            true => self.host(item).adopt(item),
            false => Ok(()),
        }
    }

    fn host(&mut self, item: &Item) -> &mut Host {
        &mut self.hosts[item.mount]
    }

    fn remove(&mut self, item: &Item) -> io::Result<()> {
        let parent = self.hosts[item.mount].parent(&item.path)?;
        unlink(item, parent.as_fd(), name(&item.path)?)
    }

    fn make(&mut self, item: &Item) -> io::Result<()> {
        let host = &mut self.hosts[item.mount];
        let is_directory = item.after.is_some_and(|after| after.kind() == EntryKind::Directory);
        if let (true, false, Some(before)) = (is_directory, item.is_new_directory(), &item.before) {
            let directory = host.open_known(&item.path, before)?;
            rustix::fs::chmod(by_descriptor(&directory), item.mode() | Mode::RWXU)?;
            host.modes.push((directory, item.mode()));
            return Ok(());
        }
        let parent = host.parent(&item.path)?;
        let temporary = temporary_name()?;
        let made = self.build(item, parent.as_fd(), &temporary).and_then(|made| {
            // Copying may have taken long.
            if !self.hosts[item.mount].is_unchanged(item)? {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            put_in_place(parent.as_fd(), &temporary, item)?;
            Ok(made)
        });
        let directory = made.inspect_err(|_| {
            let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(&parent, &*temporary, flags);
        })?;
        match directory {
            Some(directory) => self.host(item).give_mode(directory, item),
            None => Ok(()),
        }
    }

    /// Makes an entry by a name that nobody knows; returns a directory, which gets its permissions in
    /// the end.
    fn build(
        &mut self,
        item: &Item,
        parent: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<Option<OwnedFd>> {
        let Some(after) = item.after else { return Ok(None) };
        if self.link_to_another(item, parent, name)? {
            return Ok(None);
        }
        let host = &self.hosts[item.mount];
        match after.kind() {
            EntryKind::Directory => {
                rustix::fs::mkdirat(parent, name, IN_THE_MAKING)?;
                let directory = host.open_made(parent, name, after.kind())?;
                host.give(&directory)?;
                return Ok(Some(directory));
            }
            EntryKind::Link => {
                let target = item.change.target.as_deref().ok_or(io::ErrorKind::InvalidData)?;
                rustix::fs::symlinkat(target, parent, name)?;
                host.give(host.open_made(parent, name, after.kind())?)?;
            }
            EntryKind::Fifo => {
                rustix::fs::mkfifoat(parent, name, Mode::empty())?;
                let fifo = host.open_made(parent, name, after.kind())?;
                host.give(&fifo)?;
                rustix::fs::chmod(by_descriptor(&fifo), item.mode())?;
            }
            EntryKind::File => self.write_file(item, after, parent, name)?,
            EntryKind::Socket | EntryKind::Device => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(None)
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
        content::copy(&self.saved.content(number)?, &mut file, u64::MAX)?;
        self.hosts[item.mount].give(&file)?;
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
