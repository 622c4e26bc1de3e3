//! Requests that no good client sends.

use std::time::Duration;

use crate::server::Server;

/// Sends these bytes and gives the status of the answer.
fn status(server: &Server, bytes: impl AsRef<[u8]>) -> u16 {
    let mut client = server.connect();
    client.raw(bytes);
    client.reply().status
}

#[test]
fn the_name_of_the_server_is_there_once_and_is_one() {
    let server = Server::start();
    let host = server.host();
    for (request, expected) in [
        (format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n"), 200),
        (format!("GET http://{host}/health HTTP/1.1\r\nHost: {host}\r\n\r\n"), 200),
        ("GET /health HTTP/1.1\r\n\r\n".into(), 400),
        ("GET /health HTTP/1.0\r\n\r\n".into(), 400),
        (format!("GET /health HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n"), 400),
        (format!("GET /health HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n\r\n"), 400),
        (format!("GET /health HTTP/1.1\r\nHost: user@{host}\r\n\r\n"), 400),
        ("GET /health HTTP/1.1\r\nHost:\r\n\r\n".into(), 400),
        (format!("GET http://evil.example/health HTTP/1.1\r\nHost: {host}\r\n\r\n"), 403),
        (format!("GET http://{host}/health HTTP/1.1\r\nHost: evil.example\r\n\r\n"), 403),
        (format!("GET http://user@{host}/health HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400),
        (format!("CONNECT evil.example:80 HTTP/1.1\r\nHost: {host}\r\n\r\n"), 403),
        (format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n"), 404),
        ("GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n".into(), 200),
    ] {
        assert_eq!(status(&server, &request), expected, "{request}");
    }
}

#[test]
fn garbage_is_refused_and_runs_nothing() {
    let server = Server::start();
    let host = server.host();
    let head = format!("POST /exec HTTP/1.1\r\nHost: {host}\r\n");
    let body = r#"{"command": "touch ran"}"#;
    let length = body.len();
    for request in [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{body}\r\n"),
        format!("{head}Transfer-Encoding: gzip\r\n\r\n{body}"),
        format!("{head}Content-Length: {length}\r\nContent-Length: 3\r\n\r\n{body}"),
        format!("{head}Content-Length: -1\r\n\r\n{body}"),
        format!("{head}Content-Length: {length}\r\nBad Header: x\r\n\r\n{body}"),
        format!("{head}Content-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n{body}"),
        format!("{head}X: {}\r\n\r\n", "x".repeat(100 << 10)),
    ] {
        let mut client = server.connect();
        // The server may answer and close before it has everything.
        let _ = client.try_raw(&request);
        let status = client.reply().status;
        assert!((400..500).contains(&status), "{status} for {request:.120}");
    }
    assert!(!server.place.path().join("ran").exists());
}

#[test]
fn what_two_servers_could_read_differently_ends_the_connection() {
    let server = Server::start();
    let host = server.host();
    let inner = format!("GET /version HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let request = format!(
        "POST /exec HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
        inner.len() + 5
    );
    let mut client = server.connect();
    client.raw(request);
    client.reply().status(400);
    assert!(client.is_closed());
}

#[test]
fn what_is_no_request_is_explained() {
    let server = Server::start();
    for (body, status, code, told) in [
        (&b""[..], 400, "malformed_request", "the body is empty"),
        (b"{", 400, "malformed_request", "not JSON"),
        (b"command=ls", 400, "malformed_request", "--data-binary"),
        (b"{\"command\": \"\xff\"}", 400, "malformed_request", "not UTF-8 at byte 13"),
        (b"[]", 422, "invalid_request", "no JSON object"),
        (b"{}", 422, "invalid_request", "`command` is missing"),
        (b"{\"command\": \" \"}", 422, "invalid_request", "the command is empty"),
        (
            b"{\"command\": \"ls\", \"timeot\": 3}",
            422,
            "invalid_request",
            "did you mean `timeout`?",
        ),
        (b"{\"command\": \"ls\", \"timeout\": 0}", 422, "invalid_request", "is not a timeout"),
        (b"{\"command\": [\"no-such-program\"]}", 422, "command_not_found", "no-such-program"),
        (b"{\"command\": [\"/etc\"]}", 422, "command_not_executable", "/etc"),
        (
            b"{\"command\": \"ls\", \"stdin\": {\"pipe\": true}}",
            422,
            "invalid_request",
            "/v1/execs",
        ),
    ] {
        let problem = server.post("/exec", body).problem(status, code);
        assert!(problem.to_string().contains(told), "{problem}");
    }
    let bad =
        server.post("/exec", r#"{"comand": 1, "sandbox": 2}"#).problem(422, "invalid_request");
    let pointers: Vec<_> =
        bad["errors"].as_array().unwrap().iter().map(|e| &e["pointer"]).collect();
    assert_eq!(pointers, ["/comand", "/sandbox", "/command"]);
    assert_eq!(server.get("/exec").header("allow"), Some("POST"));
    server.get("/exec").problem(405, "method_not_allowed");
    server.ask("DELETE /health", &[], "").problem(405, "method_not_allowed");
    server.get("/nowhere").problem(404, "not_found");
    server.get("/v1/execs/exec_0").problem(404, "not_found");
    server.get("/v1/execs/%ff").problem(404, "not_found");
}

#[test]
fn a_body_that_is_too_long_is_refused_early() {
    let server = Server::with("server:\n  max_body: 64KiB\n");
    // Announced, it is refused before it is sent: the client waits for `100 Continue`.
    let mut client = server.connect();
    let headers = ["Content-Length: 70000", "Expect: 100-continue"];
    client.send("GET /health", server.host(), &[], b"");
    client.reply().status(200);
    let head = format!(
        "POST /exec HTTP/1.1\r\nHost: {}\r\n{}\r\n\r\n",
        server.host(),
        headers.join("\r\n")
    );
    client.raw(head);
    let reply = client.reply();
    assert_eq!(reply.header("connection"), Some("close"));
    let problem = reply.problem(413, "body_too_large");
    assert!(problem["remedy"].as_str().unwrap().contains("server.max_body"), "{problem}");
    assert!(client.is_closed());
    // Unannounced, it is refused when it has become too long.
    let mut client = server.connect();
    client.raw(format!("POST /exec HTTP/1.1\r\nHost: {}\r\n", server.host()));
    client.raw("Transfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
    // The server stops to read, and may close while we send.
    let _ = (0..9).try_for_each(|_| client.try_raw(&chunk));
    client.reply().problem(413, "body_too_large");
    // Up to the limit it is read.
    let body = format!(r#"{{"command": "true"{}}}"#, " ".repeat((64 << 10) - 19));
    assert_eq!(body.len(), 64 << 10);
    server.post("/exec", &body).status(200);
    server.post("/exec", body + " ").problem(413, "body_too_large");
}

#[test]
fn a_body_that_never_comes_is_given_up() {
    let server = Server::start();
    let mut client = server.connect();
    let head =
        format!("POST /exec HTTP/1.1\r\nHost: {}\r\nContent-Length: 30\r\n\r\n", server.host());
    client.raw(head + "{\"command\":");
    let reply = client.reply();
    assert_eq!(reply.header("connection"), Some("close"));
    reply.problem(408, "request_timeout");
    assert!(client.is_closed());
}

#[test]
fn a_head_that_never_comes_is_given_up() {
    let server = Server::start();
    let mut client = server.connect();
    client.patience(Duration::from_secs(60));
    client.raw("GET /health HTTP/1.1\r\nHost: local");
    assert!(client.is_closed());
}
