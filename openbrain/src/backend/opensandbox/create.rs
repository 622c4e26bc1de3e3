//! A run as a request for a sandbox. Pure: what a server cannot give is refused before anything is
//! asked of it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::wire::{
    CreateSandbox, HostVolume, NetworkPolicy, NetworkPolicyState, NetworkRule, RuleAction, Volume,
    VolumeSource,
};
use crate::{
    error::{Error, Result},
    sandbox::{Isolation, IsolationLevel, Limits, MountMode, Network},
    spec::{SandboxSpec, ServerSpec, SessionSpec},
    units::is_loopback,
};

/// The label that marks sandboxes of openbrain.
pub(super) const OURS: &str = "openbrain";

/// What [`OURS`] says of a sandbox for one command.
pub(super) const EXEC: &str = "exec";

/// What [`OURS`] says of a sandbox that stays open.
pub(super) const SESSION: &str = "session";

/// The label that names a sandbox for people.
pub(super) const NAME: &str = "openbrain.name";

/// The label that names the machine that the request came from.
pub(super) const HOST: &str = "openbrain.host";

/// The label by which one run finds its own.
pub(super) const RUN: &str = "openbrain.run";

/// How long a sandbox lives on when its owner was killed. As long as the owner lives, it is prolonged.
pub(super) const LIFE: Duration = Duration::from_secs(300);

/// How enforcement is called that addresses cannot get around.
const FIREWALL: &str = "dns+nft";

/// The request for the sandbox of one command; `run` is a name for it that no other has.
pub(super) fn request(
    limits: &Limits,
    sandbox: &SandboxSpec,
    server: &ServerSpec,
    run: &str,
) -> Result<CreateSandbox> {
    let pooled = server.extensions.contains_key("poolRef");
    let policy = policy(&sandbox.network, &sandbox.allowed_hosts)?;
    let volumes = volumes(sandbox, is_loopback(&server.url))?;
    if pooled && (policy.is_some() || !volumes.is_empty()) {
        return Err(Error::invalid(
            "a sandbox from a pool can have no mounts and no network policy",
        )
        .with_remedy("leave them out, or take `poolRef` out of `security.sandbox.extensions`"));
    }
    let mut request = CreateSandbox::image(&server.image);
    // It counts from the request, before an image is pulled.
    request.timeout = Some(LIFE.saturating_add(server.start_timeout));
    request.metadata = labels(run);
    request.network_policy = policy;
    request.volumes = volumes;
    request.extensions = server.extensions.clone();
    if pooled {
        request.image = None;
        request.entrypoint = Vec::new();
        request.resource_limits = None;
    } else {
        request.resource_limits = Some(resource_limits(limits));
    }
    Ok(request)
}

/// The request for a sandbox that stays open.
pub(super) fn session_request(
    spec: &SessionSpec,
    sandbox: &SandboxSpec,
    server: &ServerSpec,
    run: &str,
) -> Result<CreateSandbox> {
    let mut request = request(&spec.limits, sandbox, server, run)?;
    if let Some(name) = spec.labels.keys().find(|name| name.starts_with(OURS)) {
        return Err(Error::invalid(format!("label `{name}` is openbrain's own"))
            .with_remedy("choose a name that does not begin with `openbrain`"));
    }
    request.metadata.insert(OURS.to_owned(), SESSION.to_owned());
    request.metadata.extend(spec.name.iter().map(|name| (NAME.to_owned(), name.clone())));
    request.metadata.extend(spec.labels.clone());
    Ok(request)
}

fn labels(run: &str) -> BTreeMap<String, String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let pairs = [(OURS, EXEC.to_owned()), (RUN, run.to_owned()), (HOST, label(&host))];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A text as a label may hold it: at most 63 letters, digits, `-`, `_` and `.`, the first and the
/// last no sign.
fn label(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let text: String = text.chars().map(plain).take(63).collect();
    text.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// Memory in plain bytes: to the server `m` is a million.
fn resource_limits(limits: &Limits) -> BTreeMap<String, String> {
    let memory = limits.memory.map(|bytes| ("memory".to_owned(), bytes.to_string()));
    let cpus = limits.cpus.map(|cpus| ("cpu".to_owned(), cpus.to_string()));
    memory.into_iter().chain(cpus).collect()
}

/// The policy that gives what is allowed, and nothing where everything is: private hosts, too, are
/// reachable then.
fn policy(network: &Network, hosts: &[String]) -> Result<Option<NetworkPolicy>> {
    let denied = |rules| Some(NetworkPolicy { default_action: RuleAction::Deny, egress: rules });
    Ok(match network {
        Network::Public => None,
        Network::None => denied(Vec::new()),
        Network::Listed { ports: Some(_), .. } => {
            return Err(Error::invalid("an OpenSandbox server cannot restrict ports").with_remedy(
                "its policies know names only: list them in \
                     `security.sandbox.network.allowed_domains` and leave `allowed_ports` out, or \
                     use `runtime: embedded`",
            ));
        }
        Network::Listed { ports: None, domains: None } => None,
        Network::Listed { ports: None, domains: Some(domains) } => {
            denied(domains.iter().chain(hosts).map(|name| rule(name)).collect::<Result<_>>()?)
        }
    })
}

fn rule(domain: &str) -> Result<NetworkRule> {
    if domain.contains(':') {
        return Err(Error::invalid(format!(
            "an OpenSandbox server cannot restrict the port of `{domain}`"
        ))
        .with_remedy("list the name without a port"));
    }
    Ok(NetworkRule { action: RuleAction::Allow, target: domain.to_owned() })
}

/// The mounts and exposed paths as volumes of the server's host.
fn volumes(sandbox: &SandboxSpec, server_is_here: bool) -> Result<Vec<Volume>> {
    let mut volumes = Vec::new();
    for mount in &sandbox.mounts {
        if mount.mode == MountMode::Overlay {
            let target = mount.target.display();
            return Err(Error::invalid(format!(
                "an OpenSandbox server cannot mount an overlay (at `{target}`)"
            ))
            .with_remedy("mount it `ro` or `rw`, or use `runtime: embedded`"));
        }
        let is_workspace = mount.target == Path::new(crate::sandbox::WORKSPACE);
        let source = source(&mount.source, server_is_here, is_workspace)?;
        volumes.push(volume(volumes.len(), source, &mount.target, mount.mode == MountMode::Ro)?);
    }
    for path in &sandbox.expose {
        let source = source(path, server_is_here, false)?;
        volumes.push(volume(volumes.len(), source.clone(), &source, true)?);
    }
    Ok(volumes)
}

/// A path of the server's host. The server would make a directory that is missing; on this machine
/// that can be seen before.
fn source(path: &Path, server_is_here: bool, is_workspace: bool) -> Result<PathBuf> {
    let name = path.display();
    if !server_is_here {
        return match path.is_absolute() {
            true => Ok(path.to_owned()),
            false => Err(Error::invalid(format!("mount source `{name}` is not absolute"))
                .with_remedy("name a path of the server's host")),
        };
    }
    let found = path.canonicalize().map_err(|error| {
        Error::invalid(format!("cannot mount `{name}`"))
            .with_source(error)
            .with_remedy("name a directory or file that is there")
    })?;
    if is_workspace && !found.is_dir() {
        return Err(Error::invalid(format!("the workspace `{name}` is not a directory"))
            .with_remedy("mount a file elsewhere, by a target of its own"));
    }
    Ok(found)
}

fn volume(number: usize, source: PathBuf, target: &Path, read_only: bool) -> Result<Volume> {
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            Error::invalid(format!("`{}` is not UTF-8, as a server needs it", path.display()))
                .with_remedy("rename it, or use the embedded engine, which takes any path")
        })
    };
    Ok(Volume {
        name: format!("openbrain-{number}"),
        source: VolumeSource::Host(HostVolume { path: text(&source)? }),
        mount_path: text(target)?,
        read_only,
        sub_path: None,
    })
}

/// Refuses a policy that is not in force as it was asked for.
pub(super) fn check_policy(wanted: &NetworkPolicy, found: &NetworkPolicyState) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::unavailable(format!("the server does not enforce the network policy: {what}"))
            .with_remedy(
                "set `[egress].mode = \"dns+nft\"` in the server's configuration, or use \
                 `runtime: embedded`",
            ))
    };
    if found.enforcement_mode != FIREWALL {
        let mode = &found.enforcement_mode;
        return refuse(format!("its mode is `{mode}`, which addresses get around"));
    }
    match &found.policy {
        Some(policy) if policy == wanted => Ok(()),
        Some(policy) => refuse(format!("in force is {policy:?}")),
        None => refuse("it tells of none".into()),
    }
}

/// What the server enforces around the command.
pub(super) fn isolation(limits: &Limits, sandbox: &SandboxSpec, server: &ServerSpec) -> Isolation {
    // A pool's sandbox was made before, with whatever limits the pool has.
    let is_made = !server.extensions.contains_key("poolRef");
    let network = match &sandbox.network {
        Network::None => "none",
        Network::Listed { domains: Some(_), .. } => "listed names",
        Network::Public | Network::Listed { .. } => "that of the server's containers",
    };
    let limits = [
        ("memory", limits.memory.is_some() && is_made, "the server"),
        ("cpus", limits.cpus.is_some() && is_made, "the server"),
        ("open_files", limits.open_files.is_some(), "rlimit"),
        ("output", limits.output.is_some(), "collection"),
    ];
    let limits = limits.into_iter().filter(|(_, is_set, _)| *is_set);
    Isolation {
        level: IsolationLevel::Container,
        filesystem: "the image".into(),
        network: network.into(),
        limits: limits.map(|(name, _, by)| (name.to_owned(), by.to_owned())).collect(),
        ..Isolation::default()
    }
}

#[cfg(test)]
mod tests;
