//! What was really enforced around a command.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was really enforced around a command, as measured or set up, not as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Isolation {
    /// The kind of wall.
    pub level: IsolationLevel,
    /// Linux namespaces that are the command's own.
    pub namespaces: Vec<String>,
    /// What the command sees of the file system.
    pub filesystem: String,
    /// What the command reaches of the network.
    pub network: String,
    /// Further walls inside: `no_new_privs`, `no_capabilities`, `seccomp`, `landlock:6` (its ABI), …
    pub layers: Vec<String>,
    /// How each limit is enforced: `memory` by `cgroup v2`, `pids` by `rlimit`, and so on.
    pub limits: BTreeMap<String, String>,
}

/// The kind of wall around a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IsolationLevel {
    /// A process of the host.
    #[default]
    None,
    /// Namespaces of the host's kernel, by the embedded engine.
    Namespaces,
    /// A container of an OpenSandbox server.
    Container,
}

impl Isolation {
    /// The isolation of a direct command: none.
    pub(crate) fn none() -> Self {
        Self {
            level: IsolationLevel::None,
            filesystem: "host".into(),
            network: "host".into(),
            ..Self::default()
        }
    }
}
