//! The thread that relays, one for all runs of a process.
//!
//! It is not the caller's runtime: a run's connections are served though nobody polls the run, and
//! though the caller's threads are busy. It holds nothing when no run has a network.

use std::{
    future::pending,
    io,
    sync::{Mutex, PoisonError},
    thread,
};

use tokio::runtime::{Builder, Handle};

/// The runtime of the thread, and the process that it runs in: a forked child has no threads but
/// the one that forked.
static RUNNING: Mutex<Option<(u32, Handle)>> = Mutex::new(None);

/// The relaying thread's runtime, started with the first run that needs it.
pub(super) fn runtime() -> io::Result<Handle> {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    match &*running {
        Some((process, handle)) if *process == std::process::id() => Ok(handle.clone()),
        _ => {
            let handle = start()?;
            *running = Some((std::process::id(), handle.clone()));
            Ok(handle)
        }
    }
}

fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    let handle = runtime.handle().clone();
    let relay = move || runtime.block_on(pending::<()>());
    thread::Builder::new().name("openbrain-egress".into()).spawn(relay)?;
    Ok(handle)
}
