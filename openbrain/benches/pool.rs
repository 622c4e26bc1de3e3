//! What the first command of a sandbox costs that was ready before it, beside one that is made for it
//! and beside a plain spawn, in one run: `cargo bench -p openbrain --bench pool`.
//!
//! Every round measures each contender once, in turn, so that a busy machine slows all alike; the
//! printed figures are medians, and the ratios are what counts. The pool is filled between the
//! measurements: how fast it fills is the figure of a sandbox that is made.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use openbrain::{Engine, Exec, NewSandbox, Settings, Start};
use tokio::runtime::Runtime;

/// Lets what the last contender has left end, so that no other one pays for it.
const REST: Duration = Duration::from_millis(5);

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(300);
    let runtime = Runtime::new().unwrap();
    let mut settings = Settings::default();
    let cold = Engine::new(settings.clone());
    settings.security.sandbox.pool = 2;
    let warm = Engine::new(settings);
    let exec = |network| Exec::argv(["true"]).sandbox().allow_network(network);
    let run = |engine: &Engine, network, start| {
        let output = runtime.block_on(engine.run(exec(network))).unwrap();
        assert!(output.success() && output.start == Some(start), "{output:?}");
    };
    let open = NewSandbox::default().allow_network(false);
    let open = runtime.block_on(cold.create(open)).unwrap();
    let inside = || {
        let output = runtime.block_on(open.run(Exec::argv(["true"]))).unwrap();
        assert!(output.success(), "{output:?}");
    };
    let contenders: [(&str, &dyn Fn()); 6] = [
        ("plain spawn", &|| assert!(Command::new("true").status().unwrap().success())),
        ("ready sandbox", &|| run(&warm, false, Start::Warm)),
        ("ready sandbox, network", &|| run(&warm, true, Start::Warm)),
        ("new sandbox", &|| run(&cold, false, Start::Cold)),
        ("new sandbox, network", &|| run(&cold, true, Start::Cold)),
        ("open sandbox", &inside),
    ];
    let mut times = [(); 6].map(|()| Vec::with_capacity(rounds));
    for round in 0..rounds + 5 {
        for ((_, run), times) in contenders.iter().zip(&mut times) {
            for network in [false, true] {
                runtime.block_on(warm.warm(exec(network))).unwrap();
            }
            std::thread::sleep(REST);
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
        println!("  {name:<24} median {median:>10.1?}   p10 {p10:>10.1?}   p90 {p90:>10.1?}");
    }
    let [spawn, ready, ready_network, new, new_network, open] =
        times.map(|times| times[times.len() / 2]);
    println!("\nratios");
    let ratio = |what: &str, a: Duration, b: Duration, goal: &str| {
        println!("  {what:<44} {:>6.2}  (goal: {goal})", a.as_secs_f64() / b.as_secs_f64());
    };
    let allowance = spawn.mul_f64(1.5) + Duration::from_millis(1);
    ratio("ready / (1.5 x plain spawn + 1 ms)", ready, allowance, "<= 1");
    ratio("ready, network / (1.5 x plain spawn + 1 ms)", ready_network, allowance, "<= 1");
    ratio("ready / plain spawn", ready, spawn, "none");
    ratio("new / ready", new, ready, "none");
    ratio("ready / exec in an open sandbox", ready, open, "none");
    ratio("new, network / ready, network", new_network, ready_network, "none");
}
