//! What every case is given: a place, a directory, a way to see what is left of a command.

use std::{
    env, fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use openbrain::{
    Command, Engine, Error, Event, Exec, Mount, MountMode, NewSandbox, Output, Process, Sandbox,
    Settings, Start,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{CWD, FileType, Mode},
    io::Errno,
    process::{Pid, PidfdFlags, Signal},
};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::{OpenOptions, Receiver, Sender},
    time::timeout,
};

use crate::opened::Opened;

/// No case takes longer than this, whatever goes wrong.
const BOUND: Duration = Duration::from_secs(60);

/// Set in a process that was started for one case alone; the directory of the case.
const OWN_PROCESS: &str = "OPENBRAIN_CONFORMANCE_DIRECTORY";

/// A variable that only processes of their own have.
pub(crate) const SECRET: (&str, &str) = ("OPENBRAIN_CONFORMANCE_SECRET", "hunter2");

/// Opens the leash and says so: the start of a script for [`Leash::hold`].
pub(crate) const UP: &str = "exec 9>\"$LEASH\"; echo up >&9";

/// Cases that count what the machine has run alone; all others run beside each other.
static MACHINE: RwLock<()> = RwLock::new(());

/// Where the commands of a case run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the host.
    Direct,
    /// In the embedded sandbox.
    Embedded,
    /// In the embedded sandbox, each command in one that was ready before it.
    EmbeddedWarm,
    /// In the embedded sandbox, each command in a sandbox that stays open.
    EmbeddedSession,
    /// On an OpenSandbox server.
    Opensandbox,
    /// On an OpenSandbox server, each command in a sandbox that stays open.
    OpensandboxSession,
}

/// Whether other cases may run meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    Beside,
    Alone,
}

/// What a case works with.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) place: Place,
    pub(crate) engine: Engine,
    /// Name of the test.
    case: &'static str,
    directory: PathBuf,
    /// Removes the directory; none in a process of its own, whose parent does.
    _owner: Option<TempDir>,
}

/// A descriptor that everything in a process tree inherits: as long as one process is left, the
/// other end knows.
#[derive(Debug)]
pub(crate) struct Leash {
    path: PathBuf,
    reader: Receiver,
    /// Until the tree holds the leash, this end does: a pipe without a writer is at its end.
    holder: Option<Sender>,
    /// An argument of processes that let go of the leash, or that the case must find.
    mark: String,
    /// The processes that have it.
    marked: Vec<OwnedFd>,
    heard: usize,
}

impl Place {
    /// The settings under which a sandbox is of this place.
    fn settings(self) -> Settings {
        let mut settings = Settings::default();
        if self == Self::EmbeddedWarm {
            settings.security.sandbox.pool = 2;
        }
        if self.is_on_a_server() {
            let sandbox = &mut settings.security.sandbox;
            sandbox.server_url = Some(server_variable("URL"));
            sandbox.api_key = Some(server_variable("KEY").into());
            sandbox.image = server_variable("IMAGE");
        }
        settings
    }

    pub(crate) fn is_on_a_server(self) -> bool {
        matches!(self, Self::Opensandbox | Self::OpensandboxSession)
    }

    /// How long a start may take that is no part of what a case measures.
    pub(crate) fn start(self) -> Duration {
        match self {
            Self::Direct | Self::Embedded | Self::EmbeddedWarm | Self::EmbeddedSession => {
                Duration::ZERO
            }
            // A container on a machine that is busy with others.
            Self::Opensandbox | Self::OpensandboxSession => Duration::from_secs(20),
        }
    }

    /// How much a command may have written that nobody has read.
    pub(crate) fn ahead(self) -> usize {
        match self {
            // What a pipe holds at most (`/proc/sys/fs/pipe-max-size`).
            Self::Direct | Self::Embedded | Self::EmbeddedWarm | Self::EmbeddedSession => 1 << 20,
            // What may be on its way from a server.
            Self::Opensandbox | Self::OpensandboxSession => 4 << 20,
        }
    }
}

/// What `.ci/opensandbox up` says of the server that it started: `TEST_OPENSANDBOX_<name>`, from the
/// environment or from the file that it wrote.
fn server_variable(name: &str) -> String {
    let name = format!("TEST_OPENSANDBOX_{name}");
    let file = || {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
        let text = fs::read_to_string(workspace.join("target/opensandbox/env")).ok()?;
        text.lines().find_map(|line| Some(line.strip_prefix(&name)?.strip_prefix('=')?.to_owned()))
    };
    env::var(&name).ok().or_else(file).unwrap_or_else(|| {
        panic!("no OpenSandbox server for the tests: run `.ci/opensandbox up` first ({name})")
    })
}

/// Runs one case, bounded in time.
pub(crate) fn run(
    place: Place,
    name: &'static str,
    sharing: Sharing,
    case: impl AsyncFnOnce(&Fixture),
) {
    let fixture = Fixture::new(place, name);
    let alone = sharing == Sharing::Alone && !fixture.is_own_process();
    let (_alone, _beside) = match alone {
        true => (Some(MACHINE.write().unwrap_or_else(PoisonError::into_inner)), None),
        false => (None, Some(MACHINE.read().unwrap_or_else(PoisonError::into_inner))),
    };
    let runtime = runtime();
    let result = runtime.block_on(async { timeout(BOUND, case(&fixture)).await });
    runtime.shutdown_background();
    result.expect("the case ends in time");
}

/// A runtime as an application has it.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Fixture {
    fn new(place: Place, name: &'static str) -> Self {
        // The harness knows a test by its path without the crate.
        let case = name.split_once("::").map_or(name, |(_, case)| case);
        let engine = match place {
            Place::EmbeddedSession | Place::OpensandboxSession => {
                let opened = Opened::new(place.settings());
                Engine::with_backend(place.settings(), Arc::new(opened))
            }
            _ => Engine::new(place.settings()),
        };
        let (directory, owner) = match env::var_os(OWN_PROCESS) {
            Some(directory) => (PathBuf::from(directory), None),
            None => {
                let owner = TempDir::new().unwrap();
                (owner.path().canonicalize().unwrap(), Some(owner))
            }
        };
        Self { place, engine, case, directory, _owner: owner }
    }

    /// A script for the shell, in this place.
    pub(crate) fn shell(&self, script: impl Into<String>) -> Exec {
        self.of(Command::Shell(script.into()))
    }

    /// A program with its arguments, in this place.
    pub(crate) fn argv<const N: usize>(&self, arguments: [&str; N]) -> Exec {
        self.of(Command::Argv(arguments.map(str::to_owned).to_vec()))
    }

    /// A program as text, in this place.
    pub(crate) fn script(&self, language: Option<&str>, source: impl Into<String>) -> Exec {
        self.of(Command::Script { language: language.map(str::to_owned), source: source.into() })
    }

    /// Any command, in this place.
    pub(crate) fn of(&self, command: Command) -> Exec {
        match self.place {
            Place::Direct => Exec::of(command).direct(),
            _ => Exec::of(command).sandbox(),
        }
    }

    /// Makes the directory of the case visible, writable and at the same path, as `$DIR`.
    pub(crate) fn share(&self, exec: Exec) -> Exec {
        let directory = self.directory();
        let exec = exec.env("DIR", directory.to_str().unwrap());
        match self.place {
            Place::Direct => exec,
            _ => exec.mount_at(Mount::new(directory, directory, MountMode::Rw)),
        }
    }

    /// As [`share`](Self::share), for every command of a sandbox.
    pub(crate) fn share_with(&self, new: NewSandbox) -> NewSandbox {
        let directory = self.directory();
        let new = new.env("DIR", directory.to_str().unwrap());
        new.mount_at(Mount::new(directory, directory, MountMode::Rw))
    }

    /// A sandbox that stays open, in this place.
    pub(crate) async fn create(&self, new: NewSandbox) -> Sandbox {
        self.engine.create(new).await.unwrap()
    }

    /// Whether files that a sandbox writes to a mount belong to whoever the mount belongs to.
    pub(crate) fn belongs_to_the_owner(&self) -> bool {
        !self.place.is_on_a_server()
    }

    /// The directory of the case, on the host.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a file in the directory of the case and returns its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).unwrap();
        path
    }

    pub(crate) async fn run(&self, exec: Exec) -> Output {
        self.warm(&exec).await.unwrap();
        let output = self.engine.run(exec).await.unwrap();
        match self.place {
            Place::Embedded => assert_eq!(output.start, Some(Start::Cold)),
            Place::EmbeddedWarm => assert_eq!(output.start, Some(Start::Warm)),
            _ => assert_eq!(output.start, None),
        }
        output
    }

    pub(crate) async fn spawn(&self, exec: Exec) -> Process {
        self.warm(&exec).await.unwrap();
        self.engine.spawn(exec).await.unwrap()
    }

    /// Makes a sandbox ready for a command, where that is what the place is about.
    pub(crate) async fn warm(&self, exec: &Exec) -> Result<(), Error> {
        match self.place {
            Place::EmbeddedWarm => self.engine.warm(exec.clone()).await,
            _ => Ok(()),
        }
    }

    /// The error of a request of which nothing must run.
    pub(crate) async fn refused(&self, exec: Exec) -> Error {
        // What is wrong with the sandbox is refused here already, and then again.
        let _ = self.warm(&exec).await;
        match self.engine.run(exec.clone()).await {
            Ok(output) => panic!("{exec:?} ran: {output:?}"),
            Err(error) => error,
        }
    }

    /// A leash for a process tree.
    pub(crate) fn leash(&self) -> Leash {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("leash-{}-{count}", process::id()));
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        Leash::open(&path, format!("0.{}{count:04}", process::id()))
    }

    /// Whether this process was started for this case alone.
    pub(crate) fn is_own_process(&self) -> bool {
        env::var_os(OWN_PROCESS).is_some()
    }

    /// This case again, in a process of its own, which knows [`SECRET`].
    pub(crate) fn own_process(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env::current_exe().unwrap());
        self.make_own_process(&mut command);
        command
    }

    /// As [`own_process`](Self::own_process), with a signal ignored from the start.
    pub(crate) fn own_process_that_ignores(&self, signal: &str) -> tokio::process::Command {
        let program = format!(
            "import os, signal, sys\n\
             signal.signal(signal.{signal}, signal.SIG_IGN)\n\
             os.execv(sys.argv[1], sys.argv[1:])"
        );
        let mut command = tokio::process::Command::new("python3");
        command.args(["-c", &program]).arg(env::current_exe().unwrap());
        self.make_own_process(&mut command);
        command
    }

    fn make_own_process(&self, command: &mut tokio::process::Command) {
        command.args([self.case, "--exact", "--include-ignored", "--nocapture"]);
        command.env(OWN_PROCESS, &self.directory).env(SECRET.0, SECRET.1);
        command.kill_on_drop(true);
    }

    /// Runs the rest of the case in a process of its own.
    pub(crate) async fn alone(&self, body: impl AsyncFnOnce()) {
        if self.is_own_process() {
            body().await;
        } else {
            succeeds(self.own_process()).await;
        }
    }
}

/// Runs a process of the case's own, which must pass.
pub(crate) async fn succeeds(mut command: tokio::process::Command) {
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    assert!(stdout.contains("1 passed"), "the case was not found: {stdout}");
}

impl Leash {
    fn open(path: &Path, mark: String) -> Self {
        let reader = OpenOptions::new().open_receiver(path).unwrap();
        let holder = OpenOptions::new().open_sender(path).unwrap();
        let marked = Vec::new();
        Self { path: path.into(), reader, holder: Some(holder), mark, marked, heard: 0 }
    }

    /// What a tree must find in its environment.
    pub(crate) fn variables(&self) -> [(&'static str, &str); 2] {
        [("LEASH", text(&self.path)), ("MARK", &self.mark)]
    }

    /// Puts a tree on the leash: a script takes it by [`UP`], and finds
    /// `$MARK`.
    pub(crate) fn hold(&self, fixture: &Fixture, exec: Exec) -> Exec {
        let exec = fixture.share(exec);
        self.variables().into_iter().fold(exec, |exec, (name, value)| exec.env(name, value))
    }

    /// Puts a tree on the leash in a sandbox that has the directory of the case.
    pub(crate) fn hold_inside(&self, fixture: &Fixture, exec: Exec) -> Exec {
        let exec = exec.env("DIR", text(fixture.directory()));
        self.variables().into_iter().fold(exec, |exec, (name, value)| exec.env(name, value))
    }

    /// Waits until `lines` lines were written to the leash, by processes that hold it.
    pub(crate) async fn up(&mut self, lines: usize) {
        let mut buffer = [0; 4096];
        while self.heard < lines {
            let n = self.reader.read(&mut buffer).await.unwrap();
            self.hear(&buffer[..n]);
        }
        self.holder = None;
        self.marked = marked(&self.mark).filter_map(pidfd).collect();
    }

    /// How many lines were written to the leash until now.
    pub(crate) fn heard(&mut self) -> usize {
        let mut buffer = [0; 4096];
        while let Ok(n) = rustix::io::read(&self.reader, &mut buffer)
            && n > 0
        {
            self.hear(&buffer[..n]);
        }
        self.heard
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.heard += bytes.iter().filter(|byte| **byte == b'\n').count();
    }

    /// Waits until no process holds the leash.
    pub(crate) async fn released(&mut self) {
        assert!(self.holder.is_none(), "wait for the tree first");
        let mut buffer = [0; 4096];
        while self.reader.read(&mut buffer).await.unwrap() > 0 {}
        for process in self.marked.drain(..) {
            ended(process).await;
        }
    }

    /// Kills the marked processes.
    pub(crate) fn kill_marked(&self) {
        assert!(!self.marked.is_empty());
        for process in &self.marked {
            rustix::process::pidfd_send_signal(process, Signal::KILL).unwrap();
        }
    }

    /// Whether any process is left at this moment.
    pub(crate) fn is_held(&self) -> bool {
        assert!(self.holder.is_none(), "wait for the tree first");
        let mut buffer = [0; 4096];
        loop {
            // The runtime may not have heard of the end yet; the kernel has.
            match rustix::io::read(self.reader.as_fd(), &mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(Errno::AGAIN) => return true,
                Err(error) => panic!("{error}"),
            }
        }
        marked(&self.mark).next().is_some()
    }

    /// Asserts that nothing of a command is left with its result. On a machine that is too busy the result
    /// says that the kill was not confirmed in time, and what is left goes soon afterwards.
    #[track_caller]
    pub(crate) fn is_gone(&mut self, output: &Output) -> impl Future<Output = ()> {
        let is_late =
            output.warnings.iter().any(|warning| warning.contains("not confirmed in time"));
        assert!(is_late || !self.is_held(), "a process is left after the result");
        async move {
            if is_late {
                self.released().await;
            }
        }
    }
}

/// The processes that have this argument.
fn marked(mark: &str) -> impl Iterator<Item = Pid> {
    entries("/proc").into_iter().filter_map(move |path| {
        let line = fs::read(path.join("cmdline")).ok()?;
        let found = line.split(|byte| *byte == 0).any(|argument| argument == mark.as_bytes());
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        if found { Pid::from_raw(pid) } else { None }
    })
}

/// A descriptor of a process; none when it is gone.
pub(crate) fn pidfd(pid: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits for the end of a process.
pub(crate) async fn ended(process: OwnedFd) {
    let wait = move || poll(&mut [PollFd::new(&process, PollFlags::IN)], None);
    assert_eq!(tokio::task::spawn_blocking(wait).await.unwrap(), Ok(1));
}

/// Reads events until standard output has said `text`; returns what it said.
pub(crate) async fn until(process: &mut Process, text: &str) -> String {
    let mut said = String::new();
    while !said.contains(text) {
        match process.next_event().await.unwrap() {
            Some(Event::Stdout(bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("before `{text}`: {said:?}, then {other:?}"),
        }
    }
    said
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The entries of a directory; none when it is gone.
pub(crate) fn entries(path: impl AsRef<Path>) -> Vec<PathBuf> {
    let read = |path: &Path| -> io::Result<Vec<PathBuf>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect()
    };
    read(path.as_ref()).unwrap_or_default()
}
