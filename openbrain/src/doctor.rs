//! What isolation a command would get right now, and what to mend.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    backend::embedded, engine::Engine, exec::Exec, sandbox::Isolation, settings::Settings,
};

/// The state of this machine as openbrain sees it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    /// What was looked at.
    pub checks: Vec<Check>,
    /// What a sandboxed command would get right now, proven by running one; `None` when it failed.
    pub isolation: Option<Isolation>,
}

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

impl Report {
    /// Whether a sandboxed command would run.
    pub fn ok(&self) -> bool {
        self.checks.iter().all(|check| check.status != CheckStatus::Failed)
    }
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

/// Looks at this machine and runs one sandboxed command under the given settings.
pub fn doctor(settings: &Settings) -> Report {
    let mut checks = embedded::checks();
    let trial = Engine::new(settings.clone()).run_blocking(Exec::new("true").sandbox());
    let isolation = match trial {
        Ok(output) if output.success() => {
            checks.push(Check::ok(
                "trial",
                format!("a sandboxed command ran in {:?}", output.duration),
            ));
            Some(output.isolation)
        }
        Ok(output) => {
            let what = format!(
                "a sandboxed `true` ended as {:?}: {}",
                output.status,
                output.stderr_text()
            );
            checks.push(Check::failed(
                "trial",
                what,
                "report this with the output of `openbrain doctor --json`",
            ));
            None
        }
        Err(error) => {
            let remedy = error.remedy().unwrap_or("see the message").to_owned();
            checks.push(Check::failed("trial", error.to_string(), remedy));
            None
        }
    };
    Report { checks, isolation }
}
