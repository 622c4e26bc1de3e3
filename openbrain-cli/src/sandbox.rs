//! `openbrain sandbox`: what openbrain has on an OpenSandbox server.

use std::time::SystemTime;

use openbrain::{Engine, opensandbox::ServerSandbox};

use crate::{
    args::{SandboxCommand, SettingsArgs},
    config,
    console::{print, print_json, say, table},
    exit,
    failure::{Failure, Result},
    settle,
};

const TITLES: [&str; 8] = ["ID", "STATE", "FOR", "NAME", "CREATED", "EXPIRES", "HOST", "IMAGE"];

/// Runs `openbrain sandbox` and returns the exit code.
pub(crate) fn run(command: SandboxCommand) -> Result<u8> {
    let runtime = settle::runtime()?;
    match command {
        SandboxCommand::List { json, settings } => runtime.block_on(list(&settings, json)),
        SandboxCommand::Kill { ids, all: _, settings } => runtime.block_on(kill(&settings, ids)),
    }
}

async fn list(settings: &SettingsArgs, json: bool) -> Result<u8> {
    let sandboxes = engine(settings)?.sandboxes().await?;
    match json {
        true => print_json(&sandboxes)?,
        false => print(table(TITLES, sandboxes.iter().map(row)))?,
    }
    Ok(exit::SUCCESS)
}

/// Deletes these, or all when there are none, and prints the id of each that is gone.
async fn kill(settings: &SettingsArgs, ids: Vec<String>) -> Result<u8> {
    let engine = engine(settings)?;
    let named = !ids.is_empty();
    let ids = match named {
        true => ids,
        false => engine.sandboxes().await?.into_iter().map(|sandbox| sandbox.id).collect(),
    };
    let mut code = exit::SUCCESS;
    for id in ids {
        match engine.kill_sandbox(&id).await {
            Ok(true) => print(format!("{id}\n"))?,
            // Of those that were listed, some may have ended by themselves.
            Ok(false) if !named => {}
            Ok(false) => {
                say(format_args!("there is no sandbox `{id}`"));
                code = exit::FAILURE;
            }
            Err(error) => {
                let failure = Failure::from(error);
                failure.print();
                code = failure.code();
            }
        }
    }
    Ok(code)
}

fn engine(settings: &SettingsArgs) -> Result<Engine> {
    Ok(Engine::new(config::load(settings)?.settings))
}

fn row(sandbox: &ServerSandbox) -> [String; 8] {
    let ServerSandbox { id, state, stays_open, name, image, created_at, expires_at, host } =
        sandbox;
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let time = |at: &Option<SystemTime>| {
        at.map_or_else(|| "-".into(), |at| humantime::format_rfc3339_seconds(at).to_string())
    };
    [
        id.clone(),
        state.as_str().to_owned(),
        if *stays_open { "many" } else { "one" }.to_owned(),
        or_dash(name),
        time(created_at),
        time(expires_at),
        or_dash(host),
        or_dash(image),
    ]
}
