//! What commands have changed: told after a command, shown, applied and discarded.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
};

use openbrain::{Applied, Change, Changes, NoDiff, Output, SavedChanges, settings::Sources};
use serde_json::json;

use crate::{
    args::{ApplyArgs, ChangesArgs, DiscardArgs},
    console::{harmless, print, print_json, say, table},
    exit,
    failure::{Failure, Result},
    moment::rfc3339,
};

/// How many changes are listed after a command.
const MOST_LISTED: usize = 50;

const TITLES: [&str; 4] = ["ID", "SAVED", "CHANGES", "MOUNT"];

/// Saves what a command has changed, so that it can be applied. That it cannot be is a warning: the
/// command has run.
pub(crate) fn save(output: &mut Output) {
    let Some(changes) = output.changes.as_mut().filter(|changes| !changes.is_empty()) else {
        return;
    };
    let saved = directory().and_then(|directory| Ok(changes.save(&directory)?));
    if let Err(failure) = saved {
        output.warnings.push(unsaved(&failure));
    }
}

/// The warning that changes are not saved.
pub(crate) fn unsaved(failure: &Failure) -> String {
    let remedy = failure.remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default();
    format!("the changes cannot be applied later: {}{remedy}", failure.message())
}

/// Tells what a command has changed.
pub(crate) fn remark(changes: &Changes) {
    if changes.is_empty() {
        say("nothing has changed");
        return;
    }
    say(counted(changes));
    for change in changes.entries.iter().take(MOST_LISTED) {
        say(change);
    }
    let more = changes.entries.len().saturating_sub(MOST_LISTED);
    if more > 0 {
        say(format_args!("… and {more} more"));
    }
    if let Some(id) = &changes.id {
        say(format_args!("show with: openbrain changes {id} --diff"));
        say(format_args!("apply with: openbrain apply {id}"));
    }
}

/// How many entries have changed, in a sentence.
fn counted(changes: &Changes) -> String {
    let [added, modified, deleted] = changes.counts();
    let and_more = if changes.truncated { ", and more that is not listed" } else { "" };
    format!("{added} added, {modified} modified, {deleted} deleted{and_more}")
}

/// Runs `openbrain changes` and returns the exit code.
pub(crate) fn run(args: &ChangesArgs) -> Result<u8> {
    let directory = directory()?;
    let Some(id) = &args.id else {
        return list(args.json).map(|()| exit::SUCCESS);
    };
    show(&SavedChanges::load(&directory, id)?.changes(), args.diff, args.json)?;
    Ok(exit::SUCCESS)
}

/// Prints changes: a line for each, or their diffs, or JSON. Says when some are missing.
pub(crate) fn show(changes: &Changes, as_diff: bool, as_json: bool) -> Result<()> {
    if changes.truncated && !as_json {
        say("warning: more has changed than is listed");
    }
    match (as_json, as_diff) {
        (true, _) => print_json(changes),
        (false, true) => print(shown(diffs(changes))),
        (false, false) => {
            print(changes.entries.iter().map(|change| format!("{change}\n")).collect::<String>())
        }
    }
}

fn list(is_json: bool) -> Result<()> {
    let directory = directory()?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for (id, saved_at) in SavedChanges::list(&directory)? {
        // Somebody may apply it at this moment.
        let Ok(saved) = SavedChanges::load(&directory, &id) else { continue };
        let mounts: Vec<String> =
            saved.mounts().map(|(_, source)| source.display().to_string()).collect();
        let changes = saved.changes();
        let [added, modified, deleted] = changes.counts();
        let saved_at = rfc3339(saved_at);
        values.push(json!({
            "id": id,
            "saved_at": saved_at,
            "added": added,
            "modified": modified,
            "deleted": deleted,
            "mounts": mounts,
        }));
        let mounts = mounts.iter().map(|mount| mount.escape_debug().to_string());
        rows.push([id, saved_at, counted(&changes), mounts.collect::<Vec<_>>().join(", ")]);
    }
    if is_json { print_json(&values) } else { print(table(TITLES, rows.into_iter())) }
}

/// The diffs of all entries; a line for what has none.
fn diffs(changes: &Changes) -> String {
    let one = |change: &Change| match (&change.diff, change.no_diff) {
        (Some(diff), _) => diff.clone(),
        (None, Some(why)) => {
            let why = match why {
                NoDiff::Binary => "binary",
                NoDiff::TooLarge => "too large for a diff",
                NoDiff::Limit => "the diffs before it are 2 MiB already",
                NoDiff::Unreadable => "not readable",
            };
            format!("{change} ({why})\n")
        }
        (None, None) => match (change.old_mode, &change.target) {
            (Some(old), _) => format!("{change} (mode {old:o} → {:o})\n", change.mode),
            (None, Some(target)) => format!("{change} → {target:?}\n"),
            (None, None) => format!("{change}\n"),
        },
    };
    changes.entries.iter().map(one).collect()
}

/// A text that does nothing to a terminal: what is in it comes from a sandbox.
fn shown(text: String) -> String {
    if !io::stdout().is_terminal() {
        return text;
    }
    let shown = |c: char| if matches!(c, '\n' | '\t') { c.to_string() } else { harmless(c) };
    text.chars().map(shown).collect()
}

/// Runs `openbrain apply` and returns the exit code.
pub(crate) fn apply(args: &ApplyArgs) -> Result<u8> {
    let ApplyArgs { id, paths, json } = args;
    let mut saved = SavedChanges::load(&directory()?, id)?;
    let applied = saved.apply(paths)?;
    let left = saved.changes().entries.len();
    if *json {
        print_json(&json!({ "applied": applied, "left": left }))?;
        return Ok(exit::SUCCESS);
    }
    let Applied { paths, skipped, .. } = &applied;
    for path in skipped {
        say(format_args!("not applied, for it is no file: {path:?}"));
    }
    say(match paths.len() {
        1 => "1 change is applied".to_owned(),
        count => format!("{count} changes are applied"),
    });
    if left > 0 {
        say(format_args!("{left} left; show with: openbrain changes {id}"));
    }
    Ok(exit::SUCCESS)
}

/// Runs `openbrain discard` and returns the exit code.
pub(crate) fn discard(args: &DiscardArgs) -> Result<u8> {
    let directory = directory()?;
    let ids = match args.all {
        true => SavedChanges::list(&directory)?.into_iter().map(|(id, _)| id).collect(),
        false => args.ids.clone(),
    };
    let mut code = exit::SUCCESS;
    for id in ids {
        if let Err(error) = SavedChanges::discard_by_id(&directory, &id) {
            let failure = Failure::from(error);
            failure.print();
            code = failure.code();
        }
    }
    Ok(code)
}

/// Where changes are saved.
pub(crate) fn directory() -> Result<PathBuf> {
    Sources::from_process()?.changes().ok_or_else(|| {
        Failure::usage("nobody knows where changes are saved", "set HOME, or XDG_STATE_HOME")
    })
}
