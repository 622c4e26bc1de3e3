//! Many sandboxes at once: `cargo bench -p openbrain --bench scale`.

use std::time::{Duration, Instant};

use openbrain::{Engine, Exec, Settings};
use tokio::task::JoinSet;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let engine = Engine::new(Settings::default());
    runtime.block_on(run(&engine, 1, 20));
    for count in [1, 10, 100, 1000] {
        let (wall, mut times) = runtime.block_on(run(&engine, count, (1000 / count).max(1)));
        times.sort();
        let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
        println!(
            "  {count:>4} at once: {:>7.0} sandboxes/s   latency p50 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}",
            times.len() as f64 / wall.as_secs_f64(),
            at(50),
            at(99),
            at(100),
        );
    }
}

/// Runs `count` sandboxes at a time, `rounds` times.
async fn run(engine: &Engine, count: usize, rounds: usize) -> (Duration, Vec<Duration>) {
    let start = Instant::now();
    let mut times = Vec::new();
    for _ in 0..rounds {
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let engine = engine.clone();
            tasks.spawn(async move {
                let start = Instant::now();
                let output =
                    engine.run(Exec::argv(["true"]).sandbox().allow_network(false)).await.unwrap();
                assert!(output.success(), "{output:?}");
                start.elapsed()
            });
        }
        times.extend(tasks.join_all().await);
    }
    (start.elapsed(), times)
}
