//! Programs as they are, without a proxy variable: they work where they may, and only there.

use openbrain::{Exec, Output};

use crate::world::{World, engine, exchanged, has, run, said, trusting};

/// Networks in which `www.example` may be reached by 80 and 443.
const OPEN: [&str; 4] = [
    "{}",
    "{restrict_egress: true}",
    "{restrict_egress: true, allowed_domains: [www.example, '*.example']}",
    "{restrict_egress: true, allowed_ports: [], allowed_domains: ['www.example:443', 'www.example:80']}",
];

/// Networks in which it may not.
const CLOSED: [&str; 5] = [
    "{allow_egress: false}",
    "{block_egress: true}",
    "{restrict_egress: true, allowed_ports: [8080]}",
    "{restrict_egress: true, allowed_domains: [four.example]}",
    "{restrict_egress: true, allowed_ports: []}",
];

fn run_in(network: &str, exec: Exec) -> Output {
    engine(network).run_blocking(exec.sandbox()).expect("the sandbox starts")
}

/// A script prints `expected` where the network allows it, and fails where it does not.
fn works(world: &World, script: &str, expected: &str) {
    let trust = trusting(world);
    for network in OPEN {
        let output = run_in(network, trust(Exec::new(script)));
        assert!(output.stdout_text().contains(expected), "{network}: {}", said(&output));
        assert!(output.success(), "{network}: {}", said(&output));
    }
    for network in CLOSED {
        let output = run_in(network, trust(Exec::new(script)));
        assert!(!output.stdout_text().contains(expected), "{network}: {}", said(&output));
        assert!(!output.success(), "{network}: {}", said(&output));
        assert!(output.duration.as_secs() < 20, "{network}: {:?}", output.duration);
    }
}

stages! {
    fn curl_works(world: &World) {
        works(world, "curl -sS -m 9 http://www.example/hello", "hello over v4");
        works(world, "curl -sS -m 9 https://www.example/hello", "hello over v4");
    }

    fn curl_works_over_both_versions(world: &World) {
        works(world, "curl -sS -4 -m 9 https://www.example/hello", "hello over v4");
        works(world, "curl -sS -6 -m 9 https://www.example/hello", "hello over v6");
    }

    fn a_name_of_one_version_is_for_everybody(world: &World) {
        let trust = trusting(world);
        for (options, name, expected) in [
            ("-4", "four.example", "v4"),
            ("", "six.example", "v6"),
            ("-4", "six.example", "v6"),
            ("-6", "six.example", "v6"),
        ] {
            let script = format!("curl -sS -m 9 {options} https://{name}/hello");
            let output = run(&script, &trust);
            assert!(said(&output).contains(expected), "{options} {name}: {}", said(&output));
        }
        let none = run("curl -sS -6 -m 9 https://four.example/hello", &trust);
        assert!(!none.success());
    }

    fn an_address_works_where_addresses_may_be_used(_world: &World) {
        for (address, version) in [("203.0.113.5", "v4"), ("[2001:db8:1::5]", "v6")] {
            let script = format!("curl -sS -g -m 9 http://{address}/hello");
            for (network, works) in [
                ("{}", true),
                ("{restrict_egress: true, allowed_ports: [80]}", true),
                ("{restrict_egress: true, allowed_ports: [81]}", false),
                ("{restrict_egress: true, allowed_domains: ['*.example']}", false),
            ] {
                let output = run_in(network, Exec::new(&script));
                assert_eq!(said(&output).contains(version), works, "{network}: {}", said(&output));
            }
        }
    }

    fn wget_works(world: &World) {
        if has("wget") {
            works(world, "wget -q -T 9 -t 1 -O - http://www.example/hello", "hello");
        }
    }

    fn python_works(world: &World) {
        let program = |url: &str| format!("python3 -c \"import urllib.request as r; print(r.urlopen('{url}', timeout=9).read())\"");
        works(world, &program("https://www.example/hello"), "hello");
    }

    fn node_works(world: &World) {
        if has("node") {
            let program = "node -e \"fetch('https://www.example/hello').then(r => r.text()).then(console.log)\"";
            works(world, program, "hello");
        }
    }

    fn addresses_look_as_programs_want_them(_world: &World) {
        let python = "import socket as s; print(s.getaddrinfo('www.example', 80, s.AF_INET, s.SOCK_STREAM, 0, s.AI_ADDRCONFIG)[0][4])";
        let output = run(&format!("python3 -c \"{python}\""), |exec| exec);
        assert!(output.stdout_text().contains("198.18."), "{}", said(&output));
        if has("node") {
            let node = "require('dns').lookup('www.example', {family: 4, hints: require('dns').ADDRCONFIG}, (e, a) => console.log(e, a))";
            let output = run(&format!("node -e \"{node}\""), |exec| exec);
            assert!(output.stdout_text().contains("198.18."), "{}", said(&output));
        }
    }

    fn java_works(world: &World) {
        if !has("java") || !has("keytool") {
            return;
        }
        let made = std::process::Command::new("keytool")
            .args(["-importcert", "-noprompt", "-storepass", "changeit", "-alias", "test", "-file"])
            .arg(world.path("ca.pem"))
            .arg("-keystore")
            .arg(world.path("ca.jks"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let source = r#"class A { public static void main(String[] a) throws Exception {
            System.out.write(new java.net.URL("https://www.example/hello").openStream().readAllBytes());
            System.out.flush(); } }"#;
        std::fs::write(world.path("A.java"), source).unwrap();
        let store = openbrain::Mount::new(world.path("ca.jks"), "/ca.jks", openbrain::MountMode::Ro);
        let file = openbrain::Mount::new(world.path("A.java"), "/A.java", openbrain::MountMode::Ro);
        for (network, works) in [("{}", true), ("{allow_egress: false}", false)] {
            let exec = Exec::new("java -Djavax.net.ssl.trustStore=/ca.jks -Djavax.net.ssl.trustStorePassword=changeit /A.java");
            let output = run_in(network, exec.mount_at(store.clone()).mount_at(file.clone()));
            assert_eq!(output.stdout_text().contains("hello"), works, "{network}: {}", said(&output));
        }
    }

    fn git_works(world: &World) {
        let make = "git init -q --bare repo.git; git init -q w; cd w; echo text of git > file; git add .
            git -c user.name=a -c user.email=a@b commit -qm first; git push -q ../repo.git HEAD:refs/heads/main
            cd ../repo.git; git symbolic-ref HEAD refs/heads/main; git update-server-info";
        let done = std::process::Command::new("sh").args(["-ec", make]).current_dir(world.path("")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        works(world, "git clone -q https://www.example/repo.git && cat repo/file", "text of git");
    }

    fn pip_works(world: &World) {
        if has("pip3") {
            let script = "export PIP_RETRIES=0 PIP_BREAK_SYSTEM_PACKAGES=1
                /usr/bin/pip3 install -q --index-url https://www.example/simple demo && /usr/bin/python3 -m demo";
            works(world, script, "demo of pip");
        }
    }

    fn npm_works(world: &World) {
        if has("npm") {
            let script = "export npm_config_fetch_retries=0
                npm install --silent --registry https://www.example/npm/ demo && node node_modules/demo";
            let trust = trusting(world);
            let output = run_in(OPEN[2], trust(Exec::new(script)));
            assert!(output.stdout_text().contains("demo of npm"), "{}", said(&output));
            let output = run_in(CLOSED[3], trust(Exec::new(script)));
            assert!(!output.success());
        }
    }

    fn go_works(world: &World) {
        if !has("go") {
            return;
        }
        let script = r#"export PATH=$PATH:/usr/local/go/bin GOPROXY=https://www.example/go GOSUMDB=off GOFLAGS=-mod=mod GOTOOLCHAIN=local
            printf 'module m\nrequire www.example/demo v1.0.0\n' > go.mod
            printf 'package main\nimport "www.example/demo"\nfunc main() { println(demo.Demo()) }\n' > m.go
            go run . 2>&1"#;
        let trust = trusting(world);
        let exec = Exec::new(script).timeout(std::time::Duration::from_secs(280));
        let output = run_in(OPEN[2], trust(exec.clone()));
        assert!(output.stdout_text().contains("demo of go"), "{}", said(&output));
        let output = run_in(CLOSED[3], trust(exec));
        assert!(!output.success());
    }

    fn cargo_works(world: &World) {
        let tools = std::env::var("HOME").map(|home| [".cargo", ".rustup"].map(|d| std::path::Path::new(&home).join(d)));
        let Some(tools) = tools.ok().filter(|tools| tools.iter().all(|path| path.is_dir())) else {
            eprintln!("SKIPPED: no cargo in the home directory");
            return;
        };
        let script = r#"export CARGO_HOME=/tmp/cargo PATH=$PATH:$TOOLS/.cargo/bin RUSTUP_HOME=$TOOLS/.rustup
            mkdir -p src .cargo; echo 'fn main() { println!("{}", demo::demo()) }' > src/main.rs
            printf '[package]\nname="m"\nversion="1.0.0"\n[dependencies]\ndemo="1"\n' > Cargo.toml
            printf '[source.crates-io]\nreplace-with="t"\n[source.t]\nregistry="sparse+https://www.example/cargo/index/"\n' > .cargo/config.toml
            cargo run -q 2>&1"#;
        let home = tools[0].parent().unwrap().to_str().unwrap().to_owned();
        let trust = trusting(world);
        let exec = tools.iter().fold(Exec::new(script).env("TOOLS", home), |e, path| e.expose(path));
        let output = run_in(OPEN[2], trust(exec.clone()));
        assert!(output.stdout_text().contains("demo of cargo"), "{}", said(&output));
        assert!(!run_in(CLOSED[3], trust(exec)).success());
    }

    fn what_speaks_first_is_heard(_world: &World) {
        let python = "import socket; s = socket.create_connection(('www.example', 25), 9); print(s.recv(99)); s.sendall(b'x'); print(s.recv(9))";
        let output = run(&format!("python3 -c \"{python}\""), |exec| exec);
        assert_eq!(output.stdout_text(), "b'220 ready\\n'\nb'x'\n", "{}", said(&output));
        let used = exchanged(&output, "www.example", 25);
        assert_eq!((used.connections, used.failed, used.bytes_sent, used.bytes_received), (1, 0, 1, 11));
    }

    fn the_command_line_works_as_documented(world: &World) {
        let output = run("curl -sS https://www.example/hello", |exec| trusting(world)(exec.allow_network(true)));
        assert_eq!(output.stdout_text(), "hello over v4\n");
        assert_eq!(output.denials, []);
        assert_eq!(output.isolation.network, "every TCP port of public hosts");
    }
}
