//! The sandbox itself, whatever runs in it: what is looked at and decided before, and the system calls
//! that build it.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    cgroup::{Groups, Hierarchies},
    egress, etc,
    host::{Host, Identity},
    limits::{self, Enforcement},
    probe,
    root::{self, Root},
    rootfs::{self, Rootfs},
    sources::{self, Source},
    walls,
};
use crate::{
    backend::helper::{Program, Register, Section, StartFailure, wire},
    error::{Error, ErrorKind, Result},
    sandbox::{Isolation, IsolationLevel, Limits},
    spec::{SandboxSpec, System},
};

/// What a sandbox is compiled from.
pub(super) struct Build<'a> {
    pub(super) sandbox: &'a SandboxSpec,
    pub(super) limits: &'a Limits,
    pub(super) host: Arc<Host>,
    pub(super) identity: Identity,
    pub(super) sources: Vec<Source>,
    pub(super) rootfs: Option<Rootfs>,
    pub(super) groups: Option<Groups>,
    pub(super) enforcement: Enforcement,
    pub(super) egress: Option<egress::Plan>,
    /// Whether the library is handed what the sandbox writes.
    pub(super) hands_over: bool,
}

impl<'a> Build<'a> {
    /// Looks at the host and decides how the limits are enforced.
    pub(super) fn look(
        sandbox: &'a SandboxSpec,
        limits: &'a Limits,
        hands_over: bool,
    ) -> Result<Self> {
        let sources = sources::open(sandbox)?;
        let rootfs = rootfs::open(sandbox)?;
        let groups = Hierarchies::find().plan(limits).map_err(|e| {
            Error::unavailable("cannot open a control group")
                .with_source(e)
                .with_remedy("`openbrain doctor` tells which control groups can be used here")
        })?;
        let allowed = probe::allowed_processors();
        // Spreads sandboxes that are bound to processors over all of them.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let step = limits.cpus.map_or(1.0, f64::ceil) as usize;
        let chance = std::process::id() as usize + NEXT.fetch_add(step, Ordering::Relaxed);
        let enforcement = limits::decide(limits, groups.as_ref(), &allowed, chance);
        Ok(Self {
            sandbox,
            limits,
            host: Host::get(),
            identity: Identity::current(),
            sources,
            rootfs,
            groups,
            enforcement,
            egress: egress::Plan::new(sandbox)?,
            hands_over,
        })
    }

    /// The descriptors of the helper: those that the monitor keeps for the control groups, those of
    /// the process inside, the sources.
    pub(super) fn descriptors<'b>(
        &'b self,
        inside: impl IntoIterator<Item = BorrowedFd<'b>>,
    ) -> Vec<BorrowedFd<'b>> {
        let mut fds: Vec<BorrowedFd<'b>> = Vec::new();
        fds.extend(self.groups.iter().flat_map(Groups::parents));
        fds.extend(inside);
        fds.extend(self.sources.iter().map(|source| source.fd.as_fd()));
        fds.extend(self.rootfs.iter().map(|rootfs| rootfs.source.fd.as_fd()));
        fds
    }

    /// The number of the first descriptor of the process inside.
    pub(super) fn first_inside(&self) -> i32 {
        wire::FIRST_FD + self.kept()
    }

    fn kept(&self) -> i32 {
        self.groups.as_ref().map_or(0, |groups| groups.parents().count()) as i32
    }

    /// Who answers the sandbox's questions for names.
    pub(super) fn name_server(&self) -> Option<Ipv4Addr> {
        self.egress.as_ref().map(|_| egress::NAME_SERVER)
    }

    /// Everything up to the point where process 1 has no power left; `inside` is the number of its
    /// own descriptors. Nothing here touches the system.
    pub(super) fn compile(&self, to: &mut Program, inside: i32) {
        let root = Root {
            host: &self.host,
            identity: self.identity,
            sources: &self.sources,
            rootfs: self.rootfs.as_ref(),
            first_fd: self.first_inside() + inside,
            system: self.sandbox.system,
            disk: self.limits.disk,
            memory: self.limits.memory,
            hands_over: self.hands_over,
            name_server: self.name_server(),
        };
        to.sandbox = Some(walls::first_namespaces());
        to.kept_fds = self.kept() as u32;
        to.memory_limit = self.enforcement.watch;
        let prepared = root.prepare(to);
        if let Some(groups) = &self.groups {
            groups.make(to, wire::FIRST_FD, self.limits);
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
    }

    /// The whole sandbox, up to the point where process 1 waits at its door, its only own descriptor.
    pub(super) fn compile_with_door(&self, to: &mut Program) {
        self.compile(to, 1);
        let rules = self.landlock(to);
        walls::confine_opener(to, self.first_inside(), rules, &self.enforcement.rules);
    }

    /// Makes Landlock's rules, where the kernel has it.
    pub(super) fn landlock(&self, to: &mut Program) -> Option<Register> {
        let writable = root::writable(&self.sources, self.sandbox.system, self.rootfs.as_ref());
        self.host.landlock.map(|abi| walls::landlock(to, abi, &writable))
    }

    /// What is enforced.
    pub(super) fn isolation(&self) -> Isolation {
        let mut layers = ["second_user_namespace", "no_capabilities", "no_new_privs", "seccomp"]
            .map(str::to_owned)
            .to_vec();
        layers.extend(self.host.landlock.map(|abi| format!("landlock:{abi}")));
        let system = match (&self.rootfs, self.sandbox.system) {
            (Some(_), _) => "an unpacked image under a throw-away layer",
            (None, System::Ro) => "read-only system directories",
            (None, System::Overlay) => "system directories under a throw-away layer",
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

    /// Whether a start that has failed can be tried again without what failed.
    pub(super) fn can_do_without(&self, failure: &StartFailure) -> bool {
        match (failure, &self.egress) {
            (StartFailure::Step(what, _, error), Some(egress)) if what == egress::REDIRECT => {
                egress.can_do_without_redirection(error)
            }
            _ => false,
        }
    }
}

/// What a failed step of the set-up means, in words that lead to the mend.
pub(super) fn unavailable(what: String, error: io::Error) -> Error {
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
