//! The walls behind the namespaces: a second user namespace, no capabilities, no new privileges,
//! Landlock, seccomp.

use std::path::{Path, PathBuf};

use super::{
    host::{Identity, Kind},
    mounts::write,
    seccomp::{self, Instruction, Rule},
};
use crate::backend::helper::{Arg, Data, Program, Register, Section, wire};

const IN: Section = Section::Inside;

/// Namespaces of every sandbox.
pub(crate) const NAMESPACES: [(&str, i32); 7] = [
    ("user", libc::CLONE_NEWUSER),
    ("mount", libc::CLONE_NEWNS),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
];

/// Those that are made with the first process: that of control groups has to wait until the groups
/// are joined.
pub(crate) fn first_namespaces() -> u64 {
    let flags = NAMESPACES.iter().fold(0, |flags, (_, flag)| flags | flag);
    (flags & !libc::CLONE_NEWCGROUP) as u64
}

/// First, inside: user and group 0 of the outer user namespace, which owns all others.
pub(crate) fn become_inner_root(to: &mut Program, identity: Identity) {
    match identity {
        Identity::Caller { uid, gid } => map_self(to, (0, uid), (0, gid)),
        Identity::Root => {
            map_from_outside(to);
            let one = to.data(&[0; 8]);
            let args = [Arg::from(wire::ORDER_FD), one.into(), 8.into()];
            to.call(IN, libc::SYS_read, args, "wait for the user's mapping");
            to.call(IN, libc::SYS_setresgid, [0.into(), 0.into(), 0.into()], "change the group");
            to.call(IN, libc::SYS_setresuid, [0.into(), 0.into(), 0.into()], "change the user");
            // Changing the user made the files of `/proc/self` root's, and two of them are needed.
            let args = [libc::PR_SET_DUMPABLE.into(), 1.into()];
            to.call(IN, libc::SYS_prctl, args, "keep /proc/self");
        }
    }
}

/// Maps the sandbox's own user, written by itself: one line, which needs no privilege
/// (`user_namespaces(7)`). Groups only after `setgroups` is denied (CVE-2014-8989).
fn map_self(to: &mut Program, uids: (u32, u32), gids: (u32, u32)) {
    let lines = [
        ("setgroups", "deny".to_owned()),
        ("gid_map", format!("{} {} 1", gids.0, gids.1)),
        ("uid_map", format!("{} {} 1", uids.0, uids.1)),
    ];
    for (file, line) in lines {
        let path = to.text(format!("/proc/self/{file}"));
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let args = [Arg::from(libc::AT_FDCWD), path, flags.into(), 0.into()];
        let what = format!("map the sandbox's user ({file})");
        let fd = to.keep(IN, libc::SYS_openat, args, what.clone());
        write(to, IN, fd, line.as_bytes(), what);
    }
}

/// As root the monitor maps a user that owns nothing, and has no groups itself.
fn map_from_outside(to: &mut Program) {
    let before = Section::Before;
    to.call(before, libc::SYS_setgroups, [0.into(), 0.into()], "leave all groups");
    let beside = Section::Beside;
    let (uid, gid) = Identity::Root.outside();
    let lines = [
        ("setgroups", "deny".to_owned()),
        ("gid_map", format!("0 {gid} 1")),
        ("uid_map", format!("0 {uid} 1")),
    ];
    for (file, line) in lines {
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let fd = to.open_proc(beside, Program::child(), file, flags);
        write(to, beside, fd, line.as_bytes(), format!("map the sandbox's user ({file})"));
    }
    let go = to.data(&[0; 8]);
    let relay = wire::FIRST_FD + to.kept_fds as i32;
    let args = [Arg::from(relay), go.into(), 8.into()];
    to.call(beside, libc::SYS_write, args, "let the sandbox go on");
}

/// The sandbox's own loopback interface and host name.
pub(crate) fn name_and_loopback(to: &mut Program, hostname: &str) {
    const SIOCSIFFLAGS: u64 = 0x8914;
    let name = to.data(hostname.as_bytes());
    let args = [name.into(), (hostname.len() as u64).into()];
    to.call(IN, libc::SYS_sethostname, args, "set the host name");
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let args = [libc::AF_INET.into(), kind.into(), 0.into()];
    let socket = to.keep(IN, libc::SYS_socket, args, "make a socket");
    // A `struct ifreq`: sixteen bytes of name, then the flags.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    let request = to.data(&request);
    let args = [socket.into(), SIOCSIFFLAGS.into(), request.into()];
    to.call(IN, libc::SYS_ioctl, args, "bring up the loopback interface");
    to.call(IN, libc::SYS_close, [socket.into()], "close a socket");
}

/// A user namespace inside the one that owns the mounts and the network: from here on nothing can
/// be unmounted, remounted or reconfigured. Then no capability even in this one.
pub(crate) fn give_up_power(to: &mut Program, identity: Identity, last_capability: u32) {
    const NO_ROOT_LOCKED: u64 = 0b11 | 0b11_00 | 0b1100_0000;
    let args = [Arg::from(libc::CLONE_NEWUSER)];
    to.call(IN, libc::SYS_unshare, args, "make the second user namespace");
    let (uid, gid) = identity.inside();
    map_self(to, (uid, 0), (gid, 0));
    for capability in 0..=last_capability {
        let args = [libc::PR_CAPBSET_DROP.into(), capability.into(), 0.into(), 0.into(), 0.into()];
        to.call(IN, libc::SYS_prctl, args, "drop a capability");
    }
    let args =
        [libc::PR_SET_SECUREBITS.into(), NO_ROOT_LOCKED.into(), 0.into(), 0.into(), 0.into()];
    to.call(IN, libc::SYS_prctl, args, "lock the rights of root");
    let args = [
        Arg::from(libc::PR_CAP_AMBIENT),
        libc::PR_CAP_AMBIENT_CLEAR_ALL.into(),
        0.into(),
        0.into(),
        0.into(),
    ];
    to.call(IN, libc::SYS_prctl, args, "clear the ambient capabilities");
    // `_LINUX_CAPABILITY_VERSION_3` for this process, and three empty sets of 64 bits.
    let header = to.data(&[0x2008_0522u32.to_ne_bytes(), [0; 4]].concat());
    let sets = to.data(&[0; 24]);
    to.call(IN, libc::SYS_capset, [header.into(), sets.into()], "drop all capabilities");
    let args = [libc::PR_SET_NO_NEW_PRIVS.into(), 1.into(), 0.into(), 0.into(), 0.into()];
    to.call(IN, libc::SYS_prctl, args, "forbid new privileges");
    // Process 1 has descriptors of the host's. It must be closed before the command exists, which
    // could otherwise open them through `/proc/1` with its first instructions; the command itself
    // gets an open memory of its own with its `execve`.
    let args = [libc::PR_SET_DUMPABLE.into(), 0.into(), 0.into(), 0.into(), 0.into()];
    to.call(IN, libc::SYS_prctl, args, "close process 1 to others");
}

/// Landlock for the command: a second opinion on the file system, and no signals or abstract
/// sockets beyond the sandbox. Returns the rules, to be put in force by the command.
pub(crate) fn landlock(to: &mut Program, abi: u32, writable: &[(PathBuf, Kind)]) -> Register {
    let handled = landlock_rights(abi);
    let scoped = if abi >= 6 { 0b11u64 } else { 0 };
    let attributes = to.words([handled.into(), 0.into(), scoped.into()]);
    let size = match abi {
        0..=3 => 8u64,
        4..=5 => 16,
        _ => 24,
    };
    let args = [attributes.into(), size.into(), 0.into()];
    let rules = to.keep(IN, libc::SYS_landlock_create_ruleset, args, "make Landlock rules");
    let read = READ_RIGHTS & handled;
    landlock_allow(to, rules, Path::new("/"), read);
    for (path, kind) in writable {
        let rights = if *kind == Kind::File { handled & FILE_RIGHTS } else { handled };
        landlock_allow(to, rules, path, rights);
    }
    rules
}

/// Execute, read files, read directories.
const READ_RIGHTS: u64 = 0b1101;

/// The rights on files that a version of Landlock knows, each added by a version: 2 refer, 3
/// truncate, 5 ioctl on devices.
fn landlock_rights(abi: u32) -> u64 {
    let bits = match abi {
        0..=1 => 13,
        2 => 14,
        3..=4 => 15,
        _ => 16,
    };
    (1 << bits) - 1
}

/// Rights that make sense for a file; the kernel refuses the others there.
const FILE_RIGHTS: u64 = 0b111 | 1 << 14 | 1 << 15;

fn landlock_allow(to: &mut Program, rules: Register, path: &Path, rights: u64) {
    const PATH_BENEATH: u64 = 1;
    let name = to.text(path.as_os_str());
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    let args = [libc::AT_FDCWD.into(), name, flags.into(), 0.into()];
    let what = format!("allow `{}` by Landlock", path.display());
    let fd = to.keep(IN, libc::SYS_openat, args, what.clone());
    let rule = to.data(&[rights.to_ne_bytes(), [0; 8]].concat());
    to.store(IN, fd, rule.plus(8));
    let args = [rules.into(), PATH_BENEATH.into(), rule.into(), 0.into()];
    to.call(IN, libc::SYS_landlock_add_rule, args, what);
    to.call(IN, libc::SYS_close, [fd.into()], "close a directory");
    to.release(IN, fd);
}

/// Puts Landlock's rules in force: for the command, or for process 1 of a sandbox that stays open, and
/// with it for every command.
pub(crate) fn landlock_restrict(to: &mut Program, section: Section, rules: Register) {
    let args = [rules.into(), 0.into()];
    to.call(section, libc::SYS_landlock_restrict_self, args, "put Landlock in force");
}

/// Puts the system call filter in force: for the command, or for process 1 of a sandbox that stays
/// open, and with it for every command.
pub(crate) fn filter(to: &mut Program, section: Section, more: &[Rule]) {
    install_filter(to, section, &seccomp::filter(more));
}

/// Numbers a command in a sandbox that stays open, and everything that it will ever start: the limit
/// of file locks, which Linux has not looked at since 2.4 (`getrlimit(2)`), is inherited, and a filter
/// keeps it as it is.
pub(crate) fn number_command(to: &mut Program) {
    let section = Section::Command;
    let both = to.data(&[0; 16]);
    to.store(section, Program::tag(), both);
    to.store(section, Program::tag(), both.plus(8));
    let args = [0.into(), seccomp::RLIMIT_LOCKS.into(), both.into(), 0.into()];
    to.call(section, libc::SYS_prlimit64, args, "number the command (RLIMIT_LOCKS)");
    install_filter(to, section, &seccomp::keep_number());
}

/// Process 1 of a sandbox that is made before its commands has every wall that these are to have: they
/// inherit them. `door` is where requests for commands arrive.
pub(crate) fn confine_opener(to: &mut Program, door: i32, rules: Option<Register>, more: &[Rule]) {
    let section = Section::Reaper;
    if door != wire::DOOR_FD {
        let args = [Arg::from(door), wire::DOOR_FD.into(), 0.into()];
        to.call(section, libc::SYS_dup3, args, "keep the way to the sandbox");
    }
    if let Some(rules) = rules {
        landlock_restrict(to, section, rules);
    }
    let args = [Arg::from(wire::DOOR_FD + 1), u32::MAX.into(), 0.into()];
    to.call(section, libc::SYS_close_range, args, "close descriptors");
    filter(to, section, more);
}

/// Process 1 needs very little from here on.
pub(crate) fn confine_reaper(to: &mut Program) {
    let section = Section::Reaper;
    let args = [Arg::from(wire::FIRST_FD), u32::MAX.into(), 0.into()];
    to.call(section, libc::SYS_close_range, args, "close descriptors");
    install_filter(to, section, &seccomp::reaper_filter());
}

fn install_filter(to: &mut Program, section: Section, filter: &[Instruction]) {
    const SET_MODE_FILTER: u64 = 1;
    let instructions: Data = to.data(&seccomp::encode(filter));
    // A `struct sock_fprog`: a length of 16 bits, padding, an address.
    let program = to.words([(filter.len() as u64).into(), instructions.into()]);
    let args = [SET_MODE_FILTER.into(), 0.into(), program.into()];
    to.call(section, libc::SYS_seccomp, args, "put the system call filter in force");
}
