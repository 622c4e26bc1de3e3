//! `openbrain sandbox`: sandboxes that stay open between commands.

use std::{
    fs::{self, File},
    io::{Read, Write},
    process::Stdio,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::Timespec,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use crate::{
    support::{Going, Place, openbrain, sandboxes},
    tty::{resize, terminal},
};

/// A sandbox that is ended with the test.
struct Sandbox<'a> {
    place: &'a Place,
    id: String,
}

impl<'a> Sandbox<'a> {
    fn create(place: &'a Place, args: &[&str]) -> Self {
        let ran = place.run(&[&["sandbox", "create", "--timeout", "5m"], args].concat()).code(0);
        let id = ran.stdout.strip_suffix('\n').unwrap().to_owned();
        assert!(id.starts_with("sbx_"), "{ran:#?}");
        Self { place, id }
    }

    /// The process that holds it.
    fn holder(&self) -> Pid {
        let run =
            self.place.path().join("run/openbrain/sandboxes").join(format!("{}.sock", self.id));
        let inode = fs::read_to_string("/proc/net/unix").unwrap();
        let own = inode.lines().find(|line| line.contains(&format!("{}.new", self.id)));
        assert!(run.exists() && own.is_some(), "{inode}");
        let socket = format!("socket:[{}]", own.unwrap().split_whitespace().nth(6).unwrap());
        let holds = |pid: &i32| {
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let mut links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
            links.any(|link| link.to_string_lossy() == socket)
        };
        let all = fs::read_dir("/proc").unwrap().flatten();
        let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        Pid::from_raw(pids.find(holds).unwrap()).unwrap()
    }

    /// Runs a command in it and returns what that printed.
    fn prints(&self, command: &str) -> String {
        self.place.run(&["sandbox", "exec", &self.id, command]).code(0).stdout
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        self.place.run(&["sandbox", "kill", &self.id]);
    }
}

/// Waits until a process has ended.
fn gone(pid: Pid) {
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)), Ok(1), "{pid:?} lives");
}

#[test]
fn what_one_command_leaves_the_next_one_finds() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let mount = place.file("shared/file", "of the host");
    let mount = mount.strip_suffix("/file").unwrap();
    let args = ["--name", "work", "--label", "a=b", "-e", "X=of the sandbox", "--mount", mount];
    let sandbox = Sandbox::create(&place, &args);
    let run = |args: &[&str]| place.run(&[&["sandbox", "exec", "work"], args].concat());
    run(&["echo $X; pwd; cat file; echo more > file; echo kept > /tmp/kept"])
        .code(0)
        .prints("of the sandbox\n/workspace\nof the host");
    run(&["--", "cat", "/tmp/kept", "file"]).code(0).prints("kept\nmore\n");
    run(&["-e", "X=own", "-w", "/tmp", "echo $X; pwd"]).code(0).prints("own\n/tmp\n");
    assert_eq!(fs::read_to_string(format!("{mount}/file")).unwrap(), "more\n");
    run(&["exit 7"]).code(7);
    run(&["kill -9 $$"]).code(137);
    run(&["--timeout", "0.2", "sleep 100"]).code(124);
    run(&["no-such-program-here"]).code(127);
    run(&["--json", "echo on"]).code(0);
    let program = place.run_with(&["sandbox", "exec", "work"], "print(40 + 2)").code(0);
    assert_eq!(program.stdout, "42\n");
    let input = place.run_with(&["sandbox", "exec", "work", "cat"], "typed").code(0);
    assert_eq!(input.stdout, "typed");
    // It is listed, and only for its owner.
    let listed = place.run(&["sandbox", "list", "--json"]).code(0).json();
    assert_eq!(
        (&listed[0]["id"], &listed[0]["name"]),
        (&sandbox.id.as_str().into(), &"work".into())
    );
    assert_eq!((&listed[0]["labels"]["a"], &listed[1]), (&"b".into(), &serde_json::Value::Null));
    Place::new().run(&["sandbox", "list"]).code(0).prints("");
}

#[test]
fn a_sandbox_ends_when_it_is_told_to() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &["--name", "work"]);
    let holder = sandbox.holder();
    let mut going = place.start(&["sandbox", "exec", "work", "echo up; exec sleep 1000"]);
    going.wait_for("up");
    place.run(&["sandbox", "kill", "work"]).code(0).prints("work\n");
    assert_eq!(going.end(), Some(125));
    gone(holder);
    place.run(&["sandbox", "kill", "work"]).code(125).complains("there is no sandbox `work`");
    place.run(&["sandbox", "exec", "work", "true"]).code(125).complains("no sandbox `work`");
    place.run(&["sandbox", "list"]).code(0).prints("");
    let sockets = place.path().join("run/openbrain/sandboxes");
    assert_eq!(fs::read_dir(sockets).unwrap().count(), 0);
}

#[test]
fn a_sandbox_ends_with_its_time_and_with_its_holder() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let short = Sandbox::create(&place, &["--name", "short"]);
    place.run(&["sandbox", "renew", "short", "0.5"]).code(0);
    gone(short.holder());
    let killed = Sandbox::create(&place, &["--name", "killed"]);
    for (signal, name) in [(Signal::KILL, "killed"), (Signal::TERM, "told")] {
        let told;
        let holder = match name {
            "told" => {
                told = Sandbox::create(&place, &["--name", "told"]);
                told.holder()
            }
            _ => killed.holder(),
        };
        let mut going = place.start(&["sandbox", "exec", name, "echo up; exec sleep 1000"]);
        going.wait_for("up");
        kill_process(holder, signal).unwrap();
        gone(holder);
        assert_eq!(going.end(), Some(125));
        place.run(&["sandbox", "list"]).code(0).prints("");
    }
}

#[test]
fn an_abandoned_creation_leaves_nothing() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    // Nobody waits for the answer: standard input is closed at once.
    let order = r#"{"new":{},"settings":{"config":null,"runtime":null,"server_url":null,"image":null,"use_server_proxy":false,"ca_file":null,"request_timeout":null,"start_timeout":null,"extension":[]}}"#;
    for _ in 0..5 {
        let ran = place.run_with(&["sandbox", "hold"], format!("{order}\n"));
        let answered = ran.stdout.contains("sbx_");
        // Either it had answered before it saw that, and then it is listed, or there is none.
        let listed = place.run(&["sandbox", "list", "--json"]).code(0).json();
        assert_eq!(listed.as_array().unwrap().len(), usize::from(answered), "{ran:#?}");
        place.run(&["sandbox", "kill", "--all"]).code(0);
    }
}

#[test]
fn commands_in_the_background_are_read_from_an_offset() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &["--name", "work"]);
    let script = "echo one; echo two; echo bad >&2; read never < /tmp/fifo; echo three";
    sandbox.prints("mkfifo /tmp/fifo");
    let id = place.run(&["sandbox", "exec", "-d", "work", script]).code(0).stdout;
    let id = id.trim_end();
    let mut follow = place.start(&["sandbox", "logs", "-f", "work", id]);
    follow.wait_for("two");
    let logs = place.run(&["sandbox", "logs", "work", id, "--stdout-from", "4"]).code(0);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("two\n", "bad\n"));
    let listed = place.run(&["sandbox", "logs", "--list", "--json", "work"]).code(0).json();
    assert_eq!((&listed[0]["exec_id"], &listed[0]["status"]), (&id.into(), &().into()));
    sandbox.prints("echo > /tmp/fifo");
    assert_eq!(follow.end_with_output(), (Some(0), "three\n".into()));
    // The last one is meant when none is named; one that runs can be ended.
    let other = place.run(&["sandbox", "exec", "-d", "work", "echo up; exec sleep 1000"]).code(0);
    let mut follow = place.start(&["sandbox", "logs", "-f", "work"]);
    follow.wait_for("up");
    place.run(&["sandbox", "kill", "work", "--exec", other.stdout.trim_end()]).code(0);
    assert_eq!(follow.end(), Some(0));
    let listed = place.run(&["sandbox", "logs", "--list", "--json", "work"]).code(0).json();
    assert_eq!(
        (&listed[0]["status"]["exited"], &listed[1]["status"]),
        (&0.into(), &"cancelled".into())
    );
    let table = place.run(&["sandbox", "logs", "--list", "work"]).code(0).stdout;
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("EXEC"), "{table}");
    assert!(lines[1].starts_with(id) && lines[1].contains("exited 0"), "{table}");
    assert!(lines[2].contains("cancelled  echo up; exec sleep 1000"), "{table}");
    place.run(&["sandbox", "logs", "work", "exec_unknown"]).code(125).complains("no command");
}

#[test]
fn a_command_in_the_background_goes_on_until_the_end_of_the_sandbox() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    place.file(".config/openbrain/settings.yaml", "security: {sandbox: {timeout_seconds: 0.5}}\n");
    let sandbox = Sandbox::create(&place, &[]);
    let start = |args: &[&str]| {
        let script = "sleep 1; echo still there";
        place.run(&[&["sandbox", "exec", "-d"], args, &[&sandbox.id, script]].concat()).code(0)
    };
    start(&[]);
    let logs = place.run(&["sandbox", "logs", "-f", &sandbox.id]).code(0);
    assert_eq!(logs.stdout, "still there\n");
    start(&["--timeout", "100ms"]);
    let logs = place.run(&["sandbox", "logs", "-f", &sandbox.id]).code(0);
    assert_eq!(logs.stdout, "");
}

#[test]
fn a_sandbox_stands_still_when_paused() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &[]);
    place.run(&["sandbox", "pause", &sandbox.id]).code(0).prints("");
    place.run(&["sandbox", "exec", &sandbox.id, "true"]).code(125).complains("is paused");
    let listed = place.run(&["sandbox", "list", "--json"]).code(0).json();
    assert_eq!(listed[0]["paused"], true);
    place.run(&["sandbox", "resume", &sandbox.id]).code(0).prints("");
    assert_eq!(sandbox.prints("echo on"), "on\n");
}

#[test]
fn files_go_in_and_out() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &["--name", "work"]);
    let files = |args: &[&str]| place.run(&[&["sandbox", "files"], args].concat());
    let write = ["sandbox", "files", "write", "work", "/tmp/a"];
    place.run_with(&write, "hello").code(0).prints("");
    place.run_with(&[&write[..], &["--append"]].concat(), " there").code(0);
    files(&["cat", "work", "/tmp/a"]).code(0).prints("hello there");
    files(&["mkdir", "work", "/tmp/d/e"]).code(0);
    files(&["mv", "work", "/tmp/a", "/tmp/d/e/b.txt"]).code(0);
    let listed = files(&["ls", "work", "/tmp/d/e", "--json"]).code(0).json();
    assert_eq!((&listed[0]["path"], &listed[0]["size"]), (&"b.txt".into(), &11.into()));
    let found = files(&["find", "work", "/tmp", "*.txt", "--json"]).code(0).json();
    assert_eq!(found[0]["path"], "d/e/b.txt");
    assert_eq!(files(&["stat", "work", "/tmp/d", "--json"]).code(0).json()["kind"], "directory");
    place.file("tree/one", "1");
    place.file("tree/two/three", "3");
    assert!(files(&["upload", "work", "tree", "/tmp/up"]).code(0).stderr.contains("entries"));
    assert_eq!(sandbox.prints("cat /tmp/up/one /tmp/up/two/three"), "13");
    files(&["download", "work", "/tmp/up", "back"]).code(0);
    assert_eq!(fs::read_to_string(place.path().join("back/two/three")).unwrap(), "3");
    let archive = place.command(&["sandbox", "files", "download", "work", "/tmp/up", "-"]).output();
    let archive = archive.unwrap().stdout;
    place.run_with(&["sandbox", "files", "upload", "work", "-", "/tmp/again"], &archive).code(0);
    assert_eq!(sandbox.prints("cat /tmp/again/one /tmp/again/two/three"), "13");
    files(&["rm", "work", "/tmp/d"]).code(125).complains("/tmp/d");
    files(&["rm", "-r", "work", "/tmp/d"]).code(0);
    files(&["cat", "work", "/tmp/d/e/b.txt"]).code(125).complains("b.txt");
}

/// What is in a sandbox was named by whoever runs there.
#[test]
fn names_and_times_of_files_cannot_do_harm() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &[]);
    let script = "touch -d @300000000000 \"$(printf 'a\\033[2Jb\\nc')\" && ln -s \"$(printf 'x\\007')\" link";
    sandbox.prints(script);
    let listed = place.run(&["sandbox", "files", "ls", &sandbox.id, "."]).code(0).stdout;
    assert!(listed.contains(r"a\u{1b}[2Jb\nc") && listed.contains(r"link -> x\u{7}"), "{listed:?}");
    assert!(listed.contains("9999-12-31"), "{listed}");
}

/// Files are passed on as they come: a terabyte of nothing would not fit into memory.
#[test]
fn files_of_any_length_are_read_and_written() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &[]);
    sandbox.prints("truncate -s 70M long");
    let mut cat = place.command(&["sandbox", "files", "cat", &sandbox.id, "long"]);
    let mut cat = cat.stdout(Stdio::piped()).spawn().unwrap();
    let mut write = place.command(&["sandbox", "files", "write", &sandbox.id, "copy"]);
    let status = write.stdin(cat.stdout.take().unwrap()).status().unwrap();
    assert!(status.success() && cat.wait().unwrap().success());
    sandbox.prints("cmp long copy");
}

#[test]
fn logs_end_though_the_command_goes_on_writing() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &[]);
    place.run(&["sandbox", "exec", "-d", &sandbox.id, "yes"]).code(0);
    let logs = place.run(&["sandbox", "logs", &sandbox.id]).code(0);
    assert!(logs.stdout.lines().all(|line| line.starts_with(['y', '[']) || line.is_empty()));
}

#[test]
fn changes_are_shown_and_applied() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    place.file("work/old", "before\n");
    let sandbox = Sandbox::create(&place, &["--name", "work", "--mount", "work:overlay"]);
    let changes = |args: &[&str]| place.run(&[&["sandbox", "changes", "work"], args].concat());
    sandbox.prints("echo after > old; echo new > new; echo own > /tmp/own");
    let shown = changes(&["--json"]).code(0).json();
    let entries = shown["entries"].as_array().unwrap();
    let mut paths: Vec<_> = entries.iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/tmp/own", "/workspace/new", "/workspace/old"]);
    assert!(changes(&["--diff"]).code(0).stdout.contains("-before\n+after\n"));
    assert_eq!(fs::read_to_string(place.path().join("work/old")).unwrap(), "before\n");
    place.run(&["sandbox", "kill", "work"]).code(0);
    place.run(&["apply", shown["id"].as_str().unwrap()]).code(0);
    assert_eq!(fs::read_to_string(place.path().join("work/old")).unwrap(), "after\n");
    assert_eq!(fs::read_to_string(place.path().join("work/new")).unwrap(), "new\n");
}

#[test]
fn changes_that_cannot_be_saved_are_shown_all_the_same() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    place.file("work/old", "before\n");
    place.file(".local/state/openbrain/changes", "no directory");
    let sandbox = Sandbox::create(&place, &["--mount", "work:overlay"]);
    sandbox.prints(
        "echo after > old; cd /tmp; n=0; d=$(printf %0200d 0)
         while [ $n -lt 400 ]; do mkdir $d; cd $d; n=$((n+1)); done",
    );
    let ran = place.run(&["sandbox", "changes", &sandbox.id]).code(0);
    assert!(ran.stdout.contains("M /workspace/old\n"), "{ran:#?}");
    assert!(ran.stderr.contains("warning: the changes cannot be applied later"), "{ran:#?}");
    assert!(ran.stderr.contains("; make room there"), "{ran:#?}");
    assert!(ran.stderr.contains("warning: more has changed than is listed"), "{ran:#?}");
    assert!(!ran.stderr.contains("apply with"), "{ran:#?}");
    fs::remove_file(place.path().join(".local/state/openbrain/changes")).unwrap();
    let ran = place.run(&["sandbox", "changes", &sandbox.id]).code(0);
    assert!(ran.stderr.contains("saved; apply with: openbrain apply"), "{ran:#?}");
}

#[test]
fn a_port_is_reached_from_here() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &["--no-network"]);
    let server = "import http.server as h; h.HTTPServer(('127.0.0.1', 8000), h.SimpleHTTPRequestHandler).serve_forever()";
    sandbox.prints("echo it is here > /workspace/file");
    let args = ["sandbox", "exec", "-d", "--lang", "python", &sandbox.id, server];
    place.run(&args).code(0);
    let up = "until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8000))' 2>/dev/null; do sleep 0.05; done";
    sandbox.prints(up);
    let mut forward = place.start(&["sandbox", "port", &sandbox.id, "8000"]);
    let address = forward.line();
    let mut connection = std::net::TcpStream::connect(address.trim_end()).unwrap();
    connection.write_all(b"GET /file HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("it is here\n"), "{answer}");
    place.run(&["sandbox", "kill", &sandbox.id]).code(0);
    assert_eq!(forward.end(), Some(0));
    let other = Sandbox::create(&place, &[]);
    let args = ["sandbox", "port", &other.id, "8000", "--listen", "0.0.0.0:0"];
    place.run(&args).code(125).complains("not a loopback address");
}

#[test]
fn a_shell_sits_at_our_terminal() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &[]);
    let (ours, theirs) = terminal();
    let mut keyboard = File::from(ours.try_clone().unwrap());
    let mut command = place.command(&["sandbox", "exec", "-t", &sandbox.id]);
    command.stdin(theirs.try_clone().unwrap()).stderr(Stdio::inherit());
    let mut shell = Going::of(command);
    let mut types = |line: &str| keyboard.write_all(line.as_bytes()).unwrap();
    // What is typed is echoed: the marks are put together by the shell.
    types("stty size | sed 's/^/size /'; cd /tmp; echo mark''1\n");
    sees(&mut shell, "size 30 100");
    sees(&mut shell, "mark1");
    // Control-C ends what runs in front, and not the shell.
    types("sh -c \"echo wait''ing; exec sleep 1000\"\n");
    sees(&mut shell, "waiting");
    types("\x03");
    types("pwd; echo mark''2\n");
    sees(&mut shell, "/tmp");
    sees(&mut shell, "mark2");
    // Nor can what runs there type for us (TIOCSTI).
    types(
        "python3 -c 'import fcntl, termios\ntry: fcntl.ioctl(0, termios.TIOCSTI, b\"x\"); print(\"typed\")\nexcept OSError as e: print(\"refu\" + \"sed\")'\n",
    );
    sees(&mut shell, "refused");
    // What runs in front can be stopped, and goes on in front: a shell gives it the terminal first.
    let job = r#"trap 'echo go""ing' CONT; sleep 1000 & echo runs""now; wait; wait"#;
    types(&format!("sh -c \"{}\"\n", job.replace('"', "\\\"").replace('$', "\\$")));
    sees(&mut shell, "runsnow");
    types("\x1a");
    types("jobs | grep -c Stopped | sed 's/^/stopped /'; fg\n");
    sees(&mut shell, "stopped 1");
    sees(&mut shell, "going");
    types("\x03");
    types("jobs | wc -l | sed 's/^/left /'\n");
    sees(&mut shell, "left 0");
    // Another size is passed on. Only a terminal that controls openbrain sends the signal by itself.
    types("trap 'stty size | sed \"s/^/now /\"' WINCH; echo mark''3\n");
    sees(&mut shell, "mark3");
    resize(&ours, 40, 120);
    shell.signal(Signal::WINCH);
    sees(&mut shell, "now 40 120");
    types("exit 3\n");
    assert_eq!(shell.end(), Some(3));
}

/// Waits for a line that ends so: a shell writes its prompt and more before it.
#[track_caller]
fn sees(shell: &mut Going, expected: &str) {
    loop {
        let line = shell.line();
        assert!(!line.is_empty(), "the output ended before {expected:?}");
        if line.trim_end().ends_with(expected) {
            return;
        }
    }
}

#[test]
fn what_cannot_be_created_is_explained() {
    let place = Place::new();
    let create = |args: &[&str]| place.run(&[&["sandbox", "create"], args].concat());
    create(&["--mount", "/no/such/place"]).code(125).complains("/no/such/place");
    create(&["--name", "a b"]).code(125).complains("cannot be a name");
    let ran = create(&["--json", "--mount", "/no/such/place"]).code(125);
    assert_eq!(ran.json()["error"]["code"], "invalid_request");
    place.run(&["sandbox", "list"]).code(0).prints("");
}

/// What the sandbox could not reach is told to whoever ran the command, though another process relays.
#[test]
fn refusals_are_told_to_the_guest() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &["--allow-port", "443"]);
    let script = "import socket\ntry: socket.create_connection(('127.0.0.2', 1), 2)\nexcept OSError: pass\ntry: socket.create_connection(('192.0.2.1', 80), 2)\nexcept OSError: pass";
    let args = ["sandbox", "exec", "--json", "--lang", "python", &sandbox.id, script];
    let denials = place.run(&args).code(0).json()["denials"].clone();
    assert!(denials[0]["what"].as_str().unwrap().contains("192.0.2.1"), "{denials}");
}

/// A directory that others can write to is not trusted.
#[test]
fn an_open_directory_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let sockets = place.path().join("run/openbrain/sandboxes");
    fs::create_dir_all(&sockets).unwrap();
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o777)).unwrap();
    place.run(&["sandbox", "list"]).code(125).complains("not yours alone");
    place.run(&["sandbox", "create"]).code(125).complains("not yours alone");
}

/// The directory of the sockets may lie below what somebody mounts.
#[test]
fn a_sandbox_does_not_reach_the_others() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &[]);
    let (program, sockets) =
        (openbrain(), format!("{}:/run-dir", place.path().join("run").display()));
    let program = program.to_str().unwrap();
    let script = format!("{program} sandbox list; {program} sandbox kill {}", sandbox.id);
    let args = ["exec", "--sandbox", "--expose", program, "--mount", &sockets];
    let args = [&args[..], &["--env", "XDG_RUNTIME_DIR=/run-dir", "--env", "HOME=/tmp", &script]];
    let ran = place.run(&args.concat());
    assert!(ran.code != Some(0) && !ran.stdout.contains(&sandbox.id), "{ran:#?}");
    assert_eq!(sandbox.prints("echo there"), "there\n");
}

/// What is not remembered of long output is told where it was.
#[test]
fn logs_tell_of_what_they_lack() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &[]);
    place.run(&["sandbox", "exec", "-d", &sandbox.id, "seq 3000000"]).code(0);
    place.run(&["sandbox", "logs", "-f", &sandbox.id]).code(0);
    let logs = place.run(&["sandbox", "logs", &sandbox.id]).code(0).stdout;
    let missing = logs.lines().find_map(|line| line.strip_prefix("[openbrain: ")).unwrap();
    let missing: usize = missing.strip_suffix(" bytes omitted]").unwrap().parse().unwrap();
    let line = format!("\n[openbrain: {missing} bytes omitted]\n");
    let all: usize = (1..=3_000_000).map(|n: u32| n.to_string().len() + 1).sum();
    assert_eq!(logs.len() - line.len() + missing, all);
}

/// What a sandbox calls its files commands no terminal.
#[test]
fn names_in_errors_are_harmless() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &[]);
    let name = "/tmp/n\u{1b}]0;T\u{7}";
    let ran = place.run(&["sandbox", "files", "cat", &sandbox.id, name]);
    assert!(ran.code != Some(0) && ran.stderr.contains("/tmp/n\\u{1b}]0;T\\u{7}"), "{ran:#?}");
    assert!(!ran.stderr.contains('\u{1b}'), "{ran:#?}");
}

/// The way to the sockets is nobody else's to change.
#[test]
fn a_way_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a file away");
        return;
    }
    let place = Place::new();
    fs::create_dir_all(place.path().join("elsewhere")).unwrap();
    fs::create_dir_all(place.path().join("run")).unwrap();
    let link = place.path().join("run/openbrain");
    std::os::unix::fs::symlink("../elsewhere", &link).unwrap();
    place.run(&["sandbox", "list"]).code(0);
    std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
    place.run(&["sandbox", "list"]).code(125).complains("belongs to user 12345");
    place.run(&["sandbox", "create"]).code(125).complains("belongs to user 12345");
}

/// A guest that is killed takes its command along.
#[test]
fn a_killed_guest_leaves_no_command() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let sandbox = Sandbox::create(&place, &[]);
    sandbox.prints("mkfifo /tmp/fifo");
    let script = "echo up; exec 3<>/tmp/fifo; setsid sleep 1000 & wait";
    let mut going = place.start(&["sandbox", "exec", &sandbox.id, script]);
    going.wait_for("up");
    going.signal(Signal::KILL);
    going.end_unread();
    // Its daemon held the pipe open for writing: without it there is an end to read.
    let mut rest = String::new();
    let mut reader =
        place.command(&["sandbox", "exec", "--timeout", "20", &sandbox.id, "cat /tmp/fifo"]);
    let mut child = reader.stdout(Stdio::piped()).spawn().unwrap();
    let ended = "until ! pgrep -x sleep >/dev/null; do sleep 0.05; done; : > /tmp/fifo";
    place.run(&["sandbox", "exec", "--timeout", "20", &sandbox.id, ended]).code(0);
    child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(0), ""));
}
