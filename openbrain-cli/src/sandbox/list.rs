//! `openbrain sandbox list` and `kill`: the sandboxes of this user, and those that openbrain has on a
//! server.

use std::time::SystemTime;

use openbrain::{Engine, SharedSandbox, opensandbox::ServerSandbox};
use serde::Serialize;

use super::engine;
use crate::{
    args::SettingsArgs,
    console::{print, print_json, say, table},
    exit,
    failure::Result,
    moment::rfc3339,
};

const TITLES: [&str; 8] = ["ID", "STATE", "FOR", "NAME", "CREATED", "EXPIRES", "HOST", "IMAGE"];

/// A sandbox of the list.
#[derive(Serialize)]
#[serde(untagged)]
enum Listed {
    Shared(SharedSandbox),
    OnServer(ServerSandbox),
}

impl Listed {
    fn id(&self) -> &str {
        match self {
            Self::Shared(sandbox) => &sandbox.id,
            Self::OnServer(sandbox) => &sandbox.id,
        }
    }
}

/// Prints the list.
pub(super) async fn list(settings: &SettingsArgs, json: bool) -> Result<u8> {
    let found = find(&engine(settings)?).await?;
    match json {
        true => print_json(&found)?,
        false => print(table(TITLES, found.iter().map(row)))?,
    }
    Ok(exit::SUCCESS)
}

/// The sandboxes of this user, then the others on the server, where the settings have one.
async fn find(engine: &Engine) -> Result<Vec<Listed>> {
    let mut found: Vec<_> = engine.shared().await?.into_iter().map(Listed::Shared).collect();
    if engine.settings().security.sandbox.server()?.is_some() {
        let others = engine.sandboxes().await?;
        let is_new = |one: &ServerSandbox| found.iter().all(|known| known.id() != one.id);
        let others: Vec<_> = others.into_iter().filter(is_new).map(Listed::OnServer).collect();
        found.extend(others);
    }
    Ok(found)
}

/// Ends these, or all when there are none, and prints the id of each that is gone; with `exec`, ends
/// that command in their background alone.
pub(super) async fn kill(
    settings: &SettingsArgs,
    ids: Vec<String>,
    exec: Option<&str>,
) -> Result<u8> {
    let engine = engine(settings)?;
    if let Some(exec) = exec {
        for id in ids {
            engine.join(&id).await?.stop(exec, None).await?;
        }
        return Ok(exit::SUCCESS);
    }
    let named = !ids.is_empty();
    let ids = match named {
        true => ids,
        false => find(&engine).await?.iter().map(|sandbox| sandbox.id().to_owned()).collect(),
    };
    let mut code = exit::SUCCESS;
    for id in ids {
        match end(&engine, &id).await {
            Ok(true) => print(format!("{id}\n"))?,
            // Of those that were listed, some may have ended by themselves.
            Ok(false) if !named => {}
            Ok(false) => {
                say(format_args!("there is no sandbox `{id}`"));
                code = exit::FAILURE;
            }
            Err(failure) => {
                failure.print();
                code = failure.code();
            }
        }
    }
    Ok(code)
}

/// Ends a sandbox; false when there is none.
async fn end(engine: &Engine, id: &str) -> Result<bool> {
    match engine.join(id).await {
        Ok(joined) => {
            joined.kill().await?;
            Ok(true)
        }
        Err(error) if error.kind() != openbrain::ErrorKind::SandboxLost => Err(error.into()),
        Err(_) if engine.settings().security.sandbox.server()?.is_some() => {
            Ok(engine.kill_sandbox(id).await?)
        }
        Err(_) => Ok(false),
    }
}

fn row(sandbox: &Listed) -> [String; 8] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let time = |at: &Option<SystemTime>| at.map_or_else(|| "-".into(), rfc3339);
    match sandbox {
        Listed::Shared(SharedSandbox { id, name, created_at, expires_at, paused, .. }) => [
            id.clone(),
            if *paused { "paused" } else { "running" }.to_owned(),
            "many".to_owned(),
            or_dash(name),
            time(&Some(*created_at)),
            time(&Some(*expires_at)),
            "this".to_owned(),
            "-".to_owned(),
        ],
        Listed::OnServer(ServerSandbox {
            id,
            state,
            stays_open,
            name,
            image,
            created_at,
            expires_at,
            host,
        }) => [
            id.clone(),
            state.as_str().to_owned(),
            if *stays_open { "many" } else { "one" }.to_owned(),
            or_dash(name),
            time(created_at),
            time(expires_at),
            or_dash(host),
            or_dash(image),
        ],
    }
}
