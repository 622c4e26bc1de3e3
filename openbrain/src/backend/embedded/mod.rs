//! The embedded sandbox: Linux namespaces, no daemon, no root, nothing installed.
//!
//! A run goes through four steps: look at the host ([`host`], [`sources`], [`cgroup`]), decide
//! ([`limits`]), compile ([`build`], [`root`], [`walls`], [`seccomp`], [`command`]), launch (the helper).
//! Compiling is pure; what the first step found is all that it knows. A sandbox that stays open
//! ([`session`]) is launched without a command, which then come one by one.

mod build;
mod cgroup;
mod command;
mod egress;
mod entrance;
mod etc;
mod host;
mod limits;
mod mounts;
mod probe;
mod root;
mod rootfs;
mod seccomp;
mod session;
mod sources;
mod walls;
mod written;

use std::{os::fd::AsFd, path::Path, sync::Arc};

use self::{
    build::{Build, unavailable},
    cgroup::Groups,
    egress::Egress,
    written::{Access, Written},
};
pub(crate) use self::{
    egress::checks as egress_checks, entrance::join, probe::checks, session::open,
};
use super::{
    Backend, BoxFuture, Control, Ended, Order, Running,
    helper::{
        self, CommandPlan, Descriptors, Ends, Guarded, Handles, Program, Section, Streams, wire,
    },
};
use crate::{
    error::{Error, ErrorKind, Result},
    output::BackendName,
    sandbox::WORKSPACE,
    spec::{Place, Spec},
};

/// The embedded engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Embedded;

impl Backend for Embedded {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        Box::pin(spawn(spec))
    }
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
    let mut build = Build::look(sandbox, &spec.limits, spec.changes)?;
    let (ends, streams) = open_streams(spec)?;
    let program = compile(&build, spec, &script.argv, file.is_some())?;
    let inside = ends.as_fds().into_iter().chain(file.as_ref().map(AsFd::as_fd));
    let link = helper::launch(&program, &build.descriptors(inside))?;
    drop(ends);
    let handed = match helper::started(&link, &program).await {
        Ok(handed) => handed,
        Err(failure) if build.can_do_without(&failure) => return Ok(None),
        Err(failure) => return Err(failure.into_error(&script.argv[0], unavailable)),
    };
    let streams = match handed.terminal {
        Some(terminal) => helper::streams_of_terminal(terminal)?,
        None => streams,
    };
    let (isolation, warnings) = (build.isolation(), build.enforcement.warnings.clone());
    let egress = build.egress.take().map(|plan| plan.serve(handed.egress)).transpose()?;
    let written = handed.scratch.map(|scratch| Written::new(&build, scratch)).transpose()?;
    let changes = written.map(|written| written.layers(Access::Ours)).transpose()?;
    Ok(Some(Running {
        backend: BackendName::Embedded,
        sandbox_id: None,
        isolation,
        warnings,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        changes: changes.map(Arc::new),
        control: Box::new(Sandboxed {
            guarded: Guarded::new(link, streams.terminal),
            groups: build.groups,
            egress,
            ended: None,
        }),
    }))
}

/// The ends of the command's streams, and ours. On a terminal the sandbox makes them itself.
fn open_streams(spec: &Spec) -> Result<(Ends, Streams)> {
    match spec.tty {
        Some(_) => Ok((Ends::null()?, Streams::default())),
        None => helper::open(&spec.stdin, Handles::Harmless),
    }
}

/// The whole run as system calls: the sandbox, the command with the last walls, process 1.
fn compile(build: &Build<'_>, spec: &Spec, argv: &[String], has_file: bool) -> Result<Program> {
    let mut program = Program::default();
    let to = &mut program;
    build.compile(to, 3 + i32::from(has_file));
    let descriptors = Descriptors::From(build.first_inside());
    if let Some(size) = spec.tty {
        command::make_terminal(to, wire::REPORT_FD.into(), descriptors, size);
    }
    let rules = build.landlock(to);
    let command = CommandPlan {
        env: command::environment(spec),
        descriptors,
        terminal: spec.tty.is_some(),
        workdir: Some(spec.workdir.as_deref().unwrap_or(Path::new(WORKSPACE))),
        rlimits: build.enforcement.rlimits.clone(),
    };
    if let Some(rules) = rules {
        walls::landlock_restrict(to, Section::Command, rules);
    }
    command.prepare(to, has_file);
    walls::filter(to, Section::Command, &build.enforcement.rules);
    command.execute(to, argv)?;
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
