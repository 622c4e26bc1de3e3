//! A sandbox that stays open.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant, UNIX_EPOCH},
};

use futures_util::future::join_all;
use openbrain::SessionEnd;
use pyo3::{
    Bound, Py, PyAny, PyResult, Python, pyclass, pyfunction, pymethods,
    types::{PyDict, PyInt, PyString},
};
use serde_json::json;
use tokio::{runtime::Handle, time::timeout};

use crate::{
    background, changes, convert,
    engine::engine,
    failure::Failure,
    files::Files,
    forward::Forward,
    pending::{Answer, Pending},
    process,
    runtime::{self, TICK},
    shell::Shell,
    verbs,
};

/// The sandboxes that are open, and the process that opened them. Locked only by threads that hold
/// the interpreter, as `runtime::HOME` is.
static OPEN: Mutex<Vec<(u32, Weak<openbrain::Sandbox>)>> = Mutex::new(Vec::new());

/// A sandbox that stays open. Dropping it ends it with everything in it.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Sandbox {
    /// The process that created it: a forked child has a copy of this, and no say in the sandbox.
    owner: u32,
    /// Empty once it was left to itself.
    open: Mutex<Option<Arc<openbrain::Sandbox>>>,
    runtime: Handle,
}

/// Creates a sandbox that stays open.
#[pyfunction]
pub(crate) fn create(py: Python<'_>, request: &Bound<'_, PyDict>) -> PyResult<Pending> {
    let new = convert::new_sandbox(py, request)?;
    let engine = engine(py)?;
    Pending::ask(py, async move {
        let sandbox = engine.create(new).await?;
        Ok(Answer::object(|py| {
            Sandbox::new(py, sandbox).map_err(|error| Failure::from(error).raise(py))
        }))
    })
}

/// Ends every sandbox that this process still has open, at most so long and until Ctrl-C.
pub(crate) fn end_all(py: Python<'_>, runtime: &Handle, patience: Duration) -> PyResult<()> {
    let open: Vec<_> = std::mem::take(&mut *registered())
        .into_iter()
        .filter(|(process, _)| *process == std::process::id())
        .filter_map(|(_, sandbox)| sandbox.upgrade())
        .collect();
    let mut ends = pin!(join_all(open.iter().map(|sandbox| sandbox.kill())));
    let until = Instant::now() + patience;
    // Whatever is not confirmed by then ends with this process, or by its own time.
    while Instant::now() < until {
        let tick = async { timeout(TICK, &mut ends).await.is_ok() };
        if py.detach(|| runtime.block_on(tick)) {
            break;
        }
        py.check_signals()?;
    }
    Ok(())
}

fn registered() -> MutexGuard<'static, Vec<(u32, Weak<openbrain::Sandbox>)>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sandbox {
    fn new(py: Python<'_>, sandbox: openbrain::Sandbox) -> io::Result<Self> {
        let (owner, sandbox) = (std::process::id(), Arc::new(sandbox));
        let mut open = registered();
        open.retain(|(_, other)| other.strong_count() > 0);
        open.push((owner, Arc::downgrade(&sandbox)));
        Ok(Self { owner, open: Mutex::new(Some(sandbox)), runtime: runtime::handle(py)? })
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<openbrain::Sandbox>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, py: Python<'_>) -> PyResult<Arc<openbrain::Sandbox>> {
        if self.owner != std::process::id() {
            let message = "the sandbox belongs to the process that this one was forked from";
            return Err(Failure::Misuse(message).raise(py));
        }
        // Raising runs Python, which may come back here: the place must not be locked then.
        let open = self.slot().clone();
        let kept = Failure::Misuse("the sandbox was left to itself by `keep`");
        open.ok_or(kept).map_err(|failure| failure.raise(py))
    }

    /// Starts something that is done with the sandbox.
    fn ask<F>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(Arc<openbrain::Sandbox>) -> F,
    ) -> PyResult<Pending>
    where
        F: Future<Output = openbrain::Result<()>> + Send + 'static,
    {
        let work = work(self.get(py)?);
        Pending::ask(py, async move {
            work.await?;
            Ok(Answer::done())
        })
    }
}

#[pymethods]
impl Sandbox {
    /// Whether this process still has it: a kept one is on its own, and that of a fork its parent's.
    fn is_held(&self) -> bool {
        self.owner == std::process::id() && self.slot().is_some()
    }

    /// `id`, `name`, `labels`, `backend`, `isolation`, `command_timeout` and `warnings`, as a
    /// dict.
    fn facts(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let sandbox = self.get(py)?;
        let facts = json!({
            "id": sandbox.id(),
            "name": sandbox.name(),
            "labels": sandbox.labels(),
            "backend": sandbox.backend(),
            "isolation": sandbox.isolation(),
            "command_timeout": sandbox.command_timeout().as_secs_f64(),
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
            let process = verbs::started(exec, |exec| sandbox.spawn(exec), &stop).await?;
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
            let process = verbs::started(exec, |exec| sandbox.spawn(exec), &stop).await?;
            Ok(process::answer(process))
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
        Pending::ask(py, async move {
            let program = verbs::program(&exec);
            let command = sandbox.start(exec).await;
            let command = command.map_err(|error| verbs::not_started(error, program))?;
            Ok(background::answer(command))
        })
    }

    /// A shell, of another program than `sh` when one is named.
    #[pyo3(signature = (program))]
    fn shell(&self, py: Python<'_>, program: Option<&Bound<'_, PyString>>) -> PyResult<Shell> {
        let sandbox = self.get(py)?;
        Ok(Shell::new(match program.map(convert::text).transpose()? {
            Some(program) => sandbox.shell_with(program),
            None => sandbox.shell(),
        }))
    }

    /// Its files.
    fn files(self_: Py<Self>) -> Files {
        Files::new(self_)
    }

    /// What its commands have changed until now.
    fn changes(&self, py: Python<'_>) -> PyResult<Pending> {
        let sandbox = self.get(py)?;
        Pending::ask(py, async move { Ok(changes::answer(sandbox.changes().await?)) })
    }

    /// Makes a port of it reachable at an address of this host.
    fn forward(
        &self,
        py: Python<'_>,
        port: &Bound<'_, PyInt>,
        host: &Bound<'_, PyString>,
        local: &Bound<'_, PyInt>,
    ) -> PyResult<Pending> {
        let (sandbox, port) = (self.get(py)?, convert::number(port, "a port")?);
        let host = convert::text(host)?;
        let refused = |_| Failure::Request(format!("`{host}` is not an address")).raise(py);
        let address = host.parse::<IpAddr>().map_err(refused)?;
        let local = SocketAddr::new(address, convert::number(local, "a port")?);
        Pending::ask(py, async move {
            let forward = sandbox.forward_to(port, local).await?;
            Ok(Answer::object(|_| Ok(Forward::new(forward))))
        })
    }

    /// When its time is over, in seconds since 1970.
    fn expires_at(&self, py: Python<'_>) -> PyResult<f64> {
        let at = self.get(py)?.expires_at().duration_since(UNIX_EPOCH);
        Ok(at.unwrap_or_default().as_secs_f64())
    }

    /// Waits until it has ended; the answer is why.
    fn wait_ended(&self, py: Python<'_>) -> PyResult<Pending> {
        let sandbox = self.get(py)?;
        Pending::ask(py, async move {
            Ok(Answer::value(match sandbox.ended().await {
                SessionEnd::Expired => "expired",
                SessionEnd::Killed => "killed",
                _ => "died",
            }))
        })
    }

    /// Waits until something in it listens on a port.
    fn wait_for_port(
        &self,
        py: Python<'_>,
        port: &Bound<'_, PyInt>,
        seconds: f64,
    ) -> PyResult<Pending> {
        let (port, time) = (convert::number(port, "a port")?, convert::duration(py, seconds)?);
        self.ask(py, move |sandbox| async move { sandbox.wait_for_port(port, time).await })
    }

    /// Lets it end in so many seconds from now.
    fn renew(&self, py: Python<'_>, seconds: f64) -> PyResult<Pending> {
        let time = convert::duration(py, seconds)?;
        self.ask(py, move |sandbox| async move { sandbox.renew(time).await })
    }

    /// Stops every process in it.
    fn pause(&self, py: Python<'_>) -> PyResult<Pending> {
        self.ask(py, |sandbox| async move { sandbox.pause().await })
    }

    /// Lets every process in it go on.
    fn resume(&self, py: Python<'_>) -> PyResult<Pending> {
        self.ask(py, |sandbox| async move { sandbox.resume().await })
    }

    /// Ends it with everything in it.
    fn kill(&self, py: Python<'_>) -> PyResult<Pending> {
        let sandbox = self.get(py)?;
        // Giving up the wait does not give up the end.
        Pending::start(py, |_| async move {
            sandbox.kill().await?;
            Ok(Answer::done())
        })
    }

    /// Leaves it to itself until the end of its time. Refused while it is used, which leaves it as it
    /// was.
    fn keep(&self, py: Python<'_>) -> PyResult<Pending> {
        self.get(py)?;
        let taken = self.slot().take().map(Arc::try_unwrap);
        match taken {
            Some(Ok(sandbox)) => Pending::start(py, |_| async move {
                sandbox.keep().await?;
                Ok(Answer::done())
            }),
            shared => {
                *self.slot() = shared.and_then(Result::err);
                Err(Failure::Misuse("calls are under way in the sandbox").raise(py))
            }
        }
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
