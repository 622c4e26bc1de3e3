//! What a server tells of itself: that it lives, whether it can run commands, its version, its
//! figures.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use openbrain::{Caller, Engine, Exec, Place, Settings, Surface, settings::Mode};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    problem::{Code, Problem},
    state::App,
    view::json,
};

/// The content type of the figures.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long a trial of the sandbox may take, and how long what it showed is believed.
const TRIAL: Duration = Duration::from_secs(10);
const BELIEVED: Duration = Duration::from_secs(5);

/// That the server lives.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Whether the server can run commands.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Ready {
    /// `ready`.
    status: &'static str,
    /// How sandboxes are.
    sandbox: SandboxState,
}

/// How sandboxes are.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct SandboxState {
    /// Whether there are any to be had.
    available: bool,
    /// Whether the server is of no use without: the settings run commands nowhere else unless asked
    /// to, or name an OpenSandbox server.
    needed: bool,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Which openbrain this is.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Version {
    /// `openbrain`.
    name: &'static str,
    /// Its version.
    version: &'static str,
}

/// Tries sandboxes, one trial at a time, and remembers for a moment what it showed.
#[derive(Debug)]
pub(super) struct Probe {
    engine: Engine,
    needed: bool,
    on_server: bool,
    one: Semaphore,
    last: Mutex<Option<(Instant, SandboxState)>>,
}

impl Probe {
    pub(super) fn new(settings: &Settings) -> Self {
        let place = settings.resolve(Exec::new("true").sandbox()).map(|spec| spec.place);
        let on_server = matches!(place, Ok(Place::Opensandbox(..)));
        let security = &settings.security;
        let needed = on_server || security.mode == Mode::Sandbox || !security.allow_direct;
        let mut settings = settings.clone();
        // What is ready since yesterday shows nothing.
        settings.security.sandbox.pool = 0;
        let engine = Engine::new(settings).for_caller(Caller::new(Surface::Library));
        Self { engine, needed, on_server, one: Semaphore::new(1), last: Mutex::default() }
    }

    async fn state(&self) -> SandboxState {
        // Nobody closes the semaphore.
        let _turn = self.one.acquire().await;
        if let Some((when, state)) = self.last().clone()
            && when.elapsed() < BELIEVED
        {
            return state;
        }
        let reason = match timeout(TRIAL, self.attempt()).await {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(_) => Some(format!("no answer within {} s", TRIAL.as_secs())),
        };
        let state = SandboxState { available: reason.is_none(), needed: self.needed, reason };
        *self.last() = Some((Instant::now(), state.clone()));
        state
    }

    /// A sandbox of this machine takes milliseconds and shows everything; one of a server takes
    /// seconds, and whether the server answers and knows us must do.
    async fn attempt(&self) -> Result<(), String> {
        if self.on_server {
            return self.engine.sandboxes().await.map(drop).map_err(|error| error.to_string());
        }
        match self.engine.run(Exec::new("true").sandbox()).await {
            Ok(output) if output.success() => Ok(()),
            Ok(output) => Err(format!("a sandboxed `true` ended as {}", output.status.name())),
            Err(error) => Err(error.to_string()),
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(Instant, SandboxState)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the server lives.
pub(super) async fn health() -> Response {
    json(StatusCode::OK, &Health { status: "ok" })
}

/// Says whether the server can run commands.
pub(super) async fn ready(State(app): State<App>) -> Response {
    if app.service.is_closing() {
        return Problem::new(Code::Closing, "the server takes no new commands").into_response();
    }
    let sandbox = app.probe.state().await;
    match &sandbox.reason {
        Some(reason) if sandbox.needed => Problem::new(Code::SandboxUnavailable, reason)
            .remedy("`openbrain doctor` says what to mend")
            .into_response(),
        _ => json(StatusCode::OK, &Ready { status: "ready", sandbox }),
    }
}

/// Says which openbrain this is.
pub(super) async fn version() -> Response {
    let (name, version) = ("openbrain", env!("CARGO_PKG_VERSION"));
    json(StatusCode::OK, &Version { name, version })
}

/// Gives the figures.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let mut response = Response::new(Body::from(app.service.metrics()));
    let content_type = HeaderValue::from_static(OPENMETRICS);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
