//! `openbrain serve` and `openbrain mcp`: where they listen, whom they serve, and how much.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::grammar;
use crate::{
    caller::Caller,
    error::{Error, Result},
    secret::Secret,
    units::{parse_size, serde_size},
};

/// Where the REST and MCP servers listen, whom they serve, and how much: `server`.
///
/// What their callers may ask for is in here too. A project's settings file can tighten it, never
/// loosen it, even where the user's own file is silent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Where `openbrain serve` listens: `ADDRESS:PORT`, or `unix:/path` for a socket that its owner
    /// alone can open. Default: `127.0.0.1:8000`.
    #[schemars(with = "String")]
    pub listen: Listen,
    /// What callers must send as `Authorization: Bearer TOKEN`. Default: none, which is refused for
    /// an address that other machines can reach. Written as `***`.
    #[serde(deserialize_with = "grammar::token", skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// Names by which the server may be called beside `localhost` and addresses of this machine
    /// (`Host`). Default: none.
    pub allowed_names: Vec<String>,
    /// Web pages that may call the server (`Origin`): `https://app.example.com`. Default: none.
    pub allowed_origins: Vec<String>,
    /// Whether other users of this machine may call a server that needs no token. Default: false.
    pub allow_other_users: bool,
    /// Host directories that callers may mount, with everything below them; the workspace mount is
    /// always one of them. Default: none.
    #[serde(deserialize_with = "grammar::host_paths")]
    pub allowed_mounts: Vec<PathBuf>,
    /// Variables of the server's own environment that direct commands of callers see; `LC_*` stands
    /// for every name that begins so. Default: what programs need to find their way, and no keys.
    pub pass_env: Vec<String>,
    /// Most commands that run at once. Default: 64.
    pub max_execs: u32,
    /// Most requests that wait for one of them to end; more are refused. Default: 256.
    pub max_queue: u32,
    /// Most sandboxes that callers keep open at once; more are refused. Default: 16.
    pub max_sandboxes: u32,
    /// Longest body of a request, in bytes or as a text such as `16MiB`. Default: 16 MiB.
    #[serde(serialize_with = "size::serialize", deserialize_with = "size::deserialize")]
    #[schemars(with = "serde_size::Size")]
    pub max_body: u64,
    /// Memory for the output of commands that are remembered, all together. Default: 256 MiB.
    #[serde(serialize_with = "size::serialize", deserialize_with = "size::deserialize")]
    #[schemars(with = "serde_size::Size")]
    pub max_kept_output: u64,
    /// Longest time that a caller's command may run, and what it gets when it names none; longest time
    /// that a caller's sandbox stays open from its creation, and from each renewal. Seconds or a text.
    /// Default: one hour.
    #[serde(rename = "max_timeout_seconds", with = "grammar::timeout")]
    #[schemars(with = "grammar::SecondsOrText")]
    pub max_timeout: Duration,
    /// How long a command that has ended is remembered. Seconds or a text. Default: 10 minutes.
    #[serde(rename = "keep_seconds", with = "grammar::timeout")]
    #[schemars(with = "grammar::SecondsOrText")]
    pub keep: Duration,
    /// How long running commands may go on when the server is asked to end. Seconds or a text.
    /// Default: 10.
    #[serde(rename = "drain_seconds", with = "grammar::timeout")]
    #[schemars(with = "grammar::SecondsOrText")]
    pub drain: Duration,
    /// After how long an MCP call returns a handle to a command that still runs, because clients
    /// give up by themselves (often after 60 seconds). Seconds or a text. Default: 50.
    #[serde(rename = "yield_seconds", with = "grammar::timeout")]
    #[schemars(with = "grammar::SecondsOrText")]
    pub yield_after: Duration,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Which commands the audit log records, and where it is: `audit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSettings {
    /// Whose commands are recorded. Default: `servers`.
    pub execs: AuditedExecs,
    /// The log: absolute, or below `~/`. Default: `$XDG_STATE_HOME/openbrain/audit.jsonl`, else
    /// `~/.local/state/openbrain/audit.jsonl`.
    #[serde(deserialize_with = "grammar::workspace", skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Size at which a new log is begun, in bytes or as a text. Default: 16 MiB.
    #[serde(serialize_with = "size::serialize", deserialize_with = "size::deserialize")]
    #[schemars(with = "serde_size::Size")]
    pub max_size: u64,
    /// How many full logs are kept beside the current one. Default: 4.
    pub keep_files: u32,
}

/// Whose commands the audit log records. Each value records at least as much as the one before it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum AuditedExecs {
    /// Nobody's.
    None,
    /// Those of REST and MCP callers.
    #[default]
    Servers,
    /// All, those of the library and the command line too.
    All,
}

/// When a person must agree to a command of an MCP caller.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Approval {
    /// Never.
    #[default]
    Never,
    /// Before each one that runs on the host.
    Direct,
}

impl AuditedExecs {
    /// Whether the commands of this caller are recorded.
    pub(crate) fn include(self, caller: &Caller) -> bool {
        match self {
            Self::None => false,
            Self::Servers => caller.is_remote(),
            Self::All => true,
        }
    }
}

impl Listen {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Listen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return match path.is_absolute() {
                true => Ok(Self::Unix(path)),
                false => Err(Error::settings(format!("the socket of `{text}` is not absolute"))
                    .with_remedy("write it as `unix:/run/user/1000/openbrain.sock`")),
            };
        }
        // The name may stand for several addresses, of which this is the one everybody has.
        let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        let local = local.map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        local.or_else(|| text.parse().ok()).map(Self::Tcp).ok_or_else(|| {
            Error::settings(format!("`{text}` is no place to listen"))
                .with_remedy("write ADDRESS:PORT, such as 127.0.0.1:8000, or unix:/path")
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Serde for a size that is never absent.
mod size {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::{parse_size, serde_size::Size};

    pub(super) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(*value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        match Size::deserialize(from)? {
            Size::Number(bytes) => Ok(bytes),
            Size::Text(text) => parse_size(&text).map_err(D::Error::custom),
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        const PASS_ENV: [&str; 22] = [
            "PATH",
            "HOME",
            "USER",
            "LOGNAME",
            "SHELL",
            "LANG",
            "LANGUAGE",
            "LC_*",
            "TERM",
            "TZ",
            "TMPDIR",
            "CI",
            "NO_COLOR",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "all_proxy",
        ];
        Self {
            listen: Listen::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000)),
            token: None,
            allowed_names: Vec::new(),
            allowed_origins: Vec::new(),
            allow_other_users: false,
            allowed_mounts: Vec::new(),
            pass_env: PASS_ENV.map(Into::into).into(),
            max_execs: 64,
            max_queue: 256,
            max_sandboxes: 16,
            max_body: 16 << 20,
            max_kept_output: 256 << 20,
            max_timeout: Duration::from_secs(3600),
            keep: Duration::from_secs(600),
            drain: Duration::from_secs(10),
            yield_after: Duration::from_secs(50),
        }
    }
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self { execs: AuditedExecs::Servers, file: None, max_size: 16 << 20, keep_files: 4 }
    }
}

#[cfg(test)]
mod tests {
    use super::Listen;

    #[test]
    fn a_place_to_listen_reads_back() {
        for text in ["127.0.0.1:8000", "[::1]:9", "0.0.0.0:80", "unix:/run/a.sock"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        assert_eq!("localhost:8000".parse::<Listen>().unwrap().to_string(), "127.0.0.1:8000");
        for text in ["", "8000", ":8000", "example.com:80", "unix:a", "localhost", "1.2.3.4"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_loopback_and_sockets_are_local() {
        for (text, local) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("unix:/a", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().is_local(), local, "{text}");
        }
    }
}
