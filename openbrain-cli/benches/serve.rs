//! What the servers add to the library, in one run: `cargo bench -p openbrain-cli --bench serve`.
//!
//! Every round gives each contender its turn, so that a busy machine slows all alike. Contenders run
//! the same command, `true`; what counts is the difference to the library, which runs it in this
//! process with as many at once as the servers have clients.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use openbrain::{Engine, Exec, Settings};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// How many commands each contender runs in a round.
const TURN: usize = 64;

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
    let mut contenders: Vec<Contender<'_>> = vec![
        ("library", Box::new(|| library(&runtime, &engine, sandbox, clients))),
        ("POST /exec", Box::new(|| http(server, sandbox, clients, Http::rest))),
        ("MCP at /mcp", Box::new(|| http(server, sandbox, clients, Http::mcp))),
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

fn http(
    server: &Server,
    sandbox: bool,
    clients: usize,
    call: fn(&mut Http, bool),
) -> Vec<Duration> {
    let client = || {
        let mut http = Http::connect(&server.address);
        let mut times = Vec::new();
        for _ in 0..TURN / clients {
            let began = Instant::now();
            call(&mut http, sandbox);
            times.push(began.elapsed());
        }
        times
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
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
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
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

/// A connection to the server, kept alive.
struct Http(BufReader<TcpStream>, String);

impl Http {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream), address.to_owned())
    }

    fn rest(&mut self, sandbox: bool) {
        let body = json!({"command": "true", "sandbox": sandbox}).to_string();
        let answer = self.post("/exec", "", &body);
        assert!(answer.contains(r#""exit_code":0"#), "{answer}");
    }

    fn mcp(&mut self, sandbox: bool) {
        const HEADERS: &str = "Accept: application/json, text/event-stream\r\n\
             MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n\
             Mcp-Name: exec_command\r\n";
        let mut call = call(1, sandbox);
        call["params"]["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let answer = self.post("/mcp", HEADERS, &call.to_string());
        assert!(answer.contains(r#""exit_code":0"#), "{answer}");
    }

    fn post(&mut self, path: &str, headers: &str, body: &str) -> String {
        let Self(stream, address) = self;
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             {headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut length, mut line) = (None, String::new());
        while stream.read_line(&mut line).unwrap() > 2 {
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = Some(value.trim().parse().unwrap());
            }
            line.clear();
        }
        match length {
            Some(length) => take(stream, length),
            None => chunks(stream),
        }
    }
}

fn take(from: &mut impl Read, length: usize) -> String {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A body in chunks: RFC 9112, section 7.1.
fn chunks(from: &mut impl BufRead) -> String {
    let mut body = String::new();
    loop {
        let mut size = String::new();
        from.read_line(&mut size).unwrap();
        let length = usize::from_str_radix(size.trim(), 16).unwrap();
        body += &take(from, length);
        take(from, 2);
        if length == 0 {
            return body;
        }
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
    stdout: BufReader<ChildStdout>,
}

impl Pipes {
    fn start(home: PathBuf) -> Self {
        let mut mcp = openbrain(&home, "mcp");
        let mut child = mcp.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
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
