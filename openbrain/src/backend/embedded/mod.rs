//! The embedded sandbox: Linux namespaces, no daemon, no root, nothing installed.
//!
//! A run goes through four steps: look at the host ([`host`], [`sources`], [`cgroup`]), decide
//! ([`limits`]), compile ([`root`], [`walls`], [`seccomp`]), launch (the helper). Compiling is pure;
//! what the first step found is all that it knows.

mod cgroup;
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

pub(crate) use self::probe::checks;
use self::{
    cgroup::{Groups, Hierarchies},
    host::{Host, Identity},
    limits::Enforcement,
    root::Root,
    sources::Source,
};
use super::{
    Backend, BoxFuture, Control, Ended, Order, Running,
    helper::{self, CommandPlan, Data, Ends, Guarded, Handles, Program, Section, Streams, wire},
};
use crate::{
    error::{Error, ErrorKind, Result},
    exec::TerminalSize,
    output::BackendName,
    sandbox::{Isolation, IsolationLevel, Network, WORKSPACE},
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
    argv: Vec<String>,
    has_file: bool,
}

async fn spawn(spec: &Spec) -> Result<Running> {
    let Place::Embedded(sandbox) = &spec.place else {
        return Err(Error::unavailable("the request is not for the embedded engine"));
    };
    let script = CommandPlan::program(spec)?;
    let file = script.file.as_deref().map(helper::script_file).transpose()?;
    let run = Run::look(spec, sandbox, script.argv, file.is_some())?;
    let (ends, streams) = match spec.tty {
        Some(_) => (Ends::null()?, Streams::default()),
        None => helper::open(&spec.stdin, Handles::Harmless)?,
    };
    let program = run.compile()?;
    let file = file.as_ref().map(AsFd::as_fd);
    let link = helper::launch(&program, &run.descriptors(&ends, file))?;
    drop(ends);
    let terminal = helper::started(&link, &program)
        .await
        .map_err(|failure| failure.into_error(&run.argv[0], unavailable))?;
    let streams = match terminal {
        Some(terminal) => helper::streams_of_terminal(terminal)?,
        None => streams,
    };
    Ok(Running {
        backend: BackendName::Embedded,
        sandbox_id: None,
        isolation: run.isolation(),
        warnings: run.warnings(),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        control: Box::new(Sandboxed {
            guarded: Guarded::new(link, streams.terminal),
            groups: run.groups,
        }),
    })
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
            network: "none".into(),
            layers,
            limits: self.enforcement.report.clone(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.enforcement.warnings.clone();
        if self.sandbox.network != Network::None {
            warnings.push(
                "the settings allow network access, but the embedded engine has no egress yet: \
                 the command ran without network"
                    .into(),
            );
        }
        warnings
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
    let message = terminal_message(to, master, inside);
    let args = [wire::REPORT_FD.into(), message.into(), 0.into()];
    to.call(inside, libc::SYS_sendmsg, args, "hand over the pseudo-terminal");
}

/// A `struct msghdr` with a report and one descriptor (`unix(7)`, `cmsg(3)`).
fn terminal_message(to: &mut Program, master: helper::Register, section: Section) -> Data {
    let report = wire::Report { kind: wire::report::TERMINAL, ..wire::Report::default() };
    let bytes = to.data(wire::bytes_of(&report));
    let iov = to.words([bytes.into(), (size_of::<wire::Report>() as u64).into()]);
    let kind = u64::from(libc::SOL_SOCKET as u32) | u64::from(libc::SCM_RIGHTS as u32) << 32;
    let control = to.words([20u64.into(), kind.into(), 0u64.into()]);
    to.store(section, master, control.plus(16));
    let (none, one) = (0u64.into(), 1u64.into());
    to.words([none, none, iov.into(), one, control.into(), 24u64.into(), none])
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
    let what = format!("cannot {what}");
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE) => Error::system(what, error),
        // `clone(2)`: a limit on namespaces, or 32 user namespaces inside each other.
        Some(libc::ENOSPC) if !probe::is_refused() => Error::new(ErrorKind::ResourceExhausted, what)
            .with_source(error)
            .with_remedy("too many namespaces: raise the limits in /proc/sys/user, or run fewer sandboxes at once"),
        _ => Error::unavailable(what).with_source(error).with_remedy(probe::remedy()),
    }
}

/// A command in a sandbox: guarded as any other, and its groups are read before they go.
struct Sandboxed {
    guarded: Guarded,
    groups: Option<Groups>,
}

impl Control for Sandboxed {
    fn order(&mut self, order: Order) {
        self.guarded.order(order);
    }

    fn ended(&mut self) -> BoxFuture<'_, Result<Ended>> {
        let groups = &self.groups;
        let wait = self.guarded.wait(move |ended| {
            if let Some(groups) = groups {
                groups.read(&mut ended.resources);
            }
        });
        Box::pin(async move {
            let ended = wait.await;
            if let (Err(_), Some(groups)) = (&ended, groups) {
                groups.abandon();
            }
            ended
        })
    }
}
