//! The resolved request: every default filled in, the policy applied.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    exec::{Command, Stdin, TerminalSize},
    sandbox::{Limits, Mount, Network},
    secret::Secret,
};

/// A request with every default filled in and the settings' policy applied: what a
/// [backend](crate::backend) runs, and what `--dry-run` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spec {
    /// Where the command runs.
    pub place: Place,
    /// What to run.
    pub command: Command,
    /// The shell that runs a script.
    pub shell: String,
    /// Time until the command and all its processes are killed; `None` for no deadline.
    #[serde(with = "crate::units::serde_seconds", rename = "timeout_seconds")]
    pub timeout: Option<Duration>,
    /// Working directory; `None` for the place's own default.
    pub workdir: Option<PathBuf>,
    /// Environment variables set by the caller.
    #[serde(serialize_with = "names_only")]
    pub env: BTreeMap<String, String>,
    /// What a direct command sees of openbrain's own environment beside that.
    pub inherit_env: InheritEnv,
    /// Where the standard input comes from.
    #[serde(skip)]
    pub stdin: Stdin,
    /// The pseudo-terminal to run on, if any.
    pub tty: Option<TerminalSize>,
    /// Whether the result reports what has changed.
    pub changes: bool,
    /// Resource limits.
    pub limits: Limits,
    /// What the caller should know that is no error.
    pub warnings: Vec<String>,
}

/// A sandbox that stays open, with every default filled in and the settings' policy applied.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SessionSpec {
    /// Where the sandbox is, and what it is given.
    pub place: Place,
    /// A name for people.
    pub name: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Time until the sandbox ends with everything in it.
    #[serde(with = "crate::units::serde_duration", rename = "timeout_seconds")]
    pub timeout: Duration,
    /// Time until a command that names none is killed.
    #[serde(with = "crate::units::serde_duration", rename = "command_timeout_seconds")]
    pub command_timeout: Duration,
    /// Working directory of commands that name none; `None` for the place's own default.
    pub workdir: Option<PathBuf>,
    /// Environment variables of every command.
    #[serde(serialize_with = "names_only")]
    pub env: BTreeMap<String, String>,
    /// Resource limits.
    pub limits: Limits,
    /// What the caller should know that is no error.
    pub warnings: Vec<String>,
}

/// What a direct command sees of openbrain's own environment. A sandbox sees nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InheritEnv {
    /// Everything: the command is the user's own.
    #[default]
    All,
    /// The variables with these names, `LC_*` standing for every name that begins so, and never
    /// those of openbrain itself (`OPENBRAIN_*`, `OPEN_SANDBOX_API_KEY`): somebody else asked for
    /// the command.
    Listed(Vec<String>),
}

/// Where a command runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// On the host.
    Direct,
    /// In a sandbox of the embedded engine.
    Embedded(SandboxSpec),
    /// In a sandbox of an OpenSandbox server.
    Opensandbox(SandboxSpec, ServerSpec),
}

/// What a sandbox is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Host directories made visible.
    pub mounts: Vec<Mount>,
    /// Host paths made visible, read-only, at the same place.
    pub expose: Vec<PathBuf>,
    /// Directories that mounts and exposed paths do not lead out of, whatever symbolic links are
    /// below these; `None` for a request of the user's own, which may name any path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Vec<PathBuf>>,
    /// What the sandbox may reach.
    pub network: Network,
    /// Private services that it may reach beside that, unless there is no network.
    pub allowed_hosts: Vec<String>,
    /// How the host's system directories appear.
    pub system: System,
    /// Directory of the host with an unpacked image, in place of the host's system directories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
}

/// The OpenSandbox server of a sandbox, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerSpec {
    /// Address of the server.
    pub url: String,
    /// Key of the server. Printed as `***`, and never read back from there.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// Whether sandboxes are reached through the server.
    pub use_server_proxy: bool,
    /// Certificate authorities to trust beside those of the system, as a PEM file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The longest time for one request.
    #[serde(with = "crate::units::serde_duration", rename = "request_timeout_seconds")]
    pub request_timeout: Duration,
    /// The longest time for a sandbox to start, in which the server may pull its image.
    #[serde(with = "crate::units::serde_duration", rename = "start_timeout_seconds")]
    pub start_timeout: Duration,
    /// Image of the sandbox.
    pub image: String,
    /// What only some servers know, such as `poolRef`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
}

/// How the host's system directories (`/usr` and friends) appear in an embedded sandbox.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// Read-only.
    #[default]
    Ro,
    /// Below a writable layer that is thrown away; `/usr/local` belongs to the sandbox's user.
    Overlay,
}

/// Refuses a working directory that does not say by itself where in the sandbox it is.
pub(crate) fn check_workdir(workdir: &Path) -> Result<()> {
    let climbs = workdir.components().any(|part| part == Component::ParentDir);
    if !workdir.is_absolute() || climbs {
        let workdir = workdir.display();
        return Err(Error::invalid(format!("working directory `{workdir}` is not absolute"))
            .with_remedy("name a directory inside the sandbox without `..`, such as /workspace"));
    }
    Ok(())
}

impl InheritEnv {
    /// Whether a command sees the variable of this name.
    pub(crate) fn admits(&self, name: &OsStr) -> bool {
        let bytes = name.as_encoded_bytes();
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => bytes.starts_with(beginning.as_bytes()),
            None => bytes == pattern.as_bytes(),
        };
        match self {
            Self::All => true,
            Self::Listed(patterns) => !is_own_variable(name) && patterns.iter().any(matches),
        }
    }
}

/// The variable by which the clients of OpenSandbox servers, and openbrain, know a server's key.
pub(crate) const SERVER_KEY: &str = "OPEN_SANDBOX_API_KEY";

/// Whether a variable is one of openbrain's own, which may hold keys and tokens.
pub(crate) fn is_own_variable(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"OPENBRAIN_") || name == SERVER_KEY
}

/// Values of environment variables may be secrets, and a plan is printed.
fn names_only<S: serde::Serializer>(
    env: &BTreeMap<String, String>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(env.keys())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::InheritEnv;

    fn admitted(patterns: &[&str], name: &str) -> bool {
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        InheritEnv::Listed(patterns).admits(OsStr::new(name))
    }

    #[test]
    fn names_and_beginnings_of_names_are_admitted() {
        for name in ["PATH", "LC_ALL", "LC_"] {
            assert!(admitted(&["PATH", "LC_*"], name), "{name}");
        }
        for name in ["PATHS", "PAT", "path", "LC", "XLC_ALL", "AWS_SECRET_ACCESS_KEY", ""] {
            assert!(!admitted(&["PATH", "LC_*"], name), "{name}");
        }
        assert!(!admitted(&[], "PATH"));
        assert!(InheritEnv::All.admits(OsStr::new("OPENBRAIN_SERVER_TOKEN")));
    }

    #[test]
    fn openbrains_own_variables_are_never_admitted() {
        for name in ["OPENBRAIN_SERVER_TOKEN", "OPENBRAIN_", "OPEN_SANDBOX_API_KEY"] {
            assert!(!admitted(&["*", "OPENBRAIN_*", "OPEN*", name], name), "{name}");
        }
        assert!(admitted(&["*"], "OPENBRAINS"));
    }
}
