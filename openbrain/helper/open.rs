//! Process 1 of a sandbox that is made before its commands: of one that stays open, where it starts
//! commands on request and guards each of them, and of one that is ready for a single command.
//!
//! Everything that walls a command in is in force for this process as well, before the first command
//! exists, so that no request can leave a wall out. What a command leaves running stays when it ends by
//! itself, as with any shell. One that is killed is killed with everything that it has started: each
//! command has a number, as a resource limit that means nothing to the kernel (`RLIMIT_LOCKS`), which
//! every descendant inherits, daemons included, and which none of them can change.

use crate::{
    Failure, SIGKILL, exit, fail, failure_report, load_plan, memory, plan, proc, run_section,
    send_to, set_register, start_command,
    sys::number,
    syscall, use_plan,
    watch::{POLLIN, Reaped, SIGNAL_FD, Wake, done, drain_signals, poll, reap, receive},
    wire::{self, Header, Order, Report, Section, Start, report},
};

/// How many commands can run at a time; further requests wait in the socket.
const MOST: usize = wire::MOST_COMMANDS;
/// The number of a command, as the resource limit that holds it.
const RLIMIT_LOCKS: usize = 10;
/// How long the next look at the processes of a killed command is put off at most.
const HURRY_MS: i64 = 20;

/// One command.
#[derive(Clone, Copy)]
struct Job {
    /// Its number; 0 for none.
    tag: u64,
    /// Where its reports go and its orders come from; -1 once the other side is gone.
    control: i32,
    pid: isize,
    /// How it ended, once it has.
    end: Option<Report>,
    /// What it leaves is to be killed when it ends by itself.
    doomed: bool,
    killing: bool,
}

impl Job {
    const NONE: Self =
        Self { tag: 0, control: -1, pid: 0, end: None, doomed: false, killing: false };

    fn is_running(&self) -> bool {
        self.tag != 0 && self.end.is_none()
    }

    /// Kills what is to be killed and reports an end. Whether there is more to kill.
    fn advance(&mut self) -> bool {
        self.killing |= self.doomed && self.end.is_some();
        if self.killing && kill_all_of(self.tag) > 0 {
            return true;
        }
        let Some(end) = self.end else { return self.killing };
        self.say(&end);
        syscall!(number::CLOSE, self.control);
        *self = Self::NONE;
        false
    }

    fn obey(&mut self, wake: Wake) {
        match wake {
            Wake::Look => {}
            Wake::Order(Order { signal: Order::KILL, .. }) => self.killing = true,
            Wake::Order(Order { signal: Order::DOOM, .. }) => self.doomed = true,
            Wake::Order(Order { signal, .. }) if signal > 0 && self.is_running() => {
                syscall!(number::KILL, -self.pid, signal);
            }
            Wake::Order(_) => {}
            Wake::Closed => {
                syscall!(number::CLOSE, self.control);
                (self.control, self.killing) = (-1, true);
            }
        }
    }

    fn say(&self, report: &Report) {
        send_to(self.control as usize, report, size_of::<Report>());
    }
}

/// What is watched in a wait: orders for all, children, the door, and orders for each command.
const FIXED: usize = 3;

/// Serves the sandbox until its monitor is gone.
pub fn serve() -> ! {
    let header = plan().header;
    let interval = if header.memory_limit == 0 { -1 } else { header.memory_interval_ms as i64 };
    let mut jobs = [Job::NONE; MOST];
    let (mut last_tag, mut is_door_open, mut is_paused) = (0, true, false);
    loop {
        while let Ok(reaped) = reap() {
            note_end(&mut jobs, &reaped);
        }
        watch_memory(&header, &jobs);
        let mut hurry = false;
        for job in jobs.iter_mut().filter(|job| job.tag != 0) {
            hurry |= job.advance();
        }
        let is_full = jobs.iter().all(|job| job.tag != 0);
        let door = if is_door_open && !is_full && !is_paused { wire::DOOR_FD } else { -1 };
        let mut fds = [0; FIXED + MOST];
        let numbers = [wire::ORDER_FD, SIGNAL_FD as i32, door].into_iter();
        for (fd, number) in fds.iter_mut().zip(numbers.chain(jobs.iter().map(|job| job.control))) {
            *fd = number as u32 as u64 | POLLIN << 32;
        }
        if !poll(&mut fds, if hurry { HURRY_MS } else { interval }) {
            continue;
        }
        let is_ready = |fd: u64| fd >> 48 != 0;
        if is_ready(fds[0]) {
            obey_for_all(receive(wire::ORDER_FD), &mut is_paused);
        }
        if is_ready(fds[1]) {
            drain_signals();
        }
        for (job, _) in jobs.iter_mut().zip(&fds[FIXED..]).filter(|(_, fd)| is_ready(**fd)) {
            let wake = receive(job.control);
            job.obey(wake);
        }
        if is_ready(fds[2]) && !is_paused {
            is_door_open = answer_door(&mut jobs, &mut last_tag);
        }
    }
}

/// Notes how a command ended; other children are orphans of commands.
fn note_end(jobs: &mut [Job], reaped: &Reaped) {
    let ended = jobs.iter_mut().find(|job| job.is_running() && job.pid == reaped.pid);
    if let Some(job) = ended {
        job.end = Some(Report {
            kind: report::ENDED,
            first: reaped.status,
            second: 1,
            cpu_us: reaped.cpu_us,
            max_rss: reaped.max_rss,
            ..Report::default()
        });
    }
}

/// Kills everything but this process when it uses too much; the sandbox stays.
fn watch_memory(header: &Header, jobs: &[Job]) {
    if header.memory_limit == 0 || !memory::exceeds(header.memory_limit, header.page_size) {
        return;
    }
    for job in jobs.iter().filter(|job| job.is_running()) {
        job.say(&Report { kind: report::OUT_OF_MEMORY, ..Report::default() });
    }
    signal_all(SIGKILL);
}

/// Carries out what the monitor has passed on. What is paused starts no command: it would run.
fn obey_for_all(wake: Wake, is_paused: &mut bool) {
    const SIGCONT: usize = 18;
    const SIGSTOP: usize = 19;
    let order = match wake {
        Wake::Order(order) => order,
        Wake::Look => return,
        Wake::Closed => exit(0),
    };
    let signal = match order.signal {
        Order::PAUSE => SIGSTOP,
        Order::RESUME => SIGCONT,
        _ => return,
    };
    *is_paused = signal == SIGSTOP;
    signal_all(signal);
    done(&order);
}

/// Sends a signal to every process of the sandbox but this one, in one step for the kernel.
fn signal_all(signal: usize) {
    syscall!(number::KILL, -1isize, signal);
}

/// Starts what is asked for. Whether more can be asked.
fn answer_door(jobs: &mut [Job], last_tag: &mut u64) -> bool {
    let (fds, count) = match receive_start() {
        Received::Start(fds, count) => (fds, count),
        Received::Nothing => return true,
        Received::Closed => return false,
    };
    let mut control = -1;
    if let ([plan, to, ..], Some(job)) = (&fds[..count], jobs.iter_mut().find(|job| job.tag == 0)) {
        *last_tag += 1;
        let mut new = Job { tag: *last_tag, control: *to, ..Job::NONE };
        match start(*plan, &fds[1..count], new.tag) {
            Ok(pid) => {
                new.pid = pid;
                new.say(&Report { kind: report::STARTED, ..Report::default() });
                *job = new;
                control = *to;
            }
            Err(report) => new.say(&report),
        }
    }
    for fd in fds[..count].iter().filter(|fd| **fd != control) {
        syscall!(number::CLOSE, *fd);
    }
    true
}

/// Waits for the only command that this sandbox is for, and starts it; returns its process id. It has
/// the socket of the sandbox itself, and its plan stays in use.
pub fn start_only_command() -> isize {
    let (fds, count) = loop {
        let mut wanted = [wire::ORDER_FD, wire::DOOR_FD].map(|fd| fd as u64 | POLLIN << 32);
        if !poll(&mut wanted, -1) {
            continue;
        }
        if wanted[0] >> 48 != 0 && matches!(receive(wire::ORDER_FD), Wake::Closed) {
            exit(0);
        }
        if wanted[1] >> 48 != 0 {
            match receive_start() {
                Received::Start(fds, count) => break (fds, count),
                Received::Nothing => {}
                Received::Closed => exit(0),
            }
        }
    };
    let plan = load_plan(fds[0]).unwrap_or_else(|| fail(UNREADABLE));
    pass(&[wire::REPORT_FD], &fds[1..count]);
    use_plan(plan);
    let started = run_section(Section::Inside).and_then(|()| start_command());
    started.unwrap_or_else(|failure| fail(failure))
}

/// How a plan fails that is none.
const UNREADABLE: Failure = Failure { section: Section::Inside, index: usize::MAX, errno: 22 };

/// Puts descriptors where the plan of a command finds them: the socket, then its own.
fn pass(socket: &[i32], fds: &[i32]) {
    // What an earlier plan has left there could be closed by this one.
    (0..wire::PASSED).for_each(|register| set_register(register, -1));
    for (register, fd) in (wire::PASSED..).zip(socket.iter().chain(fds)) {
        set_register(register, *fd as isize);
    }
}

/// Executes the plan of one command; returns its process id.
fn start(plan: i32, passed: &[i32], tag: u64) -> Result<isize, Report> {
    let plan = load_plan(plan).ok_or_else(|| failure_report(UNREADABLE))?;
    pass(&[], passed);
    set_register(wire::TAG, tag as isize);
    let own = crate::plan();
    use_plan(plan);
    let started = run_section(Section::Inside).and_then(|()| start_command());
    let started = started.map_err(failure_report);
    let _ = run_section(Section::Reaper);
    use_plan(own);
    syscall!(number::MUNMAP, plan.base, plan.size);
    started
}

/// What came to the door.
enum Received {
    /// A request, with so many of these descriptors.
    Start([i32; wire::MOST_PASSED], usize),
    Nothing,
    Closed,
}

fn receive_start() -> Received {
    const DONTWAIT_CLOEXEC: usize = 0x4000_0040;
    const HEADER: usize = 16;
    let mut start = Start { magic: 0, passed: 0 };
    let iov = [&raw mut start as usize, size_of::<Start>()];
    // A control message has its length, level and kind before the descriptors (`cmsg(3)`).
    let mut control = [0u64; 2 + wire::MOST_PASSED / 2];
    let size = size_of_val(&control);
    let message = [0, 0, iov.as_ptr() as usize, 1, control.as_mut_ptr() as usize, size, 0];
    let length = syscall!(number::RECVMSG, wire::DOOR_FD, message.as_ptr(), DONTWAIT_CLOEXEC);
    if length == 0 {
        return Received::Closed;
    }
    let mut fds = [-1; wire::MOST_PASSED];
    let count = (control[0] as usize).saturating_sub(HEADER) / size_of::<i32>();
    let count = count.min(wire::MOST_PASSED);
    for (index, fd) in fds[..count].iter_mut().enumerate() {
        *fd = (control[2 + index / 2] >> (index % 2 * 32)) as i32;
    }
    let is_whole = length == size_of::<Start>() as isize
        && start.magic == wire::MAGIC
        && start.passed as usize == count.saturating_sub(1);
    if length < 0 || !is_whole {
        fds[..count].iter().for_each(|fd| {
            syscall!(number::CLOSE, *fd);
        });
        return Received::Nothing;
    }
    Received::Start(fds, count)
}

/// Kills every process with this number; returns how many there are, dead ones that nobody has reaped
/// included. A process that has forked meanwhile is found by the next look.
fn kill_all_of(tag: u64) -> usize {
    let mut found = 0;
    proc::for_each_number(&proc::Path::new(b"/proc"), |path| {
        let pid = path.number() as usize;
        // It stays the same process, whoever gets the number next.
        let process = syscall!(number::PIDFD_OPEN, pid, 0);
        if tag_of(pid) == Some(tag) {
            found += 1;
            syscall!(number::PIDFD_SEND_SIGNAL, process, SIGKILL, 0, 0);
        }
        syscall!(number::CLOSE, process);
    });
    found
}

/// The number of the command that a process belongs to.
fn tag_of(pid: usize) -> Option<u64> {
    let mut limit = [0u64; 2];
    let result = syscall!(number::PRLIMIT64, pid, RLIMIT_LOCKS, 0, limit.as_mut_ptr());
    (pid > 1 && result >= 0).then_some(limit[1])
}
