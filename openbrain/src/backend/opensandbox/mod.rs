//! A client of the OpenSandbox protocol: sandboxes on a server, and the agent inside each of them.
//!
//! [`Client`] speaks with the server (create, get, list, renew, pause, resume, delete), [`Agent`]
//! with the agent of one sandbox (commands, files, metrics). Kinds of sandboxes that only some
//! servers know, such as pools, pass through [`CreateSandbox::extensions`].
//!
//! ```no_run
//! # async fn demo() -> openbrain::Result<()> {
//! use openbrain::opensandbox::{AgentEvent, Client, Connection, CreateSandbox, RunCommand};
//!
//! let mut connection = Connection::new("http://localhost:8080");
//! connection.api_key = Some("the server's key".into());
//! let client = Client::new(connection)?;
//! let sandbox = client.create(&CreateSandbox::image("python:3.12-slim")).await?;
//! let agent = client.agent(&sandbox.id).await?;
//! let mut events = agent.run(&RunCommand::shell("echo hello")).await?;
//! while let Some(event) = events.next().await? {
//!     if let AgentEvent::Stdout(text) = event {
//!         print!("{text}");
//!     }
//! }
//! client.delete(&sandbox.id).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! Every verb fails with a [`Failure`], which tells what went wrong by [`Failure::kind`] and turns
//! into an [`Error`](crate::Error) with `?`.

mod failure;
mod http;
mod stream;
mod text;
mod wire;

mod agent;
mod client;
mod files;

mod create;
mod host_input;
mod job;
mod keeper;
mod link;
mod owned;
mod parcel;
mod plain;
mod ready;
mod run;
mod session;

#[cfg(test)]
mod script;

pub use self::{
    agent::{Agent, CommandStream, LogPage},
    client::{Client, Connection, DiagnosticsKind, ListFilter},
    failure::{Failure, FailureKind},
    files::{Download, Upload},
    owned::ServerSandbox,
    stream::{DecodeError, Decoder},
    text::{OutputContract, OutputText},
    wire::{
        AgentEvent, CommandLine, CommandStatus, Completion, CreateSandbox, Diagnostics, Endpoint,
        FileInfo, FileKind, HostVolume, Image, Metrics, NetworkPolicy, NetworkPolicyState,
        NetworkRule, OssfsVolume, Permission, Platform, Pvc, RegistryAuth, Replacement, RuleAction,
        RunCommand, Sandbox, SandboxState, SandboxStatus, Volume, VolumeSource,
    },
};
pub(crate) use self::{
    keeper::settle,
    owned::{checks, kill, list},
    session::{join, open},
};

use super::{Backend, BoxFuture, Running};
use crate::{error::Result, spec::Spec};

/// Sandboxes of OpenSandbox servers: one for each command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenSandbox;

impl Backend for OpenSandbox {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        Box::pin(run::spawn(spec))
    }
}
