//! A port of the host that leads to one of a sandbox.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use pyo3::{pyclass, pymethods};

/// A port of the host that leads to one of a sandbox. Dropping it closes the port and its connections.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Forward {
    /// The process that made it: a forked child has a copy of this, and no say in it.
    owner: u32,
    local: SocketAddr,
    open: Mutex<Option<openbrain::Forward>>,
}

impl Forward {
    pub(crate) fn new(forward: openbrain::Forward) -> Self {
        let (owner, local) = (std::process::id(), forward.local_addr());
        Self { owner, local, open: Mutex::new(Some(forward)) }
    }
}

#[pymethods]
impl Forward {
    /// Where it listens: host and port.
    fn address(&self) -> (String, u16) {
        (self.local.ip().to_string(), self.local.port())
    }

    /// Closes the port and its connections.
    fn close(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.owner != std::process::id() {
            // Ending it would wake tasks of a runtime that is not there.
            std::mem::forget(open);
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.close();
    }
}
