//! A running command.

use std::{mem, sync::Arc};

use openbrain::{ChildStdin, Handle, TerminalSize};
use pyo3::{Py, PyAny, PyResult, Python, pyclass, pymethods};
use tokio::{
    io::AsyncWriteExt,
    sync::{Mutex, MutexGuard},
};

use crate::{
    convert,
    failure::Failure,
    pending::{Answer, Pending},
    verbs,
};

/// A running command. Dropping it kills the command with all its processes.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Process {
    /// The process that started it: a forked child has a copy of this, and no say in the command.
    owner: u32,
    /// Taken out when it is waited for.
    running: Shared<openbrain::Process>,
    stdin: Shared<ChildStdin>,
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

/// What one call at a time uses, until it is used up.
type Shared<T> = Arc<Mutex<Option<T>>>;

impl Process {
    pub(crate) fn new(py: Python<'_>, mut process: openbrain::Process) -> PyResult<Self> {
        Ok(Self {
            owner: std::process::id(),
            stdin: Arc::new(Mutex::new(process.take_stdin())),
            handle: process.handle(),
            exec_id: process.exec_id().to_owned(),
            backend: process.backend().as_str(),
            isolation: convert::encode(py, process.isolation())?,
            running: Arc::new(Mutex::new(Some(process))),
        })
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        if self.owner == std::process::id() {
            return Ok(());
        }
        Err(Failure::Gone("the command belongs to the process that this one was forked from")
            .raise(py))
    }
}

#[pymethods]
impl Process {
    /// The next event. Giving the wait up loses nothing.
    fn next_event(&self, py: Python<'_>) -> PyResult<Pending> {
        self.check(py)?;
        let running = Arc::clone(&self.running);
        Pending::start(py, |stop| async move {
            let next = async {
                match &mut *running.lock().await {
                    Some(process) => process.next_event().await,
                    None => Ok(None),
                }
            };
            tokio::select! {
                biased;
                () = stop.notified() => Ok(Answer::Done),
                event = next => Ok(Answer::Event(event?)),
            }
        })
    }

    /// The result, after the end, with the output that was not read as events. Giving the wait up
    /// kills the command.
    fn wait(&self, py: Python<'_>) -> PyResult<Pending> {
        self.check(py)?;
        let (running, stdin) = (Arc::clone(&self.running), Arc::clone(&self.stdin));
        Pending::start(py, |stop| async move {
            stdin.lock().await.take();
            let process = running.lock().await.take();
            verbs::wait(process.ok_or(Failure::Gone("the command was waited for before"))?, &stop)
                .await
        })
    }

    /// Writes to standard input; done when the command has room for everything.
    fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<Pending> {
        self.check(py)?;
        let (stdin, data) = (Arc::clone(&self.stdin), data.to_vec());
        Pending::start(py, |stop| async move {
            let mut stdin = stdin.lock().await;
            tokio::select! {
                biased;
                () = stop.notified() => Ok(Answer::Done),
                written = write(&mut stdin, &data) => written.map(|()| Answer::Done),
            }
        })
    }

    /// Ends standard input.
    fn close_stdin(&self, py: Python<'_>) -> PyResult<Pending> {
        self.check(py)?;
        let stdin = Arc::clone(&self.stdin);
        Pending::start(py, |_| async move {
            stdin.lock().await.take();
            Ok(Answer::Done)
        })
    }

    /// Kills every process of the command; done when they are gone.
    fn close(&self, py: Python<'_>) -> PyResult<Pending> {
        self.check(py)?;
        let handle = self.handle.clone();
        Pending::start(py, |_| async move {
            handle.kill();
            handle.ended().await;
            Ok(Answer::Done)
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
    fn resize(&self, py: Python<'_>, rows: u16, cols: u16) -> PyResult<()> {
        self.check(py).map(|()| self.handle.resize(TerminalSize { rows, cols }))
    }
}

async fn write(stdin: &mut MutexGuard<'_, Option<ChildStdin>>, data: &[u8]) -> Result<(), Failure> {
    let Some(writer) = &mut **stdin else {
        return Err(Failure::Gone("standard input is closed, or was not asked for: `stdin=PIPE`"));
    };
    if writer.write_all(data).await.is_err() {
        // A command that closes its input early has read what it wanted.
        **stdin = None;
    }
    Ok(())
}

impl Drop for Process {
    /// In a forked child, dropping would wake tasks of a runtime that is not there.
    fn drop(&mut self) {
        if self.owner != std::process::id() {
            mem::forget((Arc::clone(&self.running), Arc::clone(&self.stdin), self.handle.clone()));
        }
    }
}
