//! The side of whoever joins: starts commands itself, and leaves the rest to the owner.

use std::{
    io,
    ops::Deref,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, sync::watch, task::JoinHandle, time::timeout};

use super::{
    Directory, SharedSandbox,
    wire::{Account, Answer, Connection, Facts, Failure, Request},
};
use crate::{
    backend::{
        self, Backend, BoxFuture, Ended, Owner, Running, Session, SessionEnd, SessionOrder, WayIn,
    },
    changes::Changes,
    error::{Error, ErrorKind, Result},
    exec::Exec,
    output::BackendName,
    sandbox::Isolation,
    session::{BackgroundCommand, LogOffsets, Logs, Runner, Sandbox},
    spec::{Place, ServerSpec, SessionSpec, Spec},
};

/// How long an answer may take that is there at once.
const ANSWER: Duration = Duration::from_secs(20);

/// How long a report of changes may take, and their saving.
const REPORT: Duration = Duration::from_secs(600);

/// How long the reason of an end is waited for that has shown already.
const REASON: Duration = Duration::from_secs(2);

/// How a guest comes in, once it knows where the sandbox is.
pub(crate) type Enter = fn(Entry) -> Result<Arc<dyn Backend>>;

/// What is known at the entrance.
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) place: Place,
    pub(crate) isolation: Isolation,
    /// The door of an embedded sandbox, and the limits that each command sets for itself.
    pub(crate) door: Option<(OwnedFd, Vec<(u32, u64)>)>,
    pub(crate) owner: Weak<dyn Owner>,
}

/// A sandbox of another process. Dropping it leaves the sandbox as it is.
#[derive(Debug)]
pub struct Joined {
    sandbox: Sandbox,
    host: Arc<Host>,
}

impl Deref for Joined {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        &self.sandbox
    }
}

impl Joined {
    /// Joins the sandbox with this id. `key` knows the key of its server, and `enter` every backend.
    pub(super) async fn new(
        directory: &Directory,
        id: &str,
        key: impl FnOnce(&mut ServerSpec),
        enter: Enter,
        runner: Arc<dyn Runner>,
    ) -> Result<Self> {
        let address = Address { directory: directory.again()?, id: id.to_owned() };
        let mut connection = address.connect().await?;
        let facts = ask::<Answer<Facts>>(&mut connection, &Request::Join);
        let (answer, mut fds) = timeout(ANSWER, facts).await.map_err(|_| silent())??;
        let mut facts = answer?;
        if let Place::Opensandbox(_, server) = &mut facts.place {
            key(server);
        }
        let (end, ends) = watch::channel(None);
        let watcher = tokio::spawn(async move {
            let why = connection.receive::<Failure>().await;
            end.send_replace(Some(why.ok().flatten().map(|(why, _)| why)));
        });
        let host = Arc::new(Host { address, ends, watcher });
        let own: Weak<Host> = Arc::downgrade(&host);
        let inside = enter(Entry {
            id: facts.about.id.clone(),
            place: facts.place.clone(),
            isolation: facts.isolation.clone(),
            door: fds.pop().map(|door| (door, std::mem::take(&mut facts.rlimits))),
            owner: own,
        });
        let session = Guest {
            id: facts.about.id.clone(),
            backend: facts.about.backend,
            isolation: facts.isolation.clone(),
            inside: inside?,
            host: Arc::clone(&host),
        };
        let spec: SessionSpec = facts.spec();
        Ok(Self { sandbox: Sandbox::new(Arc::new(session), spec, runner, None), host })
    }

    /// What its owner tells of it.
    ///
    /// # Errors
    ///
    /// `sandbox_lost` when it has ended.
    pub async fn about(&self) -> Result<SharedSandbox> {
        self.host.ask(&Request::About).await
    }

    /// Starts a command in the background. It is its owner's from then on: the end of this process does
    /// not end it.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::spawn`]; `invalid_request` also for a terminal or open input; `resource_exhausted`
    /// when 32 run already.
    pub async fn start_detached(&self, exec: Exec) -> Result<String> {
        Ok(self.host.ask::<Answer<String>>(&Request::Start(Box::new(exec))).await??)
    }

    /// The commands of the background, ended ones included, of which the last 100 are remembered.
    ///
    /// # Errors
    ///
    /// `sandbox_lost` when it has ended.
    pub async fn commands(&self) -> Result<Vec<BackgroundCommand>> {
        self.host.ask(&Request::Commands).await
    }

    /// What a command of the background has written from these offsets on.
    ///
    /// # Errors
    ///
    /// `invalid_request` for a command that is not there; `sandbox_lost` when the sandbox has ended.
    pub async fn logs(&self, exec_id: &str, from: LogOffsets) -> Result<Logs> {
        let request = Request::Logs(exec_id.to_owned(), from);
        Ok(self.host.ask::<Answer<Logs>>(&request).await??)
    }

    /// Waits until a command of the background has written something from these offsets on, or has ended.
    ///
    /// # Errors
    ///
    /// As [`Joined::logs`].
    pub async fn next_logs(&self, exec_id: &str, from: LogOffsets) -> Result<Logs> {
        let request = Request::NextLogs(exec_id.to_owned(), from);
        let mut connection = self.host.connect().await?;
        // Nobody knows how long this takes.
        let asked = ask::<Answer<Logs>>(&mut connection, &request).await;
        match asked {
            Ok((logs, _)) => Ok(logs?),
            Err(error) => Err(self.host.why_ended().await.unwrap_or(error)),
        }
    }

    /// What has changed in the sandbox, as [`Sandbox::changes`] tells its owner. With a directory the
    /// owner [saves](Changes::save) it there, when something has changed.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::changes`] and [`Changes::save`].
    pub async fn changes(&self, save: Option<&Path>) -> Result<Changes> {
        let mut connection = self.host.connect().await?;
        let request = Request::Changes(save.map(Path::to_owned));
        let asked = ask::<Answer<Changes>>(&mut connection, &request);
        match timeout(REPORT, asked).await.map_err(|_| silent())? {
            Ok((changes, _)) => Ok(changes?),
            Err(error) => Err(self.host.why_ended().await.unwrap_or(error)),
        }
    }

    /// Sends a signal to the process group of a command of the background; without one it ends it as
    /// [`Handle::cancel`](crate::Handle::cancel) does.
    ///
    /// # Errors
    ///
    /// As [`Joined::logs`].
    pub async fn stop(&self, exec_id: &str, signal: Option<i32>) -> Result<()> {
        Ok(self.host.ask::<Answer<()>>(&Request::Stop(exec_id.to_owned(), signal)).await??)
    }
}

/// What is told of the sandbox with this id; `None` when there is none.
pub(super) async fn about(directory: &Directory, id: &str) -> Result<Option<SharedSandbox>> {
    let address = Address { directory: directory.again()?, id: id.to_owned() };
    let Ok(mut connection) = address.connect().await else { return Ok(None) };
    let asked = timeout(ANSWER, ask::<SharedSandbox>(&mut connection, &Request::About)).await;
    Ok(asked.ok().and_then(Result::ok).map(|(about, _)| about))
}

/// Where the owner answers.
#[derive(Debug)]
struct Address {
    directory: Directory,
    id: String,
}

impl Address {
    async fn connect(&self) -> Result<Connection> {
        let socket = UnixStream::connect(self.directory.socket(&self.id)).await;
        match socket {
            Ok(socket) => Ok(Connection::new(socket)),
            Err(error) => {
                // Its owner was killed.
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.directory.remove(&self.id);
                }
                Err(none(&self.id))
            }
        }
    }
}

pub(super) fn none(name: &str) -> Error {
    Error::new(ErrorKind::SandboxLost, format!("there is no sandbox `{name}`"))
        .with_remedy("it may have ended; `openbrain sandbox list` shows what is there")
}

fn silent() -> Error {
    let message = "the process that has the sandbox does not answer";
    Error::new(ErrorKind::SandboxLost, message)
        .with_remedy("it may be stopped, or of another version of openbrain")
}

/// Asks, and waits for the answer.
async fn ask<T: DeserializeOwned>(
    connection: &mut Connection,
    request: &Request,
) -> Result<(T, Vec<OwnedFd>)> {
    let exchange = async {
        connection.send(request, None).await?;
        connection.receive().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    };
    exchange.await.map_err(|error: io::Error| silent().with_source(error))
}

/// The owner, as seen from here.
#[derive(Debug)]
struct Host {
    address: Address,
    /// Becomes the end of the sandbox, with the reason when that was told.
    ends: watch::Receiver<Option<Option<Failure>>>,
    watcher: JoinHandle<()>,
}

impl Host {
    async fn connect(&self) -> Result<Connection> {
        match self.address.connect().await {
            Ok(connection) => Ok(connection),
            Err(error) => Err(self.why_ended().await.unwrap_or(error)),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        let mut connection = self.connect().await?;
        match timeout(ANSWER, ask(&mut connection, request)).await {
            Ok(Ok((answer, _))) => Ok(answer),
            Ok(Err(error)) => Err(self.why_ended().await.unwrap_or(error)),
            Err(_) => Err(silent()),
        }
    }
}

impl Owner for Host {
    fn account(&self) -> BoxFuture<'_, Result<Box<dyn backend::Account>>> {
        Box::pin(async {
            let mut connection = self.connect().await?;
            let opened = timeout(ANSWER, ask::<Answer<()>>(&mut connection, &Request::Account));
            match opened.await.unwrap_or_else(|_| Err(silent())) {
                Ok((opened, _)) => opened?,
                Err(error) => return Err(self.why_ended().await.unwrap_or(error)),
            }
            Ok(Box::new(Held { connection, is_closing: false }) as Box<dyn backend::Account>)
        })
    }

    fn why_ended(&self) -> BoxFuture<'_, Option<Error>> {
        Box::pin(async {
            let mut ends = self.ends.clone();
            let end = timeout(REASON, ends.wait_for(Option::is_some)).await.ok()?.ok()?;
            let why = end.clone().flatten();
            Some(why.map_or_else(|| none(&self.address.id), Error::from))
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// An account that the owner keeps.
struct Held {
    connection: Connection,
    is_closing: bool,
}

impl backend::Account for Held {
    fn close<'a>(&'a mut self, ended: &'a mut Ended) -> BoxFuture<'a, ()> {
        Box::pin(async {
            let closing = async {
                if !self.is_closing {
                    let request = Request::Close(ended.resources.clone());
                    self.connection.send(&request, None).await?;
                    self.is_closing = true;
                }
                self.connection.receive::<Account>().await
            };
            match timeout(ANSWER, closing).await {
                Ok(Ok(Some((Account { resources, denials }, _)))) => {
                    ended.resources = resources;
                    ended.denials.extend(denials);
                }
                _ => ended.warnings.push(
                    "what the sandbox refused is not known: its owner did not tell".to_owned(),
                ),
            }
        })
    }
}

/// An open sandbox of another process.
#[derive(Debug)]
struct Guest {
    id: String,
    backend: BackendName,
    isolation: Isolation,
    inside: Arc<dyn Backend>,
    host: Arc<Host>,
}

impl Backend for Guest {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        self.inside.spawn(spec)
    }
}

impl Owner for Guest {
    fn account(&self) -> BoxFuture<'_, Result<Box<dyn backend::Account>>> {
        self.host.account()
    }

    fn why_ended(&self) -> BoxFuture<'_, Option<Error>> {
        self.host.why_ended()
    }
}

impl Session for Guest {
    fn id(&self) -> &str {
        &self.id
    }

    fn backend(&self) -> BackendName {
        self.backend
    }

    fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    fn warnings(&self) -> &[String] {
        &[]
    }

    fn way_in(&self) -> Result<WayIn> {
        Err(Error::invalid("a sandbox is shared by its owner alone")
            .with_remedy("join it by its id instead"))
    }

    fn ended(self: Arc<Self>) -> BoxFuture<'static, SessionEnd> {
        let mut ends = self.host.ends.clone();
        Box::pin(async move {
            let _ = ends.wait_for(Option::is_some).await;
            SessionEnd::Died
        })
    }

    fn order(self: Arc<Self>, order: SessionOrder) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let asked = self.host.ask::<Answer<()>>(&Request::Order(order)).await;
            match (order, asked) {
                // It has ended: that is what was asked for.
                (SessionOrder::Kill, Err(error)) if error.kind() == ErrorKind::SandboxLost => {
                    Ok(())
                }
                (_, asked) => Ok(asked??),
            }
        })
    }
}
