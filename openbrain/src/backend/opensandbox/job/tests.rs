//! Bridges without an agent: a directory of this machine, the helper, and what it prints.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Stdio},
};

use tempfile::TempDir;

use super::{Content, Job};
use crate::{
    backend::{
        helper::{
            ended, start,
            wire::{self, Letter, bridge, letter, report},
        },
        opensandbox::parcel::{Parcel, Parcels},
    },
    exec::{Exec, Stdin},
    output::Status,
    sandbox::Limits,
    spec::{InheritEnv, Place, Spec},
};

struct Bridge {
    job: Job,
    directory: TempDir,
    child: Child,
    stdout: ChildStdout,
    parcels: Parcels,
    waiting: std::vec::IntoIter<Parcel>,
    written: u32,
    letters: u32,
}

impl Bridge {
    fn start(exec: Exec) -> Self {
        let job = Job::new(&spec(exec)).unwrap();
        let directory = TempDir::new().unwrap();
        for file in &job.files {
            let bytes = match &file.content {
                Content::Static(bytes) => bytes.to_vec(),
                Content::Bytes(bytes) => bytes.clone(),
                Content::File(file, _) => {
                    let mut bytes = Vec::new();
                    (&mut &*file).read_to_end(&mut bytes).unwrap();
                    bytes
                }
            };
            let name = if file.executable { "image" } else { file.name };
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        // A program that this process had open for writing could not be executed while a child of
        // another thread has inherited that descriptor.
        let script = "cd \"$0\" && cp image openbrain && rm image && chmod 700 openbrain && \
                      exec ./openbrain \"$0\"";
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .arg(directory.path())
            .env("MINE", "no")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (parcels, waiting) = (Parcels::default(), Vec::new().into_iter());
        Self { job, directory, child, stdout, parcels, waiting, written: 0, letters: 0 }
    }

    fn next(&mut self) -> Option<Parcel> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(parcel) = self.waiting.next() {
                return Some(parcel);
            }
            let length = self.stdout.read(&mut buffer).unwrap();
            if length == 0 {
                assert_eq!(self.parcels.rest(), "");
                return None;
            }
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            self.waiting = self.parcels.push(text).unwrap().into_iter();
        }
    }

    /// Everything until the end: output, errors, the last report, the rest.
    fn finish(mut self) -> (Vec<u8>, Vec<u8>, wire::Report, Vec<PathBuf>) {
        let (mut out, mut err, mut last) = (Vec::new(), Vec::new(), wire::Report::default());
        while let Some(parcel) = self.next() {
            match parcel {
                Parcel::Stdout(bytes) => {
                    self.send(letter::CREDIT, bytes.len() as u32);
                    out.extend(bytes);
                }
                Parcel::Stderr(bytes) => err.extend(bytes),
                Parcel::Report(report) => last = report,
                Parcel::Taken | Parcel::Closed => {}
            }
        }
        self.child.wait().unwrap();
        let left = fs::read_dir(self.directory.path()).unwrap();
        let left = left.map(|entry| entry.unwrap().path()).collect();
        (out, err, last, left)
    }

    /// Puts a file where the bridge finds it, complete from its first moment.
    fn put(&self, name: &str, content: &[u8]) {
        let path = self.directory.path().join(name);
        let hidden = Path::new(&path).with_file_name(format!(".{name}"));
        fs::write(&hidden, content).unwrap();
        fs::rename(hidden, path).unwrap();
    }

    fn send(&mut self, kind: u32, value: u32) {
        let name = format!("{}{}", bridge::LETTERS as char, self.letters);
        self.put(&name, wire::bytes_of(&Letter { kind, value }));
        self.letters += 1;
    }

    fn write(&mut self, bytes: &[u8]) {
        let name = format!("{}{}.{}", bridge::PIECE as char, self.written, bytes.len());
        self.put(&name, bytes);
        self.written += 1;
    }

    /// Waits until the command runs: from then on the bridge looks at its directory.
    fn started(mut self) -> Self {
        let first = self.next();
        let Some(Parcel::Report(report)) = first else { panic!("{first:?}") };
        assert_eq!(report.kind, report::STARTED);
        self
    }

    fn until(&mut self, wanted: &Parcel) {
        loop {
            let found = self.next().expect("the bridge has ended");
            if found == *wanted {
                return;
            }
        }
    }
}

fn spec(exec: Exec) -> Spec {
    let Exec { command, workdir, env, stdin, tty, .. } = exec;
    Spec {
        place: Place::Direct,
        command,
        shell: "/bin/sh".into(),
        timeout: None,
        workdir,
        env,
        inherit_env: InheritEnv::All,
        changes: false,
        stdin,
        tty,
        limits: Limits::default(),
        warnings: Vec::new(),
    }
}

fn exec(script: &str) -> Exec {
    Exec::new(script).workdir("/")
}

#[test]
fn output_and_status_are_exact() {
    let script = "printf 'a\\r\\n\\377'; printf '\\n' >&2; echo $MINE >&2; exit 3";
    let (out, err, last, _) = Bridge::start(exec(script).env("MINE", "yes")).finish();
    assert_eq!((out.as_slice(), err.as_slice()), (&b"a\r\n\xff"[..], &b"\nyes\n"[..]));
    assert_eq!(last.kind, report::ENDED);
    assert_eq!(ended(&last, None).status, Status::Exited(3));
}

#[test]
fn the_start_is_told_with_the_words_of_the_plan() {
    let mut bridge = Bridge::start(exec("true").workdir("/no/such/directory"));
    let Some(Parcel::Report(report)) = bridge.next() else { panic!("no report") };
    let failure = start(&report, &bridge.job.program).unwrap().unwrap_err();
    assert!(format!("{failure:?}").contains("/no/such/directory"), "{failure:?}");
}

#[test]
fn much_output_arrives_as_credit_allows() {
    let script = "head -c 20000000 /dev/zero | tr '\\0' x; kill -9 $$";
    let (out, _, last, _) = Bridge::start(exec(script)).finish();
    assert!(out.len() == 20_000_000 && out.iter().all(|byte| *byte == b'x'));
    assert_eq!(ended(&last, None).status, Status::Signaled(libc::SIGKILL));
    assert!(last.cpu_us > 0 && last.max_rss > 0);
}

#[test]
fn input_arrives_in_pieces() {
    let mut bridge = Bridge::start(exec("cat").stdin(Stdin::Pipe)).started();
    let big = vec![7u8; 300_000];
    for piece in [&b"one\n"[..], &big, b"", b"last"] {
        bridge.write(piece);
        bridge.until(&Parcel::Taken);
    }
    let count = bridge.written;
    bridge.send(letter::END, count);
    let (.., last, left) = bridge.finish();
    assert_eq!(ended(&last, None).status, Status::Exited(0));
    // The last one of each kind is left to the end of the sandbox.
    let is_piece =
        |path: &&PathBuf| path.file_name().unwrap().as_encoded_bytes()[0] == bridge::PIECE;
    assert_eq!(left.iter().filter(is_piece).count(), 1, "{left:?}");
}

#[test]
fn a_reader_that_stops_is_told() {
    let mut bridge =
        Bridge::start(exec("exec <&-; read x; sleep 1000").stdin(Stdin::Pipe)).started();
    bridge.write(&[7; 200_000]);
    bridge.until(&Parcel::Closed);
    bridge.send(letter::ORDER, libc::SIGKILL as u32);
    assert_eq!(ended(&bridge.finish().2, None).status, Status::Signaled(libc::SIGKILL));
}

#[test]
fn a_terminal_is_one() {
    let script =
        "stty size; trap 'stty size; exit 4' WINCH; echo ready; read line; cat; echo $line";
    let mut bridge = Bridge::start(exec(script).tty(24, 80));
    let (mut said, mut typed) = (String::new(), false);
    let last = loop {
        match bridge.next().unwrap() {
            Parcel::Stdout(bytes) => said.push_str(&String::from_utf8(bytes).unwrap()),
            Parcel::Report(last) if last.kind == report::ENDED => break last,
            _ => {}
        }
        if said.contains("ready") && !typed {
            typed = true;
            bridge.write(b"hello\n");
            bridge.send(letter::END, 1);
        }
    };
    assert_eq!(said, "24 80\r\nready\r\nhello\r\nhello\r\n");
    assert_eq!(ended(&last, None).status, Status::Exited(0));
    let mut bridge = Bridge::start(exec(script).tty(24, 80));
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("ready") {
        if let Some(Parcel::Stdout(bytes)) = bridge.next() {
            said.extend(bytes);
        }
    }
    bridge.send(letter::RESIZE, 40 << 16 | 132);
    assert_eq!(ended(&bridge.finish().2, None).status, Status::Exited(4));
}

/// Whoever kills the bridge ends the command, its daemons included.
#[test]
fn a_killed_bridge_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let fifo = directory.path().join("leash");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let script = format!("exec 9>{}; setsid sleep 1000 & echo up >&9; wait", fifo.display());
    let mut bridge = Bridge::start(exec(&script));
    let mut leash = fs::File::open(&fifo).unwrap();
    let mut up = [0; 3];
    leash.read_exact(&mut up).unwrap();
    bridge.child.kill().unwrap();
    bridge.child.wait().unwrap();
    assert_eq!(leash.read(&mut up).unwrap(), 0);
}
