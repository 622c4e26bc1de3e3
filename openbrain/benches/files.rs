//! What it costs to copy files into an open sandbox and out of it, beside its peers, in one run:
//! `cargo bench -p openbrain --bench files`.
//!
//! A tree of 1,000 files of 4 KiB, and one file of 64 MiB. `cp` copies on the host; `docker cp` takes part
//! where `BENCH_CONTAINER` names a running container. The ratios are what counts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use openbrain::{Engine, Limits, NewSandbox, Sandbox, Settings};
use tempfile::TempDir;
use tokio::runtime::Runtime;

type Contender<'a> = (String, Box<dyn Fn(&Path) + 'a>);

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(20);
    let place = TempDir::new().unwrap();
    let runtime = Runtime::new().unwrap();
    let limits = Limits { disk: Some(1 << 30), ..Limits::default() };
    let new = NewSandbox::default().limits(limits);
    let sandbox = runtime.block_on(Engine::new(Settings::default()).create(new)).unwrap();
    let container = std::env::var("BENCH_CONTAINER").ok();
    for (what, source) in [("tree", tree(place.path())), ("file", file(place.path()))] {
        let medians =
            measure(&contenders(&runtime, &sandbox, container.as_deref(), what, &source), rounds);
        let ratio = |name: &str, a: usize, b: usize| {
            let (Some(a), Some(b)) = (medians.get(a), medians.get(b)) else { return };
            println!("  {name:<48} {:>6.2}", a.as_secs_f64() / b.as_secs_f64());
        };
        println!("\nratios, {what}");
        ratio("up / cp", 1, 0);
        ratio("down / cp", 2, 0);
        ratio("up / docker cp", 1, 3);
        ratio("down / docker cp", 2, 4);
        println!();
    }
}

/// What copies a source; what comes to this machine comes to a place of its own.
fn contenders<'a>(
    runtime: &'a Runtime,
    sandbox: &'a Sandbox,
    container: Option<&'a str>,
    what: &'a str,
    source: &'a Path,
) -> Vec<Contender<'a>> {
    let inside = format!("/tmp/{what}");
    let (up, down) = (inside.clone(), inside.clone());
    let mut all: Vec<Contender<'a>> = vec![
        (
            format!("cp of a {what}"),
            Box::new(move |to| run(Command::new("cp").arg("-r").arg(source).arg(to))),
        ),
        (
            format!("{what} up"),
            Box::new(move |_| {
                runtime.block_on(sandbox.files().upload(source, &up)).unwrap();
            }),
        ),
        (
            format!("{what} down"),
            Box::new(move |to| {
                runtime.block_on(sandbox.files().download(&down, to)).unwrap();
            }),
        ),
    ];
    if let Some(container) = container {
        // What is in a directory, so that one that is there is not copied into.
        let content = if source.is_dir() { "/." } else { "" };
        let there = format!("{container}:{inside}");
        let back = format!("{there}{content}");
        let from = format!("{}{content}", source.display());
        all.push((
            format!("{what} up by docker cp"),
            Box::new(move |_| {
                run(Command::new("docker").args(["cp", "-q"]).arg(&from).arg(&there))
            }),
        ));
        all.push((
            format!("{what} down by docker cp"),
            Box::new(move |to| run(Command::new("docker").args(["cp", "-q"]).arg(&back).arg(to))),
        ));
    }
    all
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success());
}

fn tree(place: &Path) -> PathBuf {
    let tree = place.join("tree");
    for index in 0..1000 {
        let directory = tree.join((index / 50).to_string());
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(index.to_string()), [index as u8; 4096]).unwrap();
    }
    tree
}

fn file(place: &Path) -> PathBuf {
    let file = place.join("file");
    fs::write(&file, vec![7; 64 << 20]).unwrap();
    file
}

fn measure(contenders: &[Contender<'_>], rounds: usize) -> Vec<Duration> {
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for _ in 0..=rounds {
        for ((_, copy), times) in contenders.iter().zip(&mut times) {
            let to = TempDir::new().unwrap();
            let start = Instant::now();
            copy(&to.path().join("copy"));
            times.push(start.elapsed());
        }
    }
    for ((name, _), times) in contenders.iter().zip(&mut times) {
        // The first one finds nothing in caches.
        times.remove(0);
        times.sort();
        println!("  {name:<28} median {:>10.1?}", times[times.len() / 2]);
    }
    times.iter().map(|times| times[times.len() / 2]).collect()
}
