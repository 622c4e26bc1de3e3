//! One thing that was looked at, and what mends it.

use schemars::JsonSchema;
use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Check {
    /// Stable name.
    pub id: &'static str,
    /// How it stands.
    pub status: CheckStatus,
    /// What was found.
    pub summary: String,
    /// What mends it.
    pub remedy: Option<String>,
}

/// How a [`Check`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// A layer is missing; sandboxes work without it and say so.
    Warning,
    /// Sandboxes cannot be had.
    Failed,
}

impl Check {
    pub(crate) fn ok(id: &'static str, summary: impl Into<String>) -> Self {
        Self { id, status: CheckStatus::Ok, summary: summary.into(), remedy: None }
    }

    pub(crate) fn warning(
        id: &'static str,
        summary: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (summary, remedy) = (summary.into(), Some(remedy.into()));
        Self { id, status: CheckStatus::Warning, summary, remedy }
    }

    pub(crate) fn failed(
        id: &'static str,
        summary: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (summary, remedy) = (summary.into(), Some(remedy.into()));
        Self { id, status: CheckStatus::Failed, summary, remedy }
    }
}
