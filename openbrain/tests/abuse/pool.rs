//! Sandboxes of the warm pool: that each is used once, that none is used when it is not what would be
//! made now, and that none is left.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use openbrain::{Engine, Exec, Limits, Mount, MountMode, Output, Settings, Start, Stdin};

use crate::{
    host::{self, Place, descendants, eventually, is_root},
    sys::c,
};

fn engine(pool: usize) -> Engine {
    let mut settings = Settings::default();
    settings.security.sandbox.pool = pool;
    Engine::new(settings)
}

fn block_on<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = runtime.block_on(body);
    drop(runtime);
    assert!(openbrain::settle(Duration::from_secs(5)));
    result
}

fn shell(script: &str) -> Exec {
    Exec::new(script).sandbox()
}

/// Runs a command in a sandbox that was made ready for it.
async fn warm(engine: &Engine, exec: Exec) -> Output {
    engine.warm(exec.clone()).await.unwrap();
    run(engine, exec, Start::Warm).await
}

async fn run(engine: &Engine, exec: Exec, start: Start) -> Output {
    let output = engine.run(exec).await.unwrap();
    assert_eq!((output.success(), output.start), (true, Some(start)), "{output:?}");
    output
}

/// Whether a process of this machine has this argument.
fn is_running(argument: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|found| found == argument.as_bytes())
    })
}

#[test]
fn what_a_command_leaves_is_not_there_for_the_next() {
    let mark = format!("1000.{}", std::process::id());
    block_on(async {
        let engine = engine(1);
        let leaves = format!(
            "touch /tmp/left /workspace/left ~/left /dev/shm/left; \
             (setsid setsid sleep {mark} </dev/null >/dev/null 2>&1 &); \
             until grep -qs {mark} /proc/[0-9]*/cmdline; do :; done"
        );
        warm(&engine, shell(&leaves)).await;
        assert!(!is_running(&mark), "a daemon is left");
        let look = "ls /tmp /workspace ~ /dev/shm; ls /proc | grep -c '^[0-9]'";
        let found = warm(&engine, shell(look)).await.stdout_text();
        let cold = Engine::new(Settings::default()).run(shell(look)).await.unwrap();
        assert_eq!(found, cold.stdout_text());
    });
}

#[test]
fn what_is_asked_for_again_is_kept_ready() {
    block_on(async {
        let engine = engine(1);
        run(&engine, shell("true"), Start::Cold).await;
        run(&engine, shell("true"), Start::Cold).await;
        // Whatever the command, its environment, its deadline and its own limits are.
        let limits = Limits { open_files: Some(77), output: Some(10), ..Limits::default() };
        let other = shell("ulimit -n").env("A", "b").timeout(Duration::from_secs(9));
        let other = other.workdir("/tmp").stdin(Stdin::Bytes(b"x".to_vec())).limits(limits);
        let mut output = engine.run(other.clone()).await.unwrap();
        while output.start != Some(Start::Warm) {
            output = engine.run(other.clone()).await.unwrap();
        }
        assert_eq!(output.stdout_text(), "77\n");
        let cold = Engine::new(Settings::default()).run(other).await.unwrap();
        assert_eq!(output.isolation, cold.isolation);
    });
}

#[test]
fn another_shape_is_another_sandbox() {
    let place = Place::new();
    let memory = |bytes| Limits { memory: Some(bytes), ..Limits::default() };
    block_on(async {
        let engine = engine(1);
        engine.warm(shell("true")).await.unwrap();
        run(&engine, shell("true").mount(place.work()), Start::Cold).await;
        run(&engine, shell("true").allow_network(false), Start::Cold).await;
        run(&engine, shell("true").limits(memory(1 << 28)), Start::Cold).await;
        // What changes below an overlay has no pool.
        let overlay = Mount::new(place.work(), "/workspace", MountMode::Overlay);
        let overlay = shell("true").mount_at(overlay);
        engine.warm(overlay.clone()).await.unwrap();
        run(&engine, overlay, Start::Cold).await;
        // What a command has changed begins with its sandbox.
        run(&engine, shell("true").changes(), Start::Cold).await;
        run(&engine, shell("true"), Start::Warm).await;
    });
}

#[test]
fn a_mount_that_was_replaced_is_the_new_one() {
    let place = Place::new();
    let (work, old) = (place.work(), place.dir.path().join("old"));
    let exec = shell("cat /workspace/file; echo written > /workspace/new").mount(&work);
    block_on(async {
        let engine = engine(2);
        engine.warm(exec.clone()).await.unwrap();
        // What is changed in place is seen by a sandbox that was there before.
        fs::write(work.join("file"), "changed").unwrap();
        assert_eq!(run(&engine, exec.clone(), Start::Warm).await.stdout_text(), "changed");
        engine.warm(exec.clone()).await.unwrap();
        fs::rename(&work, &old).unwrap();
        fs::remove_file(old.join("new")).unwrap();
        fs::create_dir(&work).unwrap();
        fs::write(work.join("file"), "another").unwrap();
        let parent = fs::metadata(place.dir.path()).unwrap();
        std::os::unix::fs::chown(&work, Some(owner(&parent).0), Some(owner(&parent).1)).unwrap();
        assert_eq!(run(&engine, exec.clone(), Start::Cold).await.stdout_text(), "another");
        assert!(work.join("new").exists() && !old.join("new").exists());
        // A file as well.
        let file =
            shell("cat /data").mount_at(Mount::new(work.join("file"), "/data", MountMode::Ro));
        engine.warm(file.clone()).await.unwrap();
        fs::write(work.join("next"), "next").unwrap();
        fs::rename(work.join("next"), work.join("file")).unwrap();
        assert_eq!(run(&engine, file, Start::Cold).await.stdout_text(), "next");
        // One that is gone is the error that it always is.
        fs::remove_dir_all(&work).unwrap();
        let error = engine.run(exec).await.unwrap_err();
        assert!(error.to_string().contains("cannot be used"), "{error}");
    });
}

fn owner(meta: &fs::Metadata) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    (meta.uid(), meta.gid())
}

stage! {
    fn mounts_on_the_host() {
        let place = Place::new();
        let (tmpfs, sub) = (c("tmpfs"), c(place.work().join("sub").to_str().unwrap()));
        assert_eq!(sys!(libc::SYS_unshare, libc::CLONE_NEWNS), Ok(0));
        let private = libc::MS_REC | libc::MS_PRIVATE;
        assert_eq!(sys!(libc::SYS_mount, 0, c("/").as_ptr(), 0, private, 0), Ok(0));
        // The threads of the pool and of the runtime are made here, and take part in the namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let engine = engine(1);
            let exec = shell("ls /workspace/sub").mount(place.work());
            assert_eq!(warm(&engine, exec.clone()).await.stdout_text(), "deep\n");
            engine.warm(exec.clone()).await.unwrap();
            let mounted =
                sys!(libc::SYS_mount, tmpfs.as_ptr(), sub.as_ptr(), tmpfs.as_ptr(), 0, 0);
            assert_eq!(mounted, Ok(0));
            assert_eq!(run(&engine, exec.clone(), Start::Cold).await.stdout_text(), "");
            engine.warm(exec.clone()).await.unwrap();
            assert_eq!(sys!(libc::SYS_umount2, sub.as_ptr(), libc::MNT_DETACH), Ok(0));
            assert_eq!(run(&engine, exec.clone(), Start::Cold).await.stdout_text(), "deep\n");
        });
    }
}

#[test]
fn what_is_mounted_meanwhile_is_seen() {
    if !is_root() {
        eprintln!("skipped: only root can mount on the host");
        return;
    }
    host::stage("pool::mounts_on_the_host", |_| ());
}

/// The processes that this one has started, itself not included.
fn ours() -> Vec<u32> {
    descendants(std::process::id()).into_iter().map(|(pid, _)| pid).collect()
}

stage! {
    fn a_pool_that_is_dropped() {
        block_on(async {
            let engine = engine(3);
            engine.warm(shell("true")).await.unwrap();
            engine.warm(shell("true").allow_network(false)).await.unwrap();
            let again = engine.clone();
            drop(engine);
            assert_eq!(ours().len(), 2 * 2 * 3);
            let process = again.spawn(shell("sleep 0.5; echo on")).await.unwrap();
            drop(again);
            // A command that has its sandbox keeps it.
            let output = process.wait().await.unwrap();
            assert_eq!((output.stdout_text().as_str(), output.start), ("on\n", Some(Start::Warm)));
            eventually("a sandbox is left", || ours().is_empty());
        });
    }
}

#[test]
fn a_pool_that_is_dropped_leaves_nothing() {
    host::stage("pool::a_pool_that_is_dropped", |_| ());
}

stage! {
    fn killed_sandboxes() {
        block_on(async {
            let engine = engine(2);
            engine.warm(shell("true")).await.unwrap();
            for pid in ours() {
                // SAFETY: takes no memory.
                unsafe { libc::kill(pid as i32, libc::SIGKILL) };
            }
            eventually("a sandbox lives on", || {
                let state = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat"));
                ours().iter().all(|pid| state(pid).unwrap_or_default().contains(") Z "))
            });
            run(&engine, shell("true"), Start::Cold).await;
            warm(&engine, shell("true")).await;
            drop(engine);
            eventually("a sandbox is left", || ours().is_empty());
        });
        assert_eq!(groups(), Vec::<PathBuf>::new());
    }
}

/// Groups of this process's sandboxes that hold nothing any more.
fn groups() -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let roots = mounts.lines().filter(|line| line.starts_with("cgroup"));
    let roots: Vec<&str> = roots.filter_map(|line| line.split(' ').nth(1)).collect();
    let places = own.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let parents = places.flat_map(|place| {
        roots.iter().map(move |root| Path::new(root).join(place.trim_start_matches('/')))
    });
    let entries = parents.flat_map(|parent| fs::read_dir(parent).into_iter().flatten().flatten());
    let ours = entries.map(|entry| entry.path()).filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("openbrain-"))
    });
    let is_idle =
        |path: &PathBuf| fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|p| p.is_empty());
    let idle: Vec<PathBuf> = ours.filter(is_idle).collect();
    // Those of others are on their way out.
    std::thread::sleep(Duration::from_millis(500));
    idle.into_iter().filter(is_idle).collect()
}

#[test]
fn killed_sandboxes_are_not_used_and_leave_nothing() {
    host::stage("pool::killed_sandboxes", |_| ());
}

stage! {
    fn keeps_sandboxes() {
        block_on(async {
            let engine = engine(2);
            engine.warm(shell("true")).await.unwrap();
            println!("\nready {:?}", ours());
            std::future::pending::<()>().await;
        });
    }
}

#[test]
fn a_killed_process_leaves_no_ready_sandbox() {
    let mut command = host::stage_command("pool::keeps_sandboxes");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told =
        lines.map(Result::unwrap).find_map(|line| Some(line.strip_prefix("ready ")?.to_owned()));
    let pids: Vec<u32> = serde_json::from_str(&told.unwrap()).unwrap();
    assert_eq!(pids.len(), 4);
    child.kill().unwrap();
    child.wait().unwrap();
    for pid in pids {
        eventually("a process is left", || !Path::new(&format!("/proc/{pid}")).exists());
    }
}

stage! {
    fn five_hundred() {
        let count = || fs::read_dir("/proc/self/fd").unwrap().count();
        block_on(async {
            let engine = engine(2);
            for _ in 0..5 {
                warm(&engine, shell("true")).await;
            }
            engine.warm(shell("true")).await.unwrap();
            let before = count();
            for n in 0..500 {
                engine.warm(shell("true")).await.unwrap();
                let process = engine.spawn(shell("sleep 1000 & exit 3")).await.unwrap();
                match n % 5 {
                    0 => drop(process),
                    _ => assert_eq!(process.wait().await.unwrap().exit_code(), Some(3)),
                }
            }
            engine.warm(shell("true")).await.unwrap();
            eventually("descriptors are left", || count() <= before);
            eventually("a sandbox too many is left", || ours().len() == 4);
            drop(engine);
            eventually("a sandbox is left", || ours().is_empty());
        });
        assert_eq!(groups(), Vec::<PathBuf>::new());
    }
}

#[test]
fn five_hundred_warm_commands_leave_nothing() {
    host::stage("pool::five_hundred", |_| ());
}
