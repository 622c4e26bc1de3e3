//! The owner's side: answers whoever joins.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Directory, SharedSandbox,
    wire::{Account, Answer, Connection, Facts, Failure, Request},
};
use crate::{
    backend::{Ended, SessionOrder, WayIn},
    caller::is_in_sandbox,
    changes::Changes,
    error::{Error, ErrorKind, Result},
    exec::{Exec, Stdin},
    output::Status,
    session::{Background, BackgroundCommand, Sandbox},
};

/// How many connections are answered at a time; others wait in the socket.
const MOST_GUESTS: usize = 256;

/// How many commands run in the background at a time.
const MOST_RUNNING: usize = 32;

/// How many commands of the background are remembered, and how much of their output: those that ended
/// first are forgotten.
const MOST_COMMANDS: usize = 100;
const MOST_OUTPUT: usize = 256 << 20;

/// How long nobody is let in when the system has nothing left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// How long guests are told of the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// A sandbox that other processes of the same user can join, as long as [`Shared::serve`] runs. Dropping
/// it ends the sandbox.
pub struct Shared {
    host: Arc<Host>,
    listener: UnixListener,
    directory: Directory,
}

/// The sandbox, and what only its owner knows of it.
struct Host {
    sandbox: Sandbox,
    created_at: SystemTime,
    state: Mutex<State>,
}

struct State {
    paused: bool,
    commands: Vec<Background>,
    /// How many more are being started.
    starting: usize,
}

/// The place of a command that is being started.
struct Starting<'a>(&'a Host);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.state().starting -= 1;
    }
}

impl Shared {
    pub(super) fn new(sandbox: Sandbox, directory: Directory) -> Result<Self> {
        let id = sandbox.id().to_owned();
        let hidden = format!("{id}.new");
        let listen = || {
            let listener = UnixListener::bind(directory.socket(&hidden))?;
            // Whoever finds it can connect to it.
            std::fs::rename(directory.socket(&hidden), directory.socket(&id))?;
            io::Result::Ok(listener)
        };
        let listener = listen().map_err(|e| {
            directory.remove(&hidden);
            Error::system(format!("cannot listen in `{}`", directory.path.display()), e)
        })?;
        let created_at = SystemTime::now();
        let state = Mutex::new(State { paused: false, commands: Vec::new(), starting: 0 });
        Ok(Self { host: Arc::new(Host { sandbox, created_at, state }), listener, directory })
    }

    /// What is told of it.
    pub fn about(&self) -> SharedSandbox {
        self.host.about()
    }

    /// The sandbox itself.
    pub fn sandbox(&self) -> &Sandbox {
        &self.host.sandbox
    }

    /// Answers others until the sandbox has ended.
    pub async fn serve(self) {
        let mut guests = JoinSet::new();
        let ended = self.host.sandbox.ended();
        let mut ended = std::pin::pin!(ended);
        loop {
            tokio::select! {
                _ = &mut ended => break,
                accepted = self.listener.accept(), if guests.len() < MOST_GUESTS => match accepted {
                    Ok((socket, _)) if is_own(&socket) => {
                        let host = Arc::clone(&self.host);
                        guests.spawn(async move { host.entertain(Connection::new(socket)).await });
                    }
                    // Somebody else's, or one that is gone.
                    Ok(_) => {}
                    // Out of descriptors: others have to go first, whosever they are.
                    Err(_) => sleep(EXHAUSTED).await,
                },
                Some(_) = guests.join_next() => {}
            }
        }
        self.directory.remove(self.host.sandbox.id());
        let _ = timeout(FAREWELL, async { while guests.join_next().await.is_some() {} }).await;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.directory.remove(self.host.sandbox.id());
    }
}

/// Whether the other end is of our own user, and in no sandbox; root is another one. Who has mounted the
/// directory of the sockets has not meant to share them.
fn is_own(socket: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    socket.peer_cred().is_ok_and(|peer| peer.uid() == own && !is_in_sandbox(peer.pid()))
}

impl Host {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn about(&self) -> SharedSandbox {
        let state = self.state();
        SharedSandbox {
            id: self.sandbox.id().to_owned(),
            name: self.sandbox.name().map(str::to_owned),
            labels: self.sandbox.labels().clone(),
            backend: self.sandbox.backend(),
            created_at: self.created_at,
            expires_at: self.sandbox.expires_at(),
            paused: state.paused,
            commands: state.commands.iter().filter(|command| !command.has_ended()).count(),
        }
    }

    /// Answers one connection until it ends. One that breaks, or says what is not known here, is gone.
    async fn entertain(self: Arc<Self>, mut guest: Connection) -> io::Result<()> {
        while let Some((request, _)) = guest.receive::<Request>().await? {
            match request {
                Request::About => guest.send(&self.about(), None).await?,
                Request::Join => return self.let_in(guest).await,
                Request::Account => self.keep_account(&mut guest).await?,
                Request::Order(order) => {
                    let done: Answer<()> = answer(self.order(order).await);
                    guest.send(&done, None).await?;
                }
                Request::Start(exec) => {
                    let started = answer(self.start(*exec).await);
                    guest.send(&started, None).await?;
                }
                Request::Commands => guest.send(&self.commands(), None).await?,
                Request::Logs(exec_id, from) => {
                    let logs = self.find(&exec_id).map(|command| command.logs(from));
                    guest.send(&answer(logs), None).await?;
                }
                Request::NextLogs(exec_id, from) => {
                    let logs = match self.find(&exec_id) {
                        Ok(command) => tokio::select! {
                            logs = command.next_logs(from) => Ok(logs),
                            // It does not wait any more.
                            _ = guest.receive::<Request>() => return Ok(()),
                        },
                        Err(error) => Err(Failure::from(&error)),
                    };
                    guest.send(&logs, None).await?;
                }
                Request::Changes(directory) => {
                    let changes = tokio::select! {
                        changes = self.changes(directory) => answer(changes),
                        _ = guest.receive::<Request>() => return Ok(()),
                    };
                    guest.send(&changes, None).await?;
                }
                Request::Stop(exec_id, signal) => {
                    let stopped: Answer<()> = answer(self.stop(&exec_id, signal));
                    guest.send(&stopped, None).await?;
                }
                // What only follows another request.
                Request::Close(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Hands over the way in, and tells of the end.
    async fn let_in(&self, mut guest: Connection) -> io::Result<()> {
        let (spec, session) = (self.sandbox.spec(), self.sandbox.session());
        let (door, rlimits) = match session.way_in() {
            Ok(WayIn::Door(door, rlimits)) => (Some(door), rlimits),
            Ok(WayIn::Server) => (None, Vec::new()),
            Err(error) => return guest.send(&refused::<Facts>(&error), None).await,
        };
        let facts: Answer<Facts> = Ok(Facts {
            about: self.about(),
            place: spec.place.clone(),
            timeout: self
                .sandbox
                .expires_at()
                .duration_since(SystemTime::now())
                .unwrap_or_default()
                .max(Duration::from_millis(1)),
            command_timeout: spec.command_timeout,
            workdir: spec.workdir.clone(),
            env: spec.env.clone(),
            limits: spec.limits.clone(),
            isolation: self.sandbox.isolation().clone(),
            warnings: self.sandbox.warnings().map(str::to_owned).collect(),
            rlimits,
        });
        guest.send(&facts, door.as_ref()).await?;
        tokio::select! {
            _ = self.sandbox.ended() => {}
            // A guest says nothing more here: it has gone.
            _ = guest.receive::<Request>() => return Ok(()),
        }
        let why = session.why_ended().await.unwrap_or_else(|| {
            Error::new(ErrorKind::SandboxLost, "the sandbox has ended")
                .with_remedy("create another one")
        });
        guest.send(&Failure::from(&why), None).await
    }

    /// Keeps the account of one command of a guest.
    async fn keep_account(&self, guest: &mut Connection) -> io::Result<()> {
        let mut account = match self.sandbox.session().account().await {
            Ok(account) => account,
            Err(error) => return guest.send(&refused::<()>(&error), None).await,
        };
        guest.send(&Answer::Ok(()), None).await?;
        let Some((Request::Close(resources), _)) = guest.receive().await? else { return Ok(()) };
        let mut ended = Ended {
            status: Status::Exited(0),
            resources,
            denials: Vec::new(),
            warnings: Vec::new(),
        };
        account.close(&mut ended).await;
        let Ended { resources, denials, .. } = ended;
        guest.send(&Account { resources, denials }, None).await
    }

    async fn order(&self, order: SessionOrder) -> Result<()> {
        let Self { sandbox, .. } = self;
        match order {
            SessionOrder::Renew(time) => sandbox.renew(time).await?,
            SessionOrder::Pause => sandbox.pause().await?,
            SessionOrder::Resume => sandbox.resume().await?,
            SessionOrder::Kill => sandbox.kill().await?,
            SessionOrder::Keep => {}
        }
        if let SessionOrder::Pause | SessionOrder::Resume = order {
            self.state().paused = order == SessionOrder::Pause;
        }
        Ok(())
    }

    async fn start(&self, exec: Exec) -> Result<String> {
        if matches!(exec.stdin, Stdin::Pipe | Stdin::Inherit) || exec.tty.is_some() {
            return Err(Error::invalid(
                "a command in the background of a shared sandbox has no terminal and no open input",
            )
            .with_remedy("give it its input as text or as a file"));
        }
        let place = self.place()?;
        let command = self.sandbox.start(exec).await?;
        let exec_id = command.exec_id().to_owned();
        let mut state = self.state();
        let size = |commands: &[Background]| commands.iter().map(Background::size).sum::<usize>();
        while state.commands.len() >= MOST_COMMANDS || size(&state.commands) > MOST_OUTPUT {
            let Some(oldest) = state.commands.iter().position(Background::has_ended) else { break };
            state.commands.remove(oldest);
        }
        state.commands.push(command);
        drop(state);
        drop(place);
        Ok(exec_id)
    }

    /// A place for one more command, taken before it is started.
    fn place(&self) -> Result<Starting<'_>> {
        let mut state = self.state();
        let running = state.commands.iter().filter(|command| !command.has_ended()).count();
        if running + state.starting >= MOST_RUNNING {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("{MOST_RUNNING} commands run in the background already"),
            )
            .with_remedy("end one of them"));
        }
        state.starting += 1;
        Ok(Starting(self))
    }

    async fn changes(&self, directory: Option<PathBuf>) -> Result<Changes> {
        let mut changes = self.sandbox.changes().await?;
        let Some(directory) = directory.filter(|_| !changes.is_empty()) else { return Ok(changes) };
        let saving = tokio::task::spawn_blocking(move || {
            changes.save(&directory)?;
            Ok(changes)
        });
        saving.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Internal, "the saving of changes ended early")
                .with_source(error))
        })
    }

    fn commands(&self) -> Vec<BackgroundCommand> {
        self.state().commands.iter().map(Background::about).collect()
    }

    fn find(&self, exec_id: &str) -> Result<Background> {
        let state = self.state();
        let found = state.commands.iter().find(|command| command.exec_id() == exec_id);
        found.cloned().ok_or_else(|| {
            Error::invalid(format!("the sandbox has no command `{exec_id}` in its background"))
                .with_remedy(format!("the last {MOST_COMMANDS} are remembered"))
        })
    }

    fn stop(&self, exec_id: &str, signal: Option<i32>) -> Result<()> {
        let command = self.find(exec_id)?;
        match signal {
            Some(signal) => command.signal(signal),
            None => command.cancel(),
        }
        Ok(())
    }
}

fn answer<T>(result: Result<T>) -> Answer<T> {
    result.map_err(|error| Failure::from(&error))
}

fn refused<T>(error: &Error) -> Answer<T> {
    Err(Failure::from(error))
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("id", &self.host.sandbox.id()).finish_non_exhaustive()
    }
}
