//! What is asked of a server for which run.

use std::{collections::BTreeMap, time::Duration};

use super::{check_policy, isolation, label, request};
use crate::{
    backend::opensandbox::{NetworkPolicy, NetworkPolicyState, NetworkRule, RuleAction},
    error::ErrorKind,
    exec::{Command, Stdin},
    sandbox::{Limits, Mount, MountMode, Network},
    spec::{InheritEnv, Place, SandboxSpec, ServerSpec, Spec},
};

fn spec() -> Spec {
    Spec {
        place: Place::Direct,
        command: Command::Shell("true".into()),
        shell: "/bin/sh".into(),
        timeout: None,
        workdir: None,
        env: BTreeMap::new(),
        inherit_env: InheritEnv::All,
        changes: false,
        stdin: Stdin::Null,
        tty: None,
        limits: Limits { memory: Some(512 << 20), cpus: Some(1.5), ..Limits::default() },
        warnings: Vec::new(),
    }
}

fn server(url: &str) -> ServerSpec {
    ServerSpec {
        url: url.into(),
        api_key: Some("hunter2".into()),
        use_server_proxy: false,
        ca_file: None,
        request_timeout: Duration::from_secs(30),
        start_timeout: Duration::from_secs(60),
        image: "image".into(),
        extensions: BTreeMap::new(),
    }
}

/// The request as JSON; what kind of error it is otherwise.
fn ask(sandbox: &SandboxSpec, server: &ServerSpec) -> Result<serde_json::Value, ErrorKind> {
    let request = request(&spec().limits, sandbox, server, "abc").map_err(|error| {
        assert!(error.remedy().is_some(), "{error:?}");
        error.kind()
    })?;
    Ok(serde_json::to_value(request).unwrap())
}

fn open() -> SandboxSpec {
    SandboxSpec { network: Network::Public, ..SandboxSpec::default() }
}

#[test]
fn a_run_is_an_image_with_limits_a_life_and_our_labels() {
    let asked = ask(&open(), &server("http://far")).unwrap();
    assert_eq!(asked["image"]["uri"], "image");
    assert_eq!(asked["resourceLimits"]["memory"], "536870912");
    assert_eq!(asked["resourceLimits"]["cpu"], "1.5");
    assert_eq!(asked["timeout"], 360);
    assert_eq!(asked["metadata"]["openbrain"], "exec");
    assert_eq!(asked["metadata"]["openbrain.run"], "abc");
    assert_eq!(asked.get("networkPolicy"), None);
    assert!(!asked.to_string().contains("hunter2"));
}

#[test]
fn a_pool_gets_none_of_what_it_cannot_have() {
    let mut server = server("http://far");
    server.extensions.insert("poolRef".into(), "python".into());
    let asked = ask(&open(), &server).unwrap();
    assert_eq!(asked["extensions"]["poolRef"], "python");
    for absent in ["image", "resourceLimits", "entrypoint", "volumes", "networkPolicy"] {
        assert_eq!(asked.get(absent), None, "{absent}");
    }
    assert_eq!(ask(&SandboxSpec::default(), &server), Err(ErrorKind::InvalidRequest));
    let sandbox = open();
    assert!(!isolation(&spec().limits, &sandbox, &server).limits.contains_key("memory"));
}

#[test]
fn a_policy_denies_all_but_what_is_listed() {
    let with = |network| {
        let sandbox = SandboxSpec { network, ..SandboxSpec::default() };
        ask(&sandbox, &server("http://far")).map(|asked| asked["networkPolicy"].clone())
    };
    let none = serde_json::json!({"defaultAction": "deny", "egress": []});
    assert_eq!(with(Network::None), Ok(none.clone()));
    let listed = |ports, domains: Option<&[&str]>| Network::Listed {
        ports,
        domains: domains.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
    };
    assert_eq!(with(listed(None, Some(&[]))), Ok(none));
    let names = with(listed(None, Some(&["a.com", "*.b.com"]))).unwrap();
    assert_eq!(names["egress"][1], serde_json::json!({"action": "allow", "target": "*.b.com"}));
    for refused in [listed(Some(vec![443]), None), listed(None, Some(&["a.com:443"]))] {
        assert_eq!(with(refused), Err(ErrorKind::InvalidRequest));
    }
}

#[test]
fn a_policy_must_be_in_force_as_it_was_asked_for() {
    let wanted = NetworkPolicy {
        default_action: RuleAction::Deny,
        egress: vec![NetworkRule { action: RuleAction::Allow, target: "a.com".into() }],
    };
    let found = |enforcement_mode: &str, policy| NetworkPolicyState {
        status: "ok".into(),
        mode: String::new(),
        enforcement_mode: enforcement_mode.into(),
        reason: None,
        policy,
    };
    assert!(check_policy(&wanted, &found("dns+nft", Some(wanted.clone()))).is_ok());
    let open = NetworkPolicy { default_action: RuleAction::Allow, egress: Vec::new() };
    for other in [
        found("dns", Some(wanted.clone())),
        found("", Some(wanted.clone())),
        found("dns+nft", Some(open)),
        found("dns+nft", None),
    ] {
        let error = check_policy(&wanted, &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SandboxUnavailable);
        assert!(error.remedy().unwrap().contains("dns+nft"), "{error:?}");
    }
}

#[test]
fn mounts_are_paths_of_the_servers_host() {
    let sandbox = |mount| SandboxSpec { mounts: vec![mount], ..open() };
    let data = |mode| sandbox(Mount::new("/no/such", "/data", mode));
    let asked = ask(&data(MountMode::Ro), &server("http://far")).unwrap();
    let volume = &asked["volumes"][0];
    assert_eq!(volume["host"]["path"], "/no/such");
    assert_eq!((volume["mountPath"].as_str(), &volume["readOnly"]), (Some("/data"), &true.into()));
    // On this machine it can be seen that there is nothing.
    let here = request(&spec().limits, &data(MountMode::Ro), &server("http://localhost:1"), "abc");
    assert!(here.unwrap_err().to_string().contains("`/no/such`"));
    assert_eq!(
        ask(&data(MountMode::Overlay), &server("http://far")),
        Err(ErrorKind::InvalidRequest)
    );
    let relative = sandbox(Mount::new("no", "/data", MountMode::Rw));
    assert_eq!(ask(&relative, &server("http://far")), Err(ErrorKind::InvalidRequest));
    let exposed = SandboxSpec { expose: vec!["/opt/tools".into()], ..open() };
    let volume = ask(&exposed, &server("http://far")).unwrap()["volumes"][0].clone();
    assert_eq!(
        (volume["mountPath"].as_str(), &volume["readOnly"]),
        (Some("/opt/tools"), &true.into())
    );
}

#[test]
fn a_host_name_is_a_label() {
    assert_eq!(label("my host!"), "my-host");
    assert_eq!(label("-_."), "");
    assert_eq!(label(&"a".repeat(99)).len(), 63);
}
