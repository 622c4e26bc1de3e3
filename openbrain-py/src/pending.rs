//! Something that was asked for and is not there yet.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use openbrain::Output;
use pyo3::{
    Py, PyAny, PyClass, PyResult, Python, pyclass, pyclass_init::PyClassInitializer, pymethods,
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};
use serde::Serialize;
use tokio::sync::Notify;

use crate::{
    convert,
    failure::{self, Failure},
    runtime::{self, TICK},
};

/// What comes of something that was asked for. It becomes a value of Python where it is taken.
pub(crate) struct Answer {
    make: Box<dyn Make>,
    /// Whether it is all that there is to reach something by, which ends when this is dropped.
    is_handle: bool,
}

/// Makes a value of Python, once.
trait Make: FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send {}

impl<M: FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send> Make for M {}

impl Answer {
    pub(crate) fn new<M>(make: M) -> Self
    where
        M: FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static,
    {
        Self { make: Box::new(make), is_handle: false }
    }

    /// It was done.
    pub(crate) fn done() -> Self {
        Self::new(|py| Ok(py.None()))
    }

    /// An object of this module, by which something is reached that was started or opened.
    pub(crate) fn object<T>(make: impl FnOnce(Python<'_>) -> PyResult<T> + Send + 'static) -> Self
    where
        T: Into<PyClassInitializer<T>> + PyClass,
    {
        let made = Self::new(|py| Py::new(py, make(py)?).map(Py::into_any));
        Self { is_handle: true, ..made }
    }

    /// What serde makes of a value.
    pub(crate) fn value(value: impl Serialize + Send + 'static) -> Self {
        Self::new(move |py| convert::encode(py, &value))
    }

    /// The result of a command.
    pub(crate) fn output(output: Output) -> Self {
        Self::new(|py| convert::output(py, output))
    }

    /// How a command ended, for everybody who asks.
    pub(crate) fn end(end: Arc<openbrain::Result<Output>>) -> Self {
        Self::new(move |py| match &*end {
            Ok(output) => convert::output(py, output.clone()),
            Err(error) => Err(failure::library(py, error, None)),
        })
    }
}

/// Tells the work that nobody wants it any more.
pub(crate) type Stop = Arc<Notify>;

/// Something that was asked for and is not there yet. Dropping it gives it up: a command is killed.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Pending {
    /// The process that asked: a forked child has a copy of this and nothing that would answer.
    process: u32,
    slot: Arc<Slot>,
    stop: Stop,
}

/// Where the answer will be.
struct Slot {
    answer: Mutex<Option<Result<Answer, Failure>>>,
    /// Readable as soon as there is an answer (`eventfd(2)`), and from then on.
    ready: OwnedFd,
}

/// The obligation to fill a slot.
struct Promise(Arc<Slot>);

impl Pending {
    /// Starts the work on the runtime.
    pub(crate) fn start<F>(py: Python<'_>, work: impl FnOnce(Stop) -> F) -> PyResult<Self>
    where
        F: Future<Output = Result<Answer, Failure>> + Send + 'static,
    {
        Self::spawn(py, work).map_err(|error| Failure::from(error).raise(py))
    }

    fn spawn<F>(py: Python<'_>, work: impl FnOnce(Stop) -> F) -> io::Result<Self>
    where
        F: Future<Output = Result<Answer, Failure>> + Send + 'static,
    {
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let slot = Arc::new(Slot { answer: Mutex::new(None), ready });
        let stop = Stop::default();
        let promise = Promise(Arc::clone(&slot));
        let work = work(Arc::clone(&stop));
        runtime::handle(py)?.spawn(async move { promise.0.fill(work.await) });
        Ok(Self { process: std::process::id(), slot, stop })
    }

    /// Starts work that is merely given up when nobody wants it any more.
    pub(crate) fn ask<F>(py: Python<'_>, work: F) -> PyResult<Self>
    where
        F: Future<Output = Result<Answer, Failure>> + Send + 'static,
    {
        Self::start(py, |stop| async move {
            tokio::select! {
                biased;
                () = stop.notified() => Err(Failure::Gone("the call was given up")),
                answer = work => answer,
            }
        })
    }

    /// Starts work that blocks, and that goes on though nobody wants it any more.
    pub(crate) fn block<W>(py: Python<'_>, work: W) -> PyResult<Self>
    where
        W: FnOnce() -> Result<Answer, Failure> + Send + 'static,
    {
        Self::start(py, |_| async move {
            let done = tokio::task::spawn_blocking(work).await;
            done.unwrap_or(Err(Failure::Gone("the call ended without an answer")))
        })
    }

    fn is_own(&self) -> bool {
        self.process == std::process::id()
    }

    /// Waits for the answer, and for Ctrl-C where Python's main thread waits. A signal ends the
    /// waiting of `poll(2)` at once; the tick is for one that comes just before it.
    fn until_ready(&self, py: Python<'_>) -> PyResult<()> {
        let tick = is_main_thread().then_some(TICK);
        while !py.detach(|| self.slot.wait(tick)) {
            py.check_signals()?;
        }
        Ok(())
    }
}

#[pymethods]
impl Pending {
    /// A descriptor that is readable as soon as the answer is there.
    fn fileno(&self) -> i32 {
        self.slot.ready.as_raw_fd()
    }

    /// Whether the answer is there.
    fn done(&self) -> bool {
        self.slot.wait(Some(Duration::ZERO))
    }

    /// Gives it up: a command that would be the answer, or is it already, is killed.
    fn stop(&self) {
        if self.is_own() {
            self.stop.notify_one();
            // An exception may keep this for long.
            let untaken = self
                .slot
                .answer()
                .take_if(|answer| answer.as_ref().is_ok_and(|answer| answer.is_handle));
            drop(untaken);
        }
    }

    /// Waits for the answer; a signal handler that raises, as that of Ctrl-C does, gives it up,
    /// and what it raises comes when the command is dead, but not later than `patience` seconds.
    fn wait(&self, py: Python<'_>, patience: f64) -> PyResult<()> {
        if !self.is_own() {
            let message = "this was asked for by another process, before a fork";
            return Err(Failure::Misuse(message).raise(py));
        }
        self.until_ready(py).inspect_err(|_| {
            self.stop();
            py.detach(|| self.slot.settle(patience));
        })
    }

    /// The answer, once.
    fn take(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let answer = self.slot.answer().take();
        let answer = answer.unwrap_or(Err(Failure::Gone("the answer was taken before")));
        (answer.map_err(|failure| failure.raise(py))?.make)(py)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Slot {
    fn answer(&self) -> MutexGuard<'_, Option<Result<Answer, Failure>>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the answer in its place. When the interpreter ends there is nobody to be told, and a
    /// thread that woke up would have no interpreter to raise anything in.
    fn fill(&self, answer: Result<Answer, Failure>) {
        if runtime::is_closing() {
            return;
        }
        let mut place = self.answer();
        if place.is_none() {
            *place = Some(answer);
            // It cannot fail: the counter is zero, and the descriptor ours.
            let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
        }
    }

    /// Waits until there is an answer, at most so long or until a signal comes; says whether.
    fn wait(&self, time: Option<Duration>) -> bool {
        let time = time.map(|time| Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let mut fds = [PollFd::new(&self.ready, PollFlags::IN)];
        match poll(&mut fds, time.as_ref()) {
            Ok(ready) => ready > 0,
            Err(Errno::INTR) => false,
            // Nothing else can fail but for want of memory; better to look again than not at all.
            Err(_) => false,
        }
    }

    /// Waits at most so many seconds, whatever signals come.
    fn settle(&self, seconds: f64) {
        let until = Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or(TICK);
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if self.wait(Some(left)) {
                return;
            }
        }
    }
}

impl Drop for Promise {
    /// Work that ends without an answer has panicked, or its runtime has ended.
    fn drop(&mut self) {
        self.0.fill(Err(Failure::Gone("the call ended without an answer")));
    }
}

fn is_main_thread() -> bool {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    u32::try_from(thread) == Ok(std::process::id())
}
