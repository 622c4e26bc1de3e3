//! Signals that we get, passed on to the command.

use std::{
    fs,
    future::poll_fn,
    io,
    task::{Context, Poll},
};

use openbrain::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::terminal;

/// The signals that we listen to, and what has become of them.
#[derive(Debug)]
pub(crate) struct Signals {
    listeners: Vec<(SignalKind, Signal)>,
    asked: Option<SignalKind>,
    ending: bool,
}

impl Signals {
    /// Listens to the signals that end a program, and to changes of the terminal's size.
    ///
    /// A signal that is ignored from the start stays ignored: `nohup` and the shells' `&` rely
    /// on it.
    pub(crate) fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let ends = [
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let listeners = ends
            .into_iter()
            .filter(|kind| ignored & (1 << (kind.as_raw_value() - 1)) == 0)
            .chain([SignalKind::window_change()])
            .map(|kind| Ok((kind, signal(kind)?)))
            .collect::<io::Result<_>>()?;
        Ok(Self { listeners, asked: None, ending: false })
    }

    /// Waits for a signal that asks us to end.
    pub(crate) async fn end(&mut self) -> SignalKind {
        loop {
            let kind = self.next().await;
            if kind != SignalKind::window_change() {
                self.asked = Some(kind);
                return kind;
            }
        }
    }

    /// Waits for the next signal and passes it on. Cancel-safe.
    ///
    /// INT and QUIT are the command's to handle, a second one kills it. TERM and HUP end it: they
    /// come from somebody who does not wait long.
    pub(crate) async fn relay(&mut self, handle: &Handle) {
        let kind = self.next().await;
        if kind == SignalKind::window_change() {
            return handle.resize(terminal::size());
        }
        let again = self.asked.replace(kind).is_some();
        let gentle = kind == SignalKind::interrupt() || kind == SignalKind::quit();
        self.ending |= again || !gentle;
        match (gentle, again) {
            (_, true) => handle.kill(),
            (true, false) => handle.signal(kind.as_raw_value()),
            (false, false) => {
                if kind != SignalKind::terminate() {
                    handle.signal(kind.as_raw_value());
                }
                handle.cancel();
            }
        }
    }

    /// The signal that asked us to end last, if one did.
    pub(crate) fn asked(&self) -> Option<i32> {
        self.asked.map(|kind| kind.as_raw_value())
    }

    /// Whether the command is being ended because of a signal.
    pub(crate) fn ending(&self) -> bool {
        self.ending
    }

    async fn next(&mut self) -> SignalKind {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<SignalKind> {
        for (kind, listener) in &mut self.listeners {
            if listener.poll_recv(cx).is_ready() {
                return Poll::Ready(*kind);
            }
        }
        Poll::Pending
    }
}

/// The signals that are ignored now, as a set of bits: `SigIgn` of `/proc/self/status`, `proc(5)`.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
