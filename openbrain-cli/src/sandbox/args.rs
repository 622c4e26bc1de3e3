//! The command line of `openbrain sandbox`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::{
    args::{
        COMMAND, LimitArgs, OutputArgs, ProgramArgs, ReachArgs, SettingsArgs, SurroundingsArgs,
        pair, port, timeout,
    },
    env::Variable,
};

/// The commands of `openbrain sandbox`.
#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// Create a sandbox, and print its id.
    ///
    /// It stays until its time is over or it is killed: a process of its own holds it. What it has in
    /// files and in the background is there for every command.
    Create(Box<CreateArgs>),
    /// Run a command in a sandbox.
    ///
    /// As `openbrain exec` does, with what the sandbox was given. Without a command, `-t` gives a shell.
    #[command(override_usage = "openbrain sandbox exec [FLAGS] SANDBOX [--] [COMMAND] [ARGS...]")]
    Exec(Box<SandboxExecArgs>),
    /// List the sandboxes of this user, and those that openbrain has on the server.
    List {
        /// Print them as one JSON list.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Work on the files of a sandbox.
    #[command(subcommand)]
    Files(FilesCommand),
    /// Show what a command in the background has written.
    Logs(LogsArgs),
    /// Show what commands have changed in a sandbox, and save what they have changed in mounts of the
    /// mode `overlay`.
    ///
    /// `openbrain apply` brings that to the host, and is for the end: a mount must not change below an
    /// open sandbox.
    Changes {
        #[command(flatten)]
        target: Target,
        /// Show what has changed of texts, as a unified diff.
        #[arg(long, conflicts_with = "json")]
        diff: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a TCP port of a sandbox reachable on this machine, until it is interrupted.
    ///
    /// Prints the address. Every user of this machine can connect there, and no other machine.
    Port(PortArgs),
    /// Stop every process of a sandbox, without ending it.
    Pause(Target),
    /// Let a paused sandbox go on.
    Resume(Target),
    /// Let a sandbox end in so much time from now.
    Renew {
        #[command(flatten)]
        target: Target,
        /// Seconds, or 10m, 1h.
        #[arg(value_name = "TIME", value_parser = timeout)]
        time: Duration,
    },
    /// End sandboxes with everything in them, or one command in the background.
    ///
    /// On a server, those that openbrain made can be ended from every machine.
    Kill {
        /// Ids or names, as `list` shows them.
        #[arg(value_name = "SANDBOX", required_unless_present = "all")]
        ids: Vec<String>,
        /// All of them; on a server also those of other machines, and those of commands that run.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// End this command in the background alone.
        #[arg(long, value_name = "EXEC", conflicts_with = "all")]
        exec: Option<String>,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Hold a sandbox that `create` asks for.
    #[command(hide = true)]
    Hold,
}

/// A sandbox that is there.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Its id or name.
    #[arg(value_name = "SANDBOX")]
    pub(crate) sandbox: String,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// What `openbrain sandbox create` was told.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// A name for people, to be used in place of the id.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// A label. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) label: Vec<(String, String)>,
    /// End the sandbox with everything in it after this time: seconds, or 10m, 1h.
    #[arg(short, long, value_name = "TIME", value_parser = timeout, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,
    /// Working directory of commands that name none.
    #[arg(short, long, visible_alias = "cwd", value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// Set an environment variable of every command; `NAME` alone copies the value from here. Repeatable.
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<Variable>,
    /// Read environment variables from a file with a NAME=VALUE on each line. Repeatable.
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Take this directory as the system of the sandbox, in place of this machine's: an unpacked image.
    /// It is never written to.
    #[arg(long, value_name = "DIR")]
    pub(crate) rootfs: Option<PathBuf>,
    /// Print what there is to tell of it as one JSON object, instead of the id.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// What `openbrain sandbox exec` was told.
#[derive(Debug, Args)]
pub(crate) struct SandboxExecArgs {
    /// Id or name of the sandbox.
    #[arg(value_name = "SANDBOX")]
    pub(crate) sandbox: String,
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
    /// Run it on a terminal of its own; without a command, a shell.
    #[arg(short, long, visible_short_alias = 'T', conflicts_with_all = ["stdin", "detach"])]
    pub(crate) tty: bool,
    /// Run it in the background, and print its id; `logs` shows what it writes. It goes on until the
    /// end of the sandbox, or of `--timeout`.
    #[arg(short, long, conflicts_with_all = ["json", "events"])]
    pub(crate) detach: bool,
    /// Kill the command after this time: seconds, or 500ms, 10m, 1h.
    #[arg(long, value_name = "TIME", value_parser = timeout, allow_negative_numbers = true)]
    #[arg(help_heading = COMMAND)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) surroundings: SurroundingsArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// What `openbrain sandbox logs` was told.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Id or name of the sandbox.
    #[arg(value_name = "SANDBOX")]
    pub(crate) sandbox: String,
    /// The command, as `exec --detach` printed it [default: the one that was started last].
    #[arg(value_name = "EXEC")]
    pub(crate) exec: Option<String>,
    /// Go on until it has ended.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin at this byte of standard output.
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    pub(crate) stdout_from: u64,
    /// Begin at this byte of standard error.
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    pub(crate) stderr_from: u64,
    /// List the commands of the background, and print no log.
    #[arg(long, conflicts_with_all = ["exec", "follow"])]
    pub(crate) list: bool,
    /// Print the list as JSON.
    #[arg(long, requires = "list")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// What `openbrain sandbox port` was told.
#[derive(Debug, Args)]
pub(crate) struct PortArgs {
    /// Id or name of the sandbox.
    #[arg(value_name = "SANDBOX")]
    pub(crate) sandbox: String,
    /// The port on which something listens in the sandbox.
    #[arg(value_name = "PORT", value_parser = port)]
    pub(crate) port: u16,
    /// The loopback address to listen at [default: 127.0.0.1, and a port that is free].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// The commands of `openbrain sandbox files`.
#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    /// List a directory.
    Ls(FileArgs),
    /// Print a file.
    Cat(FileArgs),
    /// Write standard input to a file.
    Write {
        #[command(flatten)]
        at: FileArgs,
        /// Add to what is there.
        #[arg(short, long)]
        append: bool,
    },
    /// Show what is known of a file.
    Stat(FileArgs),
    /// Look for names below a directory.
    Find {
        #[command(flatten)]
        at: FileArgs,
        /// What the name is like: `*.py`.
        #[arg(value_name = "PATTERN")]
        pattern: String,
    },
    /// Make a directory, and those on the way to it.
    Mkdir(FileArgs),
    /// Rename a file.
    Mv(TwoFiles),
    /// Remove a file.
    Rm {
        #[command(flatten)]
        at: FileArgs,
        /// A directory with everything in it.
        #[arg(short, long)]
        recursive: bool,
    },
    /// Copy a file or directory of this machine into the sandbox; `-` is a tar archive on standard input.
    Upload(TwoFiles),
    /// Copy a file or directory of the sandbox to this machine; to `-`, a tar archive on standard output.
    Download(TwoFiles),
}

/// A file of a sandbox.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// Id or name of the sandbox.
    #[arg(value_name = "SANDBOX")]
    pub(crate) sandbox: String,
    /// The path in the sandbox; a relative one begins at its working directory.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Print JSON, where something is told.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// From where to where.
#[derive(Debug, Args)]
pub(crate) struct TwoFiles {
    /// Id or name of the sandbox.
    #[arg(value_name = "SANDBOX")]
    pub(crate) sandbox: String,
    /// What is there.
    #[arg(value_name = "FROM")]
    pub(crate) from: PathBuf,
    /// What it becomes.
    #[arg(value_name = "TO")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

impl SandboxCommand {
    /// Whether its result is wanted as JSON, and so is what goes wrong.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Create(args) => args.json,
            Self::Exec(args) => args.output.is_for_machines(),
            Self::List { json, .. } | Self::Changes { json, .. } => *json,
            Self::Files(command) => command.wants_json(),
            Self::Logs(args) => args.json,
            // The process that has asked for it reads the answer.
            Self::Hold => true,
            Self::Port(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Renew { .. }
            | Self::Kill { .. } => false,
        }
    }
}

impl FilesCommand {
    fn wants_json(&self) -> bool {
        match self {
            Self::Ls(at) | Self::Stat(at) | Self::Mkdir(at) => at.json,
            Self::Write { at, .. } | Self::Find { at, .. } | Self::Rm { at, .. } => at.json,
            // Standard output is for what is in the file.
            Self::Cat(_) => false,
            Self::Mv(_) | Self::Upload(_) | Self::Download(_) => false,
        }
    }
}
