//! A running command.

use std::{
    future::pending,
    mem,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use openbrain::{ChildStdin, Event, Handle, Output, TerminalSize};
use pyo3::{Bound, Py, PyAny, PyResult, Python, pyclass, pymethods, types::PyInt};
use tokio::{io::AsyncWriteExt, sync::Mutex, time::sleep};

use crate::{
    convert,
    failure::Failure,
    pending::{Answer, Pending},
};

/// A running command. Dropping it kills the command with all its processes.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Process {
    /// The process that started it: a forked child has a copy of this, and no say in the command.
    owner: u32,
    life: Arc<Mutex<Life>>,
    stdin: Arc<Mutex<Option<ChildStdin>>>,
    handle: Handle,
    /// Name of this execution.
    #[pyo3(get)]
    exec_id: String,
    /// Where the command runs.
    #[pyo3(get)]
    backend: &'static str,
    /// What is enforced around the command, as a dict.
    #[pyo3(get)]
    isolation: Py<PyAny>,
}

/// A command until it is waited for, the wait for its end, and the end once that is known.
struct Life {
    running: Option<openbrain::Process>,
    /// Has the output that was collected when a wait for it took too long.
    ending: Option<Ending>,
    end: Option<Arc<openbrain::Result<Output>>>,
}

type Ending = Pin<Box<dyn Future<Output = openbrain::Result<Output>> + Send>>;

const GONE: Failure = Failure::Gone("the wait for the command was given up");

/// A command that was started.
pub(crate) fn answer(process: openbrain::Process) -> Answer {
    Answer::object(|py| Process::new(py, process))
}

impl Process {
    fn new(py: Python<'_>, mut process: openbrain::Process) -> PyResult<Self> {
        Ok(Self {
            owner: std::process::id(),
            stdin: Arc::new(Mutex::new(process.take_stdin())),
            handle: process.handle(),
            exec_id: process.exec_id().to_owned(),
            backend: process.backend().as_str(),
            isolation: convert::encode(py, process.isolation())?,
            life: Arc::new(Mutex::new(Life { running: Some(process), ending: None, end: None })),
        })
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_own() {
            return Ok(());
        }
        Err(Failure::Misuse("the command belongs to the process that this one was forked from")
            .raise(py))
    }
}

#[pymethods]
impl Process {
    /// Whether this process has started it, and not the one that it was forked from.
    fn is_own(&self) -> bool {
        self.owner == std::process::id()
    }

    /// The next event. Giving the wait up loses nothing.
    fn next_event(&self, py: Python<'_>) -> PyResult<Pending> {
        self.check(py)?;
        let life = Arc::clone(&self.life);
        Pending::start(py, |stop| async move {
            let next = async { life.lock().await.next_event().await };
            tokio::select! {
                biased;
                () = stop.notified() => Ok(Answer::done()),
                event = next => event,
            }
        })
    }

    /// Waits until one of its streams has this text; false when both have ended before.
    fn wait_for_output(
        &self,
        py: Python<'_>,
        text: &[u8],
        seconds: Option<f64>,
    ) -> PyResult<Pending> {
        self.check(py)?;
        let time = seconds.map(|seconds| convert::duration(py, seconds)).transpose()?;
        let (life, text) = (Arc::clone(&self.life), text.to_vec());
        Pending::ask(py, async move {
            let found = async { life.lock().await.wait_for_output(&text).await };
            tokio::select! {
                biased;
                found = found => Ok(Answer::value(found?)),
                () = passed(time) => {
                    let text = String::from_utf8_lossy(&text);
                    Err(Failure::Late(format!("the command did not say `{text}` in time")))
                }
            }
        })
    }

    /// The result, after the end, with the output that was not read as events; the same for everybody
    /// who waits. Giving the wait up kills the command; the end of its time does not.
    #[pyo3(signature = (seconds))]
    fn wait(&self, py: Python<'_>, seconds: Option<f64>) -> PyResult<Pending> {
        self.check(py)?;
        let time = seconds.map(|seconds| convert::duration(py, seconds)).transpose()?;
        let (life, stdin) = (Arc::clone(&self.life), Arc::clone(&self.stdin));
        let handle = self.handle.clone();
        Pending::start(py, |stop| async move {
            // Somebody may be writing, which ends only when the output is read.
            tokio::spawn(async move { stdin.lock().await.take() });
            let mut end = pin!(async { life.lock().await.wait().await });
            tokio::select! {
                biased;
                end = &mut end => end,
                () = stop.notified() => {
                    handle.kill();
                    end.await
                }
                () = passed(time) => Err(Failure::Late("the command did not end in time".into())),
            }
        })
    }

    /// Writes to standard input; done when the command has room for everything.
    fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<Pending> {
        self.check(py)?;
        let (stdin, data) = (Arc::clone(&self.stdin), data.to_vec());
        Pending::start(py, |stop| async move {
            let written = async { write(&mut *stdin.lock().await, &data).await };
            tokio::select! {
                biased;
                () = stop.notified() => Ok(Answer::done()),
                written = written => written.map(|()| Answer::done()),
            }
        })
    }

    /// Ends standard input.
    fn close_stdin(&self, py: Python<'_>) -> PyResult<Pending> {
        self.check(py)?;
        let stdin = Arc::clone(&self.stdin);
        Pending::ask(py, async move {
            stdin.lock().await.take();
            Ok(Answer::done())
        })
    }

    /// Kills every process of the command; done when they are gone.
    fn close(&self, py: Python<'_>) -> PyResult<Pending> {
        self.check(py)?;
        let handle = self.handle.clone();
        Pending::start(py, |_| async move {
            handle.kill();
            handle.ended().await;
            Ok(Answer::done())
        })
    }

    /// Sends a signal to the command's process group.
    fn signal(&self, py: Python<'_>, signal: i32) -> PyResult<()> {
        self.check(py).map(|()| self.handle.signal(signal))
    }

    /// Ends the command: TERM, half a second later KILL to every process.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.check(py).map(|()| self.handle.cancel())
    }

    /// Kills every process of the command at once.
    fn kill(&self, py: Python<'_>) -> PyResult<()> {
        self.check(py).map(|()| self.handle.kill())
    }

    /// Changes the size of the pseudo-terminal.
    fn resize(
        &self,
        py: Python<'_>,
        rows: &Bound<'_, PyInt>,
        cols: &Bound<'_, PyInt>,
    ) -> PyResult<()> {
        let side = |number| convert::number(number, "a size of a terminal");
        let size = TerminalSize { rows: side(rows)?, cols: side(cols)? };
        self.check(py).map(|()| self.handle.resize(size))
    }
}

impl Life {
    /// The next event; none after the end.
    async fn next_event(&mut self) -> Result<Answer, Failure> {
        if self.ending.is_some() {
            self.until_ended().await;
            if let Some(Ok(output)) = self.end.as_deref() {
                let event = Event::Ended(Box::new(output.clone()));
                return Ok(Answer::new(|py| convert::event(py, Some(event))));
            }
        }
        let Some(process) = &mut self.running else { return self.over() };
        let event = match process.next_event().await {
            Ok(event) => event,
            Err(error) => {
                self.ended(Err(error));
                return self.over();
            }
        };
        if let Some(Event::Ended(output)) = &event {
            self.ended(Ok((**output).clone()));
        }
        Ok(Answer::new(|py| convert::event(py, event)))
    }

    async fn wait_for_output(&mut self, text: &[u8]) -> Result<bool, Failure> {
        match &mut self.running {
            Some(process) => Ok(process.wait_for_output(text).await?),
            None if self.ending.is_some() => {
                Err(Failure::Misuse("a wait for the end has collected what the command said"))
            }
            None => Ok(false),
        }
    }

    async fn wait(&mut self) -> Result<Answer, Failure> {
        if let Some(process) = self.running.take() {
            self.ending = Some(Box::pin(process.wait()));
        }
        self.until_ended().await;
        self.end.clone().map(Answer::end).ok_or(GONE)
    }

    /// Goes on to wait for the end. Giving that up loses nothing.
    async fn until_ended(&mut self) {
        if let Some(ending) = &mut self.ending {
            let end = ending.await;
            self.ended(end);
        }
    }

    fn ended(&mut self, end: openbrain::Result<Output>) {
        (self.running, self.ending) = (None, None);
        self.end = Some(Arc::new(end));
    }

    /// What is told after the end: nothing, or again why it is not known.
    fn over(&self) -> Result<Answer, Failure> {
        let end = self.end.clone().ok_or(GONE)?;
        if end.is_err() { Ok(Answer::end(end)) } else { Ok(Answer::done()) }
    }
}

/// Waits so long; without a time, for ever.
pub(crate) async fn passed(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
    }
}

async fn write(stdin: &mut Option<ChildStdin>, data: &[u8]) -> Result<(), Failure> {
    let Some(writer) = stdin else {
        return Err(Failure::Misuse(
            "standard input is closed, or was not asked for: `stdin=PIPE`",
        ));
    };
    if writer.write_all(data).await.is_err() {
        // A command that closes its input early has read what it wanted.
        *stdin = None;
    }
    Ok(())
}

impl Drop for Process {
    /// In a forked child, dropping would wake tasks of a runtime that is not there.
    fn drop(&mut self) {
        if !self.is_own() {
            mem::forget((Arc::clone(&self.life), Arc::clone(&self.stdin), self.handle.clone()));
        }
    }
}
