//! The commands that run now: how many there are, and the way to kill them all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use openbrain::{BackendName, Caller, Handle, Output, Process, Surface};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::info;

use super::metrics::Metrics;

/// The commands that run now.
#[derive(Debug, Default)]
pub(super) struct Running {
    handles: Mutex<HashMap<String, Handle>>,
    count: watch::Sender<usize>,
}

/// One of them, from its start until this is dropped. It takes up one of the places.
#[derive(Debug)]
pub(super) struct Active {
    running: Arc<Running>,
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
    exec_id: String,
    surface: Surface,
    backend: BackendName,
    told: bool,
}

impl Running {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits until there is none.
    pub(super) async fn none(&self) {
        // The sender is here, so there is always something to wait for.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Kills them all.
    pub(super) fn kill(&self) {
        self.change(|handles| handles.values().for_each(Handle::kill));
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<String, Handle>)) {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut handles);
        self.count.send_replace(handles.len());
    }
}

impl Active {
    pub(super) fn new(
        running: &Arc<Running>,
        metrics: Arc<Metrics>,
        place: OwnedSemaphorePermit,
        caller: &Caller,
        process: &Process,
    ) -> Self {
        let exec_id = process.exec_id().to_owned();
        let (surface, backend) = (caller.surface, process.backend());
        running.change(|handles| {
            handles.insert(exec_id.clone(), process.handle());
        });
        metrics.running(backend, 1);
        let (from, to) = (surface.as_str(), backend.as_str());
        info!(exec_id, surface = from, backend = to, "command started");
        Self {
            running: Arc::clone(running),
            metrics,
            _place: place,
            exec_id,
            surface,
            backend,
            told: false,
        }
    }

    /// The command has ended, with this result.
    pub(super) fn ended(&mut self, output: &Output) {
        self.told = true;
        let duration = output.duration;
        self.metrics.ended(self.surface, self.backend, output.status.name(), Some(duration));
        self.metrics.output(output);
        info!(
            exec_id = self.exec_id,
            status = output.status.name(),
            exit_code = output.exit_code(),
            signal = output.signal(),
            duration_ms = duration.as_millis() as u64,
            "command ended"
        );
    }

    /// The command was lost: its end cannot be learnt.
    pub(super) fn lost(&mut self, error: &openbrain::Error) {
        self.told = true;
        self.metrics.ended(self.surface, self.backend, error.code(), None);
        info!(exec_id = self.exec_id, error = error.code(), "command lost");
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if !self.told {
            self.metrics.ended(self.surface, self.backend, "cancelled", None);
            info!(exec_id = self.exec_id, "command given up by its caller");
        }
        self.metrics.running(self.backend, -1);
        self.running.change(|handles| {
            handles.remove(&self.exec_id);
        });
    }
}
