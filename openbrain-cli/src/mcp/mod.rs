//! The MCP server: one tool that runs a command, and three for commands that take long.

mod approval;
mod arguments;
mod call;
mod command;
mod companions;
mod failure;
pub(crate) mod http;
mod instructions;
mod lines;
mod report;
mod server;
mod session;
mod standing;
pub(crate) mod stdio;
mod text;
mod tools;
