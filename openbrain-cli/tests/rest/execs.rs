//! `/v1/execs`: commands that go on without their request.

use serde_json::{Value, json};

use crate::{
    client::Streaming,
    server::{Server, Watched},
};

fn follow(server: &Server, path: &str, headers: &[&str]) -> Streaming {
    let mut client = server.connect();
    client.send(&format!("GET {path}"), server.host(), headers, b"");
    client.streaming()
}

/// Waits for the end of a command and gives it.
fn ended(server: &Server, path: &str) -> Value {
    let mut stream = follow(server, &format!("{path}/events"), &["Accept: application/x-ndjson"]);
    while stream.line().is_some() {}
    server.get(path).status(200).json()
}

#[test]
fn a_command_goes_on_without_its_request() {
    let server = Server::start();
    let reply = server.post("/v1/execs", r#"{"command": "echo one; echo two >&2; exit 3"}"#);
    let reply = reply.status(202);
    let path = reply.header("location").unwrap().to_owned();
    let exec_id = reply.header("openbrain-exec-id").unwrap().to_owned();
    assert_eq!(path, format!("/v1/execs/{exec_id}"));
    assert_eq!(reply.json()["exec_id"], exec_id);
    let exec = ended(&server, &path);
    assert_eq!((&exec["state"], &exec["exec_id"]), (&json!("ended"), &json!(exec_id)));
    assert_eq!(exec["command"], "echo one; echo two >&2; exit 3");
    let result = &exec["result"];
    assert_eq!((&result["exit_code"], &result["stdout"]), (&json!(3), &json!("one\n")));
    assert_eq!((&result["stderr"], &exec["error"]), (&json!("two\n"), &Value::Null));
}

#[test]
fn the_answer_waits_as_long_as_the_client_prefers() {
    let server = Server::start();
    let ask = |prefer: &str, command: &str| {
        let body = json!({ "command": command }).to_string();
        server.ask("POST /v1/execs", &[prefer], body)
    };
    let reply = ask("Prefer: wait=20", "echo done").status(200);
    assert_eq!(reply.header("preference-applied"), Some("wait=20"));
    assert_eq!(reply.json()["result"]["stdout"], "done\n");
    let reply = ask("Prefer: respond-async, wait=0", "sleep 1000").status(202);
    assert_eq!(reply.json()["state"], "running");
    assert_eq!(reply.json()["result"], Value::Null);
}

#[test]
fn events_are_followed_and_resumed() {
    let server = Server::start();
    let command = "echo one; mkfifo gate; read x < gate; echo two; exit 1";
    let path = server.create(json!({ "command": command }));
    let mut stream = follow(&server, &format!("{path}/events"), &[]);
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    let (id, event, data) = stream.event().unwrap();
    assert_eq!((id, event.as_str(), &data["data"]), (1, "stdout", &json!("one\n")));
    // Whoever loses the connection asks again with the last number that came.
    drop(stream);
    let open = "until [ -p gate ]; do :; done; echo go > gate";
    server.exec(json!({ "command": open }));
    for (query, headers) in [("?after=1", &[][..]), ("?after=0", &["Last-Event-ID: 1"])] {
        let mut stream = follow(&server, &format!("{path}/events{query}"), headers);
        let (id, _, data) = stream.event().unwrap();
        assert_eq!((id, &data["data"]), (2, &json!("two\n")));
        let (id, event, data) = stream.event().unwrap();
        assert_eq!((id, event.as_str(), &data["result"]["exit_code"]), (3, "ended", &json!(1)));
        assert_eq!(stream.line(), None);
    }
    // A browser that asks again after the end is told to stop.
    server.get(&format!("{path}/events?after=3")).status(204);
    server.get(&format!("{path}/events?after=18446744073709551615")).status(204);
    server.get(&format!("{path}/events?after=-1")).problem(422, "invalid_request");
    server.get(&format!("{path}/events?afer=1")).problem(422, "invalid_request");
    let wrong = server.ask(&format!("GET {path}/events"), &["Last-Event-ID: x"], "");
    wrong.problem(422, "invalid_request");
}

#[test]
fn forgotten_records_are_a_gap() {
    let server = Server::start();
    let body = json!({ "command": "seq 100000", "limits": { "output": "64k" } });
    let path = server.create(body);
    let exec = ended(&server, &path);
    assert_eq!(exec["result"]["stdout_truncated"], true);
    assert_eq!(exec["stdout_bytes"], 588_895);
    let lines = ["Accept: application/x-ndjson"];
    let mut stream = follow(&server, &format!("{path}/events"), &lines);
    let (mut seq, mut gaps) = (0, 0);
    let last = loop {
        let record = stream.record();
        match record["type"].as_str().unwrap() {
            "gap" => {
                assert_eq!(record["from_seq"], seq + 1);
                seq = record["to_seq"].as_u64().unwrap();
                assert_eq!(record["seq"], seq);
                gaps += 1;
            }
            kind => {
                seq += 1;
                assert_eq!(record["seq"], seq);
                if kind == "ended" {
                    break record;
                }
            }
        }
    };
    assert_eq!((gaps, &last["result"]["success"]), (1, &json!(true)));
}

#[test]
fn a_slow_follower_does_not_slow_the_command() {
    let server = Server::start();
    let path = server.create(json!({ "command": "yes | head -c 40000000; echo done >&2" }));
    let slow = follow(&server, &format!("{path}/events"), &[]);
    let exec = ended(&server, &path);
    assert_eq!((&exec["stdout_bytes"], &exec["stderr_bytes"]), (&json!(40_000_000), &json!(5)));
    assert!(server.memory() < 200 << 20, "{}", server.memory());
    drop(slow);
}

#[test]
fn bytes_are_read_from_where_the_reader_is() {
    let server = Server::start();
    let path = server.create(json!({ "command": "printf 'a\\377b'; printf err >&2" }));
    ended(&server, &path);
    let reply = server.get(&format!("{path}/stdout?offset=1&limit=1")).status(200);
    assert_eq!(reply.body, b"\xff");
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
    for (name, value) in [("offset", "1"), ("next-offset", "2"), ("total", "3"), ("ended", "true")]
    {
        assert_eq!(reply.header(&format!("openbrain-{name}")), Some(value), "{name}");
    }
    assert_eq!(server.get(&format!("{path}/stdout")).status(200).body, b"a\xffb");
    assert_eq!(server.get(&format!("{path}/stderr")).status(200).body, b"err");
    let beyond = server.get(&format!("{path}/stdout?offset=99")).status(200);
    assert_eq!((beyond.body.len(), beyond.header("openbrain-total")), (0, Some("3")));
    for query in ["limit=0", "limit=99999999999", "offset=-1", "offset=x", "ofset=1"] {
        server.get(&format!("{path}/stdout?{query}")).problem(422, "invalid_request");
    }
}

#[test]
fn input_is_written_while_the_command_runs() {
    let server = Server::start();
    let body =
        json!({ "command": "read x; echo got $x; cat; echo end", "stdin": { "pipe": true } });
    let path = server.create(body);
    let lines = ["Accept: application/x-ndjson"];
    let mut stream = follow(&server, &format!("{path}/events"), &lines);
    server.post(&format!("{path}/stdin"), "first\n").status(204);
    assert_eq!(stream.record()["data"], "got first\n");
    server.post(&format!("{path}/stdin?eof=true"), "rest\n").status(204);
    let mut text = String::new();
    while let Some(data) = stream.record()["data"].as_str() {
        text.push_str(data);
    }
    assert_eq!(text, "rest\nend\n");
    server.post(&format!("{path}/stdin"), "more").problem(409, "input_closed");
    let path = server.create(json!({ "command": "sleep 1000" }));
    let problem = server.post(&format!("{path}/stdin"), "x").problem(422, "invalid_request");
    assert!(problem["remedy"].as_str().unwrap().contains("pipe"), "{problem}");
    assert_eq!(problem["instance"], path);
}

#[test]
fn signals_reach_the_command() {
    let server = Server::start();
    // The shell tells of its children that the signal ends, too.
    let command = "exec 2>/dev/null; trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.05; done";
    let path = server.create(json!({ "command": command }));
    let mut stream = follow(&server, &format!("{path}/events"), &["Accept: application/x-ndjson"]);
    assert_eq!(stream.record()["data"], "ready\n");
    let problem = server.post(&format!("{path}/signal"), r#"{"signal": "USR3"}"#);
    assert!(problem.problem(422, "invalid_request")["detail"].as_str().unwrap().contains("`USR"));
    server.post(&format!("{path}/signal"), r#"{"signal": "USR1"}"#).status(204);
    assert_eq!(stream.record()["data"], "caught\n");
    assert_eq!(stream.record()["result"]["exit_code"], 5);
    server.post(&format!("{path}/signal"), r#"{"signal": 15}"#).problem(409, "already_ended");
}

#[test]
fn a_deleted_command_is_gone_with_all_its_processes() {
    let server = Server::start();
    let command = "trap '' TERM; setsid sleep 1000 & echo $!; while :; do sleep 1; done";
    let path = server.create(json!({ "command": command }));
    let mut stream = follow(&server, &format!("{path}/events"), &["Accept: application/x-ndjson"]);
    let watched = Watched::process(stream.record()["data"].as_str().unwrap());
    let first = server.ask(&format!("DELETE {path}"), &[], "").status(200).json();
    assert_eq!(
        (&first["state"], &first["result"]["status"]),
        (&json!("ended"), &json!("cancelled"))
    );
    watched.wait();
    let again = server.ask(&format!("DELETE {path}"), &[], "").status(200).json();
    assert_eq!(again, first);
    let other = server.create(json!({ "command": "exit 4" }));
    ended(&server, &other);
    let late = server.ask(&format!("DELETE {other}"), &[], "").status(200).json();
    assert_eq!(late["result"]["exit_code"], 4);
}

#[test]
fn a_request_that_is_repeated_starts_nothing_new() {
    let server = Server::start();
    let start = |key: &str, body: &str| server.ask("POST /v1/execs", &[key], body);
    let body = r#"{"command": "echo ran >> log; sleep 1000"}"#;
    let first = start("Idempotency-Key: one", body).status(202).json();
    // The same request may be written otherwise.
    let same = r#"{ "command" : "echo ran >> log; sleep 1000" }"#;
    let second = start("Idempotency-Key: one", same).status(202).json();
    assert_eq!(first["exec_id"], second["exec_id"]);
    let other = start("Idempotency-Key: one", r#"{"command": "true"}"#);
    other.problem(422, "idempotency_key_reused");
    let third = start("Idempotency-Key: two", body).status(202).json();
    assert_ne!(first["exec_id"], third["exec_id"]);
    start("Idempotency-Key: a b", body).problem(400, "malformed_request");
    assert_eq!(server.get("/v1/execs").json()["execs"].as_array().unwrap().len(), 2);
}

#[test]
fn requests_with_one_key_at_once_start_one_command() {
    let server = Server::start();
    let body = br#"{"command": "sleep 1000"}"#;
    let clients = (0..20).map(|_| {
        let mut client = server.connect();
        client.send("POST /v1/execs", server.host(), &["Idempotency-Key: k"], body);
        client
    });
    let clients: Vec<_> = clients.collect();
    let mut ids: Vec<_> = clients
        .into_iter()
        .map(|mut client| client.reply().status(202).json()["exec_id"].as_str().unwrap().to_owned())
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
}

#[test]
fn a_key_whose_request_failed_can_be_used_again() {
    let server = Server::with("server:\n  max_execs: 1\n  max_queue: 0\n");
    let path = server.create(json!({ "command": "sleep 1000" }));
    let start = || server.ask("POST /v1/execs", &["Idempotency-Key: k"], r#"{"command": "true"}"#);
    start().problem(429, "busy");
    server.ask(&format!("DELETE {path}"), &[], "").status(200);
    start().status(202);
}

#[test]
fn the_list_has_pages() {
    let server = Server::start();
    let paths: Vec<_> =
        (0..5).map(|n| server.create(json!({ "command": format!("exit {n}") }))).collect();
    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = server.get(&format!("/v1/execs{query}")).status(200).json();
        let execs = page["execs"].as_array().unwrap().clone();
        assert!(execs.len() <= 2);
        seen.extend(
            execs.iter().map(|exec| format!("/v1/execs/{}", exec["exec_id"].as_str().unwrap())),
        );
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=2&after={next}");
    }
    let newest_first: Vec<_> = paths.into_iter().rev().collect();
    assert_eq!(seen, newest_first);
    for query in ["limit=0", "limit=501", "after=x", "page=2"] {
        server.get(&format!("/v1/execs?{query}")).problem(422, "invalid_request");
    }
}

#[test]
fn a_command_is_forgotten_some_time_after_its_end() {
    let server = Server::with("server:\n  keep_seconds: 0.2\n");
    let path = server.create(json!({ "command": "true" }));
    // Its stream ends when it ends; the shelf lets it go a little later.
    while server.get(&path).status == 200 {}
    server.get(&path).problem(404, "not_found");
}

#[test]
fn what_is_secret_in_a_request_is_not_shown() {
    let server = Server::start();
    let body = json!({ "command": "true", "env": { "KEY": "hunter2" }, "stdin": "hunter2" });
    let path = server.create(body);
    for text in [server.get(&path).text(), server.get("/v1/execs").text(), server.said()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
