//! What the report of changes costs in a large tree, beside `git status` on it, in one run:
//! `cargo bench -p openbrain --bench changes`.
//!
//! The tree has 100,000 files in 1,000 directories. In each round a command changes 10 or 1,000 of them in
//! a sandbox over an overlay, and the report is timed; `git status` is timed on a copy of the tree with the
//! same changes, its index fresh. The ratios are what counts.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use openbrain::{Engine, Exec, Mount, MountMode, NewSandbox, Sandbox, Settings};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How many directories there are, with so many files each.
const DIRECTORIES: usize = 1000;
const FILES: usize = 100;

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(20);
    let runtime = Runtime::new().unwrap();
    let engine = Engine::new(Settings::default());
    let place = TempDir::new().unwrap();
    let (large, small) = (place.path().join("large"), place.path().join("small"));
    make_tree(&large, DIRECTORIES);
    make_tree(&small, DIRECTORIES / 100);
    let mut medians = Vec::new();
    for (name, tree, changed) in [
        ("10 changed of 1,000", &small, 10),
        ("10 changed of 100,000", &large, 10),
        ("1,000 changed of 100,000", &large, 1000),
    ] {
        let sandbox = runtime.block_on(open(&engine, tree, changed));
        let report = || {
            let changes = runtime.block_on(sandbox.changes()).unwrap();
            assert_eq!(changes.entries.len(), changed);
        };
        medians.push(measure(&format!("report, {name}"), rounds, report));
    }
    for changed in [10, 1000] {
        let tree = place.path().join(format!("git-{changed}"));
        make_repository(&large, &tree, changed);
        let status = || {
            let status = git(&tree).args(["status", "--porcelain"]).output().unwrap();
            assert_eq!(status.stdout.iter().filter(|byte| **byte == b'\n').count(), changed);
        };
        medians.push(measure(&format!("git status, {changed} changed of 100,000"), rounds, status));
    }
    let ratio = |what: &str, a: usize, b: usize, goal: &str| {
        let ratio = medians[a].as_secs_f64() / medians[b].as_secs_f64();
        println!("  {what:<56} {ratio:>8.4}  (goal: {goal})");
    };
    println!("\nratios");
    ratio("10 changed: a tree of 100,000 / one of 1,000", 1, 0, "about 1");
    ratio("10 changed: report / git status", 1, 3, "< 1");
    ratio("1,000 changed: report / git status", 2, 4, "none");
    ratio("report of 1,000 / of 10", 2, 1, "none");
}

/// A sandbox in which so many files have changed.
async fn open(engine: &Engine, tree: &Path, changed: usize) -> Sandbox {
    let mount = Mount::new(tree, "/workspace", MountMode::Overlay);
    let new = NewSandbox::default().allow_network(false).mount_at(mount);
    let sandbox = engine.create(new).await.unwrap();
    let output = sandbox.run(Exec::new(script(tree, changed))).await.unwrap();
    assert!(output.success(), "{}", output.stderr_text());
    sandbox
}

/// Changes so many files, spread over all directories.
fn script(tree: &Path, changed: usize) -> String {
    let directories = fs::read_dir(tree).unwrap().count();
    let directories = if tree.join(".git").exists() { directories - 1 } else { directories };
    let each = changed.div_ceil(directories);
    let step = (directories * each / changed).max(1);
    format!(
        "n=0; while [ $n -lt {directories} ]; do f=0; while [ $f -lt {each} ]; do \
         echo changed >> $n/$f; f=$((f+1)); done; n=$((n+{step})); done"
    )
}

fn make_tree(tree: &Path, directories: usize) {
    for directory in 0..directories {
        let directory = tree.join(directory.to_string());
        fs::create_dir_all(&directory).unwrap();
        for file in 0..FILES {
            fs::write(directory.join(file.to_string()), format!("{file}\n").repeat(20)).unwrap();
        }
    }
}

/// A copy of a tree as a repository in which so many files have changed since its commit.
fn make_repository(from: &Path, tree: &Path, changed: usize) {
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    run(Command::new("cp").arg("-a").arg(from).arg(tree));
    run(git(tree).args(["init", "--quiet"]));
    run(git(tree).args(["add", "--all"]));
    run(git(tree).args([
        "-c",
        "user.name=b",
        "-c",
        "user.email=b@localhost",
        "commit",
        "--quiet",
        "-m",
        "b",
    ]));
    run(Command::new("sh").args(["-c", &script(tree, changed)]).current_dir(tree));
}

fn git(tree: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(tree);
    command
}

fn measure(name: &str, rounds: usize, mut run: impl FnMut()) -> Duration {
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds + 2 {
        let start = Instant::now();
        run();
        if round >= 2 {
            times.push(start.elapsed());
        }
    }
    times.sort();
    let [p10, median, p90] = [1, 5, 9].map(|tenth| times[times.len() * tenth / 10]);
    println!("  {name:<44} median {median:>10.1?}   p10 {p10:>10.1?}   p90 {p90:>10.1?}");
    median
}
