//! What is openbrain's on a server: found by its label, and removed by its id.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};
use tokio::time::{Instant, sleep};

use super::{
    client::{Client, ListFilter},
    create::{EXEC, HOST, NAME, OURS, SESSION},
    failure::{Failure, FailureKind},
    run::connection,
    wire::{Sandbox, SandboxState},
};
use crate::{
    check::Check,
    error::{Error, Result},
    spec::ServerSpec,
};

/// A sandbox that openbrain made on an OpenSandbox server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerSandbox {
    /// Its id.
    pub id: String,
    /// How it stands.
    #[serde(serialize_with = "word")]
    pub state: SandboxState,
    /// Whether it stays open for further commands, or is there for one.
    pub stays_open: bool,
    /// Its name for people.
    pub name: Option<String>,
    /// Its image, where it has one.
    pub image: Option<String>,
    /// When it was made.
    #[serde(serialize_with = "time")]
    pub created_at: Option<SystemTime>,
    /// When the server deletes it unless its owner prolongs its life.
    #[serde(serialize_with = "time")]
    pub expires_at: Option<SystemTime>,
    /// The machine of the openbrain that made it.
    pub host: Option<String>,
}

impl From<Sandbox> for ServerSandbox {
    fn from(sandbox: Sandbox) -> Self {
        Self {
            id: sandbox.id,
            state: sandbox.status.state,
            stays_open: sandbox.metadata.get(OURS).is_some_and(|kind| kind == SESSION),
            name: sandbox.metadata.get(NAME).cloned(),
            image: sandbox.image.map(|image| image.uri),
            created_at: sandbox.created_at,
            expires_at: sandbox.expires_at,
            host: sandbox.metadata.get(HOST).cloned(),
        }
    }
}

/// The sandboxes of openbrain on a server, whoever's they are.
pub(crate) async fn list(server: &ServerSpec) -> Result<Vec<ServerSandbox>> {
    let client = Client::new(connection(server))?;
    let mut found = Vec::new();
    for kind in [EXEC, SESSION] {
        let listed = client.list(&ours(kind)).await?.into_iter();
        // A server that does not filter lists the same ones twice.
        let is_of_kind = |sandbox: &Sandbox| sandbox.metadata.get(OURS).is_some_and(|k| k == kind);
        found.extend(listed.filter(is_of_kind));
    }
    Ok(found.into_iter().map(ServerSandbox::from).collect())
}

/// Deletes a sandbox of openbrain, and says whether it was there.
pub(crate) async fn kill(server: &ServerSpec, id: &str) -> Result<bool> {
    let client = Client::new(connection(server))?;
    match client.get(id).await {
        Ok(sandbox) if !sandbox.metadata.contains_key(OURS) => {
            Err(Error::denied(format!("sandbox `{id}` was not made by openbrain"))
                .with_remedy("delete it with the client that made it"))
        }
        Ok(_) => Ok(delete(&client, id).await.map(|()| true)?),
        Err(failure) if failure.kind() == FailureKind::NotFound => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// Deletes a sandbox that is there. Its owner may be at that at the same time, which makes the server
/// fail for one of the two.
async fn delete(client: &Client, id: &str) -> Result<(), Failure> {
    let end = Instant::now() + DELETION;
    loop {
        match client.delete(id).await {
            Ok(_) => return Ok(()),
            Err(failure) if failure.server_code() != Some(DELETE_FAILED) => return Err(failure),
            Err(failure) if Instant::now() >= end => return Err(failure),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// The server's code for a deletion that failed for whatever reason.
const DELETE_FAILED: &str = "DOCKER::SANDBOX_DELETE_FAILED";

/// How long a deletion that fails is tried again, and how often.
const DELETION: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);

/// Looks at a server without making anything on it.
pub(crate) async fn checks(server: &ServerSpec) -> Vec<Check> {
    let found = async {
        let client = Client::new(connection(server))?;
        client.health().await?;
        Ok(client)
    };
    let client = match found.await {
        Ok(client) => client,
        Err(failure) => return vec![failed("server", &failure)],
    };
    let url = &server.url;
    let answers = match client.version().await {
        Ok(version) => format!("OpenSandbox {version} answers at `{url}`"),
        Err(_) => format!("an OpenSandbox server answers at `{url}`; it does not tell its version"),
    };
    let mut checks = vec![Check::ok("server", answers)];
    // Nothing but the key and the engine is needed to list.
    let listed = client.list(&ours(EXEC)).await;
    if let Err(failure) = &listed
        && matches!(failure.kind(), FailureKind::KeyMissing | FailureKind::KeyWrong)
    {
        checks.push(failed("server_key", failure));
        return checks;
    }
    checks.push(Check::ok(
        "server_key",
        match server.api_key {
            Some(_) => "the server accepts the API key",
            None => "the server wants no API key",
        },
    ));
    checks.push(match listed {
        Ok(found) => {
            let count = found.len();
            let words = format!("it runs sandboxes, {count} for commands of openbrain right now");
            Check::ok("server_engine", words)
        }
        Err(failure) => failed("server_engine", &failure),
    });
    checks
}

fn failed(id: &'static str, failure: &Failure) -> Check {
    Check::failed(id, failure.to_string(), failure.remedy().unwrap_or("see the message"))
}

fn ours(kind: &str) -> ListFilter {
    let metadata = BTreeMap::from([(OURS.to_owned(), kind.to_owned())]);
    ListFilter { metadata, ..ListFilter::default() }
}

fn word<S: Serializer>(state: &SandboxState, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(state.as_str())
}

fn time<S: Serializer>(at: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => to.collect_str(&humantime::format_rfc3339_seconds(*at)),
        None => to.serialize_none(),
    }
}
