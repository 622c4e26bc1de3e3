//! The native half of the Python package `openbrain`: `openbrain._openbrain`.
//!
//! One function for each verb of the library. Each starts its work on the runtime of this crate and
//! returns a [`Pending`](pending::Pending), which Python waits for in its own way: a thread by
//! `wait`, an event loop by watching `fileno`. Everything that a Python person reads, documentation,
//! results and exceptions, is in `python/openbrain`.

#![deny(unsafe_code)]
#![warn(clippy::unwrap_used)]

mod background;
mod changes;
mod convert;
mod engine;
mod failure;
mod files;
mod forward;
mod pending;
mod process;
mod replacement;
mod runtime;
mod sandbox;
mod shell;
mod verbs;
mod watch;

use pyo3::pymodule;

// Reading the environment and locking the runtime count on it that whoever changes the environment or
// forks holds the interpreter: a free-threaded one has to take its lock back.
#[pymodule(gil_used = true)]
mod _openbrain {
    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "the name that Python knows")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    use crate::{
        background::Background,
        changes::{Changes, changes_apply, changes_discard, changes_list, changes_load},
        files::Files,
        forward::Forward,
        pending::Pending,
        process::Process,
        runtime::shutdown,
        sandbox::{Sandbox, create},
        shell::Shell,
        verbs::{doctor, run, spawn},
        watch::Watch,
    };
}
