//! The command line as it was typed.

mod changes;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use openbrain::{Mount, Surface, languages, parse_duration, parse_size};
use serde::{Deserialize, Serialize};

pub(crate) use self::changes::{ApplyArgs, ChangesArgs, DiscardArgs};
use crate::{
    audit::surface,
    env::Variable,
    sandbox::args::SandboxCommand,
    serve::{LogFormat, LogLevel},
};

/// Headings of the help that several groups of flags belong to. A group that others may follow names its
/// heading flag by flag: what is flattened gives its own to all that comes after it.
pub(crate) const COMMAND: &str = "Command";
const OUTPUT: &str = "Output";
const SETTINGS: &str = "Settings";

/// Run a command on the host or in a sandbox, and get one honest result.
#[derive(Debug, Parser)]
#[command(name = "openbrain", version, max_term_width = 100)]
#[command(after_help = "Start with `openbrain exec --sandbox \"ls -la\"`, or `openbrain doctor`.")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands of openbrain.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command, directly or in a sandbox.
    ///
    /// One argument is a script for the shell; several, or anything after `--`, are a program and
    /// its arguments without a shell; none, or `-`, is a program read from standard input.
    #[command(
        after_help = EXEC_EXAMPLES,
        override_usage = "openbrain exec [FLAGS] [--] [COMMAND] [ARGS...]",
    )]
    Exec(Box<ExecArgs>),
    /// Serve commands over REST, and over MCP at `/mcp`.
    ///
    /// Only you can call it, from this machine. An address that other machines can reach needs a
    /// token: OPENBRAIN_SERVER_TOKEN.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Serve commands to one MCP client, over standard input and output.
    ///
    /// The client starts it. Its commands end with it, and so does openbrain.
    #[command(after_help = MCP_EXAMPLES)]
    Mcp(McpArgs),
    /// Show what commands have changed: `openbrain exec --changes` saves it.
    ///
    /// Without an ID, a list of everything that is saved. It is kept for 14 days.
    Changes(ChangesArgs),
    /// Apply saved changes to the host.
    ///
    /// Nothing is applied when the host has changed one of the files meanwhile.
    Apply(ApplyArgs),
    /// Discard saved changes.
    Discard(DiscardArgs),
    /// Check what works here, and what isolation a sandbox would have right now.
    Doctor(DoctorArgs),
    /// Work in sandboxes that stay open.
    #[command(subcommand, after_help = SANDBOX_EXAMPLES)]
    Sandbox(SandboxCommand),
    /// Show who ran what: the audit log.
    ///
    /// A command whose end is not recorded is `unknown`: it still runs, or openbrain was killed.
    Audit(AuditArgs),
    /// Show, check and create settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completions of a shell.
    Completions {
        /// The shell to print them for.
        shell: Shell,
    },
    /// Print the manual page, or that of one command.
    Man {
        /// The command, for example `exec`.
        command: Option<String>,
    },
}

const EXEC_EXAMPLES: &str = r#"Examples:
  openbrain exec "pip install requests"
  openbrain exec --sandbox --timeout 600 "make install"
  openbrain exec --sandbox --allow-network true "curl https://example.com"
  openbrain exec --sandbox --mount /path/to/workspace "ls -la"
  openbrain exec --sandbox --mount .:overlay --changes "make install"
  openbrain exec --sandbox -- python3 -c 'print(1)'
  openbrain exec --sandbox < program.py

Exit code: that of the command; 128+n when signal n ended it; 124 after a timeout; 125 when
openbrain itself failed; 126 when the program cannot be executed, 127 when it was not found."#;

const SANDBOX_EXAMPLES: &str = r#"Examples:
  openbrain sandbox create --name work --timeout 1h --mount .
  openbrain sandbox exec work "pip install requests"
  openbrain sandbox exec -t work
  openbrain sandbox exec -d work "python3 -m http.server 8000"
  openbrain sandbox logs -f work
  openbrain sandbox files download work /workspace/report report
  openbrain sandbox kill work"#;

const SERVE_EXAMPLES: &str = r#"Examples:
  openbrain serve
  openbrain serve --listen unix:/run/user/1000/openbrain.sock
  curl -X POST http://localhost:8000/exec -d '{"command": "pip install requests", "sandbox": true}'

Asked to end (Ctrl-C, SIGTERM), it lets running commands go on for `server.drain_seconds`; asked
again, it kills them."#;

const MCP_EXAMPLES: &str = r#"Examples:
  claude mcp add openbrain -- openbrain mcp
  codex mcp add openbrain -- openbrain mcp

The same server is at `/mcp` of `openbrain serve`, over streamable HTTP."#;

/// What `openbrain exec` was told.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Kill the command after this time: seconds, or 500ms, 10m, 1h.
    #[arg(short, long, value_name = "TIME", value_parser = timeout, allow_negative_numbers = true)]
    #[arg(help_heading = COMMAND)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) surroundings: SurroundingsArgs,
    /// Run the command on a terminal of its own.
    #[arg(short = 'T', long, conflicts_with = "stdin", help_heading = COMMAND)]
    pub(crate) tty: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Print what would be run, with every default filled in, and run nothing.
    #[arg(long, conflicts_with = "events", help_heading = OUTPUT)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// What runs.
#[derive(Debug, Args)]
pub(crate) struct ProgramArgs {
    /// The command; `-` for a program on standard input.
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub(crate) command: Vec<String>,
    /// Whether the command follows a `--`, and so is no shell script.
    #[arg(skip)]
    pub(crate) literal: bool,
    /// Run a program from a file; its `#!` line or its extension tells the language.
    #[arg(short, long, value_name = "FILE", conflicts_with = "command")]
    pub(crate) file: Option<PathBuf>,
    /// Language of the program: python, sh, bash, node, ruby, perl or php.
    #[arg(long, value_name = "NAME", value_parser = language)]
    pub(crate) lang: Option<String>,
    /// Shell that runs a script [default: /bin/sh].
    #[arg(long, value_name = "SHELL")]
    pub(crate) shell: Option<String>,
}

/// Where to run and what the command may reach.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct PlaceArgs {
    /// Run in a sandbox.
    #[arg(long)]
    pub(crate) sandbox: bool,
    /// Run on the host even where the settings say sandbox.
    #[arg(long, visible_alias = "no-sandbox", conflicts_with = "sandbox")]
    pub(crate) direct: bool,
    /// Tell what the command has changed, and save what it has changed in mounts of the mode overlay
    /// for `openbrain apply`.
    #[arg(long)]
    pub(crate) changes: bool,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
}

/// What a sandbox may reach.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct ReachArgs {
    /// Make a host directory visible, at /workspace unless a target is given. Repeatable. MODE is rw,
    /// ro, or overlay: what is written there is thrown away, or applied by whoever wants it.
    #[arg(long, value_name = "PATH[:MODE]|SRC:DST[:MODE]", value_parser = mount)]
    pub(crate) mount: Vec<Mount>,
    /// Make a host path visible, read-only, at the same place. Repeatable.
    #[arg(long, value_name = "PATH")]
    pub(crate) expose: Vec<PathBuf>,
    /// Allow the sandbox to reach the network, or not.
    #[arg(long, value_name = "true|false", value_parser = switch, allow_hyphen_values = true)]
    pub(crate) allow_network: Option<bool>,
    /// The same as `--allow-network false`.
    #[arg(long, conflicts_with = "allow_network")]
    pub(crate) no_network: bool,
    /// Allow the network, for this TCP port and no other that is not listed. Repeatable.
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = port)]
    pub(crate) allow_port: Vec<u16>,
    /// Allow the network, for this name (or `*.NAME`) and no other that is not listed. Repeatable.
    #[arg(long, value_name = "NAME[:PORT]", value_delimiter = ',')]
    pub(crate) allow_domain: Vec<String>,
    /// Allow a private service beside public hosts: an address, a range or a name. Repeatable.
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',')]
    pub(crate) allow_host: Vec<String>,
}

/// What surrounds the command: directory, environment, input.
#[derive(Debug, Args)]
#[command(next_help_heading = COMMAND)]
pub(crate) struct SurroundingsArgs {
    /// Working directory.
    #[arg(short, long, visible_alias = "cwd", value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// Set an environment variable; `NAME` alone copies the value from here. Repeatable.
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<Variable>,
    /// Read environment variables from a file with a NAME=VALUE on each line. Repeatable.
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Give the command nothing to read.
    #[arg(short, long)]
    pub(crate) no_stdin: bool,
    /// Give the command a file to read; `-` is standard input itself.
    #[arg(long, value_name = "FILE", conflicts_with = "no_stdin")]
    pub(crate) stdin: Option<PathBuf>,
}

/// Limits that differ from those of the settings.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Memory of all processes together, for example 512m.
    #[arg(long, value_name = "SIZE", value_parser = size, allow_negative_numbers = true)]
    pub(crate) memory: Option<u64>,
    /// Processors, for example 1.5.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) cpus: Option<f64>,
    /// Processes and threads at a time.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) pids: Option<u64>,
    /// Everything written in the sandbox outside of mounts.
    #[arg(long, value_name = "SIZE", value_parser = size, allow_negative_numbers = true)]
    pub(crate) disk: Option<u64>,
    /// Open files of one process.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) open_files: Option<u64>,
    /// Output kept of each stream in the result of `--json`.
    #[arg(long, value_name = "SIZE", value_parser = size, allow_negative_numbers = true)]
    pub(crate) output_limit: Option<u64>,
}

/// What openbrain prints.
#[derive(Debug, Args)]
#[command(next_help_heading = OUTPUT)]
pub(crate) struct OutputArgs {
    /// Print the result as one JSON object instead of passing the output on.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print what happens, as it happens, as lines of JSON.
    #[arg(long, conflicts_with = "json")]
    pub(crate) events: bool,
    /// Say nothing but errors.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Settings given on the command line.
#[derive(Debug, Default, Args, Serialize, Deserialize)]
pub(crate) struct SettingsArgs {
    /// Read this settings file instead of the project's; it may loosen what the user's own says.
    #[arg(help_heading = SETTINGS, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Engine of sandboxes: auto, embedded or opensandbox.
    #[arg(help_heading = SETTINGS, long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// Address of an OpenSandbox server.
    #[arg(help_heading = SETTINGS, long, value_name = "URL")]
    pub(crate) server_url: Option<String>,
    /// Image of sandboxes on an OpenSandbox server.
    #[arg(help_heading = SETTINGS, long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// Reach sandboxes through the OpenSandbox server, where their own ports are not reachable.
    #[arg(help_heading = SETTINGS, long)]
    pub(crate) use_server_proxy: bool,
    /// Certificate authorities to trust beside those of the system, for an https server.
    #[arg(help_heading = SETTINGS, long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Give up a request to the OpenSandbox server after this time: seconds, or 500ms, 10s, 1m.
    #[arg(help_heading = SETTINGS, long, value_name = "TIME")]
    pub(crate) request_timeout: Option<String>,
    /// Give up the start of a sandbox there after this time.
    #[arg(help_heading = SETTINGS, long, value_name = "TIME")]
    pub(crate) start_timeout: Option<String>,
    /// What only some OpenSandbox servers know, for example `poolRef=python`. Repeatable; replaces
    /// those of the settings.
    #[arg(help_heading = SETTINGS, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) extension: Vec<(String, String)>,
}

/// What `openbrain serve` was told.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen: ADDRESS:PORT, or unix:/path [default: 127.0.0.1:8000].
    #[arg(long, value_name = "PLACE")]
    pub(crate) listen: Option<String>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// What `openbrain mcp` was told.
#[derive(Debug, Args)]
pub(crate) struct McpArgs {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// What a server tells of itself on standard error.
#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogArgs {
    /// How the log is written.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) log_format: LogFormat,
    /// How much is logged.
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t)]
    pub(crate) log_level: LogLevel,
    /// Send traces of requests to this OpenTelemetry collector (OTLP over HTTP).
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<String>,
}

/// What `openbrain doctor` was told.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print the report as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// What `openbrain audit` was told.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Show what is younger than this: 30m, 1h, 7d.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) since: Option<Duration>,
    /// Show this command alone.
    #[arg(long, value_name = "ID")]
    pub(crate) exec: Option<String>,
    /// Show what came this way: library, cli, rest or mcp.
    #[arg(long, value_name = "NAME", value_parser = surface)]
    pub(crate) surface: Option<Surface>,
    /// Show the last so many.
    #[arg(short, long, value_name = "NUMBER")]
    pub(crate) number: Option<usize>,
    /// Print the records as they are, as lines of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// The commands of `openbrain config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the settings in force.
    Show {
        /// Say where each value comes from.
        #[arg(long)]
        origin: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Check a settings file, or all that are in force here.
    Check {
        /// The file to check.
        file: Option<PathBuf>,
    },
    /// Write a settings file to start from.
    Init {
        /// Where to write it [default: the user's settings file].
        path: Option<PathBuf>,
        /// Replace a file that exists.
        #[arg(long)]
        force: bool,
    },
    /// Print the JSON schema of settings files.
    Schema,
    /// Print where settings files are looked for.
    Path,
}

impl Command {
    /// Whether its result is wanted as JSON, and so is what goes wrong.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Exec(args) => args.output.is_for_machines(),
            Self::Changes(args) => args.json,
            Self::Apply(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Audit(args) => args.json,
            Self::Sandbox(command) => command.wants_json(),
            Self::Config(ConfigCommand::Show { json, .. }) => *json,
            Self::Config(_)
            | Self::Serve(_)
            | Self::Mcp(_)
            | Self::Discard(_)
            | Self::Completions { .. }
            | Self::Man { .. } => false,
        }
    }
}

impl Cli {
    /// Reads the command line of this process.
    pub(crate) fn read(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let mut cli = Self::try_parse_from(arguments)?;
        match &mut cli.command {
            Command::Exec(exec) => exec.program.note_dashes(arguments),
            Command::Sandbox(SandboxCommand::Exec(exec)) => {
                exec.program.note_dashes(arguments);
            }
            _ => {}
        }
        Ok(cli)
    }
}

impl ProgramArgs {
    /// Notes whether the command follows a `--`. clap does not tell, but the command is always the end
    /// of the line, and no flag of `exec` takes `--` as its value.
    fn note_dashes(&mut self, arguments: &[OsString]) {
        let count = self.command.len();
        let before = arguments.len().checked_sub(count + 1).and_then(|at| arguments.get(at));
        self.literal = count > 0 && before.is_some_and(|argument| argument == "--");
    }
}

impl OutputArgs {
    /// Whether a program reads what is printed.
    pub(crate) fn is_for_machines(&self) -> bool {
        self.json || self.events
    }
}

/// Whether a command line that could not be read asked `exec` for JSON: whoever reads JSON wants
/// the complaint in JSON too.
pub(crate) fn wants_json(arguments: &[OsString]) -> bool {
    let cli = Cli::command();
    let mut words = arguments.iter().skip(1).map(|word| word.to_string_lossy());
    let Some(exec) = words.next().filter(|w| w == "exec").and_then(|_| cli.find_subcommand("exec"))
    else {
        return false;
    };
    while let Some(word) = words.next() {
        if word == "--json" || word == "--events" {
            return true;
        }
        if word == "--" || !word.starts_with('-') {
            return false;
        }
        let flag = exec.get_arguments().find(|arg| {
            arg.get_long().is_some_and(|long| word.strip_prefix("--") == Some(long))
                || arg.get_short().is_some_and(|short| word == format!("-{short}"))
        });
        if flag.is_some_and(|flag| flag.get_action().takes_values()) {
            words.next();
        }
    }
    false
}

/// The message of a library error with its remedy, as clap shows it.
fn hinted<T>(result: openbrain::Result<T>) -> Result<T, String> {
    result.map_err(|error| match error.remedy() {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    })
}

pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    hinted(parse_duration(text))
}

fn size(text: &str) -> Result<u64, String> {
    hinted(parse_size(text))
}

fn mount(text: &str) -> Result<Mount, String> {
    hinted(text.parse())
}

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".into()),
    }
}

pub(crate) fn language(text: &str) -> Result<String, String> {
    if languages().any(|language| language == text.to_ascii_lowercase()) {
        return Ok(text.to_owned());
    }
    let known: Vec<_> = languages().collect();
    Err(format!("known languages are {}", known.join(", ")))
}

pub(crate) fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a port is a number from 1 to 65535".into()),
        Ok(port) => Ok(port),
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("the value is true or false; did you mean `--allow-network true`?".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::{Args, CommandFactory};

    use super::{Cli, Command, ExecArgs, SETTINGS, SettingsArgs, wants_json};

    fn words(line: &[&str]) -> Vec<OsString> {
        ["openbrain", "exec"].iter().chain(line).map(Into::into).collect()
    }

    fn exec(line: &[&str]) -> ExecArgs {
        match Cli::read(&words(line)).unwrap().command {
            Command::Exec(exec) => *exec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_table_of_flags_is_sound() {
        Cli::command().debug_assert();
    }

    /// Whatever comes after a group of flags is not one of that group.
    #[test]
    fn only_settings_are_called_settings() {
        let settings = SettingsArgs::augment_args(clap::Command::new("settings"));
        let settings: Vec<_> = settings.get_arguments().map(|arg| arg.get_id().clone()).collect();
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            for arg in command.get_arguments() {
                let is_called = arg.get_help_heading() == Some(SETTINGS);
                let is_one = settings.contains(arg.get_id());
                assert_eq!(is_called, is_one, "{} {arg}", command.get_name());
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn flags_end_at_the_first_word() {
        let exec = exec(&["--sandbox", "grep", "--json", "-t", "--", "x"]);
        assert_eq!(exec.program.command, ["grep", "--json", "-t", "--", "x"]);
        assert!(exec.place.sandbox && !exec.output.json && !exec.program.literal);
    }

    #[test]
    fn dashes_make_the_command_literal() {
        assert!(exec(&["--", "ls"]).program.literal);
        assert!(exec(&["-q", "--", "--x", "--", "y"]).program.literal);
        assert!(!exec(&["ls"]).program.literal);
        assert!(!exec(&["echo", "--"]).program.literal);
        assert!(!exec(&["--"]).program.literal);
    }

    #[test]
    fn a_single_dash_is_a_command() {
        assert_eq!(exec(&["-"]).program.command, ["-"]);
    }

    #[test]
    fn json_is_recognised_before_the_command_only() {
        for (line, expected) in [
            (&["--json", "ls"][..], true),
            (&["--timeout", "0", "--json"], true),
            (&["--timeout=0", "-q", "--json"], true),
            (&["--sandbx", "--json"], true),
            (&["-e", "--json", "ls"], false),
            (&["ls", "--json"], false),
            (&["--", "--json"], false),
            (&[], false),
        ] {
            assert_eq!(wants_json(&words(line)), expected, "{line:?}");
        }
    }
}
