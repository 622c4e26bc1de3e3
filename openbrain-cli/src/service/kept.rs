//! A command that goes on without the request that started it, and what is remembered of it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use openbrain::{
    BackendName, Caller, Change, Changes, ChildStdin, Command, Event, Exec, Handle, Isolation,
    Output, Process, Record, RecordKind, Recorder, Stdin,
};
use tokio::{
    io::AsyncWriteExt,
    sync::{Mutex as AsyncMutex, watch},
    time::timeout,
};

use super::{
    log::{Log, Slice},
    running::Active,
    shelf::Shelf,
};

/// What is kept of a stream whatever else needs memory.
const LEAST_KEPT: u64 = 64 << 10;

/// What is kept of a stream when neither request nor settings say how much.
const DEFAULT_KEPT: u64 = 10 << 20;

/// The longest record: what is kept and what is dropped is a whole number of them.
const LONGEST_RECORD: usize = 16 << 10;

/// How many characters are shown of a command, all of its words together.
const LONGEST_SHOWN: usize = 1000;

/// How long input waits for a command that does not read it, and how long all of it may take.
const INPUT_PATIENCE: Duration = Duration::from_secs(30);
const INPUT_WHOLE: Duration = Duration::from_secs(300);

/// A command that goes on without its request.
pub(crate) struct Kept {
    exec_id: String,
    /// The open sandbox that it runs in.
    sandbox_id: Option<String>,
    exec: Exec,
    caller: Caller,
    started_at: SystemTime,
    backend: BackendName,
    isolation: Isolation,
    handle: Handle,
    stdin: AsyncMutex<Option<ChildStdin>>,
    memory: Mutex<Memory>,
    progress: watch::Sender<Progress>,
}

/// What is remembered of its output and its end.
struct Memory {
    logs: [Log; 2],
    /// Number of the last record.
    last: u64,
    end: Option<End>,
}

/// How it ended.
enum End {
    /// With a last record, whose result has no streams: they are in the logs.
    Output { record: Arc<Record>, cost: u64 },
    /// Without one; the loss has the number that it would have had.
    Lost { seq: u64, result: Arc<openbrain::Result<Output>> },
}

/// A stream of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout = 0,
    Stderr = 1,
}

/// How far a command has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes of standard output so far.
    pub(crate) stdout: u64,
    /// Bytes of standard error so far.
    pub(crate) stderr: u64,
    /// Whether it has ended.
    pub(crate) ended: bool,
}

/// What comes next in the events of a command.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// A record.
    Record(Arc<Record>),
    /// These records are not remembered any more.
    Gap {
        /// The first of them.
        from_seq: u64,
        /// The last of them.
        to_seq: u64,
    },
    /// The command was lost: there is no error without one.
    Lost {
        /// The number after that of the last record.
        seq: u64,
        /// An error.
        result: Arc<openbrain::Result<Output>>,
    },
}

/// Why input did not reach the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputFailure {
    /// The command was not started with a pipe as its standard input.
    NoPipe,
    /// Its standard input is closed.
    Closed,
    /// It does not read, or too slowly: of the input, so many bytes were written.
    NotRead(u64),
}

/// What is shown of a request: nothing that may be secret, such as variables and the input, and no
/// more than a beginning of what may be as long as a body.
pub(super) fn presentable(exec: &Exec) -> Exec {
    let mut shown = Exec::of(beginning(&exec.command));
    (shown.sandbox, shown.timeout, shown.tty) = (exec.sandbox, exec.timeout, exec.tty);
    if exec.stdin == Stdin::Pipe {
        shown.stdin = Stdin::Pipe;
    }
    shown
}

/// The beginning of a command.
fn beginning(command: &Command) -> Command {
    let mut left = LONGEST_SHOWN;
    let mut start = |text: &String| {
        let start: String = text.chars().take(left).collect();
        // A word costs something even when it is empty: there may be any number.
        left = left.saturating_sub(start.chars().count() + 1);
        start
    };
    match command {
        Command::Shell(script) => Command::Shell(start(script)),
        Command::Argv(words) => {
            Command::Argv(words.iter().take(LONGEST_SHOWN / 2).map(start).collect())
        }
        Command::Script { language, source } => {
            Command::Script { language: language.as_ref().map(&mut start), source: start(source) }
        }
    }
}

/// Takes what the command writes until it has ended.
pub(super) async fn drive(
    mut process: Process,
    kept: Arc<Kept>,
    shelf: Arc<Shelf>,
    mut active: Active,
) {
    let mut recorder = Recorder::default();
    loop {
        match process.next_event().await {
            Ok(Some(mut event)) => {
                if let Event::Ended(output) = &mut event {
                    active.ended(output);
                    // Nobody can save them here, and the sandbox would go on taking up its memory.
                    output.changes.iter_mut().for_each(Changes::release);
                }
                for event in pieces(event) {
                    kept.add(recorder.record(event), &shelf);
                }
                kept.tell();
            }
            Ok(None) => break,
            Err(error) => {
                active.lost(&error);
                kept.lose(error);
                break;
            }
        }
    }
    drop((process, active));
    kept.stdin.lock().await.take();
    shelf.ended(kept.exec_id.clone());
}

/// Writes it all, and counts.
async fn write_all(
    writer: &mut ChildStdin,
    bytes: &[u8],
    written: &mut u64,
) -> Result<(), InputFailure> {
    let mut left = bytes;
    while !left.is_empty() {
        match timeout(INPUT_PATIENCE, writer.write(left)).await {
            Err(_) => return Err(InputFailure::NotRead(*written)),
            Ok(Ok(0) | Err(_)) => return Err(InputFailure::Closed),
            Ok(Ok(more)) => {
                *written += more as u64;
                left = &left[more..];
            }
        }
    }
    match timeout(INPUT_PATIENCE, writer.flush()).await {
        Err(_) => Err(InputFailure::NotRead(*written)),
        Ok(Err(_)) => Err(InputFailure::Closed),
        Ok(Ok(())) => Ok(()),
    }
}

/// The event in records that are not too long.
fn pieces(event: Event) -> Vec<Event> {
    let cut = |bytes: Vec<u8>, kind: fn(Vec<u8>) -> Event| {
        bytes.chunks(LONGEST_RECORD).map(|piece| kind(piece.to_vec())).collect()
    };
    match event {
        Event::Stdout(bytes) => cut(bytes, Event::Stdout),
        Event::Stderr(bytes) => cut(bytes, Event::Stderr),
        other => vec![other],
    }
}

impl Kept {
    /// Remembers a process that has started; at most so many bytes of each stream.
    pub(super) fn new(
        exec: Exec,
        caller: Caller,
        process: &mut Process,
        sandbox_id: Option<&str>,
        limit: Option<u64>,
    ) -> Self {
        // Everything is there twice, as bytes and as the text of a record.
        let cost = limit.unwrap_or(DEFAULT_KEPT).saturating_mul(2);
        Self {
            exec_id: process.exec_id().to_owned(),
            sandbox_id: sandbox_id.map(str::to_owned),
            exec,
            caller,
            started_at: SystemTime::now(),
            backend: process.backend(),
            isolation: process.isolation().clone(),
            handle: process.handle(),
            stdin: AsyncMutex::new(process.take_stdin()),
            memory: Mutex::new(Memory {
                logs: [Log::new(cost), Log::new(cost)],
                last: 0,
                end: None,
            }),
            progress: watch::Sender::default(),
        }
    }

    pub(crate) fn exec_id(&self) -> &str {
        &self.exec_id
    }

    /// The open sandbox that it runs in, if it was started in one.
    pub(crate) fn sandbox_id(&self) -> Option<&str> {
        self.sandbox_id.as_deref()
    }

    /// What is shown of what was asked for.
    pub(crate) fn exec(&self) -> &Exec {
        &self.exec
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(crate) fn started_at(&self) -> SystemTime {
        self.started_at
    }

    pub(crate) fn backend(&self) -> BackendName {
        self.backend
    }

    pub(crate) fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// How far it has come.
    pub(crate) fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Waits until it has come further than this.
    pub(crate) async fn changed(&self, seen: Progress) -> Progress {
        let mut progress = self.progress.subscribe();
        // The sender is here, so there is always something to wait for.
        let _ = progress.wait_for(|now| now.ended || *now != seen).await;
        self.progress()
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) {
        let mut progress = self.progress.subscribe();
        // The sender is here, so there is always something to wait for.
        let _ = progress.wait_for(|now| now.ended).await;
    }

    /// How it ended, without its output; `None` while it runs.
    pub(crate) fn end(&self) -> Option<Arc<openbrain::Result<Output>>> {
        self.memory().end()
    }

    /// How it ended, with the beginning and the end of its output; `None` while it runs.
    pub(crate) fn outcome(&self) -> Option<Arc<openbrain::Result<Output>>> {
        let memory = self.memory();
        let mut end = memory.end()?;
        if let Some(Ok(output)) = Arc::get_mut(&mut end) {
            let [stdout, stderr] = &memory.logs;
            (output.stdout, output.stderr) = (stdout.captured(), stderr.captured());
        }
        Some(end)
    }

    /// Waits for the record after this number; `None` when there is none any more.
    pub(crate) async fn event_after(&self, seq: u64) -> Option<Item> {
        loop {
            let seen = self.progress();
            match self.memory().after(seq) {
                Some(item) => return Some(item),
                None if seen.ended => return None,
                None => {}
            }
            self.changed(seen).await;
        }
    }

    /// At most `most` bytes of a stream from an offset on.
    pub(crate) fn read(&self, stream: Stream, offset: u64, most: usize) -> Slice {
        let memory = self.memory();
        let ended = memory.end.is_some();
        Slice { ended, ..memory.logs[stream as usize].read(offset, most) }
    }

    /// Writes to its standard input, and closes it when this is all.
    pub(crate) async fn write(&self, bytes: &[u8], all: bool) -> Result<(), InputFailure> {
        if self.exec.stdin != Stdin::Pipe {
            return Err(InputFailure::NoPipe);
        }
        let waited = timeout(INPUT_PATIENCE, self.stdin.lock()).await;
        let mut stdin = waited.map_err(|_| InputFailure::NotRead(0))?;
        let writer = stdin.as_mut().ok_or(InputFailure::Closed)?;
        let mut written = 0;
        let result = match timeout(INPUT_WHOLE, write_all(writer, bytes, &mut written)).await {
            Err(_) => Err(InputFailure::NotRead(written)),
            Ok(result) => result,
        };
        if all || result == Err(InputFailure::Closed) {
            stdin.take();
        }
        result
    }

    /// Sends a signal to its process group.
    pub(crate) fn signal(&self, signal: i32) {
        self.handle.signal(signal);
    }

    /// Ends it: TERM, half a second later KILL.
    pub(crate) fn cancel(&self) {
        self.handle.cancel();
    }

    /// What its output and its end cost.
    pub(crate) fn cost(&self) -> u64 {
        self.memory().cost()
    }

    fn add(&self, records: Vec<Record>, shelf: &Shelf) {
        for record in records {
            let change = self.memory().add(record);
            if !shelf.grow(change) {
                let freed = self.memory().trim();
                shelf.grow(-freed);
            }
        }
    }

    fn lose(&self, error: openbrain::Error) {
        let mut memory = self.memory();
        let seq = memory.last + 1;
        memory.end = Some(End::Lost { seq, result: Arc::new(Err(error)) });
        drop(memory);
        self.tell();
    }

    fn tell(&self) {
        let memory = self.memory();
        let [stdout, stderr] = memory.logs.each_ref().map(Log::total);
        self.progress.send_replace(Progress { stdout, stderr, ended: memory.end.is_some() });
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn cost(&self) -> u64 {
        let end = match &self.end {
            Some(End::Output { cost, .. }) => *cost,
            Some(End::Lost { .. }) | None => 0,
        };
        self.logs.iter().map(Log::cost).sum::<u64>() + end
    }

    /// How it ended, without its streams.
    fn end(&self) -> Option<Arc<openbrain::Result<Output>>> {
        match self.end.as_ref()? {
            End::Lost { result, .. } => Some(Arc::clone(result)),
            End::Output { record, .. } => match &record.kind {
                RecordKind::Ended { result } => Some(Arc::new(Ok(Output::clone(result)))),
                RecordKind::Stdout(_) | RecordKind::Stderr(_) => None,
            },
        }
    }

    /// Adds a record, and tells what that costs.
    fn add(&mut self, record: Record) -> i64 {
        let before = self.cost() as i64;
        self.last = record.seq;
        let record = Arc::new(record);
        let (stream, data) = match &record.kind {
            RecordKind::Stdout(data) => (Stream::Stdout, data),
            RecordKind::Stderr(data) => (Stream::Stderr, data),
            RecordKind::Ended { result } => {
                let cost = result.changes.as_ref().map_or(0, cost_of);
                self.end = Some(End::Output { record: Arc::clone(&record), cost });
                return cost as i64;
            }
        };
        self.logs[stream as usize].push(Arc::clone(&record), &data.bytes());
        self.cost() as i64 - before
    }

    /// Drops what need not be kept, and tells how much that was.
    fn trim(&mut self) -> i64 {
        let before = self.cost() as i64;
        self.logs.iter_mut().for_each(|log| log.trim(LEAST_KEPT));
        before - self.cost() as i64
    }

    /// The record after this number, or the gap before it.
    fn after(&self, seq: u64) -> Option<Item> {
        let streams = self.logs.iter().filter_map(|log| log.after(seq));
        let last = match &self.end {
            Some(End::Output { record, .. }) if record.seq > seq => Some(record),
            _ => None,
        };
        let Some(next) = streams.chain(last).min_by_key(|record| record.seq) else {
            return match &self.end {
                Some(End::Lost { seq: end, result }) if *end > seq => {
                    Some(Item::Lost { seq: *end, result: Arc::clone(result) })
                }
                _ => None,
            };
        };
        Some(match next.seq {
            next_seq if next_seq > seq + 1 => Item::Gap { from_seq: seq + 1, to_seq: next_seq - 1 },
            _ => Item::Record(Arc::clone(next)),
        })
    }
}

/// What a report of changes costs, roughly.
pub(crate) fn cost_of(changes: &Changes) -> u64 {
    let texts = changes.entries.iter().map(|change| {
        let paths = [Some(&change.path), change.target.as_ref(), change.hard_link_to.as_ref()];
        let paths = paths.into_iter().flatten().map(|path| path.as_os_str().len()).sum::<usize>();
        paths + change.diff.as_ref().map_or(0, String::len) + size_of::<Change>()
    });
    texts.sum::<usize>() as u64
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("exec_id", &self.exec_id).finish_non_exhaustive()
    }
}
