//! How an entry takes its place.

use std::{io, os::fd::BorrowedFd};

use rustix::{
    fs::{AtFlags, RenameFlags},
    io::Errno,
};

use super::super::{
    EntryKind,
    folder::{Fingerprint, name, stat_at},
    saved::Item,
};

/// Gives an entry its name: at once, and never over something that was not there before.
pub(super) fn put_in_place(parent: BorrowedFd<'_>, temporary: &str, item: &Item) -> io::Result<()> {
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
                Ok(()) => {}
                Err(Errno::INVAL | Errno::NOSYS) => {
                    rustix::fs::unlinkat(parent, name, flags).map_err(busy)?;
                    return Ok(rename(RenameFlags::empty())?);
                }
                Err(error) => return Err(error.into()),
            }
            let removed = match is_still(item, parent, temporary) {
                Ok(true) => rustix::fs::unlinkat(parent, temporary, flags).map_err(busy),
                Ok(false) => Err(io::ErrorKind::ResourceBusy.into()),
                Err(error) => Err(error),
            };
            removed.or_else(|error| {
                // What came since the check is somebody else's, and gets its name back.
                rename(RenameFlags::EXCHANGE)?;
                Err(error)
            })
        }
    }
}

/// Whether what was replaced is what was to be. The permissions of a directory may be ours already.
fn is_still(item: &Item, parent: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let found = stat_at(parent, name.as_ref())?.map(|found| found.print);
    Ok(item.before.zip(found).is_some_and(|(before, found)| match before.kind() {
        EntryKind::Directory => before.inode == found.inode,
        _ => before.is_same_content(&found),
    }))
}

/// A directory that somebody has put something into is no failure of ours.
fn busy(error: Errno) -> io::Error {
    match error {
        Errno::NOTEMPTY | Errno::EXIST => io::ErrorKind::ResourceBusy.into(),
        error => error.into(),
    }
}

/// A name that nobody has, and that tells whose it is when it is left behind.
pub(super) fn temporary_name() -> io::Result<String> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(".openbrain-{:016x}", u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, fs, io, os::fd::AsFd, path::Path};

    use super::{Item, put_in_place};
    use crate::changes::{
        Change, ChangeKind, EntryKind,
        folder::{Fingerprint, stat_at},
    };

    fn print(path: &Path) -> Fingerprint {
        let directory = fs::File::open(path.parent().unwrap()).unwrap();
        stat_at(directory.as_fd(), path.file_name().unwrap()).unwrap().unwrap().print
    }

    fn item(name: &str, before: Fingerprint, after: Fingerprint) -> Item {
        let change = Change {
            path: name.into(),
            mount: None,
            change: ChangeKind::Modified,
            kind: EntryKind::File,
            old_kind: None,
            size: None,
            mode: 0,
            old_mode: None,
            target: None,
            hard_link_to: None,
            diff: None,
            no_diff: None,
        };
        Item {
            change,
            mount: 0,
            path: name.into(),
            before: Some(before),
            has_moved: false,
            after: Some(after),
            content: None,
            anchor: None,
        }
    }

    /// The host adds a file to a directory, or writes to a file, between the check and the exchange.
    #[test]
    fn what_came_meanwhile_keeps_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("dir")).unwrap();
        fs::write(path("file"), "old").unwrap();
        let before = ["dir", "file"].map(|name| print(&path(name)));
        fs::write(path("new-file"), "of the sandbox").unwrap();
        fs::create_dir(path("new-dir")).unwrap();
        let after = ["new-file", "new-dir"].map(|name| print(&path(name)));
        fs::write(path("dir/added"), "of the host").unwrap();
        fs::write(path("file"), "of the host").unwrap();
        let parent = fs::File::open(directory.path()).unwrap();
        for (name, new, n) in [("dir", "new-file", 0), ("file", "new-dir", 1)] {
            let item = item(name, before[n], after[n]);
            let error = put_in_place(parent.as_fd(), new, &item).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{name}: {error}");
        }
        assert_eq!(fs::read_to_string(path("dir/added")).unwrap(), "of the host");
        assert_eq!(fs::read_to_string(path("file")).unwrap(), "of the host");
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        // Whoever made them removes them.
        assert_eq!(names, ["dir", "file", "new-dir", "new-file"].map(OsStr::new));
    }
}
