//! What a command in an open sandbox costs, beside its peers, in one run:
//! `cargo bench -p openbrain --bench session`.
//!
//! Every round measures each contender once, in turn, so that a busy machine slows all alike; the
//! printed figures are medians, and the ratios are what counts. `docker exec` takes part where
//! `BENCH_CONTAINER` names a running container.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use openbrain::{Engine, Exec, NewSandbox, Sandbox, Settings};
use tokio::runtime::Runtime;

type Contender<'a> = (&'static str, Box<dyn FnMut() + 'a>);

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(500);
    let runtime = Runtime::new().unwrap();
    let engine = Engine::new(Settings::default());
    let open = |network| {
        let new = NewSandbox::default().allow_network(network);
        runtime.block_on(engine.create(new)).unwrap()
    };
    let (plain, networked) = (open(false), open(true));
    let mut contenders: Vec<Contender<'_>> = vec![
        ("plain spawn", Box::new(|| assert!(Command::new("true").status().unwrap().success()))),
        ("spawn, output collected", Box::new(|| collected(&runtime))),
        ("exec in an open sandbox", Box::new(|| inside(&runtime, &plain))),
        ("the same, with a network", Box::new(|| inside(&runtime, &networked))),
        ("sandbox for one command", Box::new(|| cold(&runtime, &engine))),
        ("sandbox opened and closed", Box::new(|| drop(open(false)))),
    ];
    if let Ok(container) = std::env::var("BENCH_CONTAINER") {
        contenders.push(("docker exec", Box::new(move || docker(&container))));
    }
    let medians = measure(&mut contenders, rounds);
    let ratio = |what: &str, a: usize, b: usize, goal: &str| {
        let (Some(a), Some(b)) = (medians.get(a), medians.get(b)) else { return };
        println!("  {what:<48} {:>6.2}  (goal: {goal})", a.as_secs_f64() / b.as_secs_f64());
    };
    println!("\nratios");
    ratio("exec in an open sandbox / plain spawn", 2, 0, "<= 2");
    ratio("exec in an open sandbox / spawn, collected", 2, 1, "none");
    ratio("the same with a network / plain spawn", 3, 0, "none");
    ratio("sandbox for one command / exec in an open one", 4, 2, "none");
    ratio("docker exec / exec in an open sandbox", 6, 2, "none");
}

/// What everybody else does: a child with its output collected.
fn collected(runtime: &Runtime) {
    let mut command = tokio::process::Command::new("true");
    command.stdin(Stdio::null());
    let output = runtime.block_on(async { command.output().await });
    assert!(output.unwrap().status.success());
}

fn inside(runtime: &Runtime, sandbox: &Sandbox) {
    let output = runtime.block_on(sandbox.run(Exec::argv(["true"])));
    assert!(output.unwrap().success());
}

fn cold(runtime: &Runtime, engine: &Engine) {
    let exec = Exec::argv(["true"]).sandbox().allow_network(false);
    assert!(runtime.block_on(engine.run(exec)).unwrap().success());
}

fn docker(container: &str) {
    let status = Command::new("docker").args(["exec", container, "true"]).status();
    assert!(status.unwrap().success());
}

fn measure(contenders: &mut [Contender<'_>], rounds: usize) -> Vec<Duration> {
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds + 5 {
        for ((_, run), times) in contenders.iter_mut().zip(&mut times) {
            let start = Instant::now();
            run();
            if round >= 5 {
                times.push(start.elapsed());
            }
        }
    }
    for ((name, _), times) in contenders.iter().zip(&mut times) {
        times.sort();
        let [p10, median, p90] = [1, 5, 9].map(|tenth| times[times.len() * tenth / 10]);
        println!("  {name:<28} median {median:>10.1?}   p10 {p10:>10.1?}   p90 {p90:>10.1?}");
    }
    times.iter().map(|times| times[times.len() / 2]).collect()
}
