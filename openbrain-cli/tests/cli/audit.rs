//! `openbrain audit`, and the log that `openbrain exec` writes.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{Place, Ran};

const LOG: &str = ".local/state/openbrain/audit.jsonl";

/// A place where every command is recorded.
fn place() -> Place {
    let place = Place::new();
    place.file(".config/openbrain/settings.yaml", "audit:\n  execs: all\n");
    place
}

fn log(place: &Place) -> PathBuf {
    place.path().join(LOG)
}

/// The records that `openbrain audit --json` prints.
fn records(place: &Place, args: &[&str]) -> Vec<Value> {
    let ran = place.run(&[&["audit", "--json"], args].concat()).code(0);
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn started(exec_id: &str, time: &str, surface: &str, command: &str) -> String {
    let record = json!({
        "type": "start", "time": time, "exec_id": exec_id, "surface": surface, "caller": "uid:1",
        "pid": 1, "command": command, "env": [], "workdir": null, "sandbox": false,
        "backend": "direct", "shell": "/bin/sh", "timeout_seconds": 3600.0, "limits": {},
        "policy": null,
    });
    format!("{record}\n")
}

#[test]
fn a_command_is_recorded_under_the_id_of_its_result() {
    let place = place();
    let args = ["exec", "--json", "--env", "TOKEN=hunter2", "echo hello; exit 3"];
    let result = place.run(&args).code(3).json();
    let [start, end] = &records(&place, &[])[..] else { panic!() };
    assert_eq!((&start["exec_id"], &end["exec_id"]), (&result["exec_id"], &result["exec_id"]));
    assert_eq!((&start["type"], &end["type"]), (&json!("start"), &json!("end")));
    assert_eq!((&start["surface"], &start["command"]), (&json!("cli"), &json!(args[4])));
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(start["caller"], format!("uid:{uid}"));
    assert_eq!(start["env"], json!(["TOKEN"]));
    assert_eq!((&end["exit_code"], &end["stdout_bytes"]), (&json!(3), &json!(6)));
    assert_eq!(end["isolation"], result["isolation"]);
    assert_eq!(fs::metadata(log(&place)).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(log(&place)).unwrap();
    assert!(!text.contains("hunter2"), "{text}");

    let table = place.run(&["audit"]).code(0).stdout;
    let line = table.lines().nth(1).unwrap();
    for part in ["cli uid:", " direct ", " exited 3 ", result["exec_id"].as_str().unwrap()] {
        assert!(line.contains(part), "{part:?} in {line:?}");
    }
    assert!(line.ends_with("  echo hello; exit 3"), "{line:?}");
}

#[test]
fn a_refused_command_is_recorded_and_a_dry_run_is_not() {
    let place = Place::new();
    let settings = "security:\n  allow_direct: false\naudit:\n  execs: all\n";
    place.file(".config/openbrain/settings.yaml", settings);
    place.run(&["exec", "--dry-run", "--direct", "true"]).code(125);
    assert!(!log(&place).exists());
    place.run(&["exec", "--direct", "true"]).code(125).complains("no direct commands");
    let [refused] = &records(&place, &[])[..] else { panic!() };
    assert_eq!(
        (&refused["type"], &refused["error"]["code"]),
        (&json!("refused"), &json!("policy_denied"))
    );
    assert!(place.run(&["audit"]).code(0).stdout.contains(" refused policy_denied "));
}

#[test]
fn commands_of_the_user_are_not_recorded_by_default() {
    let place = Place::new();
    place.run(&["exec", "true"]).code(0);
    assert!(!log(&place).exists());
    place.run(&["audit"]).code(0).complains("commands of REST and MCP callers are recorded");
}

#[test]
fn nothing_runs_that_cannot_be_recorded() {
    let place = place();
    fs::create_dir_all(log(&place)).unwrap();
    let ran = place.run(&["exec", "touch marker"]).code(125);
    ran.complains("`audit.execs: none` records nothing");
    assert!(!place.path().join("marker").exists());
    let mut command = place.command(&["exec", "touch marker"]);
    command.env_remove("HOME");
    Ran::of(command, b"").code(125).complains("set `audit.file`, or HOME");
    assert!(!place.path().join("marker").exists());
}

#[test]
fn a_start_without_end_is_unknown() {
    let place = place();
    let line = started("exec_1", "2026-01-01T00:00:00.000Z", "rest", "make\n\u{1b}[2J all");
    place.file(LOG, line);
    let table = place.run(&["audit"]).code(0).stdout;
    let expected = "WHEN                      WHO         WHERE   STATUS   TOOK  EXEC    COMMAND\n\
                    2026-01-01T00:00:00.000Z  rest uid:1  direct  unknown  -     exec_1  \
                    make\\n\\u{1b}[2J all\n";
    assert_eq!(table, expected);
}

#[test]
fn a_killed_openbrain_leaves_a_start() {
    let place = place();
    let mut going = place.start(&["exec", "--direct", "echo up; sleep 1000"]);
    going.wait_for("up");
    going.signal(rustix::process::Signal::KILL);
    going.end_unread();
    let [start] = &records(&place, &[])[..] else { panic!() };
    assert_eq!(start["type"], "start");
    assert!(place.run(&["audit"]).code(0).stdout.contains("  unknown  "));
}

#[test]
fn an_interrupted_command_has_an_end() {
    let place = place();
    let mut going = place.start(&["exec", "--direct", "echo up; exec sleep 1000"]);
    going.wait_for("up");
    going.signal(rustix::process::Signal::TERM);
    going.end();
    let [_, end] = &records(&place, &[])[..] else { panic!() };
    assert_eq!(end["type"], "end");
}

#[test]
fn commands_are_chosen() {
    let place = place();
    let old = started("exec_1", "2020-01-01T00:00:00.000Z", "rest", "old");
    let older = started("exec_0", "2019-01-01T00:00:00.000Z", "mcp", "older");
    let end = r#"{"type":"end","time":"2020-01-01T00:00:01.000Z","exec_id":"exec_0","status":"lost","exit_code":null,"signal":null,"error":null}"#;
    // The start has been rotated away.
    let orphan = end.replace("exec_0", "exec_x");
    place.file(&format!("{LOG}.2"), older);
    place.file(&format!("{LOG}.1"), format!("{orphan}\n{old}{end}\n"));
    place.run(&["exec", "true"]).code(0);
    let ids = |args: &[&str]| {
        let of = |record: Value| record["exec_id"].as_str().unwrap().replace("exec_", "");
        let ids: Vec<_> = records(&place, args).into_iter().map(of).collect();
        ids.iter().map(|id| if id.len() > 1 { "new" } else { id }).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids(&[]), "0 x 1 0 new new");
    assert_eq!(ids(&["--surface", "rest"]), "1");
    assert_eq!(ids(&["--surface", "mcp"]), "0 0");
    assert_eq!(ids(&["--since", "1h"]), "new new");
    assert_eq!(ids(&["--exec", "exec_0"]), "0 0");
    assert_eq!(ids(&["--exec", "exec"]), "");
    assert_eq!(ids(&["-n", "2"]), "1 new new");
    assert_eq!(ids(&["-n", "0"]), "");
    let table = place.run(&["audit", "--exec", "exec_0"]).code(0).stdout;
    assert!(table.contains("  mcp uid:1  direct  lost    -     exec_0  older\n"), "{table}");
    place.run(&["audit", "--surface", "ftp"]).code(125).complains("library, cli, rest, mcp");
    place.run(&["audit", "--since", "soon"]).code(125).complains("--since");
}

#[test]
fn damaged_lines_are_told_and_skipped() {
    let place = place();
    let line = |id: &str| started(id, "2026-01-01T00:00:00.000Z", "rest", "true");
    let text = [line("exec_1").as_bytes(), b"\xff{\"type\":\n", line("exec_2").as_bytes()].concat();
    let file = place.file(LOG, text);
    let ran = place.run(&["audit", "--json"]).code(0);
    assert_eq!(ran.stdout, line("exec_1") + &line("exec_2"));
    assert!(ran.stderr.starts_with(&format!("openbrain: warning: line 2 of `{file}` is damaged")));
    assert_eq!(ran.stderr.lines().count(), 1);
}

#[test]
fn several_processes_write_one_log() {
    let place = Place::new();
    let settings = "audit:\n  execs: all\n  max_size: 20000\n  keep_files: 100\n";
    place.file(".config/openbrain/settings.yaml", settings);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    place.run(&["exec", "true"]).code(0);
                }
            });
        }
    });
    assert!(place.path().join(format!("{LOG}.1")).exists());
    let records = records(&place, &[]);
    let count = |kind: &str| records.iter().filter(|record| record["type"] == kind).count();
    assert_eq!((count("start"), count("end")), (40, 40));
}
