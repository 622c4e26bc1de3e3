//! The embedded sandbox: Linux namespaces, no daemon, no root, nothing installed.
//!
//! A run goes through four steps: look at the host ([`host`], [`sources`], [`cgroup`]), decide
//! ([`limits`]), compile ([`root`], [`walls`], [`seccomp`]), launch (the helper). Compiling is pure;
//! what the first step found is all that it knows.

mod cgroup;
mod egress;
mod etc;
mod host;
mod limits;
mod mounts;
mod probe;
mod root;
mod seccomp;
mod sources;
mod walls;

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use self::{
    cgroup::{Groups, Hierarchies},
    egress::Egress,
    host::{Host, Identity},
    limits::Enforcement,
    root::Root,
    sources::Source,
};
pub(crate) use self::{egress::checks as egress_checks, probe::checks};
use super::{
    Backend, BoxFuture, Control, Ended, Order, Running,
    helper::{
        self, CommandPlan, Ends, Guarded, Handles, Program, Section, StartFailure, Streams, wire,
    },
};
use crate::{
    error::{Error, ErrorKind, Result},
    exec::TerminalSize,
    output::BackendName,
    sandbox::{Isolation, IsolationLevel, WORKSPACE},
    spec::{Place, SandboxSpec, Spec, System},
};

/// The embedded engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Embedded;

impl Backend for Embedded {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        Box::pin(spawn(spec))
    }
}

/// What a run is compiled from.
struct Run<'a> {
    spec: &'a Spec,
    sandbox: &'a SandboxSpec,
    host: Arc<Host>,
    identity: Identity,
    sources: Vec<Source>,
    groups: Option<Groups>,
    enforcement: Enforcement,
    egress: Option<egress::Plan>,
    argv: Vec<String>,
    has_file: bool,
}

async fn spawn(spec: &Spec) -> Result<Running> {
    loop {
        if let Some(running) = attempt(spec).await? {
            return Ok(running);
        }
    }
}

/// Starts a sandbox; `None` when the kernel has refused what the next attempt does without.
async fn attempt(spec: &Spec) -> Result<Option<Running>> {
    let Place::Embedded(sandbox) = &spec.place else {
        return Err(Error::unavailable("the request is not for the embedded engine"));
    };
    let script = CommandPlan::program(spec)?;
    let file = script.file.as_deref().map(helper::script_file).transpose()?;
    let mut run = Run::look(spec, sandbox, script.argv, file.is_some())?;
    let (ends, streams) = match spec.tty {
        Some(_) => (Ends::null()?, Streams::default()),
        None => helper::open(&spec.stdin, Handles::Harmless)?,
    };
    let program = run.compile()?;
    let file = file.as_ref().map(AsFd::as_fd);
    let link = helper::launch(&program, &run.descriptors(&ends, file))?;
    drop(ends);
    let handed = match helper::started(&link, &program).await {
        Ok(handed) => handed,
        Err(failure) if run.can_do_without(&failure) => return Ok(None),
        Err(failure) => return Err(failure.into_error(&run.argv[0], unavailable)),
    };
    let streams = match handed.terminal {
        Some(terminal) => helper::streams_of_terminal(terminal)?,
        None => streams,
    };
    let (isolation, warnings) = (run.isolation(), run.enforcement.warnings.clone());
    let egress = run.egress.take().map(|plan| plan.serve(handed.egress)).transpose()?;
    Ok(Some(Running {
        backend: BackendName::Embedded,
        sandbox_id: None,
        isolation,
        warnings,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        control: Box::new(Sandboxed {
            guarded: Guarded::new(link, streams.terminal),
            groups: run.groups,
            egress,
            ended: None,
        }),
    }))
}

impl<'a> Run<'a> {
    fn look(
        spec: &'a Spec,
        sandbox: &'a SandboxSpec,
        argv: Vec<String>,
        has_file: bool,
    ) -> Result<Self> {
        let sources = sources::open(sandbox)?;
        let groups = Hierarchies::find()
            .plan(&spec.limits)
            .map_err(|e| Error::unavailable("cannot open a control group").with_source(e))?;
        let allowed = probe::allowed_processors();
        // Spreads sandboxes that are bound to processors over all of them.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let step = spec.limits.cpus.map_or(1.0, f64::ceil) as usize;
        let chance = std::process::id() as usize + NEXT.fetch_add(step, Ordering::Relaxed);
        let enforcement = limits::decide(&spec.limits, groups.as_ref(), &allowed, chance);
        Ok(Self {
            spec,
            sandbox,
            host: Host::get(),
            identity: Identity::current(),
            sources,
            groups,
            enforcement,
            egress: egress::Plan::new(sandbox)?,
            argv,
            has_file,
        })
    }

    /// The descriptors of the helper, in the order that [`Run::compile`] counts on: those that the
    /// monitor keeps for the control groups, the command's, the sources.
    fn descriptors<'b>(
        &'b self,
        ends: &'b Ends,
        file: Option<BorrowedFd<'b>>,
    ) -> Vec<BorrowedFd<'b>> {
        let mut fds: Vec<BorrowedFd<'b>> = Vec::new();
        fds.extend(self.groups.iter().flat_map(Groups::parents));
        fds.extend(ends.as_fds());
        fds.extend(file);
        fds.extend(self.sources.iter().map(|source| source.fd.as_fd()));
        fds
    }

    /// The whole run as system calls. Nothing here touches the system.
    fn compile(&self) -> Result<Program> {
        let groups = self.groups.as_ref().map_or(0, |groups| groups.parents().count()) as i32;
        let command_fd = wire::FIRST_FD + groups;
        let root = Root {
            host: &self.host,
            identity: self.identity,
            sources: &self.sources,
            first_fd: command_fd + 3 + i32::from(self.has_file),
            system: self.sandbox.system,
            disk: self.spec.limits.disk,
            memory: self.spec.limits.memory,
            name_server: self.egress.as_ref().map(|_| egress::NAME_SERVER),
        };
        let mut program = Program::default();
        program.sandbox = Some(walls::first_namespaces());
        program.kept_fds = groups as u32;
        program.memory_limit = self.enforcement.watch;
        let to = &mut program;
        let prepared = root.prepare(to);
        if let Some(groups) = &self.groups {
            groups.make(to, wire::FIRST_FD, &self.spec.limits);
        }
        walls::become_inner_root(to, self.identity);
        let args = [libc::CLONE_NEWCGROUP.into()];
        to.call(Section::Inside, libc::SYS_unshare, args, "make a namespace of control groups");
        let args = [libc::PR_SET_PDEATHSIG.into(), libc::SIGKILL.into()];
        to.call(Section::Inside, libc::SYS_prctl, args, "tie the sandbox to its monitor");
        to.call(Section::Inside, libc::SYS_umask, [0o022.into()], "set the file mode mask");
        walls::name_and_loopback(to, etc::HOSTNAME);
        if let Some(egress) = &self.egress {
            egress.compile(to);
        }
        self.enforcement.bind(to);
        root.build(to, &prepared);
        walls::give_up_power(to, self.identity, self.host.last_capability);
        self.compile_command(to, command_fd)?;
        walls::confine_reaper(to);
        Ok(program)
    }

    fn compile_command(&self, to: &mut Program, command_fd: i32) -> Result<()> {
        if let Some(size) = self.spec.tty {
            make_terminal(to, command_fd, size);
        }
        let rules = self.host.landlock.map(|abi| {
            let writable = root::writable(&self.sources, self.sandbox.system);
            walls::landlock(to, abi, &writable)
        });
        let command = CommandPlan {
            env: environment(self.spec),
            first_fd: command_fd,
            terminal: self.spec.tty.is_some(),
            workdir: Some(self.spec.workdir.as_deref().unwrap_or(Path::new(WORKSPACE))),
            rlimits: self.enforcement.rlimits.clone(),
        };
        if let Some(rules) = rules {
            walls::landlock_restrict(to, rules);
        }
        command.prepare(to, self.has_file);
        walls::filter_command(to, &self.enforcement.rules);
        command.execute(to, &self.argv)
    }

    fn isolation(&self) -> Isolation {
        let mut layers = ["second_user_namespace", "no_capabilities", "no_new_privs", "seccomp"]
            .map(str::to_owned)
            .to_vec();
        layers.extend(self.host.landlock.map(|abi| format!("landlock:{abi}")));
        let system = match self.sandbox.system {
            System::Ro => "read-only system directories",
            System::Overlay => "system directories under a throw-away layer",
        };
        Isolation {
            level: IsolationLevel::Namespaces,
            namespaces: walls::NAMESPACES.map(|(name, _)| name.to_owned()).to_vec(),
            filesystem: format!("own root: {system}, {} host paths", self.sources.len()),
            network: self.egress.as_ref().map_or("none", |egress| egress.summary()).to_owned(),
            layers,
            limits: self.enforcement.report.clone(),
        }
    }

    /// Whether a run that has failed to start can be tried again without what failed.
    fn can_do_without(&self, failure: &StartFailure) -> bool {
        match (failure, &self.egress) {
            (StartFailure::Step(what, _, error), Some(egress)) if what == egress::REDIRECT => {
                egress.can_do_without_redirection(error)
            }
            _ => false,
        }
    }
}

/// A terminal of the sandbox's own: its slave becomes the command's standard streams, its master
/// goes to the library. It has its size before the command can ask for it.
fn make_terminal(to: &mut Program, command_fd: i32, size: TerminalSize) {
    const TIOCSPTLCK: u64 = 0x4004_5431;
    const TIOCGPTPEER: u64 = 0x5441;
    let inside = Section::Inside;
    let path = to.text("/dev/pts/ptmx");
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let args = [libc::AT_FDCWD.into(), path, flags.into(), 0.into()];
    let master = to.keep(inside, libc::SYS_openat, args, "open a pseudo-terminal");
    let unlocked = to.data(&[0; 8]);
    let args = [master.into(), TIOCSPTLCK.into(), unlocked.into()];
    to.call(inside, libc::SYS_ioctl, args, "unlock the pseudo-terminal");
    let TerminalSize { rows, cols } = size;
    let window = to.data(&[rows, cols, 0, 0].map(u16::to_ne_bytes).concat());
    let args = [master.into(), libc::TIOCSWINSZ.into(), window.into()];
    to.call(inside, libc::SYS_ioctl, args, "set the size of the pseudo-terminal");
    let args = [master.into(), TIOCGPTPEER.into(), flags.into()];
    let slave =
        to.keep(inside, libc::SYS_ioctl, args, "open the other side of the pseudo-terminal");
    for fd in command_fd..command_fd + 3 {
        let args = [slave.into(), fd.into(), 0.into()];
        to.call(inside, libc::SYS_dup3, args, "use the pseudo-terminal");
    }
    to.hand_over(inside, wire::report::TERMINAL, &[master], "hand over the pseudo-terminal");
}

/// A clean base, and what the request sets; nothing of the host's.
fn environment(spec: &Spec) -> Vec<(OsString, OsString)> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let base = [
        ("PATH", path),
        ("HOME", etc::HOME),
        ("USER", etc::USER),
        ("LOGNAME", etc::USER),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
    ];
    let terminal = spec.tty.map(|_| ("TERM", "xterm-256color"));
    let base = base.into_iter().chain(terminal);
    let mut env: Vec<(OsString, OsString)> = base
        .filter(|(name, _)| !spec.env.contains_key(*name))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    env.extend(spec.env.iter().map(|(name, value)| (name.into(), value.into())));
    env
}

/// What a failed step of the set-up means, in words that lead to the mend.
fn unavailable(what: String, error: io::Error) -> Error {
    let remedy = egress::remedy(&what);
    let what = format!("cannot {what}");
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE) => Error::system(what, error),
        // `clone(2)`: a limit on namespaces, or 32 user namespaces inside each other.
        Some(libc::ENOSPC) if !probe::is_refused() => Error::new(ErrorKind::ResourceExhausted, what)
            .with_source(error)
            .with_remedy("too many namespaces: raise the limits in /proc/sys/user, or run fewer sandboxes at once"),
        _ => Error::unavailable(what)
            .with_source(error)
            .with_remedy(remedy.map_or_else(probe::remedy, str::to_owned)),
    }
}

/// A command in a sandbox: guarded as any other, its groups are read before they go, and its
/// network ends with it.
struct Sandboxed {
    guarded: Guarded,
    groups: Option<Groups>,
    egress: Option<Egress>,
    /// The end, once it is known: what follows may be interrupted.
    ended: Option<Ended>,
}

impl Control for Sandboxed {
    fn order(&mut self, order: Order) {
        self.guarded.order(order);
    }

    fn ended(&mut self) -> BoxFuture<'_, Result<Ended>> {
        Box::pin(async move {
            if self.ended.is_none() {
                self.ended = Some(self.wait().await?);
            }
            if let (Some(egress), Some(ended)) = (&mut self.egress, &mut self.ended) {
                egress.settle(ended).await;
            }
            self.ended.take().ok_or_else(|| Error::new(ErrorKind::Internal, "ended twice"))
        })
    }
}

impl Sandboxed {
    async fn wait(&mut self) -> Result<Ended> {
        let groups = &self.groups;
        let ended = self.guarded.wait(move |ended| {
            if let Some(groups) = groups {
                groups.read(&mut ended.resources);
            }
        });
        let ended = ended.await;
        if let (Err(_), Some(groups)) = (&ended, groups) {
            groups.abandon();
        }
        ended
    }
}
