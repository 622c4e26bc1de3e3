//! Whom the server answers: nobody but its own user, and no web page. Nothing runs for the others.

use std::{net::TcpListener, process::Command};

use rustix::process::{Signal, geteuid};
use serde_json::json;

use crate::{
    server::Server,
    support::{Going, Place, Ran, installed, sandboxes},
};

const TOKEN: &str = "a-token-of-the-tests";

/// A command that leaves a file where the server runs.
const TOUCH: &str = r#"{"command": "touch ran"}"#;

fn has_run(server: &Server) -> bool {
    server.place.path().join("ran").exists()
}

#[test]
fn hostile_headers_run_nothing() {
    let server = Server::start();
    for (header, code) in [
        ("Origin: https://evil.example", "origin_not_allowed"),
        ("Origin: null", "origin_not_allowed"),
        ("Origin: http://localhost:3000", "origin_not_allowed"),
        ("Sec-Fetch-Site: cross-site", "origin_not_allowed"),
        ("Sec-Fetch-Site: same-site", "origin_not_allowed"),
    ] {
        let problem = server.ask("POST /exec", &[header], TOUCH).problem(403, code);
        let remedy = problem["remedy"].as_str().unwrap();
        assert!(remedy.contains("server.allowed_origins"), "{header}: {problem}");
    }
    let mut client = server.connect();
    client.send("POST /exec", "evil.example:8000", &[], TOUCH.as_bytes());
    let problem = client.reply().problem(403, "host_not_allowed");
    assert!(problem["remedy"].as_str().unwrap().contains("server.allowed_names"), "{problem}");
    assert!(!has_run(&server));
    server.post("/exec", TOUCH).status(200);
    assert!(has_run(&server));
}

#[test]
fn a_rebound_name_runs_nothing() {
    let server = Server::start();
    let port = server.host().rsplit(':').next().unwrap();
    let (host, origin) = (format!("evil.example:{port}"), format!("http://evil.example:{port}"));
    let mut client = server.connect();
    let headers = [&*format!("Origin: {origin}"), "Sec-Fetch-Site: same-origin"];
    client.send("POST /exec", &host, &headers, TOUCH.as_bytes());
    client.reply().problem(403, "host_not_allowed");
    assert!(!has_run(&server));
}

#[test]
fn nothing_of_a_body_is_asked_for_before_the_checks() {
    let server = Server::start();
    let host = server.host();
    let waits = "Expect: 100-continue\r\nContent-Length: 24\r\n\r\n";
    let first_status = |head: &str| {
        let mut client = server.connect();
        client.raw(format!("POST /exec HTTP/1.1\r\n{head}\r\n{waits}"));
        client.streaming().head.status
    };
    assert_eq!(first_status(&format!("Host: {host}\r\nOrigin: null")), 403);
    assert_eq!(first_status("Host: evil.example"), 403);
    assert_eq!(first_status(&format!("Host: {host}\r\nSec-Fetch-Site: cross-site")), 403);
    assert_eq!(first_status(&format!("Host: {host}")), 100);
}

#[test]
fn a_form_of_another_page_runs_nothing() {
    let server = Server::start();
    // What a browser sends for a form with one field whose name is the body up to an `=`.
    let body = r#"{"command": "touch ran", "env": {"x": "="}}"#;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let kind = format!("Content-Type: {kind}");
        let headers = [&*kind, "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"];
        server.ask("POST /exec", &headers, body).problem(403, "origin_not_allowed");
        // A browser that knows neither header sends the first one nevertheless with a form.
        let headers = [&*kind, "Origin: null"];
        server.ask("POST /exec", &headers, body).problem(403, "origin_not_allowed");
    }
    assert!(!has_run(&server));
}

#[test]
fn no_answer_can_be_read_by_a_page() {
    let server = Server::start();
    let preflight = [
        "Origin: https://evil.example",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: content-type",
    ];
    server.ask("OPTIONS /exec", &preflight, "").problem(403, "origin_not_allowed");
    let reply = server.ask("OPTIONS /exec", &[], "");
    assert_eq!(reply.header("allow"), Some("POST"));
    reply.problem(405, "method_not_allowed");
    for reply in [server.get("/health"), server.post("/exec", TOUCH), server.get("/nowhere")] {
        assert!(!reply.header_names().any(|name| name.starts_with("access-control")), "{reply:?}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert!(reply.header("content-security-policy").unwrap().contains("default-src 'none'"));
    }
}

#[test]
fn a_page_of_the_settings_may_call() {
    let server = Server::with("server:\n  allowed_origins: ['https://app.example']\n");
    let preflight = ["Origin: https://app.example", "Access-Control-Request-Method: POST"];
    let reply = server.ask("OPTIONS /exec", &preflight, "").status(204);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
    let headers = ["Origin: https://app.example", "Sec-Fetch-Site: cross-site"];
    let reply = server.ask("POST /exec", &headers, TOUCH).status(200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(reply.header("vary"), Some("origin"));
}

#[test]
fn a_token_of_the_settings_is_asked_for_and_never_told() {
    let server = Server::at("127.0.0.1:0", "", |command| {
        command.env("OPENBRAIN_SERVER_TOKEN", TOKEN).args(["--log-level", "debug"]);
    });
    let reply = server.post("/exec", TOUCH);
    assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"openbrain\""));
    reply.problem(401, "token_missing");
    let wrong = ["Authorization: Bearer a-token-of-somebody"];
    server.ask("POST /exec", &wrong, TOUCH).problem(401, "token_invalid");
    assert!(!has_run(&server));
    let right = [&*format!("Authorization: Bearer {TOKEN}")];
    server.ask("POST /exec", &right, TOUCH).status(200);
    assert!(has_run(&server));
    let body = json!({ "command": "env" }).to_string();
    let seen = server.ask("POST /exec", &right, body).status(200).text();
    assert!(!seen.contains(TOKEN), "{seen}");
    server.get("/health").status(200);
    server.get("/metrics").problem(401, "token_missing");
    assert!(!server.said().contains(TOKEN), "{}", server.said());
}

#[test]
fn an_address_that_other_machines_reach_needs_a_token() {
    let place = Place::new();
    for address in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0", "192.0.2.1:80"] {
        let ran = place.run(&["serve", "--listen", address]).code(125);
        assert!(ran.stderr.contains("OPENBRAIN_SERVER_TOKEN"), "{ran:#?}");
    }
    let server = Server::at("0.0.0.0:0", "", |command| {
        command.env("OPENBRAIN_SERVER_TOKEN", TOKEN);
    });
    let port = server.host().rsplit_once(':').unwrap().1;
    let url = format!("http://127.0.0.1:{port}/exec");
    let token = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(server.curl(&[&url, "-d", TOUCH]).code(0).json()["code"], "token_missing");
    assert!(!has_run(&server));
    let ran = server.curl(&[&url, "-d", TOUCH, "-H", &token]).code(0);
    assert_eq!(ran.json()["success"], true);
}

#[test]
fn a_place_that_is_taken_is_named_with_another_one() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = Place::new().run(&["serve", "--listen", &address]).code(125);
    assert!(ran.stderr.contains(&address) && ran.stderr.contains("--listen"), "{ran:#?}");
}

#[test]
fn other_users_of_this_machine_are_kept_out() {
    if !geteuid().is_root() || !installed("curl") || !installed("setpriv") {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let as_other = |server: &Server| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=12345", "--regid=12345", "--clear-groups", "curl", "-sS"]);
        command.args([&server.url("/exec"), "-d", r#"{"command": "id -u"}"#]).env_clear();
        Ran::of(command, b"").code(0).json()
    };
    let server = Server::start();
    let problem = as_other(&server);
    assert_eq!(problem["code"], "user_not_allowed", "{problem}");
    assert!(problem["remedy"].as_str().unwrap().contains("server.allow_other_users"), "{problem}");
    let server = Server::with("server:\n  allow_other_users: true\n");
    assert_eq!(as_other(&server)["success"], true);
}

#[test]
fn commands_of_others_are_not_found() {
    if !geteuid().is_root() || !installed("curl") || !installed("setpriv") {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let server = Server::with("server:\n  allow_other_users: true\n");
    let path = server.create(json!({ "command": "true" }));
    let as_other = |path: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=12345", "--regid=12345", "--clear-groups", "curl", "-sS"]);
        command.arg(server.url(path)).env_clear();
        Ran::of(command, b"").code(0).json()
    };
    assert_eq!(as_other(&path)["code"], "not_found");
    assert_eq!(as_other("/v1/execs")["execs"], json!([]));
    server.get(&path).status(200);
}

#[test]
fn a_sandboxed_command_does_not_reach_the_server_though_it_is_listed() {
    if !sandboxes() || !installed("bash") {
        return;
    }
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (other, free) = (listener(), listener());
    let (listed, own) = (port(&other), port(&free));
    drop(free);
    let hosts = format!("['localhost:{listed}', 'localhost:{own}']");
    let network = format!("security:\n  sandbox:\n    network:\n      allowed_hosts: {hosts}\n");
    let server = Server::at(&format!("127.0.0.1:{own}"), &network, |_| {});
    // The relay accepts before it asks the policy: what is refused is cut off without an answer.
    let reach = |port: u16, what: &str| {
        let command =
            format!("exec 3<>/dev/tcp/localhost/{port}; echo '{what}' >&3; head -c 4 <&3");
        let argv = json!(["bash", "-c", command]);
        server.exec(json!({ "command": argv, "sandbox": true, "timeout": 10 }))
    };
    let answering = std::thread::spawn(move || {
        use std::io::Write;
        other.accept().unwrap().0.write_all(b"here").unwrap();
    });
    let result = reach(listed, "hello");
    assert_eq!(result["stdout"], "here", "{result}");
    answering.join().unwrap();
    let result = reach(own, "GET /health HTTP/1.0");
    assert_eq!(result["stdout"], "", "{result}");
    assert_eq!(result["denials"][0]["port"], own, "{result}");
}

/// A project's own settings may list the server where the user's say nothing, and every process of the
/// user has sandboxes.
#[test]
fn a_sandbox_of_another_process_is_refused() {
    if !sandboxes() || !installed("curl") {
        return;
    }
    let place = Place::new();
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let server = Server::at(listen, "", |_| {});
        let curl = format!("curl -sS 'http://{}/exec' -d '{TOUCH}'", server.host());
        let args = ["exec", "--sandbox", "--allow-host", server.host(), &curl];
        let problem = place.run(&args).code(0).json();
        assert_eq!(problem["code"], "user_not_allowed", "{problem}");
        assert!(!has_run(&server));
        place.run(&["exec", &curl]).code(0);
        assert!(has_run(&server));
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("openbrain.sock");
    let server = Server::at(&format!("unix:{}", socket.display()), "", |_| {});
    let curl = format!("curl -sS --unix-socket openbrain.sock http://localhost/exec -d '{TOUCH}'");
    let mounted = folder.path().to_str().unwrap();
    let ran = place.run(&["exec", "--sandbox", "--mount", mounted, &curl]);
    // The sandbox of root is another user, whom the file keeps out.
    let is_out = if geteuid().is_root() { ran.code != Some(0) } else { false };
    assert!(is_out || ran.json()["code"] == "user_not_allowed", "{ran:#?}");
    assert!(!has_run(&server));
}

/// Who is refused anyway cannot take up the places of those who are not.
#[test]
fn strangers_take_up_little_room() {
    if !geteuid().is_root() || !installed("setpriv") || !installed("bash") {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let server = Server::start();
    let port = server.host().rsplit(':').next().unwrap();
    let script = format!(
        "for n in $(seq 200); do exec {{fd}}<>/dev/tcp/127.0.0.1/{port}; fds+=($fd); done
         for fd in ${{fds[@]:16}}; do read -t 20 -u $fd; [ $? = 1 ] && ((closed++)); done
         echo $closed; sleep 1000"
    );
    let mut strangers = Command::new("setpriv");
    strangers.args(["--reuid=12345", "--regid=12345", "--clear-groups", "bash", "-c", &script]);
    let mut strangers = Going::of(strangers);
    assert_eq!(strangers.line(), "184\n");
    server.get("/health").status(200);
    server.post("/exec", TOUCH).status(200);
    strangers.signal(Signal::KILL);
    strangers.end_closed();
}
