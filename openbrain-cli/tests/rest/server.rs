//! A server of the test's own, and the processes that it starts.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use serde_json::Value;

use crate::{
    client::{Client, Reply},
    support::{Place, Ran},
};

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server on a port of its own, which dies with this.
pub(crate) struct Server {
    pub(crate) place: Place,
    pub(crate) address: String,
    child: Child,
    said: Arc<(Mutex<String>, Condvar)>,
}

/// A process that a test waits for.
pub(crate) struct Watched(OwnedFd);

impl Server {
    /// A server with the settings that everybody has.
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// A server with these settings, as YAML.
    pub(crate) fn with(settings: &str) -> Self {
        Self::at("127.0.0.1:0", settings, |_| {})
    }

    /// A server that listens there, whose command is changed before it is started.
    pub(crate) fn at(listen: &str, settings: &str, change: impl FnOnce(&mut Command)) -> Self {
        let place = Place::new();
        if !settings.is_empty() {
            place.file(".config/openbrain/settings.yaml", settings);
        }
        let mut command = place.command(&["serve", "--listen", listen]);
        change(&mut command);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::<(Mutex<String>, Condvar)>::default();
        let address = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the server ended: {said:?}");
            said.0.lock().unwrap().push_str(&line);
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.trim().to_owned();
            }
        };
        let log = Arc::clone(&said);
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                writeln!(log.0.lock().unwrap(), "{line}").unwrap();
                log.1.notify_all();
            }
        });
        Self { place, address, child, said }
    }

    /// The TCP address, as `Host` names it.
    pub(crate) fn host(&self) -> &str {
        self.address.strip_prefix("http://").unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Client {
        let address: SocketAddr = self.host().parse().unwrap();
        Client::new(address)
    }

    /// Sends one request on a connection of its own, with these header lines beside the usual ones.
    pub(crate) fn ask(&self, line: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Reply {
        let mut client = self.connect();
        client.send(line, self.host(), headers, body.as_ref());
        client.reply()
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask(&format!("GET {path}"), &[], "")
    }

    pub(crate) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.ask(&format!("POST {path}"), &[], body)
    }

    /// Runs a command by `POST /exec` and gives its result.
    #[track_caller]
    pub(crate) fn exec(&self, body: Value) -> Value {
        self.post("/exec", body.to_string()).status(200).json()
    }

    /// Starts a command by `POST /v1/execs` and gives its path.
    #[track_caller]
    pub(crate) fn create(&self, body: Value) -> String {
        let reply = self.post("/v1/execs", body.to_string()).status(202);
        reply.header("location").unwrap().to_owned()
    }

    /// Runs curl with these arguments where the server is.
    pub(crate) fn curl(&self, args: &[&str]) -> Ran {
        let mut command = Command::new("curl");
        self.place.surround(&mut command);
        command.args(["-sS", "--max-time", "60"]).args(args);
        Ran::of(command, b"")
    }

    /// What the server has said so far.
    pub(crate) fn said(&self) -> String {
        self.said.0.lock().unwrap().clone()
    }

    /// Waits until the server has said something that fits, and gives the line.
    #[track_caller]
    pub(crate) fn says(&self, fits: impl Fn(&str) -> bool) -> String {
        let (said, news) = &*self.said;
        let find = |said: &String| said.lines().find(|line| fits(line)).map(str::to_owned);
        let wait = |said: &mut String| find(said).is_none();
        let (said, _) = news.wait_timeout_while(said.lock().unwrap(), PATIENCE, wait).unwrap();
        find(&said).unwrap_or_else(|| panic!("it did not say so: {said}"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The server's own process.
    pub(crate) fn watch(&self) -> Watched {
        Watched(pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).unwrap())
    }

    /// Waits for its end and returns the exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        self.watch().wait();
        self.child.wait().unwrap().code()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// Its figure of this name and these labels.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").status(200).text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watched {
    /// Watches a process, which must be there.
    #[track_caller]
    pub(crate) fn process(pid: &str) -> Self {
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        Self(pidfd_open(pid, PidfdFlags::empty()).unwrap())
    }

    /// Watches the one process whose arguments are these, in whatever namespace, once it is there.
    #[track_caller]
    pub(crate) fn eventually(arguments: &[&str]) -> Self {
        let wanted = arguments.iter().flat_map(|argument| [argument.as_bytes(), b"\0"]);
        let wanted: Vec<u8> = wanted.flatten().copied().collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let folders = std::fs::read_dir("/proc").unwrap().flatten();
            let mut found = folders.filter(|folder| {
                std::fs::read(folder.path().join("cmdline")).is_ok_and(|found| found == wanted)
            });
            if let Some(folder) = found.next() {
                return Self::process(folder.file_name().to_str().unwrap());
            }
            // A shell that is about to become the program tells nobody.
            assert!(Instant::now() < deadline, "no process {arguments:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it is gone.
    #[track_caller]
    pub(crate) fn wait(&self) {
        let mut events = [PollFd::new(&self.0, PollFlags::IN)];
        let patience = Timespec::try_from(PATIENCE).unwrap();
        assert_eq!(poll(&mut events, Some(&patience)).unwrap(), 1, "the process is still there");
    }

    pub(crate) fn is_gone(&self) -> bool {
        let mut events = [PollFd::new(&self.0, PollFlags::IN)];
        poll(&mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }
}
