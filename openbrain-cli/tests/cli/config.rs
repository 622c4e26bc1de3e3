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
fn every_flag_of_a_server_reaches_the_plan() {
    let args = [
        "exec",
        "--dry-run",
        "--json",
        "--sandbox",
        "--server-url",
        "https://sandboxes.example.com",
        "--image",
        "python:3.12",
        "--use-server-proxy",
        "--ca-file",
        "ca.pem",
        "--request-timeout",
        "5s",
        "--start-timeout",
        "2m",
        "--extension",
        "poolRef=python",
        "--extension",
        "a=b=c",
        "ls",
    ];
    let place = Place::new();
    let server = place.run(&args).code(0).json()["place"]["opensandbox"][1].take();
    let expected = serde_json::json!({
        "url": "https://sandboxes.example.com",
        "image": "python:3.12",
        "use_server_proxy": true,
        "ca_file": std::path::absolute(place.path()).unwrap().join("ca.pem"),
        "request_timeout_seconds": 5,
        "start_timeout_seconds": 120,
        "extensions": {"poolRef": "python", "a": "b=c"},
    });
    assert_eq!(server, expected);
}

#[test]
fn wrong_flags_of_a_server_are_explained() {
    for (flags, complaint) in [
        (["--server-url", "localhost"], "write it as http://localhost:8080"),
        (["--request-timeout", "soon"], "--request-timeout"),
        (["--start-timeout", "0"], "--start-timeout"),
        (["--extension", "poolRef"], "write NAME=VALUE"),
        (["--image", "two words"], "is not the name of an image"),
    ] {
        let args = ["exec", "--sandbox", flags[0], flags[1], "ls"];
        Place::new().run(&args).code(125).complains(complaint);
    }
}

#[test]
fn the_key_of_a_server_is_never_printed() {
    let place = Place::new();
    let url = "http://localhost:1";
    for args in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["config", "show", "--origin"],
        &["config", "show", "--origin", "--json"],
        &["exec", "--sandbox", "--dry-run", "ls"],
        &["exec", "--sandbox", "--dry-run", "--json", "ls"],
        &["doctor"],
        &["doctor", "--json"],
        &["sandbox", "list"],
    ] {
        let mut command = place.command(args);
        command.env("OPEN_SANDBOX_API_KEY", "hunter2").env("OPENBRAIN_SERVER_URL", url);
        let ran = crate::support::Ran::of(command, b"");
        assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"), "{ran:#?}");
        if args[0] != "doctor" && args[0] != "sandbox" {
            assert!(ran.stdout.contains("***"), "{ran:#?}");
        }
    }
}

#[test]
fn a_project_does_not_get_the_key_of_the_user() {
    let place = Place::new();
    let settings = "security:\n  sandbox:\n    server_url: http://sandboxes.example.com\n";
    place.file("config/settings.yaml", settings);
    let run = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("OPEN_SANDBOX_API_KEY", "hunter2");
        crate::support::Ran::of(command, b"")
    };
    let ran = run(&["exec", "--sandbox", "true"]).code(125);
    ran.complains("the key of environment variable `OPEN_SANDBOX_API_KEY` is not for it");
    let own = ["exec", "--sandbox", "--dry-run", "--server-url", "http://sandboxes.example.com"];
    run(&[&own[..], &["true"]].concat()).code(0);
}

#[test]
fn a_wrong_variable_of_the_environment_is_an_error() {
    let place = Place::new();
    let mut command = place.command(&["exec", "true"]);
    command.env("OPENBRAIN_MODE", "sandbx");
    crate::support::Ran::of(command, b"").code(125).complains("OPENBRAIN_MODE");
}
