//! What a command has changed, as much of it as stays small.

use openbrain::Changes;
use schemars::JsonSchema;
use serde::Serialize;

/// How many entries are told.
const ENTRIES: usize = 100;

/// How many characters the entries may have together, and the diffs.
const CHARACTERS: usize = 6000;

/// What a command has changed in `overlay` mounts and in the sandbox's own directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Changed {
    /// How many files, directories and links are new.
    added: usize,
    /// How many are different.
    modified: usize,
    /// How many are gone.
    deleted: usize,
    /// One line for each: `A`, `M`, `D`, or `T` for another kind of file, and its path. The first ones.
    entries: Vec<String>,
    /// Unified diffs of texts, the first ones.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(with = "String")]
    diff: String,
    /// Whether there is more than is told here.
    truncated: bool,
}

impl Changed {
    pub(super) fn of(changes: &Changes) -> Self {
        let [added, modified, deleted] = changes.counts();
        let mut room = CHARACTERS;
        let lines = changes.entries.iter().map(ToString::to_string).take(ENTRIES);
        let entries: Vec<_> = lines.take_while(|line| takes(&mut room, line)).collect();
        let mut room = CHARACTERS;
        let diffs: Vec<_> =
            changes.entries.iter().filter_map(|entry| entry.diff.as_ref()).collect();
        let shown: Vec<_> = diffs
            .iter()
            .take_while(|diff| takes(&mut room, diff))
            .map(|diff| diff.as_str())
            .collect();
        let truncated =
            changes.truncated || entries.len() < changes.entries.len() || shown.len() < diffs.len();
        Self { added, modified, deleted, entries, diff: shown.concat(), truncated }
    }

    /// The same as a model reads it.
    pub(super) fn text(&self) -> String {
        let Self { added, modified, deleted, entries, diff, truncated } = self;
        let more = if *truncated { ", and more than is shown" } else { "" };
        let lines: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
        format!(
            "[changed: {added} added, {modified} modified, {deleted} deleted{more}]\n{lines}{diff}"
        )
    }
}

/// Whether there is room for a text, which then takes it up.
fn takes(room: &mut usize, text: &str) -> bool {
    let left = room.checked_sub(text.chars().count());
    *room = left.unwrap_or(0);
    left.is_some()
}

#[cfg(test)]
mod tests {
    use openbrain::Changes;
    use serde_json::json;

    use super::{CHARACTERS, Changed, ENTRIES};

    fn changes(entries: usize, diff: &str) -> Changes {
        let entry = |n: usize| {
            json!({
                "path": format!("/workspace/{n}"), "mount": "/workspace", "change": "added",
                "kind": "file", "size": 5, "mode": 0o644, "diff": diff,
            })
        };
        let entries: Vec<_> = (0..entries).map(entry).collect();
        serde_json::from_value(json!({ "entries": entries, "truncated": false })).unwrap()
    }

    #[test]
    fn a_small_change_is_told_whole() {
        let changed = Changed::of(&changes(1, "+++ b/0\n+hello\n"));
        assert!(!changed.truncated);
        let text = "[changed: 1 added, 0 modified, 0 deleted]\nA /workspace/0\n+++ b/0\n+hello\n";
        assert_eq!(changed.text(), text);
    }

    #[test]
    fn a_large_change_stays_small_and_says_so() {
        let changed = Changed::of(&changes(1000, &"+x\n".repeat(100)));
        assert!(changed.truncated && changed.added == 1000);
        assert_eq!(changed.entries.len(), ENTRIES);
        assert!(changed.text().chars().count() < 2 * CHARACTERS + 100);
        assert_eq!(Changed::of(&changes(1, &"x".repeat(10_000))).diff, "");
    }
}
