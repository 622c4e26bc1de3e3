//! The end of a server: gentle, urgent, or by SIGKILL.

use rustix::process::Signal;
use serde_json::json;

use crate::{
    client::Streaming,
    server::{Server, Watched},
    support::sandboxes,
};

fn stream(server: &Server, body: &serde_json::Value) -> Streaming {
    let mut client = server.connect();
    let headers = ["Accept: application/x-ndjson"];
    client.send("POST /exec", server.host(), &headers, body.to_string().as_bytes());
    client.streaming()
}

#[test]
fn a_server_that_is_asked_to_end_lets_commands_end() {
    let mut server = Server::with("server:\n  drain_seconds: 60\n");
    let command = "mkfifo gate; echo begun; read x < gate; echo done";
    let mut stream = stream(&server, &json!({ "command": command }));
    assert_eq!(stream.record()["data"], "begun\n");
    let mut idle = server.connect();
    idle.send("GET /health", server.host(), &[], b"");
    idle.reply().status(200);
    server.signal(Signal::TERM);
    // A connection without a request is closed: the server has begun to end.
    assert!(idle.is_closed());
    std::fs::write(server.place.path().join("gate"), "go\n").unwrap();
    assert_eq!(stream.record()["data"], "done\n");
    assert_eq!(stream.record()["result"]["success"], true);
    assert_eq!(server.end(), Some(0), "{}", server.said());
}

#[test]
fn commands_that_do_not_end_are_killed() {
    let mut server = Server::with("server:\n  drain_seconds: 0.2\n");
    let mut stream = stream(&server, &json!({ "command": "trap '' TERM; echo $$; sleep 1000" }));
    let watched = Watched::process(stream.record()["data"].as_str().unwrap());
    server.signal(Signal::TERM);
    assert_eq!(stream.record()["result"]["status"], "cancelled");
    assert_eq!(server.end(), Some(0), "{}", server.said());
    assert!(watched.is_gone());
}

#[test]
fn a_second_signal_is_at_once() {
    let mut server = Server::with("server:\n  drain_seconds: 1000\n");
    let mut stream = stream(&server, &json!({ "command": "echo $$; exec sleep 1000" }));
    let watched = Watched::process(stream.record()["data"].as_str().unwrap());
    let mut idle = server.connect();
    idle.send("GET /health", server.host(), &[], b"");
    idle.reply().status(200);
    server.signal(Signal::INT);
    assert!(idle.is_closed());
    server.signal(Signal::INT);
    assert_eq!(server.end(), Some(0), "{}", server.said());
    assert!(watched.is_gone());
}

#[test]
fn nothing_is_left_of_a_server_that_is_killed() {
    let mut server = Server::start();
    let daemon = "setsid sleep 1000 & echo $!; exec sleep 1000";
    let mut attached = stream(&server, &json!({ "command": daemon }));
    let mut watched = vec![Watched::process(attached.record()["data"].as_str().unwrap())];
    let path = server.create(json!({ "command": daemon }));
    let mut client = server.connect();
    let headers = ["Accept: application/x-ndjson"];
    client.send(&format!("GET {path}/events"), server.host(), &headers, b"");
    let mut kept = client.streaming();
    watched.push(Watched::process(kept.record()["data"].as_str().unwrap()));
    if sandboxes() {
        let number = format!("2000.{}", std::process::id());
        let command = format!("setsid sleep {number} & exec sleep 1000");
        server.create(json!({ "command": command, "sandbox": true }));
        watched.push(Watched::eventually(&["sleep", &number]));
    }
    server.signal(Signal::KILL);
    assert_eq!(server.end(), None);
    watched.iter().for_each(Watched::wait);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("openbrain"), "{mounts}");
}
