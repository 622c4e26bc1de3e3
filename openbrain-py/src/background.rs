//! A command in the background of a sandbox.

use std::time::Duration;

use openbrain::{LogOffsets, LogPart, Logs};
use pyo3::{IntoPyObject, Py, PyAny, PyResult, Python, pyclass, pymethods, types::PyBytes};

use crate::{
    convert,
    failure::Failure,
    pending::{Answer, Pending, Stop},
};

/// A command in the background of a sandbox. Dropping it leaves the command running.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Background {
    /// The process that started it: a forked child has a copy of this, and nothing that changes it.
    owner: u32,
    command: openbrain::Background,
}

impl Background {
    pub(crate) fn new(command: openbrain::Background) -> Self {
        Self { owner: std::process::id(), command }
    }

    fn get(&self, py: Python<'_>) -> PyResult<openbrain::Background> {
        if self.owner == std::process::id() {
            return Ok(self.command.clone());
        }
        Err(Failure::Gone("the command belongs to the process that this one was forked from")
            .raise(py))
    }
}

#[pymethods]
impl Background {
    /// `exec_id`, `command`, `started_at`, `status` and `error`, as a dict.
    fn about(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        convert::encode(py, &self.get(py)?.about())
    }

    /// What it has written from these offsets on: `((offset, bytes), (offset, bytes), ended)`.
    fn logs(&self, py: Python<'_>, stdout: u64, stderr: u64) -> PyResult<Py<PyAny>> {
        logs(py, &self.get(py)?.logs(LogOffsets { stdout, stderr }))
    }

    /// The same, when there is something or nothing will come any more.
    fn next_logs(&self, py: Python<'_>, stdout: u64, stderr: u64) -> PyResult<Pending> {
        let command = self.get(py)?;
        Pending::start(py, |stop| async move {
            let from = LogOffsets { stdout, stderr };
            unless(&stop, async { Ok(Answer::Logs(command.next_logs(from).await)) }).await
        })
    }

    /// Waits until one of its streams has this text.
    fn wait_for_log(&self, py: Python<'_>, text: String, seconds: f64) -> PyResult<Pending> {
        let command = self.get(py)?;
        let time = Duration::try_from_secs_f64(seconds);
        let refused = |_| Failure::Request(format!("`{seconds}` is not a timeout")).raise(py);
        let time = time.map_err(refused)?;
        Pending::start(py, |stop| async move {
            let found = command.wait_for_log(&text, time);
            unless(&stop, async { Ok(found.await.map(|()| Answer::Done)?) }).await
        })
    }

    /// The result, after the end. Giving the wait up leaves the command running.
    fn wait(&self, py: Python<'_>) -> PyResult<Pending> {
        let command = self.get(py)?;
        Pending::start(py, |stop| async move {
            unless(&stop, async { Ok(Answer::End(command.wait().await)) }).await
        })
    }

    /// Sends a signal to its process group.
    fn signal(&self, py: Python<'_>, signal: i32) -> PyResult<()> {
        self.get(py)?.signal(signal);
        Ok(())
    }

    /// Ends it: TERM, half a second later KILL to every process.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.get(py)?.cancel();
        Ok(())
    }
}

pub(crate) fn logs(py: Python<'_>, logs: &Logs) -> PyResult<Py<PyAny>> {
    let part = |part: &LogPart| (part.offset, PyBytes::new(py, &part.data.bytes()).unbind());
    let Logs { stdout, stderr, ended } = logs;
    Ok((part(stdout), part(stderr), *ended).into_pyobject(py)?.into_any().unbind())
}

async fn unless(
    stop: &Stop,
    answer: impl Future<Output = Result<Answer, Failure>>,
) -> Result<Answer, Failure> {
    tokio::select! {
        biased;
        () = stop.notified() => Err(Failure::Gone("the call was given up")),
        answer = answer => answer,
    }
}
