//! A sandbox on a server that stays open: made as for one command, and held by the keeper, which also
//! ends it when its time is over. Each command comes as for a sandbox of its own, with its own bridge;
//! a kill is the bridge's business and not the sandbox's end.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{OnceCell, oneshot, watch},
    time::timeout,
};

use super::{
    agent::Agent,
    client::Client,
    create,
    failure::{Failure, FailureKind},
    job::Job,
    keeper::{Lease, Release},
    link::{End, Letters, explain},
    ready,
    run::{DIRECTORY, Started, check_paths, connection, pass_on, start},
};
use crate::{
    backend::{
        Account, Backend, BoxFuture, Control, Ended, NoAccount, Order, Owner, Running, Session,
        SessionEnd, SessionOrder, WayIn, dropped,
        helper::wire::{self, Letter, letter},
    },
    error::{Error, ErrorKind, Result},
    output::BackendName,
    sandbox::Isolation,
    spec::{Place, ServerSpec, SessionSpec, Spec},
    units::random_name,
};

/// How long a kill waits until the server has deleted the sandbox; the deletion goes on after that.
const DELETION: Duration = Duration::from_secs(10);

/// Opens a sandbox.
pub(crate) async fn open(spec: &SessionSpec) -> Result<Arc<dyn Session>> {
    let Place::Opensandbox(sandbox, server) = &spec.place else {
        return Err(Error::unavailable("the request is not for an OpenSandbox server"));
    };
    check_paths(sandbox)?;
    let request = create::session_request(spec, sandbox, server, &random_name())?;
    let policy = request.network_policy.clone();
    let connection = connection(server);
    let lease = Lease::create(Client::new(connection.clone())?, request, None).await?;
    let client = Client::new(connection)?;
    let prepare = async {
        if let Some(wanted) = &policy {
            create::check_policy(wanted, &client.network_policy(lease.id()).await?)?;
        }
        ready::agent(&client, lease.id(), server.start_timeout).await
    };
    match prepare.await {
        Ok(agent) => {
            // Its time begins when it can be used.
            lease.live(spec.timeout);
            Ok(Arc::new(Open {
                entrance: Entrance {
                    id: lease.id().to_owned(),
                    client,
                    agent,
                    isolation: create::isolation(&spec.limits, sandbox, server),
                },
                start_timeout: server.start_timeout,
                state: Arc::new(State::new(lease)),
            }))
        }
        Err(error) => {
            // Where the deletion fails, the reason of the first failure says more.
            let _ = timeout(DELETION, lease.delete()).await;
            Err(error)
        }
    }
}

/// Joins a sandbox that another process owns.
pub(crate) fn join(
    id: String,
    server: &ServerSpec,
    isolation: Isolation,
    owner: Weak<dyn Owner>,
) -> Result<Arc<dyn Backend>> {
    let client = Client::new(connection(server))?;
    let start_timeout = server.start_timeout;
    let entrance = OnceCell::new();
    Ok(Arc::new(Joined { id, client, isolation, start_timeout, entrance, owner }))
}

/// A sandbox that another process owns.
#[derive(Debug)]
struct Joined {
    id: String,
    client: Client,
    isolation: Isolation,
    start_timeout: Duration,
    /// Found by the first command: the agent of a sandbox that is paused does not answer, and its owner
    /// is to be reached all the same.
    entrance: OnceCell<Entrance>,
    owner: Weak<dyn Owner>,
}

impl Joined {
    async fn entrance(&self) -> Result<&Entrance> {
        let find = || async {
            // The owner knows whether there is anybody to answer.
            self.owner.upgrade().ok_or_else(dropped)?.account().await?;
            let Self { id, client, isolation, start_timeout, .. } = self;
            let agent = ready::agent(client, id, *start_timeout).await?;
            let (client, isolation) = (client.clone(), isolation.clone());
            Ok(Entrance { id: id.clone(), client, agent, isolation })
        };
        self.entrance.get_or_try_init(find).await
    }
}

impl Backend for Joined {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        Box::pin(async { self.entrance().await?.start(spec, Weak::clone(&self.owner)).await })
    }
}

/// An open sandbox. Dropping it drops the lease, and the keeper deletes it.
#[derive(Debug)]
struct Open {
    entrance: Entrance,
    start_timeout: Duration,
    state: Arc<State>,
}

/// What is needed to start commands in an open sandbox.
#[derive(Debug)]
struct Entrance {
    id: String,
    client: Client,
    agent: Agent,
    isolation: Isolation,
}

/// How a sandbox stands, as far as this process has a hand in it.
#[derive(Debug)]
struct State {
    /// Taken by whoever ends or leaves the sandbox.
    lease: Mutex<Option<Lease>>,
    over: watch::Receiver<Option<Release>>,
    is_killed: watch::Sender<bool>,
    is_paused: AtomicBool,
}

impl State {
    fn new(lease: Lease) -> Self {
        let over = lease.over();
        let (is_killed, is_paused) = (watch::Sender::default(), AtomicBool::default());
        Self { lease: Mutex::new(Some(lease)), over, is_killed, is_paused }
    }

    fn with_lease<T>(&self, look: impl FnOnce(&Lease) -> T) -> Option<T> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }

    fn take_lease(&self) -> Option<Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The error of whatever is asked of the sandbox, when it has ended.
    fn ended(&self) -> Option<Error> {
        let expired = self.with_lease(Lease::has_expired);
        match (*self.is_killed.borrow(), expired) {
            (true, _) => Some(SessionEnd::Killed.into_error()),
            (false, Some(true)) => Some(SessionEnd::Expired.into_error()),
            (false, _) => None,
        }
    }
}

impl Owner for State {
    fn account(&self) -> BoxFuture<'_, Result<Box<dyn Account>>> {
        Box::pin(async {
            match self.ended() {
                Some(error) => Err(error),
                None if self.is_paused.load(Relaxed) => {
                    Err(Error::invalid("the sandbox is paused").with_remedy("resume it first"))
                }
                None => Ok(Box::new(NoAccount) as Box<dyn Account>),
            }
        })
    }

    fn why_ended(&self) -> BoxFuture<'_, Option<Error>> {
        Box::pin(std::future::ready(self.ended()))
    }
}

impl Backend for Open {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        let owner: Weak<State> = Arc::downgrade(&self.state);
        Box::pin(self.entrance.start(spec, owner))
    }
}

impl Owner for Open {
    fn account(&self) -> BoxFuture<'_, Result<Box<dyn Account>>> {
        self.state.account()
    }

    fn why_ended(&self) -> BoxFuture<'_, Option<Error>> {
        self.state.why_ended()
    }
}

impl Session for Open {
    fn id(&self) -> &str {
        &self.entrance.id
    }

    fn backend(&self) -> BackendName {
        BackendName::Opensandbox
    }

    fn isolation(&self) -> &Isolation {
        &self.entrance.isolation
    }

    fn warnings(&self) -> &[String] {
        &[]
    }

    fn way_in(&self) -> Result<WayIn> {
        Ok(WayIn::Server)
    }

    fn ended(self: Arc<Self>) -> BoxFuture<'static, SessionEnd> {
        Box::pin(async move {
            let mut over = self.state.over.clone();
            let mut is_killed = self.state.is_killed.subscribe();
            tokio::select! {
                biased;
                Ok(_) = is_killed.wait_for(|killed| *killed) => SessionEnd::Killed,
                Ok(release) = over.wait_for(Option::is_some) => match *release {
                    Some(Release::Expired) => SessionEnd::Expired,
                    Some(Release::Gone) | None => SessionEnd::Died,
                },
                else => SessionEnd::Died,
            }
        })
    }

    fn order(self: Arc<Self>, order: SessionOrder) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            if let (Some(error), true) = (self.state.ended(), order != SessionOrder::Kill) {
                return Err(error);
            }
            let Entrance { id, client, .. } = &self.entrance;
            match order {
                SessionOrder::Renew(time) => self.renew(time).await,
                SessionOrder::Pause => {
                    client.pause(id).await.map_err(lost_if_gone)?;
                    self.state.is_paused.store(true, Relaxed);
                    Ok(())
                }
                SessionOrder::Resume => {
                    client.resume(id).await.map_err(lost_if_gone)?;
                    ready::agent(client, id, self.start_timeout).await?;
                    self.state.is_paused.store(false, Relaxed);
                    Ok(())
                }
                SessionOrder::Keep => match self.state.take_lease() {
                    Some(lease) => lease.leave().await,
                    None => Ok(()),
                },
                SessionOrder::Kill => self.kill().await,
            }
        })
    }
}

impl Open {
    /// The server is asked as well, so that a sandbox that is gone is told at once.
    async fn renew(&self, time: Duration) -> Result<()> {
        let at = SystemTime::now() + create::LIFE;
        let Entrance { id, client, .. } = &self.entrance;
        client.renew(id, at).await.map_err(lost_if_gone)?;
        self.state.with_lease(|lease| lease.live(time));
        Ok(())
    }

    async fn kill(&self) -> Result<()> {
        self.state.is_killed.send_replace(true);
        let Some(lease) = self.state.take_lease() else { return Ok(()) };
        timeout(DELETION, lease.delete()).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, "the server takes long to delete the sandbox")
                .with_remedy("it goes on by itself; `openbrain sandbox list` shows what is left"))
        })
    }
}

impl Entrance {
    async fn start(&self, spec: &Spec, owner: Weak<dyn Owner>) -> Result<Running> {
        let present = owner.upgrade().ok_or_else(dropped)?;
        let account = present.account().await?;
        let job = Job::new(spec)?;
        let directory = format!("{DIRECTORY}/{}", random_name());
        let started = match self.start_surely(spec, job, &directory).await {
            Ok(started) => started,
            Err(error) => return Err(self.lost(present, error).await),
        };
        Ok(Running {
            backend: BackendName::Opensandbox,
            sandbox_id: Some(self.id.clone()),
            start: None,
            isolation: self.isolation.clone(),
            warnings: started.warnings,
            stdin: started.stdin,
            stdout: Some(Box::new(started.stdout)),
            stderr: Some(Box::new(started.stderr)),
            changes: None,
            control: Box::new(Remote {
                letters: started.letters,
                end: started.end,
                kill: started.kill,
                is_terminal: spec.tty.is_some(),
                owner,
                account,
                agent: self.agent.clone(),
                directory,
                is_over: false,
            }),
        })
    }

    /// Starts a command in a task of its own: a start that nobody waits for any more may have arrived,
    /// and has to be killed.
    async fn start_surely(&self, spec: &Spec, job: Job, directory: &str) -> Result<Started> {
        let (client, agent, id) = (self.client.clone(), self.agent.clone(), self.id.clone());
        let (spec, directory) = (spec.clone(), directory.to_owned());
        let (answer, started) = oneshot::channel();
        tokio::spawn(async move {
            let started = start(&spec, job, &client, &id, agent, directory).await;
            if let Err(Ok(abandoned)) = answer.send(started) {
                abandoned.letters.send(KILL);
            }
        });
        started.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, "the task that starts a command has ended"))
        })
    }

    /// What a failed start means.
    async fn lost(&self, owner: Arc<dyn Owner>, error: Error) -> Error {
        use ErrorKind::{Internal, SandboxLost, SandboxUnavailable};
        match owner.why_ended().await {
            Some(ended) => ended,
            None if [Internal, SandboxLost, SandboxUnavailable].contains(&error.kind()) => {
                explain(&self.client, &self.id, error).await
            }
            None => error,
        }
    }
}

fn lost_if_gone(failure: Failure) -> Error {
    match failure.kind() {
        FailureKind::NotFound => {
            Error::new(ErrorKind::SandboxLost, "the sandbox is gone: somebody has deleted it")
                .with_remedy("create another one")
        }
        _ => failure.into(),
    }
}

/// Tells a bridge to kill everything of its command.
const KILL: Letter = Letter { kind: letter::ORDER, value: wire::Order::KILL as u32 };

/// A command in an open sandbox.
struct Remote {
    letters: Letters,
    end: oneshot::Receiver<End>,
    /// Tells the reader of a kill.
    kill: watch::Sender<bool>,
    is_terminal: bool,
    /// Does not keep the sandbox open.
    owner: Weak<dyn Owner>,
    account: Box<dyn Account>,
    agent: Agent,
    directory: String,
    is_over: bool,
}

impl Control for Remote {
    fn order(&mut self, order: Order) {
        pass_on(order, &self.letters, self.is_terminal);
        if order == Order::Kill {
            self.kill.send_replace(true);
        }
    }

    fn ended(&mut self) -> BoxFuture<'_, Result<Ended>> {
        Box::pin(async {
            let ended = match (&mut self.end).await {
                Ok(ended) => ended,
                Err(_) => Err(Error::new(ErrorKind::Internal, "the reader of the sandbox ended")),
            };
            self.is_over = true;
            match (ended, self.owner.upgrade()) {
                (Ok(mut ended), _) => {
                    self.account.close(&mut ended).await;
                    Ok(ended)
                }
                (Err(error), Some(owner)) => Err(owner.why_ended().await.unwrap_or(error)),
                (Err(_), None) => Err(dropped()),
            }
        })
    }
}

impl Drop for Remote {
    /// A command that is still there is killed, and its files go. Without a runtime they stay until
    /// the sandbox ends, which is what dropping a runtime leads to.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (agent, directory) = (self.agent.clone(), std::mem::take(&mut self.directory));
        let end = std::mem::replace(&mut self.end, oneshot::channel().1);
        if !self.is_over {
            self.letters.send(KILL);
        }
        let is_over = self.is_over;
        runtime.spawn(async move {
            if is_over || timeout(DELETION, end).await.is_ok() {
                let _ = agent.remove_directories(&[&directory]).await;
            }
        });
    }
}
