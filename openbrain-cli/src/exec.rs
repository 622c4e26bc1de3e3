//! `openbrain exec`: from the command line to the library, and back to an exit code.

use std::{
    future::pending,
    io::{self, IsTerminal},
    time::Duration,
};

use clap::CommandFactory;
use openbrain::{
    Caller, Denial, Engine, Exec, Limits, Output, Place, Process, Recorder, Spec, Status, Surface,
};
use tokio::time::sleep;

use crate::{
    args::{
        Cli, ExecArgs, LimitArgs, OutputArgs, PlaceArgs, ReachArgs, SettingsArgs, SurroundingsArgs,
    },
    changes, config,
    console::{json_line, print_json, print_yaml, say},
    env, exit,
    failure::{Failure, Result},
    program::{self, absolute},
    settle::{self, SILENCE},
    signals::Signals,
    stream::{self, Form},
    terminal::{self, RawMode},
};

/// Runs `openbrain exec` and returns the exit code.
pub(crate) fn run(args: ExecArgs) -> Result<u8> {
    let Some((command, stdin)) = program::find(&args)? else {
        return Ok(help());
    };
    let (exec, output, settings) = request(Exec::of(command).stdin(stdin), args)?;
    let engine = Engine::new(config::load(&settings)?.settings).for_caller(caller());
    let planned = engine.settings().resolve(exec.clone());
    if output.dry_run {
        let spec = planned?;
        let printed = if output.json { print_json(&spec) } else { print_yaml(&spec) };
        return printed.map(|()| exit::SUCCESS);
    }
    let spec = match planned {
        Ok(spec) => spec,
        // Refused again by the engine, which has it in the audit log then.
        Err(_) => return Ok(exit::of_output(&engine.run_blocking(exec)?, None)),
    };
    let announced = is_announced(&spec, &output);
    let runtime = settle::runtime()?;
    let result = runtime.block_on(supervise(&engine, exec, &spec, &output));
    // With the runtime ends whatever still held on to the sandbox.
    drop(runtime);
    settle::wait(announced);
    result
}

/// Whose command it is.
pub(crate) fn caller() -> Caller {
    Caller::new(Surface::Cli).named(format!("uid:{}", rustix::process::getuid().as_raw()))
}

/// Whether somebody is looking who wants to hear why nothing happens for a while.
fn is_announced(spec: &Spec, args: &OutputArgs) -> bool {
    let for_machines = args.json || args.events;
    spec.place != Place::Direct && !args.quiet && !for_machines && io::stderr().is_terminal()
}

/// Says in short how it is used, because there is nothing to run and nobody to ask.
fn help() -> u8 {
    let mut root = Cli::command();
    root.build();
    if let Some(exec) = root.find_subcommand_mut("exec") {
        say(format_args!("no command was given\n{}", exec.render_usage()));
        say("see `openbrain exec --help`");
    }
    exit::FAILURE
}

/// The request that the flags describe, and the flags that are no part of it.
pub(crate) fn request(mut exec: Exec, args: ExecArgs) -> Result<(Exec, OutputArgs, SettingsArgs)> {
    let ExecArgs {
        command: _,
        literal: _,
        file: _,
        lang: _,
        shell,
        place,
        surroundings,
        limits,
        output,
        settings,
    } = args;
    exec.shell = shell;
    exec.limits = limits.into();
    let exec = surround(sandboxed(exec, place)?, surroundings)?;
    Ok((exec, output, settings))
}

fn sandboxed(mut exec: Exec, args: PlaceArgs) -> Result<Exec> {
    let PlaceArgs { sandbox, direct, changes, reach } = args;
    exec.changes = changes;
    exec.sandbox = (sandbox || direct).then_some(sandbox);
    let_in(exec, reach)
}

/// What the sandbox may reach.
pub(crate) fn let_in(mut exec: Exec, args: ReachArgs) -> Result<Exec> {
    let ReachArgs {
        mount,
        expose,
        allow_network,
        no_network,
        allow_port,
        allow_domain,
        allow_host,
    } = args;
    exec.allow_network = if no_network { Some(false) } else { allow_network };
    exec.allowed_ports = (!allow_port.is_empty()).then_some(allow_port);
    exec.allowed_domains = (!allow_domain.is_empty()).then_some(allow_domain);
    exec.allowed_hosts = (!allow_host.is_empty()).then_some(allow_host);
    for mut mount in mount {
        mount.source = absolute(&mount.source)?;
        exec = exec.mount_at(mount);
    }
    for path in expose {
        exec = exec.expose(absolute(&path)?);
    }
    Ok(exec)
}

fn surround(mut exec: Exec, args: SurroundingsArgs) -> Result<Exec> {
    let SurroundingsArgs { timeout, workdir, env, env_file, no_stdin: _, stdin: _, tty } = args;
    exec.timeout = timeout;
    exec.workdir = workdir;
    exec.env = env::collect(&env_file, &env)?;
    exec.tty = tty.then(terminal::size);
    Ok(exec)
}

impl From<LimitArgs> for Limits {
    fn from(args: LimitArgs) -> Self {
        let LimitArgs { memory, cpus, pids, disk, open_files, output_limit } = args;
        Self { memory, cpus, pids, disk, open_files, output: output_limit }
    }
}

/// Starts the command, passes on what it writes and what we are told, and returns the exit code.
async fn supervise(engine: &Engine, exec: Exec, spec: &Spec, args: &OutputArgs) -> Result<u8> {
    let mut signals =
        Signals::listen().map_err(|e| Failure::system("cannot listen to signals", e))?;
    let announced = is_announced(spec, args);
    let process = tokio::select! {
        process = engine.spawn(exec) => process?,
        kind = signals.end() => return Err(Failure::Signal(kind.as_raw_value())),
        () = announce(announced, &spec.place) => pending().await,
    };
    attend(process, &mut signals, spec.timeout, args).await
}

/// Passes on what a command that has started writes and what we are told, until it has ended by this
/// deadline, and returns the exit code.
pub(crate) async fn attend(
    mut process: Process,
    signals: &mut Signals,
    deadline: Option<Duration>,
    args: &OutputArgs,
) -> Result<u8> {
    let raw_mode = connect(&mut process)?;
    let output = pass_on(process, signals, deadline, args).await?;
    drop(raw_mode);
    if !(args.quiet || args.json || args.events) {
        remark(&output, deadline);
    }
    Ok(exit::of_output(&output, signals.asked()))
}

/// Passes on what the command writes in the form that was asked for, until it has ended.
async fn pass_on(
    process: Process,
    signals: &mut Signals,
    deadline: Option<Duration>,
    args: &OutputArgs,
) -> Result<Output> {
    if args.json {
        let output = stream::collect(process, signals).await?;
        stream::print(json_line(&output)?, signals).await?;
        return Ok(output);
    }
    let form = if args.events { Form::Records(Recorder::default()) } else { Form::Plain };
    stream::copy(process, form, signals, deadline).await
}

/// Connects our terminal, or whatever our standard input is, to the terminal of the command.
fn connect(process: &mut Process) -> Result<Option<RawMode>> {
    let Some(terminal) = process.take_stdin() else {
        return Ok(None);
    };
    let raw_mode = RawMode::enter()
        .map_err(|e| Failure::system("cannot switch the terminal to raw mode", e))?;
    terminal::forward(io::stdin(), terminal);
    Ok(raw_mode)
}

/// Says that a sandbox is starting, when that takes long and somebody is looking. Never ends.
async fn announce(wanted: bool, place: &Place) {
    if wanted {
        sleep(SILENCE).await;
        match place {
            Place::Opensandbox(_, server) => {
                let (image, url) = (&server.image, &server.url);
                say(format_args!("starting a sandbox of `{image}` on `{url}`…"));
            }
            Place::Embedded(_) | Place::Direct => say("starting the sandbox…"),
        }
    }
    pending().await
}

/// Says what a person should know about the result.
fn remark(output: &Output, deadline: Option<Duration>) {
    for warning in &output.warnings {
        say(format_args!("warning: {warning}"));
    }
    for denial in &output.denials {
        say(denied(denial));
    }
    if let Some(changes) = &output.changes {
        changes::remark(changes);
    }
    if output.resources.oom_killed {
        say("warning: the memory limit of the sandbox was reached");
    }
    match (output.status, deadline) {
        (Status::TimedOut, Some(timeout)) => {
            say(format_args!("timed out after {}", humantime::format_duration(timeout)));
        }
        (Status::TimedOut, None) => say("timed out"),
        (Status::Exited(_) | Status::Signaled(_) | Status::Cancelled, _) => {}
    }
}

/// What was refused, why, and which setting would allow it, in one line.
fn denied(denial: &Denial) -> String {
    let Denial { what, host: _, port: _, reason, remedy, count } = denial;
    let times = if *count == 1 { String::new() } else { format!(" ({count} times)") };
    let remedy = remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
    format!("the sandbox did not reach {what}{times}: {reason}{remedy}")
}
