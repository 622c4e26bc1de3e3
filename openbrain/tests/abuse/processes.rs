//! Processes: those of the host, process 1, and what is left when a sandbox ends.

use std::{
    fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use libc::{EACCES, ENOENT, EPERM, ESRCH};
use openbrain::{Event, Exec, Limits, Status};

use crate::{
    host::{self, Place, STAGE, Sentinel, descendants, engine, eventually, passes, probe, run},
    sys::{End, c, fork, forked, open},
};

const PID: &str = "OPENBRAIN_TEST_PID";

mod probes {
    use super::*;

    probe! {
        fn processes_of_the_host_are_not_there() {
            let host: i64 = std::env::var(PID).unwrap().parse().unwrap();
            for entry in fs::read_dir("/proc").unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if let Ok(pid) = name.parse::<i64>() {
                    assert!(pid < 20, "process {pid} is in sight");
                }
            }
            assert_eq!(open(&format!("/proc/{host}"), libc::O_PATH), Err(ENOENT));
            for pid in [host, host + 1, host - 1, 4_000_000] {
                for signal in [0, libc::SIGTERM, libc::SIGKILL, libc::SIGSTOP] {
                    assert_eq!(sys!(libc::SYS_kill, pid, signal), Err(ESRCH));
                    assert_eq!(sys!(libc::SYS_kill, -pid, signal), Err(ESRCH));
                    assert_eq!(sys!(libc::SYS_tgkill, pid, pid, signal), Err(ESRCH));
                }
                assert_eq!(sys!(libc::SYS_pidfd_open, pid, 0), Err(ESRCH));
                assert_eq!(sys!(libc::SYS_sched_setaffinity, pid, 8, [1u64].as_ptr()), Err(ESRCH));
                assert_eq!(sys!(libc::SYS_setpriority, libc::PRIO_PROCESS, pid, 19), Err(ESRCH));
                assert_eq!(sys!(libc::SYS_prlimit64, pid, libc::RLIMIT_NOFILE, 0, [0u64; 2].as_mut_ptr()), Err(ESRCH));
                assert_eq!(sys!(libc::SYS_getpgid, pid), Err(ESRCH));
            }
            assert_eq!(sys!(libc::SYS_kill, std::process::id(), 0), Ok(0));
        }
    }

    probe! {
        fn killing_everything_kills_the_sandbox_only() {
            // By identity: `PRIO_USER` reaches processes of one user in all of the machine's namespaces
            // that this one sees.
            let _ = sys!(libc::SYS_setpriority, libc::PRIO_USER, 0, 19);
            let child = fork(|| {
                std::thread::sleep(Duration::from_secs(60));
                0
            });
            assert_eq!(sys!(libc::SYS_kill, -1, libc::SIGKILL), Ok(0));
            assert_eq!(crate::sys::wait_for(child), End::Signal(libc::SIGKILL));
            assert!(Path::new("/proc/1/stat").exists());
        }
    }

    probe! {
        fn process_one_is_out_of_reach() {
            for signal in 1..=64 {
                let sent = sys!(libc::SYS_kill, 1, signal);
                assert!(sent == Err(EPERM) || sent == Ok(0), "signal {signal}: {sent:?}");
                let _ = sys!(libc::SYS_tgkill, 1, 1, signal);
            }
            let pidfd = sys!(libc::SYS_pidfd_open, 1, 0).unwrap();
            let _ = sys!(libc::SYS_pidfd_send_signal, pidfd, libc::SIGKILL, 0, 0);
            assert_eq!(sys!(libc::SYS_pidfd_getfd, pidfd, 0, 0), Err(EPERM));
            let (local, remote) = ([0usize; 2], [0x40_0000usize, 8]);
            for pid in [1, i64::from(std::process::id())] {
                assert_eq!(sys!(libc::SYS_ptrace, libc::PTRACE_ATTACH, pid, 0, 0), Err(EPERM));
                assert_eq!(sys!(libc::SYS_ptrace, libc::PTRACE_SEIZE, pid, 0, 0), Err(EPERM));
                assert_eq!(sys!(libc::SYS_process_vm_readv, pid, local.as_ptr(), 1, remote.as_ptr(), 1, 0), Err(EPERM));
                assert_eq!(sys!(libc::SYS_process_vm_writev, pid, local.as_ptr(), 1, remote.as_ptr(), 1, 0), Err(EPERM));
                assert_eq!(sys!(libc::SYS_kcmp, pid, 1, 0, 0, 0), Err(EPERM));
            }
            assert_eq!(sys!(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0), Err(EPERM));
            let limit = [0u64; 2];
            assert_eq!(sys!(libc::SYS_prlimit64, 1, libc::RLIMIT_NOFILE, limit.as_ptr(), 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_prlimit64, 1 | 1i64 << 32, libc::RLIMIT_NOFILE, limit.as_ptr(), 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_sched_setaffinity, 1, 8, [1u64].as_ptr()), Err(EPERM));
            assert_eq!(sys!(libc::SYS_sched_setscheduler, 1, libc::SCHED_IDLE, [0i32].as_ptr()), Err(EPERM));
            assert_eq!(sys!(libc::SYS_sched_setparam, 1, [0i32].as_ptr()), Err(EPERM));
            let attributes = [48u32, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(sys!(libc::SYS_sched_setattr, 1, attributes.as_ptr(), 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_setpriority, libc::PRIO_PROCESS, 1, 19), Err(EPERM));
            assert_eq!(sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, [0u64; 2].as_mut_ptr()), Ok(0));
            assert_eq!(sys!(libc::SYS_get_robust_list, 1, [0u64; 1].as_mut_ptr(), [0u64; 1].as_mut_ptr()), Err(EPERM));
            for file in ["oom_score_adj", "comm", "uid_map", "coredump_filter", "autogroup", "timerslack_ns", "clear_refs", "mem"] {
                let path = format!("/proc/1/{file}");
                match open(&path, libc::O_WRONLY) {
                    Err(errno) => assert!([EACCES, EPERM, ENOENT].contains(&errno), "{path}: errno {errno}"),
                    Ok(fd) => {
                        let written = sys!(libc::SYS_write, fd, c("1").as_ptr(), 1);
                        assert!(written.is_err(), "{path} takes what is written");
                    }
                }
            }
            // It is alive and reaps.
            let orphan = forked(|| { fork(|| 0); 0 });
            assert_eq!(orphan, End::Exit(0));
            assert_eq!(sys!(libc::SYS_getppid), Ok(1));
        }
    }

    probe! {
        fn leaves_a_daemon() {
            // Forked twice, in a session of its own, deaf, with its own output closed, or kept open.
            let keep = std::env::var_os("OPENBRAIN_TEST_KEEP").is_some();
            forked(|| {
                fork(|| {
                    let _ = sys!(libc::SYS_setsid);
                    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
                        // SAFETY: ignores a signal.
                        unsafe { libc::signal(signal, libc::SIG_IGN) };
                    }
                    if !keep {
                        let _ = sys!(libc::SYS_close_range, 0, u32::MAX, 0);
                    }
                    loop {
                        std::thread::sleep(Duration::from_millis(50));
                        let _ = fs::write("/workspace/alive", format!("{:?}", Instant::now()));
                    }
                });
                0
            });
            while !Path::new("/workspace/alive").exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            if std::env::var_os("OPENBRAIN_TEST_STAY").is_some() {
                // SAFETY: ignores a signal.
                unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
                fork(|| { let _ = sys!(libc::SYS_kill, std::process::id(), libc::SIGSTOP); 0 });
                // A parent that sleeps in `vfork` takes no signal but the last.
                fork(|| {
                    let child = sys!(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0);
                    std::thread::sleep(Duration::from_secs(if child == Ok(0) { 600 } else { 0 }));
                    0
                });
                loop {
                    std::thread::sleep(Duration::from_secs(60));
                }
            }
        }
    }

    probe! {
        fn zombies_are_reaped() {
            for _ in 0..2000 {
                forked(|| { fork(|| 0); 0 });
            }
            let end = Instant::now() + Duration::from_secs(5);
            loop {
                let count = fs::read_dir("/proc").unwrap().filter(|entry| {
                    entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit())
                }).count();
                if count <= 3 {
                    break;
                }
                assert!(Instant::now() < end, "{count} processes are left");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    probe! {
        fn floods() {
            let line = [b'x'; 64 * 1024];
            let total: usize = std::env::var("OPENBRAIN_TEST_BYTES").unwrap().parse().unwrap();
            for _ in 0..total / line.len() {
                std::io::stdout().write_all(&line).unwrap();
                std::io::stderr().write_all(&line).unwrap();
            }
        }
    }

    probe! {
        fn sleeps() {
            println!("\nready");
            std::thread::sleep(Duration::from_secs(600));
        }
    }

    probe! {
        fn nothing() {}
    }
}

#[test]
fn processes_of_the_host_are_out_of_reach() {
    let mut sentinel = Sentinel::start();
    let pid = sentinel.pid().to_string();
    passes(probe("processes::probes::processes_of_the_host_are_not_there").env(PID, pid));
    sentinel.assert_alive();
}

#[test]
fn killing_everything_kills_the_sandbox_only() {
    let mut sentinel = Sentinel::start();
    let nice = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().to_owned()
    };
    let before = nice(sentinel.pid());
    passes(probe("processes::probes::killing_everything_kills_the_sandbox_only"));
    sentinel.assert_alive();
    assert_eq!(nice(sentinel.pid()), before);
}

#[test]
fn process_one_is_out_of_reach() {
    passes(probe("processes::probes::process_one_is_out_of_reach"));
}

/// A static program of a few instructions, so that it runs as soon as it can: it tries to open one
/// file of process 1 for a while, and exits with 42 when that succeeds.
#[cfg(target_arch = "x86_64")]
fn early_bird(path: &str, flags: u32) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut code = Vec::new();
    code.extend([0x41, 0xbc]); // mov r12d, rounds
    code.extend(3000u32.to_le_bytes());
    let top = code.len();
    code.extend([0xb8, 2, 0, 0, 0]); // mov eax, SYS_open
    code.extend([0x48, 0x8d, 0x3d, 0, 0, 0, 0]); // lea rdi, [rip + path]
    let after_lea = code.len();
    code.push(0xbe); // mov esi, flags
    code.extend(flags.to_le_bytes());
    code.extend([0x31, 0xd2, 0x0f, 0x05]); // xor edx, edx; syscall
    code.extend([0x85, 0xc0, 0x79, 14]); // test eax, eax; jns found
    code.extend([0x41, 0xff, 0xcc, 0x75]); // dec r12d; jnz top
    code.push((top as i64 - (code.len() as i64 + 1)) as u8);
    code.extend([0x31, 0xff, 0xb8, 231, 0, 0, 0, 0x0f, 0x05]); // exit_group(0)
    let found = code.len();
    code.extend([0xbf, 42, 0, 0, 0, 0xb8, 231, 0, 0, 0, 0x0f, 0x05]); // exit_group(42)
    let jump = top + 5 + 7 + 5 + 4 + 4;
    code[jump - 1] = (found - jump) as u8;
    let text = code.len();
    code[after_lea - 4..after_lea].copy_from_slice(&((text - after_lea) as u32).to_le_bytes());
    code.extend(path.as_bytes());
    code.push(0);
    let size = HEADERS + code.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [BASE + HEADERS, 64, 0] {
        file.extend(u64::to_le_bytes(word));
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(u64::to_le_bytes(word));
    }
    file.extend(code);
    file
}

/// The first instructions of a command find process 1 closed: it has descriptors of the host's, and
/// memory that is not the command's business.
#[cfg(target_arch = "x86_64")]
#[test]
fn process_one_is_closed_from_the_first_instruction() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    // One that may be opened shows that the program works.
    let targets = [
        ("/proc/1/stat", libc::O_RDONLY, 42),
        ("/proc/1/mem", libc::O_RDWR, 0),
        ("/proc/1/fd", libc::O_RDONLY, 0),
        ("/proc/1/environ", libc::O_RDONLY, 0),
        ("/proc/1/fd/3/.", libc::O_RDONLY, 0),
    ];
    for (i, (path, flags, _)) in targets.iter().enumerate() {
        let file = place.work().join(format!("early-{i}"));
        fs::write(&file, early_bird(path, *flags as u32)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mount = openbrain::Mount::new(place.work(), "/workspace", openbrain::MountMode::Ro);
    for round in 0..40 {
        for (i, (path, _, expected)) in targets.iter().enumerate() {
            let exec = Exec::argv([format!("/workspace/early-{i}")]).sandbox();
            let output = run(exec.mount_at(mount.clone()));
            assert_eq!(output.status, Status::Exited(*expected), "{path}, round {round}");
        }
    }
}

#[test]
fn a_daemon_dies_with_its_command() {
    for keep in [false, true] {
        let place = Place::new();
        let mut exec = probe("processes::probes::leaves_a_daemon").mount(place.work());
        if keep {
            exec = exec.env("OPENBRAIN_TEST_KEEP", "1");
        }
        let started = Instant::now();
        passes(exec);
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_is_still(&place);
    }
}

#[test]
fn a_daemon_dies_at_the_deadline() {
    let place = Place::new();
    let exec = probe("processes::probes::leaves_a_daemon").mount(place.work());
    let exec = exec.env("OPENBRAIN_TEST_KEEP", "1").env("OPENBRAIN_TEST_STAY", "1");
    let timeout = Duration::from_secs(2);
    let started = Instant::now();
    let output = run(exec.timeout(timeout));
    let late = started.elapsed().saturating_sub(timeout);
    assert_eq!(output.status, Status::TimedOut);
    // TERM, the grace period, KILL, and one second.
    assert!(late < Duration::from_secs(7), "late by {late:?}");
    assert_is_still(&place);
}

/// Nobody writes to the file of the daemon any more.
fn assert_is_still(place: &Place) {
    let file = place.work().join("alive");
    let before = fs::read(&file).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(fs::read(&file).unwrap(), before, "the daemon lives");
}

#[test]
fn zombies_are_reaped() {
    let limits = Limits { pids: Some(64), ..Limits::default() };
    passes(probe("processes::probes::zombies_are_reaped").limits(limits));
}

#[test]
fn a_flood_of_output_is_cut_and_counted() {
    const BYTES: u64 = 64 << 20;
    let limits = Limits { output: Some(64 << 10), ..Limits::default() };
    let before = resident();
    let exec = probe("processes::probes::floods").env("OPENBRAIN_TEST_BYTES", BYTES.to_string());
    let output = run(exec.limits(limits));
    assert!(output.success(), "{:?}", output.status);
    for stream in [&output.stdout, &output.stderr] {
        assert!(stream.truncated && stream.total >= BYTES);
        assert!(stream.bytes.len() < 70 << 10, "{}", stream.bytes.len());
    }
    assert!(output.stdout_text().contains("1 passed"), "the end is kept");
    assert!(resident() < before + (32 << 20), "the flood is in memory");
}

/// A flood that nobody reads must stop nothing: neither the deadline nor a drop.
#[test]
fn a_flood_without_a_reader_ends_at_the_deadline() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let exec = probe("processes::probes::floods")
            .env("OPENBRAIN_TEST_BYTES", (1u64 << 40).to_string());
        let mut process = engine().spawn(exec.timeout(Duration::from_millis(500))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let started = Instant::now();
        while let Some(event) = process.next_event().await.unwrap() {
            if let Event::Ended(output) = event {
                assert_eq!(output.status, Status::TimedOut);
            }
        }
        assert!(started.elapsed() < Duration::from_secs(5));
    });
}

fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn input_that_nobody_reads_stops_no_deadline() {
    let timeout = Duration::from_millis(700);
    for stdin in [openbrain::Stdin::Bytes(vec![b'x'; 16 << 20]), openbrain::Stdin::Pipe] {
        let started = Instant::now();
        let output = run(probe("processes::probes::sleeps").stdin(stdin).timeout(timeout));
        assert_eq!(output.status, Status::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn dropping_a_process_kills_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let place = Place::new();
    let exec = probe("processes::probes::leaves_a_daemon").mount(place.work());
    let exec = exec.env("OPENBRAIN_TEST_KEEP", "1").env("OPENBRAIN_TEST_STAY", "1");
    runtime.block_on(async {
        let process = engine().spawn(exec).await.unwrap();
        while !place.work().join("alive").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(process);
    });
    drop(runtime);
    std::thread::sleep(Duration::from_millis(500));
    assert_is_still(&place);
}

/// Runs a sandbox for ever; the test that started this stage kills or stops it.
fn hold(thread_of_its_own: bool) {
    let place = std::env::var("OPENBRAIN_TEST_PLACE").unwrap();
    let exec = probe("processes::probes::leaves_a_daemon").mount(place);
    let exec = exec.env("OPENBRAIN_TEST_KEEP", "1").env("OPENBRAIN_TEST_STAY", "1");
    let exec = exec.timeout(Duration::from_secs(600));
    if !thread_of_its_own {
        let _ = engine().run_blocking(exec);
        return;
    }
    // The thread that started the sandbox ends; the sandbox belongs to the process.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let handle = runtime.handle().clone();
    let starter = std::thread::spawn(move || handle.block_on(engine().spawn(exec)).unwrap());
    let process = starter.join().unwrap();
    std::thread::sleep(Duration::from_secs(600));
    drop(process);
}

mod stages {
    use super::*;

    stage! {
        fn holds_a_sandbox() {
            hold(false);
        }
    }

    stage! {
        fn holds_a_sandbox_of_a_thread_that_is_gone() {
            hold(true);
        }
    }

    stage! {
        fn runs_in_sequence() {
            let runs: usize = std::env::var("OPENBRAIN_TEST_RUNS").unwrap().parse().unwrap();
            passes(probe("processes::probes::nothing"));
            let before = Leftovers::look();
            for _ in 0..runs {
                assert!(run(Exec::argv(["/bin/true"]).sandbox()).success());
            }
            // A helper that was left behind without a runtime is reaped by the next launch.
            eventually("nothing is left", || {
                let _ = run(Exec::argv(["/bin/true"]).sandbox());
                Leftovers::look() == before
            });
        }
    }

    stage! {
        fn runs_many_at_once() {
            let count = 200;
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let runs = (0..count).map(|_| {
                    tokio::spawn(async { engine().run(Exec::argv(["/bin/sleep", "0.3"]).sandbox()).await })
                });
                for run in runs.collect::<Vec<_>>() {
                    let output = run.await.unwrap().expect("every sandbox starts");
                    assert!(output.success(), "{:?}", output.status);
                }
            });
            drop(runtime);
            eventually("nothing is left", || {
                let _ = run(Exec::argv(["/bin/true"]).sandbox());
                descendants(std::process::id()).is_empty()
            });
        }
    }
}

/// What sandboxes could leave behind on a host.
#[derive(Debug, PartialEq, Eq)]
struct Leftovers {
    mounts: String,
    temporary: Vec<std::ffi::OsString>,
    descriptors: usize,
    children: Vec<(u32, String)>,
}

impl Leftovers {
    fn look() -> Self {
        let names = |path: &str| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name());
            names.filter(|name| name.to_string_lossy().contains("openbrain")).collect::<Vec<_>>()
        };
        Self {
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap(),
            temporary: names("/tmp"),
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            children: descendants(std::process::id()),
        }
    }
}

#[test]
fn a_thousand_runs_leave_nothing() {
    host::stage("processes::stages::runs_in_sequence", |command| {
        command.env("OPENBRAIN_TEST_RUNS", "1000");
    });
}

#[test]
#[ignore = "soak: a minute or more"]
fn soak_ten_thousand_runs_leave_nothing() {
    host::stage("processes::stages::runs_in_sequence", |command| {
        command.env("OPENBRAIN_TEST_RUNS", "10000");
    });
}

#[test]
fn two_hundred_at_once_start_and_leave_nothing() {
    host::stage("processes::stages::runs_many_at_once", |_| {});
}

/// However the host process dies, the sandbox dies with it.
#[test]
fn a_killed_host_leaves_no_sandbox() {
    for stage in ["holds_a_sandbox", "holds_a_sandbox_of_a_thread_that_is_gone"] {
        let place = Place::new();
        let mut child = Command::new(host::exe())
            .args(["--ignored", "--exact", &format!("processes::stages::{stage}"), "--nocapture"])
            .env(STAGE, "1")
            .env("OPENBRAIN_TEST_PLACE", place.work())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the daemon starts", || place.work().join("alive").exists());
        let helpers = descendants(child.id());
        let groups: Vec<PathBuf> = helpers.iter().flat_map(|(pid, _)| groups_of(*pid)).collect();
        assert!(!helpers.is_empty() && groups.iter().all(|group| group.exists()));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        eventually("its processes are gone", || {
            helpers.iter().all(|(pid, _)| match fs::read_to_string(format!("/proc/{pid}/stat")) {
                Ok(stat) => stat.contains(") Z "),
                Err(_) => true,
            })
        });
        eventually("its groups are gone", || groups.iter().all(|group| !group.exists()));
        assert_is_still(&place);
    }
}

/// The groups that the engine has made for a process.
fn groups_of(pid: u32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let lines = text.lines().filter(|line| line.contains("/openbrain-"));
    let fields =
        lines.filter_map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>().try_into().ok());
    fields
        .flat_map(|[controller, path]: [&str; 2]| {
            let root = Path::new("/sys/fs/cgroup");
            [root.join(controller), root.join("unified"), root.to_owned()]
                .map(|hierarchy| hierarchy.join(path.trim_start_matches('/')))
        })
        .filter(|group| group.exists())
        .collect()
}

/// A helper that is killed takes its sandbox along, and the caller gets an error.
#[test]
fn a_killed_monitor_takes_its_sandbox_along() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let place = Place::new();
    let exec = probe("processes::probes::leaves_a_daemon").mount(place.work());
    let exec = exec.env("OPENBRAIN_TEST_KEEP", "1").env("OPENBRAIN_TEST_STAY", "1");
    let before: Vec<u32> = children();
    let mut groups = Vec::new();
    runtime.block_on(async {
        let process = engine().spawn(exec).await.unwrap();
        while !place.work().join("alive").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Other tests start helpers, too: ours is the one whose tree has our daemon's command line.
        let ours = children().into_iter().filter(|pid| !before.contains(pid)).find(|pid| {
            descendants(*pid).iter().any(|(at, _)| {
                let environ = fs::read(format!("/proc/{at}/cmdline")).unwrap_or_default();
                let text = String::from_utf8_lossy(&environ).into_owned();
                text.contains("leaves_a_daemon") && mounts(*at, &place)
            })
        });
        let ours = ours.expect("the helper is found");
        groups = descendants(ours).iter().flat_map(|(pid, _)| groups_of(*pid)).collect();
        sys!(libc::SYS_kill, ours, libc::SIGKILL).unwrap();
        let result = tokio::time::timeout(Duration::from_secs(5), process.wait()).await;
        assert!(result.expect("the call returns").is_err());
    });
    assert_is_still(&place);
    // The next run removes what was still in use then.
    assert!(run(Exec::argv(["/bin/true"]).sandbox()).success());
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
}

fn children() -> Vec<u32> {
    let own = std::process::id();
    descendants(own).into_iter().map(|(pid, _)| pid).collect()
}

/// Whether a process has this place mounted.
fn mounts(pid: u32, place: &Place) -> bool {
    let info = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    info.contains(place.work().to_str().unwrap())
}

#[test]
fn groups_are_removed() {
    let exec = Exec::new("cat /proc/self/cgroup; sleep 0.2").sandbox();
    let output = run(exec);
    assert!(output.success());
    // Inside, every group is the root of its hierarchy.
    for line in output.stdout_text().lines() {
        assert!(line.ends_with(":/"), "{line}");
    }
}
