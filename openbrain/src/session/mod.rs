//! A sandbox that outlives one command.

mod background;
mod bind;
mod files;
mod forward;
mod port;
mod shell;
mod tar;
mod tree;
mod watch;
mod work;

pub use self::{
    background::{Background, BackgroundCommand, LogOffsets, LogPart, Logs},
    files::{FileEntry, FileKind, FileReader, FileWriter, Files, Found, WriteOptions},
    forward::Forward,
    port::Connection,
    shell::Shell,
    tar::TarStream,
    tree::Transfer,
    watch::{FileChange, FileChangeKind, FileWatch},
};

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use crate::{
    backend::{Backend, BoxFuture, Running, Session, SessionEnd, SessionOrder, dropped},
    changes::Changes,
    error::Result,
    exec::Exec,
    new_sandbox::NewSandbox,
    output::{BackendName, Output},
    process::Process,
    sandbox::Isolation,
    spec::{SessionSpec, Spec},
    units::{MAX_TIMEOUT, check_timeout},
};

/// A sandbox that stays open: what one command leaves, the next one finds.
///
/// Files, the environment given at creation and background processes persist from command to command.
/// Dropping it ends it with everything in it; so do [`Sandbox::kill`], the end of its time and the end
/// of this process, unless it was [kept](Sandbox::keep). It belongs to the tokio runtime in which it
/// was created.
///
/// ```no_run
/// # async fn demo() -> openbrain::Result<()> {
/// use openbrain::{Exec, Sandbox};
///
/// let sandbox = Sandbox::builder().create().await?;
/// sandbox.run(Exec::new("echo hello > greeting")).await?;
/// let output = sandbox.run(Exec::new("cat greeting")).await?;
/// assert_eq!(output.stdout_text(), "hello\n");
/// # Ok(())
/// # }
/// ```
pub struct Sandbox {
    session: Arc<dyn Session>,
    spec: Arc<SessionSpec>,
    runner: Arc<dyn Runner>,
    expires_at: Arc<Mutex<SystemTime>>,
    /// Told its end, and nothing after that.
    witness: Mutex<Option<Witness>>,
}

/// A sandbox that is there as long as its owner keeps it.
#[derive(Clone)]
struct Reference {
    session: Weak<dyn Session>,
    spec: Arc<SessionSpec>,
    runner: Arc<dyn Runner>,
    expires_at: Arc<Mutex<SystemTime>>,
}

/// Is told the end of a sandbox once: why it has ended, or nothing when it was kept. Dropped untold, the
/// sandbox was dropped.
pub(crate) type Witness = Box<dyn FnOnce(Option<SessionEnd>) + Send>;

/// Who starts the commands of a sandbox: it knows what its maker may ask for, and what is recorded.
pub(crate) trait Runner: Send + Sync {
    /// Starts a command in a sandbox with this specification.
    fn spawn<'a>(
        &'a self,
        session: &'a Arc<dyn Session>,
        spec: &'a SessionSpec,
        exec: Exec,
    ) -> BoxFuture<'a, Result<Process>>;

    /// Refuses a life that its maker may not give it.
    fn check_life(&self, time: Duration) -> Result<()>;
}

impl Sandbox {
    /// A request for a sandbox with everything left to the settings.
    pub fn builder() -> NewSandbox {
        NewSandbox::default()
    }

    pub(crate) fn new(
        session: Arc<dyn Session>,
        spec: SessionSpec,
        runner: Arc<dyn Runner>,
        witness: Option<Witness>,
    ) -> Self {
        let expires_at = Arc::new(Mutex::new(SystemTime::now() + spec.timeout));
        Self { session, spec: Arc::new(spec), runner, expires_at, witness: Mutex::new(witness) }
    }

    /// Starts a command in the sandbox.
    ///
    /// A command that ends by itself leaves its background processes running; one that is killed, by
    /// its deadline or by its owner, is killed with everything that it has started.
    ///
    /// # Errors
    ///
    /// As [`Engine::spawn`](crate::Engine::spawn); `invalid_request` also for options that belong to
    /// the sandbox (mounts, network, memory), and while it is paused; `sandbox_lost` when it has ended.
    pub async fn spawn(&self, exec: Exec) -> Result<Process> {
        self.runner.spawn(&self.session, &self.spec, exec).await
    }

    /// Starts a command without a deadline of its own: it lasts as long as the sandbox, which may be
    /// renewed.
    async fn spawn_lasting(&self, exec: Exec) -> Result<Process> {
        // Longer than any sandbox has.
        let spec = SessionSpec { command_timeout: MAX_TIMEOUT, ..SessionSpec::clone(&self.spec) };
        self.runner.spawn(&self.session, &spec, exec).await
    }

    /// Runs a command in the sandbox to its end and collects its output.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::spawn`]; `sandbox_lost` also when the sandbox ends while the command runs.
    pub async fn run(&self, exec: Exec) -> Result<Output> {
        self.spawn(exec).await?.wait().await
    }

    /// Starts a command in the background.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::spawn`].
    pub async fn start(&self, exec: Exec) -> Result<Background> {
        let command = background::shown(&exec.command);
        Ok(Background::start(command, self.spawn(exec).await?))
    }

    /// Name of the sandbox, unique and unguessable.
    pub fn id(&self) -> &str {
        self.session.id()
    }

    /// The name for people, when it was given one.
    pub fn name(&self) -> Option<&str> {
        self.spec.name.as_deref()
    }

    /// The labels that it was given.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.spec.labels
    }

    /// Time until a command in it that names none is killed.
    pub fn command_timeout(&self) -> Duration {
        self.spec.command_timeout
    }

    /// Where it is.
    pub fn backend(&self) -> BackendName {
        self.session.backend()
    }

    /// The sandbox as a place to run commands, for
    /// [`Engine::with_backend`](crate::Engine::with_backend). It does not keep the sandbox open.
    pub fn as_backend(&self) -> Arc<dyn Backend> {
        Arc::new(Inside(Arc::downgrade(&self.session)))
    }

    /// What is enforced around everything in it.
    pub fn isolation(&self) -> &Isolation {
        self.session.isolation()
    }

    /// What the caller should know about it that is no error.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.spec.warnings.iter().chain(self.session.warnings()).map(String::as_str)
    }

    /// When its time is over, by the clock of this machine. The time itself is measured by a clock
    /// that nobody sets.
    pub fn expires_at(&self) -> SystemTime {
        *self.expires_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the sandbox has ended, and says why: killed, at the end of its time, or because its
    /// processes were killed from outside. The end of one on a server that somebody else deletes shows
    /// within 100 s.
    pub async fn ended(&self) -> SessionEnd {
        let end = Arc::clone(&self.session).ended().await;
        self.tell(Some(end));
        end
    }

    /// Reports what its commands have changed until now, in mounts of the mode
    /// [`overlay`](crate::MountMode::Overlay) and in what it has of its own. Changes that are being made
    /// may be seen in part.
    ///
    /// Changes are for the end: the host's side of a mount must not change while the sandbox is open
    /// (its kernel does not expect it), and so neither by applying them. As an ordinary user, directories
    /// that the sandbox has made inaccessible to itself are left out, as `truncated` says.
    ///
    /// # Errors
    ///
    /// `sandbox_unavailable` on a server; `sandbox_lost` after [`Sandbox::kill`].
    pub async fn changes(&self) -> Result<Changes> {
        Changes::report(self.session.layers()?).await
    }

    /// Lets the sandbox end in so much time from now, instead of when it would have.
    ///
    /// # Errors
    ///
    /// `invalid_request` for a time that cannot be meant; `policy_denied` for one above
    /// `server.max_timeout_seconds` when a remote caller created it; `sandbox_lost` when it has ended.
    pub async fn renew(&self, timeout: Duration) -> Result<()> {
        self.runner.check_life(timeout)?;
        self.order(SessionOrder::Renew(check_timeout(timeout)?)).await?;
        *self.expires_at.lock().unwrap_or_else(PoisonError::into_inner) =
            SystemTime::now() + timeout;
        Ok(())
    }

    /// Stops every process in the sandbox. Its time goes on, and so do the deadlines of its commands.
    ///
    /// # Errors
    ///
    /// `sandbox_lost` when it has ended.
    pub async fn pause(&self) -> Result<()> {
        self.order(SessionOrder::Pause).await
    }

    /// Lets every process in the sandbox go on.
    ///
    /// # Errors
    ///
    /// `sandbox_lost` when it has ended.
    pub async fn resume(&self) -> Result<()> {
        self.order(SessionOrder::Resume).await
    }

    /// Ends the sandbox with everything in it; nothing of it is left afterwards. One that has ended
    /// already is as good.
    ///
    /// # Errors
    ///
    /// When the end cannot be confirmed.
    pub async fn kill(&self) -> Result<()> {
        self.order(SessionOrder::Kill).await?;
        self.tell(Some(SessionEnd::Killed));
        Ok(())
    }

    /// Leaves the sandbox to itself until the end of its time: neither the drop of this value nor the
    /// end of this process ends it any more. An embedded one has its network only as long as this
    /// process lives.
    ///
    /// # Errors
    ///
    /// `sandbox_lost` when it has ended. A sandbox that cannot be left to itself, because its server
    /// does not answer, ends with this call.
    pub async fn keep(self) -> Result<()> {
        self.order(SessionOrder::Keep).await?;
        self.tell(None);
        Ok(())
    }

    fn reference(&self) -> Reference {
        let session = Arc::downgrade(&self.session);
        Reference {
            session,
            spec: Arc::clone(&self.spec),
            runner: Arc::clone(&self.runner),
            expires_at: Arc::clone(&self.expires_at),
        }
    }

    pub(crate) fn spec(&self) -> &SessionSpec {
        &self.spec
    }

    pub(crate) fn session(&self) -> &Arc<dyn Session> {
        &self.session
    }

    async fn order(&self, order: SessionOrder) -> Result<()> {
        Arc::clone(&self.session).order(order).await
    }

    fn tell(&self, end: Option<SessionEnd>) {
        let witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(witness) = witness {
            witness(end);
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reference").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Reference {
    /// The sandbox, to be dropped soon: it does not end before that.
    fn sandbox(&self) -> Result<Sandbox> {
        let session = self.session.upgrade().ok_or_else(dropped)?;
        let Self { spec, runner, expires_at, .. } = self.clone();
        Ok(Sandbox { session, spec, runner, expires_at, witness: Mutex::default() })
    }
}

/// A place to run commands that is there as long as its sandbox.
#[derive(Debug)]
struct Inside(Weak<dyn Session>);

impl Backend for Inside {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        Box::pin(async move { self.0.upgrade().ok_or_else(dropped)?.spawn(spec).await })
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("id", &self.id())
            .field("backend", &self.backend())
            .finish_non_exhaustive()
    }
}
