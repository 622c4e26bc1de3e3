//! Requests of somebody else, who asks over REST or MCP: they may tighten what the settings say,
//! never loosen it.

use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

use crate::{
    caller::Caller,
    error::{Error, Result},
    exec::{Exec, Stdin},
    sandbox::Limits,
    settings::Settings,
    spec::{InheritEnv, Place, Spec},
};

impl Settings {
    /// As [`Settings::resolve`], for a request of this caller.
    ///
    /// # Errors
    ///
    /// As [`Settings::resolve`]; `policy_denied` when the caller is a remote one and asks for more
    /// than `server` and `security` give to callers.
    pub fn resolve_for(&self, exec: Exec, caller: &Caller) -> Result<Spec> {
        if !caller.is_remote() {
            return self.resolve(exec);
        }
        self.check_input(&exec.stdin)?;
        self.check_paths(&exec)?;
        self.check_network(&exec)?;
        self.check_limits(&exec.limits)?;
        self.check_timeout(&exec)?;
        let mut spec = self.resolve(exec)?;
        let most = self.server.max_timeout;
        spec.timeout = Some(spec.timeout.map_or(most, |timeout| timeout.min(most)));
        if let Place::Embedded(sandbox) | Place::Opensandbox(sandbox, _) = &mut spec.place {
            let roots = self.mountable().chain(&self.security.sandbox.expose);
            sandbox.within = Some(roots.cloned().collect());
        }
        spec.inherit_env = InheritEnv::Listed(self.server.pass_env.clone());
        Ok(spec)
    }

    /// Holds a command in a sandbox that is open to what a caller may ask of it: the rest was decided
    /// when the sandbox was created.
    pub(crate) fn check_inside(&self, exec: &Exec, caller: &Caller) -> Result<()> {
        if !caller.is_remote() {
            return Ok(());
        }
        self.check_input(&exec.stdin)?;
        self.check_limits(&exec.limits)?;
        self.check_timeout(exec)
    }

    fn check_input(&self, stdin: &Stdin) -> Result<()> {
        let what = match stdin {
            Stdin::Null | Stdin::Bytes(_) | Stdin::Pipe => return Ok(()),
            Stdin::File(_) => "a file of the server",
            Stdin::Inherit => "the standard input of the server",
        };
        Err(Error::denied(format!("a caller's command cannot read {what}"))
            .with_remedy("send the input itself: `\"stdin\": \"text\"` or `{\"base64\": …}`"))
    }

    /// Holds mounts and exposed paths to what callers may see.
    fn check_paths(&self, exec: &Exec) -> Result<()> {
        for mount in &exec.mounts {
            self.check_path(&mount.source)?;
        }
        let known = |path: &&PathBuf| self.security.sandbox.expose.contains(path);
        exec.expose.iter().filter(|path| !known(path)).try_for_each(|path| self.check_path(path))
    }

    pub(super) fn check_path(&self, path: &Path) -> Result<()> {
        let shown = path.display();
        let climbs = path.components().any(|part| part == Component::ParentDir);
        if !path.is_absolute() || climbs {
            return Err(Error::invalid(format!("`{shown}` is not an absolute path of the server"))
                .with_remedy("name a directory of the server from its root, without `..`"));
        }
        if self.mountable().any(|root| path.starts_with(root)) {
            return Ok(());
        }
        Err(Error::denied(format!("the settings do not let callers see `{shown}`"))
            .with_remedy("the key is `server.allowed_mounts`"))
    }

    /// The directories below which callers may see everything.
    fn mountable(&self) -> impl Iterator<Item = &PathBuf> {
        self.server.allowed_mounts.iter().chain(&self.security.sandbox.workspace_mount)
    }

    /// A network that the settings switch off is off, and private services are those of the
    /// settings.
    fn check_network(&self, exec: &Exec) -> Result<()> {
        let network = &self.security.sandbox.network;
        let lists = [
            exec.allowed_ports.is_some(),
            exec.allowed_domains.is_some(),
            exec.allowed_hosts.is_some(),
        ];
        let asks = exec.allow_network == Some(true) || lists.contains(&true);
        if asks && !network.allow_egress {
            return Err(Error::denied("the settings give a caller's sandbox no network")
                .with_remedy("the key is `security.sandbox.network.allow_egress`"));
        }
        let hosts = exec.allowed_hosts.iter().flatten();
        if let (None, Some(host)) = (&network.allowed_hosts, hosts.into_iter().next()) {
            return Err(Error::denied(format!("the settings do not let callers reach `{host}`"))
                .with_remedy("the key is `security.sandbox.network.allowed_hosts`"));
        }
        Ok(())
    }

    fn check_limits(&self, asked: &Limits) -> Result<()> {
        let own = &self.security.sandbox.limits;
        let above = [
            ("memory", above(asked.memory, own.memory)),
            ("cpus", above(asked.cpus, own.cpus)),
            ("pids", above(asked.pids, own.pids)),
            ("disk", above(asked.disk, own.disk)),
            ("open_files", above(asked.open_files, own.open_files)),
            ("output", above(asked.output, own.output)),
        ];
        match above.iter().find(|(_, above)| *above) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Error::denied(format!("the limit `{name}` is above that of the settings"))
                    .with_remedy(format!("the key is `security.sandbox.limits.{name}`")))
            }
        }
    }

    /// Holds the time that a sandbox is to live on to what a caller may have: as long as a command, from
    /// each renewal.
    pub(crate) fn check_life(&self, time: Duration, caller: &Caller) -> Result<()> {
        if caller.is_remote() { self.check_time(time) } else { Ok(()) }
    }

    fn check_timeout(&self, exec: &Exec) -> Result<()> {
        exec.timeout.map_or(Ok(()), |timeout| self.check_time(timeout))
    }

    fn check_time(&self, time: Duration) -> Result<()> {
        let most = self.server.max_timeout;
        if time <= most {
            return Ok(());
        }
        let most = most.as_secs_f64();
        Err(Error::denied(format!("the timeout is above the {most} s that callers may have"))
            .with_remedy("ask for less; the key is `server.max_timeout_seconds`"))
    }
}

/// Whether what is asked for is above a limit, if there is one.
fn above<T: PartialOrd>(asked: Option<T>, own: Option<T>) -> bool {
    matches!((asked, own), (Some(asked), Some(own)) if asked > own)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        Caller, Error, ErrorKind, Exec, InheritEnv, Limits, Mount, NewSandbox, Place, Settings,
        Stdin, Surface,
    };

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.server.allowed_mounts = vec!["/srv/shared".into()];
        settings.security.sandbox.workspace_mount = Some("/srv/workspace".into());
        settings.security.sandbox.expose = vec!["/opt/tools".into()];
        settings
    }

    fn refused(settings: &Settings, exec: Exec) -> Error {
        let own = settings.resolve_for(exec.clone(), &Caller::new(Surface::Cli));
        assert!(own.is_ok(), "the user may: {own:?}");
        settings.resolve_for(exec, &Caller::new(Surface::Rest)).unwrap_err()
    }

    #[test]
    fn a_remote_caller_cannot_loosen_the_settings() {
        let exec = || Exec::new("true").sandbox();
        let memory = Limits { memory: Some(5 << 30), ..Limits::default() };
        let output = Limits { output: Some(11 << 20), ..Limits::default() };
        for (exec, message) in [
            (exec().mount("/etc"), "do not let callers see `/etc`"),
            (exec().mount("/srv"), "do not let callers see `/srv`"),
            (exec().mount("/srv/shared2"), "do not let callers see `/srv/shared2`"),
            (exec().expose("/home/tom"), "do not let callers see `/home/tom`"),
            (exec().stdin(Stdin::File("/etc/shadow".into())), "cannot read a file of the server"),
            (exec().stdin(Stdin::Inherit), "cannot read the standard input"),
            (exec().allow_host("10.0.0.1:80"), "do not let callers reach `10.0.0.1:80`"),
            (exec().limits(memory), "the limit `memory` is above"),
            (Exec::new("true").limits(output), "the limit `output` is above"),
            (exec().timeout(Duration::from_secs(3601)), "above the 3600 s"),
        ] {
            let error = refused(&settings(), exec);
            assert_eq!(error.kind(), ErrorKind::PolicyDenied, "{error}");
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.remedy().is_some(), "{error}");
        }
        for path in ["relative", "/srv/shared/../../etc"] {
            assert_eq!(refused(&settings(), exec().mount(path)).kind(), ErrorKind::InvalidRequest);
        }
    }

    #[test]
    fn a_remote_caller_cannot_get_more_by_a_sandbox_that_stays_open() {
        let remote = Caller::new(Surface::Rest);
        let settings = settings();
        let day = Duration::from_secs(24 * 3600);
        for new in [
            NewSandbox::default().mount("/etc"),
            NewSandbox::default().expose("/home/tom"),
            NewSandbox::default().allow_host("10.0.0.1:80"),
            NewSandbox::default().timeout(day),
        ] {
            settings.resolve_sandbox(new.clone(), &Caller::default()).unwrap();
            let error = settings.resolve_sandbox(new, &remote).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PolicyDenied, "{error}");
        }
        for exec in [
            Exec::new("true").stdin(Stdin::File("/etc/shadow".into())),
            Exec::new("true").stdin(Stdin::Inherit),
            Exec::new("true").timeout(day),
        ] {
            settings.check_inside(&exec, &Caller::default()).unwrap();
            let error = settings.check_inside(&exec, &remote).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PolicyDenied, "{error}");
        }
        settings.check_life(day, &Caller::default()).unwrap();
        settings.check_life(Duration::from_secs(3600), &remote).unwrap();
        let error = settings.check_life(day, &remote).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PolicyDenied, "{error}");
    }

    #[test]
    fn a_command_in_a_sandbox_of_a_remote_caller_has_no_longer_than_others() {
        let mut settings = settings();
        settings.server.max_timeout = Duration::from_secs(60);
        let times = |surface| {
            let caller = Caller::new(surface);
            let spec = settings.resolve_sandbox(NewSandbox::default(), &caller).unwrap();
            [spec.timeout, spec.command_timeout].map(|time| time.as_secs())
        };
        assert_eq!(times(Surface::Cli), [300, 300]);
        assert_eq!(times(Surface::Mcp), [60, 60]);
    }

    #[test]
    fn a_network_that_is_off_stays_off() {
        let mut settings = Settings::default();
        settings.security.sandbox.network.allow_egress = false;
        let exec = || Exec::new("true").sandbox();
        for exec in [exec().allow_network(true), exec().allow_port(80), exec().allow_domain("a.b")]
        {
            assert_eq!(refused(&settings, exec).kind(), ErrorKind::PolicyDenied);
        }
    }

    #[test]
    fn a_remote_caller_may_tighten() {
        let remote = Caller::new(Surface::Mcp);
        let exec = || Exec::new("true").sandbox();
        for exec in [
            exec().mount("/srv/shared/project"),
            exec().mount_at(Mount::workspace("/srv/workspace")),
            exec().expose("/opt/tools"),
            exec().allow_network(false),
            exec().allow_port(443),
            exec().limits(Limits { memory: Some(64 << 20), ..Limits::default() }),
            exec().timeout(Duration::from_secs(3600)),
        ] {
            settings().resolve_for(exec, &remote).unwrap();
        }
    }

    #[test]
    fn what_a_remote_caller_sees_is_in_the_plan() {
        let mut settings = settings();
        settings.server.pass_env = vec!["PATH".into(), "LC_*".into()];
        let resolve = |exec, surface| {
            let spec = settings.resolve_for(exec, &Caller::new(surface)).unwrap();
            let Place::Embedded(sandbox) = spec.place else { panic!("{spec:?}") };
            (spec.inherit_env, sandbox.within, sandbox.allowed_hosts)
        };
        let exec = || Exec::new("true").sandbox();
        let (env, within, hosts) = resolve(exec(), Surface::Rest);
        assert_eq!(env, InheritEnv::Listed(settings.server.pass_env.clone()));
        let roots = ["/srv/shared", "/srv/workspace", "/opt/tools"].map(Into::into).to_vec();
        assert_eq!(within, Some(roots));
        assert_eq!(hosts, Vec::<String>::new());
        let (env, within, hosts) = resolve(exec().allow_host("10.0.0.1:80"), Surface::Cli);
        assert_eq!((env, within), (InheritEnv::All, None));
        assert_eq!(hosts, ["10.0.0.1:80"]);
    }

    /// Without a list in the settings the user may reach what he asks for, and a caller nothing.
    #[test]
    fn private_services_of_a_remote_caller_are_those_of_the_settings() {
        let hosts = |own: Option<&[&str]>, asked: Option<&str>| {
            let mut settings = Settings::default();
            let own = own.map(|own| own.iter().map(|host| (*host).to_owned()).collect());
            settings.security.sandbox.network.allowed_hosts = own;
            let exec =
                asked.iter().fold(Exec::new("x").sandbox(), |exec, host| exec.allow_host(*host));
            let spec = settings.resolve_for(exec, &Caller::new(Surface::Mcp)).ok()?;
            let Place::Embedded(sandbox) = spec.place else { panic!("{spec:?}") };
            Some(sandbox.allowed_hosts)
        };
        let none = Some(Vec::new());
        for own in [None, Some(&[][..])] {
            assert_eq!(hosts(own, None), none);
            assert_eq!(hosts(own, Some("10.0.0.1")), None);
        }
        let own = Some(&["10.0.0.0/8", "db:5432"][..]);
        assert_eq!(hosts(own, Some("10.0.0.1")), Some(vec!["10.0.0.1".into()]));
        assert_eq!(hosts(own, Some("192.168.0.1")), None);
        assert_eq!(hosts(own, None), Some(vec!["10.0.0.0/8".into(), "db:5432".into()]));
    }

    #[test]
    fn a_command_of_a_remote_caller_always_has_a_deadline() {
        let remote = Caller::new(Surface::Rest);
        let timeout = |settings: &Settings, exec| {
            settings.resolve_for(exec, &remote).unwrap().timeout.unwrap().as_secs()
        };
        let mut settings = Settings::default();
        assert_eq!(timeout(&settings, Exec::new("true")), 3600);
        assert_eq!(timeout(&settings, Exec::new("true").sandbox()), 300);
        settings.server.max_timeout = Duration::from_secs(60);
        assert_eq!(timeout(&settings, Exec::new("true").sandbox()), 60);
    }
}
