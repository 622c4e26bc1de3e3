//! Who asks: the way a request came, and under what name.

use std::fs;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who asks for a command.
///
/// It decides how much a request may ask for: one that comes over REST or MCP is somebody else's,
/// and is held to `server` of the [`Settings`](crate::Settings). It is in the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The way the request came.
    pub surface: Surface,
    /// What is known of who sent it: `uid:1000`, `token`, the name of an MCP client.
    pub name: Option<String>,
}

/// Whether the process at the other end of a socket (`SO_PEERCRED`, `unix(7)`) is in another user
/// namespace than this one, as sandboxed commands are; also when that cannot be told, because it is not
/// known, is gone or does not show.
pub fn is_in_sandbox(pid: Option<i32>) -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/user"));
    let theirs = pid.and_then(|pid| namespace(&pid.to_string()).ok());
    theirs.is_none_or(|theirs| namespace("self").map_or(true, |own| own != theirs))
}

/// The way a request came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Surface {
    /// A program that uses the library.
    #[default]
    Library,
    /// The command line.
    Cli,
    /// The REST server.
    Rest,
    /// The MCP server.
    Mcp,
}

impl Surface {
    /// The name of the surface in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Library => "library",
            Self::Cli => "cli",
            Self::Rest => "rest",
            Self::Mcp => "mcp",
        }
    }
}

impl Caller {
    /// Somebody without a name.
    pub fn new(surface: Surface) -> Self {
        Self { surface, name: None }
    }

    /// The same caller, by this name.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether the request is somebody else's than that of the user who runs openbrain.
    pub fn is_remote(&self) -> bool {
        match self.surface {
            Surface::Library | Surface::Cli => false,
            Surface::Rest | Surface::Mcp => true,
        }
    }
}
