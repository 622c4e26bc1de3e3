//! Sandboxes that stay open: what one command can do to those after it, to its guard and to its end,
//! and what is left when somebody dies.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use libc::EPERM;
use openbrain::{ErrorKind, Exec, Limits, NewSandbox, Output, Process, Sandbox, Status};

use crate::{
    host::{self, Place, descendants, engine, eventually, probe, split},
    sys::{End, fork, forked},
};

/// The resource limit that numbers a command.
const RLIMIT_LOCKS: u32 = 10;

mod probes {
    use super::*;

    probe! {
        fn a_number_cannot_be_changed() {
            let mut own = [0u64; 2];
            assert_eq!(sys!(libc::SYS_prlimit64, 0, RLIMIT_LOCKS, 0, own.as_mut_ptr()), Ok(0));
            assert_eq!(own[0], own[1]);
            assert!((1..1000).contains(&own[0]), "{own:?}");
            let child = fork(|| { std::thread::sleep(Duration::from_secs(60)); 0 });
            for pid in [0, i64::from(std::process::id()), i64::from(child)] {
                for other in [own, [0, 0], [own[0] - 1; 2], [own[0] + 1; 2], [0, own[1]]] {
                    let changed = sys!(libc::SYS_prlimit64, pid, RLIMIT_LOCKS, other.as_ptr(), 0);
                    assert_eq!(changed, Err(EPERM));
                }
            }
            assert_eq!(sys!(libc::SYS_setrlimit, RLIMIT_LOCKS, own.as_ptr()), Err(EPERM));
            assert_eq!(sys!(libc::SYS_kill, child, libc::SIGKILL), Ok(0));
            let inherited = || {
                let mut found = [0u64; 2];
                let _ = sys!(libc::SYS_prlimit64, 0, RLIMIT_LOCKS, 0, found.as_mut_ptr());
                i32::from(found != own)
            };
            assert_eq!(forked(|| { let _ = sys!(libc::SYS_setsid); inherited() }), End::Exit(0));
            // Other limits are the command's to lower.
            let files = [64u64; 2];
            assert_eq!(sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, files.as_ptr(), 0), Ok(0));
        }
    }

    probe! {
        /// Sends signals to everything that appears; what it hits is its own sandbox.
        fn shoots_at_everything() {
            println!("\nready");
            let own = i64::from(std::process::id());
            let end = Instant::now() + Duration::from_secs(30);
            while Instant::now() < end {
                for pid in (2..own + 400).filter(|pid| *pid != own) {
                    for signal in [libc::SIGSTOP, libc::SIGTERM] {
                        let _ = sys!(libc::SYS_kill, pid, signal);
                    }
                }
            }
        }
    }

    probe! {
        /// Until its `execve`, a command shares the memory of process 1.
        fn lies_in_wait_for_commands() {
            println!("\nready");
            let end = Instant::now() + Duration::from_secs(4);
            let (mut looks, mut seen) = (0u64, 0u64);
            while Instant::now() < end {
                for pid in fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
                    let Ok(exe) = fs::read_link(pid.join("exe")) else { continue };
                    assert!(!exe.to_string_lossy().contains("helper"), "{exe:?} is open");
                    looks += 1;
                    seen += u64::from(exe.ends_with("sleep"));
                }
            }
            assert!(looks > 100 && seen > 0, "{looks} looks, {seen} commands");
        }
    }
}

fn block_on<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = runtime.block_on(body);
    drop(runtime);
    assert!(openbrain::settle(Duration::from_secs(5)));
    result
}

async fn open(new: NewSandbox) -> Sandbox {
    engine().create(new).await.unwrap()
}

async fn shell(sandbox: &Sandbox, script: &str) -> Output {
    let output = sandbox.run(Exec::new(script)).await.unwrap();
    assert!(output.success(), "{script}: {}", output.stderr_text());
    output
}

/// A sandbox in which probes can run, and a probe that has said that it runs.
async fn infested(name: &str) -> (Sandbox, Process) {
    let (new, exec) = split(probe(name));
    let sandbox = open(new).await;
    let mut process = sandbox.spawn(exec).await.unwrap();
    let mut said = String::new();
    while !said.contains("ready") {
        match process.next_event().await.unwrap() {
            Some(openbrain::Event::Stdout(bytes)) => said += &String::from_utf8_lossy(&bytes),
            other => panic!("{said}, then {other:?}"),
        }
    }
    (sandbox, process)
}

#[test]
fn a_number_cannot_be_changed() {
    host::passes_by(host::run_opened, probe("session::probes::a_number_cannot_be_changed"));
}

#[test]
fn a_command_is_closed_until_it_runs() {
    block_on(async {
        let (sandbox, watcher) = infested("session::probes::lies_in_wait_for_commands").await;
        let watched = tokio::spawn(watcher.wait());
        while !watched.is_finished() {
            sandbox.run(Exec::argv(["sleep", "0.01"])).await.unwrap();
        }
        let output = watched.await.unwrap().unwrap();
        assert!(output.success(), "{}", output.stdout_text());
    });
}

/// Process 1 waits for a command until its `execve`; a command stopped before that holds it up. Neither
/// a deadline, nor the owner's kill, nor the end of the sandbox's time waits for it.
#[test]
fn who_shoots_at_everything_ends_with_the_sandbox() {
    block_on(async {
        let (sandbox, process) = infested("session::probes::shoots_at_everything").await;
        for _ in 0..20 {
            // Whatever becomes of a command under fire, its start is the longest that is waited.
            let exec = Exec::argv(["true"]).timeout(Duration::from_secs(1));
            let run = sandbox.run(exec);
            let _ = tokio::time::timeout(Duration::from_millis(500), run).await;
        }
        let started = Instant::now();
        sandbox.kill().await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        let error = process.wait().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SandboxLost);
    });
}

/// The deadline of a command reaches what it has forked however fast, and nobody else.
#[test]
fn a_fork_bomb_dies_at_the_deadline_of_its_command() {
    block_on(async {
        let limits = Limits { pids: Some(100), ..Limits::default() };
        let sandbox = open(NewSandbox::default().limits(limits)).await;
        shell(&sandbox, "sleep 1000 >/dev/null 2>&1 & echo $! >/tmp/pid").await;
        let bomb = "bomb() { bomb & bomb & setsid sh -c 'while :; do sleep 1000; done' & }; bomb; \
                    while :; do :; done";
        let exec = Exec::new(bomb).timeout(Duration::from_millis(700));
        let output = sandbox.run(exec).await.unwrap();
        assert_eq!(output.status, Status::TimedOut);
        assert!(output.duration < Duration::from_secs(2), "{:?}", output.duration);
        let left = shell(&sandbox, "kill -0 $(cat /tmp/pid); ls /proc | grep -c '^[0-9]'").await;
        // Process 1, the sleeper, and four of this very script.
        assert!(left.stdout_text().trim().parse::<u32>().unwrap() <= 6, "{}", left.stdout_text());
    });
}

/// All of them together cannot have more than the sandbox.
#[test]
fn limits_hold_for_all_commands_together() {
    block_on(async {
        let limits = Limits { disk: Some(8 << 20), pids: Some(20), ..Limits::default() };
        let sandbox = open(NewSandbox::default().limits(limits)).await;
        let fill = "dd if=/dev/zero of=/tmp/$N bs=1M count=5 2>/dev/null";
        assert!(sandbox.run(Exec::new(fill).env("N", "1")).await.unwrap().success());
        assert!(!sandbox.run(Exec::new(fill).env("N", "2")).await.unwrap().success());
        let many = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 >/dev/null 2>&1 & done";
        assert!(sandbox.run(Exec::new(many)).await.unwrap().success());
        let output = sandbox.run(Exec::new(many)).await.unwrap();
        assert!(!output.success() || output.stderr_text().contains("fork"), "{output:?}");
    });
}

/// Memory beyond the limit costs a command its life, and not the sandbox.
#[test]
fn a_memory_bomb_leaves_the_sandbox() {
    block_on(async {
        let limits = Limits { memory: Some(64 << 20), ..Limits::default() };
        let sandbox = open(NewSandbox::default().limits(limits)).await;
        let bomb = "x=$(head -c 400000000 /dev/zero | tr '\\0' x); echo survived";
        let output = sandbox.run(Exec::new(bomb)).await.unwrap();
        assert!(!output.stdout_text().contains("survived"));
        let after = shell(&sandbox, "echo alive").await;
        assert_eq!(after.stdout_text(), "alive\n");
        assert!(!after.resources.oom_killed, "the next command is not blamed");
    });
}

/// The groups of this test's sandboxes: nobody else's are made while their owner is counted.
fn groups_of(monitor: u32) -> Vec<PathBuf> {
    let pids = descendants(monitor).into_iter().map(|(pid, _)| pid);
    let text = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let named: Vec<String> =
        pids.flat_map(|pid| text(pid).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let paths = named.iter().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let hierarchy = if controllers.is_empty() { "" } else { controllers };
        path.contains("openbrain-")
            .then(|| Path::new("/sys/fs/cgroup").join(hierarchy).join(path.trim_start_matches('/')))
    });
    paths.collect()
}

/// The monitor of the only sandbox of this process.
fn monitor() -> u32 {
    let own = std::process::id();
    let children = descendants(own).into_iter().map(|(pid, _)| pid);
    let parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok())
    };
    let monitors: Vec<_> = children.filter(|pid| parent(pid) == Some(own)).collect();
    let [monitor] = monitors[..] else { panic!("{monitors:?}") };
    monitor
}

stage! {
    fn a_sandbox_without_its_monitor() {
        block_on(async {
            let sandbox = open(NewSandbox::default()).await;
            shell(&sandbox, "sleep 1000 >/dev/null 2>&1 &").await;
            let running = sandbox.spawn(Exec::argv(["sleep", "1000"])).await.unwrap();
            let monitor = monitor();
            let (inside, groups) = (descendants(monitor), groups_of(monitor));
            assert!(inside.len() >= 3, "{inside:?}");
            // SAFETY: takes no memory.
            unsafe { libc::kill(monitor as i32, libc::SIGKILL) };
            let error = running.wait().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
            let error = sandbox.run(Exec::argv(["true"])).await.unwrap_err();
            assert!(error.to_string().contains("from outside"), "{error}");
            for (pid, _) in inside {
                eventually("a process is left", || !Path::new(&format!("/proc/{pid}")).exists());
            }
            drop(sandbox);
            for group in groups {
                eventually("a group is left", || {
                    // The next sandbox removes what the monitor would have.
                    let _ = engine().run_blocking(Exec::argv(["true"]).sandbox());
                    !group.exists()
                });
            }
        });
    }
}

#[test]
fn a_sandbox_without_its_monitor_leaves_nothing() {
    host::stage("session::a_sandbox_without_its_monitor", |_| ());
}

stage! {
    fn a_sandbox_without_process_one() {
        block_on(async {
            let sandbox = open(NewSandbox::default()).await;
            let running = sandbox.spawn(Exec::argv(["sleep", "1000"])).await.unwrap();
            let monitor = monitor();
            let groups = groups_of(monitor);
            let first = descendants(monitor).into_iter().map(|(pid, _)| pid).min().unwrap();
            // SAFETY: takes no memory. As root, it is another user's.
            unsafe { libc::kill(first as i32, libc::SIGKILL) };
            assert_eq!(running.wait().await.unwrap_err().kind(), ErrorKind::SandboxLost);
            assert!(sandbox.run(Exec::argv(["true"])).await.is_err());
            // Its owner need not look for that.
            for group in groups {
                eventually("a group is left", || !group.exists());
            }
            eventually("the monitor stays", || descendants(monitor).is_empty());
        });
    }
}

#[test]
fn a_sandbox_without_process_one_leaves_nothing() {
    host::stage("session::a_sandbox_without_process_one", |_| ());
}

/// What a mount holds is followed by the sandbox's own view, in every command.
#[test]
fn links_that_a_command_leaves_lead_nowhere() {
    let place = Place::new();
    block_on(async {
        let sandbox = open(NewSandbox::default().mount(place.work())).await;
        let outside = place.outside();
        let links = format!(
            "ln -s {0} there; ln -s /proc/1/root root; ln -s {0}/secret secret; ln -s /proc/1/cwd cwd",
            outside.display()
        );
        shell(&sandbox, &links).await;
        for path in ["there/secret", "secret", "root/etc/shadow", "cwd/etc/shadow"] {
            let output = sandbox.run(Exec::argv(["cat", path])).await.unwrap();
            assert!(!output.success() && output.stdout.bytes.is_empty(), "{path}");
        }
    });
    place.assert_outside_unchanged();
}

/// `make soak`: long enough for what is lost now and then to add up.
#[test]
#[ignore = "takes minutes"]
fn soak_of_open_sandboxes() {
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    let resident = || {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    block_on(async {
        let sandbox = open(NewSandbox::default().timeout(Duration::from_secs(3600))).await;
        for _ in 0..200 {
            shell(&sandbox, "true").await;
        }
        let (fds, before) = (count(), resident());
        for n in 0..2000u64 {
            let exec = Exec::new(if n % 7 == 0 { "sleep 1000 & sleep 1000" } else { "true" });
            let process = sandbox.spawn(exec).await.unwrap();
            if n % 7 == 0 {
                tokio::time::sleep(Duration::from_micros(n * 13 % 5000)).await;
                process.kill();
            }
            process.wait().await.unwrap();
        }
        let left = shell(&sandbox, "ls /proc | grep -c '^[0-9]'").await.stdout_text();
        assert!(left.trim().parse::<u32>().unwrap() <= 5, "{left}");
        assert_eq!(count(), fds);
        drop(sandbox);
        for n in 0..500u64 {
            let sandbox = open(NewSandbox::default()).await;
            let process = sandbox.spawn(Exec::argv(["sleep", "1000"])).await.unwrap();
            match n % 3 {
                0 => sandbox.kill().await.unwrap(),
                1 => drop(sandbox),
                _ => process.kill(),
            }
            let _ = process.wait().await;
        }
        assert!(openbrain::settle(Duration::from_secs(10)));
        eventually("a monitor is left", || descendants(std::process::id()).is_empty());
        assert!(resident() < before + (16 << 20), "{} bytes more", resident() - before);
    });
}
