//! `openbrain doctor`: what works here, and what to do about the rest.

use std::fmt::Write;

use openbrain::{Check, CheckStatus, Isolation, Report, Settings};

use crate::{
    args::DoctorArgs,
    config,
    console::{print, print_json},
    exit,
    failure::{Failure, Result},
};

/// Runs `openbrain doctor` and returns the exit code.
pub(crate) fn run(args: &DoctorArgs) -> Result<u8> {
    let (settings, complaint) = match config::load(&args.settings) {
        Ok(loaded) => (loaded.settings, None),
        Err(Failure::Library(error)) => (Settings::default(), Some(error)),
        Err(other) => return Err(other),
    };
    let mut report = openbrain::doctor(&settings);
    if let Some(error) = complaint {
        let remedy = error.remedy().map(str::to_owned);
        let (id, status) = ("settings", CheckStatus::Failed);
        report.checks.insert(0, Check { id, status, summary: error.to_string(), remedy });
    }
    match args.json {
        true => print_json(&report)?,
        false => print(table(&report))?,
    }
    Ok(if report.ok() { exit::SUCCESS } else { exit::UNHEALTHY })
}

fn table(report: &Report) -> String {
    let width = report.checks.iter().map(|check| check.id.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Check { id, status, summary, remedy } in &report.checks {
        let status = match status {
            CheckStatus::Ok => "ok",
            CheckStatus::Warning => "warning",
            CheckStatus::Failed => "failed",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{status:<7}  {id:<width$}  {summary}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:<7}  {:<width$}  hint: {remedy}", "", "");
        }
    }
    text + "\n" + &verdict(report.isolation.as_ref()) + "\n"
}

/// What a sandbox would be, right now.
fn verdict(isolation: Option<&Isolation>) -> String {
    let Some(Isolation { level: _, namespaces, filesystem, network, layers, limits }) = isolation
    else {
        return "A sandbox is not possible here right now: `exec --sandbox` ends in an error."
            .into();
    };
    let limits: Vec<_> = limits.iter().map(|(name, by)| format!("{name} by {by}")).collect();
    let facts = [
        ("namespaces", namespaces.join(", ")),
        ("file system", filesystem.clone()),
        ("network", network.clone()),
        ("layers", layers.join(", ")),
        ("limits", limits.join(", ")),
    ];
    let facts = facts.iter().filter(|(_, fact)| !fact.is_empty());
    let facts: Vec<_> = facts.map(|(name, fact)| format!("  {name}: {fact}")).collect();
    format!("A sandbox right now would have:\n{}", facts.join("\n"))
}
