//! `openbrain config`, and the settings of other commands.

use serde_json::json;

use crate::support::Place;

#[test]
fn show_prints_what_holds() {
    let place = Place::new();
    place.file("config/settings.yaml", "security:\n  mode: sandbox\n");
    let shown = place.run(&["config", "show", "--json"]).code(0).json();
    assert_eq!(shown["security"]["mode"], "sandbox");
    let text = place.run(&["config", "show"]).code(0).stdout;
    assert!(text.contains("mode: sandbox\n"), "{text}");
}

#[test]
fn show_tells_where_values_come_from() {
    let place = Place::new();
    place.file("config/settings.yaml", "security:\n  mode: sandbox\n");
    let args = ["config", "show", "--origin", "--server-url", "http://localhost:1"];
    let text = place.run(&args).code(0).stdout;
    for line in [
        "security.mode: \"sandbox\"  # project file `config/settings.yaml`",
        "security.sandbox.server_url: \"http://localhost:1\"  # flag `--server-url`",
        "security.sandbox.runtime: \"auto\"  # default",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    let loaded = place.run(&["config", "show", "--origin", "--json"]).code(0).json();
    assert_eq!(loaded["origins"]["security.sandbox.runtime"], json!("default"));
}

#[test]
fn check_accepts_and_refuses() {
    let place = Place::new();
    place.run(&["config", "check"]).code(0).prints("no settings file, the defaults hold\n");
    place.file("good.yaml", "security:\n  mode: direct\n");
    place.run(&["config", "check", "good.yaml"]).code(0).prints("good.yaml: ok\n");
    place.file("bad.yaml", "security:\n  mod: direct\n");
    place.run(&["config", "check", "bad.yaml"]).code(125).complains("`security.mode`");
    place.file("config/settings.yaml", "");
    place.run(&["config", "check"]).code(125).complains("is empty");
}

#[test]
fn init_writes_a_file_that_is_accepted() {
    let place = Place::new();
    let user = place.path().join(".config/openbrain/settings.yaml");
    place.run(&["config", "init"]).code(0).prints(&format!("wrote {}\n", user.display()));
    place.run(&["config", "check"]).code(0).prints(&format!("{}: ok\n", user.display()));
    place.run(&["config", "init"]).code(125).complains("replace it with --force");
    std::fs::write(&user, "x").unwrap();
    place.run(&["config", "init", "--force"]).code(0);
    place.run(&["config", "check"]).code(0);
    place.run(&["config", "init", "new/there.yaml"]).code(0).prints("wrote new/there.yaml\n");
}

#[test]
fn schema_is_json() {
    let schema = Place::new().run(&["config", "schema"]).code(0).json();
    assert!(schema["properties"]["security"].is_object());
}

#[test]
fn path_names_the_files() {
    let place = Place::new();
    place.file("config/settings.yaml", "security: {}\n");
    let user = place.path().join(".config/openbrain/settings.yaml");
    let expected =
        format!("project\tpresent\tconfig/settings.yaml\nuser\tabsent\t{}\n", user.display());
    place.run(&["config", "path"]).code(0).prints(&expected);
}

#[test]
fn settings_decide_where_a_command_runs() {
    let place = Place::new();
    place.file("config/settings.yaml", "security:\n  mode: sandbox\n  allow_direct: false\n");
    let spec = place.run(&["exec", "--dry-run", "--json", "ls"]).code(0).json();
    assert!(spec["place"]["embedded"].is_object(), "{spec}");
    place.run(&["exec", "--direct", "ls"]).code(125).complains("direct");
}

#[test]
fn a_flag_names_a_server() {
    let args =
        ["exec", "--dry-run", "--json", "--sandbox", "--server-url", "http://localhost:1", "ls"];
    let spec = Place::new().run(&args).code(0).json();
    assert_eq!(spec["place"]["opensandbox"][1]["url"], "http://localhost:1");
}

#[test]
fn a_wrong_variable_of_the_environment_is_an_error() {
    let place = Place::new();
    let mut command = place.command(&["exec", "true"]);
    command.env("OPENBRAIN_MODE", "sandbx");
    crate::support::Ran::of(command, b"").code(125).complains("OPENBRAIN_MODE");
}
