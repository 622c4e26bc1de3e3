//! The `openbrain` command: reads the command line, lets the library run, passes the result on.

#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used)]

mod args;
mod audit;
mod changes;
mod config;
mod console;
mod doctor;
mod env;
mod exec;
mod exit;
mod failure;
mod file_view;
mod mcp;
mod moment;
mod program;
mod refused;
mod rest;
mod sandbox;
mod serve;
mod service;
mod settle;
mod signals;
mod stream;
mod terminal;
mod writer;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, error::ErrorKind};

use crate::{
    args::{Cli, Command},
    console::print,
    failure::{Failure, Result},
};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::read(&arguments) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage(&error, &arguments)),
    };
    let wants_json = cli.command.wants_json();
    let code = run(cli.command).unwrap_or_else(|failure| complain(&failure, wants_json));
    ExitCode::from(code)
}

/// Says why nothing was done, to a program where one asked, and returns the exit code.
fn complain(failure: &Failure, wants_json: bool) -> u8 {
    match wants_json.then(|| failure.print_json()) {
        Some(Ok(())) => failure.code(),
        // Standard output cannot be written, which is the worse news.
        Some(Err(error)) => {
            error.print();
            error.code()
        }
        None => {
            failure.print();
            failure.code()
        }
    }
}

fn run(command: Command) -> Result<u8> {
    match command {
        Command::Exec(args) => exec::run(*args),
        Command::Serve(args) => serve::run(&args),
        Command::Mcp(args) => mcp::stdio::run(&args),
        Command::Changes(args) => changes::run(&args),
        Command::Apply(args) => changes::apply(&args),
        Command::Discard(args) => changes::discard(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Sandbox(command) => sandbox::run(command),
        Command::Audit(args) => audit::run(&args),
        Command::Config(command) => config::run(command),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "openbrain", &mut text);
            print(text).map(|()| exit::SUCCESS)
        }
        Command::Man { command } => man(command.as_deref()).map(|()| exit::SUCCESS),
    }
}

/// Prints the manual page of openbrain, or of one of its commands.
fn man(name: Option<&str>) -> Result<()> {
    let mut root = Cli::command();
    root.build();
    let command = match name {
        None => root,
        Some(name) => root.find_subcommand(name).cloned().ok_or_else(|| {
            Failure::usage(format!("`{name}` is no command"), "see `openbrain --help`")
        })?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|e| Failure::system("cannot write the manual page", e))?;
    print(page)
}

/// Passes on what clap has to say: help and version on standard output, the rest as an error.
fn usage(error: &clap::Error, arguments: &[OsString]) -> u8 {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return print(text).map_or_else(|failure| failure.code(), |()| exit::SUCCESS);
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Nobody may be listening.
            let _ = error.print();
            return exit::FAILURE;
        }
        _ => {}
    }
    let text = text.trim_start_matches("error: ");
    let (message, more) = text.split_once("\n\n").unwrap_or((text, ""));
    let tip = more.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    // The usage begins with the command that it is of.
    let is_name = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
    let usage = more.lines().find_map(|line| line.trim().strip_prefix("Usage: "));
    let command = usage.unwrap_or("openbrain").split(' ').take_while(is_name);
    let help = format!("`{} --help` shows what there is", command.collect::<Vec<_>>().join(" "));
    let failure = Failure::usage(message, tip.unwrap_or(&help));
    complain(&failure, args::wants_json(arguments))
}
