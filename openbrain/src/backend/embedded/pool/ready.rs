//! One sandbox that is ready: whether it still is what would be made now, and the start of its command.

use std::sync::Arc;

use rustix::process::{Gid, Uid, getegid, geteuid};

use crate::{
    backend::{
        Running,
        embedded::{
            Started,
            build::unavailable,
            command,
            host::Host,
            limits::{self, Enforcement},
            sources,
            waiting::{self, Waiting},
            walls,
        },
        helper::{Commands, Descriptors, Prepared, Program},
    },
    error::Result,
    output::Start,
    sandbox::Limits,
    spec::{SandboxSpec, Spec},
};

/// A sandbox that no command has seen.
#[derive(Debug)]
pub(super) struct Ready {
    waiting: Waiting,
    /// Who called when it was made.
    user: (Uid, Gid),
    /// Version of the host's mounts when it was made.
    mounts: u64,
}

impl Ready {
    pub(super) async fn make(sandbox: &SandboxSpec, limits: &Limits, mounts: u64) -> Result<Self> {
        let user = (geteuid(), getegid());
        let waiting = waiting::make(sandbox, limits, Commands::One).await?;
        Ok(Self { waiting, user, mounts })
    }

    /// Whether one that is made now would be the same. What this process has changed of itself
    /// meanwhile, such as its priority or its resource limits, is not looked at.
    pub(super) fn is_fresh(&self, sandbox: &SandboxSpec, mounts: u64) -> bool {
        let Self { waiting: Waiting { sources, host, .. }, .. } = self;
        if self.user != (geteuid(), getegid()) || !Arc::ptr_eq(host, &Host::get()) {
            return false;
        }
        // Whatever is wrong with them is told by the attempt to make another one.
        let same = |now: Vec<sources::Source>| {
            now.len() == sources.len() && now.iter().zip(sources).all(|(a, b)| a.is(b))
        };
        let has_sources = !sandbox.mounts.is_empty() || !sandbox.expose.is_empty();
        !has_sources || (self.mounts == mounts && sources::open(sandbox).is_ok_and(same))
    }

    /// Ends it unused.
    pub(super) fn discard(self) {
        let Waiting { link, groups, .. } = self.waiting;
        drop(link);
        // The monitor removes them; this is for one that was killed.
        if let Some(groups) = groups {
            groups.abandon();
        }
    }

    /// Starts its command; `None` when the sandbox is gone, and nothing has run.
    pub(super) async fn start(self, spec: &Spec) -> Result<Option<Running>> {
        let mut command = Prepared::in_sandbox(spec)?;
        let program = self.compile(spec, &command)?;
        let Waiting { door, link, egress, groups, enforcement, mut isolation, .. } = self.waiting;
        let link = link.adopt()?;
        if door.hand_in(&program, &command.fds()).is_err() {
            groups.inspect(|groups| groups.abandon());
            return Ok(None);
        }
        let started = command.started(&link, &program).await;
        let (streams, _) = started.map_err(|e| e.into_error(&command.argv()[0], unavailable))?;
        let (_, report) = limits::of_command(&spec.limits);
        isolation.limits.extend(report);
        let Enforcement { warnings, .. } = enforcement;
        let (changes, start) = (None, Start::Warm);
        let started = Started { link, groups, egress, isolation, warnings, changes, start };
        Ok(Some(started.running(streams)))
    }

    /// The command as system calls: it inherits the walls of process 1, which then needs as little as
    /// that of any sandbox with its command.
    fn compile(&self, spec: &Spec, command: &Prepared) -> Result<Program> {
        let Enforcement { rlimits, watch, .. } = &self.waiting.enforcement;
        let mut program = Program::default();
        let to = &mut program;
        to.memory_limit = *watch;
        let descriptors = Descriptors::Passed;
        if let Some(size) = spec.tty {
            command::make_terminal(to, Program::passed(0).into(), descriptors, size);
        }
        let (own, _) = limits::of_command(&spec.limits);
        let rlimits = rlimits.iter().copied().chain(own).collect();
        let plan = command::plan(spec, descriptors, rlimits);
        plan.prepare(to, command.has_file());
        plan.execute(to, command.argv())?;
        walls::confine_reaper(to);
        Ok(program)
    }
}
