//! How an entry takes its place.

use std::{ffi::OsStr, io, os::fd::BorrowedFd};

use rustix::{
    fs::{AtFlags, RenameFlags},
    io::Errno,
};

use super::super::{
    EntryKind,
    folder::{Fingerprint, name, stat_at},
    saved::Item,
};

/// Gives an entry its name: at once, and never over something that was not there before. What came
/// since the check is somebody else's, and gets its name back.
pub(super) fn put_in_place(parent: BorrowedFd<'_>, temporary: &str, item: &Item) -> io::Result<()> {
    let name = name(&item.path)?;
    let rename = |flags| rustix::fs::renameat_with(parent, temporary, parent, name, flags);
    let flags = if item.before.is_some() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    match rename(flags) {
        Ok(()) if item.before.is_none() => return Ok(()),
        Ok(()) => {}
        Err(Errno::EXIST | Errno::NOENT) => return Err(io::ErrorKind::ResourceBusy.into()),
        // Not every file system has these.
        Err(Errno::INVAL | Errno::NOSYS) => return put_after_a_look(parent, temporary, item),
        Err(error) => return Err(error.into()),
    }
    let removed = match is_still(item, parent, temporary.as_ref()) {
        Ok(true) => unlink(item, parent, temporary.as_ref()),
        Ok(false) => Err(io::ErrorKind::ResourceBusy.into()),
        Err(error) => Err(error),
    };
    removed.or_else(|error| {
        rename(RenameFlags::EXCHANGE)?;
        Err(error)
    })
}

/// Gives an entry its name where that is not possible in one step with the look at what was there:
/// what comes in between is lost.
fn put_after_a_look(parent: BorrowedFd<'_>, temporary: &str, item: &Item) -> io::Result<()> {
    let name = name(&item.path)?;
    if !is_still(item, parent, name)? {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let is_directory = |print: Option<Fingerprint>| {
        print.is_some_and(|print| print.kind() == EntryKind::Directory)
    };
    if item.before.is_some() && (is_directory(item.before) || is_directory(item.after)) {
        unlink(item, parent, name)?;
    }
    rustix::fs::renameat(parent, temporary, parent, name)?;
    // Two links of one file are not renamed over each other (`rename(2)`).
    match rustix::fs::unlinkat(parent, temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes what was there before. A directory that somebody has put something into is no failure of ours.
pub(super) fn unlink(item: &Item, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let was_directory = item.before.is_some_and(|before| before.kind() == EntryKind::Directory);
    let flags = if was_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match rustix::fs::unlinkat(parent, name, flags) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => Err(io::ErrorKind::ResourceBusy.into()),
        removed => Ok(removed?),
    }
}

/// Whether this is what is to be replaced. A rename changes the `ctime`, and the permissions of a
/// directory may be ours already.
fn is_still(item: &Item, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    let found = stat_at(parent, name)?.map(|found| found.print);
    Ok(match (&item.before, &found) {
        (None, None) => true,
        (Some(before), Some(found)) if before.kind() == EntryKind::Directory => {
            before.inode == found.inode
        }
        (Some(before), Some(found)) => before.is_same_content(found),
        _ => false,
    })
}

/// A name that nobody has, and that tells whose it is when it is left behind.
pub(super) fn temporary_name() -> io::Result<String> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(".openbrain-{:016x}", u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fs, io, os::fd::AsFd, path::Path};

    use super::{Item, put_after_a_look, put_in_place};
    use crate::changes::{
        Change, ChangeKind, EntryKind,
        folder::{Fingerprint, stat_at},
    };

    fn print(path: &Path) -> Fingerprint {
        let directory = fs::File::open(path.parent().unwrap()).unwrap();
        stat_at(directory.as_fd(), path.file_name().unwrap()).unwrap().unwrap().print
    }

    fn names(directory: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    fn item(name: &str, before: Option<Fingerprint>, after: Fingerprint) -> Item {
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
            before,
            has_moved: false,
            after: Some(after),
            content: None,
            anchor: None,
        }
    }

    /// The host adds a file to a directory, or writes to a file, between the check and the exchange,
    /// or the look where nothing can be exchanged.
    #[test]
    fn what_came_meanwhile_keeps_its_name() {
        for put in [put_in_place, put_after_a_look] {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name);
            fs::create_dir(path("dir")).unwrap();
            fs::write(path("file"), "old").unwrap();
            fs::write(path("edited"), "old").unwrap();
            fs::write(path("gone"), "old").unwrap();
            let before = ["dir", "file", "edited", "gone"].map(|name| Some(print(&path(name))));
            fs::write(path("new-file"), "of the sandbox").unwrap();
            fs::create_dir(path("new-dir")).unwrap();
            let [new_file, new_dir] = ["new-file", "new-dir"].map(|name| print(&path(name)));
            fs::write(path("dir/added"), "of the host").unwrap();
            fs::remove_file(path("gone")).unwrap();
            for name in ["file", "edited", "made"] {
                fs::write(path(name), "of the host").unwrap();
            }
            let parent = fs::File::open(directory.path()).unwrap();
            for (name, new, before, after) in [
                ("dir", "new-file", before[0], new_file),
                ("file", "new-dir", before[1], new_dir),
                ("edited", "new-file", before[2], new_file),
                ("gone", "new-file", before[3], new_file),
                ("made", "new-file", None, new_file),
            ] {
                let item = item(name, before, after);
                let error = put(parent.as_fd(), new, &item).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{name}: {error}");
            }
            for name in ["dir/added", "file", "edited", "made"] {
                assert_eq!(fs::read_to_string(path(name)).unwrap(), "of the host", "{name}");
            }
            // Whoever made them removes them.
            let expected = ["dir", "edited", "file", "made", "new-dir", "new-file"];
            assert_eq!(names(directory.path()), expected);
        }
    }

    #[test]
    fn what_did_not_move_on_is_replaced() {
        for put in [put_in_place, put_after_a_look] {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name);
            fs::create_dir(path("dir")).unwrap();
            fs::write(path("file"), "old").unwrap();
            fs::write(path("same"), "of the sandbox").unwrap();
            let before = ["dir", "file", "same"].map(|name| Some(print(&path(name))));
            for name in ["new-1", "new-2", "new-3"] {
                fs::write(path(name), "of the sandbox").unwrap();
            }
            // Another name of the file that is there.
            fs::hard_link(path("same"), path("new-4")).unwrap();
            let parent = fs::File::open(directory.path()).unwrap();
            for (name, new, before) in [
                ("dir", "new-1", before[0]),
                ("file", "new-2", before[1]),
                ("made", "new-3", None),
                ("same", "new-4", before[2]),
            ] {
                put(parent.as_fd(), new, &item(name, before, print(&path(new)))).unwrap();
                assert_eq!(fs::read_to_string(path(name)).unwrap(), "of the sandbox", "{name}");
            }
            assert_eq!(names(directory.path()), ["dir", "file", "made", "same"]);
        }
    }
}
