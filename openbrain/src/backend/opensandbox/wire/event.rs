//! What the agent tells while a command runs.

use serde::Deserialize;

/// What the agent tells about a running command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgentEvent {
    /// It starts under this id.
    Init {
        /// The id, for [`Agent::interrupt`](crate::opensandbox::Agent::interrupt).
        id: String,
    },
    /// The agent is there; comes every three seconds.
    Ping,
    /// Standard output. See [`OutputText`](crate::opensandbox::OutputText) for what is missing in it.
    Stdout(String),
    /// Standard error.
    Stderr(String),
    /// It ended; nothing follows.
    Done(Completion),
}

/// How a command ended, as far as the agent tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It exited with this code.
    Exited(i32),
    /// It was killed: by a signal, by the agent's timeout or by an interrupt, which the agent does
    /// not tell apart.
    Killed {
        /// The signal's number on Linux, where the agent's words name one.
        signal: Option<i32>,
    },
    /// It could not be started.
    NotStarted {
        /// The agent's words.
        reason: String,
    },
}

/// Something else than an event.
#[derive(Debug)]
pub(in super::super) struct NotAnEvent(pub(in super::super) String);

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    error: Option<Fault>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fault {
    ename: Option<String>,
    evalue: Option<String>,
    traceback: Option<Vec<String>>,
}

/// Reads one event; nothing if it is of a type that tells nothing about the command.
pub(in super::super) fn read_event(frame: &[u8]) -> Result<Option<AgentEvent>, NotAnEvent> {
    let frame: Frame =
        serde_json::from_slice(frame).map_err(|error| NotAnEvent(error.to_string()))?;
    let text = frame.text.unwrap_or_default();
    Ok(match frame.kind.as_str() {
        "init" => Some(AgentEvent::Init { id: text }),
        "ping" => Some(AgentEvent::Ping),
        "stdout" => Some(AgentEvent::Stdout(text)),
        "stderr" => Some(AgentEvent::Stderr(text)),
        "execution_complete" => Some(AgentEvent::Done(Completion::Exited(0))),
        "error" => Some(AgentEvent::Done(frame.error.unwrap_or_default().completion())),
        _ => None,
    })
}

impl Fault {
    fn completion(self) -> Completion {
        let traceback = self.traceback.unwrap_or_default();
        let value = self.evalue.unwrap_or_default();
        match value.trim().parse::<i32>() {
            Ok(code) if code >= 0 => Completion::Exited(code),
            Ok(_) => Completion::Killed { signal: traceback.iter().find_map(|line| signal(line)) },
            Err(_) => Completion::NotStarted {
                reason: [value, traceback.join("; "), self.ename.unwrap_or_default()]
                    .into_iter()
                    .find(|words| !words.trim().is_empty())
                    .unwrap_or_else(|| "the agent gave no reason".to_owned()),
            },
        }
    }
}

/// The number of the signal in words such as `signal: segmentation fault (core dumped)`, which are
/// those of Go's `os.ProcessState` on Linux.
fn signal(words: &str) -> Option<i32> {
    let name = words.trim().strip_prefix("signal: ")?;
    let name = name.strip_suffix(" (core dumped)").unwrap_or(name);
    if let Some(number) = name.strip_prefix("signal ") {
        return number.parse().ok();
    }
    let place = SIGNALS.iter().position(|known| *known == name)?;
    i32::try_from(place + 1).ok()
}

/// Go's names of the signals from 1 on; those beyond it calls by their number.
const SIGNALS: [&str; 15] = [
    "hangup",
    "interrupt",
    "quit",
    "illegal instruction",
    "trace/breakpoint trap",
    "aborted",
    "bus error",
    "floating point exception",
    "killed",
    "user defined signal 1",
    "segmentation fault",
    "user defined signal 2",
    "broken pipe",
    "alarm clock",
    "terminated",
];
