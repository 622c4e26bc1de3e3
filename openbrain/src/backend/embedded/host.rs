//! What this machine is: who calls, what its system directories look like, what its kernel offers.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
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
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
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

/// What rarely changes while the process lives.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// System directories, in the order in which they are made.
    pub(crate) system: Vec<SystemEntry>,
    /// Entries of `/etc` that are the same for everybody.
    pub(crate) etc: Vec<EtcEntry>,
    /// Files of `/proc` to cover with an empty one, and directories to cover with an empty one.
    pub(crate) proc_masks: Vec<(&'static str, Kind)>,
    /// Parts of `/proc` to make read-only.
    pub(crate) proc_read_only: Vec<&'static str>,
    /// The highest capability that the kernel knows.
    pub(crate) last_capability: u32,
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
const SYSTEM: [&str; 10] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
    "/run/current-system",
];

/// What programs need of `/etc`: the loader's cache, certificates, alternatives, time zone, and the
/// system-wide configuration of interpreters. Nothing that may hold a password or a name.
const ETC: [&str; 20] = [
    "alternatives",
    "bash.bashrc",
    "crypto-policies",
    "debian_version",
    "fonts",
    "inputrc",
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
    "services",
    "ssl",
    "timezone",
];

/// Beginnings of further names in `/etc`, whose versions differ.
const ETC_PREFIXES: [&str; 2] = ["java", "python"];

/// Files of `/etc` up to this size are copied into each sandbox, which costs less than a mount.
const COPIED: u64 = 16 * 1024;

/// An entry of the host's `/etc` that the sandbox sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EtcEntry {
    /// A directory or a large file, to be bound.
    Bind(PathBuf, Kind),
    /// A small file: name and content.
    Copy(String, Vec<u8>),
}

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

/// Of these the network's part belongs to the owner of the sandbox's network namespace.
const PROC_READ_ONLY: [&str; 1] = ["sys"];

impl Host {
    /// This machine, looked at again when an entry of `/etc` has come or gone.
    pub(crate) fn get() -> Arc<Self> {
        static KNOWN: Mutex<Option<(Option<SystemTime>, Arc<Host>)>> = Mutex::new(None);
        let changed = fs::metadata("/etc").and_then(|meta| meta.modified()).ok();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((then, host)) if *then == changed => Arc::clone(host),
            _ => {
                let host = Arc::new(Self::look());
                *known = Some((changed, Arc::clone(&host)));
                host
            }
        }
    }

    fn look() -> Self {
        Self {
            system: SYSTEM.iter().filter_map(|path| system_entry(Path::new(path))).collect(),
            etc: etc_names().iter().filter_map(|name| etc_entry(name)).collect(),
            proc_masks: PROC_MASKS.into_iter().filter(|(name, _)| is_open(name)).collect(),
            proc_read_only: PROC_READ_ONLY.into_iter().filter(|name| is_open(name)).collect(),
            last_capability: last_capability(),
            landlock: sys::landlock_abi(),
        }
    }
}

fn etc_names() -> Vec<String> {
    let entries = fs::read_dir("/etc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| {
            ETC.contains(&name.as_str()) || ETC_PREFIXES.iter().any(|p| name.starts_with(p))
        })
        .collect();
    names.sort();
    names
}

fn etc_entry(name: &str) -> Option<EtcEntry> {
    let path = Path::new("/etc").join(name);
    let meta = fs::metadata(&path).ok()?;
    // What not everybody may read is bound, with its own rights, and not copied with ours.
    if meta.is_file() && meta.len() <= COPIED && meta.mode() & 0o004 != 0 {
        return Some(EtcEntry::Copy(name.to_owned(), fs::read(&path).ok()?));
    }
    Some(EtcEntry::Bind(path, if meta.is_dir() { Kind::Directory } else { Kind::File }))
}

/// Whether a part of `/proc` exists and lets everybody in. The sandbox's user owns none of these,
/// so that what only the owner may read or write needs no cover.
fn is_open(name: &str) -> bool {
    fs::metadata(Path::new("/proc").join(name)).is_ok_and(|meta| meta.mode() & 0o007 != 0)
}

/// The highest capability that the kernel knows.
fn last_capability() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    // CAP_CHECKPOINT_RESTORE, the last one since Linux 5.9.
    text.trim().parse().unwrap_or(40)
}

fn system_entry(path: &Path) -> Option<SystemEntry> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    if kind.is_symlink() {
        return Some(SystemEntry::Link(path.into(), fs::read_link(path).ok()?));
    }
    kind.is_dir().then(|| SystemEntry::Directory(path.into()))
}
