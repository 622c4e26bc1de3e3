//! A way to a port of a sandbox: a connection to its loopback address, made inside, and the standard
//! streams of this process as the other end of it.

use core::ptr::addr_of_mut;

use crate::{
    EAGAIN, ECONNRESET, EINTR,
    files::{EINVAL, Result, check},
    sys::number,
    syscall,
    watch::{POLLIN, poll},
};

const EPIPE: isize = -32;
const EADDRNOTAVAIL: isize = -99;
const ECONNREFUSED: isize = -111;
const POLLOUT: u64 = 4;
/// An error, or nobody at the other end.
const BROKEN: u64 = 0x18;

/// How long the next try is put off at most: nothing tells when a port is listened on.
const LONGEST_PAUSE_MS: i64 = 20;

/// The most that is on its way in each direction.
const BUFFER: usize = 64 * 1024;
/// The length before a piece.
const HEADER: usize = 4;

/// What is on its way in one direction.
struct Flow {
    bytes: [u8; BUFFER],
    from: usize,
    to: usize,
    /// Nothing more will be read.
    is_over: bool,
}

static mut TO_SOCKET: Flow = Flow::NEW;
static mut FROM_SOCKET: Flow = Flow::NEW;

/// Connects to a port and copies both ways until both are over.
pub fn connect(port: &[u8]) -> Result {
    let socket = open(number_of(port)?)?;
    // SAFETY: one thread, which comes here once.
    let (out, back) = unsafe { (&mut *addr_of_mut!(TO_SOCKET), &mut *addr_of_mut!(FROM_SOCKET)) };
    for fd in [0, 1, socket] {
        const SET_FLAGS: usize = 4;
        const NONBLOCK: usize = 0o4000;
        syscall!(number::FCNTL, fd, SET_FLAGS, NONBLOCK);
    }
    // The piece of no length that says that there is a connection.
    back.to = HEADER;
    while !(out.is_done() && back.is_done()) {
        step(socket, out, back)?;
    }
    Ok(())
}

/// Waits until something can be done, and does it.
fn step(socket: i32, out: &mut Flow, back: &mut Flow) -> Result {
    let when = |is_wanted: bool, event: u64| if is_wanted { event } else { 0 };
    let watch = |is_wanted: bool, fd: i32, events: u64| {
        let fd = if is_wanted { fd } else { -1 };
        fd as u32 as u64 | events << 32
    };
    let both = when(back.wants_more(), POLLIN) | when(!out.is_empty(), POLLOUT);
    // With nothing to do there, a broken connection is of interest to whoever would write to it.
    let is_of_interest = both != 0 || back.is_over && !out.is_over;
    let mut fds = [
        watch(out.wants_more(), 0, POLLIN),
        watch(is_of_interest, socket, both),
        watch(true, 1, when(!back.is_empty(), POLLOUT)),
    ];
    if !poll(&mut fds, -1) {
        return Ok(());
    }
    let [input, found, output] = fds.map(|fd| fd >> 48);
    if output & BROKEN != 0 {
        return Err(EPIPE);
    }
    if input != 0 {
        out.fill(0, 0)?;
        if out.is_done() {
            const WRITE_SIDE: usize = 1;
            syscall!(number::SHUTDOWN, socket, WRITE_SIDE);
        }
    }
    let is_gone = back.is_over && found & BROKEN != 0;
    if is_gone || matches!(out.send(socket), Err(EPIPE | ECONNRESET)) {
        // Whoever writes learns that nobody takes it; what comes back may go on.
        (out.from, out.to, out.is_over) = (0, 0, true);
        syscall!(number::CLOSE, 0);
    }
    if found != 0 && back.wants_more() {
        back.fill(socket, HEADER)?;
        back.frame();
    }
    if output != 0 { back.write(1) } else { Ok(()) }
}

/// Waits until there is a connection, which the deadline of this command ends.
pub fn wait_for_port(port: &[u8]) -> Result {
    let port = number_of(port)?;
    let mut pause = 1;
    while let Err(error) = open(port) {
        if !matches!(error, ECONNREFUSED | EADDRNOTAVAIL | ECONNRESET) {
            return Err(error);
        }
        poll(&mut [], pause);
        pause = (pause * 2).min(LONGEST_PAUSE_MS);
    }
    Ok(())
}

fn number_of(text: &[u8]) -> Result<u16> {
    let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
    text.parse().map_err(|_| EINVAL)
}

/// A connection to the port on 127.0.0.1, or else on ::1.
fn open(port: u16) -> Result<i32> {
    const INET: u16 = 2;
    const INET6: u16 = 10;
    let [high, low] = port.to_be_bytes();
    // `struct sockaddr_in` and `struct sockaddr_in6`: family, port, and then the address at four or
    // eight bytes from the start.
    let mut v4 = [0u8; 16];
    v4[4..8].copy_from_slice(&[127, 0, 0, 1]);
    let mut v6 = [0u8; 28];
    v6[23] = 1;
    for (address, family) in [(&mut v4[..], INET), (&mut v6[..], INET6)] {
        address[..2].copy_from_slice(&family.to_ne_bytes());
        address[2..4].copy_from_slice(&[high, low]);
    }
    let refused = match open_one(INET, &v4) {
        Ok(socket) => return Ok(socket),
        Err(error) => error,
    };
    // Where there is no IPv6 the first answer says more.
    open_one(INET6, &v6).map_err(|_| refused)
}

fn open_one(family: u16, address: &[u8]) -> Result<i32> {
    const STREAM_CLOEXEC: usize = 0o2000001;
    let socket = check(syscall!(number::SOCKET, family, STREAM_CLOEXEC, 0))? as i32;
    let connected = syscall!(number::CONNECT, socket, address.as_ptr(), address.len());
    if connected < 0 {
        syscall!(number::CLOSE, socket);
    }
    check(connected)?;
    Ok(socket)
}

impl Flow {
    const NEW: Self = Self { bytes: [0; BUFFER], from: 0, to: 0, is_over: false };

    fn is_empty(&self) -> bool {
        self.from == self.to
    }

    fn wants_more(&self) -> bool {
        !self.is_over && self.is_empty()
    }

    fn is_done(&self) -> bool {
        self.is_over && self.is_empty()
    }

    /// Reads what there is, behind so many bytes.
    fn fill(&mut self, fd: i32, behind: usize) -> Result {
        (self.from, self.to) = (behind, behind);
        let room = &mut self.bytes[behind..];
        match syscall!(number::READ, fd, room.as_mut_ptr(), room.len()) {
            EINTR | EAGAIN => {}
            length => {
                let length = check(length)? as usize;
                self.to += length;
                self.is_over = length == 0;
            }
        }
        Ok(())
    }

    /// Puts the length before what was read; the end is a piece of no length.
    fn frame(&mut self) {
        if !self.is_empty() || self.is_over {
            let length = (self.to - self.from) as u32;
            self.bytes[..HEADER].copy_from_slice(&length.to_ne_bytes());
            self.from = 0;
        }
    }

    fn send(&mut self, socket: i32) -> Result {
        const NOSIGNAL: usize = 0x4000;
        let rest = &self.bytes[self.from..self.to];
        if rest.is_empty() {
            return Ok(());
        }
        let sent = syscall!(number::SENDTO, socket, rest.as_ptr(), rest.len(), NOSIGNAL, 0, 0);
        self.took(sent)
    }

    fn write(&mut self, fd: i32) -> Result {
        let rest = &self.bytes[self.from..self.to];
        let written = syscall!(number::WRITE, fd, rest.as_ptr(), rest.len());
        self.took(written)
    }

    fn took(&mut self, result: isize) -> Result {
        match result {
            EINTR | EAGAIN => {}
            length => self.from += check(length)? as usize,
        }
        Ok(())
    }
}
