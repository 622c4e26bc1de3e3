//! A descriptor of the host, read without changing it for those who share it.

use std::{io, os::fd::OwnedFd, thread};

use rustix::{
    event::{PollFd, PollFlags, poll},
    pipe::PipeFlags,
};
use tokio::net::unix::pipe::Receiver;

use crate::error::{Error, Result};

/// Reads `fd` on a thread of its own: making it non-blocking would change it for every process that
/// has it, and a read that blocks could not be given up. The thread ends when the receiver is
/// dropped; what it has read until then is lost.
pub(super) fn open(fd: OwnedFd) -> Result<Receiver> {
    let failed = |e: io::Error| Error::system("cannot read standard input", e);
    let (read, write) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    rustix::io::ioctl_fionbio(&read, true).map_err(|e| failed(e.into()))?;
    let receiver = Receiver::from_owned_fd(read).map_err(failed)?;
    thread::Builder::new()
        .name("openbrain-stdin".into())
        .spawn(move || copy(&fd, &write))
        .map_err(failed)?;
    Ok(receiver)
}

fn copy(from: &OwnedFd, to: &OwnedFd) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        // The write end reports an error as soon as nobody reads any more.
        let mut fds = [PollFd::new(from, PollFlags::IN), PollFd::new(to, PollFlags::empty())];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        let Ok(length @ 1..) = rustix::io::read(from, &mut buffer) else { return };
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Ok(written) => rest = &rest[written..],
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}
