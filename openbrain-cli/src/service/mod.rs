//! What the REST and the MCP server share: commands and sandboxes under a bound, and those that
//! outlive a request.

mod gate;
mod kept;
mod log;
mod metrics;
mod running;
mod sandboxes;
mod shelf;

use std::{sync::Arc, time::Duration};

use openbrain::{Caller, Engine, ErrorKind, Event, Exec, NewSandbox, Output, Process, Settings};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::{
    gate::Gate,
    running::{Active, Running},
    sandboxes::Sandboxes,
    shelf::Shelf,
};
pub(crate) use self::{
    kept::{InputFailure, Item, Kept, Stream, cost_of},
    metrics::Metrics,
    sandboxes::OpenSandbox,
};

/// What callers are told of a failure that [is the server's own](is_own).
pub(crate) const IN_THE_LOG: &str = "the log of the server says more";

/// How long killed commands have to be gone.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// Runs commands for callers, not too many at once, remembers those that outlive a request, and keeps
/// sandboxes open.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Engine,
    gate: Gate,
    shelf: Arc<Shelf>,
    running: Arc<Running>,
    sandboxes: Arc<Sandboxes>,
    metrics: Arc<Metrics>,
    /// Nothing more is started.
    closing: CancellationToken,
    /// Nothing more is waited for.
    killed: CancellationToken,
}

/// Why a command was not started.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The library refused it, or could not start it.
    Library(openbrain::Error),
    /// Too many commands run and too many requests wait.
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// As many sandboxes are open as there may be.
    TooManySandboxes,
    /// The server is about to end.
    Closing,
}

/// A command that belongs to one request: dropping it kills the command with all its processes.
#[derive(Debug)]
pub(crate) struct Attached {
    process: Process,
    active: Active,
}

/// The place of a command that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    _active: Active,
}

impl Service {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        let server = &settings.server;
        Arc::new(Self {
            gate: Gate::new(server.max_execs, server.max_queue),
            shelf: Arc::new(Shelf::new(server.max_kept_output, server.keep)),
            running: Arc::default(),
            sandboxes: Arc::new(Sandboxes::new(server.max_sandboxes)),
            metrics: Arc::default(),
            closing: CancellationToken::new(),
            killed: CancellationToken::new(),
            engine: Engine::new(settings),
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        self.engine.settings()
    }

    /// The figures of this server, as text for Prometheus.
    pub(crate) fn metrics(&self) -> String {
        let figures =
            [self.gate.waiting() as u64, self.shelf.used(), self.sandboxes.count() as u64];
        self.metrics.text(figures)
    }

    /// Cancelled when nothing more is started because the server is about to end.
    pub(crate) fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// How many commands run now.
    pub(crate) fn running(&self) -> usize {
        self.running.count()
    }

    /// Whether nothing more is started because the server is about to end.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Starts a command that belongs to its request, in a sandbox that is open or where the settings
    /// say.
    pub(crate) async fn attach(
        &self,
        exec: Exec,
        caller: Caller,
        within: Option<&OpenSandbox>,
    ) -> Result<Attached, Refusal> {
        let (process, active) = self.start(exec, &caller, within).await?;
        Ok(Attached { process, active })
    }

    /// Starts a command that goes on without its request, and is remembered when it has ended.
    /// Dropping the future before it is ready kills the command.
    pub(crate) async fn keep(
        &self,
        exec: Exec,
        caller: Caller,
        within: Option<&OpenSandbox>,
    ) -> Result<Arc<Kept>, Refusal> {
        let limit = exec.limits.output.or(self.settings().security.sandbox.limits.output);
        let shown = kept::presentable(&exec);
        let (mut process, active) = self.start(exec, &caller, within).await?;
        let kept =
            Arc::new(Kept::new(shown, caller, &mut process, within.map(OpenSandbox::id), limit));
        self.shelf.put(&kept);
        let driven = kept::drive(process, Arc::clone(&kept), Arc::clone(&self.shelf), active);
        tokio::spawn(driven.in_current_span());
        Ok(kept)
    }

    /// The command of this name, which is as good as a key: nobody can guess it.
    pub(crate) fn find(&self, exec_id: &str) -> Option<Arc<Kept>> {
        self.shelf.find(exec_id)
    }

    /// The commands of a caller that are remembered, the newest first.
    pub(crate) fn list(&self, caller: &Caller) -> Vec<Arc<Kept>> {
        self.shelf.of(caller)
    }

    /// Creates a sandbox that stays open without its request. Dropping the future before it is ready
    /// leaves none.
    pub(crate) async fn create_sandbox(
        &self,
        new: NewSandbox,
        caller: Caller,
    ) -> Result<Arc<OpenSandbox>, Refusal> {
        let surface = caller.surface;
        let created = self.try_create(new, caller).await;
        created.inspect_err(|refusal| self.metrics.refused(surface, refusal.code()))
    }

    async fn try_create(
        &self,
        new: NewSandbox,
        caller: Caller,
    ) -> Result<Arc<OpenSandbox>, Refusal> {
        let place = self.sandboxes.place()?;
        let engine = self.engine.for_caller(caller.clone());
        let sandbox = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Err(Refusal::Closing),
            sandbox = engine.create(new) => sandbox.map_err(Refusal::Library)?,
        };
        let open = self.sandboxes.put(sandbox, caller, place);
        // Whoever ends everything may have looked just before.
        if self.killed.is_cancelled() {
            open.end();
        }
        Ok(open)
    }

    /// The open sandbox of this name, which is as good as a key: nobody can guess it.
    pub(crate) fn find_sandbox(&self, id: &str) -> Option<Arc<OpenSandbox>> {
        self.sandboxes.find(id)
    }

    /// The open sandboxes of a caller, the newest first.
    pub(crate) fn sandboxes(&self, caller: &Caller) -> Vec<Arc<OpenSandbox>> {
        self.sandboxes.of(caller)
    }

    /// Waits for a place to work on the files of a sandbox, which is a command as any other. The place
    /// is free again when the permit is dropped.
    pub(crate) async fn enter(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(Refusal::Closing),
            place = self.gate.enter() => place,
        }
    }

    /// Ends the service: nothing more is started, running commands and work on files have some time to
    /// end by themselves, and are killed then with all sandboxes.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        let drained = timeout(self.settings().server.drain, self.gate.none());
        tokio::select! {
            _ = drained => {}
            () = self.killed.cancelled() => {}
        }
        self.kill();
        // What is not gone by now is killed by the kernel when this process is.
        let _ =
            timeout(LAST_WAIT, async { tokio::join!(self.running.none(), self.sandboxes.none()) })
                .await;
    }

    /// Kills every command and ends every sandbox at once, and starts none any more.
    pub(crate) fn kill(&self) {
        self.closing.cancel();
        self.killed.cancel();
        self.running.kill();
        self.sandboxes.end();
    }

    async fn start(
        &self,
        exec: Exec,
        caller: &Caller,
        within: Option<&OpenSandbox>,
    ) -> Result<(Process, Active), Refusal> {
        let started = self.try_start(exec, caller, within).await;
        if let Err(refusal) = &started {
            self.metrics.refused(caller.surface, refusal.code());
        }
        started
    }

    async fn try_start(
        &self,
        exec: Exec,
        caller: &Caller,
        within: Option<&OpenSandbox>,
    ) -> Result<(Process, Active), Refusal> {
        let place = self.enter().await?;
        let engine = self.engine.for_caller(caller.clone());
        let began = Instant::now();
        let spawned = async {
            match within {
                Some(open) => open.sandbox().spawn(exec).await,
                None => engine.spawn(exec).await,
            }
        };
        let process = tokio::select! {
            process = spawned => process.map_err(Refusal::Library)?,
            () = self.killed.cancelled() => return Err(Refusal::Closing),
        };
        self.metrics.started(process.backend(), began.elapsed());
        let metrics = Arc::clone(&self.metrics);
        let active = Active::new(&self.running, metrics, place, caller, &process);
        // Whoever kills everything may have looked just before.
        if self.killed.is_cancelled() {
            process.kill();
        }
        Ok((process, active))
    }
}

/// Whether a failure is the server's own or that of its settings: what there is to say of it may tell
/// callers of the server what they need not know, and goes to its log.
pub(crate) fn is_own(error: &openbrain::Error) -> bool {
    let own = matches!(error.kind(), ErrorKind::Internal | ErrorKind::InvalidSettings);
    if own {
        tracing::error!(error = ?error, "a request failed");
    }
    own
}

impl Refusal {
    /// The stable, machine-readable name.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Library(error) => error.code(),
            Self::Busy { .. } | Self::TooManySandboxes => "busy",
            Self::Closing => "closing",
        }
    }
}

impl Attached {
    pub(crate) fn exec_id(&self) -> &str {
        self.process.exec_id()
    }

    /// Waits for the next event; a command whose events nobody takes waits too.
    pub(crate) async fn next_event(&mut self) -> openbrain::Result<Option<Event>> {
        let event = self.process.next_event().await;
        let event = event.inspect_err(|error| self.active.lost(error))?;
        if let Some(Event::Ended(output)) = &event {
            self.active.ended(output);
        }
        Ok(event)
    }

    /// Waits for the end, collecting the output up to the limit. As long as that is in memory it takes
    /// up the place of its command.
    pub(crate) async fn wait(self) -> openbrain::Result<(Output, Finished)> {
        let Self { process, mut active } = self;
        let output = process.wait().await.inspect_err(|error| active.lost(error))?;
        active.ended(&output);
        Ok((output, Finished { _active: active }))
    }
}

#[cfg(test)]
mod tests;
