//! A running command: its events, its standard input, and the ways to end it.

mod capture;
mod expect;
mod observe;
mod stdin;
mod supervise;

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, Sleep, sleep_until},
};

pub(crate) use self::observe::{End, Observer, Outcome};
pub use self::stdin::ChildStdin;
pub(crate) use self::{capture::Capture, expect::Search};
use self::{
    expect::Held,
    observe::{Reading, observe},
    supervise::{Audience, Ending, Inbox, Urgency},
};
use crate::{
    backend::{BoxFuture, Order, Running},
    changes::Changes,
    error::{Error, Result},
    event::Event,
    exec::TerminalSize,
    output::{BackendName, Captured, Output, Start},
    sandbox::Isolation,
    spec::Spec,
    units::random_name,
};

/// How much is read from a stream at a time.
const CHUNK: usize = 64 * 1024;

/// How long after the end of the command its streams are read, when a surviving background process
/// keeps them open.
const DRAIN: Duration = Duration::from_millis(100);

/// What a pipe may still hold at the end of the command: the largest size that an unprivileged
/// process may set (`/proc/sys/fs/pipe-max-size`, `pipe(7)`).
const PIPE_CAPACITY: u64 = 1 << 20;

/// How many orders may wait for the supervision.
const ORDERS: usize = 16;

/// A running command.
///
/// Events come as fast as they are read; a slow reader slows the command. The deadline fires though
/// nobody reads. Dropping a `Process` kills the command with all its processes.
///
/// ```no_run
/// # async fn demo() -> openbrain::Result<()> {
/// use openbrain::{Event, Exec};
///
/// let mut process = Exec::new("make").sandbox().spawn().await?;
/// while let Some(event) = process.next_event().await? {
///     match event {
///         Event::Stdout(bytes) => print!("{}", String::from_utf8_lossy(&bytes)),
///         Event::Ended(output) => println!("{:?}", output.status),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Process {
    facts: Facts,
    stdin: Option<ChildStdin>,
    /// Feeds [`Stdin::Bytes`]; ends with the process.
    feeder: Option<JoinHandle<()>>,
    streams: [Option<Box<dyn AsyncRead + Send + Unpin>>; 2],
    /// The stream that is asked first: they take turns, so that neither hides the other.
    turn: Stream,
    buffer: Box<[u8]>,
    handle: Handle,
    /// Bytes read so far.
    totals: [u64; 2],
    /// What was looked at by [`Process::wait_for_output`] and is still to be delivered.
    held: Held,
    ending: Option<oneshot::Receiver<Result<Ending>>>,
    ended: Option<Ending>,
    drain: Option<Drain>,
    output_limit: u64,
    /// The report of changes, which begins when everything else has ended.
    report: Option<Report>,
    /// Whoever keeps a record of the command.
    observer: Option<Reading>,
}

/// What is known of a process from its start.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) exec_id: String,
    pub(crate) backend: BackendName,
    pub(crate) sandbox_id: Option<String>,
    pub(crate) start: Option<Start>,
    pub(crate) isolation: Isolation,
    pub(crate) warnings: Vec<String>,
    pub(crate) started_at: SystemTime,
}

/// A report of changes.
enum Report {
    /// Dropped, it is given up.
    Running(BoxFuture<'static, Result<Changes>>),
    Done(Changes),
}

/// Reading on after the end.
struct Drain {
    until: Pin<Box<Sleep>>,
    read: u64,
}

/// One step of reading: so many bytes of a stream are in the buffer, or all is over.
enum Step {
    Read(Stream, usize),
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Stdout = 0,
    Stderr = 1,
}

impl Stream {
    fn other(self) -> Self {
        match self {
            Self::Stdout => Self::Stderr,
            Self::Stderr => Self::Stdout,
        }
    }
}

impl Process {
    /// Puts a started command under supervision, by the name of [`new_exec_id`], and tells the
    /// observer of its end.
    pub(crate) fn start(
        running: Running,
        spec: &Spec,
        exec_id: String,
        observer: Option<Box<dyn Observer>>,
    ) -> Self {
        let Running {
            backend,
            sandbox_id,
            start,
            isolation,
            mut warnings,
            stdin,
            stdout,
            stderr,
            changes,
            control,
        } = running;
        warnings.splice(0..0, spec.warnings.iter().cloned());
        let started_at = SystemTime::now();
        let facts = Facts { exec_id, backend, sandbox_id, start, isolation, warnings, started_at };
        let started = Instant::now();
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (urgency, wanted) = watch::channel(Urgency::None);
        let inbox = Inbox { orders: inbox, urgency: wanted };
        let (report, ending) = oneshot::channel();
        let (observer, reading) =
            observer.map(|observer| observe(observer, facts.clone(), started)).unzip();
        let audience = Audience { owner: report, observer };
        tokio::spawn(supervise::supervise(control, started, spec.timeout, inbox, audience));
        let (stdin, feeder) = stdin::connect(stdin, &spec.stdin);
        Self {
            facts,
            stdin,
            feeder,
            streams: [stdout, stderr],
            turn: Stream::Stdout,
            buffer: vec![0; CHUNK].into_boxed_slice(),
            handle: Handle { orders, urgency },
            totals: [0; 2],
            held: Held::default(),
            ending: Some(ending),
            ended: None,
            drain: None,
            output_limit: spec.limits.output.unwrap_or(u64::MAX),
            report: changes.map(|layers| Report::Running(Box::pin(Changes::report(layers)))),
            observer: reading,
        }
    }

    /// Waits for the next event; `None` after [`Event::Ended`].
    ///
    /// # Errors
    ///
    /// When the backend lost the command: its end can no longer be learnt.
    pub async fn next_event(&mut self) -> Result<Option<Event>> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// As [`Process::next_event`].
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>>> {
        if self.is_over() {
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(Ok(Some(match std::task::ready!(self.poll_step(cx))? {
            Step::Read(Stream::Stdout, n) => Event::Stdout(self.buffer[..n].to_vec()),
            Step::Read(Stream::Stderr, n) => Event::Stderr(self.buffer[..n].to_vec()),
            Step::Ended => {
                let streamed = |total| Captured { total, ..Captured::default() };
                Event::Ended(Box::new(self.output(self.totals.map(streamed))))
            }
        })))
    }

    /// Waits for the end, collecting the output up to the limit (10 MiB for each stream unless the
    /// settings or the request say else).
    ///
    /// # Errors
    ///
    /// When the backend lost the command: its end can no longer be learnt. `invalid_request` when its
    /// end was told already, by [`Event::Ended`] or by an error.
    pub async fn wait(mut self) -> Result<Output> {
        if self.is_over() {
            return Err(Error::invalid("the end of the command was told already")
                .with_remedy("take the result from `Event::Ended`"));
        }
        self.stdin = None;
        let mut captures = [Capture::new(self.output_limit), Capture::new(self.output_limit)];
        while let Step::Read(stream, n) = self.step().await? {
            captures[stream as usize].push(&self.buffer[..n]);
        }
        Ok(self.output(captures.map(Capture::finish)))
    }

    /// The write end of standard input, once, for [`Stdin::Pipe`](crate::Stdin::Pipe).
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// A handle that can signal and end this process from elsewhere.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Sends a signal to the command's process group. The result then says what came of it.
    pub fn signal(&self, signal: i32) {
        self.handle.signal(signal);
    }

    /// Ends the command: TERM, half a second later KILL to every process. The result is `cancelled`.
    pub fn cancel(&self) {
        self.handle.cancel();
    }

    /// Kills every process of the command at once. The result is `cancelled`.
    pub fn kill(&self) {
        self.handle.kill();
    }

    /// How much of each stream is kept, in bytes.
    pub(crate) fn output_limit(&self) -> u64 {
        self.output_limit
    }

    /// Name of this execution, unique and unguessable.
    pub fn exec_id(&self) -> &str {
        &self.facts.exec_id
    }

    /// Where the command runs.
    pub fn backend(&self) -> BackendName {
        self.facts.backend
    }

    /// What is enforced around the command.
    pub fn isolation(&self) -> &Isolation {
        &self.facts.isolation
    }

    fn is_over(&self) -> bool {
        self.ending.is_none() && self.ended.is_none()
    }

    /// Waits for bytes or for the end, whichever is next; bytes first.
    async fn step(&mut self) -> Result<Step> {
        poll_fn(|cx| self.poll_step(cx)).await
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step>> {
        match self.held.deliver(&mut self.buffer) {
            Some((stream, n)) => Poll::Ready(Ok(Step::Read(stream, n))),
            None => self.poll_new(cx),
        }
    }

    fn poll_new(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step>> {
        // The end is learnt though a stream never pauses: its bytes still come first.
        self.poll_ending(cx)?;
        if !self.drained_enough() {
            for stream in [self.turn, self.turn.other()] {
                if let Poll::Ready(n) = self.poll_read(stream, cx) {
                    self.turn = stream.other();
                    return Poll::Ready(Ok(Step::Read(stream, n)));
                }
            }
        }
        if self.ending.is_some() {
            return Poll::Pending;
        }
        if self.streams.iter().any(Option::is_some) {
            let Some(drain) = &mut self.drain else {
                return Poll::Ready(Err(lost()));
            };
            std::task::ready!(drain.until.as_mut().poll(cx));
            self.streams = [None, None];
        }
        self.poll_report(cx).map(|()| Ok(Step::Ended))
    }

    /// Makes the report of changes.
    fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(Report::Running(making)) = &mut self.report {
            let made = std::task::ready!(making.as_mut().poll(cx));
            self.report = match made {
                Ok(changes) => Some(Report::Done(changes)),
                Err(error) => {
                    self.facts.warnings.push(error.to_string());
                    None
                }
            };
        }
        Poll::Ready(())
    }

    /// Learns of the end of the command, and gives its streams some more time.
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let Some(ending) = &mut self.ending else { return Ok(()) };
        if let Poll::Ready(result) = Pin::new(ending).poll(cx) {
            self.ending = None;
            self.ended = Some(result.unwrap_or_else(|_| Err(lost()))?);
            let until = Box::pin(sleep_until(Instant::now() + DRAIN));
            self.drain = Some(Drain { until, read: 0 });
        }
        Ok(())
    }

    /// Whether a background process that writes on and on has had its time. The timer itself knows
    /// only once it was polled.
    fn drained_enough(&self) -> bool {
        let over = |drain: &Drain| {
            drain.until.deadline() <= Instant::now() && drain.read > 2 * PIPE_CAPACITY
        };
        self.drain.as_ref().is_some_and(over)
    }

    /// Reads what a stream has; a stream at its end, or broken, is closed.
    fn poll_read(&mut self, stream: Stream, cx: &mut Context<'_>) -> Poll<usize> {
        let Some(reader) = &mut self.streams[stream as usize] else {
            return Poll::Pending;
        };
        let mut buffer = ReadBuf::new(&mut self.buffer);
        let result = std::task::ready!(Pin::new(reader).poll_read(cx, &mut buffer));
        let n = buffer.filled().len();
        if result.is_err() || n == 0 {
            self.streams[stream as usize] = None;
            return Poll::Pending;
        }
        self.totals[stream as usize] += n as u64;
        if let Some(observer) = &self.observer {
            observer.count(stream as usize, n as u64);
        }
        if let Some(drain) = &mut self.drain {
            drain.read += n as u64;
        }
        Poll::Ready(n)
    }

    /// The result, once.
    fn output(&mut self, [stdout, stderr]: [Captured; 2]) -> Output {
        let ending = self.ended.take().unwrap_or_default();
        let truncated = [stdout.truncated, stderr.truncated];
        let warning = self.observer.take().and_then(|observer| observer.tell(&ending, truncated));
        let mut warnings = std::mem::take(&mut self.facts.warnings);
        warnings.extend(ending.warnings.into_iter().chain(warning));
        Output {
            status: ending.status,
            stdout,
            stderr,
            duration: ending.duration,
            started_at: self.facts.started_at,
            backend: self.facts.backend,
            sandbox_id: self.facts.sandbox_id.clone(),
            start: self.facts.start,
            exec_id: self.facts.exec_id.clone(),
            isolation: self.facts.isolation.clone(),
            resources: ending.resources,
            denials: ending.denials,
            changes: match self.report.take() {
                Some(Report::Done(changes)) => Some(changes),
                _ => None,
            },
            warnings,
        }
    }
}

/// Influence over a [`Process`] from another task. It does not keep the process alive.
#[derive(Clone, Debug)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    urgency: watch::Sender<Urgency>,
}

impl Handle {
    /// Sends a signal to the command's process group.
    pub fn signal(&self, signal: i32) {
        self.send(Order::Signal(signal));
    }

    /// Ends the command: TERM, half a second later KILL to every process.
    pub fn cancel(&self) {
        self.want(Urgency::Cancel);
    }

    /// Kills every process of the command at once.
    pub fn kill(&self) {
        self.want(Urgency::Kill);
    }

    /// Waits until the supervision of the command has ended, whether or not its output was read.
    pub async fn ended(&self) {
        self.orders.closed().await;
    }

    /// Changes the size of the pseudo-terminal.
    pub fn resize(&self, size: TerminalSize) {
        self.send(Order::Resize(size));
    }

    /// A full queue drops the order: somebody sends signals faster than the command can take them.
    fn send(&self, order: Order) {
        let _ = self.orders.try_send(order);
    }

    fn want(&self, more: Urgency) {
        self.urgency.send_if_modified(|urgency| {
            let raised = more > *urgency;
            *urgency = more.max(*urgency);
            raised
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(feeder) = &self.feeder {
            feeder.abort();
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("exec_id", &self.facts.exec_id)
            .field("backend", &self.facts.backend)
            .finish_non_exhaustive()
    }
}

fn lost() -> Error {
    Error::new(crate::error::ErrorKind::Internal, "the supervision of the command ended early")
        .with_remedy("keep the tokio runtime alive until the result is there")
}

/// A name for a command; `exec_` tells a person what it is for.
pub(crate) fn new_exec_id() -> String {
    format!("exec_{}", random_name())
}
