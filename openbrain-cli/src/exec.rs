//! `openbrain exec`: from the command line to the library, and back to an exit code.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use clap::CommandFactory;
use openbrain::{
    Caller, Denial, Engine, Exec, Limits, Mount, Output, Place, Process, Recorder, Spec, Status,
    Surface,
};

use crate::{
    args::{
        Cli, ExecArgs, LimitArgs, OutputArgs, PlaceArgs, ProgramArgs, ReachArgs, SurroundingsArgs,
    },
    changes, config,
    console::{json_line, print_json, print_yaml, say},
    env, exit,
    failure::{Failure, Result},
    program::{self, absolute},
    refused::Refused,
    settle::{self, announce},
    signals::Signals,
    stream::{self, Form},
    terminal::{self, RawMode},
};

/// What a sandbox may reach, as requests say it.
pub(crate) struct Reach {
    pub(crate) mounts: Vec<Mount>,
    pub(crate) expose: Vec<PathBuf>,
    pub(crate) allow_network: Option<bool>,
    pub(crate) allowed_ports: Option<Vec<u16>>,
    pub(crate) allowed_domains: Option<Vec<String>>,
    pub(crate) allowed_hosts: Option<Vec<String>>,
}

/// What we say when a sandbox of this machine takes long to start.
pub(crate) const STARTING: &str = "starting the sandbox…";

/// Runs `openbrain exec` and returns the exit code.
pub(crate) fn run(args: ExecArgs) -> Result<u8> {
    let ExecArgs { program, place, timeout, surroundings, tty, limits, output, dry_run, settings } =
        args;
    let Some(mut exec) = request(program, surroundings, tty)? else {
        return Ok(help());
    };
    exec.timeout = timeout;
    exec.limits = limits.into();
    let exec = sandboxed(exec, place)?;
    let engine = Engine::new(config::load(&settings)?.settings).for_caller(caller());
    let planned = engine.settings().resolve(exec.clone());
    if dry_run {
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
    let is_heard = !args.quiet && !args.is_for_machines();
    spec.place != Place::Direct && is_heard && io::stderr().is_terminal()
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

/// The request for what was given to run, as far as it is the same in a new place and in a sandbox that
/// is open. `None` when nothing was given.
pub(crate) fn request(
    program: ProgramArgs,
    surroundings: SurroundingsArgs,
    tty: bool,
) -> Result<Option<Exec>> {
    let Some((command, stdin)) = program::find(&program, &surroundings, tty)? else {
        return Ok(None);
    };
    let SurroundingsArgs { workdir, env, env_file, no_stdin: _, stdin: _ } = surroundings;
    let mut exec = Exec::of(command).stdin(stdin);
    exec.shell = program.shell;
    exec.workdir = workdir;
    exec.env = env::collect(&env_file, &env)?;
    exec.tty = tty.then(terminal::size);
    Ok(Some(exec))
}

fn sandboxed(mut exec: Exec, args: PlaceArgs) -> Result<Exec> {
    let PlaceArgs { sandbox, direct, changes, reach } = args;
    exec.changes = changes;
    exec.sandbox = (sandbox || direct).then_some(sandbox);
    let Reach { mounts, expose, allow_network, allowed_ports, allowed_domains, allowed_hosts } =
        reach.resolve()?;
    exec.allow_network = allow_network;
    exec.allowed_ports = allowed_ports;
    exec.allowed_domains = allowed_domains;
    exec.allowed_hosts = allowed_hosts;
    exec = mounts.into_iter().fold(exec, Exec::mount_at);
    Ok(expose.into_iter().fold(exec, Exec::expose))
}

impl ReachArgs {
    /// The same as requests say it, with paths that are absolute.
    pub(crate) fn resolve(self) -> Result<Reach> {
        let Self {
            mut mount,
            expose,
            allow_network,
            no_network,
            allow_port,
            allow_domain,
            allow_host,
        } = self;
        for mount in &mut mount {
            mount.source = absolute(&mount.source)?;
        }
        Ok(Reach {
            mounts: mount,
            expose: expose.iter().map(|path| absolute(path)).collect::<Result<_>>()?,
            allow_network: if no_network { Some(false) } else { allow_network },
            allowed_ports: (!allow_port.is_empty()).then_some(allow_port),
            allowed_domains: (!allow_domain.is_empty()).then_some(allow_domain),
            allowed_hosts: (!allow_host.is_empty()).then_some(allow_host),
        })
    }
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
        process = announce(announced, starting(&spec.place)) => process,
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
    if !args.quiet && !args.is_for_machines() {
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

/// That a sandbox is starting.
fn starting(place: &Place) -> String {
    match place {
        Place::Opensandbox(_, server) => {
            format!("starting a sandbox of `{}` on `{}`…", server.image, server.url)
        }
        Place::Embedded(_) | Place::Direct => STARTING.to_owned(),
    }
}

/// Says what a person should know about the result.
fn remark(output: &Output, deadline: Option<Duration>) {
    for warning in &output.warnings {
        say(format_args!("warning: {warning}"));
    }
    for denial in &output.denials {
        let Denial { what, host: _, port: _, reason, remedy, count } = denial;
        say(Refused { what, reason, remedy: remedy.as_deref(), count: *count });
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
