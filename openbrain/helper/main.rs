//! The helper: a static program without a library that executes a plan and stays beside it.
//!
//! It is started once for each run, by `posix_spawn`, with a socket to the library as descriptor 0
//! and the plan as descriptor 1. In a sandbox there are three processes: the *monitor* (this one,
//! outside), the *reaper* (process 1 inside) and the command. A direct run has the monitor, which
//! is then also the reaper, and the command.
//!
//! Whoever dies, nothing is left: the monitor kills everything when the library's end of the socket
//! closes, the reaper ends when the monitor's end closes, and the kernel kills what is inside when
//! the reaper ends.

#![no_std]
#![no_main]

mod memory;
mod sys;
#[allow(dead_code, reason = "the library uses the rest")]
mod wire;

use core::ptr::{addr_of, addr_of_mut};

use wire::{Call, Header, Order, Report, Section, kind, on_error, pseudo, report};

use crate::sys::number;

pub const SIGCHLD: usize = 17;
const SIGKILL: usize = 9;
const EAGAIN: isize = -11;
const ECHILD: isize = -10;
const EINTR: isize = -4;
const ESTALE: isize = -116;
const ENOENT: isize = -2;
const EACCES: isize = -13;
const AT_FDCWD: usize = -100isize as usize;
const WNOHANG: usize = 1;
const SIGNAL_FD: usize = 2;

/// The plan in memory. Set once, before any other process exists.
struct Plan {
    base: usize,
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
struct Stack([u8; 32 * 1024]);

/// Shared between the reaper and the command until the latter's `execve`, which is why it is
/// static: the two run one after the other in the same memory.
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

extern "C" fn main() -> ! {
    const SET_NAME: usize = 15;
    // Without this `ps` shows the number of a descriptor.
    syscall!(number::PRCTL, SET_NAME, c"openbrain".as_ptr());
    take_signals();
    if !receive_fds() {
        exit(111);
    }
    if !load_plan() {
        exit(112);
    }
    if plan().header.sandbox == 0 { run_direct() } else { run_sandbox() }
}

fn plan() -> &'static Plan {
    // SAFETY: set in `load_plan`, before this is called, and never changed after.
    unsafe { (*addr_of!(PLAN)).as_ref() }.unwrap_or_else(|| exit(112))
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

fn load_plan() -> bool {
    const SEEK_END: usize = 2;
    const READ_WRITE: usize = 3;
    const MAP_PRIVATE: usize = 2;
    let size = syscall!(number::LSEEK, 1, 0, SEEK_END);
    if size <= 0 {
        return false;
    }
    let base = syscall!(number::MMAP, 0, size, READ_WRITE, MAP_PRIVATE, 1, 0);
    if base < 0 {
        return false;
    }
    let base = base as usize;
    // SAFETY: the mapping has this size and belongs to this process alone.
    let bytes = unsafe { core::slice::from_raw_parts(base as *const u8, size as usize) };
    let Some(header) = wire::read::<Header>(bytes, 0).filter(|_| wire::is_sound(bytes)) else {
        return false;
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
    // SAFETY: there is one thread, and this is the only write.
    unsafe { *addr_of_mut!(PLAN) = Some(Plan { base, header }) };
    true
}

/// A direct run: the monitor is the reaper of everything that the command leaves behind.
fn run_direct() -> ! {
    or_fail(run_section(Section::Before));
    let command = start_command();
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
    // SAFETY: one thread.
    unsafe { (*addr_of_mut!(REGISTERS))[wire::CHILD as usize] = reaper };
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
    let command = start_command();
    open_signal_fd();
    send(&Report { kind: report::STARTED, ..Report::default() });
    or_fail(run_section(Section::Reaper));
    watch_inside(command)
}

/// Starts the command and returns its process id, or reports why it could not and ends.
fn start_command() -> isize {
    extern "C" fn command() -> ! {
        let failure = run_section(Section::Command).err();
        // SAFETY: the parent sleeps until this process has ended.
        unsafe { *addr_of_mut!(COMMAND_FAILURE) = failure };
        exit(127)
    }
    // SAFETY: the stack is used by this child only, which does not return.
    let child = unsafe {
        let stack = addr_of_mut!(COMMAND_STACK).cast::<u8>();
        sys::vfork(stack.add(size_of::<Stack>()), command)
    };
    if child < 0 {
        fail(Failure { section: Section::Command, index: usize::MAX, errno: -child as i32 });
    }
    // SAFETY: the child has executed a program or ended; nobody else writes.
    match unsafe { *addr_of!(COMMAND_FAILURE) } {
        Some(failure) => fail(failure),
        None => child,
    }
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
        let mut result = execute(plan, call);
        if result == EACCES && call.number as usize == number::EXECVE && is_missing(plan, call) {
            result = ENOENT;
        }
        if call.save != wire::NO_REGISTER {
            // SAFETY: one thread; `is_sound` has checked the number.
            unsafe { (*addr_of_mut!(REGISTERS))[call.save as usize] = result };
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
fn is_missing(plan: &Plan, call: &Call) -> bool {
    let path = plan.base + plan.header.data.at as usize + call.args[0] as usize;
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
            while child == 0 {
                syscall!(number::PPOLL, 0, 0, 0, 0, 0);
            }
            child
        }
        // SAFETY: the library has compiled the call; its data is inside the plan.
        number => unsafe { sys::call(number as usize, args) },
    }
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

/// SIGCHLD becomes readable at a fixed descriptor.
fn open_signal_fd() {
    let mask = 1u64 << (SIGCHLD - 1);
    let fd = syscall!(number::SIGNALFD4, -1isize, &raw const mask, 8, 0o4000);
    if fd as usize != SIGNAL_FD {
        syscall!(number::DUP3, fd, SIGNAL_FD, 0);
        syscall!(number::CLOSE, fd);
    }
}

/// What woke a watcher.
enum Wake {
    /// A child changed its state, or the time is over.
    Look,
    Order(i32),
    /// The other side is gone.
    Closed,
}

/// Waits for an order, a child or the end of `timeout_ms` (negative: for ever). Once the other side
/// is gone, `deaf` keeps its descriptor out of the wait.
fn wait(deaf: bool, timeout_ms: i64) -> Wake {
    const POLLIN: u64 = 1;
    let order_fd = if deaf { -1i32 } else { wire::ORDER_FD };
    let mut fds = [order_fd as u32 as u64 | POLLIN << 32, SIGNAL_FD as u64 | POLLIN << 32];
    let time = [timeout_ms / 1000, timeout_ms % 1000 * 1_000_000];
    let time = if timeout_ms < 0 { core::ptr::null() } else { time.as_ptr() };
    if syscall!(number::PPOLL, fds.as_mut_ptr(), 2, time, 0, 8) <= 0 {
        return Wake::Look;
    }
    if fds[1] >> 48 != 0 {
        let mut info = [0u8; 128];
        syscall!(number::READ, SIGNAL_FD, info.as_mut_ptr(), info.len());
    }
    if deaf || fds[0] >> 48 == 0 {
        return Wake::Look;
    }
    let mut order = Order { signal: 0 };
    match syscall!(number::RECVFROM, wire::ORDER_FD, &raw mut order, size_of::<Order>(), 0, 0, 0) {
        length if length == size_of::<Order>() as isize => Wake::Order(order.signal),
        EINTR | EAGAIN => Wake::Look,
        _ => Wake::Closed,
    }
}

/// One reaped child.
struct Reaped {
    pid: isize,
    status: i32,
    cpu_us: u64,
    max_rss: u64,
}

/// Reaps one child that has ended; `Err` says whether any child is left at all.
fn reap() -> Result<Reaped, bool> {
    let mut status = 0i32;
    let mut usage = [0i64; 18];
    let pid = syscall!(number::WAIT4, -1isize, &raw mut status, WNOHANG, usage.as_mut_ptr());
    if pid <= 0 {
        return Err(pid != ECHILD);
    }
    let cpu_us = (usage[0] + usage[2]) * 1_000_000 + usage[1] + usage[3];
    Ok(Reaped { pid, status, cpu_us: cpu_us as u64, max_rss: usage[4] as u64 * 1024 })
}

/// What the monitor has learnt of the children it reaped.
struct Usage {
    cpu_us: u64,
    max_rss: u64,
}

impl Usage {
    fn add(&mut self, reaped: &Reaped) {
        self.cpu_us += reaped.cpu_us;
        self.max_rss = self.max_rss.max(reaped.max_rss);
    }

    fn ended(&self) -> Report {
        let Self { cpu_us, max_rss } = *self;
        Report { kind: report::ENDED, cpu_us, max_rss, ..Report::default() }
    }
}

fn exited(status: i32) -> Report {
    Report { kind: report::EXITED, first: status, ..Report::default() }
}

/// Beside a direct command. When the command ends by itself, what it left in the background stays,
/// as with any shell; when it is killed, everything is.
fn watch_direct(command: isize) -> ! {
    let mut usage = Usage { cpu_us: 0, max_rss: 0 };
    let (mut doomed, mut killing, mut deaf) = (false, false, false);
    let (mut running, mut status) = (Some(command), 0);
    loop {
        let left = loop {
            match reap() {
                Ok(reaped) => {
                    usage.add(&reaped);
                    if reaped.pid == command {
                        running = None;
                        status = reaped.status;
                    }
                }
                Err(left) => break left,
            }
        };
        killing |= doomed && running.is_none();
        if !left || (running.is_none() && !killing) {
            send(&exited(status));
            send(&usage.ended());
            exit(0);
        }
        if killing {
            kill_children(running);
        }
        match wait(deaf, -1) {
            Wake::Look => {}
            Wake::Order(Order::KILL) => killing = true,
            Wake::Order(Order::DOOM) => doomed = true,
            Wake::Order(signal) => {
                if let Some(command) = running {
                    syscall!(number::KILL, -command, signal);
                }
            }
            Wake::Closed => (killing, deaf) = (true, true),
        }
    }
}

/// Kills every child of this process. As a sub-reaper it inherits the orphans of those that die, so
/// that repeating this after each death reaches every descendant, daemons included.
fn kill_children(command: Option<isize>) {
    if let Some(command) = command {
        syscall!(number::KILL, -command, SIGKILL);
        syscall!(number::KILL, command, SIGKILL);
    }
    let path = c"/proc/thread-self/children";
    let fd = syscall!(number::OPENAT, AT_FDCWD, path.as_ptr(), 0o2000000, 0);
    if fd < 0 {
        return;
    }
    let mut buffer = [0u8; 4096];
    let mut pid = 0usize;
    loop {
        let length = syscall!(number::READ, fd, buffer.as_mut_ptr(), buffer.len());
        if length <= 0 {
            break;
        }
        for byte in &buffer[..length as usize] {
            if byte.is_ascii_digit() {
                pid = pid * 10 + (byte - b'0') as usize;
            } else if pid > 0 {
                syscall!(number::KILL, pid, SIGKILL);
                pid = 0;
            }
        }
    }
    syscall!(number::CLOSE, fd);
}

/// Beside a sandbox: relays signals, kills the reaper on order, reports its end, cleans up.
fn watch_sandbox(reaper: isize, relay: usize) -> ! {
    let mut usage = Usage { cpu_us: 0, max_rss: 0 };
    let (mut deaf, mut over) = (false, false);
    loop {
        while let Ok(reaped) = reap() {
            if reaped.pid == reaper {
                usage.add(&reaped);
                over = true;
                send(&usage.ended());
            }
        }
        // The library first reads what it wants to know of the things that will be removed.
        let cleanup = plan().header.sections[Section::Cleanup as usize].count > 0;
        if over && (deaf || !cleanup) {
            let _ = run_section(Section::Cleanup);
            exit(0);
        }
        match wait(deaf, -1) {
            Wake::Look => {}
            _ if over => deaf = true,
            Wake::Order(Order::KILL) => {
                syscall!(number::KILL, reaper, SIGKILL);
            }
            // Everything inside ends with the command anyway.
            Wake::Order(Order::DOOM) => {}
            Wake::Order(signal) => {
                let order = Order { signal };
                send_to(relay, &raw const order, size_of::<Order>());
            }
            Wake::Closed => {
                syscall!(number::KILL, reaper, SIGKILL);
                deaf = true;
            }
        }
    }
}

/// Process 1 of a sandbox: ends with the command, and everything inside ends with it.
fn watch_inside(command: isize) -> ! {
    let header = &plan().header;
    let interval = if header.memory_limit == 0 { -1 } else { header.memory_interval_ms as i64 };
    loop {
        while let Ok(reaped) = reap() {
            if reaped.pid == command {
                send(&exited(reaped.status));
                exit(0);
            }
        }
        if header.memory_limit != 0 && memory::exceeds(header.memory_limit, header.page_size) {
            send(&Report { kind: report::OUT_OF_MEMORY, ..Report::default() });
            exit(0);
        }
        match wait(false, interval) {
            Wake::Look => {}
            Wake::Order(signal) => {
                syscall!(number::KILL, -command, signal);
            }
            Wake::Closed => exit(0),
        }
    }
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
    let Failure { section, index, errno } = failure;
    let count = plan().header.sections[Section::Command as usize].count as usize;
    let last = section as u32 == Section::Command as u32 && index + 1 == count;
    let kind = if last { report::EXEC_FAILED } else { report::FAILED };
    send(&Report { kind, first: section as i32, second: index as i32, errno, ..Report::default() });
    exit(1)
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
