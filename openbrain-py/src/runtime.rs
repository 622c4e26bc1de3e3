//! The runtime that the commands of this process run on, in threads of its own.
//!
//! Its threads never enter the interpreter, so that nothing they do can wait for its lock, outlive
//! it or print what it has to say.

use std::{
    io, mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use pyo3::{PyResult, Python, pyfunction};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{engine, sandbox};

/// Threads of the runtime: two, so that a start that waits for the disk does not delay the deadline
/// of another command.
const WORKERS: usize = 2;

/// Time for the threads to let go of what they do, when the interpreter ends.
const END: Duration = Duration::from_secs(1);

/// Time for servers to delete their sandboxes, when the interpreter ends.
const SETTLE: Duration = Duration::from_secs(10);

/// How often a wait looks whether Ctrl-C was pressed.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// The runtime and the process that it belongs to. Locked only by threads that hold the
/// interpreter, as whoever forks does: so no child finds it locked.
static HOME: Mutex<Option<Home>> = Mutex::new(None);

static CLOSING: AtomicBool = AtomicBool::new(false);

struct Home {
    process: u32,
    runtime: Runtime,
}

/// The runtime of this process, started with the first command. A forked child starts its own: no
/// thread but the one that forks survives a fork.
pub(crate) fn handle(_py: Python<'_>) -> io::Result<Handle> {
    let mut home = home();
    if home.as_ref().is_some_and(|home| home.process != std::process::id()) {
        // Its threads are not here; ending it would wait for them.
        mem::forget(home.take());
    }
    let home = match &mut *home {
        Some(home) => home,
        none => {
            CLOSING.store(false, Relaxed);
            none.insert(Home { process: std::process::id(), runtime: start()? })
        }
    };
    Ok(home.runtime.handle().clone())
}

fn start() -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(WORKERS).thread_name("openbrain").enable_io().enable_time().build()
}

/// Whether the interpreter ends: what was given up then is answered no more, because a thread that
/// learnt of it would have no interpreter to tell.
pub(crate) fn is_closing() -> bool {
    CLOSING.load(Relaxed)
}

/// Kills every command that is still running, and waits a bounded time until nothing is left of any.
#[pyfunction]
pub(crate) fn shutdown(py: Python<'_>) -> PyResult<()> {
    let own = home().take_if(|home| home.process == std::process::id());
    if let Some(home) = own {
        CLOSING.store(true, Relaxed);
        engine::forget();
        let ended = sandbox::end_all(py, home.runtime.handle(), SETTLE);
        py.detach(|| home.runtime.shutdown_timeout(END));
        ended?;
        let until = Instant::now() + SETTLE;
        while !py.detach(|| openbrain::settle(TICK)) && Instant::now() < until {
            py.check_signals()?;
        }
    }
    Ok(())
}

fn home() -> MutexGuard<'static, Option<Home>> {
    HOME.lock().unwrap_or_else(PoisonError::into_inner)
}
