//! The request: one command and how to run it, as plain data.

use std::{
    collections::BTreeMap,
    path::{Component, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    error::{Error, Result},
    sandbox::{DomainRule, HostRule, Limits, Mount},
    units::{check_timeout, serde_seconds},
};

/// One command and how to run it.
///
/// The same value is the builder of the library, the body of a REST request, the arguments of the
/// MCP tool and the keywords of the Python call. Everything that is left out is decided by the
/// [`Settings`](crate::Settings).
///
/// ```no_run
/// # async fn demo() -> openbrain::Result<()> {
/// use std::time::Duration;
/// use openbrain::Exec;
///
/// let output = Exec::new("pip install requests")
///     .sandbox()
///     .timeout(Duration::from_secs(600))
///     .mount("/path/to/workspace")
///     .run()
///     .await?;
/// println!("{}", output.stdout_text());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// What to run: a shell script, a list of arguments, or a program in a language.
    pub command: Command,
    /// Whether to run in a sandbox. Absent: as `security.mode` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<bool>,
    /// Seconds until the command and all its processes are killed, or a text such as `10m`.
    /// Absent: `security.sandbox.timeout_seconds` in a sandbox, none outside.
    #[serde(default, with = "serde_seconds", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_seconds::Seconds>")]
    pub timeout: Option<Duration>,
    /// Working directory. Absent: `/workspace` in a sandbox, the caller's own outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
    /// Environment variables to set. A sandbox has nothing else but a clean base.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What the command reads. Absent: nothing.
    #[serde(default, skip_serializing_if = "Stdin::is_null")]
    pub stdin: Stdin,
    /// The shell that runs a script. Absent: `/bin/sh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Host directories to make visible in the sandbox.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    #[serde(alias = "mount")]
    pub mounts: Vec<Mount>,
    /// Host paths to make visible, read-only, at the same place: tool chains that live in a home.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<PathBuf>,
    /// Whether the sandbox may reach the network. Absent: as the settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_network: Option<bool>,
    /// The only TCP ports that the sandbox may reach, of those that the settings allow; asks for
    /// the network. Absent: those of the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_ports: Option<Vec<u16>>,
    /// The only names that the sandbox may reach, of those that the settings allow: `example.com`,
    /// `*.example.com`, with an optional `:port`; asks for the network. Absent: those of the
    /// settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_domains: Option<Vec<String>>,
    /// Private services that the sandbox may reach beside the public ones, of those in the settings
    /// when they list any: addresses, ranges or names, with an optional `:port`; asks for the
    /// network. Absent: those of the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_hosts: Option<Vec<String>>,
    /// Report what the command has changed, in mounts of the mode `overlay` and in the sandbox's own
    /// directories: the result then has `changes`. Only embedded sandboxes can.
    #[serde(default, skip_serializing_if = "is_default")]
    pub changes: bool,
    /// Resource limits that differ from those of the settings.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Run on a pseudo-terminal of this size. Standard error then arrives in standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TerminalSize>,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Command {
    /// A script for the shell.
    Shell(String),
    /// A program and its arguments, without a shell.
    Argv(Vec<String>),
    /// A program as text. Without a language its `#!` line decides, and Python without that.
    Script {
        /// `python`, `sh`, `bash`, `node`, `ruby`, `perl` or `php`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        language: Option<String>,
        /// The text of the program.
        source: String,
    },
}

/// Where the command's standard input comes from.
///
/// In JSON a text is the input itself; `{"base64": "…"}` carries other bytes, `{"file": "/path"}`
/// names a host file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "StdinForm", into = "StdinForm")]
#[schemars(with = "StdinForm")]
pub enum Stdin {
    /// End of file at once.
    #[default]
    Null,
    /// These bytes, then end of file.
    Bytes(Vec<u8>),
    /// The content of a host file.
    File(PathBuf),
    /// The caller's own standard input.
    Inherit,
    /// Written by the caller while the command runs, through
    /// [`Process::take_stdin`](crate::Process::take_stdin).
    Pipe,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

impl<T: Into<String>> From<T> for Exec {
    /// As [`Exec::new`].
    fn from(script: T) -> Self {
        Self::new(script)
    }
}

impl Exec {
    /// A command for the shell: one string is a script for `/bin/sh`.
    pub fn new(script: impl Into<String>) -> Self {
        Self::of(Command::Shell(script.into()))
    }

    /// A program and its arguments, without a shell.
    pub fn argv<I: IntoIterator<Item: Into<String>>>(arguments: I) -> Self {
        Self::of(Command::Argv(arguments.into_iter().map(Into::into).collect()))
    }

    /// A program as text in a language: `python`, `sh`, `bash`, `node`, `ruby`, `perl` or `php`.
    pub fn script(language: impl Into<String>, source: impl Into<String>) -> Self {
        Self::of(Command::Script { language: Some(language.into()), source: source.into() })
    }

    /// A request for `command` with everything else left to the settings.
    pub fn of(command: Command) -> Self {
        Self {
            command,
            sandbox: None,
            timeout: None,
            workdir: None,
            env: BTreeMap::new(),
            stdin: Stdin::Null,
            shell: None,
            mounts: Vec::new(),
            expose: Vec::new(),
            allow_network: None,
            allowed_ports: None,
            allowed_domains: None,
            allowed_hosts: None,
            changes: false,
            limits: Limits::default(),
            tty: None,
        }
    }

    /// Runs the command in a sandbox.
    pub fn sandbox(mut self) -> Self {
        self.sandbox = Some(true);
        self
    }

    /// Runs the command on the host even where the settings' default is a sandbox. Settings with
    /// `allow_direct: false` refuse it.
    pub fn direct(mut self) -> Self {
        self.sandbox = Some(false);
        self
    }

    /// Kills the command and all its processes after this time.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the working directory.
    #[doc(alias = "cwd")]
    #[doc(alias = "current_dir")]
    pub fn workdir(mut self, path: impl Into<PathBuf>) -> Self {
        self.workdir = Some(path.into());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Gives the command these bytes to read.
    pub fn stdin_bytes(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin(Stdin::Bytes(bytes.into()))
    }

    /// Says where the command's standard input comes from.
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// Chooses the shell that runs a script, for example `bash`.
    pub fn shell(mut self, shell: impl Into<String>) -> Self {
        self.shell = Some(shell.into());
        self
    }

    /// Mounts a host directory at `/workspace`, read-write, as the working directory.
    #[doc(alias = "volume")]
    pub fn mount(self, source: impl Into<PathBuf>) -> Self {
        self.mount_at(Mount::workspace(source))
    }

    /// Mounts a host path as the [`Mount`] says.
    pub fn mount_at(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Makes a host path visible, read-only, at the same place.
    pub fn expose(mut self, path: impl Into<PathBuf>) -> Self {
        self.expose.push(path.into());
        self
    }

    /// Allows or forbids the network.
    pub fn allow_network(mut self, allow: bool) -> Self {
        self.allow_network = Some(allow);
        self
    }

    /// Allows the network for this TCP port, and for no port that is not allowed in this way.
    pub fn allow_port(mut self, port: u16) -> Self {
        self.allowed_ports.get_or_insert_default().push(port);
        self
    }

    /// Allows the network for this name, and for no name that is not allowed in this way:
    /// `example.com`, `*.example.com`, `example.com:8443`.
    pub fn allow_domain(mut self, name: impl Into<String>) -> Self {
        self.allowed_domains.get_or_insert_default().push(name.into());
        self
    }

    /// Allows a private service beside the public ones: `10.0.0.5:5432`, `10.0.0.0/8`,
    /// `db.internal:5432`, `localhost:11434`.
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.allowed_hosts.get_or_insert_default().push(host.into());
        self
    }

    /// Reports what the command has changed: [`Output::changes`](crate::Output::changes).
    ///
    /// The report is made when the command has ended, and takes its time in addition to `timeout`: by
    /// what has changed, and 30 seconds at most.
    pub fn changes(mut self) -> Self {
        self.changes = true;
        self
    }

    /// Sets resource limits; absent fields keep the values of the settings.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs the command on a pseudo-terminal of this size.
    pub fn tty(mut self, rows: u16, cols: u16) -> Self {
        self.tty = Some(TerminalSize { rows, cols });
        self
    }

    /// Refuses a request that cannot be meant, whatever the settings say.
    pub(crate) fn check(&self) -> Result<()> {
        self.command.check()?;
        self.timeout.map(check_timeout).transpose()?;
        self.limits.check()?;
        self.check_network()?;
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(Error::invalid(format!("`{name}` cannot be an environment variable"))
                    .with_remedy("a name has no `=`, and neither name nor value a NUL byte"));
            }
        }
        if self.shell.as_deref().is_some_and(|s| s.is_empty() || s.contains('\0')) {
            return Err(Error::invalid("the shell is empty or has a NUL byte")
                .with_remedy("name a shell, such as `bash`, or leave it out for `/bin/sh`"));
        }
        if self.tty.is_some() && matches!(self.stdin, Stdin::File(_) | Stdin::Inherit) {
            return Err(Error::invalid("a terminal cannot read from a file or our own input")
                .with_remedy("give the input as bytes, or write it while the command runs"));
        }
        let mut paths = self.expose.iter().chain(&self.workdir);
        if let Some(path) = paths.find(|p| p.as_os_str().as_encoded_bytes().contains(&0)) {
            return Err(Error::invalid(format!("path {path:?} has a NUL byte")));
        }
        let plain = |path: &&PathBuf| {
            path.is_absolute() && !path.components().any(|c| c == Component::ParentDir)
        };
        if let Some(path) = self.expose.iter().find(|path| !plain(path)) {
            let message = format!("exposed path {path:?} is not absolute, or has `..`");
            return Err(Error::invalid(message).with_remedy("give it as an absolute path"));
        }
        self.mounts.iter().try_for_each(|mount| mount.clone().checked().map(drop))
    }
}

impl Exec {
    /// Refuses lists of the network that cannot be read, and lists for a network that is refused.
    fn check_network(&self) -> Result<()> {
        let Self { allow_network, allowed_ports, allowed_domains, allowed_hosts, .. } = self;
        let domains = allowed_domains.iter().flatten();
        domains.into_iter().try_for_each(|text| text.parse::<DomainRule>().map(drop))?;
        let hosts = allowed_hosts.iter().flatten();
        hosts.into_iter().try_for_each(|text| text.parse::<HostRule>().map(drop))?;
        let lists = allowed_ports.is_some() || allowed_domains.is_some() || allowed_hosts.is_some();
        if lists && *allow_network == Some(false) {
            return Err(Error::invalid("the request lists what to reach, and forbids the network")
                .with_remedy("leave out the lists, or `allow_network: false`"));
        }
        if allowed_ports.iter().flatten().any(|port| *port == 0) {
            return Err(Error::invalid("port 0 cannot be reached")
                .with_remedy("list ports from 1 to 65535"));
        }
        Ok(())
    }
}

impl Command {
    /// Refuses an empty command and one with a NUL byte, which no system call can carry.
    fn check(&self) -> Result<()> {
        let (empty, nul) = match self {
            Self::Shell(script) => (script.trim().is_empty(), script.contains('\0')),
            Self::Argv(argv) => (
                argv.first().is_none_or(String::is_empty),
                argv.iter().any(|argument| argument.contains('\0')),
            ),
            Self::Script { source, .. } => (source.trim().is_empty(), source.contains('\0')),
        };
        if empty {
            return Err(Error::invalid("the command is empty")
                .with_remedy("give what is to be run, such as `echo hello`"));
        }
        if nul {
            return Err(Error::invalid("the command has a NUL byte")
                .with_remedy("pass binary data on standard input"));
        }
        Ok(())
    }
}

impl Stdin {
    fn is_null(&self) -> bool {
        *self == Self::Null
    }
}

/// [`Stdin`] as JSON writes it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text, {base64}, {file}, {inherit} or {pipe}")]
enum StdinForm {
    Null(()),
    Text(String),
    Base64 { base64: Base64Text },
    File { file: PathBuf },
    Inherit { inherit: bool },
    Pipe { pipe: bool },
}

/// Bytes in base64.
struct Base64Text(Vec<u8>);

impl From<StdinForm> for Stdin {
    fn from(form: StdinForm) -> Self {
        match form {
            StdinForm::Text(text) => Self::Bytes(text.into_bytes()),
            StdinForm::Base64 { base64 } => Self::Bytes(base64.0),
            StdinForm::File { file } => Self::File(file),
            StdinForm::Inherit { inherit: true } => Self::Inherit,
            StdinForm::Pipe { pipe: true } => Self::Pipe,
            StdinForm::Null(()) | StdinForm::Inherit { .. } | StdinForm::Pipe { .. } => Self::Null,
        }
    }
}

impl From<Stdin> for StdinForm {
    fn from(stdin: Stdin) -> Self {
        match stdin {
            Stdin::Null => Self::Null(()),
            Stdin::Bytes(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Self::Text(text),
                Err(error) => Self::Base64 { base64: Base64Text(error.into_bytes()) },
            },
            Stdin::File(file) => Self::File { file },
            Stdin::Inherit => Self::Inherit { inherit: true },
            Stdin::Pipe => Self::Pipe { pipe: true },
        }
    }
}

impl Serialize for Base64Text {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Base64Text {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Base64".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "contentEncoding": "base64" })
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Script {
            language: Option<String>,
            source: String,
        }
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a text, a list of texts or {language, source} as command"
        )]
        enum Form {
            Shell(String),
            Argv(Vec<String>),
            Script(Script),
        }
        Ok(match Form::deserialize(from)? {
            Form::Shell(script) => Self::Shell(script),
            Form::Argv(argv) => Self::Argv(argv),
            Form::Script(Script { language, source }) => Self::Script { language, source },
        })
    }
}

/// Reads one mount or a list of them.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Mount>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        Many(Vec<Mount>),
        One(Mount),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::Many(mounts) => mounts,
        OneOrMany::One(mount) => vec![mount],
    })
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Command, Exec, Stdin};
    use crate::sandbox::Mount;

    #[test]
    fn the_documented_body_is_read() {
        let body = r#"{"command": "pip install requests", "sandbox": true, "timeout": 300}"#;
        let exec: Exec = serde_json::from_str(body).unwrap();
        let built = Exec::new("pip install requests").sandbox().timeout(Duration::from_secs(300));
        assert_eq!(exec, built);
    }

    #[test]
    fn json_reads_back() {
        let exec = Exec::argv(["ls", "-l"])
            .env("A", "b")
            .stdin_bytes(vec![0xff, 0])
            .mount_at(Mount::workspace("/w"))
            .allow_network(false);
        let text = serde_json::to_string(&exec).unwrap();
        assert_eq!(serde_json::from_str::<Exec>(&text).unwrap(), exec);
    }

    #[test]
    fn unknown_fields_are_errors() {
        assert!(serde_json::from_str::<Exec>(r#"{"command":"ls","timeot":3}"#).is_err());
    }

    #[test]
    fn a_script_is_an_object() {
        let exec: Exec = serde_json::from_str(r#"{"command":{"source":"print(1)"}}"#).unwrap();
        assert_eq!(exec.command, Command::Script { language: None, source: "print(1)".into() });
    }

    #[test]
    fn stdin_text_is_the_input() {
        let exec: Exec = serde_json::from_str(r#"{"command":"cat","stdin":"hi"}"#).unwrap();
        assert_eq!(exec.stdin, Stdin::Bytes(b"hi".to_vec()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for exec in [
            Exec::new(" "),
            Exec::new("a\0b"),
            Exec::argv([""]),
            Exec::argv(Vec::<String>::new()),
            Exec::new("a").timeout(Duration::ZERO),
            Exec::new("a").env("A=B", ""),
            Exec::new("a").expose("relative"),
            Exec::new("a").shell(""),
        ] {
            assert!(exec.check().is_err(), "{exec:?}");
        }
    }
}
