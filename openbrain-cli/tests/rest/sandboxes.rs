//! `/v1/sandboxes`: sandboxes that stay open, and their files.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    client::{Reply, Streaming},
    server::{PATIENCE, Server, Watched},
    support::{installed, sandboxes},
};

const LINES: &str = "Accept: application/x-ndjson";

/// Creates a sandbox and gives its path.
#[track_caller]
fn create(server: &Server, body: Value) -> String {
    let reply = server.post("/v1/sandboxes", body.to_string()).status(201);
    reply.header("location").unwrap().to_owned()
}

/// Runs a command in a sandbox and gives its result.
#[track_caller]
fn run(server: &Server, path: &str, command: &str) -> Value {
    let body = json!({ "command": command }).to_string();
    server.post(&format!("{path}/exec"), body).status(200).json()
}

fn put(server: &Server, path: &str, query: &str, content: &[u8]) -> Reply {
    server.ask(&format!("PUT {path}/files?{query}"), &[], content)
}

fn get(server: &Server, path: &str, query: &str) -> Reply {
    server.get(&format!("{path}/files?{query}"))
}

/// Waits until so many sandboxes are open. The server tells nobody of it.
#[track_caller]
fn wait_for_open(server: &Server, expected: f64) {
    let deadline = Instant::now() + PATIENCE;
    while server.figure("openbrain_sandboxes") != expected {
        assert!(Instant::now() < deadline, "{}", server.figure("openbrain_sandboxes"));
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a command in a sandbox whose lines come as they are written.
fn stream(server: &Server, path: &str, command: &str) -> Streaming {
    let mut client = server.connect();
    let body = json!({ "command": command }).to_string();
    client.send(&format!("POST {path}/exec"), server.host(), &[LINES], body.as_bytes());
    client.streaming()
}

#[test]
fn what_one_command_leaves_the_next_one_finds() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let new =
        json!({ "name": "mine", "labels": {"a": "b"}, "env": {"WHO": "me"}, "timeout": "10m" });
    let reply = server.post("/v1/sandboxes", new.to_string()).status(201);
    let sandbox = reply.json();
    let path = format!("/v1/sandboxes/{}", sandbox["sandbox_id"].as_str().unwrap());
    assert_eq!(reply.header("location"), Some(path.as_str()));
    assert_eq!((&sandbox["name"], &sandbox["labels"]), (&json!("mine"), &json!({"a": "b"})));
    assert_eq!((&sandbox["state"], &sandbox["backend"]), (&json!("running"), &json!("embedded")));
    assert_eq!(sandbox["isolation"]["level"], "namespaces");
    let time = |name: &str| humantime::parse_rfc3339(sandbox[name].as_str().unwrap()).unwrap();
    let life = time("expires_at").duration_since(time("created_at")).unwrap();
    assert!((590..=600).contains(&life.as_secs()), "{life:?}");
    assert_eq!(server.get(&path).status(200).json(), sandbox);
    assert_eq!(server.get("/v1/sandboxes").status(200).json(), json!({ "sandboxes": [sandbox] }));

    run(&server, &path, "echo $WHO > here; sleep 1000 >/dev/null 2>&1 & echo $! > pid");
    let result = run(&server, &path, "cat here; kill -0 $(cat pid) && echo alive");
    assert_eq!(result["stdout"], "me\nalive\n", "{result}");
    assert_eq!(result["sandbox_id"], sandbox["sandbox_id"]);
    let changes = server.get(&format!("{path}/changes")).status(200).json();
    let here =
        changes["entries"].as_array().unwrap().iter().find(|e| e["path"] == "/workspace/here");
    assert_eq!(here.unwrap()["change"], "added", "{changes}");
    server.ask(&format!("DELETE {path}"), &[], "").status(204);
    server.ask(&format!("DELETE {path}"), &[], "").problem(404, "not_found");
    server.get(&path).problem(404, "not_found");
    assert_eq!(server.get("/v1/sandboxes").json(), json!({ "sandboxes": [] }));
    assert_eq!(server.figure("openbrain_sandboxes"), 0.0);
}

#[test]
fn a_body_is_not_needed() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    server.post("/v1/sandboxes", "").status(201);
    server.post("/v1/sandboxes", "{}").status(201);
}

#[test]
fn commands_are_followed_and_kept_as_elsewhere() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let path = create(&server, json!({}));
    let id = path.rsplit('/').next().unwrap();
    let mut records = stream(&server, &path, "echo one; exit 3");
    assert_eq!(records.record()["data"], "one\n");
    assert_eq!(records.record()["result"]["exit_code"], 3);
    let body = json!({ "command": "read x; echo got $x", "stdin": {"pipe": true} }).to_string();
    let kept = server.post(&format!("{path}/execs"), body).status(202);
    assert_eq!(kept.json()["sandbox_id"], id);
    let exec = kept.header("location").unwrap().to_owned();
    server.post(&format!("{exec}/stdin?eof=true"), "it\n").status(204);
    let headers = [LINES];
    let mut client = server.connect();
    client.send(&format!("GET {exec}/events"), server.host(), &headers, b"");
    let mut events = client.streaming();
    assert_eq!(events.record()["data"], "got it\n");
    assert_eq!(events.record()["result"]["success"], true);
    let list = server.get("/v1/execs").json();
    assert_eq!((&list["execs"][0]["sandbox_id"], &list["execs"][1]), (&json!(id), &Value::Null));
    let wait = ["Prefer: wait=20"];
    let body = json!({ "command": "echo waited" }).to_string();
    let reply = server.ask(&format!("POST {path}/execs"), &wait, body).status(200);
    assert_eq!(reply.json()["result"]["stdout"], "waited\n");
}

#[test]
fn a_client_that_goes_away_ends_its_command_and_not_the_sandbox() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let path = create(&server, json!({}));
    let number = format!("1{:06}", std::process::id());
    let mut records = stream(&server, &path, &format!("echo begun; exec sleep {number}"));
    assert_eq!(records.record()["data"], "begun\n");
    let watched = Watched::eventually(&["sleep", &number]);
    drop(records);
    watched.wait();
    assert_eq!(run(&server, &path, "echo there")["stdout"], "there\n");
}

#[test]
fn a_sandbox_ends_with_everything_in_it() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let path = create(&server, json!({}));
    let number = format!("2{:06}", std::process::id());
    let command = json!({ "command": format!("exec sleep {number}") }).to_string();
    let kept = server.post(&format!("{path}/execs"), command).status(202);
    let watched = Watched::eventually(&["sleep", &number]);
    let mut attached = stream(&server, &path, "echo begun; exec sleep 1000");
    assert_eq!(attached.record()["data"], "begun\n");
    server.ask(&format!("DELETE {path}"), &[], "").status(204);
    watched.wait();
    assert_eq!(attached.record()["error"]["code"], "sandbox_lost");
    let lost = r#"openbrain_execs_total{surface="rest",backend="embedded",status="sandbox_lost"}"#;
    assert_eq!(server.figure(lost), 2.0);
    let exec = kept.header("location").unwrap();
    let events = server.ask(&format!("GET {exec}/events"), &[LINES], "").status(200).text();
    let last: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!((&last["type"], &last["error"]["code"]), (&json!("error"), &json!("sandbox_lost")));
    let after = format!("Last-Event-ID: {}", last["seq"]);
    server.ask(&format!("GET {exec}/events"), &[&after], "").status(204);
}

#[test]
fn the_time_of_a_sandbox_ends_it() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let path = create(&server, json!({}));
    let before = server.get(&path).json();
    let renew = |body: &str| server.post(&format!("{path}/renew"), body);
    let renewed = renew(r#"{"timeout": "1h"}"#).status(200).json();
    assert!(renewed["expires_at"].as_str() > before["expires_at"].as_str());
    let problem = renew(r#"{"timeout": 3601}"#).problem(403, "policy_denied");
    assert!(problem["remedy"].as_str().unwrap().contains("server.max_timeout_seconds"));
    for wrong in ["{}", r#"{"timeout": -1}"#, r#"{"timeout": "soon"}"#, r#"{"timeout": 1, "x": 2}"#]
    {
        renew(wrong).problem(422, "invalid_request");
    }
    let mut records = stream(&server, &path, "echo begun; sleep 1000");
    assert_eq!(records.record()["data"], "begun\n");
    renew(r#"{"timeout": 0.05}"#).status(200);
    assert_eq!(records.record()["error"]["code"], "sandbox_lost");
    wait_for_open(&server, 0.0);
    server.get(&path).problem(404, "not_found");
    renew(r#"{"timeout": 1}"#).problem(404, "not_found");
}

/// Whoever kills its processes from outside ends it, and the server forgets it.
#[test]
fn a_sandbox_that_dies_is_forgotten() {
    if !sandboxes() || !installed("pgrep") {
        return;
    }
    let server = Server::start();
    let path = create(&server, json!({}));
    let number = format!("5{:06}", std::process::id());
    let command = json!({ "command": format!("exec sleep {number}") }).to_string();
    server.post(&format!("{path}/execs"), command).status(202);
    let watched = Watched::eventually(&["sleep", &number]);
    let mut pgrep = std::process::Command::new("pgrep");
    pgrep.args(["-fx", &format!("sleep {number}")]);
    let pid = String::from_utf8(pgrep.output().unwrap().stdout).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    let parent = Pid::from_raw(parent.trim().parse().unwrap()).unwrap();
    kill_process(parent, Signal::KILL).unwrap();
    watched.wait();
    wait_for_open(&server, 0.0);
    server.get(&path).problem(404, "not_found");
    create(&server, json!({}));
}

#[test]
fn a_paused_sandbox_is_told_and_goes_on() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let path = create(&server, json!({}));
    let order = |order: &str| server.post(&format!("{path}/{order}"), "").status(200).json();
    assert_eq!(order("pause")["state"], "paused");
    let body = r#"{"command": "true"}"#;
    let problem = server.post(&format!("{path}/exec"), body).problem(422, "invalid_request");
    assert_eq!(problem["remedy"], "resume it first");
    get(&server, &path, "path=x").problem(422, "invalid_request");
    assert_eq!(order("resume")["state"], "running");
    assert_eq!(run(&server, &path, "echo on")["stdout"], "on\n");
}

#[test]
fn no_more_are_open_than_the_settings_allow() {
    if !sandboxes() {
        return;
    }
    let server = Server::with("server:\n  max_sandboxes: 2\n");
    let first = create(&server, json!({}));
    create(&server, json!({}));
    let reply = server.post("/v1/sandboxes", "{}");
    assert_eq!(reply.header("retry-after"), Some("1"));
    let problem = reply.problem(429, "busy");
    assert!(problem["remedy"].as_str().unwrap().contains("server.max_sandboxes"), "{problem}");
    server.ask(&format!("DELETE {first}"), &[], "").status(204);
    create(&server, json!({}));
    let none = Server::with("server:\n  max_sandboxes: 0\n");
    none.post("/v1/sandboxes", "").problem(429, "busy");
}

#[test]
fn a_caller_gets_no_more_than_the_settings_give() {
    if !sandboxes() {
        return;
    }
    let server = Server::with("security: {sandbox: {network: {allow_egress: false}}}\n");
    for (new, key) in [
        (json!({ "mounts": ["/etc"] }), "server.allowed_mounts"),
        (json!({ "expose": ["/root"] }), "server.allowed_mounts"),
        (json!({ "rootfs": "/" }), "server.allowed_mounts"),
        (json!({ "allow_network": true }), "allow_egress"),
        (json!({ "allowed_hosts": ["127.0.0.1:80"] }), "allow_egress"),
        (json!({ "limits": {"memory": "1TiB"} }), "limits.memory"),
        (json!({ "timeout": "2h" }), "server.max_timeout_seconds"),
    ] {
        let problem = server.post("/v1/sandboxes", new.to_string()).problem(403, "policy_denied");
        assert!(problem["remedy"].as_str().unwrap().contains(key), "{problem}");
    }
    let problem = server.post("/v1/sandboxes", r#"{"tiemout": 1, "labels": 1}"#);
    let problem = problem.problem(422, "invalid_request");
    assert_eq!(problem["errors"][0]["detail"], "`tiemout` is unknown, did you mean `timeout`?");
    assert_eq!(problem["errors"][1]["pointer"], "/labels");
    server.post("/v1/sandboxes", r#"{"image": "x"}"#).problem(422, "invalid_request");
    server.post("/v1/sandboxes", r#"{"name": "a b"}"#).problem(422, "invalid_request");
    let path = create(&server, json!({}));
    let exec = |body: &str| server.post(&format!("{path}/exec"), body);
    exec(r#"{"command": "true", "mounts": ["/etc"]}"#).problem(422, "invalid_request");
    exec(r#"{"command": "true", "sandbox": false}"#).problem(422, "invalid_request");
    exec(r#"{"command": "true", "timeout": 9999}"#).problem(403, "policy_denied");
    exec(r#"{"command": "true", "stdin": {"file": "/etc/passwd"}}"#).problem(403, "policy_denied");
}

#[test]
fn a_command_in_a_sandbox_has_no_more_time_than_callers_have() {
    if !sandboxes() {
        return;
    }
    let server = Server::with("server: {max_timeout_seconds: 0.2}\n");
    let path = create(&server, json!({}));
    let body = json!({ "command": "sleep 1000" }).to_string();
    // The time of the sandbox is not longer: either may come first.
    let reply = server.post(&format!("{path}/exec"), body);
    match reply.status {
        200 => assert_eq!(reply.json()["status"], "timed_out"),
        _ => drop(reply.problem(502, "sandbox_lost")),
    }
}

#[test]
fn a_request_that_is_repeated_creates_nothing_new() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let key = ["Idempotency-Key: k1"];
    let ask = |path: &str, body: &str| server.ask(&format!("POST {path}"), &key, body);
    let first = ask("/v1/sandboxes", "{}").status(201).json();
    assert_eq!(ask("/v1/sandboxes", "{}").status(201).json(), first);
    let other = ask("/v1/sandboxes", r#"{"name": "other"}"#);
    other.problem(422, "idempotency_key_reused");
    assert_eq!(server.get("/v1/sandboxes").json()["sandboxes"].as_array().unwrap().len(), 1);
    let path = format!("/v1/sandboxes/{}", first["sandbox_id"].as_str().unwrap());
    let command = r#"{"command": "echo x >> count"}"#;
    let key = ["Idempotency-Key: k2", "Prefer: wait=20"];
    let ask = || server.ask(&format!("POST {path}/execs"), &key, command).status(200).json();
    assert_eq!(ask()["exec_id"], ask()["exec_id"]);
    assert_eq!(run(&server, &path, "cat count")["stdout"], "x\n");
    // Elsewhere the same request is another one.
    let reply = server.ask("POST /v1/execs", &key, command);
    reply.problem(422, "idempotency_key_reused");
    // A sandbox that has ended is not given again.
    server.ask(&format!("DELETE {path}"), &[], "").status(204);
    let again = server.ask("POST /v1/sandboxes", &["Idempotency-Key: k1"], "{}").status(201).json();
    assert_ne!(again["sandbox_id"], first["sandbox_id"]);
}

#[test]
fn files_are_written_read_listed_moved_and_removed() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let path = create(&server, json!({}));
    let all: Vec<u8> = (0..=255).collect();
    put(&server, &path, "path=/tmp/d/a%20b&mode=750", &all).status(204);
    put(&server, &path, "path=/tmp/d/a%20b&append=true", b"more").status(204);
    let whole: Vec<u8> = all.iter().chain(b"more").copied().collect();
    let reply = get(&server, &path, "path=/tmp/d/a%20b").status(200);
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
    assert_eq!(reply.body, whole);
    for (query, expected) in [
        ("&offset=250", &whole[250..]),
        ("&offset=10&limit=5", &whole[10..15]),
        ("&limit=0", &[]),
        ("&offset=1000", &[]),
    ] {
        let query = format!("path=/tmp/d/a%20b{query}");
        assert_eq!(get(&server, &path, &query).status(200).body, expected, "{query}");
    }
    put(&server, &path, "path=/tmp/d/empty", b"").status(204);
    assert_eq!(get(&server, &path, "path=/tmp/d/empty").status(200).body, b"");
    let work = |line: &str| server.ask(&line.replace("FILES", &format!("{path}/files")), &[], "");
    let stat = work("GET FILES/stat?path=/tmp/d/a%20b").status(200).json();
    assert_eq!((&stat["path"], &stat["kind"]), (&json!("/tmp/d/a b"), &json!("file")));
    assert_eq!((&stat["mode"], &stat["size"]), (&json!("0750"), &json!(260)));
    humantime::parse_rfc3339(stat["modified"].as_str().unwrap()).unwrap();
    work("POST FILES/mkdir?path=/tmp/d/sub/sub").status(204);
    run(&server, &path, "ln -s nowhere /tmp/d/link; touch -d @-99999999999 /tmp/d/empty");
    let list = work("GET FILES/list?path=/tmp/d").status(200).json();
    let names: Vec<_> = list["files"].as_array().unwrap().iter().map(|f| &f["path"]).collect();
    assert_eq!(
        (json!(names), &list["truncated"]),
        (json!(["a b", "empty", "link", "sub"]), &json!(false))
    );
    assert_eq!(
        (&list["files"][2]["kind"], &list["files"][2]["target"]),
        (&json!("link"), &json!("nowhere"))
    );
    assert_eq!(list["files"][1]["modified"], "1970-01-01T00:00:00.000Z");
    let few = work("GET FILES/list?path=/tmp&pattern=su*&limit=1").status(200).json();
    assert_eq!((few["files"].as_array().unwrap().len(), &few["truncated"]), (1, &json!(true)));
    work("POST FILES/rename?from=/tmp/d/a%20b&to=/tmp/d/c").status(204);
    assert_eq!(get(&server, &path, "path=/tmp/d/c&limit=1").status(200).body, [0]);
    work("DELETE FILES?path=/tmp/d").problem(409, "file_failed");
    work("DELETE FILES?path=/tmp/d&recursive=true").status(204);
    work("GET FILES/stat?path=/tmp/d").problem(404, "file_failed");
}

#[test]
fn trees_come_and_go_as_archives() {
    if !sandboxes() || !installed("tar") {
        return;
    }
    let server = Server::start();
    let path = create(&server, json!({}));
    let source = server.place.path().join("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("sub/file"), "x".repeat(300_000)).unwrap();
    std::os::unix::fs::symlink("sub/file", source.join("link")).unwrap();
    let tar = |args: &[&str]| {
        let mut command = std::process::Command::new("tar");
        let output = command.args(args).current_dir(server.place.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let archive = tar(&["-c", "-C", "source", "."]);
    let put = |archive: &[u8]| {
        server.ask(&format!("PUT {path}/files/tar?path=/tmp/new/tree"), &[], archive)
    };
    let unpacked = put(&archive).status(200).json();
    assert_eq!((&unpacked["bytes"], &unpacked["skipped"]), (&json!(300_000), &json!([])));
    assert_eq!(run(&server, &path, "wc -c < /tmp/new/tree/link")["stdout"], "300000\n");
    let reply = server.get(&format!("{path}/files/tar?path=/tmp/new/tree")).status(200);
    assert_eq!(reply.header("content-type"), Some("application/x-tar"));
    server.place.file("back.tar", &reply.body);
    std::fs::create_dir(server.place.path().join("back")).unwrap();
    tar(&["-x", "-f", "back.tar", "-C", "back"]);
    let back = std::fs::read_to_string(server.place.path().join("back/link")).unwrap();
    assert_eq!(back.len(), 300_000);
    server.get(&format!("{path}/files/tar?path=/tmp/none")).problem(404, "file_failed");
    // A file is an archive of itself, by the name that was asked for.
    let one = server.get(&format!("{path}/files/tar?path=/tmp/new/tree/link")).status(200);
    server.place.file("one.tar", &one.body);
    assert_eq!(tar(&["-t", "-f", "one.tar"]), b"link\n");
    run(&server, &path, "mkfifo /tmp/fifo");
    server.get(&format!("{path}/files/tar?path=/tmp/fifo")).problem(409, "file_failed");
    put(&archive[..100_000]).problem(409, "file_failed");
    put(b"no archive at all").problem(409, "file_failed");
    // An archive that leads out of the directory is refused, and nothing is made beside it.
    let outside = tar(&["-c", "-P", "--transform", "s,^source,../outside,", "source"]);
    put(&outside).problem(409, "file_failed");
    assert_eq!(run(&server, &path, "ls /tmp/new")["stdout"], "tree\n");
}

#[test]
fn what_is_wrong_with_a_file_has_its_status() {
    if !sandboxes() {
        return;
    }
    let server = Server::with("security: {sandbox: {limits: {disk: 1MiB}}}\n");
    let path = create(&server, json!({}));
    run(&server, &path, "mkfifo pipe; ln -s loop loop");
    for (query, status, code) in [
        ("path=/tmp/none", 404, "file_failed"),
        ("path=/tmp", 409, "file_failed"),
        ("path=pipe", 409, "file_failed"),
        ("path=loop", 409, "file_failed"),
        ("path=", 422, "invalid_request"),
        ("path=a%00b", 422, "invalid_request"),
        ("", 422, "invalid_request"),
        ("path=x&pth=y", 422, "invalid_request"),
        ("path=x&offset=-1", 422, "invalid_request"),
        ("path=%ff", 404, "file_failed"),
    ] {
        let reply = get(&server, &path, query);
        assert_eq!((reply.status, &reply.json()["code"]), (status, &json!(code)), "{query}");
    }
    put(&server, &path, "path=/usr/bin/x", b"x").problem(403, "file_failed");
    put(&server, &path, "path=x&mode=9", b"x").problem(422, "invalid_request");
    let encoded = ["Content-Encoding: gzip"];
    let line = format!("PUT {path}/files?path=x");
    server.ask(&line, &encoded, "x").problem(415, "unsupported_encoding");
    for limit in ["0", "10001", "x"] {
        let line = format!("{path}/files/list?path=/tmp&limit={limit}");
        server.get(&line).problem(422, "invalid_request");
    }
    server.get("/v1/sandboxes/sbx_0/files?path=x").problem(404, "not_found");
    server.ask(&format!("POST {path}/files?path=x"), &[], "").problem(405, "method_not_allowed");
    // What is behind the problem is read by nobody, so that a connection may end before it is sent.
    let mut client = server.connect();
    client.raw(format!(
        "PUT {path}/files?path=/tmp/long HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
        server.host(),
        64 << 20
    ));
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..64 {
        if client.try_raw(&piece).is_err() {
            break;
        }
    }
    run(&server, &path, "rm -f /tmp/long; echo fits > /tmp/long");
}

#[test]
fn long_files_go_both_ways_in_little_memory() {
    if !sandboxes() {
        return;
    }
    const LENGTH: usize = 64 << 20;
    let server = Server::start();
    let path = create(&server, json!({}));
    let piece: Vec<u8> =
        (0..1u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let before = server.memory();
    let mut most = before;
    let mut client = server.connect();
    client.raw(format!(
        "PUT {path}/files?path=/tmp/long HTTP/1.1\r\nHost: {}\r\nContent-Length: {LENGTH}\r\n\r\n",
        server.host()
    ));
    for _ in 0..LENGTH / piece.len() {
        client.raw(&piece);
        most = most.max(server.memory());
    }
    client.reply().status(204);
    let stat = server.get(&format!("{path}/files/stat?path=/tmp/long")).json();
    assert_eq!(stat["size"], LENGTH);
    let mut client = server.connect();
    client.send(&format!("GET {path}/files?path=/tmp/long"), server.host(), &[], b"");
    let mut body = client.streaming();
    let mut read = 0;
    while let Some(bytes) = body.piece() {
        for (at, byte) in bytes.iter().enumerate().step_by(997) {
            assert_eq!(*byte, piece[(read + at) % piece.len()], "byte {}", read + at);
        }
        read += bytes.len();
        most = most.max(server.memory());
    }
    assert_eq!(read, LENGTH);
    let grown = most - before;
    assert!(grown < 12 << 20, "{grown} bytes");
}

#[test]
fn a_client_that_vanishes_with_half_a_file_leaves_no_work_behind() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let path = create(&server, json!({}));
    let name = format!("/tmp/half-{}", std::process::id());
    for method in ["PUT", "GET"] {
        let mut client = server.connect();
        let work = if method == "PUT" {
            client.raw(format!(
                "PUT {path}/files?path={name} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
                server.host(),
                10 << 20
            ));
            client.raw(vec![b'x'; 1 << 20]);
            Watched::eventually(&["/proc/self/exe", "files", "write", &name])
        } else {
            run(&server, &path, &format!("head -c 50000000 /dev/zero > {name}"));
            client.send(&format!("GET {path}/files?path={name}"), server.host(), &[], b"");
            Watched::eventually(&["/proc/self/exe", "files", "read", &name, "0"])
        };
        drop(client);
        work.wait();
    }
    assert_eq!(run(&server, &path, "echo there")["stdout"], "there\n");
}

#[test]
fn a_thousand_sandboxes_leave_nothing_behind() {
    if !sandboxes() {
        return;
    }
    let server = Server::start();
    let once = |count: usize| {
        for _ in 0..count {
            let path = create(&server, json!({ "env": {"A": "x".repeat(1000)} }));
            server.ask(&format!("DELETE {path}"), &[], "").status(204);
        }
    };
    once(100);
    let files = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let (memory, open) = (server.memory(), files());
    once(900);
    assert_eq!(server.figure("openbrain_sandboxes"), 0.0);
    let grown = server.memory().saturating_sub(memory);
    assert!(grown < 8 << 20, "{grown} bytes");
    assert!(files() <= open + 8, "{} descriptors, {open} before", files());
}

#[test]
fn callers_at_once_have_no_more_than_there_may_be() {
    if !sandboxes() {
        return;
    }
    let server = Server::with("server:\n  max_sandboxes: 3\n");
    let turn = || {
        let reply = server.post("/v1/sandboxes", "");
        if reply.status == 429 {
            return 0;
        }
        let path = reply.status(201).header("location").unwrap().to_owned();
        assert!(server.figure("openbrain_sandboxes") <= 3.0);
        assert_eq!(run(&server, &path, "echo there")["stdout"], "there\n");
        server.ask(&format!("DELETE {path}"), &[], "").status(204);
        1
    };
    let deadline = Instant::now() + PATIENCE;
    let caller = || {
        let mut had = 0;
        while had < 5 {
            had += turn();
            assert!(Instant::now() < deadline, "{had} of 5");
        }
    };
    thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(caller)));
    });
    assert_eq!(server.figure("openbrain_sandboxes"), 0.0);
}

/// Work on files is waited for as commands are.
#[test]
fn a_file_that_is_on_its_way_arrives_before_the_end() {
    if !sandboxes() {
        return;
    }
    let mut server = Server::with("server:\n  drain_seconds: 60\n");
    let path = create(&server, json!({}));
    let name = format!("/tmp/arrives-{}", std::process::id());
    let (mut client, mut idle) = (server.connect(), server.connect());
    idle.send("GET /health", server.host(), &[], b"");
    idle.reply().status(200);
    client.raw(format!(
        "PUT {path}/files?path={name} HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\n\r\non",
        server.host()
    ));
    let _work = Watched::eventually(&["/proc/self/exe", "files", "write", &name]);
    server.signal(Signal::TERM);
    assert!(idle.is_closed());
    client.raw("ce");
    client.reply().status(204);
    assert_eq!(server.end(), Some(0), "{}", server.said());
}

/// Neither a file that is on its way nor its client holds the server up for longer than that.
#[test]
fn a_server_ends_though_a_file_is_on_its_way() {
    if !sandboxes() {
        return;
    }
    let mut server = Server::with("server:\n  drain_seconds: 0.2\n");
    let path = create(&server, json!({}));
    let name = format!("/tmp/on-its-way-{}", std::process::id());
    let mut client = server.connect();
    client.raw(format!(
        "PUT {path}/files?path={name} HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000\r\n\r\nx",
        server.host()
    ));
    let work = Watched::eventually(&["/proc/self/exe", "files", "write", &name]);
    server.signal(Signal::TERM);
    assert_eq!(server.end(), Some(0), "{}", server.said());
    work.wait();
}

#[test]
fn a_server_that_ends_leaves_no_sandbox() {
    if !sandboxes() {
        return;
    }
    for (signal, number) in [(Signal::TERM, "3"), (Signal::KILL, "4")] {
        let mut server = Server::start();
        let number = format!("{number}{:06}", std::process::id());
        let watched: Vec<_> = (0..3)
            .map(|n| {
                let path = create(&server, json!({}));
                let command = format!("sleep {number}.{n} >/dev/null 2>&1 &");
                run(&server, &path, &command);
                Watched::eventually(&["sleep", &format!("{number}.{n}")])
            })
            .collect();
        server.signal(signal);
        let expected = if signal == Signal::TERM { Some(0) } else { None };
        assert_eq!(server.end(), expected, "{}", server.said());
        watched.iter().for_each(Watched::wait);
    }
}

#[test]
fn the_life_of_a_sandbox_is_in_the_audit_log() {
    if !sandboxes() {
        return;
    }
    let mut server = Server::start();
    let path = create(&server, json!({ "name": "mine" }));
    run(&server, &path, "echo inside");
    server.ask(&format!("DELETE {path}"), &[], "").status(204);
    let expiring = create(&server, json!({ "timeout": 0.05 }));
    wait_for_open(&server, 0.0);
    server.get(&expiring).problem(404, "not_found");
    server.post("/v1/sandboxes", r#"{"mounts": ["/etc"]}"#).problem(403, "policy_denied");
    create(&server, json!({ "name": "open" }));
    server.signal(Signal::TERM);
    assert_eq!(server.end(), Some(0));
    let ran = server.place.run(&["audit", "--surface", "rest"]);
    let rows: Vec<Vec<_>> = ran
        .stdout
        .lines()
        .skip(1)
        .map(|line| line.split("  ").filter(|s| !s.is_empty()).collect())
        .collect();
    let told: Vec<_> = rows.iter().map(|row| (row[3].trim(), row[6].trim())).collect();
    let expected = [
        ("cancelled", "(sandbox mine)"),
        ("exited 0", "echo inside"),
        ("timed out", "(sandbox)"),
        ("refused policy_denied", "(sandbox)"),
        ("cancelled", "(sandbox open)"),
    ];
    assert_eq!(told, expected, "{}", ran.stdout);
}

/// Another user finds nothing of ours, though they know its name.
#[test]
fn a_sandbox_is_found_by_its_caller_alone() {
    let is_root = rustix::process::geteuid().is_root();
    if !sandboxes() || !is_root || !installed("curl") || !installed("setpriv") {
        return;
    }
    let server = Server::with("server:\n  allow_other_users: true\n");
    let path = create(&server, json!({}));
    let ask = |method: &str, path: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=12345", "--regid=12345", "--clear-groups", "curl", "-sS"]);
        command.args(["--max-time", "20", "-X", method, "-d", "{\"command\": \"true\"}"]);
        let output = command.arg(server.url(path)).current_dir("/").output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    for (method, below) in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/exec"),
        ("POST", "/execs"),
        ("POST", "/pause"),
        ("GET", "/files?path=/etc/passwd"),
        ("PUT", "/files?path=x"),
    ] {
        assert_eq!(ask(method, &format!("{path}{below}"))["code"], "not_found", "{method} {below}");
    }
    assert_eq!(ask("GET", "/v1/sandboxes"), json!({ "sandboxes": [] }));
    assert_eq!(run(&server, &path, "echo there")["stdout"], "there\n");
}
