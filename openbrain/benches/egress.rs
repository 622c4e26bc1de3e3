//! The network of a sandbox beside a direct connection and beside its peers, in one run:
//! `cargo bench -p openbrain --bench egress`.
//!
//! The hosts are network namespaces of the benchmark's own, joined by a pair of interfaces; nothing
//! leaves the machine. Every round measures each contender once, in turn; what counts are the ratios.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use openbrain::{Engine, Exec, Mount, MountMode, Settings};

/// The host on the other side.
const HOST: &str = "203.0.113.5";
/// Ports of its servers: one byte at once, bytes without end, bytes for nobody.
const FIRST: u16 = 7;
const SOURCE: u16 = 8;
const SINK: u16 = 9;
/// What a transfer moves.
const SIZE: u64 = 1 << 30;
/// How many connections are made for one figure.
const CONNECTIONS: usize = 300;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("serve") => serve(),
        Some("client") => println!("{}", client(&arguments[2])),
        Some("stage") => stage(),
        _ => {
            let mut command = Command::new("unshare");
            command.args(["--net", "--mount"]);
            if !is_root() {
                command.args(["--map-current-user", "--keep-caps"]);
            }
            let status = command.arg(exe()).arg("stage").status().expect("unshare is there");
            assert!(status.success());
        }
    }
}

fn exe() -> PathBuf {
    env::current_exe().unwrap()
}

fn is_root() -> bool {
    // SAFETY: takes no memory.
    unsafe { libc::geteuid() == 0 }
}

fn serve() {
    let answer = |port: u16, with: fn(TcpStream)| {
        let listener = TcpListener::bind(("::", port)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || with(stream));
            }
        });
    };
    answer(FIRST, |mut stream| drop(stream.write_all(b"x")));
    answer(SOURCE, |mut stream| {
        let block = vec![7u8; 1 << 20];
        while stream.write_all(&block).is_ok() {}
    });
    answer(SINK, |mut stream| {
        let mut block = vec![0u8; 1 << 20];
        let mut left = SIZE;
        while left > 0 {
            match stream.read(&mut block) {
                Ok(0) | Err(_) => return,
                Ok(read) => left -= read as u64,
            }
        }
        let _ = stream.write_all(b"x");
    });
    println!("ready");
    loop {
        thread::park();
    }
}

/// Measures from where it runs; seconds.
fn client(what: &str) -> f64 {
    let mut block = vec![0u8; 1 << 20];
    let started = Instant::now();
    match what {
        "first" => {
            let mut times: Vec<Duration> = (0..CONNECTIONS)
                .map(|_| {
                    let started = Instant::now();
                    let mut stream = TcpStream::connect((HOST, FIRST)).unwrap();
                    stream.read_exact(&mut [0]).unwrap();
                    started.elapsed()
                })
                .collect();
            return median(&mut times).as_secs_f64();
        }
        "down" => {
            let mut stream = TcpStream::connect((HOST, SOURCE)).unwrap();
            let mut left = SIZE;
            while left > 0 {
                left = left.saturating_sub(stream.read(&mut block).unwrap() as u64);
            }
        }
        _ => {
            let mut stream = TcpStream::connect((HOST, SINK)).unwrap();
            for _ in 0..SIZE >> 20 {
                stream.write_all(&block).unwrap();
            }
            stream.read_exact(&mut [0]).unwrap();
        }
    }
    started.elapsed().as_secs_f64()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn stage() {
    let rounds: usize = env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(300);
    let (mut internet, mut server) = make_internet();
    start(rounds);
    for what in ["down", "up", "first"] {
        exchange(what, 5);
    }
    for child in [&mut server, &mut internet] {
        let _ = (child.kill(), child.wait());
    }
}

/// Two hosts, this one and the one with the servers.
fn make_internet() -> (Child, Child) {
    let mut internet = Command::new("unshare")
        .args(["--net", "sh", "-c", "echo; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(internet.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let pid = internet.id().to_string();
    let script = format!(
        "set -e; ip link set lo up
         ip link add up0 type veth peer name eth0 netns {pid}
         ip addr add 192.0.2.1/24 dev up0; ip link set up0 up
         there='nsenter --net --target {pid} ip'
         $there link set lo up; $there link set eth0 up
         $there addr add 192.0.2.2/24 dev eth0; $there addr add {HOST}/32 dev eth0
         ip route add default via 192.0.2.2"
    );
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let mut server = Command::new("nsenter")
        .args(["--net", "--target", &pid])
        .arg(exe())
        .arg("serve")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    (internet, server)
}

/// What a network adds to the start of a sandbox.
fn start(rounds: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
    let engine = Engine::new(Settings::default());
    type Contender = (&'static str, fn(Exec) -> Exec);
    let contenders: [Contender; 3] = [
        ("none", |exec| exec.allow_network(false)),
        ("open", |exec| exec.allow_network(true)),
        ("listed", |exec| exec.allow_port(80).allow_port(443).allow_domain("*.example")),
    ];
    let mut times = [const { Vec::new() }; 3];
    for round in 0..rounds + 5 {
        for ((_, change), times) in contenders.iter().zip(&mut times) {
            let started = Instant::now();
            let exec = change(Exec::argv(["true"]).sandbox());
            assert!(runtime.block_on(engine.run(exec)).unwrap().success());
            if round >= 5 {
                times.push(started.elapsed());
            }
        }
    }
    println!("start of a sandboxed `true`");
    let medians = times.map(|mut times| median(&mut times));
    for ((name, _), median) in contenders.iter().zip(medians) {
        let added = median.as_secs_f64() - medians[0].as_secs_f64();
        println!("  {name:<12} {median:>10.1?}   {:>+6.2} ms (goal: <= 1)", added * 1e3);
    }
}

/// One figure of every contender, beside a direct connection.
fn exchange(what: &str, rounds: usize) {
    type Contender = (&'static str, fn(&str) -> Option<f64>);
    let contenders: [Contender; 5] = [
        ("direct", |what| said(Command::new(exe()).args(["client", what]))),
        ("open", |what| sandboxed(what, |exec| exec)),
        ("listed", |what| {
            let ports = [FIRST, SOURCE, SINK].into_iter();
            sandboxed(what, |exec| ports.fold(exec, Exec::allow_port))
        }),
        ("pasta", pasta),
        ("slirp4netns", slirp4netns),
    ];
    let mut times = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        for ((_, measure), times) in contenders.iter().zip(&mut times) {
            times.extend(measure(what).map(Duration::from_secs_f64));
        }
    }
    println!("\n{what}");
    let direct = median(&mut times[0]).as_secs_f64();
    for ((name, _), mut times) in contenders.iter().zip(times) {
        if times.is_empty() {
            println!("  {name:<12} did not run");
            continue;
        }
        let time = median(&mut times).as_secs_f64();
        match what {
            "first" => println!(
                "  {name:<12} {:>8.3} ms   {:>+6.3} ms to direct (goal: <= 0.3)",
                time * 1e3,
                (time - direct) * 1e3
            ),
            _ => println!(
                "  {name:<12} {:>8.2} GiB/s   {:>5.2} x direct (goal: >= 0.5)",
                SIZE as f64 / (1u64 << 30) as f64 / time,
                direct / time
            ),
        }
    }
}

fn said(command: &mut Command) -> Option<f64> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let time = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
    if time.is_none() {
        eprintln!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    time
}

fn sandboxed(what: &str, change: impl FnOnce(Exec) -> Exec) -> Option<f64> {
    let exec = Exec::argv(["/bench", "client", what]).sandbox();
    let exec = change(exec.mount_at(Mount::new(exe(), "/bench", MountMode::Ro)));
    let output = Engine::new(Settings::default()).run_blocking(exec).unwrap();
    let time = output.stdout_text().trim().parse().ok();
    if time.is_none() {
        eprintln!("{} {:?}", output.stderr_text(), output.denials);
    }
    time
}

fn bwrap() -> Vec<String> {
    let exe = exe().into_os_string().into_string().unwrap();
    let bind = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--", &exe, "client"];
    bind.map(str::to_owned).to_vec()
}

fn pasta(what: &str) -> Option<f64> {
    let mut command = Command::new("pasta");
    command.args(["--config-net", "--quiet", "--foreground"]);
    if is_root() {
        command.args(["--netns-only", "--runas", "0"]);
    }
    // It starts the command before it has made the routes.
    let ready = "until ip route | grep -q default; do sleep 0.05; done; exec \"$0\" \"$@\"";
    said(command.args(["--", "sh", "-c", ready]).args(bwrap()).arg(what))
}

fn slirp4netns(what: &str) -> Option<f64> {
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "read go; exec \"$0\" \"$@\""]).args(bwrap()).arg(what);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    let mut network = Command::new("slirp4netns")
        .args(["--configure", "--mtu=65520", "--ready-fd=1", &client.id().to_string(), "tap0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let _ = network.stdout.take()?.read(&mut [0]);
    client.stdin.take()?.write_all(b"go\n").ok()?;
    let output = client.wait_with_output().ok()?;
    let _ = (network.kill(), network.wait());
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}
