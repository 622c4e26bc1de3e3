//! Many commands: at once, one after the other, and what is left of them.

use std::{
    collections::BTreeSet,
    fs,
    future::{Future, poll_fn},
    path::{Path, PathBuf},
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use openbrain::Status;
use rustix::process::Pid;
use tokio::task::JoinSet;

use crate::support::{Fixture, entries};

pub(crate) async fn a_hundred_at_once_are_all_right(f: &Fixture) {
    at_once(f, 100).await;
}

pub(crate) async fn twenty_at_once_are_all_right(f: &Fixture) {
    at_once(f, 20).await;
}

async fn at_once(f: &Fixture, count: i32) {
    let mut running = JoinSet::new();
    for n in 0..count {
        let script = format!("cat; echo err{n} >&2; exit {n}");
        let exec = f.shell(script).stdin_bytes(format!("in{n}"));
        let engine = f.engine.clone();
        running.spawn(async move { (n, engine.run(exec).await.unwrap()) });
    }
    let mut seen = BTreeSet::new();
    while let Some(result) = running.join_next().await {
        let (n, output) = result.unwrap();
        assert_eq!(output.status, Status::Exited(n));
        assert_eq!(output.stdout_text(), format!("in{n}"));
        assert_eq!(output.stderr_text(), format!("err{n}\n"));
        seen.insert(output.exec_id);
    }
    assert_eq!(seen.len(), count as usize);
}

pub(crate) async fn five_hundred_leave_nothing_behind(f: &Fixture) {
    leaves_nothing(f, async || {
        for n in 0..500 {
            assert_eq!(
                f.run(f.shell(format!("exit {}", n % 256))).await.status,
                Status::Exited(n % 256)
            );
        }
    })
    .await;
}

pub(crate) async fn refusals_leave_nothing_behind(f: &Fixture) {
    leaves_nothing(f, async || {
        for _ in 0..20 {
            f.refused(f.argv(["no-such-program"])).await;
            f.refused(f.argv(["true"]).workdir("/no/such/directory")).await;
            f.refused(f.argv(["true"]).stdin(openbrain::Stdin::File("/no/such/file".into()))).await;
        }
    })
    .await;
}

/// A start that is given up at once, and one that is given up while the helper works.
pub(crate) async fn abandoned_starts_leave_nothing_behind(f: &Fixture) {
    leaves_nothing(f, async || {
        for polls in [0, 1, 1, 1, 2, 2, 2].repeat(8) {
            let mut start = pin!(f.engine.spawn(f.argv(["sleep", "1000"])));
            for _ in 0..polls {
                let started = poll_fn(|cx| Poll::Ready(start.as_mut().poll(cx).is_ready())).await;
                if started {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

/// Time for what is ending to end.
const SETTLES: Duration = Duration::from_secs(5);

/// What this process has of the system.
#[derive(Debug)]
struct Census {
    children: Vec<Pid>,
    descriptors: Vec<PathBuf>,
    mounts: BTreeSet<String>,
}

/// Runs `body` in a process of its own and compares before and after.
async fn leaves_nothing(f: &Fixture, body: impl AsyncFnOnce()) {
    f.alone(async || {
        let groups = idle_groups();
        f.run(f.argv(["true"])).await;
        let before = settled(|now| now.children.is_empty()).await;
        body().await;
        settled(|now| {
            now.children.is_empty()
                && now.descriptors.len() <= before.descriptors.len()
                && now.mounts.is_subset(&before.mounts)
        })
        .await;
        // Somebody else's group may be empty for a moment, not for two.
        let left: BTreeSet<_> = idle_groups().difference(&groups).cloned().collect();
        f.run(f.argv(["sleep", "0.1"])).await;
        let left: Vec<_> = idle_groups().intersection(&left).cloned().collect();
        assert!(left.is_empty(), "{left:?}");
    })
    .await;
}

/// Counts until all is as it should be, or the time is over.
async fn settled(is_right: impl Fn(&Census) -> bool) -> Census {
    let end = Instant::now() + SETTLES;
    loop {
        let now = census();
        if is_right(&now) {
            return now;
        }
        assert!(Instant::now() < end, "left behind: {now:#?}");
        tokio::task::yield_now().await;
    }
}

fn census() -> Census {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let descriptors = entries("/proc/self/fd").into_iter();
    Census {
        children: children(),
        descriptors: descriptors.filter_map(|path| fs::read_link(path).ok()).collect(),
        mounts: mounts.lines().map(str::to_owned).collect(),
    }
}

/// The children of this process, those that have ended and were not reaped included.
fn children() -> Vec<Pid> {
    let lists = entries("/proc/self/task").into_iter();
    let lists = lists.map(|task| fs::read_to_string(task.join("children")).unwrap_or_default());
    let pids = lists.flat_map(|list| {
        list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()
    });
    pids.filter_map(Pid::from_raw).collect()
}

/// Control groups of sandboxes without any process.
fn idle_groups() -> BTreeSet<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let paths = own.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let roots = mounts.lines().filter(|line| line.starts_with("cgroup"));
    let roots: Vec<&str> = roots.filter_map(|line| line.split(' ').nth(1)).collect();
    let parents = paths.flat_map(|path| {
        roots.iter().map(move |root| Path::new(root).join(path.trim_start_matches('/')))
    });
    let is_ours = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("openbrain-"))
    };
    let is_idle =
        |path: &PathBuf| fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|p| p.is_empty());
    parents.flat_map(entries).filter(is_ours).filter(is_idle).collect()
}
