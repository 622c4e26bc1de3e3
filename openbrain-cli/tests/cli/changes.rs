//! What a command has changed, from the report to the host.

use std::fs;

use serde_json::Value;

use crate::support::{Place, Ran, sandboxes};

/// A place with a tree, in which a command has changed something that is saved by the returned name.
fn changed() -> Option<(Place, Ran, String)> {
    if !sandboxes() {
        return None;
    }
    let place = Place::new();
    place.file("kept", "kept\n");
    place.file("edited", "one\n");
    place.file("gone", "gone\n");
    place.file("Makefile", "install:\n\techo two >> edited\n\trm gone\n\techo new > new\n");
    let line = ["exec", "--sandbox", "--mount", ".:overlay", "--changes", "make install"];
    let ran = place.run(&line).code(0);
    let id = ran
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("openbrain: apply with: openbrain apply "));
    let id = id.unwrap_or_else(|| panic!("{ran:#?}")).to_owned();
    Some((place, ran, id))
}

fn read(place: &Place, name: &str) -> Option<String> {
    fs::read_to_string(place.path().join(name)).ok()
}

#[test]
fn a_command_tells_what_it_changed_and_changes_nothing() {
    let Some((place, ran, id)) = changed() else { return };
    // The output is the command's own.
    assert_eq!(ran.stdout, "echo two >> edited\nrm gone\necho new > new\n");
    let expected = format!(
        "openbrain: 1 added, 1 modified, 1 deleted\n\
         openbrain: M /workspace/edited\n\
         openbrain: D /workspace/gone\n\
         openbrain: A /workspace/new\n\
         openbrain: show with: openbrain changes {id} --diff\n\
         openbrain: apply with: openbrain apply {id}\n"
    );
    assert_eq!(ran.stderr, expected);
    assert_eq!(read(&place, "edited").unwrap(), "one\n");
    assert_eq!(read(&place, "new"), None);
}

#[test]
fn changes_are_shown_applied_and_gone() {
    let Some((place, _, id)) = changed() else { return };
    let ran = place.run(&["changes", &id]).code(0);
    assert_eq!(ran.stdout, "M /workspace/edited\nD /workspace/gone\nA /workspace/new\n");
    let ran = place.run(&["changes", &id, "--diff"]).code(0);
    assert!(
        ran.stdout.contains("--- a/edited\n+++ b/edited\n@@ -1 +1,2 @@\n one\n+two\n"),
        "{ran:#?}"
    );
    let ran = place.run(&["changes", &id, "--json"]).code(0);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["entries"][1]["change"], "deleted");
    let ran = place.run(&["changes"]).code(0);
    assert!(
        ran.stdout.contains(&id) && ran.stdout.contains("1 added, 1 modified, 1 deleted"),
        "{ran:#?}"
    );
    let ran = place.run(&["apply", &id]).code(0);
    assert_eq!((&*ran.stdout, &*ran.stderr), ("", "openbrain: 3 changes are applied\n"));
    assert_eq!(read(&place, "edited").unwrap(), "one\ntwo\n");
    assert_eq!(read(&place, "new").unwrap(), "new\n");
    assert_eq!(read(&place, "gone"), None);
    let ran = place.run(&["apply", &id]).code(125);
    assert!(ran.stderr.contains("there are no saved changes"), "{ran:#?}");
    assert_eq!(place.run(&["changes"]).code(0).stdout, "");
}

#[test]
fn named_paths_are_applied_and_the_rest_is_discarded() {
    let Some((place, _, id)) = changed() else { return };
    let ran = place.run(&["apply", &id, "edited", "/workspace/new", "--json"]).code(0);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        json["applied"]["paths"],
        serde_json::json!(["/workspace/edited", "/workspace/new"])
    );
    assert_eq!(json["left"], 1);
    assert!(read(&place, "gone").is_some());
    place.run(&["discard", &id]).code(0).prints("");
    assert!(read(&place, "gone").is_some());
    place.run(&["discard", &id]).code(125);
    place.run(&["discard", "--all"]).code(0);
}

#[test]
fn a_host_that_moved_on_refuses_everything() {
    let Some((place, _, id)) = changed() else { return };
    place.file("edited", "mine\n");
    let ran = place.run(&["apply", &id]).code(125);
    assert!(ran.stderr.contains("changed on the host meanwhile: /workspace/edited"), "{ran:#?}");
    assert_eq!(read(&place, "new"), None);
    let ran = place.run(&["apply", &id, "--json"]).code(125);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["error"]["code"], "conflict");
    place.run(&["apply", &id, "new"]).code(0);
    assert_eq!(read(&place, "new").unwrap(), "new\n");
}

#[test]
fn machines_are_told_of_changes_too() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    place.file("a", "a\n");
    for form in ["--json", "--events"] {
        let line =
            ["exec", "--sandbox", "--mount", ".:overlay", "--changes", form, "echo b > b; rm a"];
        let ran = place.run(&line).code(0);
        let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
        let changes = last.get("changes").unwrap_or_else(|| &last["result"]["changes"]);
        assert_eq!(changes["entries"][0]["path"], "/workspace/a", "{last:#}");
        place.run(&["changes", changes["id"].as_str().unwrap()]).code(0);
        assert_eq!(ran.stderr, "");
    }
}

#[test]
fn nothing_is_saved_where_nothing_changed() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let ran =
        place.run(&["exec", "--sandbox", "--mount", ".:overlay", "--changes", "true"]).code(0);
    assert_eq!(ran.stderr, "openbrain: nothing has changed\n");
    assert_eq!(place.run(&["changes", "--json"]).code(0).stdout, "[]\n");
    let ran = place.run(&["exec", "--changes", "true"]).code(125);
    assert!(ran.stderr.contains("a direct command cannot report its changes"), "{ran:#?}");
}
