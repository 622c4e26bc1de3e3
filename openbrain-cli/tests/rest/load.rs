//! Many callers at once, polite and rude ones.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::server::{PATIENCE, Server};

/// Waits until the server has this figure.
#[track_caller]
fn wait_for(server: &Server, name: &str, expected: f64) {
    let deadline = Instant::now() + PATIENCE;
    while server.figure(name) != expected {
        assert!(Instant::now() < deadline, "{name} is {}", server.figure(name));
        thread::sleep(Duration::from_millis(20));
    }
}

const RUNNING: &str = "openbrain_running{backend=\"direct\"}";

/// Idle streams of one command, all of which must be told of its end.
fn idle_streams(count: usize) {
    let server = Server::start();
    let path = server.create(json!({ "command": "mkfifo gate; read x < gate; echo done" }));
    let before = server.memory();
    let streams: Vec<_> = (0..count)
        .map(|_| {
            let mut client = server.connect();
            client.send(&format!("GET {path}/events"), server.host(), &[], b"");
            client.streaming()
        })
        .collect();
    assert!(streams.iter().all(|stream| stream.head.status == 200));
    let each = server.memory().saturating_sub(before) / count as u64;
    assert!(each < 64 << 10, "{each} bytes for each stream");
    server.get("/health").status(200);
    std::fs::write(server.place.path().join("gate"), "go\n").unwrap();
    for mut stream in streams {
        assert_eq!(stream.event().unwrap().2["data"], "done\n");
        assert_eq!(stream.event().unwrap().1, "ended");
    }
}

#[test]
fn a_thousand_idle_streams_are_served() {
    idle_streams(1000);
}

/// Requests of several clients, many of which go away before, in or after the answer.
fn disconnects(requests: usize) {
    let server = Server::with("server:\n  max_execs: 16\n  max_queue: 1000\n");
    server.exec(json!({ "command": "true" }));
    let before = server.memory();
    let (left, answered) = (AtomicUsize::new(requests), AtomicUsize::new(0));
    thread::scope(|scope| {
        for client in 0..8 {
            let (server, left, answered) = (&server, &left, &answered);
            scope.spawn(move || {
                let mut random = 0x9e37_79b9_u64 + client;
                while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    answered.fetch_add(usize::from(rude(server, random >> 33)), Relaxed);
                }
            });
        }
    });
    assert!(answered.into_inner() > requests / 8);
    wait_for(&server, RUNNING, 0.0);
    wait_for(&server, "openbrain_waiting", 0.0);
    server.exec(json!({ "command": "true" }));
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more after {requests} requests");
}

/// One request that is given up somewhere. Says whether it was answered.
fn rude(server: &Server, random: u64) -> bool {
    let command = ["true", "sleep 1000", "yes", "echo x; sleep 1000"][(random >> 4) as usize % 4];
    let body = json!({ "command": command }).to_string();
    let accept =
        ["Accept: application/json", "Accept: text/event-stream"][(random >> 6) as usize % 2];
    let mut client = server.connect();
    match random % 4 {
        0 => client.send("POST /exec", server.host(), &[accept], br#"{"command": "true"}"#),
        1 => {
            let host = server.host();
            client.raw(format!(
                "POST /exec HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\n\r\n{{"
            ));
            return false;
        }
        2 => {
            client.send(
                "POST /exec",
                server.host(),
                &["Accept: application/x-ndjson"],
                body.as_bytes(),
            );
            return client.streaming().head.status == 200;
        }
        _ => {
            client.send("POST /exec", server.host(), &[accept], body.as_bytes());
            return false;
        }
    }
    client.reply().status == 200
}

#[test]
fn rude_clients_leave_nothing_behind() {
    disconnects(10_000);
}

#[test]
#[ignore = "takes minutes: `make soak`"]
fn soak_of_rude_clients() {
    disconnects(200_000);
}

#[test]
fn a_flood_of_long_bodies_is_bounded_in_memory() {
    let server = Server::start();
    let body = json!({ "command": "true", "stdin": "x".repeat(8 << 20) }).to_string();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..16).map(|_| scope.spawn(|| server.post("/exec", &body).status)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&200));
}
