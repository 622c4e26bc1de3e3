//! Threads of the library's own, each with a runtime, of which a process has at most one of a kind.
//!
//! They are not the caller's runtime: what runs there goes on though nobody polls a run, though the
//! caller's threads are busy, and though the caller's runtime has ended.

use std::{
    future::pending,
    io,
    sync::{Mutex, PoisonError},
    thread,
};

use tokio::runtime::{Builder, Handle};

/// Relays the network of every sandbox.
pub(super) static RELAY: Thread = Thread::new("openbrain-egress");

/// Makes sandboxes that are kept ready.
pub(super) static POOL: Thread = Thread::new("openbrain-pool");

/// A thread that is started with the first use.
pub(super) struct Thread {
    name: &'static str,
    /// Its runtime, and the process that it runs in: a forked child has no threads but the one that
    /// forked.
    running: Mutex<Option<(u32, Handle)>>,
}

impl Thread {
    const fn new(name: &'static str) -> Self {
        Self { name, running: Mutex::new(None) }
    }

    /// The thread's runtime.
    pub(super) fn runtime(&self) -> io::Result<Handle> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match &*running {
            Some((process, handle)) if *process == std::process::id() => Ok(handle.clone()),
            _ => {
                let handle = self.start()?;
                *running = Some((std::process::id(), handle.clone()));
                Ok(handle)
            }
        }
    }

    fn start(&self) -> io::Result<Handle> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        let run = move || runtime.block_on(pending::<()>());
        thread::Builder::new().name(self.name.into()).spawn(run)?;
        Ok(handle)
    }
}
