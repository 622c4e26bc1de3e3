//! A sandbox that stays open.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use openbrain::{Error, FileEntry, FileKind, Transfer};
use pyo3::{Bound, Py, PyAny, PyResult, Python, pyclass, pyfunction, pymethods, types::PyDict};
use serde_json::{Value, json};
use tokio::{runtime::Handle, time::timeout};

use crate::{
    convert,
    failure::Failure,
    pending::{Answer, Pending},
    runtime, verbs,
};

/// The sandboxes that are open, and the process that opened them. Locked only by threads that hold
/// the interpreter, as `runtime::HOME` is.
static OPEN: Mutex<Vec<(u32, Weak<openbrain::Sandbox>)>> = Mutex::new(Vec::new());

/// A sandbox that stays open. Dropping it ends it with everything in it.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Sandbox {
    /// The process that created it: a forked child has a copy of this, and no say in the sandbox.
    owner: u32,
    /// Empty once it was kept.
    open: Mutex<Option<Arc<openbrain::Sandbox>>>,
    runtime: Handle,
}

/// Creates a sandbox that stays open.
#[pyfunction]
pub(crate) fn create(py: Python<'_>, request: &Bound<'_, PyDict>) -> PyResult<Pending> {
    let new = convert::new_sandbox(py, request)?;
    let engine = verbs::engine(py)?;
    Pending::start(py, |stop| async move {
        tokio::select! {
            biased;
            () = stop.notified() => Err(Failure::Gone("the call was given up")),
            sandbox = engine.create(new) => Ok(Answer::Sandbox(Box::new(sandbox?))),
        }
    })
}

/// Ends every sandbox that this process still has open, at most so long.
pub(crate) fn end_all(py: Python<'_>, runtime: &Handle, patience: Duration) {
    let open: Vec<_> = std::mem::take(&mut *registered())
        .into_iter()
        .filter(|(process, _)| *process == std::process::id())
        .filter_map(|(_, sandbox)| sandbox.upgrade())
        .collect();
    py.detach(|| {
        runtime.block_on(async {
            let ends = open.iter().map(|sandbox| sandbox.kill());
            // Whatever is not confirmed by then ends with this process, or by its own time.
            let _ = timeout(patience, futures_util::future::join_all(ends)).await;
        });
    });
}

fn registered() -> MutexGuard<'static, Vec<(u32, Weak<openbrain::Sandbox>)>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sandbox {
    pub(crate) fn new(py: Python<'_>, sandbox: openbrain::Sandbox) -> io::Result<Self> {
        let (owner, sandbox) = (std::process::id(), Arc::new(sandbox));
        let mut open = registered();
        open.retain(|(_, other)| other.strong_count() > 0);
        open.push((owner, Arc::downgrade(&sandbox)));
        Ok(Self { owner, open: Mutex::new(Some(sandbox)), runtime: runtime::handle(py)? })
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<openbrain::Sandbox>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, py: Python<'_>) -> PyResult<Arc<openbrain::Sandbox>> {
        if self.owner != std::process::id() {
            let message = "the sandbox belongs to the process that this one was forked from";
            return Err(Failure::Gone(message).raise(py));
        }
        let kept = Failure::Gone("the sandbox was kept, and is on its own");
        self.slot().clone().ok_or(kept).map_err(|failure| failure.raise(py))
    }

    /// Starts something that is done with the sandbox.
    fn ask<F>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(Arc<openbrain::Sandbox>) -> F,
    ) -> PyResult<Pending>
    where
        F: Future<Output = Result<Value, Error>> + Send + 'static,
    {
        let work = work(self.get(py)?);
        Pending::start(py, |stop| async move {
            tokio::select! {
                biased;
                () = stop.notified() => Err(Failure::Gone("the call was given up")),
                answer = work => Ok(Answer::Value(answer?)),
            }
        })
    }
}

#[pymethods]
impl Sandbox {
    /// `id`, `name`, `labels`, `backend`, `isolation` and `warnings`, as a dict.
    fn facts(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let sandbox = self.get(py)?;
        let facts = json!({
            "id": sandbox.id(),
            "name": sandbox.name(),
            "labels": sandbox.labels(),
            "backend": sandbox.backend(),
            "isolation": sandbox.isolation(),
            "warnings": sandbox.warnings().collect::<Vec<_>>(),
        });
        convert::encode(py, &facts)
    }

    /// Starts a command in it; the answer is its result, after its end.
    #[pyo3(signature = (request, stdin))]
    fn run(
        &self,
        py: Python<'_>,
        request: &Bound<'_, PyDict>,
        stdin: Option<&[u8]>,
    ) -> PyResult<Pending> {
        let (exec, sandbox) = (convert::request(py, request, stdin)?, self.get(py)?);
        Pending::start(py, |stop| async move {
            let process = verbs::started(sandbox.spawn(exec), &stop).await?;
            verbs::wait(process, &stop).await
        })
    }

    /// Starts a command in it; the answer is the running process.
    #[pyo3(signature = (request, stdin))]
    fn spawn(
        &self,
        py: Python<'_>,
        request: &Bound<'_, PyDict>,
        stdin: Option<&[u8]>,
    ) -> PyResult<Pending> {
        let (exec, sandbox) = (convert::request(py, request, stdin)?, self.get(py)?);
        Pending::start(py, |stop| async move {
            let process = verbs::started(sandbox.spawn(exec), &stop).await?;
            Ok(Answer::Process(Box::new(process)))
        })
    }

    /// Starts a command in the background of it.
    #[pyo3(signature = (request, stdin))]
    fn start(
        &self,
        py: Python<'_>,
        request: &Bound<'_, PyDict>,
        stdin: Option<&[u8]>,
    ) -> PyResult<Pending> {
        let (exec, sandbox) = (convert::request(py, request, stdin)?, self.get(py)?);
        Pending::start(py, |stop| async move {
            tokio::select! {
                biased;
                () = stop.notified() => Err(Failure::Gone("the call was given up")),
                command = sandbox.start(exec) => Ok(Answer::Background(command?)),
            }
        })
    }

    /// Waits until something in it listens on a port.
    fn wait_for_port(&self, py: Python<'_>, port: u16, seconds: f64) -> PyResult<Pending> {
        // What is no duration at all is refused by the library as zero is.
        let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        self.ask(py, move |sandbox| async move {
            sandbox.wait_for_port(port, time).await.map(|()| Value::Null)
        })
    }

    /// Lets it end in so many seconds from now.
    fn renew(&self, py: Python<'_>, seconds: f64) -> PyResult<Pending> {
        // What is no duration at all is refused by the library as zero is.
        let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        self.ask(py, |sandbox| async move { sandbox.renew(time).await.map(|()| Value::Null) })
    }

    /// Stops every process in it.
    fn pause(&self, py: Python<'_>) -> PyResult<Pending> {
        self.ask(py, |sandbox| async move { sandbox.pause().await.map(|()| Value::Null) })
    }

    /// Lets every process in it go on.
    fn resume(&self, py: Python<'_>) -> PyResult<Pending> {
        self.ask(py, |sandbox| async move { sandbox.resume().await.map(|()| Value::Null) })
    }

    /// Ends it with everything in it.
    fn kill(&self, py: Python<'_>) -> PyResult<Pending> {
        let sandbox = self.get(py)?;
        // Giving up the wait does not give up the end.
        Pending::start(py, |_| async move { Ok(sandbox.kill().await.map(|()| Answer::Done)?) })
    }

    /// Leaves it to itself until the end of its time.
    fn keep(&self, py: Python<'_>) -> PyResult<Pending> {
        self.get(py)?;
        let taken = self.slot().take().map(Arc::try_unwrap);
        match taken {
            Some(Ok(sandbox)) => {
                Pending::start(
                    py,
                    |_| async move { Ok(sandbox.keep().await.map(|()| Answer::Done)?) },
                )
            }
            shared => {
                *self.slot() = shared.and_then(Result::err);
                Err(Failure::Gone("calls are under way in the sandbox").raise(py))
            }
        }
    }

    /// The content of a file.
    fn read(&self, py: Python<'_>, path: PathBuf) -> PyResult<Pending> {
        let sandbox = self.get(py)?;
        Pending::start(py, |stop| async move {
            tokio::select! {
                biased;
                () = stop.notified() => Err(Failure::Gone("the call was given up")),
                content = async { sandbox.files().read(path).await } => Ok(Answer::Bytes(content?)),
            }
        })
    }

    /// Writes a file, or adds to it.
    fn write(
        &self,
        py: Python<'_>,
        path: PathBuf,
        content: &[u8],
        append: bool,
    ) -> PyResult<Pending> {
        let content = content.to_vec();
        self.ask(py, move |sandbox| async move {
            let files = sandbox.files();
            match append {
                true => files.append(path, content).await?,
                false => files.write(path, content).await?,
            }
            Ok(Value::Null)
        })
    }

    /// What is known of a file.
    fn stat(&self, py: Python<'_>, path: PathBuf) -> PyResult<Pending> {
        self.ask(py, |sandbox| async move { sandbox.files().stat(path).await.map(entry) })
    }

    /// What is in a directory.
    fn entries(&self, py: Python<'_>, path: PathBuf) -> PyResult<Pending> {
        self.ask(py, |sandbox| async move { sandbox.files().list(path).await.map(entries) })
    }

    /// What is anywhere below a directory and matches a pattern.
    fn search(&self, py: Python<'_>, path: PathBuf, pattern: String) -> PyResult<Pending> {
        self.ask(
            py,
            |sandbox| async move { sandbox.files().search(path, &pattern).await.map(entries) },
        )
    }

    /// Makes a directory.
    fn mkdir(&self, py: Python<'_>, path: PathBuf) -> PyResult<Pending> {
        self.ask(
            py,
            |sandbox| async move { sandbox.files().mkdir(path).await.map(|()| Value::Null) },
        )
    }

    /// Removes a file or an empty directory, or a directory with all that is in it.
    fn remove(&self, py: Python<'_>, path: PathBuf, whole: bool) -> PyResult<Pending> {
        self.ask(py, move |sandbox| async move {
            let files = sandbox.files();
            match whole {
                true => files.remove_all(path).await?,
                false => files.remove(path).await?,
            }
            Ok(Value::Null)
        })
    }

    /// Renames a file.
    fn rename(&self, py: Python<'_>, old: PathBuf, new: PathBuf) -> PyResult<Pending> {
        self.ask(py, |sandbox| async move {
            sandbox.files().rename(old, new).await.map(|()| Value::Null)
        })
    }

    /// Copies a tree of the host into the sandbox.
    fn upload(&self, py: Python<'_>, source: PathBuf, target: PathBuf) -> PyResult<Pending> {
        self.ask(
            py,
            |sandbox| async move { sandbox.files().upload(source, target).await.map(transfer) },
        )
    }

    /// Copies a tree of the sandbox to the host.
    fn download(&self, py: Python<'_>, source: PathBuf, target: PathBuf) -> PyResult<Pending> {
        self.ask(py, |sandbox| async move {
            sandbox.files().download(source, target).await.map(transfer)
        })
    }
}

impl Drop for Sandbox {
    /// Ending a sandbox needs the runtime that it was created in. In a forked child that is not
    /// there, and the sandbox is the parent's.
    fn drop(&mut self) {
        let open = self.slot().take();
        if self.owner == std::process::id() {
            let _runtime = self.runtime.enter();
            drop(open);
        } else {
            std::mem::forget((open, self.runtime.clone()));
        }
    }
}

fn entries(found: Vec<FileEntry>) -> Value {
    found.into_iter().map(entry).collect()
}

fn entry(file: FileEntry) -> Value {
    let kind = match file.kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Link => "link",
        FileKind::Other => "other",
    };
    let since = file.modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    json!({
        "path": file.path.to_string_lossy(),
        "kind": kind,
        "mode": file.mode,
        "size": file.size,
        "modified": since.as_secs_f64(),
        "target": file.target.map(|target| target.to_string_lossy().into_owned()),
    })
}

fn transfer(done: Transfer) -> Value {
    let skipped: Vec<_> = done.skipped.iter().map(|path| path.to_string_lossy()).collect();
    json!({ "entries": done.entries, "bytes": done.bytes, "skipped": skipped })
}
