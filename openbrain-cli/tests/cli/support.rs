//! A place of its own for each test, and the command run there.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// An empty home that is also the working directory.
pub(crate) struct Place(TempDir);

/// The command, which is built beside the test program, also when both have been copied elsewhere.
pub(crate) fn openbrain() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("openbrain");
    let built = Path::new(env!("CARGO_BIN_EXE_openbrain"));
    assert_eq!(program.file_name(), built.file_name());
    program
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// An OpenSandbox server.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) image: String,
}

/// A run that goes on.
pub(crate) struct Going {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file below the place and returns its name.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The command, with nothing of the surroundings of the tests.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(openbrain());
        self.surround(&mut command);
        command.args(args);
        command
    }

    /// Gives any command the surroundings of this place.
    pub(crate) fn surround(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"OPENBRAIN_") {
                command.env_remove(name);
            }
        }
        command.env_remove("OPEN_SANDBOX_API_KEY").env_remove("XDG_STATE_HOME");
        command.env("HOME", self.path()).env("XDG_CONFIG_HOME", self.path().join(".config"));
        command.env("XDG_RUNTIME_DIR", self.path().join("run"));
        command.current_dir(self.path()).stdin(Stdio::null());
    }

    /// Runs the command to its end with nothing to read.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args), b"")
    }

    /// Runs the command to its end with this to read.
    pub(crate) fn run_with(&self, args: &[&str], input: impl AsRef<[u8]>) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        Ran::of(command, input.as_ref())
    }

    /// The command with the OpenSandbox server of the tests.
    pub(crate) fn command_on(&self, server: &Server, args: &[&str]) -> Command {
        let Server { url, key, image } = server;
        let mut command = self.command(args);
        command.env("OPENBRAIN_SERVER_URL", url).env("OPENBRAIN_IMAGE", image);
        command.env("OPEN_SANDBOX_API_KEY", key);
        command
    }

    /// Starts the command.
    pub(crate) fn start(&self, args: &[&str]) -> Going {
        Going::of(self.command(args))
    }
}

impl Ran {
    /// Runs `command` to its end.
    pub(crate) fn of(mut command: Command, input: &[u8]) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let output = thread::scope(|scope| {
            scope.spawn(move || {
                // A command that does not read to the end is what some tests are about.
                stdin.map(|mut stdin| stdin.write_all(input));
            });
            child.wait_with_output().unwrap()
        });
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Asserts how it ended, and shows everything when it did not.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, Some(expected), "{self:#?}");
        self
    }

    /// Asserts what it printed, and that openbrain itself said nothing.
    #[track_caller]
    pub(crate) fn prints(self, expected: &str) -> Self {
        assert_eq!((self.stdout.as_str(), self.stderr.as_str()), (expected, ""), "{self:#?}");
        self
    }

    /// Asserts that openbrain itself said this, and that nothing was printed.
    #[track_caller]
    pub(crate) fn complains(self, expected: &str) -> Self {
        let ours = self.stderr.lines().all(|line| line.starts_with("openbrain: "));
        assert!(ours && self.stderr.contains(expected), "expected {expected:?} in {self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        self
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl Going {
    /// Starts `command`, its standard error being that of the tests.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Waits for this line of output.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, expected: &str) {
        let mut line = String::new();
        while line.trim_end() != expected {
            line.clear();
            let n = self.stdout.read_line(&mut line).unwrap();
            assert!(n > 0, "the output ended before {expected:?}");
        }
    }

    /// The next line of output.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    /// Waits for exactly these bytes, which need not be a line.
    pub(crate) fn wait_for_bytes(&mut self, expected: &[u8]) {
        let mut bytes = vec![0; expected.len()];
        self.stdout.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }

    /// Writes to the standard input, which must be a pipe.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end and returns the exit code.
    pub(crate) fn end(self) -> Option<i32> {
        self.end_with_output().0
    }

    /// Waits for the end and returns the exit code and the rest of the output.
    pub(crate) fn end_with_output(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }

    /// Waits for the end without reading any further.
    pub(crate) fn end_unread(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Closes our end of its standard output and waits for the end.
    pub(crate) fn end_closed(self) -> Option<i32> {
        let Self { mut child, stdout } = self;
        drop(stdout);
        child.wait().unwrap().code()
    }
}

impl Server {
    /// The server that the tests talk to: that of the environment, else that of the checkout.
    pub(crate) fn of_tests() -> Self {
        let [url, key, image] = ["URL", "KEY", "IMAGE"].map(Self::variable);
        Self { url, key, image }
    }

    /// What `.ci/opensandbox` says about the server of the tests.
    pub(crate) fn variable(name: &str) -> String {
        let name = format!("TEST_OPENSANDBOX_{name}");
        let written = || {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/opensandbox/env");
            let file = std::fs::read_to_string(file).unwrap_or_default();
            let line = file.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix('='));
            line.map(str::to_owned)
        };
        std::env::var(&name).ok().or_else(written).unwrap_or_else(|| {
            panic!("{name} is not set and no server was started: run `.ci/opensandbox up`")
        })
    }
}

/// Whether sandboxes work here; says so when not.
pub(crate) fn sandboxes() -> bool {
    let ran = Place::new().run(&["exec", "--json", "--sandbox", "true"]);
    let missing = ran.json()["error"]["code"] == "sandbox_unavailable";
    if missing {
        eprintln!("SKIPPED: no sandbox on this machine: {}", ran.json()["error"]["message"]);
    }
    !missing
}

/// Whether a program is installed; says so when not.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    if !found {
        eprintln!("SKIPPED: `{program}` is not installed");
    }
    found
}
