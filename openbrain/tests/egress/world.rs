//! A host with an internet of its own: network namespaces that end with the test.
//!
//! Every test is a *stage*: an ignored test of this binary in a process of its own, started by
//! `unshare` in a network and a mount namespace. There it makes the internet: a second network
//! namespace behind a pair of interfaces, with addresses for documentation (RFC 5737, RFC 3849),
//! which count as public, and the servers of `internet.py`.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use openbrain::{Denial, Engine, Exec, Mount, MountMode, NetworkUse, Output, Settings};

/// Set for stages.
pub const STAGE: &str = "OPENBRAIN_TEST_STAGE";

/// Defines a test whose body gets a [`World`] of its own.
macro_rules! stages {
    ($($(#[$meta:meta])* fn $name:ident($world:ident: &World) $body:block)*) => {
        mod stages {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[test]
                #[ignore = "runs in namespaces of its own"]
                fn $name() {
                    if std::env::var_os($crate::world::STAGE).is_some() {
                        let $world: &World = &World::new();
                        $body
                    }
                }
            )*
        }
        $(
            $(#[$meta])*
            #[test]
            fn $name() {
                $crate::world::stage(concat!(module_path!(), "::stages::", stringify!($name)));
            }
        )*
    };
}

/// Runs an ignored test of this binary in namespaces of its own.
pub fn stage(name: &str) {
    let name = name.split_once("::").unwrap().1;
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount"]);
    // SAFETY: takes no memory.
    if unsafe { libc::geteuid() } != 0 {
        // The same user inside, with power over the namespaces and over nothing else.
        command.args(["--map-current-user", "--keep-caps"]);
    }
    command.arg(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", name, "--nocapture", "--test-threads=1"]);
    let output = command.env(STAGE, "1").stdin(Stdio::null()).output().expect("unshare is there");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && out.contains("test result: ok. 1 passed"),
        "the stage failed, {}:\n{out}\n{err}",
        output.status
    );
    for line in err.lines().chain(out.lines()).filter(|line| line.starts_with("SKIPPED")) {
        eprintln!("{line}");
    }
}

/// The host and its internet.
pub struct World {
    folder: tempfile::TempDir,
    internet: Child,
    servers: Child,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // `cat` says when it is there, and ends with this process.
        let mut internet = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(internet.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        let pid = internet.id().to_string();
        for line in [
            "link set lo up",
            "link add up0 type veth peer name eth0 netns PID",
            "addr add 192.0.2.1/24 dev up0",
            "addr add 2001:db8::1/64 dev up0 nodad",
            "link set up0 up",
        ] {
            ip(&[], &line.replace("PID", &pid));
        }
        for line in [
            "link set lo up",
            "link set eth0 up",
            "addr add 192.0.2.2/24 dev eth0",
            "addr add 203.0.113.5/32 dev eth0",
            "addr add 10.9.9.9/32 dev eth0",
            "addr add 2001:db8::2/64 dev eth0 nodad",
            "addr add 2001:db8:1::5/128 dev eth0 nodad",
            "route add default via 192.0.2.1",
        ] {
            ip(&["nsenter", "--net", "--target", &pid], line);
        }
        ip(&[], "route add default via 192.0.2.2");
        ip(&[], "-6 route add default via 2001:db8::2");
        make_certificates(folder.path());
        let mut servers = Command::new("nsenter")
            .args(["--net", "--target", &pid, "/usr/bin/python3", "-c"])
            .arg(include_str!("internet.py"))
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(servers.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the servers of the internet did not start");
        let world = Self { folder, internet, servers };
        world.use_name_server("192.0.2.2");
        world
    }

    /// A path in the folder that the internet serves.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes this the host's name server, in this process's mounts alone.
    pub fn use_name_server(&self, address: &str) {
        let file = self.path("resolv.conf");
        fs::write(&file, format!("nameserver {address}\n")).unwrap();
        let real = fs::canonicalize("/etc/resolv.conf").unwrap_or("/etc/resolv.conf".into());
        let done = Command::new("mount").arg("--bind").args([&file, &real]).status().unwrap();
        assert!(done.success());
    }

    /// The names that the host's name server was asked for.
    pub fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("asked")).unwrap_or_default();
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    }

    /// Runs an `ip` command in the internet.
    pub fn ip_there(&self, line: &str) {
        ip(&["nsenter", "--net", "--target", &self.internet.id().to_string()], line);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.servers, &mut self.internet] {
            let _ = (child.kill(), child.wait());
        }
    }
}

/// A certificate authority, and a certificate of it for every name of the internet.
fn make_certificates(folder: &Path) {
    let script = r#"
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -keyout ca.key -out ca.pem -subj /CN=openbrain-test \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
            -keyout server.key -out server.csr -subj /CN=www.example
        echo "subjectAltName=DNS:www.example,DNS:four.example,DNS:six.example" > ext
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile ext -out server.crt
        cat server.crt server.key > server.pem; chmod 644 *"#;
    let done = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn ip(before: &[&str], line: &str) {
    let words: Vec<&str> = before.iter().copied().chain(["ip"]).chain(line.split(' ')).collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The engine with these lines in the network section of its settings.
pub fn engine(network: &str) -> Engine {
    let text = format!("{{security: {{sandbox: {{network: {network}}}}}}}");
    Engine::new(serde_yaml::from_str::<Settings>(&text).unwrap())
}

/// Runs a shell script in a sandbox with the default settings.
pub fn run(script: &str, change: impl FnOnce(Exec) -> Exec) -> Output {
    engine("{}").run_blocking(change(Exec::new(script).sandbox())).expect("the sandbox starts")
}

/// What a script prints on both streams.
pub fn said(output: &Output) -> String {
    output.stdout_text() + &output.stderr_text()
}

/// The refusal of a host, which must be among those of the result.
pub fn denial<'a>(output: &'a Output, what: &str) -> &'a Denial {
    let found = output.denials.iter().find(|denial| denial.what == what);
    found.unwrap_or_else(|| panic!("{what} is not in {:#?}", output.denials))
}

/// What was exchanged with a host, which must be in the result.
pub fn exchanged<'a>(output: &'a Output, host: &str, port: u16) -> &'a NetworkUse {
    let uses = &output.resources.network;
    let found = uses.iter().find(|used| used.host == host && used.port == port);
    found.unwrap_or_else(|| panic!("{host}:{port} is not in {uses:#?}"))
}

/// Lets a command trust the certificates of the internet, whatever it is written in.
pub fn trusting(world: &World) -> impl Fn(Exec) -> Exec {
    let ca = world.path("ca.pem");
    move |exec| {
        let inside = "/ca.pem";
        let names = ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO"];
        let more = ["PIP_CERT", "REQUESTS_CA_BUNDLE", "npm_config_cafile", "CARGO_HTTP_CAINFO"];
        let exec = exec.mount_at(Mount::new(&ca, inside, MountMode::Ro));
        names.iter().chain(&more).fold(exec, |exec, name| exec.env(*name, inside))
    }
}

/// Whether a program is where a sandbox finds it; says so when it is not.
pub fn has(program: &str) -> bool {
    let found = ["/usr/bin", "/usr/local/bin", "/usr/local/go/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists());
    if !found {
        eprintln!("SKIPPED: `{program}` is not installed");
    }
    found
}
