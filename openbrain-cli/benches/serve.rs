//! What the servers add to the library, in one run: `cargo bench -p openbrain-cli --bench serve`.
//!
//! Every round gives each contender its turn, so that a busy machine slows all alike. Contenders run
//! the same command, `true`; what counts is the difference to the library, which runs it in this
//! process with as many at once as the servers have clients.

use std::{
    fs,
    io::{BufRead as _, BufReader as StdBufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use openbrain::{Engine, Exec, Settings};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    runtime::Runtime,
};

/// How many commands each contender runs in a round.
const TURN: usize = 64;

/// What the answer says when the command has succeeded.
const SUCCESS: &[u8] = br#""exit_code":0"#;

/// Somebody who runs the command, and tells how long each took.
type Contender<'a> = (&'static str, Box<dyn FnMut() -> Vec<Duration> + 'a>);

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(20);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path().to_owned());
    thread::sleep(Duration::from_millis(500));
    println!("idle: {:.1} MiB resident", server.memory());
    for sandbox in [false, true] {
        for clients in [1, 8] {
            compare(&server, sandbox, clients, rounds);
        }
    }
    println!("\nafter all of it: {:.1} MiB resident", server.memory());
}

/// Measures the library and the servers in turn, and prints what the servers add.
fn compare(server: &Server, sandbox: bool, clients: usize, rounds: usize) {
    let place = if sandbox { "sandboxed" } else { "direct" };
    println!("\n{place}, {clients} at once");
    let runtime = runtime();
    let engine = Engine::new(Settings::default());
    let mut pipes = Pipes::start(server.home.clone());
    let (rest, mcp) = (rest(server, sandbox), mcp(server, sandbox));
    let mut contenders: Vec<Contender<'_>> = vec![
        ("library", Box::new(|| library(&runtime, &engine, sandbox, clients))),
        ("POST /exec", Box::new(|| http(&runtime, server, &rest, clients))),
        ("MCP at /mcp", Box::new(|| http(&runtime, server, &mcp, clients))),
    ];
    // One pipe has one client.
    if clients == 1 {
        contenders.push(("MCP on stdio", Box::new(|| pipes.turn(sandbox))));
    }
    let mut times = vec![Vec::new(); contenders.len()];
    let mut spent = vec![Duration::ZERO; contenders.len()];
    for round in 0..=rounds {
        for (n, (_, run)) in contenders.iter_mut().enumerate() {
            let began = Instant::now();
            let turn = run();
            if round > 0 {
                spent[n] += began.elapsed();
                times[n].extend(turn);
            }
        }
    }
    times.iter_mut().for_each(|times| times.sort());
    let at = |n: usize, part: f64| times[n][(times[n].len() as f64 * part) as usize].as_secs_f64();
    for (n, (name, _)) in contenders.iter().enumerate() {
        let (p50, p99) = (at(n, 0.5) * 1e3, at(n, 0.99) * 1e3);
        let rate = times[n].len() as f64 / spent[n].as_secs_f64();
        let (more50, more99) = (p50 - at(0, 0.5) * 1e3, p99 - at(0, 0.99) * 1e3);
        println!(
            "  {name:<14} {rate:>6.0}/s   p50 {p50:>6.2} ms ({more50:>+5.2})   \
             p99 {p99:>6.2} ms ({more99:>+5.2})"
        );
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn library(runtime: &Runtime, engine: &Engine, sandbox: bool, clients: usize) -> Vec<Duration> {
    let client = || runtime.spawn(runs(engine.clone(), sandbox, TURN / clients));
    let clients: Vec<_> = (0..clients).map(|_| client()).collect();
    clients.into_iter().flat_map(|client| runtime.block_on(client).unwrap()).collect()
}

async fn runs(engine: Engine, sandbox: bool, count: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..count {
        let exec = Exec::new("true");
        let exec = if sandbox { exec.sandbox() } else { exec };
        let began = Instant::now();
        assert!(engine.run(exec).await.unwrap().success());
        times.push(began.elapsed());
    }
    times
}

/// As many clients as the library has tasks, on the same threads: what they cost themselves is on both
/// sides of the comparison, as far as it can be.
fn http(runtime: &Runtime, server: &Server, request: &Arc<[u8]>, clients: usize) -> Vec<Duration> {
    let client = || {
        let (address, request) = (server.address.clone(), Arc::clone(request));
        runtime.spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut stream = BufReader::new(stream);
            let mut times = Vec::new();
            for _ in 0..TURN / clients {
                let began = Instant::now();
                let answer = post(&mut stream, &request).await;
                times.push(began.elapsed());
                let succeeded = answer.windows(SUCCESS.len()).any(|part| part == SUCCESS);
                assert!(succeeded, "{}", String::from_utf8_lossy(&answer));
            }
            times
        })
    };
    let clients: Vec<_> = (0..clients).map(|_| client()).collect();
    clients.into_iter().flat_map(|client| runtime.block_on(client).unwrap()).collect()
}

/// Sends a request and reads its answer, which says how long it is.
async fn post(stream: &mut BufReader<TcpStream>, request: &[u8]) -> Vec<u8> {
    stream.write_all(request).await.unwrap();
    let (mut length, mut line) = (None, String::new());
    while stream.read_line(&mut line).await.unwrap() > 2 {
        if let Some(value) = line.strip_prefix("content-length:") {
            length = Some(value.trim().parse().unwrap());
        }
        line.clear();
    }
    let mut body = vec![0; length.expect("a length")];
    stream.read_exact(&mut body).await.unwrap();
    body
}

/// The request for the command by REST.
fn rest(server: &Server, sandbox: bool) -> Arc<[u8]> {
    request(server, "/exec", "", &json!({"command": "true", "sandbox": sandbox}))
}

/// The request for the command by MCP, in the revision that has no sessions.
fn mcp(server: &Server, sandbox: bool) -> Arc<[u8]> {
    const HEADERS: &str = "Accept: application/json, text/event-stream\r\n\
         MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n\
         Mcp-Name: exec_command\r\n";
    let mut call = call(1, sandbox);
    call["params"]["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    request(server, "/mcp", HEADERS, &call)
}

fn request(server: &Server, path: &str, headers: &str, body: &Value) -> Arc<[u8]> {
    let (body, address) = (body.to_string(), &server.address);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes().into()
}

/// `openbrain`, with nothing of this process's own surroundings.
fn openbrain(home: &PathBuf, command: &str) -> Command {
    let mut openbrain = Command::new(env!("CARGO_BIN_EXE_openbrain"));
    openbrain.arg(command).args(["--log-level", "warn"]).current_dir(home);
    openbrain.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home);
    openbrain
}

/// A running `openbrain serve`.
struct Server {
    child: Child,
    address: String,
    home: PathBuf,
}

impl Server {
    fn start(home: PathBuf) -> Self {
        let mut serve = openbrain(&home, "serve");
        serve.args(["--listen", "127.0.0.1:0"]).stderr(Stdio::piped());
        let mut child = serve.spawn().unwrap();
        let mut line = String::new();
        let mut stderr = StdBufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut line).unwrap();
        thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::stderr()));
        let address = line.trim().rsplit_once("http://").unwrap().1.to_owned();
        Self { child, address, home }
    }

    /// Its resident memory, in MiB.
    fn memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A call of the tool.
fn call(id: u64, sandbox: bool) -> Value {
    let arguments = json!({"command": "true", "sandbox": sandbox});
    let params = json!({"name": "exec_command", "arguments": arguments});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

/// A running `openbrain mcp` and its pipes.
struct Pipes {
    child: Child,
    stdin: ChildStdin,
    stdout: StdBufReader<ChildStdout>,
}

impl Pipes {
    fn start(home: PathBuf) -> Self {
        let mut mcp = openbrain(&home, "mcp");
        let mut child = mcp.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = StdBufReader::new(child.stdout.take().unwrap());
        let mut client = Self { child, stdin, stdout };
        let info = json!({"name": "bench", "version": "1"});
        let params =
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
        client.ask(&json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}));
        client.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        client
    }

    fn turn(&mut self, sandbox: bool) -> Vec<Duration> {
        let mut times = Vec::new();
        for id in 1..=TURN as u64 {
            let began = Instant::now();
            let answer = self.ask(&call(id, sandbox));
            times.push(began.elapsed());
            assert!(answer.contains(r#""exit_code":0"#), "{answer}");
        }
        times
    }

    fn ask(&mut self, question: &Value) -> String {
        self.say(question);
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        answer
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.stdin, "{message}").unwrap();
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
