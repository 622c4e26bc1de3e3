//! What the log says of a command, as it is written and read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    caller::Surface,
    exec::Command,
    output::BackendName,
    sandbox::{Isolation, Limits, Network},
    spec::System,
};

/// One record: a line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// A command is about to be started, or a sandbox that stays open to be created.
    Start(Box<Start>),
    /// It has ended, or was not started.
    End(Box<End>),
    /// A request was refused; nothing was run.
    Refused(Box<Refused>),
}

/// What a request asked for, and who sent it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// When, RFC 3339 in UTC, down to milliseconds.
    pub time: String,
    /// Name of the execution, as in its result.
    pub exec_id: String,
    /// The way the request came.
    pub surface: Surface,
    /// What is known of who sent it.
    pub caller: Option<String>,
    /// The process of openbrain.
    pub pid: u32,
    /// What was to be run; null for a sandbox that stays open, which runs nothing by itself. A long
    /// command is cut.
    pub command: Option<Command>,
    /// The sandbox that was to be opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens: Option<Opens>,
    /// The whole of a command that is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_cut: Option<Cut>,
    /// Names of the variables that the request sets; values may be secrets.
    pub env: Vec<String>,
    /// The working directory that it asked for.
    pub workdir: Option<String>,
    /// Whether it asked for a sandbox; null when it left that to the settings.
    pub sandbox: Option<bool>,
}

/// What a sandbox that stays open is called; its life is recorded as that of a command is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opens {
    /// The name for people.
    pub name: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A command that is cut in a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Length in bytes of the text, or of all arguments with a NUL byte after each.
    pub bytes: u64,
    /// SHA-256 of the same, in hexadecimal digits.
    pub sha256: String,
}

/// The start of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// What was asked for.
    #[serde(flatten)]
    pub request: Request,
    /// Where it runs.
    pub backend: BackendName,
    /// The OpenSandbox server and the image of the sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// The shell that runs a script.
    pub shell: String,
    /// Seconds until it is killed; null for no deadline.
    pub timeout_seconds: Option<f64>,
    /// Resource limits.
    pub limits: Limits,
    /// What the sandbox is given; null for a direct command.
    pub policy: Option<Policy>,
}

/// The place of a sandbox on a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Address of the server.
    pub url: String,
    /// Image of the sandbox.
    pub image: String,
}

/// What a sandbox is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Host directories, as `SRC:DST:MODE`.
    pub mounts: Vec<String>,
    /// Host paths that are visible, read-only, at the same place.
    pub expose: Vec<String>,
    /// What it may reach.
    pub network: Network,
    /// Private services that it may reach beside that.
    pub allowed_hosts: Vec<String>,
    /// How the host's system directories appear.
    pub system: System,
    /// What was in place of them: a directory of the host with an unpacked image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// When, RFC 3339 in UTC, down to milliseconds.
    pub time: String,
    /// Name of the execution.
    pub exec_id: String,
    /// What became of it.
    pub status: Status,
    /// The exit code, when it ended by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Why it was not started, or how it was lost.
    pub error: Option<Failure>,
    /// What is known of a command that was started.
    #[serde(flatten)]
    pub run: Option<Run>,
}

/// What is known of a command that was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// From start to end.
    pub duration_ms: u64,
    /// The sandbox it ran in, where sandboxes have names.
    pub sandbox_id: Option<String>,
    /// What was really enforced.
    pub isolation: Isolation,
    /// How many bytes of standard output openbrain had read.
    pub stdout_bytes: u64,
    /// How many bytes of standard error openbrain had read.
    pub stderr_bytes: u64,
    /// Whether the middle of standard output is missing in the result; null when nobody had read
    /// the output to its end when this was written.
    pub stdout_truncated: Option<bool>,
    /// The same of standard error.
    pub stderr_truncated: Option<bool>,
    /// How often the sandbox refused something.
    pub denials: u64,
    /// What the caller was told that is no failure.
    pub warnings: Vec<String>,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It ended by itself.
    Exited,
    /// A signal ended it.
    Signaled,
    /// Its deadline passed.
    TimedOut,
    /// The caller ended it, or gave it up while it was being started.
    Cancelled,
    /// Of a sandbox: its owner has left it to itself until the end of its time.
    Kept,
    /// It could not be started: nothing has run.
    NotStarted,
    /// Its sandbox was lost, or openbrain gave it up with everything around it. It was killed as far
    /// as openbrain could.
    Lost,
}

/// A request that was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// What was asked for.
    #[serde(flatten)]
    pub request: Request,
    /// Why it was refused.
    pub error: Failure,
}

/// Why openbrain did not run a command, or lost it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The stable name of the kind of error.
    pub code: String,
    /// What the caller was told.
    pub message: String,
}

impl Record {
    /// Name of the execution that this is about.
    pub fn exec_id(&self) -> &str {
        match self {
            Self::Start(start) => &start.request.exec_id,
            Self::End(end) => &end.exec_id,
            Self::Refused(refused) => &refused.request.exec_id,
        }
    }

    /// When it was written, RFC 3339 in UTC.
    pub fn time(&self) -> &str {
        match self {
            Self::Start(start) => &start.request.time,
            Self::End(end) => &end.time,
            Self::Refused(refused) => &refused.request.time,
        }
    }
}

impl Status {
    /// The name of the status in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Kept => "kept",
            Self::NotStarted => "not_started",
            Self::Lost => "lost",
        }
    }
}
