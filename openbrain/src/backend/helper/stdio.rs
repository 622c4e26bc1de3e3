//! Standard input, output and error of a command: the ends that it gets and the ends that are kept.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    pipe::PipeFlags,
    pty::OpenptFlags,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::unix::pipe::{Receiver, Sender},
};

use crate::{
    error::{Error, Result},
    exec::{Stdin, TerminalSize},
};

/// The ends that the command gets, as standard input, output and error.
#[derive(Debug)]
pub(crate) struct Ends([OwnedFd; 3]);

/// The ends that the library keeps.
#[derive(Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub(crate) stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub(crate) stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// The pseudo-terminal, to change its size.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Whether a command gets files of the host as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handles {
    /// A command on the host: any.
    Any,
    /// A sandboxed command: none through which more of the host could be opened. A directory leads
    /// to its parents, and a file that was opened for reading can be opened again for writing by way
    /// of `/proc/self/fd`.
    Harmless,
}

/// Opens what the request says, with pipes for the outputs.
pub(crate) fn open(stdin: &Stdin, handles: Handles) -> Result<(Ends, Streams)> {
    let (stdin, writer) = open_stdin(stdin, handles)?;
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let streams = Streams {
        stdin: writer,
        stdout: Some(reader(stdout)?),
        stderr: Some(reader(stderr)?),
        terminal: None,
    };
    Ok((Ends([stdin, stdout_end, stderr_end]), streams))
}

/// Opens a pseudo-terminal of the host.
pub(crate) fn open_terminal(size: TerminalSize) -> Result<(Ends, Streams)> {
    let make = || -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&ours)?;
        rustix::pty::unlockpt(&ours)?;
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
        Ok((ours, theirs))
    };
    let (ours, theirs) = make().map_err(|e| Error::system("cannot open a pseudo-terminal", e))?;
    let again = || theirs.try_clone().map_err(|e| Error::system("cannot duplicate a terminal", e));
    let ends = Ends([again()?, again()?, again()?]);
    resize(&ours, size);
    Ok((ends, streams_of_terminal(ours)?))
}

/// The library's side of a pseudo-terminal.
pub(crate) fn streams_of_terminal(terminal: OwnedFd) -> Result<Streams> {
    let failed = |e| Error::system("cannot use the pseudo-terminal", e);
    rustix::io::ioctl_fionbio(&terminal, true).map_err(|e| failed(e.into()))?;
    let writer = Sender::from_owned_fd_unchecked(terminal.try_clone().map_err(failed)?);
    let reader = Receiver::from_owned_fd_unchecked(terminal.try_clone().map_err(failed)?);
    Ok(Streams {
        stdin: Some(Box::new(TerminalInput::new(writer.map_err(failed)?))),
        stdout: Some(Box::new(reader.map_err(failed)?)),
        stderr: None,
        terminal: Some(terminal),
    })
}

/// Changes the size of a pseudo-terminal. One that is gone needs no size.
pub(crate) fn resize(terminal: &OwnedFd, size: TerminalSize) {
    let size = rustix::termios::Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let _ = rustix::termios::tcsetwinsize(terminal, size);
}

impl Ends {
    /// Open for everybody who takes part: nothing at all, for a command on the sandbox's own
    /// terminal.
    pub(crate) fn null() -> Result<Self> {
        let again = || null();
        Ok(Self([again()?, again()?, again()?]))
    }

    pub(crate) fn as_fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.0[0].as_fd(), self.0[1].as_fd(), self.0[2].as_fd()]
    }
}

/// Control-D (`termios(3)`, VEOF).
const END_OF_INPUT: u8 = 4;

/// The keyboard of a pseudo-terminal. A terminal has no end of its own: shutting this down, or
/// dropping it, types the character that stands for it.
struct TerminalInput {
    writer: Sender,
    last: u8,
    ended: bool,
}

impl TerminalInput {
    fn new(writer: Sender) -> Self {
        Self { writer, last: b'\n', ended: false }
    }

    /// What is left to type for the end of the input.
    fn end(&self) -> &'static [u8] {
        match (self.ended, self.last) {
            (true, _) => &[],
            (false, b'\n') => &[END_OF_INPUT],
            // Within a line it only completes what was typed, and has to be typed again.
            (false, _) => &[END_OF_INPUT, END_OF_INPUT],
        }
    }

    /// Notes that so many bytes of the end were typed.
    fn typed(&mut self, written: usize) {
        self.ended = written == self.end().len();
        self.last = b'\n';
    }
}

impl AsyncWrite for TerminalInput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.writer).poll_write(cx, bytes))?;
        self.last = bytes[..written].last().copied().unwrap_or(self.last);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let end @ [_, ..] = self.end() {
            let written = std::task::ready!(Pin::new(&mut self.writer).poll_write(cx, end))?;
            self.typed(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for TerminalInput {
    /// Without waiting: a terminal full of what the command has not read gets no end. The runtime
    /// is not asked, because it may not know yet that the terminal is writable.
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.writer, self.end());
    }
}

type StdinEnds = (OwnedFd, Option<Box<dyn AsyncWrite + Send + Unpin>>);

fn open_stdin(stdin: &Stdin, handles: Handles) -> Result<StdinEnds> {
    match stdin {
        Stdin::Null => Ok((null()?, None)),
        Stdin::File(path) => Ok((handed_over(open_file(path)?, handles)?, None)),
        Stdin::Inherit => Ok((handed_over(inherited()?, handles)?, None)),
        Stdin::Bytes(bytes) if bytes.is_empty() => Ok((null()?, None)),
        Stdin::Bytes(_) | Stdin::Pipe => {
            let (read, write) = pipe()?;
            rustix::io::ioctl_fionbio(&write, true)
                .map_err(|e| Error::system("cannot prepare a pipe", e))?;
            let sender = Sender::from_owned_fd(write)
                .map_err(|e| Error::system("cannot watch a pipe", e))?;
            Ok((read, Some(Box::new(sender))))
        }
    }
}

/// Opens a file for reading. A named pipe would make us wait for its writer, who may never come.
pub(crate) fn open_file(path: &Path) -> Result<OwnedFd> {
    let name = path.display();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| {
        Error::invalid(format!("cannot read standard input from `{name}`"))
            .with_source(io::Error::from(e))
            .with_remedy("give the path of a file that you can read")
    })?;
    match file_type(&file)? {
        FileType::RegularFile | FileType::CharacterDevice => {}
        _ => {
            return Err(Error::invalid(format!("standard input `{name}` is not a file"))
                .with_remedy("give a regular file, or write to the command while it runs"));
        }
    }
    rustix::io::ioctl_fionbio(&file, false)
        .map_err(|e| Error::system("cannot prepare a file", e))?;
    Ok(file)
}

pub(crate) fn file_type(fd: &OwnedFd) -> Result<FileType> {
    let stat = rustix::fs::fstat(fd).map_err(|e| Error::system("cannot look at a file", e))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// The descriptor itself, or for a sandbox a pipe with the content of a regular file.
fn handed_over(fd: OwnedFd, handles: Handles) -> Result<OwnedFd> {
    match (handles, file_type(&fd)?) {
        (Handles::Harmless, FileType::RegularFile) => {
            let (read, write) = pipe()?;
            rustix::io::ioctl_fionbio(&write, true)
                .map_err(|e| Error::system("cannot prepare a pipe", e))?;
            let sender = Sender::from_owned_fd(write)
                .map_err(|e| Error::system("cannot watch a pipe", e))?;
            tokio::spawn(pump(File::from(fd), sender));
            Ok(read)
        }
        (Handles::Harmless, FileType::Directory) => {
            Err(Error::invalid("standard input is a directory, which a sandbox may not have")
                .with_remedy("mount the directory, and name it in the command"))
        }
        _ => Ok(fd),
    }
}

/// Copies a file until its end, or until nobody reads any more: the sandbox has ended then.
async fn pump(mut file: File, mut sender: Sender) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = file.read(&mut buffer) {
        if sender.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

pub(crate) fn inherited() -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .map_err(|e| Error::system("cannot duplicate standard input", e))
}

fn null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::system("cannot open `/dev/null`", e))
}

/// A pipe whose ends do not survive an `exec`: `(read, write)`.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::system("cannot make a pipe", e))
}

/// How much an output pipe holds: more than the usual 64 KiB lets a fast command run on while the
/// reader wakes up, and little enough for many commands at a time to stay under the limit that the
/// kernel sets for all pipes of a user (`pipe-user-pages-soft`, 64 MiB, `pipe(7)`).
const PIPE_SIZE: usize = 256 * 1024;

fn reader(fd: OwnedFd) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
    // Beyond that limit the kernel refuses, and the pipe stays as it is.
    let _ = rustix::pipe::fcntl_setpipe_size(&fd, PIPE_SIZE);
    rustix::io::ioctl_fionbio(&fd, true).map_err(|e| Error::system("cannot prepare a pipe", e))?;
    let receiver =
        Receiver::from_owned_fd(fd).map_err(|e| Error::system("cannot watch a pipe", e))?;
    Ok(Box::new(receiver))
}
