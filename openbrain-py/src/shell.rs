//! Commands one after the other as in one shell.

use std::sync::Arc;

use pyo3::{Bound, PyResult, Python, pyclass, pymethods, types::PyDict};
use tokio::sync::Mutex;

use crate::{
    convert,
    failure::Failure,
    pending::{Pending, Stop},
    process, verbs,
};

/// Commands that begin where the last one left off. It does not keep the sandbox open.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Shell {
    /// The process that made it: a forked child has a copy of this, and no say in the sandbox.
    owner: u32,
    shell: Arc<Mutex<openbrain::Shell>>,
}

impl Shell {
    pub(crate) fn new(shell: openbrain::Shell) -> Self {
        Self { owner: std::process::id(), shell: Arc::new(Mutex::new(shell)) }
    }

    fn get(&self, py: Python<'_>) -> PyResult<Arc<Mutex<openbrain::Shell>>> {
        if self.owner == std::process::id() {
            return Ok(Arc::clone(&self.shell));
        }
        Err(Failure::Misuse("the shell belongs to the process that this one was forked from")
            .raise(py))
    }
}

#[pymethods]
impl Shell {
    /// Starts a command; the answer is its result, after its end.
    #[pyo3(signature = (request, stdin))]
    fn run(
        &self,
        py: Python<'_>,
        request: &Bound<'_, PyDict>,
        stdin: Option<&[u8]>,
    ) -> PyResult<Pending> {
        let (exec, shell) = (convert::request(py, request, stdin)?, self.get(py)?);
        Pending::start(py, |stop| async move {
            let process = started(&shell, exec, &stop).await?;
            verbs::wait(process, &stop).await
        })
    }

    /// Starts a command; the answer is the running process.
    #[pyo3(signature = (request, stdin))]
    fn spawn(
        &self,
        py: Python<'_>,
        request: &Bound<'_, PyDict>,
        stdin: Option<&[u8]>,
    ) -> PyResult<Pending> {
        let (exec, shell) = (convert::request(py, request, stdin)?, self.get(py)?);
        Pending::start(py, |stop| async move {
            Ok(process::answer(started(&shell, exec, &stop).await?))
        })
    }
}

async fn started(
    shell: &Mutex<openbrain::Shell>,
    exec: openbrain::Exec,
    stop: &Stop,
) -> Result<openbrain::Process, Failure> {
    let start = |exec| async move { shell.lock().await.spawn(exec).await };
    verbs::started(exec, start, stop).await
}

impl Drop for Shell {
    /// In a forked child, dropping would wake tasks of a runtime that is not there.
    fn drop(&mut self) {
        if self.owner != std::process::id() {
            std::mem::forget(Arc::clone(&self.shell));
        }
    }
}
