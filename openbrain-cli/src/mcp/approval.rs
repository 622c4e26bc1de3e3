//! A person's agreement to a command that is to run on the host.
//!
//! The revisions of the protocol before 2026-07-28 let the server ask the client in the middle of a
//! call (elicitation). Since then the server answers that input is required, and the client calls
//! again with the person's answer and a state that it cannot forge: it is signed, good for ten
//! minutes, for this caller and this very request, and once.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use openbrain::{Command, Exec, Stdin};
use rmcp::model::{
    ClientCapabilities, ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationAction,
    ElicitationSchema, EnumSchema, ErrorData, InputRequest, InputRequests, InputRequiredResult,
    InputResponses, PrimitiveSchemaDefinition, RequestStateCodec, RequestStateError, SealOptions,
};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::Value;

use super::failure::Failure;

/// How long a person has to decide.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

/// Questions that may be open at once; the oldest is forgotten then, and asked again.
const MOST_OPEN: usize = 1024;

/// The name of the question among the inputs that a call needs, and of its answer in the form.
const QUESTION: &str = "approval";
const DECISION: &str = "decision";

const ONCE: &str = "run once";
const DENY: &str = "do not run";
const ALWAYS: &str = "run, and do not ask again for exactly this command in this session";

/// What signs states, and which of them are open.
#[derive(Debug)]
pub(super) struct Approvals {
    codec: RequestStateCodec,
    open: Mutex<VecDeque<Nonce>>,
}

type Nonce = [u8; 16];

/// What a person decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Once,
    Always,
    Deny,
}

/// What the state that a client sent back is worth.
#[derive(Debug)]
pub(super) enum Reply {
    /// The person decided.
    Decided(Decision),
    /// The question must be asked again: too late, or without an answer.
    Unanswered,
}

impl Decision {
    /// The name of the decision in the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Always => "always",
            Self::Deny => "deny",
        }
    }

    /// Reads the person's answer. Everything that is no clear yes is a no.
    pub(super) fn of(answer: &ElicitResult) -> Self {
        let content = answer.content.as_ref();
        let decision = content.and_then(|content| content.get(DECISION)).and_then(Value::as_str);
        match (&answer.action, decision) {
            (ElicitationAction::Accept, Some(ONCE)) => Self::Once,
            (ElicitationAction::Accept, Some(ALWAYS)) => Self::Always,
            _ => Self::Deny,
        }
    }
}

impl Approvals {
    pub(super) fn new() -> io::Result<Self> {
        let key = random::<{ RequestStateCodec::MIN_KEY_LENGTH }>()?;
        let codec = RequestStateCodec::try_new(key).map_err(io::Error::other)?;
        Ok(Self { codec, open: Mutex::default() })
    }

    /// The name of a request of a caller: nobody can make another request that has it.
    pub(super) fn fingerprint(&self, request: &str) -> String {
        self.codec.seal_with(b"", &SealOptions::new().associated_data(request.as_bytes()))
    }

    /// The answer to a call that a person must agree to first.
    pub(super) fn ask(
        &self,
        request: &str,
        question: ElicitRequestParams,
    ) -> io::Result<InputRequiredResult> {
        let nonce = random::<16>()?;
        let options = SealOptions::new().associated_data(request.as_bytes()).ttl(PATIENCE);
        let state = self.codec.seal_with(&nonce, &options);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() == MOST_OPEN {
            open.pop_front();
        }
        open.push_back(nonce);
        let question = InputRequest::Elicitation(ElicitRequest::new(question));
        let questions = InputRequests::from([(QUESTION.to_owned(), question)]);
        Ok(InputRequiredResult::new(Some(questions), Some(state)))
    }

    /// Reads the state and the answer that a client sent with its second call.
    pub(super) fn reply(
        &self,
        request: &str,
        state: &str,
        answers: Option<&InputResponses>,
    ) -> Result<Reply, ErrorData> {
        let nonce = match self.codec.open_with(state, request.as_bytes()) {
            Ok(nonce) => nonce,
            Err(RequestStateError::Expired) => return Ok(Reply::Unanswered),
            Err(_) => return Err(not_ours("is not that of this caller and this command")),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.iter().position(|issued| issued.as_slice() == nonce) {
            Some(at) => drop(open.remove(at)),
            None => return Err(not_ours("was used before")),
        }
        let answer = answers.and_then(|answers| answers.get(QUESTION)).cloned();
        let answer = answer.and_then(|answer| serde_json::from_value(answer).ok());
        Ok(answer.map_or(Reply::Unanswered, |answer| Reply::Decided(Decision::of(&answer))))
    }
}

fn not_ours(why: &str) -> ErrorData {
    ErrorData::invalid_params(format!("the request state {why}"), None)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty())?;
    if filled == N { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Whether a client can ask a person. One that names no form of asking means forms.
pub(super) fn can_ask(client: Option<&ClientCapabilities>) -> bool {
    let elicitation = client.and_then(|client| client.elicitation.as_ref());
    elicitation.is_some_and(|modes| modes.form.is_some() || modes.url.is_none())
}

/// Nobody can be asked.
pub(super) fn nobody_to_ask() -> Failure {
    Failure::denied(
        "a person must agree to commands on the host, and this client cannot ask one: it does not \
         support elicitation",
    )
    .with_remedy(
        "run it in a sandbox (`\"sandbox\": true`), which needs no agreement; the key is \
         `security.approval`",
    )
}

/// The person said no.
pub(super) fn denied() -> Failure {
    Failure::denied("the person who was asked did not agree to this command").with_remedy(
        "ask them what to do instead; a sandbox (`\"sandbox\": true`) needs no agreement",
    )
}

/// The question: all of the request that decides what happens, nothing of it cut.
pub(super) fn question(
    exec: &Exec,
    client: &str,
    directory: &str,
    in_session: bool,
) -> ElicitRequestParams {
    let mut decisions = vec![ONCE, DENY];
    if in_session {
        decisions.push(ALWAYS);
    }
    let decisions = decisions.into_iter().map(str::to_owned).collect();
    let choice = EnumSchema::builder(decisions).untitled().title("Run this command?").build();
    let choice = PrimitiveSchemaDefinition::Enum(choice);
    let form = ElicitationSchema::new([(DECISION.to_owned(), choice)].into());
    ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: describe(exec, client, directory),
        requested_schema: form.with_required(vec![DECISION.into()]),
    }
}

fn describe(exec: &Exec, client: &str, directory: &str) -> String {
    let Exec { command, workdir, env, stdin, shell, timeout, limits, tty, .. } = exec;
    let mut lines = vec![match command {
        Command::Shell(script) => visible(script),
        Command::Argv(arguments) => {
            let quoted = arguments.iter().map(|argument| format!("{argument:?}"));
            quoted.collect::<Vec<_>>().join(" ")
        }
        Command::Script { language, source } => {
            let language = language.as_deref().unwrap_or("its own");
            format!("(a program, language: {})\n{}", visible(language), visible(source))
        }
    }];
    lines.push(String::new());
    let directory = workdir.as_ref().map_or(directory.into(), |path| path.to_string_lossy());
    lines.push(format!("Directory: {}", visible(&directory)));
    lines.extend(shell.iter().map(|shell| format!("Shell: {}", visible(shell))));
    let variables = env.iter();
    lines.extend(
        variables.map(|(name, value)| format!("Variable: {}", visible(&format!("{name}={value}")))),
    );
    match stdin {
        Stdin::Bytes(bytes) => {
            lines.push(format!("Input:\n{}", visible(&String::from_utf8_lossy(bytes))));
        }
        Stdin::Pipe => lines.push("Input: what the client writes later, which is not shown".into()),
        Stdin::Null | Stdin::File(_) | Stdin::Inherit => {}
    }
    lines.extend(timeout.map(|timeout| format!("Timeout: {timeout:?}")));
    if *limits != openbrain::Limits::default() {
        lines.push(format!("Limits: {}", serde_json::to_string(limits).unwrap_or_default()));
    }
    lines.extend(tty.map(|_| "On a terminal of its own".to_owned()));
    let request = lines.join("\n");
    format!(
        "{} wants to run this command on this machine, outside of any sandbox:\n\n{request}",
        visible(client)
    )
}

/// The text with everything that would change how it looks written out: escape sequences, and marks
/// that turn the direction of writing or take no room.
fn visible(text: &str) -> String {
    let hides = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match hides(c) {
            true => shown.extend(c.escape_unicode()),
            false => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use openbrain::{Exec, Stdin};
    use rmcp::model::{ElicitRequestParams, ElicitResult, ElicitationAction, InputResponses};
    use serde_json::{Value, json};

    use super::{Approvals, Decision, MOST_OPEN, Reply, can_ask, question};

    fn ask(approvals: &Approvals, request: &str) -> String {
        let question = question(&Exec::new("true"), "test", "/", true);
        approvals.ask(request, question).unwrap().request_state.unwrap()
    }

    fn yes() -> InputResponses {
        let answer = json!({"action": "accept", "content": {"decision": "run once"}});
        InputResponses::from([("approval".to_owned(), answer)])
    }

    #[test]
    fn a_state_is_good_once_and_for_one_request_of_one_caller() {
        let approvals = Approvals::new().unwrap();
        let state = ask(&approvals, "caller ls");
        for other in ["caller rm", "other ls", ""] {
            assert!(approvals.reply(other, &state, Some(&yes())).is_err());
        }
        let stranger = Approvals::new().unwrap();
        assert!(stranger.reply("caller ls", &state, Some(&yes())).is_err());
        let reply = approvals.reply("caller ls", &state, Some(&yes())).unwrap();
        assert!(matches!(reply, Reply::Decided(Decision::Once)));
        assert!(approvals.reply("caller ls", &state, Some(&yes())).is_err());
    }

    #[test]
    fn a_forged_state_is_refused() {
        let approvals = Approvals::new().unwrap();
        let mut state = ask(&approvals, "r");
        assert!(approvals.reply("r", &approvals.fingerprint("r"), Some(&yes())).is_err());
        let last = state.pop().unwrap();
        state.push(if last == 'A' { 'B' } else { 'A' });
        for state in [state.as_str(), "", "rs1..", "x"] {
            assert!(approvals.reply("r", state, Some(&yes())).is_err(), "{state}");
        }
    }

    #[test]
    fn without_an_answer_the_question_stays() {
        let approvals = Approvals::new().unwrap();
        let state = ask(&approvals, "r");
        assert!(matches!(approvals.reply("r", &state, None).unwrap(), Reply::Unanswered));
    }

    #[test]
    fn open_questions_are_bounded() {
        let approvals = Approvals::new().unwrap();
        let first = ask(&approvals, "r");
        let others: Vec<_> = (0..MOST_OPEN).map(|_| ask(&approvals, "r")).collect();
        assert!(approvals.reply("r", &first, Some(&yes())).is_err());
        assert!(approvals.reply("r", &others[0], Some(&yes())).is_ok());
    }

    #[test]
    fn only_a_clear_yes_is_a_yes() {
        let answer = |action, content: Option<Value>| {
            let mut answer = ElicitResult::new(action);
            answer.content = content;
            Decision::of(&answer)
        };
        let accept = || ElicitationAction::Accept;
        let decision = |text: &str| Some(json!({"decision": text}));
        assert_eq!(answer(accept(), decision("run once")), Decision::Once);
        assert_eq!(answer(accept(), decision(super::ALWAYS)), Decision::Always);
        for (action, content) in [
            (accept(), decision("do not run")),
            (accept(), decision("yes")),
            (accept(), Some(json!({}))),
            (accept(), None),
            (ElicitationAction::Decline, decision("run once")),
            (ElicitationAction::Cancel, None),
        ] {
            assert_eq!(answer(action, content), Decision::Deny);
        }
    }

    #[test]
    fn the_question_shows_everything_and_hides_nothing() {
        let long = format!("echo {} && rm -rf /", "x".repeat(100_000));
        let exec = Exec::new(format!("{long}\x1b[2K\u{202e}"))
            .env("PATH", "/evil")
            .shell("zsh")
            .stdin(Stdin::Bytes(b"more\r".to_vec()));
        let asked = question(&exec, "client\x07", "/home", false);
        let ElicitRequestParams::FormElicitationParams { message, requested_schema, .. } = asked
        else {
            panic!("{asked:?}");
        };
        for part in [
            long.as_str(),
            "\\u{1b}[2K\\u{202e}",
            "client\\u{7} wants",
            "Directory: /home",
            "Variable: PATH=/evil",
            "Shell: zsh",
            "Input:\nmore\\u{d}",
        ] {
            assert!(message.contains(part), "{part}");
        }
        let schema = serde_json::to_value(requested_schema).unwrap();
        assert_eq!(schema["properties"]["decision"]["enum"], json!(["run once", "do not run"]));
        assert_eq!(schema["required"], json!(["decision"]));
    }

    #[test]
    fn a_client_that_names_no_form_of_asking_means_forms() {
        let can = |elicitation: Value| {
            can_ask(serde_json::from_value(json!({"elicitation": elicitation})).ok().as_ref())
        };
        assert!(can(json!({})) && can(json!({"form": {}})));
        assert!(!can(json!({"url": {}})) && !can(Value::Null) && !can_ask(None));
    }
}
