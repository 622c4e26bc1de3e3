//! `openbrain sandbox exec`: as `openbrain exec`, in a sandbox that is there.

use openbrain::{Exec, MAX_TIMEOUT, Stdin};

use super::{args::SandboxExecArgs, join};
use crate::{
    args::ProgramArgs,
    console::{print, say},
    exec::{attend, request},
    exit,
    failure::{Failure, Result},
    settle,
    signals::Signals,
};

/// The shell of somebody who sits at a terminal: the better one, where there is one.
const SHELL: &str = "command -v bash >/dev/null && exec bash; exec sh";

/// Runs `openbrain sandbox exec` and returns the exit code.
pub(super) fn run(args: SandboxExecArgs) -> Result<u8> {
    let SandboxExecArgs {
        sandbox,
        mut program,
        tty,
        detach,
        timeout,
        surroundings,
        output,
        settings,
    } = args;
    let ProgramArgs { command, file, lang, .. } = &mut program;
    let is_shell = tty && command.is_empty() && file.is_none() && lang.is_none();
    if is_shell {
        command.push(SHELL.into());
    }
    let Some(mut exec) = request(program, surroundings, tty)? else {
        say("no command was given");
        say("hint: `openbrain sandbox exec -t SANDBOX` gives a shell");
        return Ok(exit::FAILURE);
    };
    // A shell is there as long as its user likes, and so is what nobody waits for: the sandbox ends both.
    exec.timeout = timeout.or((is_shell || detach).then_some(MAX_TIMEOUT));
    let runtime = settle::runtime()?;
    let result = runtime.block_on(async {
        let mut signals =
            Signals::listen().map_err(|e| Failure::system("cannot listen to signals", e))?;
        let starting = async {
            let joined = join(&settings, &sandbox).await?;
            if detach {
                let exec_id = joined.start_detached(in_background(exec)).await?;
                print(exec_id + "\n")?;
                return Ok(None);
            }
            let deadline = exec.timeout.unwrap_or(joined.command_timeout());
            let process = joined.spawn(exec).await?;
            Ok::<_, Failure>(Some((joined, process, deadline)))
        };
        let started = tokio::select! {
            started = starting => started?,
            kind = signals.end() => return Err(Failure::Signal(kind.as_raw_value())),
        };
        match started {
            // The sandbox is to be there until the end of the command.
            Some((_joined, process, deadline)) => {
                attend(process, &mut signals, Some(deadline), &output).await
            }
            None => Ok(exit::SUCCESS),
        }
    });
    drop(runtime);
    settle::wait(false);
    result
}

/// A command in the background reads nothing of ours, unless it was said so.
fn in_background(mut exec: Exec) -> Exec {
    if exec.stdin == Stdin::Inherit {
        exec.stdin = Stdin::Null;
    }
    exec
}
