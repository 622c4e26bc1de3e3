//! The write end of a command's standard input.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    task::JoinHandle,
};

use crate::exec::Stdin;

/// The write end of a command's standard input. Dropping it is end of file.
pub struct ChildStdin(Box<dyn AsyncWrite + Send + Unpin>);

/// Connects the write end to what the request says: bytes are fed by a task of their own, so that
/// a command that never reads cannot stop anything else.
pub(super) fn connect(
    writer: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    stdin: &Stdin,
) -> (Option<ChildStdin>, Option<JoinHandle<()>>) {
    let Some(mut writer) = writer else {
        return (None, None);
    };
    let bytes = match stdin {
        Stdin::Bytes(bytes) => bytes.clone(),
        Stdin::Pipe => return (Some(ChildStdin(writer)), None),
        // Only a pseudo-terminal has a writer then; dropping it is end of input.
        Stdin::Null | Stdin::File(_) | Stdin::Inherit => return (None, None),
    };
    let feeder = tokio::spawn(async move {
        // A command that ends or closes its input before it has read everything is no failure.
        let _ = writer.write_all(&bytes).await;
        let _ = writer.shutdown().await;
    });
    (None, Some(feeder))
}

impl AsyncWrite for ChildStdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl fmt::Debug for ChildStdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChildStdin")
    }
}
