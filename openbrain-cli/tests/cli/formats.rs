//! `--json`, `--events`, `--dry-run`, and what goes where.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Going, Place};

#[test]
fn streams_stay_apart() {
    let ran = Place::new().run(&["exec", "echo out; echo err >&2"]).code(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn json_is_one_object() {
    let ran = Place::new().run(&["exec", "--json", "echo out; echo err >&2; exit 3"]).code(3);
    let result = ran.json();
    for (name, value) in [
        ("status", json!("exited")),
        ("exit_code", json!(3)),
        ("signal", Value::Null),
        ("stdout", json!("out\n")),
        ("stderr", json!("err\n")),
        ("backend", json!("direct")),
    ] {
        assert_eq!(result[name], value, "{name}");
    }
    assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (1, ""));
}

#[test]
fn json_tells_a_timeout_from_a_124() {
    let ran = Place::new().run(&["exec", "--json", "-t", "0.2", "echo before; sleep 30"]);
    let result = ran.code(124).json();
    assert_eq!((&result["timed_out"], &result["stdout"]), (&json!(true), &json!("before\n")));
    let result = Place::new().run(&["exec", "--json", "exit 124"]).code(124).json();
    assert_eq!(result["timed_out"], json!(false));
}

#[test]
fn the_output_limit_cuts_the_middle() {
    let args = ["exec", "--json", "--output-limit", "1k", "head -c 5000 /dev/zero | tr '\\0' x"];
    let result = Place::new().run(&args).code(0).json();
    assert_eq!(result["stdout_truncated"], json!(true));
    assert_eq!(result["stdout_bytes"], json!(5000));
    assert!(result["stdout"].as_str().unwrap().len() < 1200);
}

#[test]
fn whatever_prints_json_prints_its_errors_so() {
    let place = Place::new();
    for args in [
        &["sandbox", "list", "--json"][..],
        &["sandbox", "files", "ls", "work", "/", "--json"],
        &["sandbox", "changes", "work", "--json"],
        &["sandbox", "logs", "work", "--list", "--json"],
        &["audit", "--json"],
        &["config", "show", "--json"],
    ] {
        let ran = place.run(&[args, &["--config", "missing.yaml"]].concat()).code(125);
        assert_eq!(ran.json()["error"]["code"], "invalid_settings", "{ran:#?}");
        assert_eq!(ran.stderr, "", "{ran:#?}");
    }
    let ran = place.run(&["changes", "unknown", "--json"]).code(125);
    assert_eq!(ran.json()["error"]["code"], "invalid_request", "{ran:#?}");
}

#[test]
fn json_carries_errors_too() {
    for (args, code, expected) in [
        (&["exec", "--json", "--", "no-such-program"][..], 127, "command_not_found"),
        (&["exec", "--json", "--", "/etc/passwd"], 126, "command_not_executable"),
        (&["exec", "--json", ""], 125, "invalid_request"),
        (&["exec", "--json", "--mount", "/", "ls"], 125, "invalid_request"),
        (&["exec", "--json", "--env", "NOT_SET_HERE", "ls"], 125, "invalid_request"),
        (&["exec", "--timeout", "0", "--json", "ls"], 125, "invalid_request"),
        (&["exec", "--json", "--sandbx", "ls"], 125, "invalid_request"),
        (&["exec", "--json", "--config", "missing.yaml", "ls"], 125, "invalid_settings"),
        (&["exec", "--events", ""], 125, "invalid_request"),
        (&["exec", "--json", "--events", "ls"], 125, "invalid_request"),
    ] {
        let ran = Place::new().run(args).code(code);
        assert_eq!(ran.json()["error"]["code"], expected, "{ran:#?}");
        assert_eq!(ran.stderr, "", "{args:?}");
    }
}

#[test]
fn events_are_lines() {
    let ran = Place::new().run(&["exec", "--events", "echo out; exit 3"]).code(3);
    let records: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = records.iter().map(|r| (r["seq"].clone(), r["type"].clone())).collect();
    assert_eq!(kinds, [(json!(1), json!("stdout")), (json!(2), json!("ended"))]);
    assert_eq!(records[0]["data"], "out\n");
    assert_eq!(records[1]["result"]["exit_code"], json!(3));
}

#[test]
fn events_come_as_they_happen() {
    let (_place, mut going) = waiting(&["exec", "--events", "-t", "30", "printf first; read x"]);
    let record: Value = serde_json::from_str(&going.line()).unwrap();
    assert_eq!(record["data"], "first");
    going.write(b"go on\n");
    assert_eq!(going.end(), Some(0));
}

#[test]
fn output_comes_as_it_is_written() {
    let (_place, mut going) = waiting(&["exec", "-t", "30", "printf first; read x; echo second"]);
    going.wait_for_bytes(b"first");
    going.write(b"go on\n");
    going.wait_for("second");
    assert_eq!(going.end(), Some(0));
}

/// Starts a command that waits for its input.
fn waiting(args: &[&str]) -> (Place, Going) {
    let place = Place::new();
    let mut command = place.command(args);
    command.stdin(Stdio::piped());
    (place, Going::of(command))
}

#[test]
fn a_dry_run_runs_nothing() {
    let place = Place::new();
    let ran = place.run(&["exec", "--dry-run", "-t", "10m", "-e", "A=secret", "touch made"]);
    let ran = ran.code(0);
    assert!(ran.stdout.contains("timeout_seconds: 600\n"), "{ran:#?}");
    assert!(ran.stdout.contains("place: direct\n") && !ran.stdout.contains("secret"), "{ran:#?}");
    assert!(!place.path().join("made").exists());
}

#[test]
fn a_dry_run_shows_the_sandbox() {
    let place = Place::new();
    let args = [
        "exec",
        "--dry-run",
        "--json",
        "--sandbox",
        "--no-network",
        "--mount",
        "src:/app:ro",
        "ls",
    ];
    let spec = place.run(&args).code(0).json();
    let sandbox = &spec["place"]["embedded"];
    let source = place.path().canonicalize().unwrap().join("src");
    let mount = json!({ "source": source, "target": "/app", "mode": "ro" });
    assert_eq!(sandbox["mounts"], json!([mount]));
    assert_eq!((&sandbox["network"], &spec["command"]), (&json!("none"), &json!("ls")));
}

#[test]
fn a_closed_output_ends_the_command() {
    let place = Place::new();
    let mut going = place.start(&["exec", "-t", "30", "yes"]);
    going.wait_for("y");
    assert_eq!(going.end_closed(), Some(141));
}

#[test]
fn a_closed_output_of_our_own_is_no_panic() {
    for args in [&["exec", "--help"][..], &["config", "schema"], &["completions", "bash"], &["man"]]
    {
        let place = Place::new();
        let mut command = place.command(args);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(141), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{args:?}");
    }
}

#[test]
fn a_full_disk_is_reported() {
    let place = Place::new();
    let mut command = place.command(&["exec", "-t", "30", "yes"]);
    command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot write the output"));
}
