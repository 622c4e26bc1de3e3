//! A command that goes on by itself, and what it has written.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};

use crate::{
    error::{Error, ErrorKind, Result},
    event::{Data, Event},
    exec::Command,
    output::{Output, Status},
    process::{Capture, Handle, Process, Search},
};

/// How much of a stream one answer has at most.
const LONGEST_CHUNK: usize = 1 << 20;

/// How much is shown of a command.
const LONGEST_SHOWN: usize = 200;

/// A command in the background of a [`Sandbox`](crate::Sandbox).
///
/// It goes on whether or not somebody reads what it writes: the beginning and the end of each stream are
/// kept, as much as the output limit says (10 MiB unless the settings or the request say else). It ends
/// with its sandbox, by its deadline, or when it is told to; dropping this value leaves it running.
///
/// ```no_run
/// # async fn demo() -> openbrain::Result<()> {
/// use std::time::Duration;
/// use openbrain::{Exec, LogOffsets, Sandbox};
///
/// let sandbox = Sandbox::builder().create().await?;
/// let server = sandbox.start(Exec::new("python3 -m http.server 8000")).await?;
/// server.wait_for_log("Serving HTTP", Duration::from_secs(10)).await?;
/// let logs = server.logs(LogOffsets::default());
/// server.cancel();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Background(Arc<Inner>);

struct Inner {
    exec_id: String,
    command: String,
    started_at: SystemTime,
    handle: Handle,
    memory: Mutex<Memory>,
    /// Changes when there is something new.
    news: watch::Sender<()>,
}

/// What is remembered of its output and its end.
struct Memory {
    streams: [Capture; 2],
    /// Without the streams.
    end: Option<Arc<Result<Output>>>,
}

/// What is told of a command in the background.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackgroundCommand {
    /// Its name.
    pub exec_id: String,
    /// The beginning of the command.
    pub command: String,
    /// When it was started.
    #[serde(with = "crate::units::serde_time")]
    pub started_at: SystemTime,
    /// How it ended; `None` while it runs.
    pub status: Option<Status>,
    /// Why its end is not known, though it has ended.
    pub error: Option<String>,
}

/// Where to read on in the two streams of a command, in bytes from their beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOffsets {
    /// In standard output.
    pub stdout: u64,
    /// In standard error.
    pub stderr: u64,
}

/// A part of what a command has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// Of standard output, at most 1 MiB.
    pub stdout: LogPart,
    /// Of standard error, at most 1 MiB.
    pub stderr: LogPart,
    /// Whether the command has ended and this is all that it wrote, or reading on gives the rest.
    pub ended: bool,
}

/// A part of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPart {
    /// Where it begins: later than was asked for when what was there is not remembered.
    pub offset: u64,
    /// How many bytes there are of the stream so far, remembered or not.
    pub total: u64,
    /// The bytes: `data` where they are text, else `base64`.
    #[serde(flatten)]
    pub data: Data,
}

impl LogPart {
    /// Where the next part begins.
    pub fn end(&self) -> u64 {
        self.offset + self.data.bytes().len() as u64
    }
}

impl Logs {
    /// Where to read on.
    pub fn next(&self) -> LogOffsets {
        LogOffsets { stdout: self.stdout.end(), stderr: self.stderr.end() }
    }

    /// Whether nothing was written from the offsets on.
    pub fn is_empty(&self) -> bool {
        self.stdout.data.bytes().is_empty() && self.stderr.data.bytes().is_empty()
    }
}

impl Background {
    /// Lets a process go on by itself.
    pub(super) fn start(command: String, process: Process) -> Self {
        let limit = process.output_limit();
        let inner = Arc::new(Inner {
            exec_id: process.exec_id().to_owned(),
            command,
            started_at: SystemTime::now(),
            handle: process.handle(),
            memory: Mutex::new(Memory {
                streams: [Capture::new(limit), Capture::new(limit)],
                end: None,
            }),
            news: watch::Sender::default(),
        });
        tokio::spawn(remember(process, Arc::clone(&inner)));
        Self(inner)
    }

    /// Name of this execution, unique and unguessable.
    pub fn exec_id(&self) -> &str {
        &self.0.exec_id
    }

    /// What it is, and how it stands.
    pub fn about(&self) -> BackgroundCommand {
        let memory = self.0.memory();
        let end = memory.end.as_deref();
        BackgroundCommand {
            exec_id: self.0.exec_id.clone(),
            command: self.0.command.clone(),
            started_at: self.0.started_at,
            status: end.and_then(|end| end.as_ref().ok()).map(|output| output.status),
            error: end.and_then(|end| end.as_ref().err()).map(Error::to_string),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.0.memory().end.is_some()
    }

    /// How many bytes of its output are remembered.
    pub(crate) fn size(&self) -> usize {
        self.0.memory().streams.iter().map(Capture::size).sum()
    }

    /// What it has written from these offsets on.
    pub fn logs(&self, from: LogOffsets) -> Logs {
        let memory = self.0.memory();
        let [stdout, stderr] = &memory.streams;
        let read = |stream: &Capture, from| {
            let (offset, bytes) = stream.read(from, LONGEST_CHUNK);
            LogPart { offset, total: stream.total(), data: bytes.into() }
        };
        let parts = [read(stdout, from.stdout), read(stderr, from.stderr)];
        let are_last =
            parts.iter().zip([stdout, stderr]).all(|(part, all)| part.end() >= all.total());
        let [stdout, stderr] = parts;
        Logs { stdout, stderr, ended: memory.end.is_some() && are_last }
    }

    /// The same, but waits until there is something, or nothing will come any more.
    pub async fn next_logs(&self, from: LogOffsets) -> Logs {
        let mut news = self.0.news.subscribe();
        loop {
            news.borrow_and_update();
            let logs = self.logs(from);
            if logs.ended || !logs.is_empty() {
                return logs;
            }
            // The sender is here, so there is always something to wait for.
            let _ = news.changed().await;
        }
    }

    /// Waits until one of its streams has this text, from the beginning on.
    ///
    /// # Errors
    ///
    /// `wait_failed` when the time is over ([`Error::io_kind`] is [`io::ErrorKind::TimedOut`] then), or
    /// when the command has ended without it; `invalid_request` for an empty text and for one of more
    /// than 4096 bytes.
    pub async fn wait_for_log(&self, text: &str, time: Duration) -> Result<()> {
        let mut searches = [Search::new(text.as_bytes())?, Search::new(text.as_bytes())?];
        let wait = async {
            let mut at = LogOffsets::default();
            loop {
                let logs = self.next_logs(at).await;
                let parts = [(&logs.stdout, at.stdout), (&logs.stderr, at.stderr)];
                for ((part, expected), search) in parts.into_iter().zip(&mut searches) {
                    if part.offset != expected {
                        search.begin_anew();
                    }
                    if search.find(&part.data.bytes()).is_some() {
                        return true;
                    }
                }
                if logs.ended {
                    return false;
                }
                at = logs.next();
            }
        };
        let command = &self.0.command;
        let failed = |why: &str| {
            let what = format!("`{command}` did not write `{text}`{why}");
            Error::new(ErrorKind::WaitFailed, what).with_remedy("its logs say what it did instead")
        };
        match timeout(time, wait).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(failed(" before it ended")),
            Err(_) => Err(failed("").with_source(io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    /// Waits until it has ended, and tells how, with the beginning and the end of its output. An error
    /// says why that is not known.
    pub async fn wait(&self) -> Arc<Result<Output>> {
        let mut news = self.0.news.subscribe();
        loop {
            news.borrow_and_update();
            if let Some(end) = self.0.memory().outcome() {
                return end;
            }
            let _ = news.changed().await;
        }
    }

    /// Sends a signal to its process group.
    pub fn signal(&self, signal: i32) {
        self.0.handle.signal(signal);
    }

    /// Ends it: TERM, half a second later KILL to every process.
    pub fn cancel(&self) {
        self.0.handle.cancel();
    }
}

impl Memory {
    /// How it ended, with what is remembered of its output.
    fn outcome(&self) -> Option<Arc<Result<Output>>> {
        let end = self.end.as_ref()?;
        let Ok(output) = &**end else { return Some(Arc::clone(end)) };
        let [stdout, stderr] = self.streams.clone().map(Capture::finish);
        Some(Arc::new(Ok(Output { stdout, stderr, ..output.clone() })))
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what the command writes until it has ended.
async fn remember(mut process: Process, to: Arc<Inner>) {
    let end = loop {
        match process.next_event().await {
            Ok(Some(Event::Stdout(bytes))) => to.memory().streams[0].push(&bytes),
            Ok(Some(Event::Stderr(bytes))) => to.memory().streams[1].push(&bytes),
            Ok(Some(Event::Ended(output))) => break Ok(*output),
            Ok(None) => break Err(Error::new(ErrorKind::Internal, "the command has no end")),
            Err(error) => break Err(error),
        }
        to.news.send_replace(());
    };
    to.memory().end = Some(Arc::new(end));
    to.news.send_replace(());
}

/// The beginning of a command, in one line.
pub(super) fn shown(command: &Command) -> String {
    let text = match command {
        Command::Shell(script) => script.clone(),
        Command::Argv(words) => words.join(" "),
        Command::Script { source, .. } => source.clone(),
    };
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().take(LONGEST_SHOWN).collect()
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").field("exec_id", &self.exec_id()).finish_non_exhaustive()
    }
}
