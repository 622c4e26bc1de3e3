use std::time::{Duration, SystemTime};

use proptest::prelude::{any, prop_assert_eq, proptest};
use serde_json::json;

use super::{
    AgentEvent, Completion, CreateSandbox, Image, Permission, Refusal, RegistryAuth, RunCommand,
    RunRequest, Sandbox, SandboxState, Volume, VolumeSource, parse_time, read_event,
};

#[test]
fn a_creation_says_only_what_is_set() {
    let mut create = CreateSandbox::image("python:3.12");
    create.timeout = Some(Duration::from_millis(60_001));
    create.env.insert("A".into(), "b".into());
    create.volumes.push(Volume {
        name: "workspace".into(),
        source: VolumeSource::Host(super::HostVolume { path: "/srv".into() }),
        mount_path: "/workspace".into(),
        read_only: false,
        sub_path: None,
    });
    let expected = json!({
        "image": {"uri": "python:3.12"},
        "timeout": 61,
        "resourceLimits": {},
        "env": {"A": "b"},
        "entrypoint": ["tail", "-f", "/dev/null"],
        "volumes": [{
            "name": "workspace",
            "host": {"path": "/srv"},
            "mountPath": "/workspace",
            "readOnly": false,
        }],
    });
    assert_eq!(serde_json::to_value(&create).unwrap(), expected);
}

#[test]
fn debug_shows_no_secret() {
    let mut create = CreateSandbox::image("x");
    create.env.insert("TOKEN".into(), "hunter2".into());
    let auth = RegistryAuth { username: "me".into(), password: "hunter2".into() };
    create.image = Some(Image { uri: "x".into(), auth: Some(auth) });
    let mut run = RunCommand::shell("true");
    run.env.insert("TOKEN".into(), "hunter2".into());
    let shown = format!("{create:?} {run:?}");
    assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_command_is_sent_in_milliseconds() {
    let mut run = RunCommand::argv(["echo", "a b"]);
    run.timeout = Some(Duration::from_micros(1_500_001));
    let request = RunRequest { command: &run, background: true };
    let expected = json!({"argv": ["echo", "a b"], "timeout": 1501, "background": true});
    assert_eq!(serde_json::to_value(request).unwrap(), expected);
    let request = RunRequest { command: &RunCommand::shell("ls"), background: false };
    assert_eq!(serde_json::to_value(request).unwrap(), json!({"command": "ls"}));
}

#[test]
fn a_mode_that_is_not_set_is_zero() {
    assert_eq!(serde_json::to_value(Permission::default()).unwrap(), json!({"mode": 0}));
    assert_eq!(serde_json::to_value(Permission::mode(0o755)).unwrap(), json!({"mode": 755}));
}

#[test]
fn a_sandbox_may_have_unknown_states_and_fields() {
    let text = r#"{"id":"a","status":{"state":"Dreaming","x":1},"metadata":null,"new":[],
        "expiresAt":"2026-10-01T00:00:00.123456Z"}"#;
    let sandbox: Sandbox = serde_json::from_str(text).unwrap();
    assert_eq!(sandbox.status.state, SandboxState::Other("Dreaming".into()));
    let since = sandbox.expires_at.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(since.subsec_micros(), 123_456);
}

#[test]
fn times_may_have_offsets() {
    let utc = parse_time("2026-10-01T12:00:00Z");
    assert!(utc.is_some());
    for text in ["2026-10-01T12:00:00", "2026-10-01T14:00:00+02:00", "2026-10-01T06:30:00-05:30"] {
        assert_eq!(parse_time(text), utc, "{text}");
    }
    for text in ["", "é", "yesterday", "2026-10-01T12:00:00+aa:00", "ééé+02:00"] {
        assert_eq!(parse_time(text), None, "{text}");
    }
}

#[test]
fn every_shape_of_a_refusal_is_read() {
    let cases: [(&str, Option<&str>, &str); 9] = [
        (r#"{"code":"A::B","message":"no"}"#, Some("A::B"), "no"),
        (
            r#"{"detail":[{"type":"t","loc":["body","env","A"],"msg":"bad","input":"hunter2"},
                {"loc":["body",0],"msg":"worse"}]}"#,
            None,
            "`env.A`: bad; `0`: worse",
        ),
        (r#"{"detail":"Not Found"}"#, None, "Not Found"),
        (r#"{"detail":{"code":"A::B","message":"no"}}"#, Some("A::B"), "no"),
        (r#"{"error":"Unauthorized: x"}"#, None, "Unauthorized: x"),
        ("Internal Server Error", None, "Internal Server Error"),
        ("", None, ""),
        ("<html>\n<h1>Hi", None, "received `<html> <h1>Hi`"),
        (r#"{"what":1}"#, None, r#"received `{"what":1}`"#),
    ];
    for (body, code, message) in cases {
        let expected = Refusal { code: code.map(str::to_owned), message: message.to_owned() };
        assert_eq!(Refusal::read(body.as_bytes()), expected, "{body}");
    }
}

fn done(frame: &str) -> Completion {
    match read_event(frame.as_bytes()) {
        Ok(Some(AgentEvent::Done(completion))) => completion,
        other => panic!("{frame}: {other:?}"),
    }
}

#[test]
fn ends_are_told_apart() {
    let killed = |signal| Completion::Killed { signal };
    let error = |value: &str, trace: &str| {
        done(&format!(
            r#"{{"type":"error","error":{{"ename":"CommandExecError","evalue":"{value}","traceback":{trace}}}}}"#
        ))
    };
    assert_eq!(done(r#"{"type":"execution_complete"}"#), Completion::Exited(0));
    assert_eq!(error("7", r#"["exit status 7"]"#), Completion::Exited(7));
    assert_eq!(error("-1", r#"["signal: killed"]"#), killed(Some(9)));
    assert_eq!(error("-1", r#"["signal: terminated"]"#), killed(Some(15)));
    assert_eq!(error("-1", r#"["signal: segmentation fault (core dumped)"]"#), killed(Some(11)));
    assert_eq!(error("-1", r#"["signal: signal 31"]"#), killed(Some(31)));
    assert_eq!(error("-1", "null"), killed(None));
    let reason = "fork/exec: no such file".to_owned();
    assert_eq!(error(&reason, "null"), Completion::NotStarted { reason });
    let reason = "the agent gave no reason".to_owned();
    assert_eq!(done(r#"{"type":"error"}"#), Completion::NotStarted { reason });
}

proptest! {
    #[test]
    fn nothing_received_makes_a_panic(bytes in any::<Vec<u8>>(), text in ".{0,40}") {
        let _ = (Refusal::read(&bytes), read_event(&bytes), parse_time(&text));
        let _ = Refusal::read(text.as_bytes());
    }

    #[test]
    fn texts_arrive_as_they_are(text in any::<String>()) {
        let frame = json!({"type": "stdout", "text": text}).to_string();
        let event = read_event(frame.as_bytes()).unwrap();
        prop_assert_eq!(event, Some(AgentEvent::Stdout(text)));
    }
}
