//! The socket on which the server listens, and the connections that arrive there.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    os::fd::AsFd,
    os::unix::{
        fs::FileTypeExt,
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use openbrain::settings::Listen;
use rustix::{fs::Mode, net::sockopt, process::umask};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use super::peer::{self, Peer};
use crate::failure::{Failure, Result};

/// How long the other end of a connection may be silent before it is asked whether it is there, and
/// how long it may owe an answer.
const SILENCE: Duration = Duration::from_secs(30);
const OWED: Duration = Duration::from_secs(60);

/// A socket that listens, before there is a runtime.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(StdTcpListener, SocketAddr),
    Unix(StdUnixListener, SocketFile),
}

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// The file of a socket, removed with it: a server that listens there afterwards has a file of its own.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = fs::remove_file(&self.0);
    }
}

/// A connection.
#[derive(Debug)]
pub(super) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Bound {
    /// Listens at this place.
    pub(super) fn at(listen: &Listen) -> Result<Self> {
        let bound = match listen {
            Listen::Tcp(address) => bind_tcp(*address),
            Listen::Unix(path) => bind_unix(path),
        };
        bound.map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "another program listens there; choose another place, \
                                             such as `--listen 127.0.0.1:8001`"
                }
                io::ErrorKind::PermissionDenied => {
                    "choose a port from 1024 on, or a directory of \
                                                    yours"
                }
                _ => "choose another place with `--listen ADDRESS:PORT` or `--listen unix:PATH`",
            };
            Failure::system(format_args!("cannot listen on `{listen}`"), error).hint(remedy)
        })
    }

    /// Where it listens, for people and their programs.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Tcp(_, address) => format!("http://{address}"),
            Self::Unix(_, SocketFile(path)) => format!("unix:{}", path.display()),
        }
    }

    /// The TCP address, if it has one.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(..) => None,
        }
    }

    /// The same socket on the runtime of this thread.
    pub(super) fn listen(self) -> io::Result<Listener> {
        Ok(match self {
            Self::Tcp(listener, _) => Listener::Tcp(TcpListener::from_std(listener)?),
            Self::Unix(listener, _file) => {
                Listener::Unix { listener: UnixListener::from_std(listener)?, _file }
            }
        })
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Bound> {
    let listener = StdTcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok(Bound::Tcp(listener, address))
}

/// Makes a socket that its owner alone can open, in place of one that nobody listens on any more.
fn bind_unix(path: &Path) -> io::Result<Bound> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && StdUnixStream::connect(path).is_err_and(refused) {
        fs::remove_file(path)?;
    }
    // The mask is the process's own; there is no other thread yet that could make a file.
    let before = umask(Mode::from_raw_mode(0o177));
    let listener = StdUnixListener::bind(path);
    umask(before);
    let (listener, file) = (listener?, SocketFile(path.to_owned()));
    listener.set_nonblocking(true)?;
    Ok(Bound::Unix(listener, file))
}

impl Listener {
    /// Waits for the next connection, and says whose it is.
    pub(super) async fn accept(&self) -> io::Result<(Connection, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let peer = peer::of_tcp(stream.local_addr()?, address);
                // Without these a stream to somebody who has vanished would be held for hours.
                stream.set_nodelay(true)?;
                sockopt::set_socket_keepalive(&stream, true)?;
                sockopt::set_tcp_keepidle(&stream, SILENCE)?;
                sockopt::set_tcp_keepintvl(&stream, SILENCE / 3)?;
                sockopt::set_tcp_keepcnt(&stream, 3)?;
                sockopt::set_tcp_user_timeout(&stream, OWED.as_millis() as u32)?;
                Ok((Connection::Tcp(stream), peer))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let peer = peer::of_unix(&stream);
                Ok((Connection::Unix(stream), peer))
            }
        }
    }
}

impl Connection {
    /// The same connection once more, to be told of its end.
    pub(super) fn again(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => {
                Self::Tcp(TcpStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?)
            }
            Self::Unix(stream) => {
                Self::Unix(UnixStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?)
            }
        })
    }

    /// Waits until the other end sends nothing more, whatever of it is still unread. Nobody may
    /// read from this one: it forgets what there is to read.
    pub(super) async fn closed(&self) -> io::Result<()> {
        let not_now = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        loop {
            let ready = match self {
                Self::Tcp(stream) => stream.ready(Interest::READABLE).await?,
                Self::Unix(stream) => stream.ready(Interest::READABLE).await?,
            };
            if ready.is_read_closed() {
                return Ok(());
            }
            // The next time is when something more has come.
            let _ = match self {
                Self::Tcp(stream) => stream.try_io(Interest::READABLE, not_now),
                Self::Unix(stream) => stream.try_io(Interest::READABLE, not_now),
            };
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
