//! What a model is told of the server before it calls anything.

use std::time::Duration;

use openbrain::{
    Engine, Exec, IsolationLevel, Settings,
    settings::{Approval, Mode, NetworkSettings},
};
use tokio::time::timeout;

/// How long the look at this machine may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a model should know of a server with these settings on this machine.
pub(super) async fn of(settings: &Settings) -> String {
    let sandbox = look(settings).await;
    [default_place(settings), sandbox, network(settings), approval(settings), long(settings)]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Where a command runs, and how that is chosen.
fn default_place(settings: &Settings) -> String {
    let security = &settings.security;
    let direct = "directly on the machine of this server, with the rights of its user and without \
                  isolation";
    match (security.mode, security.allow_direct) {
        (Mode::Direct, true) => format!(
            "Commands run {direct}. Ask for a sandbox with `\"sandbox\": true`; do so for everything \
             that does not need the machine itself."
        ),
        (Mode::Sandbox, true) => format!(
            "Commands run in a sandbox. With `\"sandbox\": false` they run {direct}; do so only for \
             what needs the machine itself."
        ),
        (Mode::Sandbox, false) => {
            "Commands run in a sandbox, always: the settings allow no others.".into()
        }
        (Mode::Direct, false) => {
            "Every command needs `\"sandbox\": true`: the settings allow no others.".into()
        }
    }
}

/// What a sandbox is here: seen by running one where that costs nothing.
async fn look(settings: &Settings) -> String {
    let server = match settings.security.sandbox.server() {
        Ok(server) => server,
        Err(error) => return format!("Sandboxes are not available: {error}."),
    };
    if let Some(server) = server {
        let image = server.image;
        return format!(
            "A sandbox is a container of an OpenSandbox server, image `{image}`.{}",
            files(settings)
        );
    }
    let probe = Engine::new(settings.clone());
    let probe = timeout(PATIENCE, probe.run(Exec::new("true").sandbox()));
    match probe.await {
        Ok(Ok(output)) if output.isolation.level == IsolationLevel::Namespaces => format!(
            "A sandbox has its own files, processes and network, in Linux namespaces ({}): it sees \
             the programs of the machine, read-only, and nothing of its users.{}",
            output.isolation.layers.join(", "),
            files(settings)
        ),
        Ok(Ok(_)) => "Sandboxes are available.".into(),
        Ok(Err(error)) => {
            let remedy = error.remedy().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
            format!("Sandboxes are not available on this machine: {error}{remedy}.")
        }
        Err(_) => {
            "Whether sandboxes are available is not known: the first one took too long.".into()
        }
    }
}

/// How commands find what others left.
const STAYS: &str = " For commands that build on each other, create_sandbox opens one that stays.";

/// What of a sandbox's files stays.
fn files(settings: &Settings) -> String {
    match &settings.security.sandbox.workspace_mount {
        Some(path) => format!(
            " `/workspace` in it is the directory `{}` of the machine, and stays; everything else is \
             gone when the command ends.{STAYS}",
            path.display()
        ),
        None => format!(" Its files are gone when the command ends.{STAYS}"),
    }
}

fn network(settings: &Settings) -> String {
    let NetworkSettings { allow_egress, restrict_egress, block_egress, .. } =
        settings.security.sandbox.network;
    match (allow_egress && !block_egress, restrict_egress) {
        (false, _) => "It has no network.".into(),
        (true, true) => {
            "It reaches only some ports and names of the network; a result tells what was \
                         refused (`denials`)."
                .into()
        }
        (true, false) => "It reaches public hosts, unless `\"allow_network\": false`.".into(),
    }
}

fn approval(settings: &Settings) -> String {
    let security = &settings.security;
    match security.approval {
        Approval::Direct if security.allow_direct => {
            "A person is asked before a command runs outside of a sandbox, and never for one that runs \
             in a sandbox."
                .into()
        }
        Approval::Direct | Approval::Never => String::new(),
    }
}

fn long(settings: &Settings) -> String {
    let server = &settings.server;
    let (wait, most) = (server.yield_after.as_secs_f64(), server.max_timeout.as_secs_f64());
    format!(
        "A command that still runs after {wait} seconds goes on: its result has the status `running` \
         and an `exec_id` for exec_output, exec_input and exec_kill. `timeout` (seconds, at most \
         {most}) kills a command with everything that it started."
    )
}

#[cfg(test)]
mod tests {
    use openbrain::{
        Settings,
        settings::{Approval, Mode},
    };

    use super::of;

    #[tokio::test]
    async fn a_model_is_told_where_commands_run() {
        let mut settings = Settings::default();
        let told = of(&settings).await;
        assert!(told.contains("without isolation. Ask for a sandbox"), "{told}");
        assert!(told.contains("public hosts") && told.contains("50 seconds"), "{told}");
        assert!(!told.contains("person"), "{told}");
        settings.security.mode = Mode::Sandbox;
        settings.security.allow_direct = false;
        settings.security.sandbox.network.block_egress = true;
        settings.security.sandbox.workspace_mount = Some("/srv/work".into());
        let told = of(&settings).await;
        assert!(told.contains("in a sandbox, always") && told.contains("no network"), "{told}");
        settings.security.allow_direct = true;
        settings.security.approval = Approval::Direct;
        assert!(of(&settings).await.contains("A person is asked before"));
    }

    #[tokio::test]
    async fn a_server_of_sandboxes_is_not_asked_for_one() {
        let mut settings = Settings::default();
        settings.security.sandbox.server_url = Some("http://127.0.0.1:1".into());
        let told = of(&settings).await;
        assert!(told.contains("OpenSandbox server, image `opensandbox/"), "{told}");
        settings.security.sandbox.server_url = None;
        settings.security.sandbox.runtime = openbrain::settings::Runtime::Opensandbox;
        assert!(of(&settings).await.contains("Sandboxes are not available"));
    }
}
