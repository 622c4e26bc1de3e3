//! The bridge: stands in for the library in a container of somebody else's engine, where nothing
//! gets in but files and nothing gets out but lines of text.
//!
//! It makes the pipes, starts the guard as the library would, and then carries: [`parcel`]s out
//! through standard output, exact whatever happens to line ends and to bytes that are no text on
//! the way, and [`Letter`]s and pieces of standard input in, each a file whose arrival `inotify(7)`
//! tells. What was read is removed as soon as the next one has come: until then the agent may still
//! be busy with it.

mod pieces;
mod text;

use core::ptr::addr_of_mut;

use self::{
    pieces::{Input, Written},
    text::{encode, parse, print},
};

use crate::{
    AT_FDCWD, EAGAIN, ECONNRESET, EINTR, SIGCHLD, exit, guard, send_to,
    sys::number,
    syscall,
    wire::{self, Job, Letter, Order, Report, bridge, input, letter, parcel, report},
};

const CLOEXEC: usize = 0o2000000;
const NONBLOCK: usize = 0o4000;
const READ_WRITE: usize = 2;
const NOCTTY: usize = 0o400;

/// How much is read at a time: small enough for a line that no agent splits.
const CHUNK: usize = 24 * 1024;
/// Number, kind and content.
const PARCEL: usize = 5 + CHUNK;
/// What is read of one output when the command has ended and something still writes to it.
const REST: usize = 1 << 20;
/// The longest name in the directory.
const NAME: usize = 64;

/// A parcel as text: base64, the end mark, the line feed.
const TEXT: usize = PARCEL.div_ceil(3) * 4 + 2;

struct Buffers {
    parcel: [u8; PARCEL],
    text: [u8; TEXT],
    piece: [u8; CHUNK],
}

/// Given to the bridge, once.
static mut BUFFERS: Buffers = Buffers { parcel: [0; PARCEL], text: [0; TEXT], piece: [0; CHUNK] };

/// A descriptor that is not there: `poll(2)` ignores it.
const NONE: i32 = -1;

struct Bridge {
    directory: i32,
    /// Tells which files have arrived.
    arrivals: i32,
    /// To the guard.
    socket: i32,
    /// Whether the command runs. Its output waits for that, so that the report of it comes first.
    started: bool,
    /// Standard output and error of the command; on a terminal there is one.
    outputs: [i32; 2],
    parcel: &'static mut [u8; PARCEL],
    text: &'static mut [u8; TEXT],
    input: Input,
    terminal: i32,
    /// Number of the next parcel.
    next: u32,
    /// Number of the next file of letters.
    letters: u64,
    /// How many bytes of output may still be sent before the library says that it took some.
    credit: u64,
}

/// Runs the job in `directory`, whose name ends with a NUL byte.
pub fn run(directory: *const u8) -> ! {
    const DIRECTORY: usize = 0o200000;
    const CLOSE_WRITE_OR_MOVED_TO: usize = 0x88;
    let fd = syscall!(number::OPENAT, AT_FDCWD, directory, DIRECTORY | CLOEXEC, 0) as i32;
    let Some(job) = read_job(fd) else { exit(121) };
    let arrivals = syscall!(number::INOTIFY_INIT1, CLOEXEC | NONBLOCK) as i32;
    let watched = syscall!(number::INOTIFY_ADD_WATCH, arrivals, directory, CLOSE_WRITE_OR_MOVED_TO);
    let plan = take(fd, bridge::PLAN);
    if watched < 0 || plan < 0 {
        exit(122);
    }
    let Some((ends, outputs, writer, terminal)) = open_streams(fd, &job) else { exit(123) };
    let script = if job.script != 0 { take(fd, bridge::SCRIPT) } else { NONE };
    remove(fd, &with_nul(bridge::PROGRAM.as_bytes()));
    let socket = start_guard(plan, ends, script);
    // SAFETY: this runs once, in the only thread.
    let Buffers { parcel, text, piece: buffer } = unsafe { &mut *addr_of_mut!(BUFFERS) };
    let input = Input::new(writer, buffer, terminal != NONE);
    let bridge = Bridge {
        directory: fd,
        arrivals,
        socket,
        started: false,
        outputs,
        parcel,
        text,
        input,
        terminal,
        next: 0,
        letters: 0,
        credit: job.window,
    };
    bridge.carry()
}

fn read_job(directory: i32) -> Option<Job> {
    let fd = take(directory, bridge::JOB);
    let mut bytes = [0u8; size_of::<Job>()];
    let length = syscall!(number::READ, fd, bytes.as_mut_ptr(), bytes.len());
    close(fd);
    let job: Job = wire::read(bytes.get(..length.max(0) as usize)?, 0)?;
    (job.magic == wire::MAGIC).then_some(job)
}

/// Opens a file of the directory and removes its name.
fn take(directory: i32, name: &str) -> i32 {
    let name = with_nul(name.as_bytes());
    let fd = syscall!(number::OPENAT, directory, name.as_ptr(), CLOEXEC, 0);
    remove(directory, &name);
    fd as i32
}

fn remove(directory: i32, name: &[u8; NAME]) {
    syscall!(number::UNLINKAT, directory, name.as_ptr(), 0);
}

fn with_nul(name: &[u8]) -> [u8; NAME] {
    let mut text = [0; NAME];
    let length = name.len().min(NAME - 1);
    text[..length].copy_from_slice(&name[..length]);
    text
}

fn close(fd: i32) {
    syscall!(number::CLOSE, fd);
}

type Streams = ([i32; 3], [i32; 2], i32, i32);

/// The ends of the command, then the bridge's: outputs, input, terminal.
fn open_streams(directory: i32, job: &Job) -> Option<Streams> {
    let (ends, outputs, writer, terminal);
    if job.terminal != 0 {
        let (ours, theirs) = open_terminal(job.terminal)?;
        (ends, outputs, terminal) = ([theirs; 3], [ours, NONE], ours);
        writer = ours;
    } else {
        let (stdin, write_end) = match job.input {
            input::PIECES => pipe()?,
            input::FILE => (take(directory, bridge::INPUT), NONE),
            _ => {
                let null = c"/dev/null".as_ptr();
                (syscall!(number::OPENAT, AT_FDCWD, null, CLOEXEC, 0) as i32, NONE)
            }
        };
        let (stdout, stderr) = (pipe()?, pipe()?);
        ends = [stdin, stdout.1, stderr.1];
        outputs = [stdout.0, stderr.0];
        (writer, terminal) = (write_end, NONE);
    }
    for fd in [outputs[0], outputs[1], writer, 1] {
        const SET_FLAGS: usize = 4;
        const WRITE_ONLY: usize = 1;
        // The kernel keeps the access mode whatever is asked for.
        syscall!(number::FCNTL, fd, SET_FLAGS, NONBLOCK | WRITE_ONLY);
    }
    (ends[0] >= 0).then_some((ends, outputs, writer, terminal))
}

/// `(read, write)`
fn pipe() -> Option<(i32, i32)> {
    let mut pair = [NONE; 2];
    let result = syscall!(number::PIPE2, pair.as_mut_ptr(), CLOEXEC);
    (result == 0).then_some((pair[0], pair[1]))
}

/// `(ours, theirs)`
fn open_terminal(size: u32) -> Option<(i32, i32)> {
    const UNLOCK: usize = 0x4004_5431;
    const GET_PEER: usize = 0x5441;
    let flags = READ_WRITE | NOCTTY | CLOEXEC;
    let ours = syscall!(number::OPENAT, AT_FDCWD, c"/dev/ptmx".as_ptr(), flags, 0);
    let zero = 0i32;
    syscall!(number::IOCTL, ours, UNLOCK, &raw const zero);
    let theirs = syscall!(number::IOCTL, ours, GET_PEER, flags);
    resize(ours as i32, size);
    (theirs >= 0).then_some((ours as i32, theirs as i32))
}

fn resize(terminal: i32, size: u32) {
    const SET_SIZE: usize = 0x5414;
    let size = [(size >> 16) as u16, size as u16, 0, 0];
    syscall!(number::IOCTL, terminal, SET_SIZE, size.as_ptr());
}

/// Starts this program a second time, as the library would: a socket as descriptor 0, the plan as
/// descriptor 1, the command's descriptors in a message. Returns the other end of the socket.
fn start_guard(plan: i32, ends: [i32; 3], script: i32) -> i32 {
    const UNIX: usize = 1;
    const SEQPACKET: usize = 5;
    const SOL_SOCKET: u32 = 1;
    const RIGHTS: u32 = 1;
    let mut pair = [NONE; 2];
    if syscall!(number::SOCKETPAIR, UNIX, SEQPACKET | CLOEXEC, 0, pair.as_mut_ptr()) < 0 {
        exit(124);
    }
    let count = if script == NONE { 3 } else { 4 };
    // `struct cmsghdr`: length, level, type; then the descriptors.
    let length = 16 + count * 4;
    let pack = |low: u32, high: u32| low as u64 | (high as u64) << 32;
    let control = [
        length as u64,
        pack(SOL_SOCKET, RIGHTS),
        pack(ends[0] as u32, ends[1] as u32),
        pack(ends[2] as u32, script as u32),
    ];
    let byte = 1u8;
    let iov = [&raw const byte as usize, 1];
    let message = [0, 0, iov.as_ptr() as usize, 1, control.as_ptr() as usize, length, 0];
    if syscall!(number::SENDMSG, pair[0], message.as_ptr(), 0) != 1 {
        exit(125);
    }
    match syscall!(number::CLONE, SIGCHLD, 0, 0, 0, 0) {
        0 => {
            syscall!(number::DUP3, pair[1], wire::REPORT_FD, 0);
            syscall!(number::DUP3, plan, wire::ORDER_FD, 0);
            guard()
        }
        child if child < 0 => exit(126),
        _ => {}
    }
    for fd in [plan, pair[1], ends[0], script] {
        close(fd);
    }
    // On a terminal the three are one.
    if ends[1] != ends[0] {
        close(ends[1]);
        close(ends[2]);
    }
    pair[0]
}

impl Bridge {
    /// Carries until the command has ended.
    fn carry(mut self) -> ! {
        const IN: u64 = 1;
        const OUT: u64 = 4;
        loop {
            let may_send = self.started && self.credit > 0;
            let outputs = if may_send { self.outputs } else { [NONE; 2] };
            let writer = if self.input.has_something() { self.input.writer } else { NONE };
            let wanted = [
                (self.socket, IN),
                (self.arrivals, IN),
                (outputs[0], IN),
                (outputs[1], IN),
                (writer, OUT),
            ];
            let mut fds = wanted.map(|(fd, events)| fd as u32 as u64 | events << 32);
            if syscall!(number::PPOLL, fds.as_mut_ptr(), fds.len(), 0, 0, 8) < 0 {
                continue;
            }
            let is_ready = |index: usize| fds[index] >> 48 != 0;
            if is_ready(1) {
                self.read_arrivals();
            }
            self.feed();
            for stream in 0..2 {
                if is_ready(2 + stream) {
                    self.read_output(stream);
                }
            }
            if is_ready(0) {
                self.read_report();
            }
        }
    }

    /// Passes a report on; the last one comes after everything that the command has written.
    fn read_report(&mut self) {
        let mut found = Report::default();
        let size = size_of::<Report>();
        match syscall!(number::RECVFROM, self.socket, &raw mut found, size, 0, 0, 0) {
            // Once, when the guard has ended without reading its last orders; its report is behind that.
            EINTR | EAGAIN | ECONNRESET => return,
            length if length == size as isize => {}
            // The guard was killed; so was the command.
            _ => exit(1),
        }
        let is_last = matches!(found.kind, report::ENDED | report::FAILED | report::EXEC_FAILED);
        if is_last {
            for stream in 0..2 {
                let mut read = 0;
                while read < REST {
                    match self.read_output(stream) {
                        0 => break,
                        length => read += length,
                    }
                }
            }
        }
        self.send(parcel::REPORT, wire::bytes_of(&found));
        self.started = true;
        if is_last {
            exit(0);
        }
    }

    /// Reads what there is of an output, and sends it. Returns how much.
    fn read_output(&mut self, stream: usize) -> usize {
        let fd = self.outputs[stream];
        if fd == NONE {
            return 0;
        }
        match syscall!(number::READ, fd, self.parcel[5..].as_mut_ptr(), CHUNK) {
            length if length > 0 => {
                let length = length as usize;
                self.credit = self.credit.saturating_sub(length as u64);
                let kind = if stream == 0 { parcel::STDOUT } else { parcel::STDERR };
                self.send_content(kind, length);
                length
            }
            EAGAIN | EINTR => 0,
            // Its end; a terminal says EIO.
            _ => {
                self.outputs[stream] = NONE;
                if fd != self.terminal {
                    close(fd);
                }
                0
            }
        }
    }

    fn send(&mut self, kind: u8, content: &[u8]) {
        self.parcel[5..5 + content.len()].copy_from_slice(content);
        self.send_content(kind, content.len());
    }

    /// Sends what is in the buffer. Who cannot be told how a command ends must not run it.
    fn send_content(&mut self, kind: u8, length: usize) {
        self.parcel[..4].copy_from_slice(&self.next.to_ne_bytes());
        self.parcel[4] = kind;
        self.next = self.next.wrapping_add(1);
        let mut end = encode(&self.parcel[..5 + length], self.text);
        self.text[end] = parcel::END;
        self.text[end + 1] = b'\n';
        end += 2;
        let mut start = 0;
        while start < end {
            let rest = &self.text[start..end];
            match syscall!(number::WRITE, 1, rest.as_ptr(), rest.len()) {
                length if length > 0 => start += length as usize,
                EINTR => {}
                EAGAIN => self.wait_for_room(),
                _ => exit(2),
            }
        }
    }

    /// Waits until standard output takes more. Whoever does not read may still give orders.
    fn wait_for_room(&mut self) {
        const IN: u64 = 1;
        const OUT: u64 = 4;
        let mut fds = [1 | OUT << 32, self.arrivals as u64 | IN << 32];
        syscall!(number::PPOLL, fds.as_mut_ptr(), 2, 0, 0, 8);
        if fds[1] >> 48 != 0 {
            self.read_arrivals();
        }
    }

    /// Reads what has arrived in the directory.
    fn read_arrivals(&mut self) {
        let mut events = [0u64; 512];
        let length = syscall!(number::READ, self.arrivals, events.as_mut_ptr(), 4096);
        // SAFETY: the buffer is plain integers.
        let bytes = unsafe { core::slice::from_raw_parts(events.as_ptr().cast::<u8>(), 4096) };
        let mut at = 0;
        // `struct inotify_event`: watch, mask, cookie, length of the name, the name.
        while at + 16 <= length.max(0) as usize {
            let size = u32::from_ne_bytes([
                bytes[at + 12],
                bytes[at + 13],
                bytes[at + 14],
                bytes[at + 15],
            ]) as usize;
            let name = bytes.get(at + 16..at + 16 + size).unwrap_or(&[]);
            self.arrived(name.split(|byte| *byte == 0).next().unwrap_or(&[]));
            at += 16 + size;
        }
    }

    fn arrived(&mut self, name: &[u8]) {
        match name {
            [bridge::LETTERS, number @ ..] if parse(number) == Some(self.letters) => {
                self.read_letters(name);
            }
            [bridge::PIECE, rest @ ..] => {
                let mut parts = rest.split(|byte| *byte == b'.').map(parse);
                if let (Some(Some(number)), Some(Some(length))) = (parts.next(), parts.next()) {
                    self.input.announce(number, length);
                }
            }
            _ => {}
        }
    }

    fn read_letters(&mut self, name: &[u8]) {
        const MOST: usize = 8;
        let name = with_nul(name);
        let fd = syscall!(number::OPENAT, self.directory, name.as_ptr(), CLOEXEC, 0);
        if fd < 0 {
            return;
        }
        let mut bytes = [0u8; MOST * size_of::<Letter>()];
        let length = syscall!(number::READ, fd, bytes.as_mut_ptr(), bytes.len()).max(0) as usize;
        close(fd as i32);
        // One that is not complete will arrive again.
        if length == 0 || !length.is_multiple_of(size_of::<Letter>()) {
            return;
        }
        if self.letters > 0 {
            let mut last = [0u8; NAME];
            last[0] = bridge::LETTERS;
            print(self.letters - 1, &mut last[1..]);
            remove(self.directory, &last);
        }
        self.letters += 1;
        for at in (0..length).step_by(size_of::<Letter>()) {
            if let Some(Letter { kind, value }) = wire::read(&bytes, at) {
                match kind {
                    letter::ORDER => {
                        let order = Order::plain(value as i32);
                        send_to(self.socket as usize, &raw const order, size_of::<Order>());
                    }
                    letter::CREDIT => self.credit += value as u64,
                    letter::RESIZE => resize(self.terminal, value),
                    letter::END => self.input.end = value as u64,
                    _ => {}
                }
            }
        }
    }

    /// Writes to standard input as much as it takes.
    fn feed(&mut self) {
        while self.input.has_something() {
            if self.input.piece == NONE && self.input.taken < self.input.arrived {
                self.input.open(self.directory);
            }
            let written =
                if self.input.piece == NONE { self.input.finish() } else { self.input.write() };
            match written {
                Written::More => {}
                Written::Full => return,
                Written::Piece => self.send(parcel::TAKEN, &[]),
                Written::Closed => {
                    self.input.stop();
                    self.send(parcel::CLOSED, &[]);
                }
            }
        }
    }
}
