//! `exec_command`: run a command, and wait for it as long as the client does.

use std::{path::Path, sync::Arc, time::Duration};

use openbrain::{Caller, Exec, Place, Spec, Stdin, settings::Approval};
use rmcp::model::{CallToolRequestParams, CallToolResponse, CallToolResult, ErrorData};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::{
    approval::{self, Decision, Reply},
    arguments::{ExecCommand, parse, seconds},
    call::Call,
    failure::Failure,
    report::Answer,
    server::Server,
    standing::standing,
    tools::EXEC_COMMAND,
};
use crate::service::{Kept, OpenSandbox, Refusal};

/// How long a command whose input is open is waited for: it waits itself.
const WITH_INPUT: Duration = Duration::from_secs(1);

/// What a call comes to before its end.
enum Stop {
    /// The model is told why it was not done.
    Failed(Failure),
    /// A person is asked first; the client will call again.
    Ask(Box<CallToolResponse>),
    /// The call breaks the protocol.
    Wrong(ErrorData),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Server {
    pub(super) async fn exec_command(
        &self,
        params: CallToolRequestParams,
        call: Call,
    ) -> Result<CallToolResponse, ErrorData> {
        let answer = match self.run(params, &call).await {
            Ok(answer) => answer,
            Err(Stop::Failed(failure)) => Answer::failed(failure),
            Err(Stop::Ask(question)) => return Ok(*question),
            Err(Stop::Wrong(error)) => return Err(error),
        };
        Ok(CallToolResult::from(answer).into())
    }

    async fn run(&self, params: CallToolRequestParams, call: &Call) -> Result<Answer, Stop> {
        let schema = self.input_schema(EXEC_COMMAND);
        let arguments: ExecCommand = parse(schema, params.arguments.clone())?;
        let ExecCommand { exec, sandbox_id, background, yield_seconds } = arguments;
        let within = sandbox_id.map(|id| self.find_sandbox(&id)).transpose()?;
        let most = self.service().settings().server.yield_after;
        let usual = if exec.stdin == Stdin::Pipe { WITH_INPUT.min(most) } else { most };
        let patience = match yield_seconds {
            Some(_) => seconds("yield_seconds", yield_seconds, most, "server.yield_seconds")?,
            None if background => Duration::ZERO,
            None => usual,
        };
        let caller = call.caller();
        // What runs in a sandbox needs no agreement, and what is already open is one.
        if within.is_none() {
            self.agree(&params, &exec, &caller, call).await?;
        }
        let until = Instant::now() + patience;
        // A place to run is waited for even by those who do not wait for the command.
        let kept = self.start(exec, caller, within, Instant::now() + most, call).await?;
        drop(params);
        call.let_body_go();
        Ok(follow(&kept, until, call).await?)
    }

    /// Starts the command, unless that takes longer than the client waits.
    async fn start(
        &self,
        exec: Exec,
        caller: Caller,
        within: Option<Arc<OpenSandbox>>,
        until: Instant,
        call: &Call,
    ) -> Result<Arc<Kept>, Failure> {
        let kept = tokio::select! {
            kept = self.service().keep(exec, caller, within.as_deref()) => {
                kept.map_err(|refusal| refused(&refusal))?
            }
            () = call.abandoned() => return Err(given_up()),
            () = sleep_until(until) => {
                return Err(Failure::exhausted("the command could not be started in time")
                    .with_remedy("the server is busy, or the image of the sandbox is being fetched"));
            }
        };
        if let Some(session) = &call.session {
            session.own(&kept);
        }
        Ok(kept)
    }

    /// Asks a person where the settings want that.
    async fn agree(
        &self,
        params: &CallToolRequestParams,
        exec: &Exec,
        caller: &Caller,
        call: &Call,
    ) -> Result<(), Stop> {
        let settings = self.service().settings();
        if settings.security.approval != Approval::Direct {
            return Ok(());
        }
        // What the settings refuse is refused by the engine, which has it in the audit log then.
        let is_direct = |spec: Spec| spec.place == Place::Direct;
        if !settings.resolve_for(exec.clone(), caller).is_ok_and(is_direct) {
            return Ok(());
        }
        let request = fingerprint_of(exec, caller);
        let remembered = self.approvals().fingerprint(&request);
        if call.session.as_ref().is_some_and(|session| session.allows(&remembered)) {
            info!(caller = caller.name, decision = "always", "approval remembered");
            return Ok(());
        }
        let decision = self.decide(params, exec, caller, &request, call).await?;
        info!(caller = caller.name, decision = decision.name(), "approval given or refused");
        match (decision, &call.session) {
            (Decision::Deny, _) => return Err(approval::denied().into()),
            (Decision::Always, Some(session)) => session.allow(remembered),
            (Decision::Always, None) | (Decision::Once, _) => {}
        }
        Ok(())
    }

    /// The person's decision, by the way that the client's revision of the protocol has.
    async fn decide(
        &self,
        params: &CallToolRequestParams,
        exec: &Exec,
        caller: &Caller,
        request: &str,
        call: &Call,
    ) -> Result<Decision, Stop> {
        if let Some(state) = &params.request_state {
            let answers = params.input_responses.as_ref();
            let reply = self.approvals().reply(request, state, answers).map_err(Stop::Wrong)?;
            if let Reply::Decided(decision) = reply {
                return Ok(decision);
            }
        }
        if !approval::can_ask(call.context.client_capabilities().as_ref()) {
            info!(caller = caller.name, decision = "none", "nobody can be asked for approval");
            return Err(approval::nobody_to_ask().into());
        }
        let client = caller.name.as_deref().unwrap_or("An unknown client");
        let directory = directory();
        let question = approval::question(exec, client, &directory, call.session.is_some());
        if call.is_stateless() {
            let asked = self.approvals().ask(request, question).map_err(unasked)?;
            return Err(Stop::Ask(Box::new(asked.into())));
        }
        let peer = &call.context.peer;
        let asked = peer.create_elicitation_with_timeout(question, Some(approval::PATIENCE));
        tokio::select! {
            answer = asked => match answer {
                Ok(answer) => Ok(Decision::of(&answer)),
                Err(error) => Err(unasked(error).into()),
            },
            () = call.abandoned() => Err(given_up().into()),
        }
    }
}

/// Waits for the end of a command until the client wants its handle. A command whose caller is gone
/// by then is ended.
async fn follow(kept: &Arc<Kept>, until: Instant, call: &Call) -> Result<Answer, Failure> {
    tokio::select! {
        biased;
        _ = kept.ended() => {}
        () = call.abandoned() => {
            kept.cancel();
            return Err(given_up());
        }
        () = sleep_until(until) => {
            if call.is_cut_off() {
                kept.cancel();
                return Err(given_up());
            }
        }
        () = call.progress(kept) => {}
    }
    standing(kept, |standing| standing.answer())
}

/// The request and its caller as a text that is the same for the same request alone.
fn fingerprint_of(exec: &Exec, caller: &Caller) -> String {
    let exec = serde_json::to_string(exec).unwrap_or_else(|error| error.to_string());
    format!("{}\n{exec}", caller.name.as_deref().unwrap_or_default())
}

/// Where a direct command without a directory of its own runs.
fn directory() -> String {
    let here = std::env::current_dir();
    here.as_deref().map_or("unknown".into(), |path: &Path| path.display().to_string())
}

pub(super) fn refused(refusal: &Refusal) -> Failure {
    match refusal {
        Refusal::Library(error) => Failure::from(error),
        Refusal::Busy { retry_after } => {
            let seconds = retry_after.as_secs_f64();
            Failure::exhausted("too many commands run at once").with_remedy(format!(
                "try again in {seconds} s; the keys are `server.max_execs` and `server.max_queue`"
            ))
        }
        Refusal::TooManySandboxes => {
            Failure::exhausted("as many sandboxes are open as the settings allow")
                .with_remedy("end one with end_sandbox; the key is `server.max_sandboxes`")
        }
        Refusal::Closing => Failure::exhausted("the server is about to end"),
    }
}

/// Nobody reads this: the call was cancelled, or the client is gone.
pub(super) fn given_up() -> Failure {
    Failure::exhausted("the call was cancelled")
}

fn unasked(error: impl std::error::Error) -> Failure {
    Failure::denied(format!("the person could not be asked: {error}"))
        .with_remedy("a sandbox (`\"sandbox\": true`) needs no agreement")
}
