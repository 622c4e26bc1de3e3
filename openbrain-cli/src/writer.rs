//! Our standard output and error, written on a thread of their own.
//!
//! Somebody who does not read blocks the thread and nothing else: the deadline, the signals and
//! the end of the command are still seen.

use std::{
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
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start() -> Self {
        let (chunks, inbox) = mpsc::unbounded_channel();
        let (progress, written) = watch::channel(0);
        let thread = thread::spawn(move || write_all(inbox, &progress));
        Self { chunks: Some(chunks), pushed: 0, written, thread: Some(thread) }
    }

    /// Adds a chunk to the queue. After a failure it is thrown away.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        if self.chunks.as_ref().is_some_and(|chunks| chunks.send(chunk).is_ok()) {
            self.pushed += 1;
        }
    }

    /// Whether the queue is short enough to read on.
    pub(crate) fn has_room(&self) -> bool {
        self.pushed - *self.written.borrow() < WAITING
    }

    /// Waits until more is written. Fails once, and then must not be called again. Cancel-safe.
    pub(crate) async fn progress(&mut self) -> io::Result<()> {
        match self.written.changed().await {
            Ok(()) => Ok(()),
            Err(_) => self.join(),
        }
    }

    /// Waits until everything is written.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        self.chunks = None;
        while self.written.changed().await.is_ok() {}
        self.join()
    }

    /// What became of the thread, which has ended.
    fn join(&mut self) -> io::Result<()> {
        let result = self.thread.take().map(JoinHandle::join).unwrap_or(Ok(Ok(())));
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
