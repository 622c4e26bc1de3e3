//! What a sandbox may reach.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The network policy of a sandbox, decided by the settings and the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// No network but the sandbox's own loopback.
    #[default]
    None,
    /// Any public TCP destination, and DNS.
    Public,
    /// Only what is listed; an empty list allows nothing.
    Listed {
        /// Allowed TCP ports; `None` allows every port.
        ports: Option<Vec<u16>>,
        /// Allowed names (`example.com`, `*.example.com`, with an optional `:port`); `None` allows
        /// every public name.
        domains: Option<Vec<String>>,
    },
}
