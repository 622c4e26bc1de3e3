//! What whoever runs the server asks it.

use serde_json::{Value, json};

use crate::{server::Server, support::sandboxes};

#[test]
fn the_server_says_that_it_lives_and_what_it_is() {
    let server = Server::start();
    assert_eq!(server.get("/health").status(200).json(), json!({ "status": "ok" }));
    let version = server.get("/version").status(200).json();
    assert_eq!(version, json!({ "name": "openbrain", "version": env!("CARGO_PKG_VERSION") }));
    let mut client = server.connect();
    client.send("HEAD /health", server.host(), &[], b"");
    assert_eq!(client.streaming().head.status, 200);
}

#[test]
fn a_server_is_ready_when_the_settings_place_is() {
    let direct = Server::start().get("/ready").status(200).json();
    assert_eq!((&direct["status"], &direct["sandbox"]["needed"]), (&json!("ready"), &json!(false)));
    // Nothing listens there.
    let settings = "security:\n  sandbox:\n    server_url: http://127.0.0.1:9\n";
    let problem = Server::with(settings).get("/ready").problem(503, "sandbox_unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("127.0.0.1:9"), "{problem}");
    if !sandboxes() {
        return;
    }
    let server = Server::with("security:\n  mode: sandbox\n");
    let ready = server.get("/ready").status(200).json();
    assert_eq!(ready["sandbox"], json!({ "available": true, "needed": true }));
}

#[test]
fn figures_are_counted() {
    let server = Server::start();
    server.exec(json!({ "command": "true" }));
    server.exec(json!({ "command": "exit 3" }));
    let reply = server.get("/metrics").status(200);
    let kind = reply.header("content-type").unwrap();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = reply.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let ended =
        text.lines().filter(|line| line.contains("surface=\"rest\"") && line.contains("exited"));
    let ended: f64 = ended
        .filter(|line| line.contains("_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert_eq!(ended, 2.0, "{text}");
}

#[test]
fn the_description_is_of_this_server() {
    let server = Server::start();
    let document = server.get("/openapi.json").status(200).json();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().unwrap() {
        let methods: Vec<_> =
            methods.as_object().unwrap().keys().map(|m| m.to_uppercase()).collect();
        // Whatever is not described is refused, and the refusal says what is there.
        let reply = server.ask(&format!("PATCH {}", path.replace("{id}", "exec_0")), &[], "");
        let allow: Vec<_> = reply.header("allow").unwrap().split(',').map(str::to_owned).collect();
        let mut allow: Vec<_> = allow.into_iter().filter(|method| method != "HEAD").collect();
        allow.sort();
        let mut methods = methods;
        methods.sort();
        assert_eq!(allow, methods, "{path}");
        reply.problem(405, "method_not_allowed");
    }
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let server = Server::start();
    let reply = server.get("/docs").status(200);
    let policy = reply.header("content-security-policy").unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let page = reply.text();
    assert!(page.contains("<code>POST /exec</code>") && page.contains("id=\"policy_denied\""));
    let style = server.get("/docs/style.css").status(200);
    assert_eq!(style.header("content-type"), Some("text/css; charset=utf-8"));
    let problem = server.post("/exec", "{").json();
    let anchor = problem["type"].as_str().unwrap().strip_prefix("/docs#").unwrap();
    assert!(page.contains(&format!("id=\"{anchor}\"")), "{anchor}");
}

#[test]
fn failures_inside_are_told_to_the_log_alone() {
    let server = Server::start();
    // The directory in which direct commands run is no longer there.
    std::fs::remove_dir_all(server.place.path()).unwrap();
    let reply = server.post("/exec", r#"{"command": "true"}"#);
    let value: Value = reply.json();
    assert!(!value.to_string().contains(server.place.path().to_str().unwrap()), "{value}");
}
