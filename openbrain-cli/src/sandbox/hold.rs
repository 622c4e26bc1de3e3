//! The process that holds a sandbox of `openbrain sandbox create`: its owner until it ends.

use std::{
    fs::File,
    io::{self, BufRead, Read},
};

use openbrain::{Engine, ErrorKind, NewSandbox, Shared, SharedSandbox};
use rustix::stdio;
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::Receiver,
    signal::unix::{SignalKind, signal},
};

use super::engine;
use crate::{
    args::SettingsArgs,
    console::print_json,
    exit,
    failure::{Failure, Result},
    settle,
};

/// The longest order.
const LONGEST: u64 = 16 << 20;

/// What is to be held.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) new: NewSandbox,
    pub(super) settings: SettingsArgs,
}

/// What became of an order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Answer {
    Failed { error: Refusal },
    Held(Held),
}

/// What is held.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) about: SharedSandbox,
    pub(super) warnings: Vec<String>,
}

/// Why nothing is held, as [`Failure::print_json`] writes it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    code: String,
    message: String,
    remedy: Option<String>,
}

impl From<Refusal> for Failure {
    fn from(Refusal { code, message, remedy }: Refusal) -> Self {
        let kind = ErrorKind::from_code(&code).unwrap_or(ErrorKind::Internal);
        Self::Own { kind, message, remedy }
    }
}

/// Holds a sandbox as an order on standard input says, until it has ended.
///
/// Whoever has given the order keeps the input open until there is an answer: when it is closed before
/// that, nobody waits any more, and nothing is left.
pub(super) fn run() -> Result<u8> {
    // The signals of a terminal are for whoever sits there. A process group leader cannot, and then
    // it has no terminal to leave.
    let _ = rustix::process::setsid();
    let Order { new, settings } = read()?;
    let engine = engine(&settings)?;
    let runtime = settle::runtime()?;
    let held = runtime.block_on(async {
        let mut ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
            .map(signal)
            .into_iter()
            .collect::<io::Result<Vec<_>>>()
            .map_err(|e| Failure::system("cannot listen to signals", e))?;
        let [terminate, interrupt, hangup] = &mut ends[..] else { return Ok(()) };
        let shared = tokio::select! {
            shared = create(&engine, new) => shared?,
            gone = gone() => return gone,
        };
        let warnings = shared.sandbox().warnings().map(str::to_owned).collect();
        print_json(&Answer::Held(Held { about: shared.about(), warnings }))?;
        leave().map_err(|e| Failure::system("cannot leave the terminal", e))?;
        tokio::select! {
            () = shared.serve() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        Ok(())
    });
    drop(runtime);
    settle::wait(false);
    held.map(|()| exit::SUCCESS)
}

fn read() -> Result<Order> {
    let failed = |e| Failure::system("cannot read what sandbox to hold", e);
    let mut line = String::new();
    io::stdin().lock().take(LONGEST).read_line(&mut line).map_err(failed)?;
    serde_json::from_str(&line).map_err(|e| failed(e.into()))
}

async fn create(engine: &Engine, new: NewSandbox) -> Result<Shared> {
    Ok(engine.share(engine.create(new).await?)?)
}

/// Waits until nobody waits for the answer any more.
async fn gone() -> Result<()> {
    let failed = |e| Failure::system("cannot watch standard input", e);
    let input = rustix::io::fcntl_dupfd_cloexec(stdio::stdin(), 3).map_err(|e| failed(e.into()))?;
    let mut input = Receiver::from_file(File::from(input)).map_err(failed)?;
    let _ = input.read(&mut [0]).await;
    Ok(())
}

/// Lets go of the streams, and of the directory that somebody may want to unmount.
fn leave() -> rustix::io::Result<()> {
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
    stdio::dup2_stdin(&null)?;
    stdio::dup2_stdout(&null)?;
    stdio::dup2_stderr(&null)?;
    rustix::process::chdir("/")
}
