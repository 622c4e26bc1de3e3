//! A sandbox without a command, whose process 1 waits for one at its door: what a sandbox that stays
//! open and one that is kept ready are made from.

use std::{os::fd::AsFd, sync::Arc};

use super::{
    build::{Build, unavailable},
    cgroup::Groups,
    egress::Egress,
    host::Host,
    limits::Enforcement,
    sources::Source,
    written::Written,
};
use crate::{
    backend::helper::{self, Commands, Door, Link, Program},
    error::Result,
    sandbox::{Isolation, Limits},
    spec::SandboxSpec,
};

/// A sandbox that waits. Dropping it closes the socket to its monitor, which ends it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) door: Door,
    pub(super) link: Link,
    pub(super) egress: Option<Egress>,
    pub(super) groups: Option<Groups>,
    /// What its commands set for themselves, and what there is to say about its limits.
    pub(super) enforcement: Enforcement,
    pub(super) isolation: Isolation,
    /// What it writes, of one that stays open.
    pub(super) written: Option<Written>,
    /// The host paths in it.
    pub(super) sources: Vec<Source>,
    /// What the host was when it was made.
    pub(super) host: Arc<Host>,
}

/// Makes a sandbox for commands that come through its door.
pub(super) async fn make(
    sandbox: &SandboxSpec,
    limits: &Limits,
    commands: Commands,
) -> Result<Waiting> {
    loop {
        if let Some(waiting) = attempt(sandbox, limits, commands).await? {
            return Ok(waiting);
        }
    }
}

/// Makes the sandbox; `None` when the kernel has refused what the next attempt does without.
async fn attempt(
    sandbox: &SandboxSpec,
    limits: &Limits,
    commands: Commands,
) -> Result<Option<Waiting>> {
    let stays_open = matches!(commands, Commands::Many(_));
    let mut build = Build::look(sandbox, limits, stays_open)?;
    let (door, inside) = Door::new()?;
    let mut program = Program::default();
    program.commands = commands;
    build.compile_with_door(&mut program);
    let link = helper::launch(&program, &build.descriptors([inside.as_fd()]))?;
    drop(inside);
    let handed = match helper::started(&link, &program).await {
        Ok(handed) => handed,
        Err(failure) if build.can_do_without(&failure) => return Ok(None),
        Err(failure) => return Err(failure.into_error("the sandbox", unavailable)),
    };
    let isolation = build.isolation();
    let written = handed.scratch.map(|scratch| Written::new(&mut build, scratch)).transpose()?;
    let egress = build.egress.take().map(|plan| plan.serve(handed.egress)).transpose()?;
    let Build { host, sources, groups, enforcement, .. } = build;
    let made =
        Waiting { door, link, egress, groups, enforcement, isolation, written, sources, host };
    Ok(Some(made))
}
