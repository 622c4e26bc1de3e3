//! A mount's directory on the host, as changes are applied to it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ffi::OsStr,
    io,
    ops::{Index, IndexMut},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use super::{
    super::{
        EntryKind, content,
        folder::{Fingerprint, Folder, WIDENED, by_descriptor, name, names, stat_at},
        saved::{self, Item, SavedChanges, SavedMount},
        text::quoted,
    },
    moved_on,
};
use crate::error::{Error, ErrorKind, Result};

/// What a new directory has until the end: nobody else's rights, and a mark, so that it is known again.
pub(super) const IN_THE_MAKING: Mode = Mode::RWXU.union(Mode::SVTX);

/// The longest time for the comparison of one file.
const LONGEST_COMPARISON: Duration = Duration::from_secs(24 * 60 * 60);

/// A mount's directory on the host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) folder: Folder,
    /// The file system that it is on (`st_dev`, `stat(2)`).
    device: u64,
    owner: Option<(Uid, Gid)>,
    /// Directories, and the permissions that they get in the end, the last first.
    pub(super) modes: Vec<(OwnedFd, Mode)>,
    /// Files, by inode, that have lost a name to what was applied.
    pub(super) unlinked: HashSet<u64>,
}

/// The directories of the mounts that are concerned, by the indices of these.
#[derive(Debug)]
pub(super) struct Hosts(BTreeMap<usize, Host>);

impl Hosts {
    pub(super) fn open(mounts: &[SavedMount], indices: BTreeSet<usize>) -> Result<Self> {
        let open = |index| Ok((index, Host::open(&mounts[index])?));
        Ok(Self(indices.into_iter().map(open).collect::<Result<_>>()?))
    }

    /// Notes that a file has lost a name to what was applied, or has been renamed: its other names, in
    /// other mounts as well, are found with another time.
    pub(super) fn note_unlinked(&mut self, item: &Item) {
        let Some(before) = item.before.filter(|before| before.kind() != EntryKind::Directory)
        else {
            return;
        };
        let device = self[item.mount].device;
        let there = self.0.values_mut().filter(|host| host.device == device);
        for host in there {
            host.unlinked.insert(before.inode);
        }
    }

    /// One more mount, for the names that it has of what was applied in others.
    pub(super) fn beside(&mut self, mounts: &[SavedMount], index: usize) -> Option<&Host> {
        if !self.0.contains_key(&index) {
            let mut host = Host::open(&mounts[index]).ok()?;
            let there = self.0.values().filter(|other| other.device == host.device);
            host.unlinked = there.flat_map(|other| other.unlinked.iter().copied()).collect();
            self.0.insert(index, host);
        }
        self.0.get(&index)
    }

    /// Gives directories their permissions, and waits until everything is on disk.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.0.values_mut().try_for_each(Host::finish)
    }
}

impl Index<usize> for Hosts {
    type Output = Host;

    fn index(&self, mount: usize) -> &Host {
        &self.0[&mount]
    }
}

impl IndexMut<usize> for Hosts {
    fn index_mut(&mut self, mount: usize) -> &mut Host {
        self.0.get_mut(&mount).expect("the mounts of what is applied are open")
    }
}

impl Host {
    fn open(mount: &SavedMount) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = quoted(&mount.source);
        let root = rustix::fs::open(&mount.source, flags, Mode::empty()).map_err(|error| {
            Error::new(ErrorKind::FileFailed, format!("cannot open {source}"))
                .with_source(io::Error::from(error))
                .with_remedy("put the directory back where it was mounted from, or discard them")
        })?;
        let found = rustix::fs::fstat(&root)
            .map_err(|e| Error::system(format!("cannot look at {source}"), e))?;
        let device = saved::Device::of(found.st_dev);
        if found.st_ino != mount.inode
            || mount.device.as_ref().is_some_and(|was| was.is_other(&device))
        {
            return Err(moved_on([source.as_str()].into_iter(), 1));
        }
        let owner = mount.owner.filter(|_| rustix::process::geteuid().is_root());
        let owner = owner.map(|(user, group)| (Uid::from_raw(user), Gid::from_raw(group)));
        let (folder, device) = (Folder::new(root), found.st_dev);
        Ok(Self { folder, device, owner, modes: Vec::new(), unlinked: HashSet::new() })
    }

    /// Whether the host has what it had when the report was made, but for the links that a file has
    /// lost to what was applied.
    pub(super) fn is_unchanged(&self, item: &Item) -> io::Result<bool> {
        let parent = self.folder.parent(&item.path)?;
        let found = stat_at(parent.as_fd(), name(&item.path)?)?.map(|stat| stat.print);
        Ok(match (&item.before, &found) {
            (None, None) => true,
            (Some(before), Some(found)) if self.unlinked.contains(&before.inode) => {
                before.is_same_content(found)
            }
            (Some(before), Some(found)) => before.is_same(found),
            _ => false,
        })
    }

    /// Whether the host has already what is to be made of an entry: somebody has applied it and was
    /// interrupted before the record forgot it, or the host came to the same by itself.
    pub(super) fn has(&self, saved: &SavedChanges, item: &Item) -> io::Result<bool> {
        let found = match self.folder.parent(&item.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            parent => stat_at(parent?.as_fd(), name(&item.path)?)?.map(|stat| stat.print),
        };
        let (Some(after), Some(found)) = (item.after, found) else {
            return Ok(item.after.is_none() && found.is_none());
        };
        if after.kind() != found.kind() {
            return Ok(false);
        }
        let has_mode = found.permissions() == item.mode().as_raw_mode();
        match after.kind() {
            EntryKind::Directory => Ok(Self::has_directory(item, &found)),
            EntryKind::File
                if has_mode && (found.size, found.mtime) == (after.size, after.mtime) =>
            {
                let number = item.content.ok_or(io::ErrorKind::InvalidData)?;
                let (new, here) = (saved.content(number)?, self.folder.file(&item.path)?);
                content::is_same(&new, &here, after.size, Instant::now() + LONGEST_COMPARISON)
            }
            EntryKind::Link => {
                let link = self.folder.open(&item.path, OFlags::PATH)?;
                let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
                let expected = item.change.target.as_ref();
                Ok(expected.is_some_and(|to| to.as_os_str().as_bytes() == target.as_bytes()))
            }
            EntryKind::Fifo => Ok(has_mode),
            EntryKind::File | EntryKind::Socket | EntryKind::Device => Ok(false),
        }
    }

    /// Whether a directory is what it is to be, or was on its way there.
    fn has_directory(item: &Item, found: &Fingerprint) -> bool {
        // The host hands this bit of a directory down itself.
        let plain = |mode: Mode| mode - Mode::SGID;
        let mode = plain(Mode::from_raw_mode(found.permissions()));
        let last = [item.mode(), item.mode() | WIDENED, item.mode() | Mode::RWXU].map(plain);
        match item.is_new_directory() {
            true => mode == IN_THE_MAKING || last.contains(&mode),
            false => {
                item.before.is_some_and(|before| before.inode == found.inode)
                    && last.contains(&mode)
            }
        }
    }

    /// Lets a directory that the host has already get its permissions in the end.
    pub(super) fn adopt(&mut self, item: &Item) -> io::Result<()> {
        let directory = self.folder.open(&item.path, OFlags::PATH | OFlags::DIRECTORY)?;
        match stat_at(directory.as_fd(), OsStr::new(""))? {
            Some(found) if Self::has_directory(item, &found.print) => {
                self.give_mode(directory, item)
            }
            _ => Err(io::ErrorKind::ResourceBusy.into()),
        }
    }

    /// Lets a directory get its permissions in the end; a new one keeps the bit that the host has handed
    /// down.
    pub(super) fn give_mode(&mut self, directory: OwnedFd, item: &Item) -> io::Result<()> {
        let inherited = match item.is_new_directory() {
            true => Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode) & Mode::SGID,
            false => Mode::empty(),
        };
        self.modes.push((directory, item.mode() | inherited));
        Ok(())
    }

    /// Whether a directory has nothing in it but what is known.
    pub(super) fn holds_only(
        &self,
        item: &Item,
        is_known: impl Fn(&Path) -> bool,
    ) -> io::Result<bool> {
        let names = names(&self.folder.directory(&item.path)?, usize::MAX)?;
        Ok(names.iter().all(|name| is_known(&item.path.join(name))))
    }

    /// Opens the directory that an entry is in, to be written to.
    pub(super) fn parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        let parent = self.folder.parent(path)?;
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&parent)?.st_mode & 0o7777);
        if !mode.contains(WIDENED) && !rustix::process::geteuid().is_root() {
            rustix::fs::chmod(by_descriptor(&parent), mode | WIDENED)?;
            self.modes.push((parent.try_clone()?, mode));
        }
        Ok(parent)
    }

    /// Lets something that is open belong to whom the mount belongs.
    pub(super) fn give(&self, entry: impl AsFd) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            let flags = AtFlags::EMPTY_PATH;
            rustix::fs::chownat(entry, "", Some(user), Some(group), flags)?;
        }
        Ok(())
    }

    /// Opens what was made a moment ago, to be given away. Whoever else may write to the directory may
    /// have put something in its place: what is not as it was made is not touched.
    pub(super) fn open_made(
        &self,
        parent: BorrowedFd<'_>,
        name: &str,
        kind: EntryKind,
    ) -> io::Result<OwnedFd> {
        let is_directory = kind == EntryKind::Directory;
        let how = if is_directory { OFlags::RDONLY | OFlags::DIRECTORY } else { OFlags::PATH };
        let flags = how | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let found = stat_at(entry.as_fd(), OsStr::new(""))?;
        let is_new = found.is_some_and(|found| {
            let is_closed = found.print.permissions() & 0o077 == 0;
            let is_ours = self.owner.is_none() || found.uid == 0;
            found.kind() == kind
                && is_ours
                && if is_directory { is_closed } else { found.links == 1 }
        });
        match is_new && (!is_directory || names(&entry, 1)?.is_empty()) {
            true => Ok(entry),
            false => Err(io::ErrorKind::ResourceBusy.into()),
        }
    }

    /// Opens a directory that was there before.
    pub(super) fn open_known(&self, path: &Path, before: &Fingerprint) -> io::Result<OwnedFd> {
        let directory = self.folder.open(path, OFlags::PATH | OFlags::DIRECTORY)?;
        match stat_at(directory.as_fd(), OsStr::new(""))? {
            Some(found) if before.is_same(&found.print) => Ok(directory),
            _ => Err(io::ErrorKind::ResourceBusy.into()),
        }
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

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        fs, io,
        os::{
            fd::AsFd,
            unix::fs::{PermissionsExt, chown},
        },
    };

    use rustix::fs::{CWD, Gid, Mode, Uid, mkfifoat};

    use super::{EntryKind, Folder, Host};

    /// What somebody may put in the place of what was made, before it is given to them.
    #[test]
    fn only_what_was_made_is_given_away() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["made", "full", "open", "other"] {
            fs::create_dir(path(name)).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::write(path("full/secret"), "").unwrap();
        fs::set_permissions(path("open"), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["pipe", "linked", "other-pipe"] {
            mkfifoat(CWD, path(name), Mode::empty()).unwrap();
        }
        fs::hard_link(path("linked"), path("again")).unwrap();
        for name in ["other", "other-pipe"] {
            chown(path(name), Some(4321), None).unwrap();
        }
        let parent = fs::File::open(directory.path()).unwrap();
        let folder = Folder::new(parent.try_clone().unwrap().into());
        let owner = Some((Uid::from_raw(4321), Gid::from_raw(4321)));
        let (modes, unlinked) = (Vec::new(), HashSet::new());
        let host = Host { folder, device: 0, owner, modes, unlinked };
        let open = |name, kind| host.open_made(parent.as_fd(), name, kind);
        for (name, kind) in [
            ("full", EntryKind::Directory),
            ("open", EntryKind::Directory),
            ("other", EntryKind::Directory),
            ("linked", EntryKind::Fifo),
            ("other-pipe", EntryKind::Fifo),
            ("made", EntryKind::Fifo),
            ("pipe", EntryKind::Link),
        ] {
            let error = open(name, kind).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{name}");
        }
        assert!(open("pipe", EntryKind::Directory).is_err());
        host.give(open("made", EntryKind::Directory).unwrap()).unwrap();
        host.give(open("pipe", EntryKind::Fifo).unwrap()).unwrap();
    }
}
