//! Where what a sandbox has written lies, and what is below it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use super::folder::{Fingerprint, Folder, Stat};

/// Everything that a sandbox has written outside of read-write mounts. It is there as long as this
/// value is, whatever has become of the sandbox.
#[derive(Debug)]
pub struct Layers {
    /// When the sandbox was ready, in seconds and nanoseconds of the clock that files are dated by, which
    /// ticks every few milliseconds: what the host has changed since then is not what the sandbox saw.
    pub(super) since: (i64, u32),
    pub(super) layers: Vec<Layer>,
    is_given_up: AtomicBool,
}

/// One directory of a sandbox that it writes to.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Where the sandbox sees it.
    pub(crate) target: PathBuf,
    /// What was written.
    pub(crate) upper: Folder,
    /// What is below that; none for a directory of the sandbox's own.
    pub(crate) lower: Option<Lower>,
    /// What is there though nothing was written, relative to the target: mount points, and directories.
    pub(crate) skeleton: BTreeSet<PathBuf>,
    /// Files that the sandbox was given there, in the place of those below, by their paths.
    pub(crate) given: BTreeMap<PathBuf, Given>,
}

/// What a sandbox was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// A regular file with this content.
    File(Vec<u8>),
    /// A symbolic link to this path.
    Link(PathBuf),
}

/// The host's side of a layer.
#[derive(Debug)]
pub(crate) struct Lower {
    pub(crate) folder: Folder,
    /// Its path on the host.
    pub(crate) path: PathBuf,
    /// Who owns what the sandbox writes there, where that is not whoever asks.
    pub(crate) owner: Option<(u32, u32)>,
    /// Whether it is a mount, to which changes can be applied.
    pub(crate) is_mount: bool,
}

impl Layers {
    pub(crate) fn new(since: (i64, u32), layers: Vec<Layer>) -> Self {
        Self { since, layers, is_given_up: AtomicBool::new(false) }
    }

    /// Tells a report that nobody waits for it any more.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }
}

impl Layer {
    /// A path below the target, as the sandbox sees it.
    pub(super) fn seen(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.target.clone() } else { self.target.join(path) }
    }

    /// Whether an entry of the upper layer is one that the sandbox began with. Of a mount, what both
    /// sides have is compared as everything else.
    pub(super) fn is_skeleton(&self, path: &Path, lower: Option<&Stat>) -> bool {
        (lower.is_none() || self.mount().is_none()) && self.skeleton.contains(path)
    }

    /// The mount that this is, if it is one.
    pub(super) fn mount(&self) -> Option<&Lower> {
        self.lower.as_ref().filter(|lower| lower.is_mount)
    }
}

impl Lower {
    /// Whether the sandbox's user could read a file of the host with this owner and mode, or give itself
    /// the right to: what it could not is shown to nobody who asked for the sandbox.
    pub(super) fn may_be_read(&self, uid: u32, mode: u32) -> bool {
        // Without an owner of its own it is who asks, and the kernel knows.
        self.owner.is_none_or(|(user, _)| uid == user) || mode & 0o004 != 0
    }
}

impl Given {
    /// What it was before anybody wrote; with the permissions that it has now, which are those of the
    /// process that made it and not compared.
    pub(super) fn stat(&self, now: Option<&Stat>) -> Stat {
        let (kind, size, usual) = match self {
            Self::File(content) => (0o100_000, content.len(), 0o644),
            Self::Link(target) => (0o120_000, target.as_os_str().len(), 0o777),
        };
        let mode = kind | now.map_or(usual, |now| now.print.permissions());
        let size = size as u64;
        Stat {
            print: Fingerprint { inode: 0, mode, size, mtime: (0, 0), ctime: (0, 0) },
            links: 1,
            uid: 0,
            mount: 0,
            is_whiteout: false,
        }
    }
}
