//! The embedded sandbox: Linux namespaces, no daemon, no root, nothing installed.
//!
//! A run goes through four steps: look at the host ([`host`], [`sources`], [`cgroup`]), decide
//! ([`limits`]), compile ([`build`], [`root`], [`walls`], [`seccomp`], [`command`]), launch (the helper).
//! Compiling is pure; what the first step found is all that it knows. A sandbox that stays open
//! ([`session`]) is launched without a command ([`waiting`]), which then come one by one; one of the
//! [`pool`] as well, for a single command.

mod build;
mod cgroup;
mod command;
mod egress;
mod entrance;
mod etc;
mod host;
mod limits;
mod mounts;
mod pool;
mod probe;
mod root;
mod rootfs;
mod seccomp;
mod session;
mod sources;
mod thread;
mod waiting;
mod walls;
mod written;

use std::sync::Arc;

use self::{
    build::{Build, unavailable},
    cgroup::Groups,
    egress::Egress,
    pool::Pool,
    written::{Access, Written},
};
pub(crate) use self::{
    egress::checks as egress_checks, entrance::join, probe::checks, session::open,
};
use super::{
    Backend, BoxFuture, Control, Ended, Layers, Order, Running,
    helper::{self, Descriptors, Guarded, Link, Prepared, Program, Section, Streams, wire},
};
use crate::{
    error::{Error, ErrorKind, Result},
    output::{BackendName, Start},
    sandbox::Isolation,
    spec::{Place, SandboxSpec, Spec},
};

/// The embedded engine. Its clones have one pool together.
#[derive(Clone, Debug)]
pub(crate) struct Embedded {
    pool: Option<Arc<Pool>>,
}

impl Embedded {
    /// The engine with a pool that keeps so many sandboxes of a shape ready; none for 0.
    pub(crate) fn with_pool(size: usize) -> Self {
        Self { pool: (size > 0).then(|| Arc::new(Pool::new(size))) }
    }

    /// Makes the sandboxes ready that commands like this one will find.
    pub(crate) async fn warm(&self, spec: &Spec) -> Result<()> {
        match self.pool_for(spec) {
            Some(pool) => pool.fill(requested(spec)?, &spec.limits).await,
            None => Ok(()),
        }
    }

    /// The pool, for what may come from there: which changes are the command's is known from the
    /// moment when its sandbox was made.
    fn pool_for(&self, spec: &Spec) -> Option<&Pool> {
        self.pool.as_deref().filter(|_| !spec.changes)
    }
}

impl Backend for Embedded {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        Box::pin(async move {
            match self.pool_for(spec) {
                Some(pool) => pool.spawn(requested(spec)?, spec).await,
                None => spawn(spec).await,
            }
        })
    }
}

/// The sandbox that a request asks for.
fn requested(spec: &Spec) -> Result<&SandboxSpec> {
    match &spec.place {
        Place::Embedded(sandbox) => Ok(sandbox),
        _ => Err(Error::unavailable("the request is not for the embedded engine")),
    }
}

/// Starts a command in a sandbox that is made with it.
async fn spawn(spec: &Spec) -> Result<Running> {
    loop {
        if let Some(running) = attempt(spec).await? {
            return Ok(running);
        }
    }
}

/// Starts a sandbox; `None` when the kernel has refused what the next attempt does without.
async fn attempt(spec: &Spec) -> Result<Option<Running>> {
    let sandbox = requested(spec)?;
    let mut command = Prepared::in_sandbox(spec)?;
    let mut build = Build::look(sandbox, &spec.limits, spec.changes)?;
    let program = compile(&build, spec, &command)?;
    let link = helper::launch(&program, &build.descriptors(command.fds()))?;
    let (streams, handed) = match command.started(&link, &program).await {
        Ok(started) => started,
        Err(failure) if build.can_do_without(&failure) => return Ok(None),
        Err(failure) => return Err(failure.into_error(&command.argv()[0], unavailable)),
    };
    let isolation = build.isolation();
    let written = handed.scratch.map(|scratch| Written::new(&mut build, scratch)).transpose()?;
    let egress = build.egress.take().map(|plan| plan.serve(handed.egress)).transpose()?;
    let changes = written.map(|written| written.layers(Access::Ours)).transpose()?;
    let (groups, warnings, start) = (build.groups, build.enforcement.warnings, Start::Cold);
    let started = Started { link, groups, egress, isolation, warnings, changes, start };
    Ok(Some(started.running(streams)))
}

/// A sandbox whose command has started.
struct Started {
    link: Link,
    groups: Option<Groups>,
    egress: Option<Egress>,
    isolation: Isolation,
    warnings: Vec<String>,
    changes: Option<Layers>,
    start: Start,
}

impl Started {
    fn running(self, streams: Streams) -> Running {
        let Self { link, groups, egress, isolation, warnings, changes, start } = self;
        let guarded = Guarded::new(link, streams.terminal);
        Running {
            backend: BackendName::Embedded,
            sandbox_id: None,
            start: Some(start),
            isolation,
            warnings,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            changes,
            control: Box::new(Sandboxed { guarded, groups, egress, ended: None }),
        }
    }
}

/// The whole run as system calls: the sandbox, the command with the last walls, process 1.
fn compile(build: &Build<'_>, spec: &Spec, command: &Prepared) -> Result<Program> {
    let mut program = Program::default();
    let to = &mut program;
    build.compile(to, 3 + i32::from(command.has_file()));
    let descriptors = Descriptors::From(build.first_inside());
    if let Some(size) = spec.tty {
        command::make_terminal(to, wire::REPORT_FD.into(), descriptors, size);
    }
    let rules = build.landlock(to);
    let plan = command::plan(spec, descriptors, build.enforcement.rlimits.clone());
    if let Some(rules) = rules {
        walls::landlock_restrict(to, Section::Command, rules);
    }
    plan.prepare(to, command.has_file());
    walls::filter(to, Section::Command, &build.enforcement.rules);
    plan.execute(to, command.argv())?;
    walls::confine_reaper(to);
    Ok(program)
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
                groups.read(&mut ended.resources, 0);
            }
        });
        let ended = ended.await;
        if let (Err(_), Some(groups)) = (&ended, groups) {
            groups.abandon();
        }
        ended
    }
}
