//! The agent's requests and answers.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    Secret, exposed_values, is_false, milliseconds, octal_digits, open_words, or_default, time,
};

/// A command for the agent to run.
///
/// There is no standard input in the protocol: it is always empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunCommand {
    /// What to run.
    #[serde(flatten)]
    pub command: CommandLine,
    /// Where; it must exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// After what time the agent kills it; in whole milliseconds, rounded up.
    #[serde(serialize_with = "milliseconds", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// The user, by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group, by number; only with a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Variables beside those of the sandbox.
    #[serde(
        rename = "envs",
        serialize_with = "exposed_values",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub env: BTreeMap<String, Secret>,
}

impl RunCommand {
    /// A command line for the sandbox's shell.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new(CommandLine::Shell(line.into()))
    }

    /// A program and its arguments, without a shell. Agents before 1.1 refuse or ignore this.
    pub fn argv<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Self {
        Self::new(CommandLine::Argv(words.into_iter().map(Into::into).collect()))
    }

    fn new(command: CommandLine) -> Self {
        Self { command, cwd: None, timeout: None, uid: None, gid: None, env: BTreeMap::new() }
    }
}

/// What a [`RunCommand`] runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum CommandLine {
    /// A line for `bash -c`, or `sh -c` where there is no bash.
    #[serde(rename = "command")]
    Shell(String),
    /// A program and its arguments.
    #[serde(rename = "argv")]
    Argv(Vec<String>),
}

/// A [`RunCommand`] as it is sent.
#[derive(Serialize)]
pub(in super::super) struct RunRequest<'a> {
    #[serde(flatten)]
    pub(in super::super) command: &'a RunCommand,
    #[serde(skip_serializing_if = "is_false")]
    pub(in super::super) background: bool,
}

/// How a command stands.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CommandStatus {
    /// Its id.
    #[serde(default, deserialize_with = "or_default")]
    pub id: String,
    /// Whether it runs.
    #[serde(default, deserialize_with = "or_default")]
    pub running: bool,
    /// Its exit code; -1 after a signal or a timeout.
    pub exit_code: Option<i32>,
    /// Why it failed.
    pub error: Option<String>,
    /// When it started.
    #[serde(default, deserialize_with = "time")]
    pub started_at: Option<SystemTime>,
    /// When it ended.
    #[serde(default, deserialize_with = "time")]
    pub finished_at: Option<SystemTime>,
}

/// A file or directory in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FileInfo {
    /// Its absolute path.
    pub path: String,
    /// What it is; older agents do not say.
    #[serde(rename = "type")]
    pub kind: Option<FileKind>,
    /// Its size in bytes.
    pub size: u64,
    /// When its content changed.
    #[serde(default, deserialize_with = "time")]
    pub modified_at: Option<SystemTime>,
    /// When it was made.
    #[serde(default, deserialize_with = "time")]
    pub created_at: Option<SystemTime>,
    /// The owner's name.
    #[serde(default, deserialize_with = "or_default")]
    pub owner: String,
    /// The group's name.
    #[serde(default, deserialize_with = "or_default")]
    pub group: String,
    /// Its mode, such as `0o644`.
    #[serde(default, deserialize_with = "octal_digits::deserialize")]
    pub mode: Option<u32>,
}

open_words! {
    /// What a [`FileInfo`] is about.
    FileKind {
        /// A file.
        File = "file",
        /// A directory.
        Directory = "directory",
        /// A symbolic link.
        Symlink = "symlink",
    }
}

/// Who a file belongs to and what may be done with it; what is not set is left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Permission {
    /// The owner's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The group's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The mode, such as `0o644`.
    #[serde(with = "octal_digits")]
    pub mode: Option<u32>,
}

impl Permission {
    /// A mode, and nothing else.
    pub fn mode(mode: u32) -> Self {
        Self { mode: Some(mode), ..Self::default() }
    }
}

/// What precedes each file of an upload.
#[derive(Serialize)]
pub(in super::super) struct UploadMetadata<'a> {
    pub(in super::super) path: &'a str,
    #[serde(flatten)]
    pub(in super::super) permission: &'a Permission,
}

/// A path and where it goes.
#[derive(Serialize)]
pub(in super::super) struct Move<'a> {
    pub(in super::super) src: &'a str,
    pub(in super::super) dest: &'a str,
}

/// A text to look for in a file, and what to put in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replacement {
    /// The text to look for.
    pub old: String,
    /// What to put in its place.
    pub new: String,
}

/// How often a text was found. Agents that do not count answer nothing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct Replaced {
    #[serde(default, deserialize_with = "or_default")]
    pub(in super::super) replaced_count: u64,
}

/// What the agent sees of the machine: the whole node's figures, not the sandbox's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Metrics {
    /// How many processors there are.
    #[serde(default, deserialize_with = "or_default")]
    pub cpu_count: f64,
    /// How much of them is used, in percent.
    #[serde(default, deserialize_with = "or_default")]
    pub cpu_used_pct: f64,
    /// How much memory there is, in MiB.
    #[serde(default, deserialize_with = "or_default")]
    pub mem_total_mib: f64,
    /// How much of it is used, in MiB.
    #[serde(default, deserialize_with = "or_default")]
    pub mem_used_mib: f64,
    /// When, in milliseconds since 1970.
    #[serde(default, deserialize_with = "or_default")]
    pub timestamp: u64,
}
