//! A gibibyte of output streamed through a process handle, beside a plain pipe, with peak memory:
//! `cargo bench -p openbrain --bench stream`.

use std::{
    io::Read,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use openbrain::{Engine, Event, Exec, Settings};

const BYTES: u64 = 1 << 30;
const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let engine = Engine::new(Settings::default());
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        times[0].push(timed(plain_pipe));
        times[1].push(timed(|| runtime.block_on(stream(&engine, Exec::argv(source())))));
        times[2].push(timed(|| runtime.block_on(stream(&engine, Exec::argv(source()).sandbox()))));
    }
    let medians = times.each_mut().map(|times| {
        times.sort();
        times[times.len() / 2]
    });
    for (name, time) in ["pipe", "direct", "sandboxed"].iter().zip(medians) {
        println!("  {name:<12} {:>6.2} GiB/s", 1.0 / time.as_secs_f64());
    }
    println!("ratios");
    let ratio = |time: Duration| medians[0].as_secs_f64() / time.as_secs_f64();
    println!("  direct / pipe     {:>5.2}  (goal: >= 0.8)", ratio(medians[1]));
    println!("  sandboxed / pipe  {:>5.2}  (goal: >= 0.8)", ratio(medians[2]));
    println!("  peak memory of this process {} MiB  (goal: < 64)", peak_memory_kib() / 1024);
}

fn source() -> [String; 4] {
    ["head", "-c", &BYTES.to_string(), "/dev/zero"].map(str::to_owned)
}

fn timed(run: impl FnOnce() -> u64) -> Duration {
    let start = Instant::now();
    assert_eq!(run(), BYTES);
    start.elapsed()
}

fn plain_pipe() -> u64 {
    let [program, arguments @ ..] = source();
    let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match stdout.read(&mut buffer).unwrap() {
            0 => break,
            n => total += n as u64,
        }
    }
    assert!(child.wait().unwrap().success());
    total
}

async fn stream(engine: &Engine, exec: Exec) -> u64 {
    let mut process = engine.spawn(exec).await.unwrap();
    let mut total = 0;
    while let Some(event) = process.next_event().await.unwrap() {
        match event {
            Event::Stdout(bytes) => total += bytes.len() as u64,
            Event::Ended(output) => assert!(output.success()),
            _ => {}
        }
    }
    total
}

/// The largest resident set of this process so far (`VmHWM`, `proc(5)`).
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
