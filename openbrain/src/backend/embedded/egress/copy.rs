//! Bytes from one connection to another, both ways, with the back pressure of the slower side.

use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use rustix::{
    net::{Shutdown, sockopt::set_socket_linger},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::{
    io::Interest,
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until},
};

use super::tally::Use;

/// What is read at a time, and what a connection holds at most that the other side does not take.
const CHUNK: usize = 32 * 1024;
/// After so many bytes a direction goes through a pipe, where the kernel moves pages and copies
/// nothing.
const MUCH: u64 = 256 * 1024;
/// The size of such a pipe.
const PIPE: usize = 512 * 1024;
/// How many directions at a time may have one: a pipe takes two descriptors of the host process.
static PIPES: Semaphore = Semaphore::const_new(64);

thread_local! {
    /// What is read is written at once, so that one buffer serves every connection.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Time without a byte in any direction.
    pub(super) idle: Duration,
    /// Bytes in each direction.
    pub(super) bytes: u64,
}

/// Copies until both sides have ended; `client_ended` is called when everything that the client
/// sent has been passed on. A connection that breaks, or meets a bound, is reset on both sides.
pub(super) async fn both_ways(
    client: &TcpStream,
    server: &TcpStream,
    counts: &Use,
    bounds: Bounds,
    client_ended: impl FnOnce(),
) {
    let active = Active::default();
    let up = async {
        let result = one_way(client, server, &counts.sent, bounds, &active).await;
        client_ended();
        result
    };
    let down = one_way(server, client, &counts.received, bounds, &active);
    let result = tokio::select! {
        result = async { tokio::try_join!(up, down) } => result.map(drop),
        () = idle(&active, bounds.idle) => Err(ErrorKind::TimedOut.into()),
    };
    if result.is_err() {
        reset(client);
        reset(server);
    }
}

/// Lets the end of a connection be a reset, so that the other side does not take it for complete.
pub(super) fn reset(stream: &TcpStream) {
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

/// When the last byte went by.
struct Active {
    start: Instant,
    after_ms: AtomicU64,
}

impl Default for Active {
    fn default() -> Self {
        Self { start: Instant::now(), after_ms: AtomicU64::new(0) }
    }
}

impl Active {
    fn now(&self) {
        self.after_ms.store(self.start.elapsed().as_millis() as u64, Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.after_ms.load(Relaxed))
    }
}

async fn idle(active: &Active, most: Duration) {
    loop {
        let end = active.last() + most;
        if Instant::now() >= end {
            return;
        }
        sleep_until(end).await;
    }
}

async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    counter: &AtomicU64,
    bounds: Bounds,
    active: &Active,
) -> io::Result<()> {
    let (mut total, mut pipe, mut is_much) = (0, None, false);
    let mut count = |moved: usize| {
        active.now();
        total += moved as u64;
        counter.fetch_add(moved as u64, Relaxed);
        if total > bounds.bytes { Err(io::Error::from(ErrorKind::FileTooLarge)) } else { Ok(total) }
    };
    loop {
        let moved = match &pipe {
            None => through_buffer(from, to).await?,
            Some(pipe) => through_pipe(from, to, pipe).await?,
        };
        if moved == 0 {
            break;
        }
        if count(moved)? > MUCH && !is_much {
            // Whoever gets none now gets on with the buffer.
            (pipe, is_much) = (Pipe::new(), true);
        }
    }
    match rustix::net::shutdown(to, Shutdown::Write) {
        // The other side has gone already.
        Err(rustix::io::Errno::NOTCONN) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn through_buffer(from: &TcpStream, to: &TcpStream) -> io::Result<usize> {
    let (read, mut rest) = loop {
        from.readable().await?;
        let moved = BUFFER.with_borrow_mut(|buffer| {
            let read = from.try_read(buffer)?;
            let written = match to.try_write(&buffer[..read]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                written => written?,
            };
            io::Result::Ok((read, buffer[written..read].to_vec()))
        });
        match moved {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            moved => break moved?,
        }
    };
    while !rest.is_empty() {
        to.writable().await?;
        match to.try_write(&rest) {
            Ok(written) => drop(rest.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// A pipe between two connections.
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    _permit: SemaphorePermit<'static>,
}

impl Pipe {
    /// A pipe, when there is one to have.
    fn new() -> Option<Self> {
        let permit = PIPES.try_acquire().ok()?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // A user's pipes together may be at most so large; smaller ones do as well.
        let _ = fcntl_setpipe_size(&write, PIPE);
        Some(Self { read, write, _permit: permit })
    }
}

async fn through_pipe(from: &TcpStream, to: &TcpStream, pipe: &Pipe) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let read = from
        .async_io(Interest::READABLE, || Ok(splice(from, None, &pipe.write, None, PIPE, flags)?))
        .await?;
    let mut left = read;
    while left > 0 {
        let write = || Ok(splice(&pipe.read, None, to, None, left, flags)?);
        left -= to.async_io(Interest::WRITABLE, write).await?;
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        runtime::Builder,
    };

    use super::{Bounds, MUCH, Relaxed, Use, both_ways};

    /// Two ends of two connections that are copied between, and what was counted.
    fn copied<F: Future<Output = ()>>(
        bounds: Bounds,
        talk: impl FnOnce(TcpStream, TcpStream) -> F,
    ) -> (u64, u64) {
        let pair = async || {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let outer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            (outer, listener.accept().await.unwrap().0)
        };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ((client, near), (server, far)) = (pair().await, pair().await);
            let counts = Use::default();
            let copy = async {
                both_ways(&near, &far, &counts, bounds, || {}).await;
                drop((near, far));
            };
            tokio::join!(copy, talk(client, server));
            (counts.sent.load(Relaxed), counts.received.load(Relaxed))
        })
    }

    const WIDE: Bounds = Bounds { idle: Duration::from_secs(60), bytes: u64::MAX };

    #[test]
    fn much_is_unchanged_through_buffer_and_pipe() {
        let data: Vec<u8> = (0..MUCH as u32 * 2).flat_map(u32::to_le_bytes).collect();
        let expected = data.len() as u64;
        let counts = copied(WIDE, async |mut client, mut server| {
            let sent = data.clone();
            let send = async move {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                assert_eq!(answer, "thanks");
            };
            let receive = async {
                let mut received = Vec::new();
                server.read_to_end(&mut received).await.unwrap();
                assert!(received == data);
                server.write_all(b"thanks").await.unwrap();
                server.shutdown().await.unwrap();
            };
            tokio::join!(send, receive);
        });
        assert_eq!(counts, (expected, 6));
    }

    #[test]
    fn who_says_nothing_for_long_is_cut_off() {
        let bounds = Bounds { idle: Duration::from_millis(100), ..WIDE };
        copied(bounds, async |mut client, mut server| {
            client.write_all(b"x").await.unwrap();
            server.read_exact(&mut [0]).await.unwrap();
            assert!(client.read(&mut [0]).await.is_err(), "a reset");
        });
    }

    #[test]
    fn who_sends_too_much_is_cut_off() {
        let bounds = Bounds { bytes: 1000, ..WIDE };
        let (sent, _) = copied(bounds, async |mut client, mut server| {
            let _ = client.write_all(&[0; 5000]).await;
            let mut received = Vec::new();
            assert!(server.read_to_end(&mut received).await.is_err(), "a reset");
            assert!(client.read(&mut [0]).await.is_err(), "a reset");
        });
        assert!(sent > 1000);
    }
}
