//! Waiting until a new sandbox can be used.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    agent::Agent,
    client::{Client, DiagnosticsKind},
    failure::FailureKind,
    wire::SandboxState,
};
use crate::error::{Error, Result};

/// How long an agent may take to answer once its container runs.
const AGENT: Duration = Duration::from_secs(60);

/// The first and the longest pause between two questions.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// How often it is asked whether the sandbox is still there.
const LOOK: Duration = Duration::from_secs(2);

/// How much of the server's diagnostics an error tells.
const TOLD: usize = 1000;

/// Waits until the agent of a sandbox answers.
pub(super) async fn agent(client: &Client, id: &str, time: Duration) -> Result<Agent> {
    let end = Instant::now() + time.min(AGENT);
    let mut look = Instant::now() + LOOK;
    let mut pause = PAUSE.0;
    let mut agent = None;
    loop {
        let failure = match &agent {
            None => match client.agent(id).await {
                Ok(found) => {
                    agent = Some(found);
                    continue;
                }
                Err(failure) if failure.kind() == FailureKind::NotReady => failure,
                Err(failure) => return Err(failure.into()),
            },
            Some(found) => match found.ping().await {
                Ok(()) => return Ok(found.clone()),
                Err(failure) => failure,
            },
        };
        let now = Instant::now();
        if now >= end {
            let why = format!("its agent does not answer ({failure})");
            return Err(never_ready(client, id, &why).await);
        }
        if now >= look {
            look = now + LOOK;
            let state = client.get(id).await.map_err(Error::from)?.status;
            if matches!(state.state, SandboxState::Failed | SandboxState::Terminated) {
                let why = state.message.or(state.reason).unwrap_or_else(|| "it ended".into());
                return Err(never_ready(client, id, &why).await);
            }
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSE.1);
    }
}

async fn never_ready(client: &Client, id: &str, why: &str) -> Error {
    let mut told = String::new();
    for kind in [DiagnosticsKind::Events, DiagnosticsKind::Logs] {
        if let Ok(found) = client.diagnostics(id, kind).await {
            let text = found.content.trim();
            let from = text.char_indices().rev().nth(TOLD / 2).map_or(0, |(at, _)| at);
            told = format!("{told}\n{}", &text[from..]);
        }
    }
    Error::unavailable(format!("sandbox {id} never became ready: {why}{}", told.trim_end()))
        .with_remedy(
            "check that the image has `sh` and can run the server's `execd_image`; where the \
             sandboxes' ports are not reachable, set `security.sandbox.use_server_proxy: true`",
        )
}
