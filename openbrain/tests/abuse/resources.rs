//! Resources: what a bomb costs the host. Limits are small, so that a limit that does not hold shows
//! before it hurts.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::Path,
    time::{Duration, Instant},
};

use libc::{EAGAIN, EDQUOT, ENOSPC};
use openbrain::{Exec, Limits, Mount, MountMode, Output, Status, System};

use crate::{
    host::{self, Place, Sentinel, engine, passes, probe, run},
    sys::{errno, fork},
};

const MEMORY: u64 = 64 << 20;
const PIDS: u64 = 64;
const DISK: u64 = 8 << 20;

/// What the memory bomb is made of.
const KIND: &str = "OPENBRAIN_TEST_KIND";

fn limits() -> Limits {
    Limits { memory: Some(MEMORY), pids: Some(PIDS), disk: Some(DISK), ..Limits::default() }
}

/// Touches so many bytes that stay, privately.
fn touch(bytes: u64) {
    map(bytes, libc::MAP_PRIVATE);
}

fn map(bytes: u64, kind: i32) {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, kind | libc::MAP_ANONYMOUS);
    match sys!(libc::SYS_mmap, 0, bytes, protection, flags, -1, 0) {
        Ok(address) => {
            for page in (0..bytes).step_by(4096) {
                // SAFETY: inside the mapping made above.
                unsafe { (address as *mut u8).add(page as usize).write_volatile(1) };
            }
        }
        Err(errno) => {
            println!("\nrefused: errno {errno}");
            std::process::exit(77);
        }
    }
}

/// Four times the limit, in one of the ways that memory can be had.
fn bomb(kind: &str) {
    const STEP: u64 = 8 << 20;
    let each = |mut take: Box<dyn FnMut()>| (0..4 * MEMORY / STEP).for_each(|_| take());
    let write = |fd: i64| {
        let mut file = fs::File::from(fd_of(fd));
        for _ in 0..STEP >> 20 {
            if let Err(error) = file.write_all(&vec![1; 1 << 20]) {
                println!("\nrefused: {error}");
                std::process::exit(77);
            }
        }
        std::mem::forget(file);
    };
    match kind {
        "touch" => each(Box::new(|| touch(STEP))),
        "shared" => each(Box::new(|| map(STEP, libc::MAP_SHARED))),
        "processes" | "closed processes" => each(Box::new(|| {
            fork(|| {
                if kind == "closed processes" {
                    sys!(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0).unwrap();
                }
                touch(STEP);
                std::thread::sleep(Duration::from_secs(60));
                0
            });
            std::thread::sleep(Duration::from_millis(10));
        })),
        // The first thread of each process ends, and with it what `/proc` says of the process.
        "headless processes" => each(Box::new(|| {
            fork(|| {
                std::thread::spawn(|| {
                    touch(STEP);
                    std::thread::sleep(Duration::from_secs(60));
                });
                let _ = sys!(libc::SYS_exit, 0);
                0
            });
            std::thread::sleep(Duration::from_millis(10));
        })),
        "memory files" => {
            each(Box::new(|| match sys!(libc::SYS_memfd_create, c"bomb".as_ptr(), 0) {
                Ok(fd) => write(fd),
                Err(errno) => {
                    println!("\nrefused: errno {errno}");
                    std::process::exit(77);
                }
            }))
        }
        "segments" => each(Box::new(|| {
            match sys!(libc::SYS_shmget, libc::IPC_PRIVATE, STEP, libc::IPC_CREAT | 0o600) {
                Ok(id) => {
                    let address = sys!(libc::SYS_shmat, id, 0, 0).unwrap();
                    for page in (0..STEP).step_by(4096) {
                        // SAFETY: inside the segment attached above.
                        unsafe { (address as *mut u8).add(page as usize).write_volatile(1) };
                    }
                    sys!(libc::SYS_shmdt, address).unwrap();
                }
                Err(errno) => {
                    println!("\nrefused: errno {errno}");
                    std::process::exit(77);
                }
            }
        })),
        _ => panic!("{kind}"),
    }
}

/// Four threads, for two seconds.
fn spin() {
    let end = Instant::now() + Duration::from_secs(2);
    let spin = move || while Instant::now() < end {};
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(spin)).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn fd_of(fd: i64) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: a descriptor that was made by the caller, and is nobody else's.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) }
}

mod probes {
    use super::*;

    probe! {
        fn takes_memory() {
            bomb(&std::env::var(KIND).unwrap());
            // Time for a watch to see it.
            std::thread::sleep(Duration::from_millis(400));
            println!("\nsurvived");
        }
    }

    probe! {
        fn uses_what_it_may() {
            touch(MEMORY / 4);
            fs::write("/tmp/x", vec![1; DISK as usize / 4]).unwrap();
            assert_eq!(crate::sys::forked(|| 0), crate::sys::End::Exit(0));
        }
    }

    probe! {
        fn forks_until_refused() {
            let mut children = Vec::new();
            let refused = loop {
                // SAFETY: one thread; the child only sleeps.
                match unsafe { libc::fork() } {
                    0 => loop {
                        std::thread::sleep(Duration::from_secs(60));
                    },
                    -1 => break errno(),
                    child => children.push(child),
                }
                assert!(children.len() < 3 * PIDS as usize, "no limit holds");
            };
            assert_eq!(refused, EAGAIN);
            let count = children.len() as u64;
            assert!((PIDS - 6..=PIDS).contains(&count), "{count} children");
            // One that ends makes room for one.
            sys!(libc::SYS_kill, children[0], libc::SIGKILL).unwrap();
            crate::sys::wait_for(children[0]);
            // SAFETY: as above.
            let again = unsafe { libc::fork() };
            if again == 0 {
                std::thread::sleep(Duration::from_secs(60));
            }
            assert!(again > 0);
            // Threads are counted, too.
            let thread = std::thread::Builder::new().spawn(|| ());
            assert!(thread.is_err(), "threads are not counted");
        }
    }

    probe! {
        fn forks_for_ever() {
            println!("\nbombing");
            loop {
                // SAFETY: does nothing else.
                unsafe { libc::fork() };
            }
        }
    }

    probe! {
        fn fills_the_disk() {
            let places = ["/tmp", "/var/tmp", "/dev/shm", "/home/sandbox", "/run", "/data"];
            let mut total = 0u64;
            for place in places {
                let Ok(mut file) = fs::File::create(format!("{place}/big")) else { continue };
                let error = loop {
                    match file.write(&[1; 65536]) {
                        Ok(written) => total += written as u64,
                        Err(error) => break error,
                    }
                    assert!(total < 4 * DISK, "no limit holds");
                };
                assert!([ENOSPC, EDQUOT].contains(&error.raw_os_error().unwrap()), "{place}: {error}");
            }
            assert!((DISK / 2..=DISK).contains(&total), "{total} bytes");
            // The root itself is read-only, and so is everything else.
            assert!(fs::File::create("/big").is_err() && fs::File::create("/dev/big").is_err());
            for place in places {
                let _ = fs::remove_file(format!("{place}/big"));
            }
            // A file may be long as long as it is empty.
            let mut sparse = fs::File::create("/tmp/sparse").unwrap();
            if sparse.seek(SeekFrom::Start(1 << 40)).is_ok() {
                let _ = sparse.write(b"x");
            }
            assert!(sys!(libc::SYS_fallocate, std::os::fd::AsRawFd::as_raw_fd(&sparse), 0, 0, 2 * DISK).is_err());
            drop(sparse);
            fs::remove_file("/tmp/sparse").unwrap();
            fs::write("/tmp/again", vec![1; DISK as usize / 4]).unwrap();
        }
    }

    probe! {
        fn fills_the_inodes() {
            let mut count = 0u64;
            let error = loop {
                match fs::File::create(format!("/tmp/{count}")) {
                    Ok(_) => count += 1,
                    Err(error) => break error,
                }
                assert!(count < 100_000, "no limit holds");
            };
            assert_eq!(error.raw_os_error(), Some(ENOSPC));
            assert!(count > 100, "{count}");
        }
    }

    probe! {
        fn spins() {
            spin();
        }
    }

    probe! {
        fn spins_on_every_processor() {
            let all = [u64::MAX; 16];
            let _ = sys!(libc::SYS_sched_setaffinity, 0, 128, all.as_ptr());
            spin();
        }
    }

    probe! {
        fn opens_files() {
            let mut count = 0;
            while let Ok(file) = fs::File::open("/dev/null") {
                std::mem::forget(file);
                count += 1;
                assert!(count < 100, "no limit holds");
            }
            assert!(count > 20, "{count}");
            let more = [4096u64, 4096];
            assert_eq!(sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, more.as_ptr(), 0), Err(libc::EPERM));
        }
    }
}

fn takes(kind: &str) -> Output {
    run(probe("resources::probes::takes_memory").env(KIND, kind).limits(limits()))
}

/// The bomb went off, and was stopped before it was four times too large.
fn assert_stopped(kind: &str) {
    let mut sentinel = Sentinel::start();
    let output = takes(kind);
    let text = output.stdout_text();
    let refused = output.status == Status::Exited(77) && text.contains("refused");
    let means = &output.isolation.limits;
    assert!(
        output.resources.oom_killed || refused,
        "{kind}: {:?} {means:?}\n{text}",
        output.status
    );
    sentinel.assert_alive();
}

#[test]
fn limits_leave_what_they_allow() {
    passes(probe("resources::probes::uses_what_it_may").limits(limits()));
}

#[test]
fn memory_that_is_touched_is_limited() {
    assert_stopped("touch");
}

#[test]
fn memory_that_is_shared_is_limited() {
    assert_stopped("shared");
}

#[test]
fn memory_of_many_processes_is_limited() {
    assert_stopped("processes");
}

#[test]
fn memory_of_processes_that_nobody_may_look_into_is_limited() {
    assert_stopped("closed processes");
}

#[test]
fn memory_of_processes_without_their_first_thread_is_limited() {
    assert_stopped("headless processes");
}

/// Memory that no process has mapped is counted by groups only.
#[test]
fn memory_that_nobody_maps_is_limited_by_groups() {
    let output = run(Exec::new("true").sandbox().limits(limits()));
    if output.isolation.limits["memory"].contains("cgroup") {
        assert_stopped("memory files");
        assert_stopped("segments");
    }
}

#[test]
fn processes_are_limited() {
    let mut sentinel = Sentinel::start();
    passes(probe("resources::probes::forks_until_refused").limits(limits()));
    sentinel.assert_alive();
}

#[test]
fn a_fork_bomb_ends_at_the_deadline_and_hurts_no_sibling() {
    let mut sentinel = Sentinel::start();
    let bomb = probe("resources::probes::forks_for_ever").limits(limits());
    let started = Instant::now();
    std::thread::scope(|scope| {
        let bomb = scope.spawn(|| run(bomb.timeout(Duration::from_secs(2))));
        std::thread::sleep(Duration::from_millis(500));
        passes(probe("resources::probes::uses_what_it_may").limits(limits()));
        assert_eq!(bomb.join().unwrap().status, Status::TimedOut);
    });
    assert!(started.elapsed() < Duration::from_secs(15));
    sentinel.assert_alive();
    passes(probe("resources::probes::uses_what_it_may").limits(limits()));
}

#[test]
fn disk_is_limited_all_together() {
    let place = Place::new();
    let before = host::hash(&place.work());
    let data = Mount::new(place.work(), "/data", MountMode::Overlay);
    passes(probe("resources::probes::fills_the_disk").limits(limits()).mount_at(data));
    assert_eq!(host::hash(&place.work()), before);
}

#[test]
fn inodes_are_limited() {
    passes(probe("resources::probes::fills_the_inodes").limits(limits()));
}

#[test]
fn open_files_are_limited() {
    let limits = Limits { open_files: Some(40), ..Limits::default() };
    passes(probe("resources::probes::opens_files").limits(limits));
}

#[test]
fn processors_are_limited() {
    let limits = Limits { cpus: Some(0.5), ..Limits::default() };
    let output = run(probe("resources::probes::spins").limits(limits));
    assert!(output.success());
    let used = output.resources.cpu_ms.unwrap() as f64 / output.duration.as_millis() as f64;
    let most = match output.isolation.limits["cpus"].contains("cgroup") {
        true => 0.5 * 1.15 + 0.1,
        false => 1.05,
    };
    assert!(used < most, "{used} processors, {:?}", output.isolation.limits);
}

#[test]
fn processors_stay_limited_when_the_command_binds_itself() {
    let limits = Limits { cpus: Some(0.5), ..Limits::default() };
    let output = run(probe("resources::probes::spins_on_every_processor").limits(limits));
    if output.isolation.limits["cpus"].contains("cgroup") {
        let used = output.resources.cpu_ms.unwrap() as f64 / output.duration.as_millis() as f64;
        assert!(used < 0.7, "{used} processors");
    }
}

#[test]
fn without_groups_processors_stay_limited_when_the_command_binds_itself() {
    let limits = Limits { cpus: Some(1.0), ..Limits::default() };
    let output = run(probe("resources::probes::spins_on_every_processor").limits(limits));
    let used = output.resources.cpu_ms.unwrap() as f64 / output.duration.as_millis() as f64;
    assert!(used < 1.2, "{used} processors");
}

#[test]
fn deadline_is_exact() {
    let timeout = Duration::from_millis(500);
    let output = run(Exec::new("exec sleep 60").sandbox().timeout(timeout));
    assert_eq!(output.status, Status::TimedOut);
    let late = output.duration.checked_sub(timeout).expect("not before the time");
    assert!(late < Duration::from_millis(400), "late by {late:?}");
}

mod stages {
    use super::*;

    stage! {
        /// All that has a fallback, where there is no control group.
        fn without_groups() {
            // SAFETY: changes this process only, which has one thread.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
            let (none, slash) = (c"none".as_ptr(), c"/".as_ptr());
            sys!(libc::SYS_mount, none, slash, 0, libc::MS_REC | libc::MS_PRIVATE, 0).unwrap();
            if Path::new("/sys/fs/cgroup").exists() {
                let _ = sys!(libc::SYS_umount2, c"/sys/fs/cgroup".as_ptr(), libc::MNT_DETACH);
            }
            let output = run(Exec::new("true").sandbox().limits(limits()));
            let means = &output.isolation.limits;
            assert!(means.values().all(|means| !means.contains("cgroup")), "{means:?}");
            match std::env::var(KIND).unwrap().as_str() {
                "pids" => {
                    passes(probe("resources::probes::forks_until_refused").limits(limits()));
                }
                kind => assert_stopped(kind),
            }
        }
    }
}

/// The fallbacks as root, who has groups otherwise.
fn without_groups(kind: &str) {
    if host::is_root() {
        host::stage("resources::stages::without_groups", |command| {
            command.env(KIND, kind);
        });
    }
}

#[test]
fn without_groups_processes_are_limited() {
    without_groups("pids");
}

#[test]
fn without_groups_memory_is_limited() {
    for kind in ["touch", "shared", "processes", "closed processes", "headless processes"] {
        without_groups(kind);
    }
}

#[test]
fn without_groups_unmapped_memory_is_limited() {
    for kind in ["memory files", "segments"] {
        if host::is_root() {
            without_groups(kind);
        } else {
            assert_stopped(kind);
        }
    }
}

#[test]
fn system_overlay_is_limited_by_the_disk() {
    // The engine's settings decide this; a writable `/usr` must not be a way around the limit.
    let mut settings = openbrain::Settings::default();
    settings.security.sandbox.system = System::Overlay;
    let command = "dd if=/dev/zero of=/usr/local/big bs=65536 2>&1 | tail -1; ls -l /usr/local/big; echo ok > /usr/local/x; cat /usr/local/x";
    let exec = Exec::new(command).sandbox().limits(limits());
    let output = openbrain::Engine::new(settings).run_blocking(exec).unwrap();
    let text = output.stdout_text();
    let size: u64 =
        text.lines().find_map(|line| line.split_whitespace().nth(4)?.parse().ok()).unwrap_or(0);
    assert!(size <= DISK, "{text}");
    assert!(!Path::new("/usr/local/big").exists());
    let _ = engine();
}
