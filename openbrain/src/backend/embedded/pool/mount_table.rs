//! Notices when something is mounted or unmounted on the host: a sandbox has what was mounted below
//! its sources when it was made.

use std::{
    fs::File,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The mounts that the sandboxes of this thread are made from.
#[derive(Debug)]
pub(super) struct MountTable {
    /// None where there is no `/proc`, and no sandbox either.
    file: Option<File>,
    version: AtomicU64,
}

impl MountTable {
    pub(super) fn new() -> Self {
        Self { file: File::open("/proc/thread-self/mounts").ok(), version: AtomicU64::new(0) }
    }

    /// A number that is another one when the mounts are others.
    pub(super) fn version(&self) -> u64 {
        let Some(file) = &self.file else { return 0 };
        // A change is told once, as an exceptional condition (`proc(5)`).
        let mut wanted = [PollFd::new(file, PollFlags::PRI)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let has_changed = poll(&mut wanted, Some(&now)).is_ok_and(|ready| ready > 0);
        self.version.fetch_add(has_changed.into(), Ordering::SeqCst) + u64::from(has_changed)
    }
}
