//! What happens to the files of a sandbox, while it happens.

use std::sync::Arc;

use openbrain::{FileChange, FileChangeKind, FileWatch};
use pyo3::{IntoPyObject, Py, PyAny, PyResult, Python, pyclass, pymethods};
use tokio::sync::{Mutex, watch};

use crate::{
    failure::Failure,
    pending::{Answer, Pending},
};

/// A directory of a sandbox that is watched. Dropping it ends the watch.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Watch {
    /// The process that made it: a forked child has a copy of this, and no say in it.
    owner: u32,
    /// Taken out when it is closed.
    watch: Arc<Mutex<Option<FileWatch>>>,
    closing: watch::Sender<bool>,
}

impl Watch {
    pub(crate) fn new(watch: FileWatch) -> Self {
        let watch = Arc::new(Mutex::new(Some(watch)));
        Self { owner: std::process::id(), watch, closing: watch::Sender::new(false) }
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_own() {
            return Ok(());
        }
        Err(Failure::Misuse("the watch belongs to the process that this one was forked from")
            .raise(py))
    }
}

#[pymethods]
impl Watch {
    /// Whether this process has made it, and not the one that it was forked from.
    fn is_own(&self) -> bool {
        self.owner == std::process::id()
    }

    /// The next change, as `(path, kind, is_directory)`; none at the end. Giving the wait up loses
    /// nothing.
    fn next_change(&self, py: Python<'_>) -> PyResult<Pending> {
        self.check(py)?;
        let (watch, mut closing) = (Arc::clone(&self.watch), self.closing.subscribe());
        Pending::start(py, |stop| async move {
            let next = async {
                match &mut *watch.lock().await {
                    Some(watch) => watch.next().await,
                    None => Ok(None),
                }
            };
            tokio::select! {
                biased;
                () = stop.notified() => Ok(Answer::done()),
                _ = closing.wait_for(|closing| *closing) => Ok(Answer::done()),
                change = next => {
                    let change = change?;
                    Ok(Answer::new(|py| to_python(py, change)))
                }
            }
        })
    }

    /// Ends the watch, and whoever waits for its next change.
    fn close(&self, py: Python<'_>) -> PyResult<Pending> {
        self.check(py)?;
        self.closing.send_replace(true);
        let watch = Arc::clone(&self.watch);
        Pending::ask(py, async move {
            watch.lock().await.take();
            Ok(Answer::done())
        })
    }
}

impl Drop for Watch {
    /// In a forked child, dropping would wake tasks of a runtime that is not there.
    fn drop(&mut self) {
        if !self.is_own() {
            std::mem::forget(Arc::clone(&self.watch));
        }
    }
}

fn to_python(py: Python<'_>, change: Option<FileChange>) -> PyResult<Py<PyAny>> {
    let Some(FileChange { path, kind, is_directory, .. }) = change else { return Ok(py.None()) };
    let kind = match kind {
        FileChangeKind::Created => "created",
        FileChangeKind::Modified => "modified",
        FileChangeKind::Removed => "removed",
        FileChangeKind::Attributes => "attributes",
        // What a newer library tells is looked at anew as well.
        _ => "lost",
    };
    Ok((path.into_os_string(), kind, is_directory).into_pyobject(py)?.into_any().unbind())
}
