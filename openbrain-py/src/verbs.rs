//! What can be asked of the library.

use std::{path::PathBuf, pin::pin, time::Duration};

use openbrain::{Command, Error, ErrorKind, Exec, Process};
use pyo3::{Bound, PyResult, Python, pyfunction, types::PyDict};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    convert,
    engine::engine,
    failure::Failure,
    pending::{Answer, Pending, Stop},
    process,
};

/// How long a start that nobody wants any more is waited for, so that what it started is killed
/// before the call returns. Without that it is killed soon afterwards.
const START: Duration = Duration::from_millis(50);

/// Starts a command; the answer is its result, after its end.
#[pyfunction]
#[pyo3(signature = (request, stdin))]
pub(crate) fn run(
    py: Python<'_>,
    request: &Bound<'_, PyDict>,
    stdin: Option<&[u8]>,
) -> PyResult<Pending> {
    let exec = convert::request(py, request, stdin)?;
    let engine = engine(py)?;
    Pending::start(py, |stop| async move {
        let process = started(exec, |exec| engine.spawn(exec), &stop).await?;
        wait(process, &stop).await
    })
}

/// Starts a command; the answer is the running process.
#[pyfunction]
#[pyo3(signature = (request, stdin))]
pub(crate) fn spawn(
    py: Python<'_>,
    request: &Bound<'_, PyDict>,
    stdin: Option<&[u8]>,
) -> PyResult<Pending> {
    let exec = convert::request(py, request, stdin)?;
    let engine = engine(py)?;
    Pending::start(py, |stop| async move {
        let process = started(exec, |exec| engine.spawn(exec), &stop).await?;
        Ok(process::answer(process))
    })
}

/// Looks at this machine and its server, and runs a sandboxed command.
#[pyfunction]
pub(crate) fn doctor(py: Python<'_>) -> PyResult<Pending> {
    let engine = engine(py)?;
    Pending::block(py, move || {
        let report = openbrain::doctor(engine.settings());
        let (ok, isolation) = (report.ok(), &report.isolation);
        let report = json!({ "ok": ok, "checks": report.checks, "isolation": isolation });
        Ok(Answer::value(report))
    })
}

/// Collects the output of a process to its end; kills it when nobody wants it any more.
pub(crate) async fn wait(process: Process, stop: &Stop) -> Result<Answer, Failure> {
    let handle = process.handle();
    let mut end = pin!(process.wait());
    let output = tokio::select! {
        biased;
        output = &mut end => output,
        () = stop.notified() => {
            handle.kill();
            end.await
        }
    };
    Ok(Answer::output(output?))
}

/// Starts a command, and does not leave one behind that nobody wants.
pub(crate) async fn started<F>(
    exec: Exec,
    start: impl FnOnce(Exec) -> F,
    stop: &Stop,
) -> Result<Process, Failure>
where
    F: Future<Output = openbrain::Result<Process>>,
{
    let program = program(&exec);
    let mut start = pin!(start(exec));
    tokio::select! {
        biased;
        process = &mut start => return process.map_err(|error| not_started(error, program)),
        () = stop.notified() => {}
    }
    if let Ok(Ok(process)) = timeout(START, start).await {
        let handle = process.handle();
        drop(process);
        handle.ended().await;
    }
    Err(Failure::Gone("the call was given up"))
}

/// The program of a command, unless it is a script.
pub(crate) fn program(exec: &Exec) -> Option<PathBuf> {
    match &exec.command {
        Command::Argv(words) => words.first().map(PathBuf::from),
        Command::Shell(_) | Command::Script { .. } => None,
    }
}

/// Why a command with this program was not started; the program is named where it is the reason.
pub(crate) fn not_started(error: Error, program: Option<PathBuf>) -> Failure {
    match error.kind() {
        ErrorKind::CommandNotFound | ErrorKind::CommandNotExecutable => {
            Failure::File(error, program)
        }
        _ => Failure::Library(error),
    }
}
