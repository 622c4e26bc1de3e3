//! Our standard output and error, written on a thread of their own.
//!
//! Somebody who does not read blocks the thread and nothing else: the deadline, the signals and
//! the end of the command are still seen.

use std::{
    future::pending,
    io::{self, Write},
    thread::{self, JoinHandle},
};

use tokio::sync::{mpsc, watch};

/// How many chunks may wait. A chunk is what the library reads at a time, at most 64 KiB.
const WAITING: usize = 16;

/// Bytes for one of our streams.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// For standard output.
    Out(Vec<u8>),
    /// For standard error.
    Err(Vec<u8>),
}

/// Writes chunks in order, without making anybody wait.
#[derive(Debug)]
pub(crate) struct Writer {
    chunks: Option<mpsc::UnboundedSender<Chunk>>,
    pushed: usize,
    written: watch::Receiver<usize>,
    thread: JoinHandle<io::Result<()>>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start() -> Self {
        let (chunks, inbox) = mpsc::unbounded_channel();
        let (progress, written) = watch::channel(0);
        let thread = thread::spawn(move || write_all(inbox, &progress));
        Self { chunks: Some(chunks), pushed: 0, written, thread }
    }

    /// Adds a chunk to the queue. After a failure it is thrown away.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        if self.chunks.as_ref().is_some_and(|chunks| chunks.send(chunk).is_ok()) {
            self.pushed += 1;
        }
    }

    /// Whether the queue is short enough to read on.
    pub(crate) fn has_room(&self) -> bool {
        self.failed() || self.pushed - *self.written.borrow() < WAITING
    }

    /// Whether writing has failed; [`Writer::finish`] tells why.
    pub(crate) fn failed(&self) -> bool {
        self.chunks.is_none()
    }

    /// Waits until more is written, or until that fails, once. Cancel-safe.
    pub(crate) async fn progress(&mut self) {
        if self.failed() {
            pending::<()>().await;
        }
        // Without a failure the thread runs for as long as it can be given chunks.
        if self.written.changed().await.is_err() {
            self.chunks = None;
        }
    }

    /// Waits until everything is written.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        self.chunks = None;
        while self.written.changed().await.is_ok() {}
        let result = self.thread.join();
        result.unwrap_or_else(|_| Err(io::Error::other("the writing thread panicked")))
    }
}

fn write_all(
    mut inbox: mpsc::UnboundedReceiver<Chunk>,
    progress: &watch::Sender<usize>,
) -> io::Result<()> {
    while let Some(chunk) = inbox.blocking_recv() {
        match chunk {
            Chunk::Out(bytes) => write(io::stdout().lock(), &bytes)?,
            Chunk::Err(bytes) => write(io::stderr().lock(), &bytes)?,
        }
        progress.send_modify(|written| *written += 1);
    }
    Ok(())
}

fn write(mut stream: impl Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}
