//! What this machine gives: looked at, tried, and explained.

use std::fs;

use super::{
    cgroup::{Controller, Hierarchies},
    host::{Host, Identity},
};
use crate::check::Check;

/// The checks of the embedded engine, without the trial run that proves them.
pub(crate) fn checks() -> Vec<Check> {
    let mut checks = vec![user_namespaces(), caller(), landlock()];
    let hierarchies = Hierarchies::find();
    for (controller, name) in
        [(Controller::Memory, "memory"), (Controller::Pids, "pids"), (Controller::Cpu, "cpus")]
    {
        checks.push(limit(name, hierarchies.version_for(controller)));
    }
    checks
}

fn user_namespaces() -> Check {
    match obstacle() {
        None => Check::ok("user_namespaces", "user namespaces are allowed"),
        Some((summary, remedy)) => Check::failed("user_namespaces", summary, remedy),
    }
}

fn caller() -> Check {
    Check::ok(
        "identity",
        match Identity::current() {
            Identity::Root => format!(
                "running as root; sandboxes are the host user {}, who owns nothing",
                Identity::Root.outside().0
            ),
            Identity::Caller { uid, .. } => {
                format!("sandboxes are the host user {uid}, without power")
            }
        },
    )
}

fn landlock() -> Check {
    match Host::get().landlock {
        Some(abi) => Check::ok("landlock", format!("Landlock version {abi}")),
        None => Check::warning(
            "landlock",
            "the kernel has no Landlock; sandboxes lack this second wall",
            "boot with `lsm=landlock,…` on a kernel of 5.13 or later",
        ),
    }
}

fn limit(name: &str, version: Option<u8>) -> Check {
    let id = match name {
        "memory" => "limit_memory",
        "pids" => "limit_pids",
        _ => "limit_cpus",
    };
    match version {
        Some(version) => Check::ok(id, format!("`{name}` is limited by cgroup v{version}")),
        None => Check::warning(
            id,
            format!("no cgroup for `{name}`; a fallback is used"),
            "with systemd: systemd-run --user --scope openbrain exec --sandbox COMMAND",
        ),
    }
}

/// The known reasons why user namespaces are refused, and the command that mends each.
fn obstacle() -> Option<(String, String)> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let is = |path: &str, value: &str| read(path).is_some_and(|text| text == value);
    let refused = |what: &str| format!("user namespaces are refused: {what}");
    if !fs::exists("/proc/self/ns/user").unwrap_or(false) {
        return Some((
            refused("the kernel has none, or /proc is not mounted"),
            "use a kernel with CONFIG_USER_NS".into(),
        ));
    }
    if is("/proc/sys/user/max_user_namespaces", "0") {
        let remedy = "sudo sysctl user.max_user_namespaces=15000";
        return Some((refused("user.max_user_namespaces is 0"), remedy.into()));
    }
    let privileged = rustix::process::geteuid().is_root();
    if !privileged && is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        let remedy = "sudo sysctl kernel.unprivileged_userns_clone=1";
        return Some((refused("kernel.unprivileged_userns_clone is 0"), remedy.into()));
    }
    if !privileged && is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        let remedy = "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or install the \
                      helper and an AppArmor profile for it (docs/SECURITY.md)";
        return Some((refused("AppArmor restricts them"), remedy.into()));
    }
    None
}

/// Whether this machine refuses user namespaces altogether, so that trying later is no use.
pub(crate) fn is_refused() -> bool {
    obstacle().is_some()
}

/// What to do when the kernel refused a step.
pub(crate) fn remedy() -> String {
    match obstacle() {
        Some((summary, remedy)) => format!("{summary}; {remedy}"),
        None => "run `openbrain doctor`; in a container, allow user namespaces and an unmasked \
                 /proc (docker run --security-opt seccomp=unconfined --security-opt \
                 systempaths=unconfined)"
            .into(),
    }
}

/// The processors that this process may use.
pub(crate) fn allowed_processors() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None);
    set.map(|set| (0..1024).filter(|cpu| set.is_set(*cpu)).collect()).unwrap_or_default()
}
