//! Ports of a sandbox: connections to what listens inside, made there by the helper.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use super::{
    Sandbox,
    work::{Piece, Work, as_io},
};
use crate::{
    backend::helper::wire::work,
    error::{Error, ErrorKind, Result},
    exec::Stdin,
    process::ChildStdin,
};

/// How long a dropped connection passes on what was written to it.
const LINGER: Duration = Duration::from_secs(5);

/// A connection to a port of a sandbox, made by [`Sandbox::connect`].
///
/// It reads and writes as a `TcpStream` does: shutting it down ends what the other side reads and
/// leaves what it writes. Dropping it closes it; what was written before is passed on for up to 5
/// seconds.
pub struct Connection {
    /// Taken by the drop.
    work: Option<Work>,
    /// None once it was shut down.
    stdin: Option<ChildStdin>,
    /// How much of the last piece is still to be read.
    left: usize,
    is_at_its_end: bool,
}

impl Sandbox {
    /// Connects to a TCP port on which something in the sandbox listens, on `127.0.0.1` or else on
    /// `::1`.
    ///
    /// Neither the sandbox's network nor that of the host has a part in it: a sandbox without network
    /// is reached as well. A connection counts as a command, and ends at the latest with the sandbox.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// use std::time::Duration;
    /// use openbrain::{Exec, Sandbox};
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// let sandbox = Sandbox::builder().create().await?;
    /// let server = sandbox.spawn(Exec::new("python3 -m http.server 8000")).await?;
    /// sandbox.wait_for_port(8000, Duration::from_secs(10)).await?;
    /// let mut connection = sandbox.connect(8000).await?;
    /// connection.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    /// let mut answer = String::new();
    /// connection.read_to_string(&mut answer).await.unwrap();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `connection_failed` when nothing listens there ([`Error::io_kind`] is
    /// [`io::ErrorKind::ConnectionRefused`] then); `sandbox_lost` when the sandbox has ended.
    pub async fn connect(&self, port: u16) -> Result<Connection> {
        let exec = Work::command(work::CONNECT, [port.to_string()]).stdin(Stdin::Pipe);
        let what = format!("cannot connect to port {port} of the sandbox");
        let process = self.spawn_lasting(exec).await?;
        let mut work = Work::of(process, what, ErrorKind::ConnectionFailed);
        // A piece of no length says that there is a connection.
        match work.next_piece().await {
            Ok(Piece::End) => {}
            Ok(_) => return Err(work.garbled()),
            Err(error) => return Err(with_remedy(error)),
        }
        let stdin = work.take_stdin();
        Ok(Connection { work: Some(work), stdin, left: 0, is_at_its_end: false })
    }

    /// Waits until something in the sandbox listens on a TCP port, on `127.0.0.1` or `::1`.
    ///
    /// No event tells of that: inside the sandbox, a small process tries to connect,
    /// every 20 milliseconds at the latest. Whatever listens there meets a connection that is closed
    /// at once.
    ///
    /// # Errors
    ///
    /// `wait_failed` when nothing listens there in time ([`Error::io_kind`] is
    /// [`io::ErrorKind::TimedOut`] then); `invalid_request` for a timeout that cannot be meant;
    /// `sandbox_lost` when the sandbox has ended.
    pub async fn wait_for_port(&self, port: u16, timeout: Duration) -> Result<()> {
        let exec = Work::command(work::WAIT_FOR_PORT, [port.to_string()]).timeout(timeout);
        let what = format!("nothing listens on port {port} of the sandbox");
        let work = Work::of(self.spawn(exec).await?, what, ErrorKind::WaitFailed);
        work.finish().await.map_err(with_remedy)
    }
}

fn with_remedy(error: Error) -> Error {
    match error.io_kind() {
        Some(io::ErrorKind::ConnectionRefused) => error.with_remedy(
            "start what listens there as a background command, and wait until it does by \
             `wait_for_port`",
        ),
        Some(io::ErrorKind::TimedOut) => error.with_remedy(
            "look at the output of what was to listen there: it may listen on another port, or on \
             an address that is not the loopback address",
        ),
        _ => error,
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { work, left, is_at_its_end, .. } = &mut *self;
        let Some(work) = work.as_mut().filter(|_| !*is_at_its_end) else {
            return Poll::Ready(Ok(()));
        };
        if *left == 0 {
            match ready!(work.poll_piece(cx)) {
                Ok(Piece::Bytes(length)) => *left = length,
                Ok(Piece::End) => *is_at_its_end = true,
                Ok(Piece::Hole(_)) => return Poll::Ready(Err(as_io(work.garbled()))),
                Err(error) => return Poll::Ready(Err(as_io(error))),
            }
        }
        let count = buffer.remaining().min(*left);
        buffer.put_slice(work.took(count));
        *left -= count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(stdin) = &mut self.stdin {
            ready!(Pin::new(stdin).poll_shutdown(cx))?;
            // A pipe is at its end when nobody can write to it any more.
            self.stdin = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stdin = None;
        let work = self.work.take().filter(|_| !self.is_at_its_end);
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(mut work), Ok(runtime)) = (work, runtime) {
            runtime.spawn(timeout(LINGER, async move {
                while let Ok(Piece::Bytes(_)) = work.next_piece().await {}
            }));
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("is_shut_down", &self.stdin.is_none())
            .finish_non_exhaustive()
    }
}
