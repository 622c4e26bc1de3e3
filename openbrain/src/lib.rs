//! Runs a command, directly on the host or in a sandbox, and gives back one honest result.
//!
//! ```no_run
//! # async fn demo() -> openbrain::Result<()> {
//! use std::time::Duration;
//! use openbrain::Exec;
//!
//! let output = Exec::new("pip install requests")
//!     .sandbox()
//!     .timeout(Duration::from_secs(600))
//!     .mount("/path/to/workspace")
//!     .run()
//!     .await?;
//! println!("{:?}: {}", output.status, output.stdout_text());
//! # Ok(())
//! # }
//! ```
//!
//! # Which verb
//!
//! - [`Exec::run`] waits for the end and collects the output, up to a limit.
//! - [`Exec::spawn`] gives a [`Process`]: live events, standard input, signals. Dropping it kills the
//!   command with everything that it started.
//! - [`Exec::run_blocking`] is for programs without an async runtime.
//! - [`Sandbox::run`] and [`Sandbox::spawn`] run a command in a sandbox that stays open.
//! - [`Engine`] has the same verbs with [`Settings`] of your own.
//!
//! # Where a command runs
//!
//! On the host unless the request or the settings ask for a sandbox. A request for a sandbox ends in
//! a sandbox or in an [`Error`], never on the host. [`Output::isolation`] says what was enforced.
//!
//! The embedded sandbox is built from Linux namespaces by a small helper process that
//! this crate carries; it needs no daemon, no root and nothing installed.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::unwrap_used)]

mod beneath;
mod caller;
mod check;
mod error;
mod event;
mod secret;
mod units;

pub mod sandbox;

mod changes;
mod exec;
mod new_sandbox;
mod output;
mod script;
pub mod settings;
mod spec;

mod process;

pub mod audit;

pub mod backend;

mod session;

mod share;

mod doctor;
mod engine;
mod server;

#[doc(inline)]
pub use self::backend::{SessionEnd, opensandbox};
pub use self::{
    caller::{Caller, Surface, is_in_sandbox},
    changes::{Applied, Change, ChangeKind, Changes, EntryKind, KEPT_FOR, NoDiff, SavedChanges},
    check::{Check, CheckStatus},
    doctor::{Report, doctor},
    engine::{Engine, settle},
    error::{Error, ErrorKind, Result},
    event::{Data, Event, Record, RecordKind, Recorder},
    exec::{Command, Exec, Stdin, TerminalSize},
    new_sandbox::NewSandbox,
    output::{
        BackendName, Captured, CommandFailed, Denial, NetworkUse, Output, Resources, Start, Status,
    },
    process::{ChildStdin, Handle, Process},
    sandbox::{
        Isolation, IsolationLevel, Limits, Mount, MountMode, Network, SANDBOX_TOS, WORKSPACE,
        protect_port,
    },
    script::languages,
    secret::Secret,
    session::{
        Background, BackgroundCommand, Connection, FileChange, FileChangeKind, FileEntry, FileKind,
        FileReader, FileWatch, FileWriter, Files, Forward, Found, LogOffsets, LogPart, Logs,
        Sandbox, Shell, TarStream, Transfer, WriteOptions,
    },
    settings::Settings,
    share::{Joined, Shared, SharedSandbox},
    spec::{InheritEnv, Place, SandboxSpec, ServerSpec, SessionSpec, Spec, System},
    units::{MAX_TIMEOUT, nearest, parse_duration, parse_size},
};
