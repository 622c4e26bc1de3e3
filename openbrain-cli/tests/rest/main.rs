//! `openbrain serve` as its callers meet it over HTTP: with curl, and with bytes on a socket.

mod client;
mod server;
#[path = "../cli/support.rs"]
#[allow(dead_code, reason = "the tests of the command line use the rest of it")]
mod support;

mod commands;
mod documented;
mod execs;
mod guarded;
mod lifecycle;
mod load;
mod malformed;
mod operated;
mod sandboxes;
mod streams;
