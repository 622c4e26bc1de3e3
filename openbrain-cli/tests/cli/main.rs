//! The `openbrain` command as its users meet it.

mod support;

mod audit;
mod bad_input;
mod changes;
mod config;
mod documented;
mod environment;
mod exit_codes;
mod formats;
mod network;
mod other_commands;
mod sandboxes;
mod server;
mod signals;
mod stdin;
mod tty;
