//! What this machine is: who calls, what its system directories look like, what its kernel offers.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::backend::sys;

/// Who the sandbox is, outside and inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// An ordinary user: the sandbox is the same user, inside as outside.
    Caller {
        /// User and group on the host and in the sandbox.
        uid: u32,
        /// Group on the host and in the sandbox.
        gid: u32,
    },
    /// The machine's root: the sandbox is a user of the host that owns nothing.
    Root,
}

/// The user and group that a sandbox of root is on the host: the first number after the range that
/// systemd gives to containers, which ends at 0x6fff_ffff, so that nobody has it.
pub(crate) const NOBODYS_ID: u32 = 0x7000_0000;

/// The user and group that a sandbox of root is inside: programs treat 0 as the power that it is
/// not.
const INSIDE_ID: u32 = 1000;

impl Identity {
    /// Who calls. Root of a user namespace, as in a rootless container, is an ordinary user: only
    /// the machine's own root can be somebody else on the host.
    pub(crate) fn current() -> Self {
        let (uid, gid) =
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        match uid {
            0 if is_initial_user_namespace() => Self::Root,
            uid => Self::Caller { uid, gid },
        }
    }

    /// User and group on the host.
    pub(crate) fn outside(self) -> (u32, u32) {
        match self {
            Self::Caller { uid, gid } => (uid, gid),
            Self::Root => (NOBODYS_ID, NOBODYS_ID),
        }
    }

    /// User and group in the sandbox.
    pub(crate) fn inside(self) -> (u32, u32) {
        match self {
            Self::Caller { uid: 0, .. } | Self::Root => (INSIDE_ID, INSIDE_ID),
            Self::Caller { uid, gid } => (uid, gid),
        }
    }
}

fn is_initial_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// One top-level entry of the host that a sandbox sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SystemEntry {
    /// A directory, to be bound.
    Directory(PathBuf),
    /// A symbolic link, to be made again: `/bin` is `usr/bin` on most distributions.
    Link(PathBuf, PathBuf),
}

/// What does not change while the process lives.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// System directories, in the order in which they are made.
    pub(crate) system: Vec<SystemEntry>,
    /// Entries of `/etc` that are the same for everybody.
    pub(crate) etc: Vec<(PathBuf, Kind)>,
    /// Files of `/proc` to cover with an empty one, and directories to cover with an empty one.
    pub(crate) proc_masks: Vec<(&'static str, Kind)>,
    /// Parts of `/proc` to make read-only.
    pub(crate) proc_read_only: Vec<&'static str>,
    /// Version of Landlock, if the kernel has it.
    pub(crate) landlock: Option<u32>,
}

/// Whether a path is a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any file but a directory.
    File,
    /// A directory.
    Directory,
}

/// System directories: programs, their libraries and data, and nothing of any user.
const SYSTEM: [&str; 10] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store", "/run/current-system"];

/// What programs need of `/etc`: the loader's cache, certificates, alternatives, time zone, and the
/// system-wide configuration of interpreters. Nothing that may hold a password or a name.
const ETC: [&str; 27] = [
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "inputrc",
    "java",
    "java-17-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "lsb-release",
    "magic",
    "maven",
    "mime.types",
    "os-release",
    "pki",
    "protocols",
    "python3",
    "python3.11",
    "services",
    "ssl",
    "terminfo",
    "timezone",
];

/// What tells about the machine or its kernel more than a program needs.
const PROC_MASKS: [(&str, Kind); 12] = [
    ("acpi", Kind::Directory),
    ("asound", Kind::Directory),
    ("scsi", Kind::Directory),
    ("interrupts", Kind::File),
    ("kcore", Kind::File),
    ("keys", Kind::File),
    ("key-users", Kind::File),
    ("latency_stats", Kind::File),
    ("sched_debug", Kind::File),
    ("sysrq-trigger", Kind::File),
    ("timer_list", Kind::File),
    ("timer_stats", Kind::File),
];

const PROC_READ_ONLY: [&str; 4] = ["bus", "fs", "irq", "sys"];

impl Host {
    /// This machine, looked at once.
    pub(crate) fn get() -> &'static Self {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(Self::look)
    }

    fn look() -> Self {
        let exists = |path: &str| fs::symlink_metadata(path).is_ok();
        Self {
            system: SYSTEM.iter().filter_map(|path| system_entry(Path::new(path))).collect(),
            etc: ETC.iter().filter_map(|name| etc_entry(name)).collect(),
            proc_masks: PROC_MASKS.into_iter().filter(|(n, _)| exists(&format!("/proc/{n}"))).collect(),
            proc_read_only: PROC_READ_ONLY
                .into_iter()
                .filter(|name| exists(&format!("/proc/{name}")))
                .collect(),
            landlock: sys::landlock_abi(),
        }
    }
}

fn etc_entry(name: &str) -> Option<(PathBuf, Kind)> {
    let path = Path::new("/etc").join(name);
    let is_dir = fs::metadata(&path).ok()?.is_dir();
    Some((path, if is_dir { Kind::Directory } else { Kind::File }))
}

fn system_entry(path: &Path) -> Option<SystemEntry> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    if kind.is_symlink() {
        return Some(SystemEntry::Link(path.into(), fs::read_link(path).ok()?));
    }
    kind.is_dir().then(|| SystemEntry::Directory(path.into()))
}
