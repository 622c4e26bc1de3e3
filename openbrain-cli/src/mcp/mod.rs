//! The MCP server: one tool that runs a command, and three for commands that take long.

mod arguments;
mod failure;
mod lines;
mod report;
mod text;
mod tools;
