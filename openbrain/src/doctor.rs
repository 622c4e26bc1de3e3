//! What isolation a command would get right now, and what to mend.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    backend::embedded,
    check::{Check, CheckStatus},
    engine::Engine,
    exec::Exec,
    sandbox::Isolation,
    settings::{NetworkSettings, Runtime, Settings},
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
    let without_network = Exec::new("true").sandbox().allow_network(false);
    if isolation.is_some() || Engine::new(settings.clone()).run_blocking(without_network).is_ok() {
        checks.extend(egress(settings));
    }
    Report { checks, isolation }
}

/// Whether sandboxes reach the network, tried with every port and with some: the first needs more
/// of the kernel.
fn egress(settings: &Settings) -> Vec<Check> {
    let attempt = |id, what: &str, exec: Exec| {
        let mut settings = settings.clone();
        settings.security.sandbox.network = NetworkSettings::default();
        settings.security.sandbox.runtime = Runtime::Embedded;
        match Engine::new(settings).run_blocking(exec) {
            Ok(_) => Check::ok(id, format!("a sandbox can be given {what}")),
            Err(error) => {
                let remedy = error.remedy().unwrap_or("see the message").to_owned();
                Check::warning(id, format!("a sandbox cannot be given {what}: {error}"), remedy)
            }
        }
    };
    let probe = || Exec::new("true").sandbox();
    let mut checks = vec![
        attempt("egress_open", "every TCP port of public hosts", probe()),
        attempt("egress_listed", "listed TCP ports of public hosts", probe().allow_port(443)),
    ];
    checks.extend(embedded::egress_checks());
    checks
}
