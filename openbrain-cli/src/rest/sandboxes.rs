//! `/v1/sandboxes`: sandboxes that stay open without their request.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use openbrain::{BackendName, Isolation, NewSandbox, parse_duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    exec, execs, fields, idempotency,
    problem::{Problem, Result},
    state::{App, Asker, NamedSandbox},
    view::{insert, json, json_holding},
};
use crate::{moment::rfc3339, service::OpenSandbox};

/// A sandbox that is open.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Sandbox")]
pub(super) struct SandboxView {
    /// Its name, unique and unguessable.
    sandbox_id: String,
    /// The name for people.
    name: Option<String>,
    /// Labels.
    labels: BTreeMap<String, String>,
    /// Whether its processes run.
    state: SandboxState,
    /// Where it is.
    backend: BackendName,
    /// What is enforced around everything in it.
    isolation: Isolation,
    /// When it was created, RFC 3339.
    created_at: String,
    /// When it ends unless it is renewed, RFC 3339.
    expires_at: String,
    /// What the caller should know about it that is no failure.
    warnings: Vec<String>,
}

/// Whether the processes of a sandbox run.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum SandboxState {
    /// They run.
    Running,
    /// They stand still.
    Paused,
}

/// The open sandboxes of a caller, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SandboxList {
    /// The sandboxes.
    sandboxes: Vec<SandboxView>,
}

/// How long a sandbox is to live on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RenewRequest {
    /// Seconds from now, or a text such as `10m`; at most `server.max_timeout_seconds`.
    timeout: SecondsOrText,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected seconds, or a text such as `10m`")]
#[schemars(inline)]
enum SecondsOrText {
    Seconds(#[schemars(range(min = 0.001))] f64),
    Text(String),
}

impl SandboxView {
    fn of(open: &OpenSandbox) -> Self {
        let sandbox = open.sandbox();
        Self {
            sandbox_id: open.id().to_owned(),
            name: sandbox.name().map(str::to_owned),
            labels: sandbox.labels().clone(),
            state: if open.is_paused() { SandboxState::Paused } else { SandboxState::Running },
            backend: sandbox.backend(),
            isolation: sandbox.isolation().clone(),
            created_at: rfc3339(open.created_at()),
            expires_at: rfc3339(sandbox.expires_at()),
            warnings: sandbox.warnings().map(str::to_owned).collect(),
        }
    }
}

/// Creates a sandbox.
pub(super) async fn create(
    State(app): State<App>,
    Asker(caller): Asker,
    request: Request,
) -> Result<Response> {
    let key = idempotency::key(request.headers())?;
    let (parts, body) = request.into_parts();
    let read = app.bodies.read(&parts.headers, body).await?;
    // Everything may be left out, and then the whole body.
    let new: NewSandbox = match read.bytes.trim_ascii().is_empty() {
        true => NewSandbox::default(),
        false => fields::read(&read.bytes)?,
    };
    let open = match key {
        None => app.service.create_sandbox(new, caller).await?,
        Some(key) => idempotency::create(app, key, new, caller).await?,
    };
    let mut response = json(StatusCode::CREATED, &SandboxView::of(&open));
    let location = format!("/v1/sandboxes/{}", open.id());
    insert(response.headers_mut(), header::LOCATION, &location);
    Ok(response)
}

/// Lists the open sandboxes of a caller: the settings bound how many there can be.
pub(super) async fn list(State(app): State<App>, Asker(caller): Asker) -> Response {
    let open = app.service.sandboxes(&caller);
    let sandboxes = open.iter().map(|open| SandboxView::of(open)).collect();
    json(StatusCode::OK, &SandboxList { sandboxes })
}

/// Tells of one sandbox.
pub(super) async fn get(NamedSandbox(open): NamedSandbox) -> Response {
    json(StatusCode::OK, &SandboxView::of(&open))
}

/// Ends a sandbox with everything in it.
pub(super) async fn delete(NamedSandbox(open): NamedSandbox) -> Result<Response> {
    match open.end_in_time().await {
        Ok(true) => Ok(StatusCode::NO_CONTENT.into_response()),
        Ok(false) => Ok(json(StatusCode::ACCEPTED, &SandboxView::of(&open))),
        Err(error) => Err(Problem::from(error.as_ref())),
    }
}

/// Lets a sandbox live on.
pub(super) async fn renew(
    State(app): State<App>,
    NamedSandbox(open): NamedSandbox,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let read = app.bodies.read(&parts.headers, body).await?;
    let wanted = fields::read_as::<RenewRequest>(&read.bytes, r#"{"timeout": 600}"#)?;
    let time = match wanted.timeout {
        SecondsOrText::Text(text) => parse_duration(&text)?,
        SecondsOrText::Seconds(seconds) => Duration::try_from_secs_f64(seconds)
            .map_err(|error| Problem::invalid(format!("`timeout`: {error}")))?,
    };
    open.sandbox().renew(time).await?;
    Ok(json(StatusCode::OK, &SandboxView::of(&open)))
}

/// Tells what the commands of a sandbox have changed until now. What they wrote stays there.
pub(super) async fn changes(
    State(app): State<App>,
    NamedSandbox(open): NamedSandbox,
) -> Result<Response> {
    let place = app.service.enter().await?;
    let mut changes = open.sandbox().changes().await?;
    changes.release();
    Ok(json_holding(StatusCode::OK, &changes, place))
}

/// Stops every process in a sandbox.
pub(super) async fn pause(NamedSandbox(open): NamedSandbox) -> Result<Response> {
    open.pause().await?;
    Ok(json(StatusCode::OK, &SandboxView::of(&open)))
}

/// Lets every process in a sandbox go on.
pub(super) async fn resume(NamedSandbox(open): NamedSandbox) -> Result<Response> {
    open.resume().await?;
    Ok(json(StatusCode::OK, &SandboxView::of(&open)))
}

/// Runs a command in a sandbox, as `/exec` does.
pub(super) async fn run(
    State(app): State<App>,
    Asker(caller): Asker,
    NamedSandbox(open): NamedSandbox,
    request: Request,
) -> Result<Response> {
    exec::answer(app, caller, Some(open), request).await
}

/// Starts a command in a sandbox, as `/v1/execs` does.
pub(super) async fn start(
    State(app): State<App>,
    Asker(caller): Asker,
    NamedSandbox(open): NamedSandbox,
    request: Request,
) -> Result<Response> {
    execs::answer(app, caller, Some(open), request).await
}

/// Who is asked for the sandbox of a command.
pub(super) type Within = Option<Arc<OpenSandbox>>;
