//! What is not reached, in every mode and every spelling, how fast, and what the result says.

use openbrain::{Exec, protect_port};

use crate::world::{World, denial, engine, run, said};

/// Tries to connect and says how that ended: `open` when a byte came back.
const CONNECT: &str = r#"
import socket, sys, time
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    start = time.time()
    try:
        with socket.create_connection((host.strip("[]"), int(port)), 9) as s:
            s.settimeout(9)
            s.sendall(b"GET /hello HTTP/1.0\r\n\r\n")
            end = "open" if s.recv(1) else "closed"
    except ConnectionRefusedError:
        end = "refused"
    except ConnectionResetError:
        end = "reset"
    except socket.gaierror:
        end = "no name"
    except OSError as error:
        end = type(error).__name__
    print(target, end, "slow" if time.time() - start > 3 else "fast")
"#;

fn connect(network: &str, targets: &[&str]) -> (openbrain::Output, Vec<String>) {
    connect_with(network, targets, |exec| exec)
}

fn connect_with(
    network: &str,
    targets: &[&str],
    change: impl FnOnce(Exec) -> Exec,
) -> (openbrain::Output, Vec<String>) {
    let mut argv = vec!["/usr/bin/python3", "-c", CONNECT];
    argv.extend(targets);
    let output = engine(network).run_blocking(change(Exec::argv(argv).sandbox())).unwrap();
    let lines: Vec<String> = output.stdout_text().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), targets.len(), "{}", said(&output));
    (output, lines)
}

/// Networks with egress, from open to narrow.
const MODES: [&str; 3] = [
    "{}",
    "{restrict_egress: true, allowed_ports: [80, 8080, 5432]}",
    "{restrict_egress: true, allowed_ports: [80, 8080, 5432], allowed_domains: ['*.example', db.internal]}",
];

stages! {
    fn what_is_not_public_is_unreachable_in_every_mode(_world: &World) {
        let own = std::net::TcpListener::bind("192.0.2.1:80").unwrap();
        let loopback = std::net::TcpListener::bind("127.0.0.1:8080").unwrap();
        let every = std::net::TcpListener::bind("[::]:5432").unwrap();
        for server in [&own, &loopback, &every] {
            server.set_nonblocking(true).unwrap();
        }
        let targets = [
            "127.0.0.1:8080", "[::1]:5432", "0.0.0.0:5432", "localhost:5432", "192.0.2.1:80",
            "[2001:db8::1]:5432", "10.9.9.9:5432", "10.9.9.9:80", "172.16.0.1:80", "192.168.1.1:80",
            "100.64.0.1:80", "169.254.169.254:80", "100.100.100.200:80", "168.63.129.16:80",
            "[fd00:ec2::254]:80", "[fe80::1]:80", "[::ffff:127.0.0.1]:8080", "[::ffff:10.9.9.9]:80",
            "[64:ff9b::7f00:1]:8080", "[64:ff9b::a09:909]:80", "[2002:7f00:1::]:8080",
            "[2002:a09:909::]:80", "[::127.0.0.1]:8080", "198.18.5.5:80", "224.0.0.1:80", "255.255.255.255:80",
            "2130706433:8080", "0177.0.0.1:8080", "0x7f.1:8080", "0xa090909:80", "10.592137:80",
            "loop.example:8080", "own.example:80", "lan.example:80", "meta.example:80",
            "zero.example:5432", "mapped.example:8080", "nat64.example:8080", "sixtofour.example:8080",
            "db.internal:5432", "alias-lan.example:80",
        ];
        for network in MODES {
            let (_, lines) = connect(network, &targets);
            for line in lines {
                assert!(!line.contains("open") && line.ends_with("fast"), "{network}: {line}");
            }
        }
        for server in [own, loopback, every] {
            let error = server.accept().unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "the host was reached");
        }
    }

    fn without_network_everything_fails_at_once(_world: &World) {
        for network in ["{allow_egress: false}", "{block_egress: true}"] {
            let (output, lines) = connect(network, &["203.0.113.5:80", "[2001:db8:1::5]:80", "www.example:80", "192.0.2.1:80"]);
            for line in lines {
                assert!(!line.contains("open") && line.ends_with("fast"), "{line}");
            }
            assert_eq!(output.isolation.network, "none");
        }
    }

    fn a_denied_port_is_refused_at_once_and_counted(_world: &World) {
        let network = "{restrict_egress: true, allowed_ports: [80]}";
        let (output, lines) = connect(network, &["www.example:80", "www.example:8080", "203.0.113.5:22", "[2001:db8:1::5]:25"]);
        assert_eq!(lines, [
            "www.example:80 open fast",
            "www.example:8080 refused fast",
            "203.0.113.5:22 refused fast",
            "[2001:db8:1::5]:25 refused fast",
        ]);
        for what in ["www.example:8080", "203.0.113.5:22", "[2001:db8:1::5]:25"] {
            let denial = denial(&output, what);
            assert_eq!(denial.reason, "the port is not in `allowed_ports`");
            assert!(denial.remedy.as_ref().unwrap().contains("--allow-port"), "{denial:?}");
        }
        assert_eq!(denial(&output, "203.0.113.5:22").count, 1);
    }

    fn a_denied_address_is_told_with_the_setting(_world: &World) {
        let (output, lines) = connect("{}", &["10.9.9.9:5432", "169.254.169.254:80"]);
        assert_eq!(lines, ["10.9.9.9:5432 reset fast", "169.254.169.254:80 reset fast"]);
        let private = denial(&output, "10.9.9.9:5432");
        assert_eq!((private.host.as_deref(), private.port, private.count), (Some("10.9.9.9"), Some(5432), 1));
        assert!(private.remedy.as_ref().unwrap().contains("--allow-host 10.9.9.9:5432"));
        assert_eq!(denial(&output, "169.254.169.254:80").reason, "the address is a metadata service");
    }

    fn a_denied_name_does_not_resolve_and_is_not_asked_for(world: &World) {
        let network = "{restrict_egress: true, allowed_domains: [www.example, '*.wild.example']}";
        let (output, lines) = connect(network, &[
            "www.example:80", "WWW.Example.:80", "a.wild.example:80", "b.a.wild.example:80",
            "wild.example:80", "evilwild.example:80", "four.example:80", "a.wild.example.evil.example:80",
            "secret-data.evil.example:80",
        ]);
        let ends: Vec<_> = lines.iter().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(ends[..4], ["open fast"; 4]);
        assert_eq!(ends[4..], ["no name fast"; 5]);
        let asked = world.asked();
        assert!(asked.iter().any(|name| name == "www.example"));
        assert!(asked.iter().all(|name| !name.contains("evil") && name != "wild.example"), "{asked:?}");
        assert!(denial(&output, "four.example").remedy.as_ref().unwrap().contains("--allow-domain four.example"));
    }

    fn an_empty_list_allows_nothing(world: &World) {
        for network in [
            "{restrict_egress: true, allowed_ports: []}",
            "{restrict_egress: true, allowed_domains: []}",
            "{restrict_egress: true, allowed_ports: [], allowed_domains: []}",
        ] {
            let (_, lines) = connect(network, &["www.example:80", "203.0.113.5:80", "203.0.113.5:443"]);
            assert!(lines.iter().all(|line| !line.contains("open")), "{network}: {lines:?}");
        }
        assert_eq!(world.asked(), [""; 0]);
    }

    fn udp_is_refused_and_told(_world: &World) {
        let script = "python3 -c \"
import socket
for target in [('203.0.113.5', 443), ('8.8.8.8', 53)]:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3)
    s.connect(target)
    try:
        s.send(b'x')
        s.recv(9)
    except ConnectionRefusedError:
        print('refused')
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
except OSError:
    print('no ping')
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
except OSError:
    print('no raw socket')\"";
        let output = run(script, |exec| exec);
        assert_eq!(output.stdout_text(), "refused\nrefused\nno ping\nno raw socket\n", "{}", said(&output));
        for what in ["203.0.113.5:443", "8.8.8.8:53"] {
            assert_eq!(denial(&output, what).reason, "UDP is not relayed");
        }
    }

    fn hosts_open_a_private_service_and_nothing_beside_it(_world: &World) {
        let targets = ["10.9.9.9:5432", "10.9.9.9:80", "db.internal:5432", "lan.example:5432", "www.example:80"];
        for (hosts, expected) in [
            ("10.9.9.9:5432", [true, false, true, true, true]),
            ("10.9.0.0/16:80", [false, true, false, false, true]),
            ("db.internal:5432", [false, false, true, false, true]),
            ("10.0.0.0/8", [true, true, true, true, true]),
        ] {
            let (output, lines) = connect_with("{}", &targets, |exec| exec.allow_host(hosts));
            let found: Vec<bool> = lines.iter().map(|line| line.contains("open")).collect();
            assert_eq!(found, expected, "{hosts}: {lines:?}");
            assert!(output.isolation.network.contains(hosts));
        }
    }

    fn a_service_on_the_hosts_loopback_can_be_opened_by_its_port(_world: &World) {
        // In a process of its own, as services are.
        let server = "import http.server as h; h.HTTPServer(('127.0.0.1', 11434), h.SimpleHTTPRequestHandler).serve_forever()";
        let mut server = std::process::Command::new("/usr/bin/python3").args(["-c", server]).stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null()).spawn().unwrap();
        while std::net::TcpStream::connect("127.0.0.1:11434").is_err() {
            std::thread::yield_now();
        }
        for (network, expected) in [(MODES[0], true), (MODES[1], true), (MODES[2], true)] {
            let targets = ["localhost:11434", "127.0.0.1:11434", "127.0.0.1:11435"];
            let (output, lines) = connect_with(network, &targets, |exec| exec.allow_host("localhost:11434"));
            let found: Vec<bool> = lines.iter().map(|line| line.contains("open")).collect();
            assert_eq!(found, [expected, expected, false], "{network} {lines:?}");
let uses = output.resources.network.iter();
            assert_eq!(uses.map(|used| used.connections).sum::<u64>(), 2);
            let (_, lines) = connect(network, &["localhost:11434"]);
            assert!(lines[0].contains("refused"), "{lines:?}");
        }
        protect_port(11434);
        let (output, lines) = connect_with("{}", &["127.0.0.1:11434"], |exec| exec.allow_host("localhost:11434"));
        assert!(!lines[0].contains("open"), "{lines:?}");
        assert_eq!(denial(&output, "127.0.0.1:11434").reason, "the port controls openbrain itself");
        server.kill().unwrap();
        server.wait().unwrap();
    }

    fn the_sandboxs_own_loopback_is_its_own(_world: &World) {
        for network in ["{}", "{restrict_egress: true, allowed_ports: [80, 8080]}"] {
            let script = "python3 -c \"
import socket
a = socket.create_server(('127.0.0.1', 8080))
b = socket.create_server(('::1', 8081), family=socket.AF_INET6)
c = socket.create_server(('0.0.0.0', 8082))
for target in [('127.0.0.1', 8080), ('::1', 8081), ('localhost', 8082)]:
    socket.create_connection(target, 3).close()
print('own')\"";
            let output = engine(network).run_blocking(Exec::new(script).sandbox()).unwrap();
            assert_eq!(output.stdout_text(), "own\n", "{}", said(&output));
            assert_eq!(output.denials, []);
        }
    }

    fn many_refusals_are_counted_and_bounded(_world: &World) {
        let script = "python3 -c \"
import socket
for n in range(600):
    try:
        socket.create_connection(('10.0.%d.%d' % (n // 200, n % 200 + 1), 80), 3).recv(1)
    except OSError:
        pass\"";
        let output = run(script, |exec| exec);
        assert_eq!(output.denials.len(), 256, "{}", said(&output));
        assert_eq!(output.denials.iter().map(|denial| denial.count).sum::<u64>(), 600);
    }
}
