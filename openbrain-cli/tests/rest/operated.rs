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

#[test]
fn requests_and_commands_have_their_names_in_the_log_and_their_text_does_not() {
    let server = Server::at("127.0.0.1:0", "", |command| {
        command.args(["--log-format", "json", "--log-level", "debug"]);
    });
    let body = json!({ "command": "echo hunter2; echo $TOKEN", "env": { "TOKEN": "hunter3" } });
    let reply = server.ask("POST /exec", &["X-Request-Id: mine-1"], body.to_string());
    assert_eq!(reply.header("x-request-id"), Some("mine-1"));
    let exec_id = reply.header("openbrain-exec-id").unwrap().to_owned();
    let answered = server.says(|line| line.contains("request answered"));
    let ended = server.says(|line| line.contains("command ended"));
    for line in [&answered, &ended] {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["span"]["request_id"], "mine-1", "{line}");
    }
    let ended: Value = serde_json::from_str(&ended).unwrap();
    assert_eq!((&ended["exec_id"], &ended["exit_code"]), (&json!(exec_id), &json!(0)));
    assert!(!server.said().contains("hunter"), "{}", server.said());
    // Whoever gives none is given one.
    let given = server.get("/health").header("x-request-id").unwrap().to_owned();
    assert_eq!(given.len(), 32, "{given}");
}

#[test]
fn every_command_is_in_the_audit_log_with_its_caller_and_its_end() {
    let server = Server::start();
    let result = server.exec(json!({ "command": "exit 3" }));
    let refused = json!({ "command": "true", "sandbox": true, "mounts": ["/etc"] });
    server.post("/exec", refused.to_string()).problem(403, "policy_denied");
    let audit = server.place.run(&["audit", "--json"]).code(0).stdout;
    let records: Vec<Value> =
        audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let uid = rustix::process::geteuid().as_raw();
    for (kind, record) in ["start", "end"].into_iter().zip(&records) {
        assert_eq!((&record["type"], &record["exec_id"]), (&json!(kind), &result["exec_id"]));
    }
    let (start, end) = (&records[0], &records[1]);
    assert_eq!(
        (&start["surface"], &start["caller"]),
        (&json!("rest"), &json!(format!("uid:{uid}")))
    );
    assert_eq!((&start["command"], &start["backend"]), (&json!("exit 3"), &json!("direct")));
    assert_eq!((&end["status"], &end["exit_code"]), (&json!("exited"), &json!(3)));
    assert!(
        records[2..].iter().any(|record| record.to_string().contains("policy_denied")),
        "{audit}"
    );
}
