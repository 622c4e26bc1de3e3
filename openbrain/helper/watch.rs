//! What stays beside a command: one loop for each of the three places, which waits for orders and for
//! children, and nothing else.

use crate::{
    AT_FDCWD, EAGAIN, EINTR, SIGCHLD, SIGKILL, exit, memory, plan, run_section, send, send_to,
    sys::number,
    syscall,
    wire::{self, Order, Report, Section, mode, report},
};

const ECHILD: isize = -10;
const WNOHANG: usize = 1;
/// Where SIGCHLD becomes readable.
pub const SIGNAL_FD: usize = 2;
pub const POLLIN: u64 = 1;

/// SIGCHLD becomes readable at a fixed descriptor.
pub fn open_signal_fd() {
    let mask = 1u64 << (SIGCHLD - 1);
    let fd = syscall!(number::SIGNALFD4, -1isize, &raw const mask, 8, 0o4000);
    if fd as usize != SIGNAL_FD {
        syscall!(number::DUP3, fd, SIGNAL_FD, 0);
        syscall!(number::CLOSE, fd);
    }
}

/// What woke a watcher.
pub enum Wake {
    /// A child changed its state, or the time is over.
    Look,
    Order(Order),
    /// The other side is gone.
    Closed,
}

/// Waits for an order, a child or the end of `timeout_ms` (negative: for ever). Once the other side
/// is gone, `deaf` keeps its descriptor out of the wait.
fn wait(deaf: bool, timeout_ms: i64) -> Wake {
    let order_fd = if deaf { -1i32 } else { wire::ORDER_FD };
    let mut fds = [order_fd as u32 as u64 | POLLIN << 32, SIGNAL_FD as u64 | POLLIN << 32];
    if !poll(&mut fds, timeout_ms) {
        return Wake::Look;
    }
    if fds[1] >> 48 != 0 {
        drain_signals();
    }
    match deaf || fds[0] >> 48 == 0 {
        true => Wake::Look,
        false => receive(wire::ORDER_FD),
    }
}

/// Waits for one of several descriptors (`struct pollfd`, `poll(2)`), or for the end of
/// `timeout_ms` (negative: for ever). Whether there is any.
pub fn poll(fds: &mut [u64], timeout_ms: i64) -> bool {
    let time = [timeout_ms / 1000, timeout_ms % 1000 * 1_000_000];
    let time = if timeout_ms < 0 { core::ptr::null() } else { time.as_ptr() };
    syscall!(number::PPOLL, fds.as_mut_ptr(), fds.len(), time, 0, 8) > 0
}

/// Takes what woke the watcher off the descriptor of signals.
pub fn drain_signals() {
    let mut info = [0u8; 128];
    syscall!(number::READ, SIGNAL_FD, info.as_mut_ptr(), info.len());
}

/// Receives an order that has arrived.
pub fn receive(from: i32) -> Wake {
    const DONTWAIT: usize = 0x40;
    let mut order = Order::plain(0);
    let length = size_of::<Order>();
    match syscall!(number::RECVFROM, from, &raw mut order, length, DONTWAIT, 0, 0) {
        received if received == length as isize => Wake::Order(order),
        EINTR | EAGAIN => Wake::Look,
        _ => Wake::Closed,
    }
}

/// One reaped child.
pub struct Reaped {
    pub pid: isize,
    pub status: i32,
    pub cpu_us: u64,
    pub max_rss: u64,
}

/// Reaps one child that has ended; `Err` says whether any child is left at all.
pub fn reap() -> Result<Reaped, bool> {
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
pub fn watch_direct(command: isize) -> ! {
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
            // One report, so that the library wakes up once.
            send(&Report { first: status, second: 1, ..usage.ended() });
            exit(0);
        }
        if killing {
            kill_children(running);
        }
        match wait(deaf, -1) {
            Wake::Look => {}
            Wake::Order(order) => match (order.signal, running) {
                (Order::KILL, _) => killing = true,
                (Order::DOOM, _) => doomed = true,
                (signal, Some(command)) => {
                    syscall!(number::KILL, -command, signal);
                }
                (_, None) => {}
            },
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

/// Beside a sandbox: relays orders, kills the reaper when it is told to, when nobody is left who could
/// tell it, or when the time of an open sandbox is over; reports the end, cleans up.
pub fn watch_sandbox(reaper: isize, relay: usize) -> ! {
    let header = plan().header;
    let is_open = header.mode == mode::OPEN;
    let mut deadline = is_open.then(|| now_ms() + header.lifetime_ms);
    let mut usage = Usage { cpu_us: 0, max_rss: 0 };
    let (mut deaf, mut over, mut kept) = (false, false, false);
    loop {
        while let Ok(reaped) = reap() {
            if reaped.pid == reaper {
                usage.add(&reaped);
                over = true;
                send(&usage.ended());
            }
        }
        // The library first reads what it wants to know of the things that will be removed: of a
        // sandbox that stays open nothing, because nobody may be looking at its end.
        let cleanup = header.sections[Section::Cleanup as usize].count > 0;
        if over && (deaf || is_open || !cleanup) {
            let _ = run_section(Section::Cleanup);
            exit(0);
        }
        if deadline.is_some_and(|at| at <= now_ms()) {
            deadline = None;
            send(&Report { kind: report::EXPIRED, ..Report::default() });
            syscall!(number::KILL, reaper, SIGKILL);
        }
        // Rounded up, so that the last wait is not followed by one of nothing.
        let time = deadline.map_or(-1, |at| at.saturating_sub(now_ms()).min(DAY_MS) as i64 + 1);
        match wait(deaf, time) {
            Wake::Look => {}
            _ if over => deaf = true,
            Wake::Order(order) => match order.signal {
                Order::KILL => {
                    syscall!(number::KILL, reaper, SIGKILL);
                }
                // Everything inside ends with the command anyway.
                Order::DOOM => {}
                Order::LIVE => {
                    deadline = deadline.map(|_| now_ms() + order.milliseconds);
                    done(&order);
                }
                Order::KEEP => {
                    kept = is_open;
                    done(&order);
                }
                _ => send_to(relay, &raw const order, size_of::<Order>()),
            },
            Wake::Closed => {
                deaf = true;
                if !kept {
                    syscall!(number::KILL, reaper, SIGKILL);
                }
            }
        }
    }
}

/// Says that an order was carried out.
pub fn done(order: &Order) {
    send(&Report { kind: report::DONE, first: order.serial as i32, ..Report::default() });
}

/// The longest that is waited at a time: a wait takes no number of milliseconds.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Milliseconds of the clock that nobody sets.
fn now_ms() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0u64; 2];
    syscall!(number::CLOCK_GETTIME, CLOCK_MONOTONIC, time.as_mut_ptr());
    time[0] * 1000 + time[1] / 1_000_000
}

/// Process 1 of a sandbox: ends with the command, and everything inside ends with it.
pub fn watch_inside(command: isize) -> ! {
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
            Wake::Order(Order { signal, .. }) => {
                syscall!(number::KILL, -command, signal);
            }
            Wake::Closed => exit(0),
        }
    }
}
