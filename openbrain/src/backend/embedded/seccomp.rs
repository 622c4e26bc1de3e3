//! The system call filter: a table of what is denied, and its translation to classic BPF.
//!
//! A deny list, with everything that the table does not know refused as well: numbers after the last
//! one known here, the x32 numbers of x86-64, and other architectures. Denied calls that programs
//! probe for answer ENOSYS, so that they take the older way; the rest answer EPERM.

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// The call always fails with this error.
    Deny(i64, i32),
    /// The call fails when any of these bits is set in an argument: `(call, argument, bits, error)`.
    DenyBits(i64, u8, u32, i32),
    /// The call fails when any of these bits is set in an argument, and any of those in its flags:
    /// `(call, flags' argument, bits, argument, bits, error)`.
    DenyBitsIf(i64, u8, u32, u8, u32, i32),
    /// The call fails when the low 32 bits of an argument, which are all that the kernel looks at
    /// (CVE-2019-10063), are one of these values.
    DenyValues(i64, u8, &'static [u32], i32),
    /// The call fails unless the low 32 bits of an argument are one of these values.
    AllowValues(i64, u8, &'static [u32], i32),
    /// `socket(2)` and `socketpair(2)`: some families, of the internet TCP and UDP alone, of netlink
    /// the interfaces and routes. Other protocols load modules into the kernel.
    Sockets(i64),
}

use Rule::{AllowValues, Deny, DenyBits, DenyBitsIf, DenyValues, Sockets};
use libc::{EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT};

/// Namespaces that `clone(2)` could make; the bit of CLONE_NEWTIME is a signal number there.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// Namespaces that `unshare(2)` could make.
const UNSHARE_NAMESPACES: u32 = 0x7e02_0080;
/// Set-user-ID and set-group-ID: in a directory shared with the host they would outlive the sandbox.
const SET_ID: u32 = 0o6000;
/// The flags of `open(2)` with which it looks at a mode; without them callers leave anything there.
const CREATING: u32 = (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
/// The bit that character and block devices have in their type, and no other node that `mknod(2)`
/// makes.
const DEVICE: u32 = 0o020000;

const IOCTL: i64 = libc::SYS_ioctl;
/// Keystrokes for the terminal of somebody else (CVE-2017-5226), the console (CVE-2023-28100), and
/// line disciplines, which load modules into the kernel: TIOCSTI, TIOCLINUX, TIOCSETD.
const TERMINAL_TRICKS: &[u32] = &[0x5412, 0x541c, 0x5423];
/// The engine's own process in every sandbox.
const PROCESS_ONE: &[u32] = &[1];
/// PER_LINUX and PER_LINUX32, each with or without UNAME26, and the query.
const PERSONALITIES: &[u32] = &[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Every rule of both architectures.
pub(crate) const RULES: &[Rule] = &[
    // Namespaces and mounts. `clone3` hides its flags behind a pointer; glibc falls back on ENOSYS.
    DenyBits(libc::SYS_clone, 0, NEW_NAMESPACES, EPERM),
    DenyBits(libc::SYS_unshare, 0, UNSHARE_NAMESPACES, EPERM),
    Deny(libc::SYS_clone3, ENOSYS),
    Deny(libc::SYS_setns, EPERM),
    Deny(libc::SYS_mount, EPERM),
    Deny(libc::SYS_umount2, EPERM),
    Deny(libc::SYS_pivot_root, EPERM),
    Deny(libc::SYS_chroot, EPERM),
    Deny(libc::SYS_move_mount, EPERM),
    Deny(libc::SYS_open_tree, EPERM),
    Deny(SYS_OPEN_TREE_ATTR, EPERM),
    Deny(libc::SYS_fsopen, EPERM),
    Deny(libc::SYS_fsconfig, EPERM),
    Deny(libc::SYS_fsmount, EPERM),
    Deny(libc::SYS_fspick, EPERM),
    Deny(libc::SYS_mount_setattr, EPERM),
    Deny(SYS_STATMOUNT, EPERM),
    Deny(SYS_LISTMOUNT, EPERM),
    // Parts of the kernel that nothing in a sandbox needs and that have had the most holes.
    Deny(libc::SYS_bpf, EPERM),
    Deny(libc::SYS_perf_event_open, EPERM),
    Deny(libc::SYS_userfaultfd, EPERM),
    Deny(libc::SYS_kexec_load, EPERM),
    Deny(SYS_KEXEC_FILE_LOAD, EPERM),
    Deny(libc::SYS_init_module, EPERM),
    Deny(libc::SYS_finit_module, EPERM),
    Deny(libc::SYS_delete_module, EPERM),
    Deny(libc::SYS_reboot, EPERM),
    Deny(libc::SYS_swapon, EPERM),
    Deny(libc::SYS_swapoff, EPERM),
    Deny(libc::SYS_acct, EPERM),
    Deny(libc::SYS_quotactl, EPERM),
    Deny(SYS_QUOTACTL_FD, EPERM),
    Deny(libc::SYS_syslog, EPERM),
    Deny(libc::SYS_settimeofday, EPERM),
    Deny(libc::SYS_clock_settime, EPERM),
    Deny(libc::SYS_clock_adjtime, EPERM),
    Deny(libc::SYS_adjtimex, EPERM),
    Deny(libc::SYS_sethostname, EPERM),
    Deny(libc::SYS_setdomainname, EPERM),
    Deny(libc::SYS_lookup_dcookie, EPERM),
    Deny(libc::SYS_vhangup, EPERM),
    Deny(libc::SYS_nfsservctl, EPERM),
    Deny(libc::SYS_fanotify_init, EPERM),
    Deny(libc::SYS_fanotify_mark, EPERM),
    // Keyrings are not namespaced.
    Deny(libc::SYS_keyctl, ENOSYS),
    Deny(libc::SYS_add_key, ENOSYS),
    Deny(libc::SYS_request_key, ENOSYS),
    // io_uring opens files and sockets without passing this filter.
    Deny(libc::SYS_io_uring_setup, ENOSYS),
    Deny(libc::SYS_io_uring_enter, ENOSYS),
    Deny(libc::SYS_io_uring_register, ENOSYS),
    // Other processes.
    Deny(libc::SYS_ptrace, EPERM),
    Deny(libc::SYS_process_vm_readv, EPERM),
    Deny(libc::SYS_process_vm_writev, EPERM),
    Deny(SYS_PROCESS_MADVISE, EPERM),
    Deny(libc::SYS_pidfd_getfd, EPERM),
    Deny(libc::SYS_kcmp, EPERM),
    // Process 1 has the command's user, so that the kernel lets it be limited: without descriptors
    // it could not watch the memory, and behind every other process it would come too late.
    DenyValues(libc::SYS_prlimit64, 0, PROCESS_ONE, EPERM),
    DenyValues(libc::SYS_sched_setaffinity, 0, PROCESS_ONE, EPERM),
    DenyValues(libc::SYS_sched_setattr, 0, PROCESS_ONE, EPERM),
    DenyValues(libc::SYS_sched_setparam, 0, PROCESS_ONE, EPERM),
    DenyValues(libc::SYS_sched_setscheduler, 0, PROCESS_ONE, EPERM),
    DenyValues(libc::SYS_setpriority, 1, PROCESS_ONE, EPERM),
    // Handles made outside would reach around the root directory.
    Deny(libc::SYS_open_by_handle_at, EPERM),
    Sockets(libc::SYS_socket),
    Sockets(libc::SYS_socketpair),
    DenyValues(IOCTL, 1, TERMINAL_TRICKS, EPERM),
    // Set-user-ID files. `openat2` hides its mode behind a pointer; its users fall back on ENOSYS.
    DenyBits(libc::SYS_fchmod, 1, SET_ID, EPERM),
    DenyBits(libc::SYS_fchmodat, 2, SET_ID, EPERM),
    DenyBits(SYS_FCHMODAT2, 2, SET_ID, EPERM),
    DenyBitsIf(libc::SYS_openat, 2, CREATING, 3, SET_ID, EPERM),
    DenyBits(libc::SYS_mknodat, 2, SET_ID | DEVICE, EPERM),
    Deny(libc::SYS_openat2, ENOSYS),
    AllowValues(libc::SYS_personality, 0, PERSONALITIES, EPERM),
    Deny(libc::SYS_mbind, EPERM),
    Deny(libc::SYS_set_mempolicy, EPERM),
    Deny(SYS_SET_MEMPOLICY_HOME_NODE, EPERM),
    Deny(libc::SYS_migrate_pages, EPERM),
    Deny(libc::SYS_move_pages, EPERM),
];

/// Calls that x86-64 alone has.
#[cfg(target_arch = "x86_64")]
pub(crate) const ARCH_RULES: &[Rule] = &[
    Deny(libc::SYS_iopl, EPERM),
    Deny(libc::SYS_ioperm, EPERM),
    Deny(libc::SYS_modify_ldt, EPERM),
    Deny(libc::SYS_uselib, EPERM),
    Deny(libc::SYS_ustat, EPERM),
    Deny(libc::SYS_sysfs, EPERM),
    Deny(libc::SYS__sysctl, EPERM),
    DenyBits(libc::SYS_chmod, 1, SET_ID, EPERM),
    DenyBits(libc::SYS_creat, 1, SET_ID, EPERM),
    DenyBitsIf(libc::SYS_open, 1, CREATING, 2, SET_ID, EPERM),
    DenyBits(libc::SYS_mknod, 1, SET_ID | DEVICE, EPERM),
];

/// Calls that aarch64 alone has: none that matter.
#[cfg(target_arch = "aarch64")]
pub(crate) const ARCH_RULES: &[Rule] = &[];

// Numbers that the two architectures share and that the constants' crate does not have for both.
const SYS_OPEN_TREE_ATTR: i64 = 467;
const SYS_STATMOUNT: i64 = 457;
const SYS_LISTMOUNT: i64 = 458;
const SYS_QUOTACTL_FD: i64 = 443;
const SYS_PROCESS_MADVISE: i64 = 440;
const SYS_FCHMODAT2: i64 = 452;
const SYS_SET_MEMPOLICY_HOME_NODE: i64 = 450;
#[cfg(target_arch = "x86_64")]
const SYS_KEXEC_FILE_LOAD: i64 = 320;
#[cfg(target_arch = "aarch64")]
const SYS_KEXEC_FILE_LOAD: i64 = 294;

/// The last call known here: `listns`, Linux 6.19, rounded up to what its table had reserved.
pub(crate) const LAST_KNOWN: u32 = 470;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
/// Numbers with this bit are x32 calls, with the same architecture word (`seccomp(2)`).
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const SOCK_TYPE_MASK: u32 = 0xf;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const NETLINK_ROUTE: u32 = 0;

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) value: u32,
}

pub(crate) mod code {
    //! The instructions that the filter uses (`linux/bpf_common.h`).
    pub(crate) const LOAD: u16 = 0x20;
    pub(crate) const AND: u16 = 0x54;
    pub(crate) const JUMP: u16 = 0x05;
    pub(crate) const JUMP_EQUAL: u16 = 0x15;
    pub(crate) const JUMP_GREATER: u16 = 0x25;
    pub(crate) const JUMP_GREATER_EQUAL: u16 = 0x35;
    pub(crate) const JUMP_ANY_BIT: u16 = 0x45;
    pub(crate) const RETURN: u16 = 0x06;
}

pub(crate) const ALLOW: u32 = 0x7fff_0000;
pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

/// Rules for a sandbox whose limits no control group enforces.
pub(crate) mod fallback {
    use super::{Deny, ENOSYS, EPERM, Rule};

    /// Memory in a file that nothing maps is counted nowhere.
    pub(crate) const NO_HIDDEN_MEMORY: &[Rule] =
        &[Deny(libc::SYS_memfd_create, ENOSYS), Deny(libc::SYS_memfd_secret, ENOSYS)];
    /// Affinity is all that holds the processors.
    pub(crate) const NO_REBINDING: &[Rule] = &[Deny(libc::SYS_sched_setaffinity, EPERM)];
}

/// The filter of the command; `more` rules take the place of those about the same call.
pub(crate) fn filter(more: &[Rule]) -> Vec<Instruction> {
    let mut f = Filter::native_only();
    #[cfg(target_arch = "x86_64")]
    {
        f.jump(code::JUMP_GREATER_EQUAL, X32_BIT, 0, 1);
        f.ret(error(ENOSYS));
    }
    f.jump(code::JUMP_GREATER, LAST_KNOWN, 0, 1);
    f.ret(error(ENOSYS));
    let replaced = |rule: &Rule| more.iter().any(|other| other.number() == rule.number());
    let base = RULES.iter().chain(ARCH_RULES).filter(|rule| !replaced(rule));
    let mut rules: Vec<&Rule> = base.chain(more).collect();
    rules.sort_by_key(|rule| rule.number());
    f.0.extend(decide(&rules).0);
    f.0
}

/// A binary search for the call's number. The kernel evaluates a new filter once for every call to
/// learn which are always allowed (Linux 5.11), so that a long chain of comparisons would cost each
/// start of a sandbox more than everything that the filter ever decides.
fn decide(rules: &[&Rule]) -> Filter {
    let mut f = Filter(Vec::new());
    match rules {
        [] => f.ret(ALLOW),
        [rule] => {
            let body = rule.body();
            f.jump(code::JUMP_EQUAL, rule.number() as u32, 0, body.0.len() as u8);
            f.0.extend(body.0);
            f.ret(ALLOW);
        }
        _ => {
            let (lower, upper) = rules.split_at(rules.len() / 2);
            let (below, above) = (decide(lower), decide(upper));
            let first = upper[0].number() as u32;
            // The distance of a conditional jump is eight bits; that of a plain one is not.
            f.jump(code::JUMP_GREATER_EQUAL, first, 0, 1);
            f.push(code::JUMP, 0, 0, below.0.len() as u32);
            f.0.extend(below.0);
            f.0.extend(above.0);
        }
    }
    f
}

/// The filter of process 1 of the sandbox: what its loop calls, and nothing else.
pub(crate) fn reaper_filter() -> Vec<Instruction> {
    const CALLS: [i64; 12] = [
        libc::SYS_ppoll,
        libc::SYS_wait4,
        libc::SYS_read,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_kill,
        libc::SYS_openat,
        libc::SYS_getdents64,
        libc::SYS_close,
        libc::SYS_exit_group,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
    ];
    let mut f = Filter::native_only();
    for call in CALLS {
        f.jump(code::JUMP_EQUAL, call as u32, 0, 1);
        f.ret(ALLOW);
    }
    f.ret(KILL_PROCESS);
    f.0
}

/// The resource limit that numbers the commands of a sandbox that stays open.
pub(crate) const RLIMIT_LOCKS: u32 = 10;

/// The filter of one command in a sandbox that stays open, beside that of all: nobody changes the limit
/// that numbers it. Reading it is allowed.
pub(crate) fn keep_number() -> Vec<Instruction> {
    let mut f = Filter::native_only();
    f.jump(code::JUMP_EQUAL, libc::SYS_prlimit64 as u32, 0, 8);
    f.load_argument(1);
    f.jump(code::JUMP_EQUAL, RLIMIT_LOCKS, 1, 0);
    f.ret(ALLOW);
    // The new limit is an address, of which both halves count.
    f.load_argument(2);
    f.jump(code::JUMP_EQUAL, 0, 0, 2);
    f.load(16 + 8 * 2 + 4);
    f.jump(code::JUMP_EQUAL, 0, 4, 0);
    f.ret(error(EPERM));
    f.jump(code::JUMP_EQUAL, libc::SYS_setrlimit as u32, 0, 2);
    f.load_argument(0);
    f.jump(code::JUMP_EQUAL, RLIMIT_LOCKS, 1, 0);
    f.ret(ALLOW);
    f.ret(error(EPERM));
    f.0
}

/// The bytes of a filter, as the kernel reads them.
pub(crate) fn encode(filter: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(filter.len() * 8);
    for instruction in filter {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.jump_true, instruction.jump_false]);
        bytes.extend_from_slice(&instruction.value.to_ne_bytes());
    }
    bytes
}

/// What a filter returns for a call that fails.
pub(crate) fn error(errno: i32) -> u32 {
    ERRNO | errno as u32
}

impl Rule {
    /// The number of the call.
    pub(crate) fn number(&self) -> i64 {
        match *self {
            Deny(number, _)
            | DenyBits(number, ..)
            | DenyBitsIf(number, ..)
            | DenyValues(number, ..)
            | AllowValues(number, ..)
            | Sockets(number) => number,
        }
    }

    /// The decision about a call whose number matches; every way through it returns.
    fn body(&self) -> Filter {
        let mut f = Filter(Vec::new());
        match *self {
            Deny(_, errno) => f.ret(error(errno)),
            DenyBits(_, argument, bits, errno) => {
                f.load_argument(argument);
                f.jump(code::JUMP_ANY_BIT, bits, 0, 1);
                f.ret(error(errno));
                f.ret(ALLOW);
            }
            DenyBitsIf(_, flags, condition, argument, bits, errno) => {
                f.load_argument(flags);
                f.jump(code::JUMP_ANY_BIT, condition, 1, 0);
                f.ret(ALLOW);
                f.load_argument(argument);
                f.jump(code::JUMP_ANY_BIT, bits, 0, 1);
                f.ret(error(errno));
                f.ret(ALLOW);
            }
            DenyValues(_, argument, values, errno) => {
                f.values(argument, values, error(errno), ALLOW);
            }
            AllowValues(_, argument, values, errno) => {
                f.values(argument, values, ALLOW, error(errno));
            }
            Sockets(_) => f.sockets(),
        }
        f
    }
}

/// A filter in the making.
struct Filter(Vec<Instruction>);

impl Filter {
    /// Kills what is not a call of this architecture, and loads the call's number.
    fn native_only() -> Self {
        let mut f = Self(Vec::with_capacity(512));
        f.load(4);
        f.jump(code::JUMP_EQUAL, AUDIT_ARCH, 1, 0);
        f.ret(KILL_PROCESS);
        f.load(0);
        f
    }

    fn push(&mut self, code: u16, jump_true: u8, jump_false: u8, value: u32) {
        self.0.push(Instruction { code, jump_true, jump_false, value });
    }

    fn load(&mut self, offset: u32) {
        self.push(code::LOAD, 0, 0, offset);
    }

    /// Loads the low 32 bits of an argument; both architectures are little-endian.
    fn load_argument(&mut self, argument: u8) {
        self.load(16 + 8 * u32::from(argument));
    }

    fn jump(&mut self, code: u16, value: u32, jump_true: u8, jump_false: u8) {
        self.push(code, jump_true, jump_false, value);
    }

    fn ret(&mut self, value: u32) {
        self.push(code::RETURN, 0, 0, value);
    }

    fn values(&mut self, argument: u8, values: &[u32], found: u32, otherwise: u32) {
        self.load_argument(argument);
        for value in values {
            self.jump(code::JUMP_EQUAL, *value, 0, 1);
            self.ret(found);
        }
        self.ret(otherwise);
    }

    fn sockets(&mut self) {
        self.load_argument(0);
        self.jump(code::JUMP_EQUAL, AF_UNIX, 0, 1);
        self.ret(ALLOW);
        self.jump(code::JUMP_EQUAL, AF_NETLINK, 0, 4);
        self.load_argument(2);
        self.jump(code::JUMP_EQUAL, NETLINK_ROUTE, 0, 1);
        self.ret(ALLOW);
        self.ret(error(EAFNOSUPPORT));
        self.jump(code::JUMP_EQUAL, AF_INET, 2, 0);
        self.jump(code::JUMP_EQUAL, AF_INET6, 1, 0);
        self.ret(error(EAFNOSUPPORT));
        self.load_argument(1);
        self.push(code::AND, 0, 0, SOCK_TYPE_MASK);
        self.jump(code::JUMP_EQUAL, SOCK_STREAM, 2, 0);
        self.jump(code::JUMP_EQUAL, SOCK_DGRAM, 1, 0);
        self.ret(error(EPERM));
        self.load_argument(2);
        for protocol in [0, IPPROTO_TCP, IPPROTO_UDP] {
            self.jump(code::JUMP_EQUAL, protocol, 0, 1);
            self.ret(ALLOW);
        }
        self.ret(error(EPROTONOSUPPORT));
    }
}

#[cfg(test)]
mod tests;
