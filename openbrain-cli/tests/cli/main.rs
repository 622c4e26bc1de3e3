//! The `openbrain` command as its users meet it.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

mod bad_input;
mod config;
mod documented;
mod environment;
mod exit_codes;
mod formats;
mod other_commands;
mod signals;
mod stdin;
mod tty;
