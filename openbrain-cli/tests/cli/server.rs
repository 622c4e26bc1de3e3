//! Commands on an OpenSandbox server, and what is left of them there.
//!
//! Others use the server at the same time: a test knows its own sandboxes by a mark.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use openbrain::opensandbox::{Client, Connection, CreateSandbox, ListFilter, Sandbox};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    support::{Going, Place, Ran, Server},
    tty::terminal,
};

/// What the server echoes without giving it a meaning.
const MARK: &str = "opensandbox.extensions.openbrain-test";

/// A server that starts removes the sidecars of sandboxes that another is just making: no test asks for a
/// network policy meanwhile.
static SIDECARS: RwLock<()> = RwLock::new(());

fn client(server: &Server) -> Client {
    let mut connection = Connection::new(&server.url);
    connection.api_key = Some(server.key.as_str().into());
    Client::new(connection).unwrap()
}

fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The sandboxes with this mark.
fn marked(server: &Server, mark: &str) -> Vec<Sandbox> {
    let mut found = wait(client(server).list(&ListFilter::default())).unwrap();
    found.retain(|sandbox| sandbox.extensions.get(MARK).is_some_and(|found| found == mark));
    found
}

/// Starts a command on the server whose sandbox has this mark.
fn start(place: &Place, server: &Server, mark: &str, script: &str) -> Going {
    let extension = format!("{MARK}={mark}");
    let args = ["exec", "--sandbox", "-q", "-t", "60", "--extension", &extension, script];
    Going::of(place.command_on(server, &args))
}

#[test]
fn a_command_runs_on_the_server() {
    let (place, server) = (Place::new(), Server::of_tests());
    let ran = Ran::of(place.command_on(&server, &["exec", "--sandbox", "echo there; exit 3"]), b"");
    assert_eq!(ran.code(3).stdout, "there\n");
    let args = ["exec", "--sandbox", "--use-server-proxy", "--json", "echo there"];
    let result = Ran::of(place.command_on(&server, &args), b"").code(0).json();
    assert_eq!((&result["backend"], &result["stdout"]), (&json!("opensandbox"), &json!("there\n")));
}

#[test]
fn listed_names_and_hosts_are_all_that_is_reachable() {
    let _sidecar = SIDECARS.read().unwrap_or_else(PoisonError::into_inner);
    let (place, server) = (Place::new(), Server::of_tests());
    let tried = "python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 443), 5)'";
    let args = ["exec", "--sandbox", "--allow-domain", "*.example.com", "--allow-host", "10.0.0.1"];
    let args = [&args[..], &["--json", tried]].concat();
    let result = Ran::of(place.command_on(&server, &args), b"").code(1).json();
    assert_eq!(result["isolation"]["network"], "listed names");
    assert!(result["stderr"].as_str().unwrap().contains("refused"), "{result}");
    for list in [["--allow-port", "443"], ["--allow-domain", "example.com:443"]] {
        let args = [&["exec", "--sandbox"], &list[..], &["true"]].concat();
        Ran::of(place.command_on(&server, &args), b"").code(125).complains("cannot restrict");
    }
}

#[test]
fn a_running_sandbox_is_listed_and_killed() {
    let (place, server) = (Place::new(), Server::of_tests());
    let mut going = start(&place, &server, "listed", "echo ready; sleep 60");
    going.wait_for("ready");
    let [sandbox] = marked(&server, "listed").try_into().unwrap();
    let run = |args: &[&str]| Ran::of(place.command_on(&server, args), b"");

    let listed = run(&["sandbox", "list", "--json"]).code(0).json();
    let found = listed.as_array().unwrap().iter().find(|found| found["id"] == sandbox.id).unwrap();
    assert_eq!((&found["state"], &found["image"]), (&json!("Running"), &json!(server.image)));
    assert!(found["expires_at"].as_str().unwrap() > found["created_at"].as_str().unwrap());
    assert!(found["host"].is_string(), "{found}");
    let table = run(&["sandbox", "list"]).code(0).stdout;
    assert!(table.starts_with("ID ") && table.contains(&sandbox.id), "{table}");

    run(&["sandbox", "kill", &sandbox.id]).code(0).prints(&format!("{}\n", sandbox.id));
    assert_eq!(going.end(), Some(125));
    run(&["sandbox", "kill", &sandbox.id]).code(125).complains("there is no sandbox");
}

#[test]
fn what_is_not_ours_is_not_killed() {
    let (place, server) = (Place::new(), Server::of_tests());
    let mut request = CreateSandbox::image(&server.image);
    request.timeout = Some(Duration::from_secs(60));
    let id = wait(client(&server).create(&request)).unwrap().id;
    let ran = Ran::of(place.command_on(&server, &["sandbox", "kill", &id]), b"");
    let listed = Ran::of(place.command_on(&server, &["sandbox", "list"]), b"");
    assert!(wait(client(&server).delete(&id)).unwrap());
    ran.code(125).complains("was not made by openbrain");
    assert!(!listed.code(0).stdout.contains(&id));
}

#[test]
fn all_of_ours_are_killed() {
    let sandbox = |id: &str| json!({"id": id, "status": {"state": "Running"}, "metadata": {"openbrain": "exec"}});
    let asked = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&asked);
    let fake = fake(move |request| {
        told.lock().unwrap().push(request.to_owned());
        Some(match request {
            "DELETE /v1/sandboxes/one" | "DELETE /v1/sandboxes/two" => String::new(),
            "GET /v1/sandboxes/one" => sandbox("one").to_string(),
            "GET /v1/sandboxes/two" => sandbox("two").to_string(),
            _ => json!({"items": [sandbox("one"), sandbox("two")]}).to_string(),
        })
    });
    let ran = Place::new().run(&["sandbox", "kill", "--all", "--server-url", &fake]);
    ran.code(0).prints("one\ntwo\n");
    let asked = asked.lock().unwrap();
    assert!(asked[0].starts_with("GET /v1/sandboxes?") && asked[0].contains("metadata=openbrain"));
}

#[test]
fn without_a_server_there_is_nothing_to_list() {
    for args in [&["sandbox", "list"][..], &["sandbox", "kill", "--all"]] {
        assert_eq!(Place::new().run(args).code(0).stdout, "");
    }
    let listed = Place::new().run(&["sandbox", "list", "--json"]).code(0);
    assert_eq!(listed.json(), serde_json::json!([]));
    Place::new().run(&["sandbox", "kill"]).code(125).complains("required");
}

#[test]
fn an_interrupt_during_the_start_leaves_no_sandbox() {
    let (place, server) = (Place::new(), Server::of_tests());
    for delay in [30, 150, 300, 600, 1000] {
        let mark = format!("interrupted-{delay}");
        let going = start(&place, &server, &mark, "sleep 60");
        // Whatever the start has come to by then.
        thread::sleep(Duration::from_millis(delay));
        let asked = Instant::now();
        going.signal(Signal::INT);
        assert_eq!(going.end(), Some(130), "{delay} ms");
        assert!(asked.elapsed() < Duration::from_secs(30), "{delay} ms: {:?}", asked.elapsed());
        assert_eq!(marked(&server, &mark), [], "{delay} ms");
    }
}

#[test]
fn a_start_that_takes_long_is_told_and_given_up() {
    // It answers no creation, so that nobody knows whether there will be a sandbox.
    let fake =
        fake(|request| (!request.starts_with("POST")).then(|| json!({"items": []}).to_string()));
    let (ours, theirs) = terminal();
    let place = Place::new();
    let args = ["exec", "--sandbox", "--server-url", &fake, "--image", "some:image", "true"];
    let mut command = place.command(&args);
    command.stderr(theirs);
    let going = Going::of(command);
    let mut terminal = File::from(ours);
    let text = read_until(&mut terminal, "…");
    assert_eq!(text, format!("openbrain: starting a sandbox of `some:image` on `{fake}`…"));
    going.signal(Signal::INT);
    assert!(read_until(&mut terminal, "…").ends_with("openbrain: removing the sandbox…"));
    going.signal(Signal::INT);
    assert!(read_until(&mut terminal, "by itself").contains("may not be deleted yet"));
    assert_eq!(going.end(), Some(130));
}

#[test]
fn nobody_is_told_who_does_not_look() {
    let fake =
        fake(|request| (!request.starts_with("POST")).then(|| json!({"items": []}).to_string()));
    let place = Place::new();
    let args = ["exec", "--sandbox", "--server-url", &fake, "--start-timeout", "1500ms", "true"];
    let ran = Ran::of(place.command(&args), b"").code(125);
    assert!(!ran.stderr.contains('…'), "{ran:#?}");
}

#[test]
fn doctor_looks_at_the_server() {
    let _sidecar = SIDECARS.read().unwrap_or_else(PoisonError::into_inner);
    let (place, server) = (Place::new(), Server::of_tests());
    let report = Ran::of(place.command_on(&server, &["doctor", "--json"]), b"").code(0).json();
    let checks = report["checks"].as_array().unwrap();
    for id in ["server", "server_key", "server_engine", "trial", "egress"] {
        let check = checks.iter().find(|check| check["id"] == id).unwrap();
        assert_eq!(check["status"], "ok", "{check}");
    }
    assert!(checks[0]["summary"].as_str().unwrap().starts_with("OpenSandbox "), "{}", checks[0]);
    assert!(checks.iter().all(|check| check["status"] != "failed"), "{report}");
    assert_eq!(report["isolation"]["filesystem"], "the image");
    let text = Ran::of(place.command_on(&server, &["doctor"]), b"").code(0).stdout;
    assert!(text.starts_with("ok       server "), "{text}");
    assert!(!text.contains(&server.key), "{text}");
}

#[test]
fn doctor_tells_what_is_wrong_with_the_server() {
    let place = Place::new();
    let mut server = Server::of_tests();
    server.key = "not-the-key".into();
    let ran = Ran::of(place.command_on(&server, &["doctor"]), b"").code(1).stdout;
    assert!(ran.contains("failed   server_key") && ran.contains("OPEN_SANDBOX_API_KEY"), "{ran}");
    assert!(!ran.contains("not-the-key") && !ran.contains("trial"), "{ran}");
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    server.url = format!("http://{down}");
    let ran = Ran::of(place.command_on(&server, &["doctor"]), b"").code(1).stdout;
    assert!(ran.contains("failed   server "), "{ran}");
    assert!(ran.contains("start the server: `opensandbox-server init-config"), "{ran}");
}

#[test]
fn doctor_warns_where_policies_cannot_be_had() {
    // Servers of one's own are for those who may use Docker.
    if UnixStream::connect("/var/run/docker.sock").is_err() {
        eprintln!("SKIPPED: this user cannot start an OpenSandbox server, for want of Docker");
        return;
    }
    let place = Place::new();
    let plain = Plain::start();
    let ran = Ran::of(place.command_on(&plain.server, &["doctor"]), b"").code(0).stdout;
    assert!(ran.contains("ok       trial "), "{ran}");
    assert!(ran.contains("warning  egress ") && ran.contains("`[egress]`"), "{ran}");
    let args = ["exec", "--sandbox", "--no-network", "true"];
    Ran::of(place.command_on(&plain.server, &args), b"").code(125).complains("`[egress]`");
}

/// A real server that is not set up for network policies. Ends with this value.
struct Plain {
    server: Server,
    process: Child,
    _home: TempDir,
}

impl Plain {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let template = fs::read_to_string(Server::variable("CONFIG")).unwrap();
        let sections = template.split("\n[").filter(|section| !section.starts_with("egress]"));
        let config = sections
            .collect::<Vec<_>>()
            .join("\n[")
            .replace("@PORT@", &port.to_string())
            .replace("@STATE@", home.path().to_str().unwrap());
        fs::write(home.path().join("server.toml"), config).unwrap();
        let _alone = SIDECARS.write().unwrap_or_else(PoisonError::into_inner);
        let process = Command::new(Server::variable("SERVER"))
            .arg("--config")
            .arg(home.path().join("server.toml"))
            .env("HOME", home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "the server did not start");
            thread::sleep(Duration::from_millis(50));
        }
        let server = Server { url: format!("http://127.0.0.1:{port}"), ..Server::of_tests() };
        Self { server, process, _home: home }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A server that answers requests as told, each on a connection of its own, and those with `None`
/// never. Returns its address.
fn fake(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || serve(stream.unwrap(), &*answer));
        }
    });
    format!("http://{address}")
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&str) -> Option<String>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let request = request.trim_end_matches(" HTTP/1.1");
    lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
    let Some(body) = answer(request) else {
        // Until the client goes.
        return lines.for_each(drop);
    };
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json";
    let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    // The client may be gone.
    let _ = stream.write_all(answer.as_bytes());
}

/// What comes from a terminal up to the end of this text.
fn read_until(terminal: &mut File, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        terminal.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}
