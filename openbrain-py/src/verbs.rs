//! What can be asked of the library.

use std::{env, pin::pin, time::Duration};

use openbrain::{Engine, Exec, Process};
use pyo3::{Bound, PyResult, Python, pyfunction, types::PyDict};
use tokio::time::timeout;

use crate::{
    convert,
    failure::Failure,
    pending::{Answer, Pending, Stop},
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
        let process = started(&engine, exec, &stop).await?;
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
        let process = started(&engine, exec, &stop).await?;
        Ok(Answer::Process(Box::new(process)))
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
    Ok(Answer::Output(Box::new(output?)))
}

/// Starts a command, and does not leave one behind that nobody wants.
async fn started(engine: &Engine, exec: Exec, stop: &Stop) -> Result<Process, Failure> {
    let mut start = pin!(engine.spawn(exec));
    tokio::select! {
        biased;
        process = &mut start => return Ok(process?),
        () = stop.notified() => {}
    }
    if let Ok(Ok(process)) = timeout(START, start).await {
        let handle = process.handle();
        drop(process);
        handle.ended().await;
    }
    Err(Failure::Gone("the call was given up"))
}

/// The engine with the settings and the variables of this moment. Both read the environment, which
/// no other thread of Python changes while this one holds the interpreter.
fn engine(py: Python<'_>) -> PyResult<Engine> {
    let engine = Engine::load().map_err(|error| Failure::from(error).raise(py))?;
    Ok(engine.with_environment(env::vars_os()))
}
