//! The helper process: how a run is compiled for it, how it is started, how it is spoken to.
//!
//! The library never forks. It compiles what is to be done into a [`Program`] of system calls and
//! starts the embedded helper with it by `posix_spawn`, which costs the same however much memory
//! the host process has, and leaves nothing of the host's memory in the sandbox.

mod command;
mod control;
mod launch;
mod prepared;
mod program;
mod stdio;
#[allow(unsafe_code, dead_code, missing_docs, unreachable_pub, reason = "shared with the helper")]
#[path = "../../../helper/wire.rs"]
pub(crate) mod wire;

pub(crate) use self::{
    command::{CommandPlan, Descriptors},
    control::{Guarded, START, StartFailure, ended, signals, start, started},
    launch::{Door, IMAGE, Link, launch, settle},
    prepared::Prepared,
    program::{Arg, Commands, Data, Program, Register},
    stdio::{Streams, file_type, inherited, open_file},
};
pub(crate) use wire::Section;
