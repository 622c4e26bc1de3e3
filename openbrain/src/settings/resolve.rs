//! From a request to a [`Spec`]: every default filled in, the policy applied.

mod network;
mod remote;
mod sandbox;

use std::path::{Path, PathBuf};

use self::network::NetworkWishes;
use super::{Mode, Runtime, SandboxSettings, Security, Settings};
use crate::{
    error::{Error, Result},
    exec::Exec,
    sandbox::{Limits, Mount, Network, WORKSPACE},
    script::SHELL,
    spec::{InheritEnv, Place, SandboxSpec, ServerSpec, Spec, check_workdir},
};

/// What to do when a request that would run directly has options of a sandbox.
const ADD_SANDBOX: &str = "add `--sandbox` (`.sandbox()`, `\"sandbox\": true`), or leave it out";

/// What a request asks of the sandbox that it is to run in.
struct Wishes {
    mounts: Vec<Mount>,
    expose: Vec<PathBuf>,
    network: NetworkWishes,
}

impl Settings {
    /// Fills in what the request leaves open and applies the policy. Reads nothing but its
    /// arguments: no file, no environment.
    ///
    /// # Errors
    ///
    /// - `invalid_request` when the request cannot be meant, or has options of a sandbox and would
    ///   run directly;
    /// - `policy_denied` when the settings forbid it;
    /// - `invalid_settings` when the settings name no server, or a path that is not absolute, and
    ///   the request needs it.
    pub fn resolve(&self, exec: Exec) -> Result<Spec> {
        exec.check()?;
        let Exec {
            command,
            sandbox,
            timeout,
            workdir,
            env,
            stdin,
            shell,
            mounts,
            expose,
            allow_network: allow,
            allowed_ports: ports,
            allowed_domains: domains,
            allowed_hosts: hosts,
            changes,
            limits,
            tty,
        } = exec;
        let network = NetworkWishes { allow, ports, domains, hosts };
        let wishes = Wishes { mounts, expose, network };
        let security = &self.security;
        let mut warnings = Vec::new();
        let sandboxed = sandbox.unwrap_or(security.mode == Mode::Sandbox);
        let (place, limits, default_timeout) = if sandboxed {
            workdir.as_deref().map(check_workdir).transpose()?;
            let sandbox = &security.sandbox;
            let place = sandbox.place(wishes, &mut warnings)?;
            let limits = match place {
                Place::Opensandbox(..) => sandbox.server_limits(limits)?,
                Place::Embedded(_) | Place::Direct => limits.or(&sandbox.limits),
            };
            (place, limits, Some(sandbox.timeout))
        } else {
            security.check_direct(&wishes)?;
            (Place::Direct, security.direct_limits(limits)?, None)
        };
        check_changes(&place, changes)?;
        let shell = shell.unwrap_or_else(|| SHELL.into());
        let timeout = timeout.or(default_timeout);
        Ok(Spec {
            place,
            command,
            shell,
            timeout,
            workdir,
            env,
            inherit_env: InheritEnv::All,
            stdin,
            tty,
            changes,
            limits,
            warnings,
        })
    }
}

/// Refuses a report of changes where nobody knows them.
fn check_changes(place: &Place, are_wanted: bool) -> Result<()> {
    match place {
        _ if !are_wanted => Ok(()),
        Place::Embedded(_) => Ok(()),
        Place::Direct => {
            Err(Error::invalid("a direct command cannot report its changes")
                .with_remedy(ADD_SANDBOX))
        }
        Place::Opensandbox(..) => {
            Err(Error::invalid("a sandbox on an OpenSandbox server cannot report its changes")
                .with_remedy("use the embedded engine: `security.sandbox.runtime: embedded`"))
        }
    }
}

impl Security {
    /// Refuses a direct command that the settings forbid or that asks for something only a
    /// sandbox has: options may only ever add isolation.
    fn check_direct(&self, wishes: &Wishes) -> Result<()> {
        if !self.allow_direct {
            return Err(Error::denied("the settings allow no direct commands").with_remedy(
                "run it in a sandbox (`--sandbox`); the key is `security.allow_direct`",
            ));
        }
        let Wishes { mounts, expose, network } = wishes;
        let option = match (mounts.is_empty(), expose.is_empty(), network.is_none()) {
            (true, true, true) => return Ok(()),
            (false, ..) => "mounts",
            (_, false, _) => "exposed paths",
            (.., false) => "a network rule",
        };
        Err(Error::invalid(format!("a direct command cannot have {option}"))
            .with_remedy(ADD_SANDBOX))
    }

    /// The limits of a direct command: its own, and the cap on collected output.
    fn direct_limits(&self, limits: Limits) -> Result<Limits> {
        let Limits { memory, cpus, pids, disk, open_files, output } = limits;
        let set = [
            ("memory", memory.is_some()),
            ("cpus", cpus.is_some()),
            ("pids", pids.is_some()),
            ("disk", disk.is_some()),
        ];
        if let Some((name, _)) = set.iter().find(|(_, set)| *set) {
            return Err(Error::invalid(format!("a direct command cannot have a `{name}` limit"))
                .with_remedy(ADD_SANDBOX));
        }
        let output = output.or(self.sandbox.limits.output);
        Ok(Limits { open_files, output, ..Limits::default() })
    }
}

impl SandboxSettings {
    /// The server that runs sandboxes; `None` when the embedded engine does.
    ///
    /// # Errors
    ///
    /// `invalid_settings` when `runtime` is `opensandbox` and there is no `server_url`.
    pub fn server(&self) -> Result<Option<ServerSpec>> {
        match (self.runtime, &self.server_url) {
            (Runtime::Embedded, _) | (Runtime::Auto, None) => Ok(None),
            (Runtime::Auto | Runtime::Opensandbox, Some(url)) => Ok(Some(ServerSpec {
                url: url.clone(),
                api_key: self.api_key.clone(),
                use_server_proxy: self.use_server_proxy,
                ca_file: self.ca_file.clone(),
                request_timeout: self.request_timeout,
                start_timeout: self.start_timeout,
                image: self.image.clone(),
                extensions: self.extensions.clone(),
            })),
            (Runtime::Opensandbox, None) => Err(Error::settings(
                "`security.sandbox.runtime` is `opensandbox` and there is no `server_url`",
            )
            .with_remedy("set `server_url: http://localhost:8080`, or `runtime: embedded`")),
        }
    }

    /// The limits of a sandbox on a server, which knows no others for one sandbox.
    fn server_limits(&self, asked: Limits) -> Result<Limits> {
        for (name, asked) in [("pids", asked.pids), ("disk", asked.disk)] {
            if asked.is_some() {
                return Err(Error::invalid(format!(
                    "an OpenSandbox server cannot limit `{name}` for one sandbox"
                ))
                .with_remedy(
                    "leave the limit out; the server's own is for all sandboxes \
                     (`[docker].pids_limit`)",
                ));
            }
        }
        Ok(Limits { pids: None, disk: None, ..asked.or(&self.limits) })
    }

    fn place(&self, wishes: Wishes, warnings: &mut Vec<String>) -> Result<Place> {
        let ports_are_given =
            wishes.network.ports.is_some() || self.network.allowed_ports.is_some();
        let (mut network, allowed_hosts) = self.network.grant(wishes.network)?;
        let server = self.server()?;
        if let (Some(_), Network::Listed { ports, domains: Some(_) }) = (&server, &mut network)
            && ports.is_some()
            && !ports_are_given
        {
            *ports = None;
            warnings.push("the OpenSandbox server restricts names, not ports".into());
        }
        let sandbox = SandboxSpec {
            mounts: self.mounts(wishes.mounts)?,
            expose: self.expose(wishes.expose)?,
            within: None,
            network,
            allowed_hosts,
            system: self.system,
            rootfs: None,
        };
        Ok(match server {
            None => Place::Embedded(sandbox),
            Some(server) => Place::Opensandbox(sandbox, server),
        })
    }

    /// The mounts of the request, below them the workspace of the settings unless the request
    /// mounts something there.
    fn mounts(&self, asked: Vec<Mount>) -> Result<Vec<Mount>> {
        for (n, mount) in asked.iter().enumerate() {
            if asked[..n].iter().any(|earlier| earlier.target == mount.target) {
                let target = mount.target.display();
                return Err(Error::invalid(format!("two mounts at `{target}`"))
                    .with_remedy("give each its own place: SRC:DST"));
            }
        }
        let has_workspace = asked.iter().any(|mount| mount.target == Path::new(WORKSPACE));
        let own = self.workspace_mount.as_ref().filter(|_| !has_workspace);
        own.map(|path| check_absolute("workspace_mount", path)).transpose()?;
        Ok(own.map(Mount::workspace).into_iter().chain(asked).collect())
    }

    /// The exposed paths of the settings and of the request, each once.
    fn expose(&self, asked: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
        self.expose.iter().try_for_each(|path| check_absolute("expose", path))?;
        let mut paths = self.expose.clone();
        for path in asked {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        Ok(paths)
    }
}

/// Refuses a path of settings that were not loaded from a file, where `~/` was expanded.
fn check_absolute(key: &str, path: &Path) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    let path = path.display();
    Err(Error::settings(format!("`security.sandbox.{key}`: `{path}` is not absolute"))
        .with_remedy("begin it with `/`"))
}

#[cfg(test)]
mod tests;
