//! What a run costs, beside its peers, in one run: `cargo bench -p openbrain --bench start`.
//!
//! Every round measures each contender once, in turn, so that a busy machine slows all alike; the
//! printed figures are medians, and the ratios are what counts.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use openbrain::{Engine, Exec, Settings};
use tokio::runtime::Runtime;

type Contender<'a> = (&'static str, Box<dyn FnMut() + 'a>);

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(300);
    let runtime = runtime();
    let engine = Engine::new(Settings::default());
    let small = measure(&runtime, &engine, rounds);
    println!("\nwith 2 GiB of memory resident in the host process");
    let ballast = ballast(2 << 30);
    let big = measure(&runtime, &engine, rounds / 3);
    assert_eq!(ballast[ballast.len() - 1], 1);
    println!("\nratios");
    let ratio = |what: &str, a: Duration, b: Duration, goal: &str| {
        println!("  {what:<44} {:>6.2}  (goal: {goal})", a.as_secs_f64() / b.as_secs_f64());
    };
    let [spawn, tokio, direct, sandboxed, bwrap, cli] = small[..] else { return };
    ratio("sandboxed / bwrap", sandboxed, bwrap, "<= 0.5");
    ratio("`openbrain exec --sandbox` / bwrap", cli, bwrap, "none");
    let allowance = spawn.mul_f64(2.5) + Duration::from_millis(2);
    ratio("sandboxed / (2.5 x spawn + 2 ms)", sandboxed, allowance, "<= 1");
    ratio("direct / tokio", direct, tokio, "<= 1.1");
    ratio("sandboxed, 2 GiB resident / small", big[3], sandboxed, "<= 1.2");
    ratio("direct, 2 GiB resident / small", big[2], direct, "<= 1.2");
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Touched memory.
fn ballast(bytes: usize) -> Vec<u8> {
    vec![1; bytes]
}

fn measure(runtime: &Runtime, engine: &Engine, rounds: usize) -> Vec<Duration> {
    let mut contenders: Vec<Contender<'_>> = vec![
        ("spawn", Box::new(|| assert!(Command::new("true").status().unwrap().success()))),
        (
            "tokio",
            Box::new(|| {
                let mut command = tokio::process::Command::new("true");
                command.stdin(Stdio::null());
                let output = runtime.block_on(async { command.output().await });
                assert!(output.unwrap().status.success());
            }),
        ),
        (
            "direct",
            Box::new(|| {
                let output = runtime.block_on(engine.run(Exec::argv(["true"])));
                assert!(output.unwrap().success());
            }),
        ),
        (
            "sandboxed",
            Box::new(|| {
                let output = runtime
                    .block_on(engine.run(Exec::argv(["true"]).sandbox().allow_network(false)));
                assert!(output.unwrap().success());
            }),
        ),
        ("bwrap", Box::new(|| assert!(bwrap().status().unwrap().success()))),
        ("cli", Box::new(|| assert!(cli().status().unwrap().success()))),
    ];
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
    let medians: Vec<Duration> = times.iter_mut().map(|times| median(times)).collect();
    for ((name, _), (median, times)) in contenders.iter().zip(medians.iter().zip(&times)) {
        let (p10, p90) = (times[times.len() / 10], times[times.len() * 9 / 10]);
        println!("  {name:<12} median {median:>10.1?}   p10 {p10:>10.1?}   p90 {p90:>10.1?}");
    }
    medians
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The command, which `make bench` builds beside the benchmarks.
fn cli() -> Command {
    let bench = std::env::current_exe().unwrap();
    let mut command = Command::new(bench.ancestors().nth(2).unwrap().join("openbrain"));
    command.args(["exec", "--quiet", "--no-stdin", "--sandbox", "--no-network", "--", "true"]);
    command
}

/// bubblewrap with the same view: own namespaces, read-only system directories, the same parts of
/// `/etc`, own `/proc` and `/dev`, temporary directories.
fn bwrap() -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]);
    command.args(["--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--ro-bind", "/usr", "/usr"]);
    for name in ["bin", "sbin", "lib", "lib64"] {
        let path = format!("/{name}");
        match std::fs::read_link(&path) {
            Ok(target) => command.arg("--symlink").arg(target).arg(path),
            Err(_) => command.args(["--ro-bind-try", &path, &path]),
        };
    }
    for name in [
        "alternatives",
        "bash.bashrc",
        "ca-certificates",
        "ca-certificates.conf",
        "debian_version",
        "fonts",
        "inputrc",
        "java-17-openjdk",
        "ld.so.cache",
        "ld.so.conf",
        "ld.so.conf.d",
        "localtime",
        "magic",
        "maven",
        "mime.types",
        "os-release",
        "protocols",
        "python3",
        "python3.11",
        "services",
        "ssl",
        "terminfo",
        "timezone",
    ] {
        let path = format!("/etc/{name}");
        command.args(["--ro-bind-try", &path, &path]);
    }
    command.args(["--proc", "/proc", "--dev", "/dev", "--hostname", "sandbox"]);
    for path in ["/tmp", "/var/tmp", "/run", "/home/sandbox", "/workspace"] {
        command.args(["--tmpfs", path]);
    }
    command.args(["--chdir", "/workspace", "true"]);
    command
}
