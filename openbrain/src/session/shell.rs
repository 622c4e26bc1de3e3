//! Commands one after the other as in one shell: where one leaves off, the next one begins.
//!
//! Each is a command of its own, with a shell of its own. It first executes a file of the sandbox that
//! sets the variables and the directory, and writes that file anew when it ends.

use std::{fmt::Write, path::Path};

use super::{Reference, Sandbox};
use crate::{
    error::{Error, Result},
    exec::{Command, Exec},
    output::Output,
    process::{Handle, Process},
    script::SHELL,
    units::random_name,
};

/// Variables that a command may have before anybody sets them, beside those of the sandbox.
const COMMON: [&str; 10] =
    ["HOME", "LANG", "LANGUAGE", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER"];

/// Commands in a sandbox that are run one after the other as in one shell, made by
/// [`Sandbox::shell`].
///
/// The working directory and the exported variables of one command are those with which the next one
/// begins, however it ends: at its last line, by `exit`, by `set -e`. Nothing else is kept: no
/// functions, no aliases, no options, no variables that are not exported. Each is an ordinary command
/// with its own deadline, streams and result; background processes go on, as they do in any case.
///
/// Two ways to end leave everything as it was before the command: being killed, and `exec`, which puts
/// another program in the shell's place. So does `exit` in a command that has set a `trap` for `EXIT`
/// of its own.
///
/// It does not keep the sandbox open. What is kept is in a file below the sandbox's `/tmp`.
///
/// ```no_run
/// # async fn demo() -> openbrain::Result<()> {
/// use openbrain::Sandbox;
///
/// let sandbox = Sandbox::builder().create().await?;
/// let mut shell = sandbox.shell();
/// shell.run("mkdir -p project && cd project && export MODE=release").await?;
/// let output = shell.run("pwd; echo $MODE").await?;
/// assert_eq!(output.stdout_text(), "/workspace/project\nrelease\n");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Shell {
    sandbox: Reference,
    program: String,
    /// The file of the sandbox that has what is kept.
    state: String,
    /// The last command that was started.
    last: Option<Handle>,
}

impl Sandbox {
    /// A shell whose working directory and exported variables persist from command to command.
    pub fn shell(&self) -> Shell {
        self.shell_with(SHELL)
    }

    /// As [`Sandbox::shell`], of another program that understands what `sh` does, such as `bash`.
    pub fn shell_with(&self, program: impl Into<String>) -> Shell {
        let state = format!("/tmp/.openbrain-shell-{}", random_name());
        Shell { sandbox: self.reference(), program: program.into(), state, last: None }
    }
}

impl Shell {
    /// Runs a command to its end and collects its output: the text of a script, or an [`Exec`], whose
    /// working directory and variables are then those of the shell. Waits for the end of the last one
    /// that was started.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::run`]; `invalid_request` also for a program in a language, and for a shell of the
    /// command's own.
    pub async fn run(&mut self, exec: impl Into<Exec>) -> Result<Output> {
        self.spawn(exec).await?.wait().await
    }

    /// Starts a command, as [`Shell::run`] does.
    ///
    /// # Errors
    ///
    /// As [`Shell::run`].
    pub async fn spawn(&mut self, exec: impl Into<Exec>) -> Result<Process> {
        let exec = self.wrap(exec.into(), self.sandbox.spec.env.keys().map(String::as_str))?;
        if let Some(last) = &self.last {
            last.ended().await;
        }
        let process = self.sandbox.sandbox()?.spawn(exec).await?;
        self.last = Some(process.handle());
        Ok(process)
    }

    /// The command, between taking what is kept and leaving it. `known` are the variables that it
    /// would have without that.
    fn wrap<'a>(&self, mut exec: Exec, known: impl Iterator<Item = &'a str>) -> Result<Exec> {
        exec.check()?;
        if exec.shell.as_ref().is_some_and(|shell| *shell != self.program) {
            return Err(Error::invalid("a command in a shell cannot have another shell")
                .with_remedy("make a shell of it by `Sandbox::shell_with`"));
        }
        let script = match &exec.command {
            Command::Shell(script) => script.clone(),
            Command::Argv(argv) => argv.iter().map(|word| quoted(word) + " ").collect(),
            Command::Script { .. } => {
                return Err(Error::invalid("a program in a language cannot be run by a shell")
                    .with_remedy("run it by `Sandbox::run`, or its interpreter by a command"));
            }
        };
        let known = known.chain(COMMON).filter(|name| is_name(name));
        let (load, save) = (self.load(&exec)?, self.save(known));
        let trap = quoted(&format!("[ \"${{openbrain_status+x}}\" ] || {save}"));
        let script = quoted(&script);
        // The script begins in the first line, so that its lines keep their numbers. What follows it
        // was read with its last line, which `set -v` shows, and is not traced by `set -x`.
        let text = format!(
            "{load}trap {trap} EXIT; eval {script}; \
             {{ openbrain_status=$?; {save}; set +euxvC; }} 2>/dev/null; exit \"$openbrain_status\""
        );
        exec.env.retain(|name, _| !is_name(name));
        exec.command = Command::Shell(text);
        exec.shell = Some(self.program.clone());
        Ok(exec)
    }

    /// Takes what is kept, and then what the request says.
    fn load(&self, exec: &Exec) -> Result<String> {
        let state = &self.state;
        // Entering a directory changes OLDPWD, which is why the variables are set twice.
        let enter = match exec.workdir.as_deref().map(Path::to_str) {
            None => format!("if cd -- \"$PWD\"; then . {state} 2>/dev/null; else cd -P .; fi"),
            Some(Some(path)) => format!("cd -- \"$PWD\" 2>/dev/null; cd -- {}", quoted(path)),
            Some(None) => {
                return Err(Error::invalid("the working directory is not UTF-8")
                    .with_remedy("give it to a command of the sandbox, outside of the shell"));
            }
        };
        let mut text = format!("if [ -r {state} ]; then . {state} 2>/dev/null; {enter}; fi; ");
        for (name, value) in exec.env.iter().filter(|(name, _)| is_name(name)) {
            let _ = write!(text, "export {name}={}; ", quoted(value));
        }
        Ok(text)
    }

    /// Leaves what is kept, as a subshell that nobody sees and that changes no result.
    fn save<'a>(&self, known: impl Iterator<Item = &'a str>) -> String {
        let (state, new) = (&self.state, format!("{}.new", self.state));
        let mut unset = String::new();
        for name in known {
            let _ = write!(unset, "[ \"${{{name}+x}}\" ] || echo unset {name}; ");
        }
        // The name of a directory may end with a line feed, which a substitution would take off.
        format!(
            "(set +euxvC; umask 077; PWD=$(pwd; echo .); PWD=${{PWD%??}}; export PWD; \
             {{ {unset}export -p; }} >{new} && {{ mv -f {new} {state} || /bin/mv -f {new} {state}; }}) \
             2>/dev/null"
        )
    }
}

/// Whether a shell can have a variable of this name.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(plain) && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// The text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
