//! Our own terminal, when the command gets one.

use std::{
    io::{self, IsTerminal, Read},
    thread,
};

use openbrain::{ChildStdin, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{io::AsyncWriteExt, sync::mpsc};

/// The size that programs assume where nobody knows better.
const DEFAULT_SIZE: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// How much is read from the terminal at a time.
const CHUNK: usize = 4096;

/// Our terminal in raw mode. Dropping it, by return or by panic, restores the mode from before.
#[derive(Debug)]
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// Switches the terminal on standard input to raw mode; `None` when there is none.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let saved = tcgetattr(&stdin)?;
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(Self(saved)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may have gone away, and then there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// The size of the terminal on any of our three streams, else 24 lines of 80 characters.
pub(crate) fn size() -> TerminalSize {
    let sizes = [tcgetwinsize(io::stdin()), tcgetwinsize(io::stdout()), tcgetwinsize(io::stderr())];
    sizes
        .into_iter()
        .flatten()
        .map(|size| TerminalSize { rows: size.ws_row, cols: size.ws_col })
        .find(|size| size.rows > 0 && size.cols > 0)
        .unwrap_or(DEFAULT_SIZE)
}

/// Types what `input` has into the command's terminal, until one of them ends.
///
/// Reading happens on a thread of its own that nobody joins: a read from a terminal cannot be
/// called off.
pub(crate) fn forward(mut input: impl Read + Send + 'static, mut stdin: ChildStdin) {
    let (chunks, mut inbox) = mpsc::channel::<Vec<u8>>(1);
    thread::spawn(move || {
        let mut buffer = [0; CHUNK];
        while let Ok(n @ 1..) = input.read(&mut buffer) {
            if chunks.blocking_send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(chunk) = inbox.recv().await {
            if stdin.write_all(&chunk).await.is_err() {
                return;
            }
        }
    });
}
