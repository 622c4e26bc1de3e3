//! A command in the background of a sandbox.

use std::time::Duration;

use openbrain::{LogOffsets, LogPart, Logs, Status};
use pyo3::{
    Bound, IntoPyObject, Py, PyAny, PyResult, Python, pyclass, pymethods,
    types::{PyBytes, PyInt, PyString},
};
use serde_json::json;

use crate::{
    convert,
    failure::Failure,
    pending::{Answer, Pending},
    process::passed,
};

/// A command in the background of a sandbox. Dropping it leaves the command running.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Background {
    /// The process that started it: a forked child has a copy of this, and nothing that changes it.
    owner: u32,
    command: openbrain::Background,
}

/// A command that nobody has been given yet. Dropping it ends the command: whoever started it has
/// given up, and will not learn how it is called.
struct Untaken {
    owner: u32,
    command: openbrain::Background,
    is_taken: bool,
}

/// A command that was started.
pub(crate) fn answer(command: openbrain::Background) -> Answer {
    let untaken = Untaken { owner: std::process::id(), command, is_taken: false };
    Answer::object(|_| Ok(untaken.take()))
}

impl Untaken {
    fn take(mut self) -> Background {
        self.is_taken = true;
        Background::new(self.command.clone())
    }
}

impl Background {
    fn new(command: openbrain::Background) -> Self {
        Self { owner: std::process::id(), command }
    }

    fn get(&self, py: Python<'_>) -> PyResult<openbrain::Background> {
        if self.owner == std::process::id() {
            return Ok(self.command.clone());
        }
        Err(Failure::Misuse("the command belongs to the process that this one was forked from")
            .raise(py))
    }
}

#[pymethods]
impl Background {
    /// `exec_id`, `command`, `started_at`, `status`, `error` and `has_ended`, as a dict.
    fn about(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let command = self.get(py)?;
        let (about, has_ended) = (command.about(), command.has_ended());
        let status = about.status.map(|status| match status {
            Status::Exited(_) => "exited",
            Status::Signaled(_) => "signaled",
            Status::TimedOut => "timed_out",
            Status::Cancelled => "cancelled",
        });
        let mut about = json!(about);
        about["status"] = json!(status);
        about["has_ended"] = json!(has_ended);
        convert::encode(py, &about)
    }

    /// What it has written from these offsets on: `((offset, bytes), (offset, bytes), ended)`.
    fn logs(
        &self,
        py: Python<'_>,
        stdout: &Bound<'_, PyInt>,
        stderr: &Bound<'_, PyInt>,
    ) -> PyResult<Py<PyAny>> {
        logs(py, &self.get(py)?.logs(offsets(stdout, stderr)?))
    }

    /// The same, when there is something or nothing will come any more.
    fn next_logs(
        &self,
        py: Python<'_>,
        stdout: &Bound<'_, PyInt>,
        stderr: &Bound<'_, PyInt>,
    ) -> PyResult<Pending> {
        let (command, from) = (self.get(py)?, offsets(stdout, stderr)?);
        Pending::ask(py, async move {
            let news = command.next_logs(from).await;
            Ok(Answer::new(move |py| logs(py, &news)))
        })
    }

    /// Waits until one of its streams has this text.
    #[pyo3(signature = (text, seconds))]
    fn wait_for_log(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyString>,
        seconds: Option<f64>,
    ) -> PyResult<Pending> {
        let time = seconds.map(|seconds| convert::duration(py, seconds)).transpose()?;
        let (text, time) = (convert::text(text)?, time.unwrap_or(Duration::MAX));
        let command = self.get(py)?;
        Pending::ask(py, async move {
            command.wait_for_log(&text, time).await?;
            Ok(Answer::done())
        })
    }

    /// The result, after the end. Giving the wait up leaves the command running.
    #[pyo3(signature = (seconds))]
    fn wait(&self, py: Python<'_>, seconds: Option<f64>) -> PyResult<Pending> {
        let time = seconds.map(|seconds| convert::duration(py, seconds)).transpose()?;
        let command = self.get(py)?;
        Pending::ask(py, async move {
            tokio::select! {
                biased;
                end = command.wait() => Ok(Answer::end(end)),
                () = passed(time) => Err(Failure::Late("the command did not end in time".into())),
            }
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

impl Drop for Untaken {
    /// In a forked child, the command is the parent's.
    fn drop(&mut self) {
        if !self.is_taken && self.owner == std::process::id() {
            self.command.cancel();
        }
    }
}

fn offsets(stdout: &Bound<'_, PyInt>, stderr: &Bound<'_, PyInt>) -> PyResult<LogOffsets> {
    let offset = |number| convert::number(number, "an offset");
    Ok(LogOffsets { stdout: offset(stdout)?, stderr: offset(stderr)? })
}

fn logs(py: Python<'_>, logs: &Logs) -> PyResult<Py<PyAny>> {
    let part = |part: &LogPart| (part.offset, PyBytes::new(py, &part.data.bytes()).unbind());
    let Logs { stdout, stderr, ended } = logs;
    Ok((part(stdout), part(stderr), *ended).into_pyobject(py)?.into_any().unbind())
}
