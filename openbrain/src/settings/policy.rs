//! A project file can tighten what the user file fixed, never loosen it.

use std::path::PathBuf;

use serde_yaml::Value;

use super::{NetworkSettings, SandboxSettings, Settings, keys};
use crate::{sandbox::Limits, spec::System};

/// Whether the first, the settings of the user, are at most as strict as the second.
type Comparison = fn(&Settings, &Settings) -> bool;

/// For every key, when a project's value is at least as strict as the user's.
const RULES: [(&str, Comparison); 49] = [
    ("security.mode", |user, project| project.security.mode >= user.security.mode),
    ("security.allow_direct", |user, project| {
        user.security.allow_direct || !project.security.allow_direct
    }),
    ("security.approval", |user, project| project.security.approval >= user.security.approval),
    ("security.sandbox.runtime", |user, project| same(user, project, |s| &s.runtime)),
    ("security.sandbox.server_url", |user, project| same(user, project, |s| &s.server_url)),
    ("security.sandbox.image", |user, project| same(user, project, |s| &s.image)),
    ("security.sandbox.api_key", |user, project| same(user, project, |s| &s.api_key)),
    ("security.sandbox.use_server_proxy", |user, project| {
        same(user, project, |s| &s.use_server_proxy)
    }),
    ("security.sandbox.ca_file", |user, project| same(user, project, |s| &s.ca_file)),
    ("security.sandbox.request_timeout_seconds", |user, project| {
        project.security.sandbox.request_timeout <= user.security.sandbox.request_timeout
    }),
    ("security.sandbox.start_timeout_seconds", |user, project| {
        project.security.sandbox.start_timeout <= user.security.sandbox.start_timeout
    }),
    ("security.sandbox.extensions", |user, project| same(user, project, |s| &s.extensions)),
    ("security.sandbox.timeout_seconds", |user, project| {
        project.security.sandbox.timeout <= user.security.sandbox.timeout
    }),
    ("security.sandbox.workspace_mount", |user, project| {
        same(user, project, |s| &s.workspace_mount)
    }),
    ("security.sandbox.expose", |user, project| {
        let exposed: &[PathBuf] = &user.security.sandbox.expose;
        within(&project.security.sandbox.expose, exposed)
    }),
    ("security.sandbox.system", |user, project| {
        user.security.sandbox.system == System::Overlay
            || project.security.sandbox.system == System::Ro
    }),
    ("security.sandbox.pool", |user, project| {
        project.security.sandbox.pool <= user.security.sandbox.pool
    }),
    ("security.sandbox.network.allow_egress", |user, project| {
        user.security.sandbox.network.allow_egress || !project.security.sandbox.network.allow_egress
    }),
    (RESTRICT, |user, project| {
        !user.security.sandbox.network.restrict_egress
            || project.security.sandbox.network.restrict_egress
    }),
    (PORTS, |user, project| {
        within(&project.security.sandbox.network.ports(), &user.security.sandbox.network.ports())
    }),
    ("security.sandbox.network.allowed_domains", |user, project| {
        list_within(user, project, |network| &network.allowed_domains)
    }),
    ("security.sandbox.network.allowed_hosts", |user, project| {
        list_within(user, project, |network| &network.allowed_hosts)
    }),
    ("security.sandbox.network.block_egress", |user, project| {
        !user.security.sandbox.network.block_egress || project.security.sandbox.network.block_egress
    }),
    ("security.sandbox.limits.memory", |user, project| at_most(user, project, |l| l.memory)),
    ("security.sandbox.limits.cpus", |user, project| at_most(user, project, |l| l.cpus)),
    ("security.sandbox.limits.pids", |user, project| at_most(user, project, |l| l.pids)),
    ("security.sandbox.limits.disk", |user, project| at_most(user, project, |l| l.disk)),
    ("security.sandbox.limits.open_files", |user, project| {
        at_most(user, project, |l| l.open_files)
    }),
    ("security.sandbox.limits.output", |user, project| at_most(user, project, |l| l.output)),
    ("server.listen", |user, project| {
        let (user, project) = (&user.server.listen, &project.server.listen);
        user == project || (user.is_local() && project.is_local())
    }),
    ("server.token", |user, project| user.server.token == project.server.token),
    ("server.allowed_names", |user, project| {
        within(&project.server.allowed_names, &user.server.allowed_names)
    }),
    ("server.allowed_origins", |user, project| {
        within(&project.server.allowed_origins, &user.server.allowed_origins)
    }),
    ("server.allow_other_users", |user, project| {
        user.server.allow_other_users || !project.server.allow_other_users
    }),
    ("server.allowed_mounts", |user, project| {
        within(&project.server.allowed_mounts, &user.server.allowed_mounts)
    }),
    ("server.pass_env", |user, project| within(&project.server.pass_env, &user.server.pass_env)),
    ("server.max_execs", |user, project| project.server.max_execs <= user.server.max_execs),
    ("server.max_queue", |user, project| project.server.max_queue <= user.server.max_queue),
    ("server.max_sandboxes", |user, project| {
        project.server.max_sandboxes <= user.server.max_sandboxes
    }),
    ("server.max_body", |user, project| project.server.max_body <= user.server.max_body),
    ("server.max_kept_output", |user, project| {
        project.server.max_kept_output <= user.server.max_kept_output
    }),
    ("server.max_timeout_seconds", |user, project| {
        project.server.max_timeout <= user.server.max_timeout
    }),
    ("server.keep_seconds", |user, project| project.server.keep <= user.server.keep),
    ("server.drain_seconds", |user, project| project.server.drain <= user.server.drain),
    ("server.yield_seconds", |user, project| project.server.yield_after <= user.server.yield_after),
    ("audit.execs", |user, project| project.audit.execs >= user.audit.execs),
    ("audit.file", |user, project| user.audit.file == project.audit.file),
    ("audit.max_size", |user, project| project.audit.max_size >= user.audit.max_size),
    ("audit.keep_files", |user, project| project.audit.keep_files >= user.audit.keep_files),
];

const RESTRICT: &str = "security.sandbox.network.restrict_egress";
const PORTS: &str = "security.sandbox.network.allowed_ports";

/// The first key that the user file fixed and that is looser with the project file: `user` is what
/// the user file says, `fixed` the settings without the project file, `both` those with it.
pub(super) fn loosened(user: &Value, fixed: &Settings, both: &Settings) -> Option<&'static str> {
    let restricted = fixed.security.sandbox.network.restrict_egress;
    // Who restricts without naming ports has fixed the default ports.
    let is_fixed = |key: &str| {
        keys::get(user, key).is_some() || (key == PORTS && restricted) || is_fixed_by_default(key)
    };
    RULES.iter().find(|(key, holds)| is_fixed(key) && !holds(fixed, both)).map(|(key, _)| *key)
}

/// Whether a key has its default though the user's file is silent: a checkout does not decide who
/// may run commands on this machine, nor what of it is recorded.
fn is_fixed_by_default(key: &str) -> bool {
    key.starts_with("server.") || key.starts_with("audit.") || key == "security.approval"
}

fn same<T: PartialEq>(
    user: &Settings,
    project: &Settings,
    value: fn(&SandboxSettings) -> &T,
) -> bool {
    value(&user.security.sandbox) == value(&project.security.sandbox)
}

/// Whether the project's list, which allows everything when it is absent, is part of the user's.
fn list_within(
    user: &Settings,
    project: &Settings,
    list: fn(&NetworkSettings) -> &Option<Vec<String>>,
) -> bool {
    match (list(&user.security.sandbox.network), list(&project.security.sandbox.network)) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(user), Some(project)) => within(project, user),
    }
}

fn within<T: PartialEq>(few: &[T], many: &[T]) -> bool {
    few.iter().all(|one| many.contains(one))
}

/// Whether the project's limit is not above the user's, no limit being above every other.
fn at_most<T: PartialOrd>(
    user: &Settings,
    project: &Settings,
    limit: fn(&Limits) -> Option<T>,
) -> bool {
    match (limit(&user.security.sandbox.limits), limit(&project.security.sandbox.limits)) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(user), Some(project)) => project <= user,
    }
}

#[cfg(test)]
mod tests {
    use serde_yaml::Value;

    use super::{RULES, loosened};
    use crate::settings::{Settings, keys};

    /// The key that `project` loosens when the user file says `user`; both are the fields of a
    /// section, written on one line.
    fn check(section: &str, user: &str, project: &str) -> Option<&'static str> {
        let nested = |fields: &str| -> Value {
            let mut value = Value::Null;
            keys::set(&mut value, section, serde_yaml::from_str(fields).unwrap());
            value
        };
        let (user, project) = (nested(user), nested(project));
        let fixed: Settings = serde_yaml::from_value(user.clone()).unwrap();
        let mut both = user.clone();
        for key in keys::KEYS.iter() {
            if let Some(value) = keys::get(&project, &key.path) {
                keys::set(&mut both, &key.path, value.clone());
            }
        }
        loosened(&user, &fixed, &serde_yaml::from_value(both).unwrap())
    }

    #[test]
    fn every_key_has_a_rule() {
        let ruled: Vec<_> = RULES.iter().map(|(key, _)| *key).collect();
        let keys: Vec<_> = keys::KEYS.iter().map(|key| key.path.as_str()).collect();
        assert_eq!(ruled, keys);
    }

    #[test]
    fn tightening_passes_and_loosening_does_not() {
        const SANDBOX: &str = "security.sandbox";
        const NETWORK: &str = "security.sandbox.network";
        const LIMITS: &str = "security.sandbox.limits";
        for (section, key, loose, strict) in [
            ("security", "mode", "direct", "sandbox"),
            ("security", "allow_direct", "true", "false"),
            ("security", "approval", "never", "direct"),
            (SANDBOX, "timeout_seconds", "10m", "60"),
            (SANDBOX, "request_timeout_seconds", "1m", "10"),
            (SANDBOX, "start_timeout_seconds", "10m", "60"),
            (SANDBOX, "expose", "[/a, /b]", "[/a]"),
            (SANDBOX, "system", "overlay", "ro"),
            (SANDBOX, "pool", "4", "0"),
            (NETWORK, "allow_egress", "true", "false"),
            (NETWORK, "restrict_egress", "false", "true"),
            (NETWORK, "allowed_ports", "[80, 443]", "[443]"),
            (NETWORK, "allowed_domains", "[a.com, b.com]", "[]"),
            (NETWORK, "allowed_hosts", "['10.0.0.1:80', '10.0.0.2']", "['10.0.0.2']"),
            (NETWORK, "block_egress", "false", "true"),
            (LIMITS, "memory", "1g", "512m"),
            (LIMITS, "cpus", "null", "1.5"),
            (LIMITS, "pids", "100", "10"),
            (LIMITS, "disk", "1g", "1m"),
            (LIMITS, "open_files", "100", "10"),
            (LIMITS, "output", "1m", "1k"),
        ] {
            let (loose, strict) = (format!("{{{key}: {loose}}}"), format!("{{{key}: {strict}}}"));
            let full = format!("{section}.{key}");
            assert_eq!(check(section, &loose, &strict), None, "{key}");
            assert_eq!(check(section, &strict, &strict), None, "{key}");
            assert_eq!(check(section, &strict, "{}"), None, "{key}");
            assert_eq!(check(section, &strict, &loose), Some(full.as_str()), "{key}");
            assert_eq!(check(section, "{}", &loose), None, "{key}");
        }
    }

    #[test]
    fn what_has_no_order_must_stay_the_same() {
        for (key, one, other) in [
            ("runtime", "embedded", "auto"),
            ("server_url", "http://a", "http://b"),
            ("image", "a", "b"),
            ("api_key", "a", "b"),
            ("use_server_proxy", "true", "false"),
            ("ca_file", "/a", "/b"),
            ("extensions", "{poolRef: a}", "{poolRef: b}"),
            ("workspace_mount", "/a", "/b"),
            ("workspace_mount", "''", "/b"),
        ] {
            let (one, other) = (format!("{{{key}: {one}}}"), format!("{{{key}: {other}}}"));
            assert_eq!(check("security.sandbox", &one, &one), None);
            assert!(check("security.sandbox", &one, &other).is_some(), "{key}");
            assert!(check("security.sandbox", &other, &one).is_some(), "{key}");
            assert_eq!(check("security.sandbox", "{}", &other), None);
        }
    }

    #[test]
    fn a_restriction_fixes_the_default_ports() {
        let check = |user, project| check("security.sandbox.network", user, project);
        assert!(check("{restrict_egress: true}", "{allowed_ports: [22]}").is_some());
        assert!(check("{restrict_egress: true}", "{allowed_ports: [443]}").is_none());
        assert!(check("{restrict_egress: false}", "{allowed_ports: [22]}").is_none());
    }

    #[test]
    fn a_limit_reset_to_its_default_is_loosened() {
        assert!(check("security.sandbox.limits", "{memory: 1g}", "{memory: null}").is_some());
    }
}
