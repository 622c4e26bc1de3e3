//! The end of a server: gentle, urgent, or by SIGKILL.

use rustix::process::Signal;
use serde_json::json;

use crate::{
    client::Streaming,
    server::{Server, Watched},
    support::{Place, sandboxes},
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
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
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
    assert_eq!(mounts(), before);
}

#[test]
fn a_server_that_was_killed_starts_again_at_its_place_and_has_lost_no_record() {
    let place = Place::new();
    let socket = format!("unix:{}", place.path().join("openbrain.sock").display());
    let mut server = Server::at(&socket, "", |_| {});
    let ask = |body: &str| {
        let socket = socket.strip_prefix("unix:").unwrap();
        server.curl(&["--unix-socket", socket, "http://localhost/v1/execs", "-d", body])
    };
    let number = format!("1000.{}", std::process::id());
    let started = ask(&json!({ "command": format!("exec sleep {number}") }).to_string());
    let exec_id = started.code(0).json()["exec_id"].as_str().unwrap().to_owned();
    let watched = Watched::eventually(&["sleep", &number]);
    server.signal(Signal::KILL);
    server.end();
    watched.wait();
    // What it had begun to do is known.
    let audit = server.place.run(&["audit", "--json"]).code(0).stdout;
    assert!(audit.contains(&exec_id) && audit.contains(r#""surface":"rest""#), "{audit}");
    // The file of its socket is still there, and in nobody's way.
    let again = Server::at(&socket, "", |_| {});
    let socket = socket.strip_prefix("unix:").unwrap();
    let health = ["--unix-socket", socket, "http://localhost/health"];
    assert_eq!(again.curl(&health).code(0).json()["status"], "ok");
}

#[test]
fn a_server_that_ends_leaves_the_socket_of_the_next_one() {
    let place = Place::new();
    let socket = format!("unix:{}", place.path().join("openbrain.sock").display());
    let path = socket.strip_prefix("unix:").unwrap();
    let mut first = Server::at(&socket, "server:\n  drain_seconds: 60\n", |_| {});
    let body = json!({ "command": "mkfifo gate; read x < gate" }).to_string();
    let exec = ["--unix-socket", path, "http://localhost/v1/execs", "-d", &body];
    first.curl(&exec).code(0);
    first.signal(Signal::TERM);
    first.says(|line| line.contains("commands have"));
    let second = Server::at(&socket, "", |_| {});
    // The first one is done with its command, and ends while the second one is there.
    drop(std::fs::OpenOptions::new().write(true).open(first.place.path().join("gate")).unwrap());
    assert_eq!(first.end(), Some(0), "{}", first.said());
    let health = ["--unix-socket", path, "http://localhost/health"];
    assert_eq!(second.curl(&health).code(0).json()["status"], "ok");
}
