//! The way into an open sandbox, for its owner and for whoever was given the door.
//!
//! Process 1 has all the walls, and its commands inherit them. A request for a command goes through the
//! [`Door`] straight to it; each command has a socket of its own for orders and reports.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Weak},
};

use tokio::time::timeout;

use super::{build::unavailable, command, walls};
use crate::{
    backend::{
        Account, Backend, BoxFuture, Control, Ended, Order, Owner, Running, dropped,
        helper::{
            Descriptors, Door, Guarded, Prepared, Program, START, Section, StartFailure, wire,
        },
    },
    error::{Error, ErrorKind, Result},
    output::BackendName,
    sandbox::Isolation,
    spec::Spec,
};

/// What is needed to start commands in an open sandbox.
#[derive(Debug)]
pub(super) struct Entrance {
    /// Name of the sandbox.
    pub(super) id: String,
    pub(super) door: Door,
    /// Limits that each command sets for itself.
    pub(super) rlimits: Vec<(u32, u64)>,
    pub(super) isolation: Isolation,
}

/// Joins a sandbox that another process owns, by the door that it has handed over.
pub(crate) fn join(
    id: String,
    door: OwnedFd,
    rlimits: Vec<(u32, u64)>,
    isolation: Isolation,
    owner: Weak<dyn Owner>,
) -> Result<Arc<dyn Backend>> {
    let entrance = Entrance { id, door: Door::of(door)?, rlimits, isolation };
    Ok(Arc::new(Joined { entrance, owner }))
}

/// A sandbox that another process owns.
#[derive(Debug)]
struct Joined {
    entrance: Entrance,
    owner: Weak<dyn Owner>,
}

impl Backend for Joined {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        Box::pin(self.entrance.start(spec, Weak::clone(&self.owner)))
    }
}

impl Entrance {
    /// Starts a command, on the account of the owner.
    pub(super) async fn start(&self, spec: &Spec, owner: Weak<dyn Owner>) -> Result<Running> {
        let mut command = Prepared::in_sandbox(spec)?;
        let program = self.compile(spec, &command)?;
        let present = owner.upgrade().ok_or_else(dropped)?;
        let account = present.account().await?;
        let asked = timeout(START, self.door.ask(&program, &command.fds())).await;
        let link = match asked.unwrap_or_else(|_| Err(full())) {
            Ok(link) => link,
            Err(error) => return Err(present.why_ended().await.unwrap_or(error)),
        };
        let (streams, _) = match command.started(&link, &program).await {
            Ok(started) => started,
            Err(StartFailure::Helper(error)) => {
                return Err(present.why_ended().await.unwrap_or(error));
            }
            Err(StartFailure::Late) => return Err(full()),
            Err(failure) => return Err(failure.into_error(&command.argv()[0], unavailable)),
        };
        Ok(Running {
            backend: BackendName::Embedded,
            sandbox_id: Some(self.id.clone()),
            start: None,
            isolation: self.isolation.clone(),
            warnings: Vec::new(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            changes: None,
            control: Box::new(Job {
                guarded: Guarded::new(link, streams.terminal),
                owner,
                account,
                ended: None,
            }),
        })
    }

    /// One command as system calls: it inherits the walls of process 1, and adds its own limits and
    /// its number.
    fn compile(&self, spec: &Spec, command: &Prepared) -> Result<Program> {
        let mut program = Program::default();
        let to = &mut program;
        let descriptors = Descriptors::Passed;
        if let Some(size) = spec.tty {
            let socket = Program::passed(0).into();
            for end in command::make_terminal(to, socket, descriptors, size) {
                to.try_call(Section::Reaper, libc::SYS_close, [end.into()]);
            }
        }
        let more = spec.limits.open_files.map(|limit| (libc::RLIMIT_NOFILE, limit));
        let rlimits = self.rlimits.iter().copied().chain(more).collect();
        let plan = command::plan(spec, descriptors, rlimits);
        plan.prepare(to, command.has_file());
        walls::number_command(to);
        plan.execute(to, command.argv())?;
        Ok(program)
    }
}

/// A command in an open sandbox.
struct Job {
    guarded: Guarded,
    /// Does not keep the sandbox open.
    owner: Weak<dyn Owner>,
    account: Box<dyn Account>,
    /// The end, once it is known: what follows may be interrupted.
    ended: Option<Ended>,
}

impl Control for Job {
    fn order(&mut self, order: Order) {
        self.guarded.order(order);
    }

    fn ended(&mut self) -> BoxFuture<'_, Result<Ended>> {
        Box::pin(async move {
            if self.ended.is_none() {
                self.ended = Some(self.wait().await?);
            }
            if let Some(ended) = &mut self.ended {
                self.account.close(ended).await;
            }
            self.ended.take().ok_or_else(|| Error::new(ErrorKind::Internal, "ended twice"))
        })
    }
}

impl Job {
    async fn wait(&mut self) -> Result<Ended> {
        match self.guarded.wait(|_| {}).await {
            Ok(ended) => Ok(ended),
            Err(error) => Err(match self.owner.upgrade() {
                Some(owner) => owner.why_ended().await.unwrap_or(error),
                None => dropped(),
            }),
        }
    }
}

/// No place has become free in the longest time that a start takes.
fn full() -> Error {
    let what = format!("the sandbox did not start the command within {} s", START.as_secs());
    Error::new(ErrorKind::ResourceExhausted, what).with_remedy(format!(
        "{} commands can run in it at a time: end one, and resume the sandbox if it is paused",
        wire::MOST_COMMANDS
    ))
}
