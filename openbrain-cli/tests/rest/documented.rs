//! Every documented line works as it is written, run by a real curl.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use rustix::process::geteuid;

use crate::{
    server::Server,
    support::{Place, Ran, installed, openbrain, sandboxes},
};

const DIRECT: &str =
    r#"curl -X POST http://localhost:8000/exec -d '{"command": "pip install requests"}'"#;
const SANDBOXED: &str = r#"curl -X POST http://localhost:8000/exec -d '{"command": "pip install requests", "sandbox": true}'"#;

/// Runs shell lines beside `openbrain serve`, in a network of their own where port 8000 is free.
fn beside_a_server(lines: &str) -> Ran {
    let place = Place::new();
    let bin = place.path().join("bin");
    fs::create_dir(&bin).unwrap();
    // What needs a network has a local stand-in.
    let pip = place.file("bin/pip", "#!/bin/sh\necho pip \"$@\"\n");
    fs::set_permissions(pip, fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "ip link set lo up || exit 99\n\
         {drop} {server} serve 2>&1 >&2 | {{ grep -m 1 '^openbrain: listening on' >&2; exec 3>&1; \
         {lines}\n kill -TERM 0; }}",
        drop = "setpriv --ambient-caps=-all --inh-caps=-all",
        server = openbrain().display(),
    );
    let mut command = Command::new("unshare");
    place.surround(&mut command);
    let mine: &[&str] = match geteuid().is_root() {
        true => &["--net"],
        false => &["--user", "--map-current-user", "--keep-caps", "--net"],
    };
    command.args(mine).args(["setsid", "--wait", "sh", "-c", &script]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", bin.display()));
    Ran::of(command, b"")
}

#[test]
fn the_documented_curl_lines_work_as_they_are_written() {
    if !installed("curl") || !installed("unshare") || !sandboxes() {
        return;
    }
    let with_status =
        |line: &str| format!("{line} -sS -w '\\n%{{http_code}} %{{content_type}}\\n'");
    let ran = beside_a_server(&format!("{}\n{}", with_status(DIRECT), with_status(SANDBOXED)));
    let lines: Vec<_> = ran.stdout.lines().collect();
    let [direct, first, sandboxed, second] = lines[..] else { panic!("{ran:#?}") };
    assert_eq!((first, second), ("200 application/json", "200 application/json"), "{ran:#?}");
    let direct: serde_json::Value = serde_json::from_str(direct).unwrap();
    assert_eq!(direct["stdout"], "pip install requests\n", "{ran:#?}");
    assert_eq!((&direct["backend"], &direct["success"]), (&"direct".into(), &true.into()));
    // The stand-in is in a home, which a sandbox does not see: what it answers is up to the machine.
    let sandboxed: serde_json::Value = serde_json::from_str(sandboxed).unwrap();
    assert_eq!(sandboxed["backend"], "embedded", "{ran:#?}");
    assert_eq!(sandboxed["status"], "exited", "{ran:#?}");
}

/// The lines of the fenced `sh` blocks of a document, joined where they go on.
fn fenced(document: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => lines.push(line.to_owned()),
            _ => {}
        }
    }
    lines
}

#[test]
fn the_examples_of_the_document_work() {
    if !installed("curl") || !sandboxes() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rest.md");
    let document = fs::read_to_string(path).unwrap();
    let lines = fenced(&document);
    assert!(lines.iter().filter(|line| line.contains("curl ")).count() >= 10, "{lines:?}");
    let server = Server::start();
    server.place.file("build.sh", "echo building\n");
    let script = lines.join("\n").replace("http://localhost:8000", &server.address);
    let mut command = Command::new("sh");
    server.place.surround(&mut command);
    command.args([
        "-e",
        "-c",
        &format!("curl() {{ command curl -sS --fail-with-body \"$@\"; }}\n{script}"),
    ]);
    let ran = Ran::of(command, b"").code(0);
    for result in ["\"exit_code\":3", "building", "event: ended", "\"type\":\"ended\"", "hello"] {
        assert!(ran.stdout.contains(result), "{result}: {ran:#?}");
    }
}

#[test]
fn a_unix_socket_is_its_owner_s_alone() {
    if !installed("curl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("openbrain.sock");
    let server = Server::at(&format!("unix:{}", socket.display()), "", |_| {});
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let path = socket.to_str().unwrap();
    let body = r#"{"command": "echo there"}"#;
    let ran = server.curl(&["--unix-socket", path, "http://localhost/exec", "-d", body]).code(0);
    assert_eq!(ran.json()["stdout"], "there\n");
    // A page cannot open it, and is refused all the same.
    let args = ["--unix-socket", path, "http://evil.example/exec", "-d", body];
    assert_eq!(server.curl(&args).code(0).json()["code"], "host_not_allowed");
}
