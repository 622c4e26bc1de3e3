//! Tests of every rule of [`Settings::resolve`].

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    ErrorKind, Exec, Place, SandboxSpec, Settings,
    sandbox::{Limits, Mount, MountMode, Network},
    spec::ServerSpec,
};

fn settings(sandbox: &str) -> Settings {
    serde_yaml::from_str(&format!("security: {{sandbox: {sandbox}}}")).unwrap()
}

fn sandbox_of(settings: &Settings, exec: Exec) -> SandboxSpec {
    match settings.resolve(exec.sandbox()).unwrap().place {
        Place::Embedded(sandbox) | Place::Opensandbox(sandbox, _) => sandbox,
        Place::Direct => panic!("a sandbox was asked for"),
    }
}

fn kind(settings: &Settings, exec: Exec) -> ErrorKind {
    settings.resolve(exec).unwrap_err().kind()
}

fn ls() -> Exec {
    Exec::new("ls")
}

#[test]
fn the_request_decides_the_place_and_else_the_mode() {
    let direct = Settings::default();
    let sandbox: Settings = serde_yaml::from_str("security: {mode: sandbox}").unwrap();
    for (settings, exec, sandboxed) in [
        (&direct, ls(), false),
        (&direct, ls().sandbox(), true),
        (&sandbox, ls(), true),
        (&sandbox, ls().direct(), false),
    ] {
        let place = settings.resolve(exec).unwrap().place;
        assert_eq!(place != Place::Direct, sandboxed);
    }
}

#[test]
fn the_settings_alone_choose_the_runtime() {
    let server = |url: &str| {
        Some(ServerSpec {
            url: url.into(),
            api_key: None,
            use_server_proxy: false,
            ca_file: None,
            request_timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(300),
            image: "opensandbox/code-interpreter:v1.0.1".into(),
            extensions: BTreeMap::new(),
        })
    };
    for (sandbox, expected) in [
        ("{}", None),
        ("{server_url: 'http://a'}", server("http://a")),
        ("{server_url: 'http://a', runtime: embedded}", None),
        ("{server_url: 'http://a', runtime: opensandbox}", server("http://a")),
    ] {
        let found = match settings(sandbox).resolve(ls().sandbox()).unwrap().place {
            Place::Opensandbox(_, server) => Some(server),
            Place::Embedded(_) | Place::Direct => None,
        };
        assert_eq!(found, expected, "{sandbox}");
    }
    let nowhere = settings("{runtime: opensandbox}");
    assert_eq!(kind(&nowhere, ls().sandbox()), ErrorKind::InvalidSettings);
}

#[test]
fn direct_commands_can_be_forbidden() {
    let rule: Settings = serde_yaml::from_str("security: {allow_direct: false}").unwrap();
    assert_eq!(kind(&rule, ls()), ErrorKind::PolicyDenied);
    assert_eq!(kind(&rule, ls().direct()), ErrorKind::PolicyDenied);
    assert!(rule.resolve(ls().sandbox()).is_ok());
}

#[test]
fn options_of_a_sandbox_need_one() {
    let memory = Limits { memory: Some(64 << 20), ..Limits::default() };
    for exec in [
        ls().mount("/w"),
        ls().expose("/opt"),
        ls().allow_network(true),
        ls().allow_network(false),
        ls().allow_port(80),
        ls().allow_domain("a.com"),
        ls().allow_host("10.0.0.1"),
        ls().limits(memory),
        ls().limits(Limits { cpus: Some(1.0), ..Limits::default() }),
        ls().limits(Limits { pids: Some(9), ..Limits::default() }),
        ls().limits(Limits { disk: Some(1 << 20), ..Limits::default() }),
    ] {
        let error = Settings::default().resolve(exec.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{exec:?}");
        assert!(error.remedy().unwrap().contains("--sandbox"));
        assert!(Settings::default().resolve(exec.sandbox()).is_ok());
    }
}

#[test]
fn a_direct_command_has_no_deadline_and_only_an_output_limit() {
    let spec = Settings::default().resolve(ls()).unwrap();
    assert_eq!(spec.timeout, None);
    assert_eq!(spec.limits, Limits { output: Some(10 << 20), ..Limits::default() });
    assert_eq!(spec.shell, "/bin/sh");
    let own = Limits { open_files: Some(64), output: Some(1), ..Limits::default() };
    assert_eq!(Settings::default().resolve(ls().limits(own.clone())).unwrap().limits, own);
}

#[test]
fn a_sandbox_has_a_deadline_and_every_limit() {
    let ten = Duration::from_secs(10);
    let settings = settings("{timeout_seconds: 60, limits: {pids: 9}}");
    let spec = settings.resolve(ls().sandbox()).unwrap();
    assert_eq!(spec.timeout, Some(Duration::from_secs(60)));
    let expected = Limits { pids: Some(9), ..crate::settings::grammar::default_limits() };
    assert_eq!(spec.limits, expected);
    let own = Limits { cpus: Some(2.0), ..Limits::default() };
    let spec = settings.resolve(ls().sandbox().timeout(ten).limits(own.clone())).unwrap();
    assert_eq!(spec.timeout, Some(ten));
    assert_eq!(spec.limits, own.or(&expected));
}

#[test]
fn the_network_follows_settings_and_request() {
    let listed = |domains: Option<&[&str]>| Network::Listed {
        ports: Some(vec![80, 443]),
        domains: domains.map(|names| names.iter().map(ToString::to_string).collect()),
    };
    for (network, asked, expected) in [
        ("{}", None, Ok(Network::Public)),
        ("{}", Some(true), Ok(Network::Public)),
        ("{}", Some(false), Ok(Network::None)),
        ("{allow_egress: false}", None, Ok(Network::None)),
        ("{allow_egress: false}", Some(true), Ok(Network::Public)),
        ("{allow_egress: false, restrict_egress: true}", Some(true), Ok(listed(None))),
        ("{block_egress: true}", None, Ok(Network::None)),
        ("{block_egress: true}", Some(false), Ok(Network::None)),
        ("{block_egress: true}", Some(true), Err(ErrorKind::PolicyDenied)),
        ("{restrict_egress: true}", None, Ok(listed(None))),
        ("{restrict_egress: true}", Some(false), Ok(Network::None)),
        ("{restrict_egress: true, allowed_domains: []}", None, Ok(listed(Some(&[])))),
        ("{restrict_egress: true, allowed_domains: [a.b]}", Some(true), Ok(listed(Some(&["a.b"])))),
        ("{allowed_ports: [22], allowed_domains: [a.b]}", None, Ok(Network::Public)),
    ] {
        let settings = settings(&format!("{{network: {network}}}"));
        let found = settings.security.sandbox.network.policy(asked);
        assert_eq!(found.map_err(|error| error.kind()), expected, "{network} {asked:?}");
    }
}

/// What a request with `ask` may reach when the network section of the settings is `network`.
fn granted(network: &str, ask: impl FnOnce(Exec) -> Exec) -> Result<SandboxSpec, ErrorKind> {
    let settings = settings(&format!("{{network: {network}}}"));
    match settings.resolve(ask(ls().sandbox())).map(|spec| spec.place) {
        Ok(Place::Embedded(sandbox)) => Ok(sandbox),
        Ok(place) => panic!("{place:?}"),
        Err(error) => Err(error.kind()),
    }
}

#[test]
fn a_request_narrows_what_the_settings_allow() {
    let listed = |ports: Option<&[u16]>, domains: Option<&[&str]>| Network::Listed {
        ports: ports.map(<[u16]>::to_vec),
        domains: domains.map(|names| names.iter().map(ToString::to_string).collect()),
    };
    let network = |settings: &str, ask: fn(Exec) -> Exec| granted(settings, ask).map(|s| s.network);
    let port = |exec: Exec| exec.allow_port(443);
    let name = |exec: Exec| exec.allow_domain("a.b.com");
    assert_eq!(network("{}", port), Ok(listed(Some(&[443]), None)));
    assert_eq!(network("{}", name), Ok(listed(None, Some(&["a.b.com"]))));
    assert_eq!(network("{}", |e| e.allow_host("10.0.0.1")), Ok(Network::Public));
    assert_eq!(network("{allow_egress: false}", port), Ok(listed(Some(&[443]), None)));
    assert_eq!(network("{block_egress: true}", port), Err(ErrorKind::PolicyDenied));
    assert_eq!(network("{restrict_egress: true}", port), Ok(listed(Some(&[443]), None)));
    let strict = "{restrict_egress: true, allowed_ports: [80], allowed_domains: ['*.b.com']}";
    assert_eq!(network(strict, name), Ok(listed(Some(&[80]), Some(&["a.b.com"]))));
    assert_eq!(network(strict, port), Err(ErrorKind::PolicyDenied));
    assert_eq!(network(strict, |e| e.allow_domain("b.com")), Err(ErrorKind::PolicyDenied));
    assert_eq!(network(strict, |e| e.allow_domain("a.b.com:22")), Err(ErrorKind::PolicyDenied));
    let http = listed(Some(&[80]), Some(&["a.b.com:80"]));
    assert_eq!(network(strict, |e| e.allow_domain("a.b.com:80")), Ok(http));
    let mut nothing = ls().sandbox();
    (nothing.allowed_ports, nothing.allowed_domains) = (Some(vec![]), Some(vec![]));
    let spec = granted("{}", |_| nothing).unwrap();
    assert_eq!(spec.network, listed(Some(&[]), Some(&[])));
}

#[test]
fn a_list_for_no_network_is_refused() {
    for exec in [ls().allow_port(1), ls().allow_domain("a.b"), ls().allow_host("a.b")] {
        let exec = exec.sandbox().allow_network(false);
        assert_eq!(kind(&Settings::default(), exec), ErrorKind::InvalidRequest);
    }
    for exec in [ls().allow_port(0), ls().allow_domain("http://a"), ls().allow_host("a b")] {
        assert_eq!(kind(&Settings::default(), exec.sandbox()), ErrorKind::InvalidRequest);
    }
}

#[test]
fn private_services_are_those_of_the_settings_when_they_list_any() {
    let hosts =
        |settings: &str, ask: fn(Exec) -> Exec| granted(settings, ask).map(|s| s.allowed_hosts);
    let ask = |exec: Exec| exec.allow_host("10.0.0.5:5432");
    assert_eq!(hosts("{}", ask).unwrap(), ["10.0.0.5:5432"]);
    assert_eq!(hosts("{}", |e| e).unwrap(), [""; 0]);
    assert_eq!(hosts("{allowed_hosts: ['10.0.0.0/8']}", ask).unwrap(), ["10.0.0.5:5432"]);
    assert_eq!(hosts("{allowed_hosts: ['10.0.0.0/8']}", |e| e).unwrap(), ["10.0.0.0/8"]);
    assert_eq!(hosts("{allowed_hosts: []}", ask), Err(ErrorKind::PolicyDenied));
    assert_eq!(hosts("{allowed_hosts: ['10.0.0.5:22']}", ask), Err(ErrorKind::PolicyDenied));
    assert_eq!(
        hosts("{allowed_hosts: ['10.0.0.5'], allow_egress: false}", |e| e).unwrap(),
        [""; 0]
    );
}

#[test]
fn the_workspace_of_the_settings_gives_way_to_that_of_the_request() {
    let settings = settings("{workspace_mount: /own}");
    let data = Mount::new("/d", "/data", MountMode::Ro);
    for (exec, expected) in [
        (ls(), vec![Mount::workspace("/own")]),
        (ls().mount("/w"), vec![Mount::workspace("/w")]),
        (ls().mount_at(data.clone()), vec![Mount::workspace("/own"), data]),
    ] {
        assert_eq!(sandbox_of(&settings, exec).mounts, expected);
    }
}

#[test]
fn two_mounts_at_one_place_are_refused() {
    let exec = ls().sandbox().mount("/a").mount_at(Mount::new("/b", "/workspace/", MountMode::Ro));
    assert_eq!(kind(&Settings::default(), exec), ErrorKind::InvalidRequest);
}

#[test]
fn exposed_paths_add_up() {
    let exec = ls().expose("/b").expose("/a");
    let found = sandbox_of(&settings("{expose: [/a]}"), exec).expose;
    assert_eq!(found, [PathBuf::from("/a"), PathBuf::from("/b")]);
}

#[test]
fn a_sandboxed_working_directory_is_absolute() {
    for (workdir, accepted) in
        [("/tmp", true), ("/workspace/a", true), ("src", false), ("/tmp/../etc", false)]
    {
        let found = Settings::default().resolve(ls().sandbox().workdir(workdir));
        assert_eq!(found.is_ok(), accepted, "{workdir}");
    }
    assert!(Settings::default().resolve(ls().workdir("src")).is_ok());
}

#[test]
fn settings_that_were_not_loaded_have_no_home() {
    for sandbox in ["{workspace_mount: ~/w}", "{expose: [~/x]}"] {
        assert_eq!(kind(&settings(sandbox), ls().sandbox()), ErrorKind::InvalidSettings);
    }
}
