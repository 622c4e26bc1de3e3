//! The result of a command.

mod form;

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use self::form::OutputForm;
use crate::{changes::Changes, error::Result, sandbox::Isolation};

/// What became of a command that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It ended by itself, with this exit code.
    Exited(i32),
    /// A signal ended it.
    Signaled(i32),
    /// Its deadline passed and all its processes were killed.
    TimedOut,
    /// The caller ended it.
    Cancelled,
}

/// The result of a command: what it printed, how it ended, and what was enforced around it.
///
/// A non-zero exit, a timeout and cut output are values. [`Output::check`] turns everything but
/// success into an error for callers that prefer one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// How the command ended.
    pub status: Status,
    /// What was kept of standard output.
    pub stdout: Captured,
    /// What was kept of standard error; empty on a pseudo-terminal.
    pub stderr: Captured,
    /// From start to end.
    pub duration: Duration,
    /// When the command was started.
    pub started_at: SystemTime,
    /// Where it ran.
    pub backend: BackendName,
    /// The sandbox it ran in, where sandboxes have names.
    pub sandbox_id: Option<String>,
    /// Whether its sandbox was made for it or was ready, of the embedded engine; none for a command
    /// that had no sandbox of its own.
    pub start: Option<Start>,
    /// Name of this execution, unique and unguessable.
    pub exec_id: String,
    /// What was really enforced.
    pub isolation: Isolation,
    /// What the command used, as far as the backend knows.
    pub resources: Resources,
    /// What the sandbox refused, as far as it knows.
    pub denials: Vec<Denial>,
    /// What the command has changed, when that was [asked for](crate::Exec::changes).
    pub changes: Option<Changes>,
    /// What the caller should know that is no failure.
    pub warnings: Vec<String>,
}

/// The kept part of one output stream.
///
/// Up to the limit everything is kept. Beyond it the first and the last half are kept, with one
/// line between them that says how many bytes are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// The bytes that were kept.
    pub bytes: Vec<u8>,
    /// Whether something is missing.
    pub truncated: bool,
    /// How many bytes the command wrote and openbrain read.
    pub total: u64,
}

/// The place where a command ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendName {
    /// On the host.
    Direct,
    /// In a sandbox of the embedded engine.
    Embedded,
    /// In a sandbox of an OpenSandbox server.
    Opensandbox,
}

/// How the sandbox of a single command came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// It was made for the command.
    Cold,
    /// It was ready, unused: `security.sandbox.pool` keeps some.
    Warm,
}

/// What a command used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// Processor time of all its processes that ended, user and system.
    pub cpu_ms: Option<u64>,
    /// Largest resident set of any one process, in bytes (`ru_maxrss`, `getrusage(2)`).
    pub max_rss_bytes: Option<u64>,
    /// Peak memory of the sandbox, in bytes, where a cgroup counts it.
    pub memory_peak_bytes: Option<u64>,
    /// Whether the memory limit killed it.
    pub oom_killed: bool,
    /// What it reached of the network, in the order of the first connections; at most 256 entries,
    /// the last of them, `*` with port 0, for everything that found no place.
    pub network: Vec<NetworkUse>,
}

/// What a command exchanged with one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkUse {
    /// The name that the command asked for, or the address.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Connections that the command opened.
    pub connections: u64,
    /// Those of them that could not be made: no answer, or refused.
    pub failed: u64,
    /// Bytes from the command.
    pub bytes_sent: u64,
    /// Bytes to the command.
    pub bytes_received: u64,
}

/// Something that the sandbox refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Denial {
    /// What was asked for: `host:port`, a path.
    pub what: String,
    /// The host that was to be reached: a name or an address.
    pub host: Option<String>,
    /// The port that was to be reached.
    pub port: Option<u16>,
    /// Why it was refused.
    pub reason: String,
    /// The setting that would allow it, if one does.
    pub remedy: Option<String>,
    /// How many times.
    pub count: u64,
}

impl Output {
    /// Whether the command ended by itself with exit code 0.
    pub fn success(&self) -> bool {
        self.status == Status::Exited(0)
    }

    /// The exit code, when the command ended by itself.
    pub fn exit_code(&self) -> Option<i32> {
        match self.status {
            Status::Exited(code) => Some(code),
            _ => None,
        }
    }

    /// The signal that ended the command, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.status {
            Status::Signaled(signal) => Some(signal),
            _ => None,
        }
    }

    /// Whether the deadline ended the command.
    pub fn timed_out(&self) -> bool {
        self.status == Status::TimedOut
    }

    /// Standard output as text; invalid UTF-8 is replaced.
    pub fn stdout_text(&self) -> String {
        self.stdout.text()
    }

    /// Standard error as text; invalid UTF-8 is replaced.
    pub fn stderr_text(&self) -> String {
        self.stderr.text()
    }

    /// The result itself when the command succeeded.
    ///
    /// # Errors
    ///
    /// [`CommandFailed`], with the whole result inside, for everything else.
    pub fn check(self) -> Result<Self, CommandFailed> {
        if self.success() { Ok(self) } else { Err(CommandFailed(Box::new(self))) }
    }
}

impl Captured {
    /// The kept bytes as text; invalid UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Status {
    /// The name of the status in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exited(_) => "exited",
            Self::Signaled(_) => "signaled",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }
}

impl BackendName {
    /// The name of the backend in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Embedded => "embedded",
            Self::Opensandbox => "opensandbox",
        }
    }
}

impl Serialize for Output {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        OutputForm::from(self).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::try_from(OutputForm::deserialize(from)?).map_err(D::Error::custom)
    }
}

impl JsonSchema for Output {
    fn schema_name() -> Cow<'static, str> {
        "Output".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        OutputForm::json_schema(generator)
    }
}

/// The error of [`Output::check`]: the command ran and did not succeed.
#[derive(Debug)]
pub struct CommandFailed(pub Box<Output>);

impl std::fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.status {
            Status::Exited(code) => write!(f, "the command exited with code {code}")?,
            Status::Signaled(signal) => write!(f, "the command was ended by signal {signal}")?,
            Status::TimedOut => write!(f, "the command timed out")?,
            Status::Cancelled => write!(f, "the command was cancelled")?,
        }
        match self.0.stderr_text().lines().last() {
            Some(line) => write!(f, ": {line}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CommandFailed {}
