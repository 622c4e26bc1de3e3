//! Sandboxes apart from one another, from the relay, and from a host process that has died.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use openbrain::{Exec, NewSandbox};

use crate::{
    sys,
    world::{World, engine, run, said},
};

/// Connections of this network namespace's processes that are established with the internet.
fn connections() -> usize {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    // 203.0.113.5, as the kernel writes it, in the state ESTABLISHED.
    table.lines().filter(|line| line.contains(" 057100CB:") && line.contains(" 01 ")).count()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(9);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

stages! {
    fn two_sandboxes_cannot_reach_one_another(_world: &World) {
        let server = "python3 -c \"
import socket, time
s = socket.create_server(('0.0.0.0', 8080))
s.settimeout(4)
try:
    s.accept()
    print('reached')
except TimeoutError:
    print('alone')\"";
        let server = std::thread::spawn(move || run(server, |exec| exec));
        let client = "sleep 1; for a in 127.0.0.1 198.18.0.1 198.18.0.2 198.18.1.0 192.0.2.1 0.0.0.0 10.9.9.9
            do curl -sS -m 2 http://$a:8080/ 2>&1; done; true";
        let client = run(client, |exec| exec);
        assert!(!said(&client).contains("hello"), "{}", said(&client));
        assert_eq!(server.join().unwrap().stdout_text(), "alone\n");
    }

    fn the_command_inherits_nothing_of_the_relay(_world: &World) {
        let script = "ls -l /proc/self/fd /proc/1/fd 2>&1; grep -c . /proc/net/unix; cat /proc/net/tcp /proc/net/tcp6 | wc -l; env";
        let output = run(script, |exec| exec);
        let text = said(&output);
        assert!(!text.contains("socket:"), "{text}");
        assert!(text.contains("/proc/1/fd': Permission denied") || text.contains("cannot open directory '/proc/1/fd'"), "{text}");
        assert!(!text.to_lowercase().contains("proxy"), "{text}");
    }

    fn the_command_cannot_change_its_network(_world: &World) {
        let output = run("ip route del local default dev lo table local 2>&1; ip addr add 10.9.9.1/24 dev lo 2>&1; ip link set lo down 2>&1; nft flush ruleset 2>&1; true", |exec| exec);
        let text = said(&output);
        assert!(text.matches("Operation not permitted").count() >= 3, "{text}");
        let after = run("curl -sS -m 9 http://www.example/hello", |exec| exec);
        assert_eq!(after.stdout_text(), "hello over v4\n");
    }

    fn a_forwarded_port_is_the_hosts_alone(_world: &World) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let sandbox = runtime.block_on(engine("{}").create(NewSandbox::default())).unwrap();
        let mut server =
            runtime.block_on(sandbox.spawn(Exec::new("exec python3 -m http.server 8000"))).unwrap();
        let soon = Duration::from_secs(9);
        runtime.block_on(sandbox.wait_for_port(8000, soon)).unwrap();
        let forward = runtime.block_on(sandbox.forward(8000)).unwrap();
        let port = forward.local_addr().port();
        let script = format!(
            "for a in 127.0.0.1 [::1] localhost 203.0.113.1 0.0.0.0; do \
             curl -sS -m 3 http://$a:{port}/ 2>&1; done; true"
        );
        let elsewhere = run(&script, |exec| exec.allow_network(true));
        assert!(!said(&elsewhere).contains("Directory listing"), "{}", said(&elsewhere));
        // Listed, it is reached, as whatever else the host has there.
        let listed = run(&format!("curl -sS -m 9 http://127.0.0.1:{port}/"), |exec| {
            exec.allow_host(format!("127.0.0.1:{port}"))
        });
        assert!(said(&listed).contains("Directory listing"), "{}", said(&listed));
        server.kill();
        while let Ok(Some(_)) = runtime.block_on(server.next_event()) {}
    }

    fn the_relay_ends_with_the_run(_world: &World) {
        let hold = "exec python3 -c \"import socket, time; s = socket.create_connection(('203.0.113.5', 9)); print('on', flush=True); time.sleep(60)\"";
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        for end in ["cancel", "drop"] {
            let mut process = runtime.block_on(engine("{}").spawn(Exec::new(hold).sandbox())).unwrap();
            until("a connection is made", || connections() == 1);
            match end {
                "cancel" => {
                    process.handle().cancel();
                    runtime.block_on(async { while let Ok(Some(_)) = process.next_event().await {} });
                }
                _ => drop(process),
            }
            until("the connection ends with the run", || connections() == 0);
        }
    }

    fn a_runtime_that_is_gone_does_not_stop_the_relay(_world: &World) {
        // Nobody polls the process while its command exchanges bytes.
        let script = "python3 -c \"
import socket
s = socket.create_connection(('www.example', 7), 9)
for n in range(100):
    s.sendall(b'x' * 1000)
    got = 0
    while got < 1000:
        got += len(s.recv(1000))
open('/workspace/done', 'w').write('done')\"";
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let process = runtime.block_on(engine("{}").spawn(Exec::new(script).sandbox().mount(folder.path()))).unwrap();
        until("the command gets on", || folder.path().join("done").exists());
        drop(process);
    }

    fn a_killed_host_process_leaves_no_relay(_world: &World) {
        let host = |name: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--ignored", "--exact", name, "--nocapture", "--test-threads=1"]);
            command.stdout(Stdio::piped()).spawn().unwrap()
        };
        let mut child = host("walls::host_that_holds_a_connection");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("on")).unwrap().unwrap();
        until("a connection is made", || connections() == 1);
        child.kill().unwrap();
        child.wait().unwrap();
        until("the connection is gone", || connections() == 0);
        let me = std::process::id();
        until("no process is left", || {
            let children = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap();
            children.split_whitespace().count() <= 2
        });
    }

    fn a_kernel_without_redirection_has_listed_ports_alone(_world: &World) {
        let netfilter = sys::Refused::Value(libc::SYS_socket, 2, libc::NETLINK_NETFILTER as u32);
        sys::refuse(&[netfilter], libc::EPROTONOSUPPORT);
        let error = engine("{}").run_blocking(Exec::new("true").sandbox()).unwrap_err();
        assert_eq!(error.code(), "sandbox_unavailable");
        assert!(error.to_string().contains("nftables"), "{error:?}");
        assert!(error.remedy().unwrap().contains("nft_tproxy"), "{error:?}");
        let network = "{restrict_egress: true, allowed_ports: [80, 443], allowed_domains: [www.example]}";
        let script = "curl -sS -m 9 http://www.example/hello; curl -sS -6 -m 9 http://www.example/hello
            curl -sS -m 9 http://www.example:8080/hello; curl -sS -m 9 http://four.example/hello
            curl -sS -m 9 http://203.0.113.5/hello; curl -sS -m 9 http://127.0.0.1/hello";
        for _ in 0..2 {
            let output = engine(network).run_blocking(Exec::new(script).sandbox()).unwrap();
            assert_eq!(output.stdout_text(), "hello over v4\nhello over v6\n", "{}", said(&output));
            assert!(output.isolation.network.contains("without redirection"));
        }
        let report = openbrain::doctor(&openbrain::Settings::default());
        let check = report.checks.iter().find(|check| check.id == "egress_open").unwrap();
        assert!(check.summary.contains("nftables"), "{check:?}");
    }

    fn a_kernel_without_routes_has_no_network(_world: &World) {
        let route = sys::Refused::Value(libc::SYS_socket, 0, libc::AF_NETLINK as u32);
        sys::refuse(&[route], libc::EAFNOSUPPORT);
        for network in ["{}", "{restrict_egress: true}"] {
            let error = engine(network).run_blocking(Exec::new("true").sandbox()).unwrap_err();
            assert_eq!(error.code(), "sandbox_unavailable");
        }
        let none = Exec::new("true").sandbox().allow_network(false);
        assert!(engine("{}").run_blocking(none).unwrap().success());
    }

    fn the_machine_is_told_by_the_doctor(_world: &World) {
        let report = openbrain::doctor(&openbrain::Settings::default());
        for id in ["egress_open", "egress_listed", "egress_ipv6"] {
            let check = report.checks.iter().find(|check| check.id == id).unwrap();
            assert_eq!(check.status, openbrain::CheckStatus::Ok, "{check:?}");
        }
    }
}

/// The host process that is killed.
#[test]
#[ignore = "runs in a process of its own"]
fn host_that_holds_a_connection() {
    if std::env::var_os(crate::world::STAGE).is_none() {
        return;
    }
    let hold = "exec python3 -c \"import socket, time; s = socket.create_connection(('203.0.113.5', 9)); print('on', flush=True); time.sleep(600)\"";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut process = engine("{}").spawn(Exec::new(hold).sandbox()).await.unwrap();
        while let Ok(Some(event)) = process.next_event().await {
            println!("{}", if matches!(event, openbrain::Event::Stdout(_)) { "on" } else { "" });
        }
    });
}
