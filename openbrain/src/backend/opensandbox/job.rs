//! A run as the files that a bridge finds in its directory. Pure but for opening what is to be
//! standard input.

use std::{fs::File, os::fd::OwnedFd};

use rustix::fs::FileType;

use crate::{
    backend::helper::{
        self, CommandPlan, Descriptors, Program,
        wire::{self, bridge, input},
    },
    error::{Error, Result},
    exec::{Stdin, TerminalSize},
    sandbox::WORKSPACE,
    spec::Spec,
};

/// How much output may be on its way that nobody has read. An agent looks at it ten times a second,
/// so that this is a tenth of what can arrive in one; and after a kill it is read to its end.
pub(super) const WINDOW: u64 = 2 << 20;

/// A run, ready to be uploaded.
#[derive(Debug)]
pub(super) struct Job {
    /// The system calls, to explain the one that fails.
    pub(super) program: Program,
    /// What will be executed.
    pub(super) argv: Vec<String>,
    /// Whether a program that is too long for an argument is among the files.
    pub(super) has_script: bool,
    /// Whether standard input is.
    pub(super) has_input: bool,
    pub(super) files: Vec<JobFile>,
    /// What is read while the command runs.
    pub(super) source: Source,
}

/// One file of a [`Job`].
#[derive(Debug)]
pub(super) struct JobFile {
    pub(super) name: &'static str,
    pub(super) executable: bool,
    pub(super) content: Content,
}

/// What is in a [`JobFile`].
#[derive(Debug)]
pub(super) enum Content {
    Static(&'static [u8]),
    Bytes(Vec<u8>),
    File(File, u64),
}

/// What feeds standard input while the command runs.
#[derive(Debug)]
pub(super) enum Source {
    /// Nothing: it is empty, or a file of the job.
    Nothing,
    /// The caller.
    Caller,
    /// A descriptor of the host.
    Descriptor(OwnedFd),
}

impl Job {
    /// Compiles the command of `spec`.
    pub(super) fn new(spec: &Spec) -> Result<Self> {
        let script = CommandPlan::program(spec)?;
        let has_script = script.file.is_some();
        let program = compile(spec, &script.argv, has_script)?;
        let (source, stdin) = stdin(spec)?;
        let job = wire::Job {
            magic: wire::MAGIC,
            input: match (&source, &stdin) {
                (Source::Nothing, None) => input::NOTHING,
                (Source::Nothing, Some(_)) => input::FILE,
                (Source::Caller | Source::Descriptor(_), _) => input::PIECES,
            },
            script: has_script.into(),
            terminal: spec.tty.map_or(0, terminal),
            window: WINDOW,
        };
        let plain = |name, content| JobFile { name, executable: false, content };
        let helper = Content::Static(helper::IMAGE);
        let mut files = vec![
            JobFile { name: bridge::PROGRAM, executable: true, content: helper },
            plain(bridge::JOB, Content::Bytes(wire::bytes_of(&job).to_vec())),
            plain(bridge::PLAN, Content::Bytes(program.encode())),
        ];
        files.extend(script.file.map(|file| plain(bridge::SCRIPT, Content::Bytes(file))));
        let has_input = stdin.is_some();
        files.extend(stdin.map(|content| plain(bridge::INPUT, content)));
        Ok(Self { program, argv: script.argv, has_script, has_input, files, source })
    }
}

/// A terminal's size as a bridge reads it.
pub(super) fn terminal(size: TerminalSize) -> u32 {
    u32::from(size.rows) << 16 | u32::from(size.cols)
}

fn compile(spec: &Spec, argv: &[String], has_script: bool) -> Result<Program> {
    let nofile = spec.limits.open_files.map(|limit| (libc::RLIMIT_NOFILE, limit));
    let command = CommandPlan {
        env: spec.env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        descriptors: Descriptors::From(wire::FIRST_FD),
        terminal: spec.tty.is_some(),
        workdir: Some(spec.workdir.as_deref().unwrap_or(WORKSPACE.as_ref())),
        rlimits: nofile.into_iter().collect(),
    };
    let mut program = Program::default();
    if spec.workdir.is_none() {
        // Most images have none; where nothing is mounted there it is as ephemeral as the rest.
        let workspace = program.text(WORKSPACE);
        let args = [libc::AT_FDCWD.into(), workspace, 0o755.into()];
        program.try_call(helper::Section::Before, libc::SYS_mkdirat, args);
    }
    command.guarded(program, has_script, |program| command.execute_there(program, argv))
}

/// What feeds standard input, and the file that it is, if it is one.
fn stdin(spec: &Spec) -> Result<(Source, Option<Content>)> {
    let nothing = (Source::Nothing, None);
    Ok(match &spec.stdin {
        _ if spec.tty.is_some() => (Source::Caller, None),
        Stdin::Null => nothing,
        Stdin::Bytes(bytes) if bytes.is_empty() => nothing,
        Stdin::Bytes(bytes) => (Source::Nothing, Some(Content::Bytes(bytes.clone()))),
        Stdin::File(path) => descriptor(helper::open_file(path)?)?,
        Stdin::Inherit => (Source::Descriptor(helper::inherited()?), None),
        Stdin::Pipe => (Source::Caller, None),
    })
}

/// A regular file is uploaded as a whole; anything else is read as it comes.
fn descriptor(fd: OwnedFd) -> Result<(Source, Option<Content>)> {
    if helper::file_type(&fd)? != FileType::RegularFile {
        return Ok((Source::Descriptor(fd), None));
    }
    let file = File::from(fd);
    let length = file.metadata().map_err(|e| Error::system("cannot look at standard input", e))?;
    Ok((Source::Nothing, Some(Content::File(file, length.len()))))
}

#[cfg(test)]
mod tests;
