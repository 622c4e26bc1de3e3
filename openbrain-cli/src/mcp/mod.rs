//! The MCP server: one tool that runs a command, three for commands that take long, and five for
//! sandboxes that stay open and their files.

mod approval;
mod arguments;
mod call;
mod changed;
mod command;
mod companions;
mod failure;
pub(crate) mod http;
mod instructions;
mod lines;
mod report;
mod sandbox_report;
mod sandbox_tools;
mod sandboxes;
mod server;
mod session;
mod standing;
pub(crate) mod stdio;
mod text;
mod tools;
