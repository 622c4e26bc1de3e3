//! What the host of a sandbox and its guests say to each other: messages of JSON with their length before
//! them, and descriptors beside them.
//!
//! Both are openbrain of the same user. Another version may be at the other end: what it does not know
//! ends the connection.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{io::Interest, net::UnixStream};

use super::SharedSandbox;
use crate::{
    backend::SessionOrder,
    error::{Error, ErrorKind},
    exec::Exec,
    output::{Denial, Resources},
    sandbox::{Isolation, Limits},
    session::LogOffsets,
    spec::{Place, SessionSpec},
};

/// The longest message: a request may have a program and its input in it.
const LONGEST: u32 = 64 << 20;

/// How many descriptors a message has at most.
const MOST_FDS: usize = 1;

/// What a guest asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// What there is to tell.
    About,
    /// The way in. The end of the sandbox is the end of the connection.
    Join,
    /// An account for one command; [`Request::Close`] follows.
    Account,
    /// The account again, with what is known of the command.
    Close(Resources),
    /// An order for the whole sandbox.
    Order(SessionOrder),
    /// A command in the background.
    Start(Box<Exec>),
    /// The commands in the background.
    Commands,
    /// What one of them has written.
    Logs(String, LogOffsets),
    /// The same; waits until there is something.
    NextLogs(String, LogOffsets),
    /// What has changed, saved below this directory.
    Changes(Option<PathBuf>),
    /// A signal for one of them; none ends it.
    Stop(String, Option<i32>),
}

/// What a host answers.
pub(super) type Answer<T> = Result<T, Failure>;

/// The way in and what goes with it. The door of an embedded sandbox comes as a descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) about: SharedSandbox,
    pub(super) place: Place,
    #[serde(with = "crate::units::serde_duration")]
    pub(super) timeout: Duration,
    #[serde(with = "crate::units::serde_duration")]
    pub(super) command_timeout: Duration,
    pub(super) workdir: Option<PathBuf>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) limits: Limits,
    pub(super) isolation: Isolation,
    pub(super) warnings: Vec<String>,
    /// Limits that each command sets for itself, in an embedded sandbox.
    pub(super) rlimits: Vec<(u32, u64)>,
}

impl Facts {
    /// The sandbox as its commands are bound to it.
    pub(super) fn spec(self) -> SessionSpec {
        SessionSpec {
            place: self.place,
            name: self.about.name,
            labels: self.about.labels,
            timeout: self.timeout,
            command_timeout: self.command_timeout,
            workdir: self.workdir,
            env: self.env,
            limits: self.limits,
            warnings: self.warnings,
        }
    }
}

/// What a command has used and was refused.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) resources: Resources,
    pub(super) denials: Vec<Denial>,
}

/// An error on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    code: String,
    message: String,
    remedy: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            code: error.code().to_owned(),
            message: error.to_string(),
            remedy: error.remedy().map(str::to_owned),
        }
    }
}

impl From<Failure> for Error {
    fn from(Failure { code, message, remedy }: Failure) -> Self {
        let error = Self::new(ErrorKind::from_code(&code).unwrap_or(ErrorKind::Internal), message);
        match remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    /// What has arrived of the next message.
    arrived: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Connection {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, arrived: Vec::new(), fds: Vec::new() }
    }

    /// Sends a message, and a descriptor with it.
    pub(super) async fn send(
        &mut self,
        message: &impl Serialize,
        fd: Option<&OwnedFd>,
    ) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        let bytes = [&length.to_le_bytes()[..], &body].concat();
        let mut sent = 0;
        while sent < bytes.len() {
            let write = || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds: Vec<_> = fd.filter(|_| sent == 0).into_iter().map(AsFd::as_fd).collect();
                if !fds.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(&fds));
                }
                let rest = [IoSlice::new(&bytes[sent..])];
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                Ok(rustix::net::sendmsg(&self.socket, &rest, &mut control, flags)?)
            };
            sent += self.socket.async_io(Interest::WRITABLE, write).await?;
        }
        Ok(())
    }

    /// Waits for the next message, and the descriptors with it; `None` when there is none any more.
    /// Cancel-safe.
    pub(super) async fn receive<T: DeserializeOwned>(
        &mut self,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            if let Some(length) = self.arrived.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
            {
                if length > LONGEST {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let end = 4 + length as usize;
                if self.arrived.len() >= end {
                    let message = serde_json::from_slice(&self.arrived[4..end])?;
                    self.arrived.drain(..end);
                    return Ok(Some((message, std::mem::take(&mut self.fds))));
                }
            }
            let mut buffer = [0; 16 << 10];
            let (fds, read) = self
                .socket
                .async_io(Interest::READABLE, || {
                    let mut space =
                        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
                    let mut control = RecvAncillaryBuffer::new(&mut space);
                    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
                    let mut buffers = [IoSliceMut::new(&mut buffer)];
                    let read =
                        rustix::net::recvmsg(&self.socket, &mut buffers, &mut control, flags)?;
                    let rights = control.drain().filter_map(|message| match message {
                        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                        _ => None,
                    });
                    Ok((rights.flatten().collect::<Vec<_>>(), read.bytes))
                })
                .await?;
            if read == 0 {
                return match self.arrived.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            self.arrived.extend_from_slice(&buffer[..read]);
            self.fds.extend(fds);
        }
    }
}
