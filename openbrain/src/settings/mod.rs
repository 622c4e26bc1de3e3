//! The settings: what a request leaves open, and what it may ask for.
//!
//! [`Settings::load`] layers them, the first that says something wins: flags, environment
//! (`OPENBRAIN_*`), project file (`config/settings.yaml` in the current directory), user file
//! (`$XDG_CONFIG_HOME/openbrain/settings.yaml`, else `~/.config/openbrain/settings.yaml`),
//! default. A project file can tighten what the user file fixed, never loosen it. An unknown key,
//! an empty file, an unreadable one and one that belongs to somebody else are errors.
//!
//! [`Settings::resolve`] turns a request into a [`Spec`](crate::Spec) without any I/O.

mod file;
mod grammar;
mod keys;
mod load;
mod policy;
mod resolve;
mod server;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize};

pub(crate) use self::load::runtime_directory;
pub use self::{
    load::{Flag, Loaded, Origin, Sources},
    server::{Approval, AuditSettings, AuditedExecs, Listen, ServerSettings},
};
use crate::{
    error::{Error, Result},
    sandbox::Limits,
    secret::Secret,
    spec::System,
};

/// The annotated settings file that `openbrain config init` writes; its values are the defaults.
pub const SETTINGS_TEMPLATE: &str = include_str!("template.yaml");

/// What a request leaves open, and what it may ask for.
///
/// The same value is the settings file. Every key may be left out and then has its default.
///
/// ```
/// use openbrain::{Exec, Settings};
///
/// let spec = Settings::default().resolve(Exec::new("ls").sandbox())?;
/// assert_eq!(spec.timeout.map(|t| t.as_secs()), Some(300));
/// # Ok::<(), openbrain::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where commands run and what they may do.
    pub security: Security,
    /// Where the REST and MCP servers listen, whom they serve, and how much.
    pub server: ServerSettings,
    /// Which commands the audit log records, and where it is.
    pub audit: AuditSettings,
}

/// Where commands run and what they may do: `security`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// Where a request runs that does not say. Default: `direct`.
    pub mode: Mode,
    /// Whether a request may run directly at all. Default: true.
    pub allow_direct: bool,
    /// When a person must agree to a command of an MCP caller. Default: `never`.
    pub approval: Approval,
    /// What a sandbox is given.
    pub sandbox: SandboxSettings,
}

/// Where a request runs that does not say.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// On the host.
    #[default]
    Direct,
    /// In a sandbox.
    Sandbox,
}

/// What a sandbox is given: `security.sandbox`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxSettings {
    /// What runs sandboxes. Default: `auto`.
    pub runtime: Runtime,
    /// Address of an OpenSandbox server, for example `http://localhost:8080`. Default: none.
    #[serde(deserialize_with = "grammar::server_url", skip_serializing_if = "Option::is_none")]
    pub server_url: Option<String>,
    /// Image of a sandbox of the server. Default: `opensandbox/code-interpreter:v1.0.1`.
    #[serde(deserialize_with = "grammar::image")]
    pub image: String,
    /// Key of the server. Default: none. The variable `OPEN_SANDBOX_API_KEY`, which the server's own
    /// clients know, sets it too. Written as `***`.
    #[serde(deserialize_with = "grammar::api_key", skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// Whether sandboxes are reached through the server, for where their own ports are not reachable.
    /// Default: false.
    pub use_server_proxy: bool,
    /// Certificate authorities to trust beside those of the system, as a PEM file: absolute, or
    /// below `~/`. Default: none.
    #[serde(deserialize_with = "grammar::workspace", skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Seconds until a request to the server is given up, or a text such as `10s`. Default: 30.
    #[serde(rename = "request_timeout_seconds", with = "grammar::timeout")]
    #[schemars(with = "grammar::SecondsOrText")]
    pub request_timeout: Duration,
    /// Seconds until the start of a sandbox on the server, in which it may pull the image, is given
    /// up, or a text such as `5m`. Default: 300.
    #[serde(rename = "start_timeout_seconds", with = "grammar::timeout")]
    #[schemars(with = "grammar::SecondsOrText")]
    pub start_timeout: Duration,
    /// What only some servers know, by name: `poolRef` takes the sandbox from a pool of Kubernetes.
    /// Default: nothing.
    pub extensions: BTreeMap<String, String>,
    /// Seconds until a sandboxed command is killed, or a text such as `10m`; a request's own
    /// timeout wins. Default: 300. A direct command has no deadline of its own.
    #[serde(rename = "timeout_seconds", with = "grammar::timeout")]
    #[schemars(with = "grammar::SecondsOrText")]
    pub timeout: Duration,
    /// Host directory mounted read-write at `/workspace` unless the request mounts something
    /// there: absolute, or below `~/`. Default, and when empty: none, the workspace is ephemeral.
    #[serde(deserialize_with = "grammar::workspace", skip_serializing_if = "Option::is_none")]
    pub workspace_mount: Option<PathBuf>,
    /// Host paths visible, read-only, at the same place: absolute, or below `~/`. Default: none.
    #[serde(deserialize_with = "grammar::host_paths")]
    pub expose: Vec<PathBuf>,
    /// How the host's system directories appear in an embedded sandbox. Default: `ro`.
    pub system: System,
    /// How many unused sandboxes of the embedded engine are kept ready, for each shape (mounts,
    /// network, limits) that a long-lived process is asked for more than once; at most 64. Default: 0.
    #[serde(deserialize_with = "grammar::pool")]
    #[schemars(range(max = 64))]
    pub pool: usize,
    /// What a sandbox may reach.
    pub network: NetworkSettings,
    /// Resource limits of a command; a request's own win. Default: memory 4 GiB, pids 1024, disk
    /// 2 GiB, open_files 4096, output 10 MiB, cpus without a limit. `output` holds for direct
    /// commands too, the others for sandboxes alone.
    #[serde(deserialize_with = "grammar::limits")]
    pub limits: Limits,
}

/// What runs sandboxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// The OpenSandbox server when a `server_url` is given, else the embedded engine. What happens
    /// to be reachable plays no part.
    #[default]
    Auto,
    /// The embedded engine.
    Embedded,
    /// The OpenSandbox server at `server_url`.
    Opensandbox,
}

/// What a sandbox may reach: `security.sandbox.network`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Whether a sandbox reaches the network when the request does not say. Default: true.
    pub allow_egress: bool,
    /// Whether only `allowed_ports` and `allowed_domains` are reachable. Default: false.
    pub restrict_egress: bool,
    /// TCP ports that are reachable when `restrict_egress` is true. Default: 80 and 443. An
    /// OpenSandbox server cannot restrict ports: there `allowed_domains` must be given, and this
    /// left out.
    #[serde(deserialize_with = "grammar::ports", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<u16>")]
    pub allowed_ports: Option<Vec<u16>>,
    /// Names that are reachable when `restrict_egress` is true: `example.com`, `*.example.com`,
    /// with an optional `:port`. Default: every public name. An empty list allows nothing.
    #[serde(deserialize_with = "grammar::domains", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>")]
    pub allowed_domains: Option<Vec<String>>,
    /// Private services that are reachable beside the public ones whenever the network is: an
    /// address, a range or a name, each with an optional port (`10.0.0.5:5432`, `10.0.0.0/8`,
    /// `db.internal:5432`, `localhost:11434`). Default: what a request lists; an empty list forbids
    /// that.
    #[serde(deserialize_with = "grammar::hosts", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>")]
    pub allowed_hosts: Option<Vec<String>>,
    /// Whether sandboxes have no network at all, whatever a request asks for. Default: false.
    pub block_egress: bool,
}

impl Settings {
    /// Writes the settings as a settings file; keys without a value are left out.
    ///
    /// # Errors
    ///
    /// `invalid_settings` when a path is not UTF-8, which a settings file cannot hold.
    pub fn to_yaml(&self) -> Result<String> {
        serde_yaml::to_string(self)
            .map_err(|error| Error::settings("cannot write the settings").with_source(error))
    }

    /// The JSON Schema (draft 2020-12) of a settings file.
    pub fn schema() -> serde_json::Value {
        let generator = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        generator.into_generator().into_root_schema_for::<Self>().into()
    }
}

impl Default for Security {
    fn default() -> Self {
        Self {
            mode: Mode::Direct,
            allow_direct: true,
            approval: Approval::Never,
            sandbox: SandboxSettings::default(),
        }
    }
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self {
            runtime: Runtime::Auto,
            server_url: None,
            image: "opensandbox/code-interpreter:v1.0.1".into(),
            api_key: None,
            use_server_proxy: false,
            ca_file: None,
            request_timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(300),
            extensions: BTreeMap::new(),
            timeout: Duration::from_secs(300),
            workspace_mount: None,
            expose: Vec::new(),
            system: System::Ro,
            pool: 0,
            network: NetworkSettings::default(),
            limits: grammar::default_limits(),
        }
    }
}

impl NetworkSettings {
    /// The ports in force when `restrict_egress` is true.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.allowed_ports.clone().unwrap_or_else(|| vec![80, 443])
    }
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            allow_egress: true,
            restrict_egress: false,
            allowed_ports: None,
            allowed_domains: None,
            allowed_hosts: None,
            block_egress: false,
        }
    }
}

#[cfg(test)]
mod tests;
