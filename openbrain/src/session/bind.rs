//! From a request for a command in an open sandbox to a [`Spec`]. Pure: the settings have had their
//! say when the sandbox was created.

use crate::{
    error::{Error, Result},
    exec::Exec,
    sandbox::Limits,
    script::SHELL,
    spec::{InheritEnv, SessionSpec, Spec, check_workdir},
};

impl SessionSpec {
    /// Fills in what the request leaves open, and refuses what is not its business.
    ///
    /// # Errors
    ///
    /// `invalid_request` when the request cannot be meant, wants to run on the host, or has options
    /// that belong to the sandbox.
    pub fn bind(&self, exec: Exec) -> Result<Spec> {
        exec.check()?;
        if let Some(option) = misplaced(&exec) {
            let remedy = match exec.changes {
                true => "ask the sandbox for its changes",
                false => "give it to the sandbox when it is created",
            };
            return Err(Error::invalid(format!(
                "a command in an open sandbox cannot have {option}"
            ))
            .with_remedy(remedy));
        }
        if exec.sandbox == Some(false) {
            return Err(Error::invalid("a command in an open sandbox cannot run on the host")
                .with_remedy("run it as a command of its own, outside of the sandbox"));
        }
        exec.workdir.as_deref().map(check_workdir).transpose()?;
        let mut env = self.env.clone();
        env.extend(exec.env);
        Ok(Spec {
            place: self.place.clone(),
            command: exec.command,
            shell: exec.shell.unwrap_or_else(|| SHELL.into()),
            timeout: Some(exec.timeout.unwrap_or(self.command_timeout)),
            workdir: exec.workdir.or_else(|| self.workdir.clone()),
            env,
            stdin: exec.stdin,
            tty: exec.tty,
            inherit_env: InheritEnv::default(),
            changes: false,
            limits: self.narrowed(&exec.limits),
            warnings: Vec::new(),
        })
    }

    /// The limits of one command: those of the sandbox, or less.
    fn narrowed(&self, asked: &Limits) -> Limits {
        let least = |own: Option<u64>, asked: Option<u64>| match (own, asked) {
            (Some(own), Some(asked)) => Some(own.min(asked)),
            (own, asked) => own.or(asked),
        };
        Limits {
            open_files: least(self.limits.open_files, asked.open_files),
            output: least(self.limits.output, asked.output),
            ..self.limits.clone()
        }
    }
}

/// An option that belongs to the sandbox and not to a command in it.
fn misplaced(exec: &Exec) -> Option<&'static str> {
    let Limits { memory, cpus, pids, disk, open_files: _, output: _ } = &exec.limits;
    let network = exec.allow_network.is_some()
        || exec.allowed_ports.is_some()
        || exec.allowed_domains.is_some()
        || exec.allowed_hosts.is_some();
    let options = [
        ("mounts", !exec.mounts.is_empty()),
        ("exposed paths", !exec.expose.is_empty()),
        ("a network rule", network),
        ("a report of changes", exec.changes),
        ("a `memory` limit", memory.is_some()),
        ("a `cpus` limit", cpus.is_some()),
        ("a `pids` limit", pids.is_some()),
        ("a `disk` limit", disk.is_some()),
    ];
    options.into_iter().find(|(_, is_set)| *is_set).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::{Exec, Limits};
    use crate::{caller::Caller, new_sandbox::NewSandbox, settings::Settings, spec::SessionSpec};

    fn session(new: NewSandbox) -> SessionSpec {
        Settings::default().resolve_sandbox(new, &Caller::default()).unwrap()
    }

    #[test]
    fn a_command_has_what_the_sandbox_has() {
        let new = NewSandbox::default().env("A", "1").env("B", "1").workdir("/tmp");
        let session = session(new);
        let spec = session.bind(Exec::new("true").env("B", "2")).unwrap();
        assert_eq!(spec.env["A"], "1");
        assert_eq!(spec.env["B"], "2");
        assert_eq!(spec.workdir.as_deref(), Some(Path::new("/tmp")));
        assert_eq!(spec.place, session.place);
        assert_eq!(spec.timeout, Some(Duration::from_secs(300)));
    }

    #[test]
    fn a_command_can_have_less_and_never_more() {
        let limits = Limits { open_files: Some(100), output: Some(1000), ..Limits::default() };
        let session = session(NewSandbox::default().limits(limits));
        let asked = |open_files, output| Limits { open_files, output, ..Limits::default() };
        let bound = |limits| session.bind(Exec::new("true").limits(limits)).unwrap().limits;
        assert_eq!(bound(asked(Some(50), Some(10))).open_files, Some(50));
        assert_eq!(bound(asked(Some(500), Some(10))).open_files, Some(100));
        assert_eq!(bound(asked(None, Some(5000))).output, Some(1000));
        assert_eq!(bound(asked(None, None)).memory, session.limits.memory);
    }

    #[test]
    fn what_belongs_to_the_sandbox_is_refused() {
        let session = session(NewSandbox::default());
        let memory = Limits { memory: Some(1 << 40), ..Limits::default() };
        for exec in [
            Exec::new("true").mount("/etc"),
            Exec::new("true").expose("/etc"),
            Exec::new("true").changes(),
            Exec::new("true").allow_network(true),
            Exec::new("true").allow_port(22),
            Exec::new("true").allow_domain("a.example"),
            Exec::new("true").allow_host("localhost"),
            Exec::new("true").limits(memory),
            Exec::new("true").direct(),
            Exec::new("true").workdir("../x"),
        ] {
            let error = session.bind(exec).unwrap_err();
            assert_eq!(error.code(), "invalid_request");
        }
    }
}
