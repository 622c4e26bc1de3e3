//! The helper: a static program without a library that executes a plan and stays beside it.
//!
//! It is started once for each run, by `posix_spawn`, with a socket to the library as descriptor 0
//! and the plan as descriptor 1. In a sandbox there are three processes: the *monitor* (this one,
//! outside), the *reaper* (process 1 inside) and the command. A direct run has the monitor, which
//! is then also the reaper, and the command. In a sandbox that stays [`open`] the reaper starts a
//! command whenever it is asked to.
//!
//! Whoever dies, nothing is left: the monitor kills everything when the library's end of the socket
//! closes, the reaper ends when the monitor's end closes, and the kernel kills what is inside when
//! the reaper ends.
//!
//! Work on the [`files`] of a sandbox is done by the helper as well: it is a command then.
//!
//! Where the library can pass no descriptors, the helper is started with the name of a directory as
//! its argument. It then is a [`bridge`]: it starts itself a second time, as above, and stands in
//! for the library.

#![no_std]
#![no_main]

mod bridge;
mod connect;
mod execute;
mod files;
mod memory;
mod notify;
mod open;
mod proc;
mod sys;
mod trees;
mod watch;
#[allow(dead_code, reason = "the library uses the rest")]
mod wire;

use core::ptr::{addr_of, addr_of_mut};

use watch::{open_signal_fd, watch_direct, watch_inside, watch_sandbox};
use wire::{Call, Header, Report, Section, kind, mode, on_error, pseudo, report};

use crate::sys::number;

pub const SIGCHLD: usize = 17;
const SIGKILL: usize = 9;
pub const EAGAIN: isize = -11;
pub const ECONNRESET: isize = -104;
pub const EINTR: isize = -4;
const ESTALE: isize = -116;
pub const ENOENT: isize = -2;
pub const EACCES: isize = -13;
pub const AT_FDCWD: usize = -100isize as usize;

/// A plan in memory.
#[derive(Clone, Copy)]
struct Plan {
    base: usize,
    size: usize,
    header: Header,
}

/// How a section ended that did not succeed.
#[derive(Clone, Copy)]
struct Failure {
    section: Section,
    index: usize,
    errno: i32,
}

/// The stack of the command until its `execve`, aligned as both ABIs want it.
#[repr(align(16))]
struct Stack(#[expect(dead_code, reason = "memory, not a value")] [u8; 32 * 1024]);

/// The plan that is being executed. Shared between the reaper and the command until the latter's
/// `execve`, which is why it is static: the two run one after the other in the same memory.
static mut PLAN: Option<Plan> = None;
static mut REGISTERS: [isize; wire::REGISTERS] = [0; wire::REGISTERS];
static mut COMMAND_FAILURE: Option<Failure> = None;
static mut COMMAND_STACK: Stack = Stack([0; 32 * 1024]);

/// Makes a system call with up to six arguments.
macro_rules! syscall {
    ($number:expr $(, $arg:expr)*) => {{
        let mut args = [0usize; 6];
        let given = [$($arg as usize),*];
        args[..given.len()].copy_from_slice(&given);
        // SAFETY: each use passes what the call expects, with memory that outlives it.
        unsafe { $crate::sys::call($number, args) }
    }};
}
pub(crate) use syscall;

/// `stack` is as the kernel leaves it: the number of arguments, the arguments, a null pointer, the
/// environment, a null pointer.
extern "C" fn main(stack: *const usize) -> ! {
    const SET_NAME: usize = 15;
    // Without this `ps` shows the number of a descriptor.
    syscall!(number::PRCTL, SET_NAME, c"openbrain".as_ptr());
    // SAFETY: the kernel has put this there.
    let arguments = unsafe { core::slice::from_raw_parts(stack.add(1).cast(), *stack) };
    match arguments {
        [_, work, rest @ ..] if is_text(*work, wire::work::FILES) => files::run(rest),
        [_, directory, ..] => {
            take_signals();
            // SAFETY: as above; the environment follows the null pointer after the arguments.
            execute::keep_environment(unsafe { stack.add(arguments.len() + 2) }.cast());
            bridge::run(*directory)
        }
        _ => {
            take_signals();
            guard()
        }
    }
}

fn is_text(argument: *const u8, text: &[u8]) -> bool {
    // SAFETY: arguments end with a NUL byte.
    unsafe { core::ffi::CStr::from_ptr(argument.cast()) }.to_bytes() == text
}

/// Executes the plan and stays beside it.
fn guard() -> ! {
    if !receive_fds() {
        exit(111);
    }
    let plan = load_plan(1).unwrap_or_else(|| exit(112));
    use_plan(plan);
    if plan.header.mode == mode::DIRECT { run_direct() } else { run_sandbox() }
}

/// The plan that is being executed.
fn plan() -> Plan {
    // SAFETY: one thread; the command only reads it while the reaper sleeps.
    unsafe { *addr_of!(PLAN) }.unwrap_or_else(|| exit(112))
}

/// Makes this the plan that is being executed.
fn use_plan(plan: Plan) {
    // SAFETY: as above.
    unsafe { *addr_of_mut!(PLAN) = Some(plan) };
}

/// Signals are read from a descriptor; children start with an empty mask and default actions.
fn take_signals() {
    let default = [0usize; 4];
    for signal in 1..=64 {
        syscall!(number::RT_SIGACTION, signal, default.as_ptr(), 0, 8);
    }
    let all = !0u64;
    syscall!(number::RT_SIGPROCMASK, 0, &raw const all, 0, 8);
}

/// Receives the descriptors that the library passes; they take the numbers from 3 on.
fn receive_fds() -> bool {
    // What the caller's process left open without CLOEXEC would shift them.
    syscall!(number::CLOSE_RANGE, wire::FIRST_FD, u32::MAX, 0);
    let mut byte = 0u8;
    let iov = [&raw mut byte as usize, 1];
    let mut control = [0usize; 130];
    let message = [0, 0, iov.as_ptr() as usize, 1, control.as_mut_ptr() as usize, 1040, 0];
    syscall!(number::RECVMSG, wire::REPORT_FD, message.as_ptr(), 0) == 1
}

/// Maps a plan and puts addresses where it has offsets.
fn load_plan(fd: i32) -> Option<Plan> {
    const SEEK_END: usize = 2;
    const READ_WRITE: usize = 3;
    const MAP_PRIVATE: usize = 2;
    let size = syscall!(number::LSEEK, fd, 0, SEEK_END);
    if size <= 0 {
        return None;
    }
    let base = syscall!(number::MMAP, 0, size, READ_WRITE, MAP_PRIVATE, fd, 0);
    if base < 0 {
        return None;
    }
    let (base, size) = (base as usize, size as usize);
    // SAFETY: the mapping has this size and belongs to this process alone.
    let bytes = unsafe { core::slice::from_raw_parts(base as *const u8, size) };
    let Some(header) = wire::read::<Header>(bytes, 0).filter(|_| wire::is_sound(bytes)) else {
        syscall!(number::MUNMAP, base, size);
        return None;
    };
    let data = base + header.data.at as usize;
    for index in 0..header.relocations.count as usize {
        // SAFETY: `is_sound` has checked that the table and the places are inside the plan.
        unsafe {
            let table = (base + header.relocations.at as usize) as *const u32;
            let place = (data + table.add(index).read() as usize) as *mut usize;
            place.write(data + place.read());
        }
    }
    Some(Plan { base, size, header })
}

/// A direct run: the monitor is the reaper of everything that the command leaves behind.
fn run_direct() -> ! {
    or_fail(run_section(Section::Before));
    let command = start_command().unwrap_or_else(|failure| fail(failure));
    syscall!(number::DUP3, wire::REPORT_FD, wire::ORDER_FD, 0);
    open_signal_fd();
    syscall!(number::CLOSE_RANGE, wire::FIRST_FD, u32::MAX, 0);
    send(&Report { kind: report::STARTED, ..Report::default() });
    watch_direct(command)
}

/// A sandbox: this process makes the reaper and stays outside.
fn run_sandbox() -> ! {
    const UNIX: usize = 1;
    const SEQPACKET: usize = 5;
    let mut pair = [0i32; 2];
    if syscall!(number::SOCKETPAIR, UNIX, SEQPACKET, 0, pair.as_mut_ptr()) < 0 {
        exit(113);
    }
    or_clean_up(run_section(Section::Before));
    let flags = plan().header.clone_flags as usize | SIGCHLD;
    let reaper = syscall!(number::CLONE, flags, 0, 0, 0, 0);
    if reaper == 0 {
        syscall!(number::CLOSE, pair[0]);
        syscall!(number::DUP3, pair[1], wire::ORDER_FD, 0);
        be_reaper()
    }
    if reaper < 0 {
        let errno = -reaper as i32;
        or_clean_up(Err(Failure { section: Section::Before, index: usize::MAX, errno }));
    }
    let relay = wire::FIRST_FD as usize + plan().header.kept_fds as usize;
    if pair[0] as usize != relay {
        syscall!(number::DUP3, pair[0], relay, 0);
    }
    syscall!(number::DUP3, wire::REPORT_FD, wire::ORDER_FD, 0);
    set_register(wire::CHILD, reaper);
    let beside = run_section(Section::Beside);
    if beside.is_err() {
        syscall!(number::KILL, reaper, SIGKILL);
        syscall!(number::WAIT4, reaper, 0, 0, 0);
    }
    or_clean_up(beside);
    // The last holder of a mount namespace takes it down, which takes the kernel a while. With this
    // descriptor that is the monitor, after it has reported the end, and nobody waits for it.
    let mounts = open_proc(reaper as usize, c"ns/mnt".as_ptr().cast(), 0);
    if mounts >= 0 && mounts as usize != relay + 1 {
        syscall!(number::DUP3, mounts, relay + 1, 0);
    }
    open_signal_fd();
    syscall!(number::CLOSE_RANGE, relay + 2, u32::MAX, 0);
    watch_sandbox(reaper, relay)
}

/// Process 1 of the sandbox: builds it, starts the command, reaps.
fn be_reaper() -> ! {
    or_fail(run_section(Section::Inside));
    let own = plan();
    if own.header.mode == mode::SANDBOX {
        let command = start_command().unwrap_or_else(|failure| fail(failure));
        open_signal_fd();
        confine(command)
    }
    open_signal_fd();
    or_fail(run_section(Section::Reaper));
    send(&Report { kind: report::STARTED, ..Report::default() });
    if own.header.mode == mode::OPEN { open::serve() } else { confine(open::start_only_command()) }
}

/// Process 1 with its command: gives up what it does not need any more, and stays.
fn confine(command: isize) -> ! {
    send(&Report { kind: report::STARTED, ..Report::default() });
    or_fail(run_section(Section::Reaper));
    watch_inside(command)
}

/// Starts the command and returns its process id.
fn start_command() -> Result<isize, Failure> {
    extern "C" fn command() -> ! {
        let failure = run_section(Section::Command).err();
        // SAFETY: the parent sleeps until this process has ended.
        unsafe { *addr_of_mut!(COMMAND_FAILURE) = failure };
        exit(127)
    }
    // SAFETY: no child that shares this memory is running.
    unsafe { *addr_of_mut!(COMMAND_FAILURE) = None };
    // SAFETY: the stack is used by this child only, which does not return.
    let child = unsafe {
        let stack = addr_of_mut!(COMMAND_STACK).cast::<u8>();
        sys::vfork(stack.add(size_of::<Stack>()), command)
    };
    if child < 0 {
        let errno = -child as i32;
        return Err(Failure { section: Section::Command, index: usize::MAX, errno });
    }
    // SAFETY: the child has executed a program or ended; nobody else writes.
    unsafe { *addr_of!(COMMAND_FAILURE) }.map_or(Ok(child), Err)
}

fn set_register(register: u8, value: isize) {
    // SAFETY: one thread; the number is one of the constants, or `is_sound` has checked it.
    unsafe { (*addr_of_mut!(REGISTERS))[register as usize] = value };
}

/// Executes the calls of one section until one fails.
fn run_section(section: Section) -> Result<(), Failure> {
    let plan = plan();
    let range = plan.header.sections[section as usize];
    let mut last_error = 0;
    for index in 0..range.count as usize {
        // SAFETY: `is_sound` has checked that the section is inside the plan, and the mapping and
        // the layout are aligned.
        let call = unsafe { &*((plan.base + range.at as usize) as *const Call).add(index) };
        let mut result = execute(&plan, call);
        if result == EACCES && call.number as usize == number::EXECVE {
            let path = plan.base + plan.header.data.at as usize + call.args[0] as usize;
            result = if is_missing(path) { ENOENT } else { result };
        }
        if call.save != wire::NO_REGISTER {
            set_register(call.save, result);
        }
        if result >= 0 {
            continue;
        }
        match call.on_error {
            on_error::IGNORE => {}
            // A file that may not be executed is a better explanation than one that is missing.
            on_error::NEXT if last_error == 0 || result != ENOENT => last_error = result,
            on_error::NEXT => {}
            _ => {
                let worse = if last_error != 0 && result == ENOENT { last_error } else { result };
                return Err(Failure { section, index, errno: -worse as i32 });
            }
        }
    }
    Ok(())
}

/// Whether the program of a refused `execve` cannot even be seen: a directory that may not be
/// searched holds no program, as shells have it.
pub fn is_missing(path: usize) -> bool {
    syscall!(number::FACCESSAT, AT_FDCWD, path, 0) < 0
}

fn execute(plan: &Plan, call: &Call) -> isize {
    let mut args = [0usize; 6];
    for (i, arg) in args.iter_mut().enumerate() {
        *arg = match call.kinds[i] {
            kind::DATA => plan.base + plan.header.data.at as usize + call.args[i] as usize,
            // SAFETY: one thread; `is_sound` has checked the number.
            kind::REGISTER => unsafe { (*addr_of!(REGISTERS))[call.args[i] as usize] as usize },
            _ => call.args[i] as usize,
        };
    }
    match call.number {
        // SAFETY: `is_sound` has checked that eight bytes are inside the data.
        pseudo::EXPECT => match unsafe { (args[0] as *const u64).read_unaligned() } {
            found if found == args[1] as u64 => 0,
            _ => ESTALE,
        },
        pseudo::STORE => {
            // SAFETY: `is_sound` has checked that four bytes are inside the data.
            unsafe { (args[1] as *mut u32).write_unaligned(args[0] as u32) };
            0
        }
        pseudo::OPEN_PROC => open_proc(args[0], args[1] as *const u8, args[2]),
        pseudo::PARK => {
            let child = syscall!(number::CLONE, args[0] | SIGCHLD, 0, 0, 0, 0);
            if child == 0 {
                const SET_PARENT_DEATH_SIGNAL: usize = 1;
                syscall!(number::PRCTL, SET_PARENT_DEATH_SIGNAL, SIGKILL);
                syscall!(number::CLOSE_RANGE, 0, u32::MAX, 0);
                loop {
                    syscall!(number::PPOLL, 0, 0, 0, 0, 0);
                }
            }
            child
        }
        pseudo::NETLINK => ask_kernel(args),
        pseudo::LIMIT => set_limit(args[0], args[1] as u64),
        pseudo::EXECUTE => execute::execute(args[0] as _, args[1] as _),
        // SAFETY: the library has compiled the call; its data is inside the plan.
        number => unsafe { sys::call(number as usize, args) },
    }
}

/// Sends a message of netlink; the first answer says whether it was carried out (`netlink(7)`).
fn ask_kernel([socket, message, length, ..]: [usize; 6]) -> isize {
    const BAD_MESSAGE: isize = -74;
    let sent = syscall!(number::SENDTO, socket, message, length, 0, 0, 0);
    if sent < 0 {
        return sent;
    }
    // A header of sixteen bytes, then the error number.
    let mut answer = [0i32; 16];
    match syscall!(number::RECVFROM, socket, answer.as_mut_ptr(), 64, 0, 0, 0) {
        20.. => answer[4] as isize,
        error if error < 0 => error,
        _ => BAD_MESSAGE,
    }
}

/// Sets a resource limit of this process, to at most what it may have.
fn set_limit(resource: usize, limit: u64) -> isize {
    let mut both = [0u64; 2];
    let result = syscall!(number::PRLIMIT64, 0, resource, 0, both.as_mut_ptr());
    if result < 0 {
        return result;
    }
    both = [limit.min(both[1]); 2];
    syscall!(number::PRLIMIT64, 0, resource, both.as_ptr(), 0)
}

/// Opens `/proc/<pid>/<name>`; `name` ends with a NUL byte.
fn open_proc(pid: usize, name: *const u8, flags: usize) -> isize {
    let mut path = [0u8; 64];
    let mut end = 0;
    let mut push = |byte: u8| {
        path[end] = byte;
        end = if end < 62 { end + 1 } else { end };
    };
    b"/proc/".iter().for_each(|b| push(*b));
    let mut divisor = 1_000_000_000;
    while divisor > 0 {
        if pid >= divisor {
            push(b'0' + (pid / divisor % 10) as u8);
        }
        divisor /= 10;
    }
    push(b'/');
    for i in 0..40 {
        // SAFETY: the name is in the data of the plan and ends with a NUL byte.
        match unsafe { name.add(i).read() } {
            0 => break,
            byte => push(byte),
        }
    }
    syscall!(number::OPENAT, AT_FDCWD, path.as_ptr(), flags, 0)
}

/// As [`or_fail`], for the monitor of a sandbox, which leaves nothing.
fn or_clean_up(result: Result<(), Failure>) {
    if result.is_err() {
        let _ = run_section(Section::Cleanup);
    }
    or_fail(result);
}

fn or_fail(result: Result<(), Failure>) {
    if let Err(failure) = result {
        fail(failure);
    }
}

/// Reports a failed call and ends.
fn fail(failure: Failure) -> ! {
    send(&failure_report(failure));
    exit(1)
}

/// What is said of a failed call of the plan that is being executed.
fn failure_report(failure: Failure) -> Report {
    let Failure { section, index, errno } = failure;
    let count = plan().header.sections[Section::Command as usize].count as usize;
    let last = section as u32 == Section::Command as u32 && index.wrapping_add(1) == count;
    let kind = if last { report::EXEC_FAILED } else { report::FAILED };
    Report { kind, first: section as i32, second: index as i32, errno, ..Report::default() }
}

fn send(report: &Report) {
    send_to(wire::REPORT_FD as usize, report, size_of::<Report>());
}

/// Sends without waiting and without SIGPIPE: a reader that is gone will be noticed elsewhere.
fn send_to<T>(fd: usize, message: *const T, length: usize) {
    const DONTWAIT_NOSIGNAL: usize = 0x4040;
    syscall!(number::SENDTO, fd, message, length, DONTWAIT_NOSIGNAL, 0, 0);
}

pub fn exit(code: i32) -> ! {
    loop {
        syscall!(number::EXIT_GROUP, code);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(114)
}
