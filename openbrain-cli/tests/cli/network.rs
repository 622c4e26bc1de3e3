//! The flags of the network, and what is said about a refusal.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use serde_json::json;

use crate::support::{Place, installed, sandboxes};

#[test]
fn flags_say_what_to_reach() {
    let list = |flags: &[&str]| {
        let args = [&["exec", "--sandbox", "--dry-run", "--json"], flags, &["ls"]].concat();
        let spec = Place::new().run(&args).code(0).json();
        let sandbox = &spec["place"]["embedded"];
        (sandbox["network"].clone(), sandbox["allowed_hosts"].clone())
    };
    assert_eq!(list(&[]).0, json!("public"));
    assert_eq!(list(&["--allow-network", "false"]).0, json!("none"));
    let ports = json!({"listed": {"ports": [80, 443], "domains": null}});
    assert_eq!(list(&["--allow-port", "80,443"]).0, ports);
    let names = json!({"listed": {"ports": null, "domains": ["a.example", "*.b.example"]}});
    assert_eq!(list(&["--allow-domain", "a.example", "--allow-domain", "*.b.example"]).0, names);
    let hosts = (json!("public"), json!(["10.0.0.0/8:22"]));
    assert_eq!(list(&["--allow-host", "10.0.0.0/8:22"]), hosts);
}

#[test]
fn a_request_cannot_loosen_the_settings() {
    let place = Place::new();
    let settings = "security: {sandbox: {network: {restrict_egress: true, allowed_ports: [443], allowed_hosts: []}}}";
    let config = place.file("strict.yaml", settings);
    for flag in [["--allow-port", "22"], ["--allow-host", "10.0.0.1"]] {
        let ran = place
            .run(&["exec", "--config", &config, "--sandbox", flag[0], flag[1], "ls"])
            .code(125);
        ran.complains("the settings do not allow");
    }
    let args = ["exec", "--config", &config, "--sandbox", "--dry-run", "--allow-port", "443", "ls"];
    place.run(&args).code(0);
}

#[test]
fn a_refusal_is_told_with_the_setting() {
    if !sandboxes() || !installed("python3") {
        return;
    }
    let program = "import socket; socket.create_connection(('10.255.0.1', 80), 5).recv(1)";
    let ran = Place::new().run(&["exec", "--sandbox", "--", "python3", "-c", program]).code(1);
    let line = ran.stderr.lines().last().unwrap_or_default();
    let expected = "openbrain: the sandbox did not reach 10.255.0.1:80: the address is private; \
                    allow it by `--allow-host 10.255.0.1:80` or \
                    `security.sandbox.network.allowed_hosts`";
    assert_eq!(line, expected);
    let args = ["exec", "--sandbox", "--json", "--", "python3", "-c", program];
    let denial = &Place::new().run(&args).code(1).json()["denials"][0];
    assert_eq!((&denial["host"], &denial["port"]), (&json!("10.255.0.1"), &json!(80)));
    assert_eq!(denial["count"], json!(1));
}

#[test]
fn a_service_of_the_host_is_reached_when_it_is_listed() {
    if !sandboxes() || !installed("python3") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut byte = [0];
            let _ = stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte));
        }
    });
    let program = format!(
        "import socket; s = socket.create_connection(('127.0.0.1', {port}), 5); s.send(b'x'); print(s.recv(1))"
    );
    let host = format!("localhost:{port}");
    let args = ["exec", "--sandbox", "--allow-host", &host, "--", "python3", "-c", &program];
    Place::new().run(&args).code(0).prints("b'x'\n");
    Place::new().run(&["exec", "--sandbox", "--", "python3", "-c", &program]).code(1);
}
