//! What a run on an OpenSandbox server costs, beside the official Python SDK on the same server, in
//! turns: `.ci/opensandbox up && cargo bench -p openbrain --bench opensandbox`.
//!
//! The server's own time is that of its requests alone: create, find the way in, first answer of the
//! agent, delete.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use openbrain::{
    Engine, Exec, Settings,
    opensandbox::{Agent, Client, Completion, Connection, CreateSandbox, RunCommand},
};

/// The SDK, in a process of its own.
struct Peer {
    child: Child,
    /// Its end is the end of the process.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(15);
    let fixture = fixture();
    let mut settings = Settings::default();
    let sandbox = &mut settings.security.sandbox;
    sandbox.server_url = Some(fixture["TEST_OPENSANDBOX_URL"].clone());
    sandbox.api_key = Some(fixture["TEST_OPENSANDBOX_KEY"].as_str().into());
    sandbox.image = fixture["TEST_OPENSANDBOX_IMAGE"].clone();
    let engine = Engine::new(settings);
    let mut connection = Connection::new(&fixture["TEST_OPENSANDBOX_URL"]);
    connection.api_key = Some(fixture["TEST_OPENSANDBOX_KEY"].as_str().into());
    let client = Client::new(connection).unwrap();
    let image = &fixture["TEST_OPENSANDBOX_IMAGE"];
    let mut peer = Peer::start(&fixture);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let open = client.create(&CreateSandbox::image(image)).await.unwrap();
        let agent = client.agent(&open.id).await.unwrap();
        answered(&agent).await;
        let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for round in 0..=rounds {
            let taken = [
                ("server", server(&client, image).await),
                ("whole run", whole(&engine).await),
                ("whole run, SDK", peer.ask("whole")),
                ("open sandbox", command(&agent).await),
                ("open sandbox, SDK", peer.ask("open")),
            ];
            // The first round warms everybody up.
            for (name, time) in taken.into_iter().filter(|_| round > 0) {
                times.entry(name).or_default().push(time);
            }
        }
        client.delete(&open.id).await.unwrap();
        report(&times);
    });
}

fn report(times: &BTreeMap<&str, Vec<Duration>>) {
    let median = |name: &str| {
        let mut times = times[name].clone();
        times.sort_unstable();
        times[times.len() / 2]
    };
    for name in times.keys() {
        println!("  {name:<20} {:>9.1} ms", median(name).as_secs_f64() * 1e3);
    }
    // Each run is compared with the server's own time of its round.
    let pairs = times["whole run"].iter().zip(&times["server"]);
    let mut over: Vec<f64> = pairs.map(|(a, b)| a.as_secs_f64() - b.as_secs_f64()).collect();
    over.sort_unstable_by(f64::total_cmp);
    println!("  over the server's own time {:>6.1} ms  (goal: <= 20)", over[over.len() / 2] * 1e3);
    let ratio = |a, b| median(a).as_secs_f64() / median(b).as_secs_f64();
    println!("  whole run / SDK    {:>6.2}  (goal: <= 0.8)", ratio("whole run", "whole run, SDK"));
    println!(
        "  open sandbox / SDK {:>6.2}  (goal: <= 0.5)",
        ratio("open sandbox", "open sandbox, SDK")
    );
}

/// The requests without which there is no run.
async fn server(client: &Client, image: &str) -> Duration {
    let start = Instant::now();
    let sandbox = client.create(&CreateSandbox::image(image)).await.unwrap();
    answered(&client.agent(&sandbox.id).await.unwrap()).await;
    client.delete(&sandbox.id).await.unwrap();
    start.elapsed()
}

async fn answered(agent: &Agent) {
    while agent.ping().await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn whole(engine: &Engine) -> Duration {
    let start = Instant::now();
    let output = engine.run(Exec::new("true").sandbox()).await.unwrap();
    assert!(output.success(), "{output:?}");
    start.elapsed()
}

async fn command(agent: &Agent) -> Duration {
    let start = Instant::now();
    let mut events = agent.run(&RunCommand::shell("true")).await.unwrap();
    let mut last = None;
    while let Some(event) = events.next().await.unwrap() {
        last = Some(event);
    }
    let done = openbrain::opensandbox::AgentEvent::Done(Completion::Exited(0));
    assert_eq!(last, Some(done));
    start.elapsed()
}

impl Peer {
    fn start(fixture: &BTreeMap<String, String>) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/opensandbox/peer.py");
        let mut child = Command::new(&fixture["TEST_OPENSANDBOX_PYTHON"])
            .arg(program)
            .envs(fixture)
            .env("OPENSANDBOX_DISABLE_METRICS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output) }
    }

    fn ask(&mut self, what: &str) -> Duration {
        writeln!(self.input.as_ref().unwrap(), "{what}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        Duration::from_secs_f64(line.trim().parse().unwrap())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

/// What `.ci/opensandbox up` has written.
fn fixture() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/opensandbox/env");
    let text = fs::read_to_string(path).expect("run `.ci/opensandbox up` first");
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(a, b)| (a.into(), b.into()))
        .collect()
}
