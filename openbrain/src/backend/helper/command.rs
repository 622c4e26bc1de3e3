//! The last steps before a command runs, the same on the host and in a sandbox.

use std::{ffi::OsString, os::unix::ffi::OsStrExt, path::Path};

use super::{
    program::{Arg, Data, Program},
    wire::Section,
};
use crate::{
    error::{Error, Result},
    exec::Command,
    script,
    spec::Spec,
};

/// Where a program that is too long for an argument is found by its interpreter: descriptor 3.
const SCRIPT_PATH: &str = "/proc/self/fd/3";

/// What the command section of a program needs to know.
pub(crate) struct CommandPlan<'a> {
    /// The whole environment of the command.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Where its descriptors are.
    pub(crate) descriptors: Descriptors,
    /// The controlling terminal is already standard input, or there is none.
    pub(crate) terminal: bool,
    /// Directory to start in.
    pub(crate) workdir: Option<&'a Path>,
    /// `(resource, limit)` for `prlimit64(2)`; none becomes more than the helper itself may have.
    pub(crate) rlimits: Vec<(u32, u64)>,
}

/// Where the descriptors of a command are in the process that starts it: standard input, output and
/// error, and the program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Descriptors {
    /// They have this number and those that follow.
    From(i32),
    /// In the registers for what comes through the door, after the socket.
    Passed,
}

impl Descriptors {
    /// The descriptor for this number of the command.
    pub(crate) fn get(self, target: u8) -> Arg {
        match self {
            Self::From(first) => Arg::from(first + i32::from(target)),
            Self::Passed => Arg::from(Program::passed(1 + target)),
        }
    }
}

impl CommandPlan<'_> {
    /// What will be executed.
    pub(crate) fn program(spec: &Spec) -> Result<script::Program> {
        match &spec.command {
            Command::Shell(source) => Ok(script::shell(&spec.shell, source, SCRIPT_PATH)),
            Command::Argv(argv) => Ok(script::Program { argv: argv.clone(), file: None }),
            Command::Script { language, source } => {
                script::program(language.as_deref(), source, SCRIPT_PATH)
            }
        }
    }

    /// A whole program for a command that has no sandbox made by the helper: the helper becomes
    /// sub-reaper, so that whatever the command leaves behind stays within its reach. `execute`
    /// adds the last step to what `program` already has.
    pub(crate) fn guarded(
        &self,
        mut program: Program,
        has_file: bool,
        execute: impl FnOnce(&mut Program) -> Result<()>,
    ) -> Result<Program> {
        let args = [libc::PR_SET_CHILD_SUBREAPER.into(), 1.into()];
        program.call(Section::Before, libc::SYS_prctl, args, "become a sub-reaper");
        self.prepare(&mut program, has_file);
        // Cleared by the kernel when the command executes a set-user-ID program; the sub-reaper
        // then still kills it.
        let args = [libc::PR_SET_PDEATHSIG.into(), libc::SIGKILL.into()];
        program.call(Section::Command, libc::SYS_prctl, args, "tie the command to its guard");
        execute(&mut program)?;
        Ok(program)
    }

    /// Adds everything up to the point where nothing but walls and `execve` is left.
    pub(crate) fn prepare(&self, to: &mut Program, has_file: bool) {
        let section = Section::Command;
        to.call(section, libc::SYS_setsid, [], "start a session");
        for target in 0..3 {
            let args = [self.descriptors.get(target), i32::from(target).into(), 0.into()];
            to.call(section, libc::SYS_dup3, args, "set standard descriptors");
        }
        if self.terminal {
            let args = [Arg::from(0), Arg::from(libc::TIOCSCTTY), 0.into()];
            to.call(section, libc::SYS_ioctl, args, "take the terminal");
        }
        if has_file {
            let args = [self.descriptors.get(3), 3.into(), 0.into()];
            to.call(section, libc::SYS_dup3, args, "pass the program");
        }
        for (resource, limit) in &self.rlimits {
            to.limit(section, *resource, *limit);
        }
        if let Some(workdir) = self.workdir {
            let path = to.text(workdir.as_os_str());
            let what = format!("enter the working directory `{}`", workdir.display());
            to.call(section, libc::SYS_chdir, [path], what);
            to.blame_request(section);
        }
        let none = to.words([0u64.into()]);
        let args = [Arg::from(libc::SIG_SETMASK), none.into(), 0.into(), 8.into()];
        to.call(section, libc::SYS_rt_sigprocmask, args, "unblock signals");
        let first = if has_file { 4 } else { 3 };
        let args = [Arg::from(first), Arg::from(u32::MAX), 0.into()];
        to.call(section, libc::SYS_close_range, args, "close descriptors");
    }

    /// Adds the `execve` of `argv`, searching `PATH` as `execvp(3)` does.
    pub(crate) fn execute(&self, to: &mut Program, argv: &[String]) -> Result<()> {
        let arguments = to.strings(argv);
        let env = self.environment(to);
        let candidates = self.candidates(&argv[0]);
        let Some((last, others)) = candidates.split_last() else {
            return Err(Error::invalid("the command is empty"));
        };
        for candidate in others {
            let path = to.text(candidate);
            let args = [path, arguments.into(), env.into()];
            to.alternative(Section::Command, libc::SYS_execve, args);
        }
        let path = to.text(last);
        let args = [path, arguments.into(), env.into()];
        to.call(Section::Command, libc::SYS_execve, args, format!("execute `{}`", argv[0]));
        Ok(())
    }

    /// Adds the `execve` of `argv` with the environment of the helper, in which that of the plan
    /// replaces what has its names; `PATH` is searched there.
    pub(crate) fn execute_there(&self, to: &mut Program, argv: &[String]) -> Result<()> {
        let Some(name) = argv.first() else {
            return Err(Error::invalid("the command is empty"));
        };
        let what = format!("execute `{name}`");
        let arguments = to.strings(argv);
        let changes = self.environment(to);
        to.execute(Section::Command, arguments, changes, what);
        Ok(())
    }

    fn environment(&self, to: &mut Program) -> Data {
        let entries = self.env.iter().map(|(name, value)| {
            let mut entry = name.clone();
            entry.push("=");
            entry.push(value);
            entry
        });
        to.strings(entries)
    }

    /// The paths at which a program may be.
    fn candidates(&self, name: &str) -> Vec<OsString> {
        if name.contains('/') {
            return vec![name.into()];
        }
        let path = self.env.iter().rev().find(|(n, _)| n == "PATH");
        let path = path.map_or("/usr/bin:/bin".as_ref(), |(_, value)| value.as_os_str());
        path.as_bytes()
            .split(|b| *b == b':')
            .map(|directory| {
                let directory = if directory.is_empty() { b"." } else { directory };
                let mut candidate = OsString::from(std::ffi::OsStr::from_bytes(directory));
                candidate.push("/");
                candidate.push(name);
                candidate
            })
            .collect()
    }
}
