//! What happens to a command, as it happens.

use std::io::Write;

use serde_json::{Value, json};

use crate::{client::Streaming, server::Server};

const LINES: &str = "Accept: application/x-ndjson";
const EVENTS: &str = "Accept: text/event-stream";

fn stream(server: &Server, accept: &str, body: &Value) -> Streaming {
    let mut client = server.connect();
    client.send("POST /exec", server.host(), &[accept], body.to_string().as_bytes());
    client.streaming()
}

#[test]
fn lines_come_as_they_are_printed_and_the_result_comes_last() {
    let server = Server::start();
    let command = "echo one; mkfifo gate; read x < gate; echo two >&2; exit 3";
    let mut stream = stream(&server, LINES, &json!({ "command": command }));
    assert_eq!(stream.head.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(stream.head.header("x-accel-buffering"), Some("no"));
    assert_eq!(stream.head.header("cache-control"), Some("no-store"));
    let exec_id = stream.head.header("openbrain-exec-id").unwrap().to_owned();
    let first = stream.record();
    assert_eq!(
        (&first["seq"], &first["type"], &first["data"]),
        (&json!(1), &json!("stdout"), &json!("one\n"))
    );
    // The first line was here before the command could go on.
    open_gate(&server);
    let second = stream.record();
    assert_eq!((&second["type"], &second["data"]), (&json!("stderr"), &json!("two\n")));
    let last = stream.record();
    assert_eq!((&last["seq"], &last["type"]), (&json!(3), &json!("ended")));
    let result = &last["result"];
    assert_eq!((&result["exit_code"], &result["exec_id"]), (&json!(3), &json!(exec_id)));
    assert_eq!((&result["stdout_bytes"], &result["stderr_bytes"]), (&json!(4), &json!(4)));
    assert_eq!(stream.line(), None);
}

/// Lets a command go on that waits for its fifo.
fn open_gate(server: &Server) {
    let open = "until [ -p gate ]; do :; done; echo go > gate";
    assert_eq!(server.exec(json!({ "command": open, "timeout": 20 }))["success"], true);
}

#[test]
fn events_are_numbered_and_named() {
    let server = Server::start();
    let mut stream = stream(&server, EVENTS, &json!({ "command": "printf 'a\\n\\nid: 9\\n'" }));
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    let (id, event, data) = stream.event().unwrap();
    assert_eq!((id, event.as_str(), &data["data"]), (1, "stdout", &json!("a\n\nid: 9\n")));
    let (id, event, data) = stream.event().unwrap();
    assert_eq!((id, event.as_str(), &data["result"]["success"]), (2, "ended", &json!(true)));
    assert_eq!(stream.line(), None);
}

#[test]
fn what_cannot_be_started_is_a_problem_and_no_stream() {
    let server = Server::start();
    for accept in [LINES, EVENTS] {
        let reply = server.ask("POST /exec", &[accept], r#"{"command": ["no-such-program"]}"#);
        reply.problem(422, "command_not_found");
    }
}

#[test]
fn a_silent_stream_shows_that_it_lives() {
    let server = Server::start();
    let mut stream = stream(&server, EVENTS, &json!({ "command": "sleep 1000" }));
    // The comment comes after 15 seconds.
    assert_eq!(stream.line().unwrap(), ": the command runs");
}

#[test]
fn a_slow_reader_slows_the_command() {
    let server = Server::start();
    // The command tells how far it has come; what lies between it and us is bounded.
    let command =
        "i=0; while :; do head -c 65536 /dev/zero | tr '\\0' x; i=$((i+1)); echo $i > n; done";
    let stream = stream(&server, LINES, &json!({ "command": command }));
    let far = "until [ -s n ]; do :; done; last=; while n=$(cat n); do [ -n \"$n\" ] && [ \"$n\" = \"$last\" ] && break; \
               last=$n; sleep 0.5; done; echo $n";
    let blocks = server.exec(json!({ "command": far, "timeout": 25 }));
    assert_eq!(blocks["status"], "exited", "the command went on and on: {blocks}");
    let blocks: u64 = blocks["stdout"].as_str().unwrap().trim().parse().unwrap();
    // The buffers of two sockets, at most a few MiB each, and of ours.
    assert!(blocks * 65536 < 32 << 20, "{blocks} blocks are on their way");
    assert!(server.memory() < 100 << 20, "{}", server.memory());
    drop(stream);
}

#[test]
fn a_stream_loses_no_byte() {
    let server = Server::start();
    let mut stream = stream(&server, LINES, &json!({ "command": "seq 300000" }));
    let mut all = Vec::new();
    let mut seq = 0;
    let result = loop {
        let record = stream.record();
        seq += 1;
        assert_eq!(record["seq"], seq);
        match record["type"].as_str().unwrap() {
            "stdout" => all.write_all(record["data"].as_str().unwrap().as_bytes()).unwrap(),
            _ => break record,
        }
    };
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(all == expected.as_bytes());
    assert_eq!(result["result"]["stdout_bytes"], expected.len());
}
