//! Names: rebinding, chains, servers that lie, are slow, or say nothing.

use openbrain::Exec;

use crate::world::{World, denial, engine, exchanged, run, said};

const GET: &str = "curl -sS -m 9 http://";

stages! {
    fn a_name_that_leads_inside_does_not_resolve(_world: &World) {
        for name in ["loop", "lan", "meta", "own", "zero", "mapped", "nat64", "sixtofour", "alias-lan"] {
            let name = format!("{name}.example");
            let output = run(&format!("{GET}{name}/hello"), |exec| exec);
            assert!(said(&output).contains("Could not resolve"), "{name}: {}", said(&output));
            assert!(!denial(&output, &name).reason.is_empty());
        }
    }

    fn of_several_addresses_the_public_ones_are_used(_world: &World) {
        for name in ["mixed.example", "several.example", "alias.example"] {
            let output = run(&format!("{GET}{name}/hello"), |exec| exec);
            assert!(output.stdout_text().contains("hello"), "{name}: {}", said(&output));
        }
    }

    fn an_answer_that_changes_is_checked_again(_world: &World) {
        // The first answer is public and believed for five seconds, every later one is private.
        let script = format!("{GET}changing.example/hello; sleep 5.2; {GET}changing.example/hello");
        let output = run(&script, |exec| exec);
        assert_eq!(output.stdout_text().matches("hello").count(), 1, "{}", said(&output));
        assert!(output.denials.iter().any(|denial| denial.reason == "the address is private"));
    }

    fn chains_without_an_end_are_no_names(_world: &World) {
        for name in ["alias-loop.example", "alias-none.example", "nothing.example", "none.example"] {
            let output = run(&format!("{GET}{name}/hello"), |exec| exec);
            assert!(said(&output).contains("Could not resolve"), "{name}: {}", said(&output));
            assert!(output.duration.as_secs() < 9);
        }
    }

    fn a_cut_answer_is_asked_for_again(_world: &World) {
        let output = run(&format!("{GET}cut.example/hello"), |exec| exec);
        assert!(output.stdout_text().contains("hello"), "{}", said(&output));
    }

    fn somebody_elses_answers_are_ignored(_world: &World) {
        let output = run(&format!("{GET}noisy.example/hello"), |exec| exec);
        assert!(output.stdout_text().contains("hello"), "{}", said(&output));
    }

    fn a_slow_server_holds_up_nobody_else(_world: &World) {
        let script = format!("{GET}slow.example/hello & {GET}www.example/hello; date +%s%N; wait; date +%s%N");
        let output = run(&script, |exec| exec);
        let text = output.stdout_text();
        let times: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
        assert_eq!(text.matches("hello").count(), 2, "{}", said(&output));
        assert!(times[1] - times[0] > 800_000_000, "{text}");
    }

    fn a_server_that_says_nothing_or_nonsense_is_a_failure_in_time(_world: &World) {
        for name in ["silent.example", "garbage.example", "failing.example"] {
            let output = run(&format!("curl -sS -m 30 http://{name}/hello"), |exec| exec);
            assert!(said(&output).contains("Could not resolve"), "{name}: {}", said(&output));
            assert!(output.duration.as_secs() < 29, "{name}: {:?}", output.duration);
        }
    }

    fn without_a_name_server_names_fail_and_addresses_work(world: &World) {
        world.use_name_server("192.0.2.99");
        let output = run("curl -sS -m 3 http://203.0.113.5/hello; curl -sS -m 3 http://www.example/hello", |exec| exec);
        assert_eq!(output.stdout_text(), "hello over v4\n", "{}", said(&output));
    }

    fn names_of_the_hosts_own_table_are_known(world: &World) {
        let file = world.path("hosts");
        std::fs::write(&file, "203.0.113.5 table.example\n10.9.9.9 db.table\n").unwrap();
        let done = std::process::Command::new("mount").arg("--bind").arg(&file).arg("/etc/hosts").status();
        assert!(done.unwrap().success());
        let output = run(&format!("{GET}table.example/hello; {GET}db.table/hello"), |exec| exec.allow_host("db.table:80"));
        assert_eq!(output.stdout_text(), "hello over v4\nhello over v4\n", "{}", said(&output));
    }

    fn other_questions_are_passed_on_where_every_name_is_allowed(world: &World) {
        let ask = r#"
import socket, struct
def ask(name, kind):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(9)
    s.connect(("198.18.0.2", 53))
    q = b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0" + struct.pack(">HH", kind, 1)
    s.send(b"ab\1\0\0\1\0\0\0\0\0\0" + q)
    r = s.recv(600)
    assert r[:2] == b"ab"
    return r[3] & 15, struct.unpack(">H", r[6:8])[0]
print(ask("www.example", 16), ask("secret.evil.example", 16), ask("secret.evil.example", 10))
"#;
        let script = Exec::script("python", ask).sandbox();
        let output = engine("{}").run_blocking(script.clone()).unwrap();
        assert_eq!(output.stdout_text(), "(0, 1) (3, 0) (3, 0)\n", "{}", said(&output));
        let before = world.asked().len();
        let narrow = "{restrict_egress: true, allowed_domains: [www.example]}";
        let output = engine(narrow).run_blocking(script).unwrap();
        assert_eq!(output.stdout_text(), "(0, 0) (3, 0) (3, 0)\n", "{}", said(&output));
        assert_eq!(world.asked().len(), before, "a question left the sandbox");
    }

    fn odd_names_are_no_names(world: &World) {
        let ask = r#"
import os, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(9)
s.connect(("198.18.0.2", 53))
def ask(labels):
    q = b"".join(bytes([len(l)]) + l for l in labels) + b"\0\0\1\0\1"
    s.send(b"ab\1\0\0\1\0\0\0\0\0\0" + q)
    return s.recv(600)[3] & 15
print(ask([b"www", b"example"]), [ask(l) for l in [[b"w\0w", b"example"], [b"a b", b"example"], [b"www.example"], [b"127", b"0", b"0", b"1"], [b"\xff" * 63] * 3, []]])
for n in range(2000):
    s.send(os.urandom(n % 700))
s.send(b"ab\1\0\0\1\0\0\0\0\0\0\3www\7example\0\0\1\0\1")
t = socket.create_connection(("198.18.0.2", 53), 9)
t.sendall(b"\0\x1dab\1\0\0\1\0\0\0\0\0\0\3www\7example\0\0\1\0\1")
print(t.recv(99)[5] & 15)
"#;
        let output = engine("{}").run_blocking(Exec::script("python", ask).sandbox()).unwrap();
        assert_eq!(output.stdout_text(), "0 [3, 3, 3, 3, 3, 3]\n0\n", "{}", said(&output));
        assert!(world.asked().iter().all(|name| name == "www.example"), "{:?}", world.asked());
    }

    fn a_flood_of_questions_is_bounded(world: &World) {
        let ask = r#"
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("198.18.0.2", 53))
for n in range(20000):
    label = b"n%d" % n
    s.send(b"ab\1\0\0\1\0\0\0\0\0\0" + bytes([len(label)]) + label + b"\7example\0\0\1\0\1")
time.sleep(1)
print(socket.gethostbyname("www.example"))
"#;
        let output = engine("{}").run_blocking(Exec::script("python", ask).sandbox()).unwrap();
        assert!(output.stdout_text().starts_with("198.18."), "{}", said(&output));
        assert!(world.asked().len() < 12_000, "{}", world.asked().len());
    }

    fn a_name_keeps_its_address_while_it_is_used(_world: &World) {
        let script = format!("getent ahostsv4 www.example | head -1; {GET}www.example/hello; getent ahostsv4 www.example | head -1");
        let output = run(&script, |exec| exec);
        let text = output.stdout_text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, lines[2]), "{}", said(&output));
        assert_eq!(exchanged(&output, "www.example", 80).connections, 1);
    }
}
