//! `openbrain sandbox create`: starts the process that holds the sandbox, and waits until there is one.

use std::{
    io::{self, IsTerminal, Write},
    process::{self, Stdio},
};

use openbrain::{Limits, NewSandbox};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

use super::{
    args::CreateArgs,
    hold::{Answer, Held, Order},
};
use crate::{
    console::{json_line, print, print_json, say},
    env,
    exec::{Reach, STARTING},
    exit,
    failure::{Failure, Result},
    program::absolute,
    settle::{self, announce},
    signals::Signals,
};

/// Runs `openbrain sandbox create` and returns the exit code.
pub(super) fn run(args: CreateArgs) -> Result<u8> {
    let as_json = args.json;
    let order = order(args)?;
    let Held { about, warnings } = settle::runtime()?.block_on(async {
        let mut signals =
            Signals::listen().map_err(|e| Failure::system("cannot listen to signals", e))?;
        tokio::select! {
            answer = ask(&order) => answer,
            // The holder sees that nobody waits any more, and leaves nothing.
            kind = signals.end() => Err(Failure::Signal(kind.as_raw_value())),
            answer = announce(io::stderr().is_terminal(), STARTING) => answer,
        }
    })?;
    for warning in warnings {
        say(format_args!("warning: {warning}"));
    }
    match as_json {
        true => print_json(&about)?,
        false => print(format!("{}\n", about.id))?,
    }
    Ok(exit::SUCCESS)
}

/// Starts a process that holds the sandbox. It is told what to hold, and not by arguments, which
/// everybody on this machine could read.
async fn ask(order: &Order) -> Result<Held> {
    let program =
        std::env::current_exe().map_err(|e| Failure::system("cannot find openbrain", e))?;
    let failed = |e| Failure::system("cannot start the process that holds the sandbox", e);
    let mut holder = process::Command::new(program)
        .args(["sandbox", "hold"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (Some(mut stdin), Some(stdout)) = (holder.stdin.take(), holder.stdout.take()) else {
        return Err(failed(io::ErrorKind::BrokenPipe.into()));
    };
    stdin.write_all(json_line(order)?.as_bytes()).map_err(failed)?;
    let mut stdout = Receiver::from_owned_fd(stdout.into()).map_err(failed)?;
    let mut answer = Vec::new();
    stdout.read_to_end(&mut answer).await.map_err(failed)?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Held(held)) => Ok(held),
        Ok(Answer::Failed { error }) => Err(error.into()),
        Err(_) => Err(failed(io::Error::other("it ended before the sandbox was there"))),
    }
}

fn order(args: CreateArgs) -> Result<Order> {
    let CreateArgs {
        name,
        label,
        timeout,
        workdir,
        env,
        env_file,
        rootfs,
        json: _,
        reach,
        limits,
        settings,
    } = args;
    let Reach { mounts, expose, allow_network, allowed_ports, allowed_domains, allowed_hosts } =
        reach.resolve()?;
    let new = NewSandbox {
        image: None,
        rootfs: rootfs.as_deref().map(absolute).transpose()?,
        name,
        labels: label.into_iter().collect(),
        timeout,
        env: env::collect(&env_file, &env)?,
        workdir,
        mounts,
        expose,
        allow_network,
        allowed_ports,
        allowed_domains,
        allowed_hosts,
        limits: Limits::from(limits),
    };
    Ok(Order { new, settings })
}
