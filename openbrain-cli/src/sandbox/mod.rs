//! `openbrain sandbox`: sandboxes that stay open between commands of a shell.
//!
//! `create` starts a process of its own that [holds](hold) the sandbox; everything else joins it.

pub(crate) mod args;
mod create;
mod exec;
mod files;
mod hold;
mod list;
mod logs;
mod port;

use openbrain::{Changes, Engine, Joined};

use self::args::{SandboxCommand, Target};
use crate::{
    args::SettingsArgs, changes, config, console::say, exec::caller, exit, failure::Result, settle,
};

/// Runs `openbrain sandbox` and returns the exit code.
pub(crate) fn run(command: SandboxCommand) -> Result<u8> {
    match command {
        SandboxCommand::Create(args) => create::run(*args),
        SandboxCommand::Exec(args) => exec::run(*args),
        SandboxCommand::Hold => hold::run(),
        SandboxCommand::List { json, settings } => wait_for(list::list(&settings, json)),
        SandboxCommand::Kill { ids, all: _, exec, settings } => {
            wait_for(list::kill(&settings, ids, exec.as_deref()))
        }
        SandboxCommand::Files(command) => wait_for(files::run(command)),
        SandboxCommand::Logs(args) => wait_for(logs::run(args)),
        SandboxCommand::Changes { target, diff, json } => wait_for(async {
            let joined = join(&target.settings, &target.sandbox).await?;
            let changes = changed(&joined).await?;
            changes::show(&changes, diff, json)?;
            if let (Some(id), false) = (&changes.id, json) {
                say(format_args!("saved; apply with: openbrain apply {id}"));
            }
            Ok(exit::SUCCESS)
        }),
        SandboxCommand::Port(args) => wait_for(port::run(args)),
        SandboxCommand::Pause(target) => order(&target, async |joined| joined.pause().await),
        SandboxCommand::Resume(target) => order(&target, async |joined| joined.resume().await),
        SandboxCommand::Renew { target, time } => {
            order(&target, async |joined| joined.renew(time).await)
        }
    }
}

fn wait_for(work: impl Future<Output = Result<u8>>) -> Result<u8> {
    settle::runtime()?.block_on(work)
}

fn order(
    Target { sandbox, settings }: &Target,
    order: impl AsyncFnOnce(&Joined) -> openbrain::Result<()>,
) -> Result<u8> {
    wait_for(async {
        order(&join(settings, sandbox).await?).await?;
        Ok(exit::SUCCESS)
    })
}

/// What has changed, saved. That it cannot be is a warning: it is there to be seen all the same.
async fn changed(joined: &Joined) -> Result<Changes> {
    let saved = async { Ok(joined.changes(Some(&changes::directory()?)).await?) };
    match saved.await {
        Ok(changes) => Ok(changes),
        Err(failure) => {
            let changes = joined.changes(None).await?;
            say(format_args!("warning: {}", changes::unsaved(&failure)));
            Ok(changes)
        }
    }
}

fn engine(settings: &SettingsArgs) -> Result<Engine> {
    Ok(Engine::new(config::load(settings)?.settings).for_caller(caller()))
}

async fn join(settings: &SettingsArgs, sandbox: &str) -> Result<Joined> {
    Ok(engine(settings)?.join(sandbox).await?)
}
