//! A command under the helper's guard: its start, its end, and what can be done to it.

use std::{io, os::fd::OwnedFd, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    launch::Link,
    program::{Blame, Program},
    stdio::resize,
    wire::{self, Report, report},
};
use crate::{
    backend::{BoxFuture, Control, Ended, Order},
    error::{Error, ErrorKind, Result},
    output::{Resources, Status},
};

/// A command under the helper's guard.
#[derive(Debug)]
pub(crate) struct Guarded {
    link: Link,
    terminal: Option<OwnedFd>,
    status: Option<Status>,
    oom_killed: bool,
}

/// Why a run did not start.
#[derive(Debug)]
pub(crate) enum StartFailure {
    /// A step failed: what it was to do, whose fault it is, and the error.
    Step(String, Blame, io::Error),
    /// The command could not be executed.
    Exec(io::Error),
    /// It took longer than a minute.
    Late,
    /// The helper itself failed.
    Helper(Error),
}

/// What a sandbox has made for the library.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    /// Its own terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// The sockets of its network.
    pub(crate) egress: Vec<OwnedFd>,
    /// Where it writes.
    pub(crate) scratch: Option<OwnedFd>,
}

/// Waits until the command runs; returns what the sandbox has made for the library.
pub(crate) async fn started(link: &Link, program: &Program) -> Result<Handed, StartFailure> {
    let mut handed = Handed::default();
    let late = Instant::now() + START;
    loop {
        let heard = timeout_at(late, link.report()).await.map_err(|_| StartFailure::Late)?;
        let heard = heard.map_err(StartFailure::Helper)?;
        let Some((heard, fds)) = heard else {
            let what = "the helper process ended before the command started";
            let error = Error::new(ErrorKind::Internal, what)
                .with_remedy("somebody may have killed it, or memory was short; run it again");
            return Err(StartFailure::Helper(error));
        };
        match heard.kind {
            report::TERMINAL => handed.terminal = fds.into_iter().next(),
            report::EGRESS => handed.egress = fds,
            report::SCRATCH => handed.scratch = fds.into_iter().next(),
            _ => {
                if let Some(start) = start(&heard, program) {
                    return start.map(|()| handed);
                }
            }
        }
    }
}

/// What a report says about the start of a run; some say nothing about it.
pub(crate) fn start(heard: &Report, program: &Program) -> Option<Result<(), StartFailure>> {
    let error = || io::Error::from_raw_os_error(heard.errno);
    match heard.kind {
        report::STARTED => Some(Ok(())),
        report::EXEC_FAILED => Some(Err(StartFailure::Exec(error()))),
        report::FAILED => {
            let (what, blame) = program.describe(heard.first, heard.second);
            Some(Err(StartFailure::Step(what.to_owned(), blame, error())))
        }
        _ => None,
    }
}

/// Time for a command to start. What takes longer is a file system that does not answer.
pub(crate) const START: Duration = Duration::from_secs(60);

impl StartFailure {
    /// The error of the command named `name`; `machine` says what a step's failure means.
    pub(crate) fn into_error(
        self,
        name: &str,
        machine: impl FnOnce(String, io::Error) -> Error,
    ) -> Error {
        match self {
            Self::Helper(error) => error,
            Self::Late => {
                Error::new(ErrorKind::Internal, "the command did not start within a minute")
                    .with_remedy("check that the file systems of its program and mounts answer")
            }
            Self::Exec(error) => cannot_execute(name, error),
            Self::Step(what, Blame::Request, error) => {
                Error::invalid(format!("cannot {what}")).with_source(error)
            }
            Self::Step(what, Blame::Machine, error) => machine(what, error),
        }
    }
}

/// Tells the shells' 127 and 126 apart.
fn cannot_execute(name: &str, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => {
            Error::new(ErrorKind::CommandNotFound, format!("`{name}` was not found"))
                .with_remedy("check the name, PATH, and the interpreter after its `#!`")
        }
        Some(libc::E2BIG) => Error::invalid("arguments and environment are too large")
            .with_source(error)
            .with_remedy("pass large data on standard input or in a file"),
        Some(libc::EAGAIN | libc::ENOMEM) => {
            Error::system(format!("cannot execute `{name}`"), error)
        }
        _ => Error::new(ErrorKind::CommandNotExecutable, format!("cannot execute `{name}`"))
            .with_source(error)
            .with_remedy("check that it is a program for this machine and marked executable"),
    }
}

impl Guarded {
    pub(crate) fn new(link: Link, terminal: Option<OwnedFd>) -> Self {
        Self { link, terminal, status: None, oom_killed: false }
    }

    /// Waits for the end; `last` looks at what the helper is about to remove.
    pub(crate) async fn wait(&mut self, last: impl FnOnce(&mut Ended)) -> Result<Ended> {
        loop {
            let heard = self.link.report().await?;
            let Some((heard, _)) = heard else {
                return Err(Error::new(ErrorKind::Internal, "the helper process was killed")
                    .with_remedy(
                        "look for processes that a direct command left; a sandbox left none",
                    ));
            };
            match heard.kind {
                report::EXITED => self.status = Some(status_of(heard.first)),
                report::FAILED => {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        "process 1 of the sandbox could not be confined; the command was killed",
                    ));
                }
                report::OUT_OF_MEMORY => self.oom_killed = true,
                report::ENDED => {
                    let mut ended = ended(&heard, self.status);
                    ended.resources.oom_killed = self.oom_killed;
                    last(&mut ended);
                    self.link.finish();
                    return Ok(ended);
                }
                _ => {}
            }
        }
    }
}

/// The end of a run as the helper reports it; `known` is what it said of the command before.
pub(crate) fn ended(heard: &Report, known: Option<Status>) -> Ended {
    let status = if heard.second == 1 { Some(status_of(heard.first)) } else { known };
    Ended {
        // Only a kill from outside ends a command without a word about it.
        status: status.unwrap_or(Status::Signaled(libc::SIGKILL)),
        resources: Resources {
            cpu_ms: Some(heard.cpu_us / 1000),
            max_rss_bytes: Some(heard.max_rss),
            memory_peak_bytes: None,
            oom_killed: false,
            network: Vec::new(),
        },
        denials: Vec::new(),
        warnings: Vec::new(),
    }
}

/// What the helper is told to carry out an order.
pub(crate) fn signals(order: Order) -> Vec<i32> {
    match order {
        Order::Signal(signal @ 1..=64) => vec![signal],
        // Signal 0 asks whether there is a process, and there is no answer to give.
        Order::Signal(_) | Order::Resize(_) => Vec::new(),
        // A stopped process acts on TERM only once it is continued.
        Order::Terminate => vec![wire::Order::DOOM, libc::SIGTERM, libc::SIGCONT],
        Order::Kill => vec![wire::Order::KILL],
    }
}

impl Control for Guarded {
    fn order(&mut self, order: Order) {
        signals(order).into_iter().for_each(|signal| self.link.order(signal));
        if let (Order::Resize(size), Some(terminal)) = (order, &self.terminal) {
            resize(terminal, size);
        }
    }

    fn ended(&mut self) -> BoxFuture<'_, Result<Ended>> {
        Box::pin(self.wait(|_| ()))
    }
}

/// Reads a wait status (`waitpid(2)`).
fn status_of(raw: i32) -> Status {
    match raw & 0x7f {
        0 => Status::Exited(raw >> 8 & 0xff),
        signal => Status::Signaled(signal),
    }
}
