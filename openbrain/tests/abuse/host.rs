//! The side of the host: running probes and host stages, and looking whether anything has changed.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use openbrain::{
    Engine, Exec, Limits, Mount, MountMode, NewSandbox, Output, Settings, Start, Status,
};

/// Set for probes, to the name that the sandbox gives its host.
pub const PROBE: &str = "OPENBRAIN_TEST_PROBE";
/// Set for host stages.
pub const STAGE: &str = "OPENBRAIN_TEST_STAGE";

/// Defines an attack that runs inside the sandbox; elsewhere it does nothing.
macro_rules! probe {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        #[ignore = "runs inside the sandbox"]
        fn $name() {
            if $crate::host::is_inside() $body
        }
    };
}

/// Defines what runs on the host in a process of its own; elsewhere it does nothing.
macro_rules! stage {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        #[ignore = "runs in a process of its own"]
        fn $name() {
            if std::env::var_os($crate::host::STAGE).is_some() $body
        }
    };
}

/// Whether this is a probe in its sandbox. A probe that is asked to run anywhere else fails: some
/// would kill every process in sight.
pub fn is_inside() -> bool {
    if std::env::var_os(PROBE).is_none() {
        return false;
    }
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    assert_eq!(name, "sandbox\n", "a probe runs in a sandbox only");
    true
}

pub fn engine() -> Engine {
    Engine::new(Settings::default())
}

pub fn exe() -> PathBuf {
    fs::canonicalize(std::env::current_exe().unwrap()).unwrap()
}

pub fn is_root() -> bool {
    // SAFETY: takes no memory.
    unsafe { libc::geteuid() == 0 }
}

/// Where a probe finds this binary: the same place on every machine.
const INSIDE: &str = "/probe/abuse";

/// The arguments with which this binary runs one ignored test.
fn arguments(exe: &str, name: &str) -> [String; 6] {
    let exe = exe.to_owned();
    let options = ["--ignored", "--exact", "--nocapture", "--test-threads=1"].map(str::to_owned);
    let [ignored, exact, nocapture, one_thread] = options;
    [exe, ignored, exact, name.to_owned(), nocapture, one_thread]
}

/// The request that runs a probe.
pub fn probe(name: &str) -> Exec {
    Exec::argv(arguments(INSIDE, name))
        .sandbox()
        .mount_at(Mount::new(exe(), INSIDE, MountMode::Ro))
        .env(PROBE, "1")
        .env("RUST_BACKTRACE", "0")
        .timeout(Duration::from_secs(60))
}

/// Runs a request that must start.
pub fn run(exec: Exec) -> Output {
    engine().run_blocking(exec).expect("the sandbox starts")
}

/// Runs a request that must start in a sandbox that stays open and had a command before, which has
/// left something running.
pub fn run_opened(exec: Exec) -> Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let output = runtime.block_on(async {
        let (new, exec) = split(exec);
        let sandbox = engine().create(new).await.expect("the sandbox opens");
        let before = sandbox.run(Exec::new("sleep 1000 >/dev/null 2>&1 &")).await.unwrap();
        assert!(before.success());
        sandbox.run(exec).await.expect("the command starts")
    });
    drop(runtime);
    assert!(openbrain::settle(Duration::from_secs(5)));
    output
}

/// Runs a request that must start in a sandbox that was ready before it.
pub fn run_warm(exec: Exec) -> Output {
    let mut settings = Settings::default();
    settings.security.sandbox.pool = 1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let output = runtime.block_on(async {
        let engine = Engine::new(settings);
        engine.warm(exec.clone()).await.expect("the sandbox opens");
        engine.run(exec).await.expect("the command starts")
    });
    drop(runtime);
    assert!(openbrain::settle(Duration::from_secs(5)));
    assert_eq!(output.start, Some(Start::Warm));
    output
}

/// What of a request is its sandbox's, and what the command's.
pub fn split(exec: Exec) -> (NewSandbox, Exec) {
    let Limits { memory, cpus, pids, disk, open_files, output } = exec.limits.clone();
    let new = NewSandbox {
        mounts: exec.mounts.clone(),
        expose: exec.expose.clone(),
        allow_network: exec.allow_network,
        allowed_ports: exec.allowed_ports.clone(),
        allowed_domains: exec.allowed_domains.clone(),
        allowed_hosts: exec.allowed_hosts.clone(),
        limits: Limits { memory, cpus, pids, disk, ..Limits::default() },
        ..NewSandbox::default()
    };
    let exec = Exec {
        sandbox: None,
        mounts: Vec::new(),
        expose: Vec::new(),
        allow_network: None,
        allowed_ports: None,
        allowed_domains: None,
        allowed_hosts: None,
        limits: Limits { open_files, output, ..Limits::default() },
        ..exec
    };
    (new, exec)
}

/// Runs a probe that must pass: in a sandbox that stays open, unless it would leave its traces in a
/// mount, in one that was ready before it, unless overlays have none, and in one of its own. Returns
/// what it printed there.
pub fn passes(exec: Exec) -> String {
    if exec.mounts.iter().all(|mount| mount.mode != MountMode::Rw) {
        passes_by(run_opened, exec.clone());
    }
    if exec.mounts.iter().all(|mount| mount.mode == MountMode::Ro) {
        passes_by(run_warm, exec.clone());
    }
    passes_by(run, exec)
}

/// Runs a probe that must pass, in this way, and returns what it printed.
pub fn passes_by(way: fn(Exec) -> Output, exec: Exec) -> String {
    let output = way(exec);
    let (out, err) = (output.stdout_text(), output.stderr_text());
    assert!(
        output.status == Status::Exited(0) && out.contains("test result: ok. 1 passed"),
        "the probe failed, {:?}:\n{out}\n{err}",
        output.status
    );
    out
}

/// The command that is a host stage.
pub fn stage_command(name: &str) -> Command {
    let [exe, rest @ ..] = arguments(exe().to_str().unwrap(), name);
    let mut command = Command::new(exe);
    command.args(rest).env(STAGE, "1").stdin(Stdio::null());
    command
}

/// Runs a host stage that must pass, in a changed environment.
pub fn stage(name: &str, change: impl FnOnce(&mut Command)) {
    let mut command = stage_command(name);
    change(&mut command);
    let output = command.output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && out.contains("test result: ok. 1 passed"),
        "the stage failed, {}:\n{out}\n{err}",
        output.status
    );
}

/// A directory on the host with a few files, and a secret beside it that nobody mounts.
pub struct Place {
    pub dir: tempfile::TempDir,
    outside: BTreeMap<PathBuf, String>,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["work", "work/sub", "outside"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        for (name, text) in
            [("work/file", "content"), ("work/sub/deep", "deep"), ("outside/secret", "secret")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let outside = hash(&dir.path().join("outside"));
        Self { dir, outside }
    }

    /// What is mounted.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// What no sandbox may see.
    pub fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// Nothing beside the mount has changed.
    pub fn assert_outside_unchanged(&self) {
        assert_eq!(hash(&self.outside()), self.outside);
    }
}

/// Everything about a tree that a test can see changed: types, owners, modes, times, contents.
pub fn hash(path: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    add_hash(path, &mut found);
    found
}

fn add_hash(path: &Path, to: &mut BTreeMap<PathBuf, String>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = match meta.file_type() {
        kind if kind.is_symlink() => format!("{:?}", fs::read_link(path).unwrap()),
        kind if kind.is_file() => format!("{:?}", fs::read(path).unwrap()),
        kind if kind.is_dir() => {
            for entry in fs::read_dir(path).unwrap() {
                add_hash(&entry.unwrap().path(), to);
            }
            String::new()
        }
        _ => String::new(),
    };
    let (mode, owner) = (meta.mode(), (meta.uid(), meta.gid()));
    let line = format!("{mode:o} {owner:?} {} {:?} {content}", meta.nlink(), meta.modified());
    to.insert(path.to_owned(), line);
}

/// A process of the caller's on the host that no sandbox may touch.
pub struct Sentinel(Child);

impl Sentinel {
    pub fn start() -> Self {
        let [exe, rest @ ..] = arguments(exe().to_str().unwrap(), "host::sentinel");
        let mut command = Command::new(exe);
        command.args(rest).env(STAGE, "1").stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn assert_alive(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "a process of the host has died");
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        assert!(!stat.contains(") T "), "a process of the host was stopped");
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

stage! {
    fn sentinel() {
        let _ = std::io::stdin().read(&mut [0]);
    }
}

/// The processes of this machine that are descendants of `pid`, with their names.
pub fn descendants(pid: u32) -> Vec<(u32, String)> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let (name, rest) = stat.rsplit_once(") ").unwrap();
        let parent: u32 = rest.split(' ').nth(1).unwrap().parse().unwrap();
        parents.insert(pid, (parent, name.to_owned()));
    }
    let is_below = |mut at: u32| loop {
        match parents.get(&at) {
            Some((parent, _)) if *parent == pid => break true,
            Some((parent, _)) => at = *parent,
            None => break false,
        }
    };
    parents.iter().filter(|(at, _)| is_below(**at)).map(|(at, (_, n))| (*at, n.clone())).collect()
}

/// Waits until something is so, for a bounded time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(std::time::Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
