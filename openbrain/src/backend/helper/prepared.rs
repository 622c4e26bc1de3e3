//! What every start of a command has in common, wherever it runs.

use std::{
    mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{
    command::CommandPlan,
    control::{Handed, StartFailure, started},
    launch::{Link, script_file},
    program::Program,
    stdio::{Ends, Handles, Streams, open, open_terminal, streams_of_terminal},
};
use crate::{error::Result, spec::Spec};

/// A command that is about to start: what is executed, and its streams.
pub(crate) struct Prepared {
    argv: Vec<String>,
    /// The program, when it is too long for an argument.
    file: Option<OwnedFd>,
    ends: Option<Ends>,
    streams: Streams,
}

impl Prepared {
    /// A command on the host.
    pub(crate) fn on_host(spec: &Spec) -> Result<Self> {
        Self::new(
            spec,
            match spec.tty {
                Some(size) => open_terminal(size)?,
                None => open(&spec.stdin, Handles::Any)?,
            },
        )
    }

    /// A command in a sandbox, which makes a terminal itself.
    pub(crate) fn in_sandbox(spec: &Spec) -> Result<Self> {
        Self::new(
            spec,
            match spec.tty {
                Some(_) => (Ends::null()?, Streams::default()),
                None => open(&spec.stdin, Handles::Harmless)?,
            },
        )
    }

    fn new(spec: &Spec, (ends, streams): (Ends, Streams)) -> Result<Self> {
        let program = CommandPlan::program(spec)?;
        let file = program.file.as_deref().map(script_file).transpose()?;
        Ok(Self { argv: program.argv, file, ends: Some(ends), streams })
    }

    pub(crate) fn argv(&self) -> &[String] {
        &self.argv
    }

    /// Whether it has a fourth descriptor: its program.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// The descriptors that it gets.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let ends = self.ends.iter().flat_map(Ends::as_fds);
        ends.chain(self.file.as_ref().map(AsFd::as_fd)).collect()
    }

    /// Waits until it runs; returns our side of its streams, and what else the sandbox has made.
    pub(crate) async fn started(
        &mut self,
        link: &Link,
        program: &Program,
    ) -> Result<(Streams, Handed), StartFailure> {
        // What is open here as well has no end.
        self.ends = None;
        let mut handed = started(link, program).await?;
        let streams = match handed.terminal.take() {
            Some(terminal) => streams_of_terminal(terminal).map_err(StartFailure::Helper)?,
            None => mem::take(&mut self.streams),
        };
        Ok((streams, handed))
    }
}
