//! `POST /exec`: the result of a command, and its end when its request ends.

use serde_json::{Value, json};

use crate::{
    server::{Server, Watched},
    support::{installed, sandboxes},
};

#[test]
fn a_command_that_ran_is_an_answer_whatever_became_of_it() {
    let server = Server::start();
    for (command, status, code, signal) in [
        ("true", "exited", json!(0), Value::Null),
        ("exit 7", "exited", json!(7), Value::Null),
        ("kill -9 $$", "signaled", Value::Null, json!(9)),
    ] {
        let result = server.exec(json!({ "command": command }));
        assert_eq!(result["status"], status, "{result}");
        assert_eq!((&result["exit_code"], &result["signal"]), (&code, &signal), "{result}");
    }
    let slow = server.exec(json!({ "command": "echo begun; sleep 60", "timeout": 0.3 }));
    assert_eq!((&slow["status"], &slow["stdout"]), (&json!("timed_out"), &json!("begun\n")));
}

#[test]
fn the_body_is_the_request_of_the_library() {
    let server = Server::start();
    let result = server.exec(json!({
        "command": { "language": "sh", "source": "cat; echo $A; exit 2" },
        "stdin": { "base64": "/wAK" },
        "env": { "A": "b" },
        "limits": { "output": "1k" },
    }));
    assert_eq!(result["stdout_base64"], "/wAKYgo=", "{result}");
    assert_eq!(result["exit_code"], 2);
}

#[test]
fn a_sandbox_is_a_sandbox() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let body = json!({ "command": "test -e Cargo.toml; pwd", "sandbox": true });
    let result = server.exec(body);
    assert_eq!(
        (&result["backend"], &result["stdout"]),
        (&json!("embedded"), &json!("/workspace\n"))
    );
}

#[test]
fn the_settings_are_the_law() {
    let server = Server::with(
        "security:\n  allow_direct: false\n  mode: sandbox\nserver:\n  max_timeout_seconds: 5\n",
    );
    for (body, key) in [
        (json!({ "command": "true", "sandbox": false }), "allow_direct"),
        (json!({ "command": "true", "mounts": ["/etc:/mnt"] }), "server.allowed_mounts"),
        (json!({ "command": "true", "timeout": 6 }), "server.max_timeout_seconds"),
        (json!({ "command": "true", "stdin": { "file": "/etc/shadow" } }), "send the input itself"),
    ] {
        let problem = server.post("/exec", body.to_string()).problem(403, "policy_denied");
        assert!(problem["remedy"].as_str().unwrap().contains(key), "{problem}");
        server.post("/v1/execs", body.to_string()).problem(403, "policy_denied");
    }
}

#[test]
fn a_client_that_goes_away_ends_its_command_with_all_its_processes() {
    let server = Server::start();
    for accept in ["application/json", "application/x-ndjson", "text/event-stream"] {
        let started = format!("started-{}", accept.rsplit('/').next().unwrap());
        // The last process has left the group and the session, and waits for nobody.
        let command = format!(
            "mkfifo {started}; setsid sh -c 'echo $$ > {started}; exec sleep 1000' & sleep 1000"
        );
        let mut client = server.connect();
        let body = json!({ "command": command }).to_string();
        client.send("POST /exec", server.host(), &[&format!("Accept: {accept}")], body.as_bytes());
        let pid = read_from(&server, &started);
        let watched = Watched::process(&pid);
        assert!(!watched.is_gone());
        drop(client);
        watched.wait();
    }
}

#[test]
fn a_client_that_has_said_more_than_its_request_is_missed_too() {
    let server = Server::start();
    for (number, more) in
        ["\r\n", "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", "x"].iter().enumerate()
    {
        let name = format!("fifo-{number}");
        let body =
            json!({ "command": format!("mkfifo {name}; echo $$ > {name}; exec sleep 1000") });
        let mut client = server.connect();
        client.send("POST /exec", server.host(), &[], body.to_string().as_bytes());
        client.raw(more);
        let watched = Watched::process(&read_from(&server, &name));
        drop(client);
        watched.wait();
    }
}

/// What a command of the server writes to a fifo, once the fifo is there.
fn read_from(server: &Server, name: &str) -> String {
    let wait = format!("until [ -p {name} ]; do :; done; cat {name}");
    server.exec(json!({ "command": wait, "timeout": 20 }))["stdout"].as_str().unwrap().to_owned()
}

#[test]
fn a_client_that_goes_away_ends_its_sandbox() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let mut client = server.connect();
    // A number of its own makes the process known.
    let number = format!("1000.{}", std::process::id());
    let body = json!({ "command": format!("echo begun; sleep {number}"), "sandbox": true });
    let headers = ["Accept: application/x-ndjson"];
    client.send("POST /exec", server.host(), &headers, body.to_string().as_bytes());
    let mut stream = client.streaming();
    assert_eq!(stream.record()["data"], "begun\n");
    let watched = Watched::eventually(&["sleep", &number]);
    drop(stream);
    watched.wait();
}

#[test]
fn too_many_commands_are_told_when_to_come_back() {
    let server = Server::with("server:\n  max_execs: 1\n  max_queue: 0\n");
    let path = server.create(json!({ "command": "sleep 1000" }));
    let reply = server.post("/exec", r#"{"command": "true"}"#);
    let after: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    let problem = reply.problem(429, "busy");
    assert!(problem["remedy"].as_str().unwrap().contains("server.max_execs"), "{problem}");
    assert_eq!(problem["retryable"], true);
    server.ask(&format!("DELETE {path}"), &[], "").status(200);
    server.post("/exec", r#"{"command": "true"}"#).status(200);
}

#[test]
fn a_request_that_waits_gets_its_turn() {
    let server = Server::with("server:\n  max_execs: 1\n  max_queue: 1\n");
    let path = server.create(json!({ "command": "sleep 1000" }));
    let mut waiting = server.connect();
    waiting.send("POST /exec", server.host(), &[], br#"{"command": "echo turn"}"#);
    server.ask(&format!("DELETE {path}"), &[], "").status(200);
    assert_eq!(waiting.reply().status(200).json()["stdout"], "turn\n");
}

#[test]
fn a_script_in_a_file_is_sent_as_it_is() {
    if !installed("curl") {
        return;
    }
    let server = Server::start();
    let body = json!({ "command": "echo one\necho two" });
    server.place.file("body.json", serde_json::to_string_pretty(&body).unwrap());
    let ran = server.curl(&["--data-binary", "@body.json", &server.url("/exec")]).code(0);
    assert_eq!(ran.json()["stdout"], "one\ntwo\n");
}

#[test]
fn a_key_against_repetition_is_for_commands_that_are_kept() {
    let server = Server::start();
    let body = r#"{"command": "true"}"#;
    let problem = server.ask("POST /exec", &["Idempotency-Key: a"], body);
    let problem = problem.problem(422, "invalid_request");
    assert!(problem["remedy"].as_str().unwrap().contains("/v1/execs"), "{problem}");
}
