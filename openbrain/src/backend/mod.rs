//! The seam: what every place to run offers to the supervision above it.

mod contained;
pub(crate) mod direct;
pub(crate) mod embedded;
pub(crate) mod helper;
pub mod opensandbox;
mod sys;

use std::{fmt, future::Future, os::fd::OwnedFd, pin::Pin, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

pub use crate::changes::Layers;
use crate::{
    error::{Error, ErrorKind, Result},
    exec::TerminalSize,
    output::{BackendName, Denial, Resources, Start, Status},
    sandbox::Isolation,
    spec::Spec,
};

/// A future on the heap, as traits with async verbs need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A place to run commands.
///
/// # Contract
///
/// - `spawn` returns when the command has started, or with an error when it could not; a program
///   that is not found or not executable is such an error.
/// - Nothing above calls `spawn` with a request that [`Settings::resolve`](crate::Settings::resolve)
///   did not allow, and nothing in a backend reads settings.
/// - Dropping the future or the [`Running`] value kills the whole tree and removes the sandbox,
///   without the runtime's help.
/// - The deadline, cancellation and output limits are not the backend's business.
pub trait Backend: fmt::Debug + Send + Sync {
    /// Starts the command of `spec`.
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>>;
}

/// A sandbox that stays open: a place to run commands in whose sandbox already exists.
///
/// # Contract
///
/// - What was resolved when it was opened holds for every command, whatever the [`Spec`] says of
///   place and limits; `env` and `workdir` of the `Spec` are complete.
/// - A command that is killed is killed with everything it has started; what a command leaves
///   running that ended by itself stays.
/// - Dropping it ends it with everything inside, without the runtime's help; so does the end of
///   this process, and the end of its time, though nobody looks.
/// - A command in a sandbox that has ended is an error of the kind
///   [`SandboxLost`](crate::ErrorKind::SandboxLost).
pub(crate) trait Session: Backend + Owner {
    /// Name of the sandbox.
    fn id(&self) -> &str;

    /// Which backend it is of.
    fn backend(&self) -> BackendName;

    /// What is enforced around everything in it.
    fn isolation(&self) -> &Isolation;

    /// What the caller should know about it.
    fn warnings(&self) -> &[String];

    /// What everything in it has written, to be compared with what was there.
    ///
    /// # Errors
    ///
    /// `sandbox_unavailable` where that is not known.
    fn layers(&self) -> Result<Layers> {
        Err(Error::unavailable("nobody here knows what has changed in the sandbox")
            .with_remedy("ask the process that has created it, with the embedded engine"))
    }

    /// Waits until it has ended, as far as that can be seen from here, and says why: a server is asked
    /// every 100 s.
    fn ended(self: Arc<Self>) -> BoxFuture<'static, SessionEnd>;

    /// The way in for another process.
    fn way_in(&self) -> Result<WayIn>;

    /// Carries out an order; returns when that is done.
    fn order(self: Arc<Self>, order: SessionOrder) -> BoxFuture<'static, Result<()>>;
}

/// Why a sandbox that stays open has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEnd {
    /// Its time was over.
    Expired,
    /// Its owner killed it, or left it to itself.
    Killed,
    /// From outside, from within, or in the process that owns it: nobody here knows.
    Died,
}

impl SessionEnd {
    /// The error of whatever is asked of a sandbox that has ended so.
    pub(crate) fn into_error(self) -> Error {
        let (why, remedy) = match self {
            Self::Expired => ("its time was over", "give it a longer timeout, or renew it in time"),
            Self::Killed => ("it was killed", "create another one"),
            Self::Died => (
                "its processes were killed from outside, or the machine ran out of memory",
                "create another one; look for who kills processes named `openbrain`",
            ),
        };
        Error::new(ErrorKind::SandboxLost, format!("the sandbox has ended: {why}"))
            .with_remedy(remedy)
    }
}

/// The error of whatever is asked of a sandbox that nobody has any more.
pub(crate) fn dropped() -> Error {
    Error::new(ErrorKind::SandboxLost, "the sandbox was dropped")
        .with_remedy("keep the `Sandbox` until its commands have ended")
}

/// Who has an open sandbox: the process that holds it, or one that stands for it.
pub(crate) trait Owner: fmt::Debug + Send + Sync {
    /// Opens the account of a command that is about to be started; an error when none may be.
    fn account(&self) -> BoxFuture<'_, Result<Box<dyn Account>>>;

    /// Why the sandbox is not there any more, where something was lost; `None` when it is, or nobody
    /// knows.
    fn why_ended(&self) -> BoxFuture<'_, Option<Error>>;
}

/// What one command of an open sandbox has used and was refused, as only the owner sees it.
pub(crate) trait Account: Send {
    /// Adds it to how the command ended. Cancel-safe.
    fn close<'a>(&'a mut self, ended: &'a mut Ended) -> BoxFuture<'a, ()>;
}

/// The account of a command whose end says everything.
pub(crate) struct NoAccount;

impl Account for NoAccount {
    fn close<'a>(&'a mut self, _ended: &'a mut Ended) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What another process of the same user needs to start commands in an open sandbox.
pub(crate) enum WayIn {
    /// The embedded engine: a socket to process 1, and the limits that each command sets for itself.
    Door(OwnedFd, Vec<(u32, u64)>),
    /// A server: whoever has its key can.
    Server,
}

/// What can be done to a sandbox as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SessionOrder {
    /// Let it end in so much time from now.
    Renew(Duration),
    /// Stop every process in it.
    Pause,
    /// Let every process in it go on.
    Resume,
    /// Leave it until the end of its time, whoever drops it or ends.
    Keep,
    /// End it, with everything inside.
    Kill,
}

/// A command that has started.
pub struct Running {
    /// Where it runs.
    pub backend: BackendName,
    /// The sandbox's name, where sandboxes have one.
    pub sandbox_id: Option<String>,
    /// Whether its sandbox was made for it or was ready; none where it has no sandbox of its own.
    pub start: Option<Start>,
    /// What is enforced around it.
    pub isolation: Isolation,
    /// What the caller should know.
    pub warnings: Vec<String>,
    /// The write end of its standard input, for [`Stdin::Bytes`](crate::Stdin::Bytes) and
    /// [`Stdin::Pipe`](crate::Stdin::Pipe).
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its standard output.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its standard error; none on a pseudo-terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// What it writes, when its changes are to be reported after its end.
    pub changes: Option<Layers>,
    /// The way to influence it and to learn its end.
    pub control: Box<dyn Control>,
}

/// Influence over a running command.
pub trait Control: Send {
    /// Carries out an order. A command that has ended meanwhile is no error.
    fn order(&mut self, order: Order);

    /// Waits until the command has ended and nothing of it is left.
    ///
    /// Must be cancel-safe: it is polled again after each order.
    fn ended(&mut self) -> BoxFuture<'_, Result<Ended>>;

    /// Removes the sandbox, where that takes longer than the end of the command, and tells what the
    /// caller should know. Bounded in time; called once, after a command that ended by itself.
    /// Otherwise dropping is enough.
    fn removed(&mut self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(std::future::ready(Vec::new()))
    }
}

/// What can be done to a running command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Send a signal to the command's process group.
    Signal(i32),
    /// Ask the command to end, by TERM to its process group; when it does, kill whatever it left.
    Terminate,
    /// Kill every process of the command, daemons included.
    Kill,
    /// Change the size of the pseudo-terminal.
    Resize(TerminalSize),
}

/// How a command ended, as its backend saw it.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exited or signaled: a deadline is the supervision's knowledge.
    pub status: Status,
    /// What it used.
    pub resources: Resources,
    /// What its sandbox refused.
    pub denials: Vec<Denial>,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("backend", &self.backend)
            .field("sandbox_id", &self.sandbox_id)
            .finish_non_exhaustive()
    }
}
