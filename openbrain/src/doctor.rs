//! What isolation a command would get right now, and what to mend.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    backend::embedded,
    check::{Check, CheckStatus},
    engine::Engine,
    exec::Exec,
    sandbox::Isolation,
    settings::Settings,
};

/// The state of this machine as openbrain sees it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    /// What was looked at.
    pub checks: Vec<Check>,
    /// What a sandboxed command would get right now, proven by running one; `None` when it failed.
    pub isolation: Option<Isolation>,
}

impl Report {
    /// Whether a sandboxed command would run.
    pub fn ok(&self) -> bool {
        self.checks.iter().all(|check| check.status != CheckStatus::Failed)
    }
}

/// Looks at this machine and runs one sandboxed command under the given settings.
pub fn doctor(settings: &Settings) -> Report {
    let mut checks = embedded::checks();
    let trial = Engine::new(settings.clone()).run_blocking(Exec::new("true").sandbox());
    let isolation = match trial {
        Ok(output) if output.success() => {
            // Whatever looked like an obstacle was none.
            for check in checks.iter_mut().filter(|check| check.status == CheckStatus::Failed) {
                check.status = CheckStatus::Warning;
            }
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
