//! What isolation a command would get right now, and what to mend.

use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    backend::{embedded, opensandbox},
    check::{Check, CheckStatus},
    engine::{Engine, blocking},
    error::{Error, Result},
    exec::Exec,
    sandbox::Isolation,
    settings::{NetworkSettings, Runtime, Settings},
    spec::ServerSpec,
};

/// What to do about a surprise.
const REPORT: &str = "report this with the output of `openbrain doctor --json`";

/// The state of this machine, and of the OpenSandbox server if the settings name one.
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
        is_ok(&self.checks)
    }
}

/// Looks at this machine, or at the OpenSandbox server of the settings, and runs one sandboxed
/// command under them.
pub fn doctor(settings: &Settings) -> Report {
    let engine = Engine::new(settings.clone());
    match settings.security.sandbox.server() {
        Ok(Some(server)) => server_report(&engine, server),
        Ok(None) => embedded_report(&engine),
        Err(error) => Report { checks: vec![failed("settings", &error)], isolation: None },
    }
}

fn embedded_report(engine: &Engine) -> Report {
    let mut checks = embedded::checks();
    let (trial, isolation) = trial(engine);
    if isolation.is_some() {
        // Whatever looked like an obstacle was none.
        excuse(&mut checks);
    }
    checks.push(trial);
    let without_network = Exec::new("true").sandbox().allow_network(false);
    if isolation.is_some() || engine.run_blocking(without_network).is_ok() {
        checks.extend(egress(engine.settings()));
    }
    Report { checks, isolation }
}

/// With a server, what this machine gives matters to `runtime: embedded` alone.
fn server_report(engine: &Engine, server: ServerSpec) -> Report {
    let mut here = embedded::checks();
    excuse(&mut here);
    let looked = blocking(async { Ok(opensandbox::checks(&server).await) });
    let mut checks = looked.unwrap_or_else(|error: Error| vec![failed("server", &error)]);
    let mut isolation = None;
    if is_ok(&checks) {
        let (trial, found) = trial(engine);
        checks.push(trial);
        if found.is_some() {
            checks.push(policies(engine));
        }
        isolation = found;
    }
    checks.extend(here);
    Report { checks, isolation }
}

/// Runs one sandboxed command.
fn trial(engine: &Engine) -> (Check, Option<Isolation>) {
    let begun = Instant::now();
    match engine.run_blocking(Exec::new("true").sandbox()) {
        Ok(output) if output.success() => {
            let time = begun.elapsed();
            let summary = match &output.sandbox_id {
                Some(_) => {
                    format!("a sandbox was created, ran a command and was deleted in {time:.1?}")
                }
                None => format!("a sandboxed command ran in {:?}", output.duration),
            };
            (Check::ok("trial", summary), Some(output.isolation))
        }
        Ok(output) => {
            let summary = format!(
                "a sandboxed `true` ended as {:?}: {}",
                output.status,
                output.stderr_text()
            );
            (Check::failed("trial", summary, REPORT), None)
        }
        Err(error) => (failed("trial", &error), None),
    }
}

/// Whether the server enforces network policies: a run without network reads back the one it got.
fn policies(engine: &Engine) -> Check {
    let run = || -> Result<bool> {
        let exec = Exec::new("true").sandbox().allow_network(false);
        Ok(engine.run_blocking(exec)?.success())
    };
    match run() {
        Ok(true) => Check::ok("egress", "the server enforces network policies"),
        Ok(false) => Check::warning("egress", "a command without network failed", REPORT),
        Err(error) => {
            let remedy = error.remedy().unwrap_or("see the message").to_owned();
            Check::warning("egress", error.to_string(), remedy)
        }
    }
}

fn failed(id: &'static str, error: &Error) -> Check {
    Check::failed(id, error.to_string(), error.remedy().unwrap_or("see the message"))
}

fn is_ok(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.status != CheckStatus::Failed)
}

fn excuse(checks: &mut [Check]) {
    for check in checks.iter_mut().filter(|check| check.status == CheckStatus::Failed) {
        check.status = CheckStatus::Warning;
    }
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
