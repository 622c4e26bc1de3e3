//! The one place that knows every backend, and the verbs that users call.

use std::{ffi::OsString, sync::Arc, time::Duration};

use crate::{
    audit::{self, Log, Tenancy},
    backend::{
        Backend, BoxFuture, Session, SessionEnd,
        direct::Direct,
        embedded::{self, Embedded},
        helper,
        opensandbox::{self, OpenSandbox},
    },
    caller::Caller,
    error::{Error, Result},
    exec::Exec,
    new_sandbox::NewSandbox,
    output::Output,
    process::{Observer, Process, new_exec_id},
    session::{Runner, Sandbox, Witness},
    settings::{self, AuditSettings, Settings},
    share::{self, Entry, Joined, Shared, SharedSandbox},
    spec::{Place, ServerSpec, SessionSpec, Spec},
};

/// Runs commands under given [`Settings`].
///
/// [`Exec::run`] and its siblings load the settings of the environment for each call; an `Engine`
/// keeps them. Its clones have one pool of ready sandboxes together (`security.sandbox.pool`), which
/// is gone with the last of them.
#[derive(Clone, Debug)]
pub struct Engine {
    settings: Arc<Settings>,
    caller: Caller,
    log: Arc<Log>,
    embedded: Embedded,
    /// Runs every command in place of what the settings choose.
    backend: Option<Arc<dyn Backend>>,
    /// What direct commands inherit in place of the environment of this process.
    environment: Option<Arc<[(OsString, OsString)]>>,
}

impl Engine {
    /// An engine with these settings.
    pub fn new(settings: Settings) -> Self {
        let AuditSettings { execs: _, file, max_size, keep_files } = settings.audit.clone();
        let log = Arc::new(Log::new(file, max_size, keep_files));
        let embedded = Embedded::with_pool(settings.security.sandbox.pool);
        let settings = Arc::new(settings);
        let caller = Caller::default();
        Self { settings, caller, log, embedded, backend: None, environment: None }
    }

    /// An engine that runs every command on a backend of your own, under the policy of the
    /// settings. What the backend does with a request for a sandbox is its responsibility.
    pub fn with_backend(settings: Settings, backend: Arc<dyn Backend>) -> Self {
        Self { backend: Some(backend), ..Self::new(settings) }
    }

    /// An engine with the settings of the environment: `OPENBRAIN_*`, the project's file, the
    /// user's file, the defaults.
    ///
    /// # Errors
    ///
    /// `invalid_settings` when one of them is wrong.
    pub fn load() -> Result<Self> {
        Ok(Self::new(Settings::load()?.settings))
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The same engine for requests of this caller, who may be somebody else.
    pub fn for_caller(&self, caller: Caller) -> Self {
        Self { caller, ..self.clone() }
    }

    /// The same engine, whose direct commands inherit these variables in place of the environment
    /// of this process.
    ///
    /// For hosts that change their environment while other threads start commands, as interpreters
    /// do: reading it is not safe there (`setenv(3)`), so they pass a copy on.
    pub fn with_environment(
        &self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        Self { environment: Some(variables.into_iter().collect()), ..self.clone() }
    }

    /// Starts a command and returns its running process.
    ///
    /// Needs a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    ///
    /// An [`Error`] says why the command could not be started: nothing has run then. Nothing is run
    /// either when it is to be in the audit log and cannot be.
    pub async fn spawn(&self, exec: Exec) -> Result<Process> {
        let resolve = |exec| self.settings.resolve_for(exec, &self.caller);
        self.spawn_on(exec, resolve, |place| self.backend(place)).await
    }

    /// Starts a command where its resolved request says, and records it.
    async fn spawn_on(
        &self,
        exec: Exec,
        resolve: impl FnOnce(Exec) -> Result<Spec>,
        backend: impl FnOnce(&Place) -> Arc<dyn Backend>,
    ) -> Result<Process> {
        let exec_id = new_exec_id();
        let recorded = self.settings.audit.execs.include(&self.caller);
        let asked = recorded.then(|| self.log.asked(&exec_id, &self.caller, &exec));
        let spec = match resolve(exec) {
            Ok(spec) => spec,
            Err(error) => {
                asked.map(|asked| asked.refused(&error)).transpose()?;
                return Err(error);
            }
        };
        let entry = asked.map(|asked| asked.start(&spec)).transpose()?;
        let backend = backend(&spec.place);
        match backend.spawn(&spec).await {
            Ok(running) => {
                let observer = entry.map(|entry| Box::new(entry) as Box<dyn Observer>);
                Ok(Process::start(running, &spec, exec_id, observer))
            }
            Err(error) => {
                if let Some(entry) = entry {
                    entry.not_started(&error);
                }
                Err(error)
            }
        }
    }

    fn backend(&self, place: &Place) -> Arc<dyn Backend> {
        match (&self.backend, place) {
            (Some(backend), _) => Arc::clone(backend),
            (None, Place::Direct) => Arc::new(Direct { environment: self.environment.clone() }),
            (None, Place::Embedded(_)) => Arc::new(self.embedded.clone()),
            (None, Place::Opensandbox(..)) => Arc::new(OpenSandbox),
        }
    }

    /// Makes the sandboxes ready that a command like this one will find: as many as
    /// `security.sandbox.pool` says, of the same mounts, network and limits. What it runs, and in
    /// which environment, plays no part.
    ///
    /// Otherwise the second such command begins to fill the pool. Does nothing for what has no pool:
    /// direct commands, servers, overlay mounts, images, what is to report its changes.
    ///
    /// # Errors
    ///
    /// As [`Engine::spawn`]: when the request is refused, or a sandbox cannot be made.
    pub async fn warm(&self, exec: Exec) -> Result<()> {
        let spec = self.settings.resolve_for(exec, &self.caller)?;
        match (&self.backend, &spec.place) {
            (None, Place::Embedded(_)) => self.embedded.warm(&spec).await,
            _ => Ok(()),
        }
    }

    /// Runs a command to its end and collects its output.
    ///
    /// Dropping the future kills the command with all its processes.
    ///
    /// # Errors
    ///
    /// As [`Engine::spawn`]. A command that fails is a value.
    pub async fn run(&self, exec: Exec) -> Result<Output> {
        self.spawn(exec).await?.wait().await
    }

    /// Runs a command to its end, for programs without an async runtime.
    ///
    /// # Errors
    ///
    /// As [`Engine::run`].
    pub fn run_blocking(&self, exec: Exec) -> Result<Output> {
        blocking(self.run(exec))
    }
}

impl Engine {
    /// Creates a sandbox that stays open.
    ///
    /// # Errors
    ///
    /// An [`Error`] says why the sandbox could not be made: nothing of it is left then. Nothing is made
    /// either when it is to be in the audit log and cannot be.
    pub async fn create(&self, new: NewSandbox) -> Result<Sandbox> {
        if self.backend.is_some() {
            let what = "a backend of your own has no sandboxes that stay open";
            return Err(
                Error::unavailable(what).with_remedy("create it by an `Engine::new(settings)`")
            );
        }
        let recorded = self.settings.audit.execs.include(&self.caller);
        let asked = recorded.then(|| self.log.asked_to_open(&new_exec_id(), &self.caller, &new));
        let spec = match self.settings.resolve_sandbox(new, &self.caller) {
            Ok(spec) => spec,
            Err(error) => {
                asked.map(|asked| asked.refused(&error)).transpose()?;
                return Err(error);
            }
        };
        let entry = asked.map(|asked| asked.open(&spec)).transpose()?;
        match open(&spec).await {
            Ok(session) => {
                let witness = entry.map(|entry| witness(entry, session.as_ref()));
                Ok(Sandbox::new(session, spec, Arc::new(self.clone()), witness))
            }
            Err(error) => {
                if let Some(entry) = entry {
                    entry.not_started(&error);
                }
                Err(error)
            }
        }
    }
}

/// Writes the end of a sandbox whose start is on record.
fn witness(entry: audit::Entry, session: &dyn Session) -> Witness {
    let tenancy = Tenancy::new(entry, session.id(), session.isolation(), session.warnings());
    Box::new(|end| {
        tenancy.ended(match end {
            Some(SessionEnd::Expired) => audit::Status::TimedOut,
            Some(SessionEnd::Killed) => audit::Status::Cancelled,
            Some(SessionEnd::Died) => audit::Status::Lost,
            None => audit::Status::Kept,
        });
    })
}

async fn open(spec: &SessionSpec) -> Result<Arc<dyn Session>> {
    match &spec.place {
        Place::Embedded(_) => embedded::open(spec).await,
        Place::Opensandbox(..) => opensandbox::open(spec).await,
        Place::Direct => Err(Error::invalid("a sandbox cannot be the host")),
    }
}

impl Engine {
    /// Makes a sandbox one that other processes of this user can [join](Engine::join), as long as
    /// [`Shared::serve`] runs.
    ///
    /// Its socket is in `$XDG_RUNTIME_DIR/openbrain/sandboxes`, else in `/tmp/openbrain-UID/sandboxes`.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub fn share(&self, sandbox: Sandbox) -> Result<Shared> {
        share::share(sandbox, &settings::runtime_directory())
    }

    /// Joins a sandbox that another process of this user shares, by its id or its name.
    ///
    /// # Errors
    ///
    /// `sandbox_lost` when there is none; `invalid_request` when several have this name.
    pub async fn join(&self, name: &str) -> Result<Joined> {
        let key = |server: &mut ServerSpec| {
            let own = self.settings.security.sandbox.server().ok().flatten();
            server.api_key = own.filter(|own| own.url == server.url).and_then(|own| own.api_key);
        };
        let directory = settings::runtime_directory();
        share::join(name, &directory, key, enter, Arc::new(self.clone())).await
    }

    /// The sandboxes that processes of this user share, the oldest first.
    ///
    /// # Errors
    ///
    /// When they cannot be looked for.
    pub async fn shared(&self) -> Result<Vec<SharedSandbox>> {
        share::list(&settings::runtime_directory()).await
    }
}

/// Enters a sandbox that another process owns.
fn enter(entry: Entry) -> Result<Arc<dyn Backend>> {
    let Entry { id, place, isolation, door, owner } = entry;
    match (place, door) {
        (Place::Embedded(_), Some((door, rlimits))) => {
            embedded::join(id, door, rlimits, isolation, owner)
        }
        (Place::Opensandbox(_, server), _) => opensandbox::join(id, &server, isolation, owner),
        (Place::Embedded(_) | Place::Direct, _) => {
            Err(Error::unavailable("the owner of the sandbox gave no way in")
                .with_remedy("it may be another version of openbrain: create the sandbox anew"))
        }
    }
}

impl Runner for Engine {
    fn spawn<'a>(
        &'a self,
        session: &'a Arc<dyn Session>,
        spec: &'a SessionSpec,
        exec: Exec,
    ) -> BoxFuture<'a, Result<Process>> {
        let resolve = |exec: Exec| {
            self.settings.check_inside(&exec, &self.caller)?;
            spec.bind(exec)
        };
        let inside = Arc::clone(session);
        Box::pin(self.spawn_on(exec, resolve, |_| inside))
    }

    fn check_life(&self, time: Duration) -> Result<()> {
        self.settings.check_life(time, &self.caller)
    }
}

impl NewSandbox {
    /// Creates the sandbox with the settings of the environment.
    ///
    /// # Errors
    ///
    /// As [`Engine::load`] and [`Engine::create`].
    pub async fn create(self) -> Result<Sandbox> {
        Engine::load()?.create(self).await
    }
}

impl Sandbox {
    /// Creates a sandbox of this image with the settings of the environment, which must name an
    /// OpenSandbox server; [`Sandbox::builder`] is for everything else.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// let sandbox = openbrain::Sandbox::create("opensandbox/code-interpreter:v1.0.1").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Engine::load`] and [`Engine::create`].
    pub async fn create(image: impl Into<String>) -> Result<Self> {
        Self::builder().image(image).create().await
    }
}

impl Exec {
    /// Runs the command to its end with the settings of the environment and collects its output.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// let output = openbrain::Exec::new("echo hello").sandbox().run().await?;
    /// assert_eq!(output.stdout_text(), "hello\n");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Engine::load`] and [`Engine::run`].
    pub async fn run(self) -> Result<Output> {
        Engine::load()?.run(self).await
    }

    /// Starts the command with the settings of the environment.
    ///
    /// # Errors
    ///
    /// As [`Engine::load`] and [`Engine::spawn`].
    pub async fn spawn(self) -> Result<Process> {
        Engine::load()?.spawn(self).await
    }

    /// Runs the command to its end, for programs without an async runtime.
    ///
    /// ```no_run
    /// let output = openbrain::Exec::new("echo hello").sandbox().run_blocking()?;
    /// assert!(output.success());
    /// # Ok::<(), openbrain::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Engine::load`] and [`Engine::run_blocking`].
    pub fn run_blocking(self) -> Result<Output> {
        Engine::load()?.run_blocking(self)
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

/// Waits, at most so long, until nothing is left of commands whose futures, processes or runtimes
/// were dropped: their helper processes, and their sandboxes on servers. Says whether nothing is.
///
/// For programs that are about to end. Whatever is not settled then ends by itself: processes at
/// once, sandboxes on a server when it deletes them, within minutes.
pub fn settle(time: Duration) -> bool {
    helper::settle();
    opensandbox::settle(time)
}

/// How long a blocking call waits for what it left behind.
const SETTLE: Duration = Duration::from_secs(10);

/// Runs a future to its end on a runtime of its own, and waits for what it leaves behind.
pub(crate) fn blocking<T, F>(future: F) -> Result<T>
where
    T: Send,
    F: Future<Output = Result<T>> + Send,
{
    if tokio::runtime::Handle::try_current().is_err() {
        return block_on(future);
    }
    // A runtime cannot be started inside another one, but on another thread it can.
    std::thread::scope(|scope| {
        scope.spawn(|| block_on(future)).join().unwrap_or_else(|panic| {
            std::panic::resume_unwind(panic);
        })
    })
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|e| Error::system("cannot start an async runtime", e))?;
    let result = runtime.block_on(future);
    drop(runtime);
    settle(SETTLE);
    result
}
