//! What can go wrong with a server or an agent, what to say about it and what to do.

use std::{error::Error as StdError, fmt, io, time::Duration};

use crate::{
    error::{Error, ErrorKind},
    secret::Secret,
};

/// How much of what was received an error quotes, in characters.
const QUOTED: usize = 200;

/// How much of the server's own words an error tells, in characters.
const TOLD: usize = 2000;

/// What to do when nobody knows how far a command came.
pub(super) const LOOK: &str =
    "part of the command may have run; look at what it did before running it again";

/// Why a server or an agent did not do what it was asked.
///
/// Its text names the operation, the place, the server's own words and the request's id; keys and
/// tokens are replaced by `***` in it.
pub struct Failure(Box<Inner>);

struct Inner {
    kind: FailureKind,
    context: Context,
    words: String,
    code: Option<String>,
    status: Option<u16>,
    subject: Option<String>,
    retry_after: Option<Duration>,
    unsent: bool,
}

/// What kind of failure a [`Failure`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection to the server or the agent could be made.
    Unreachable,
    /// Something answers there, but it is no OpenSandbox server.
    NotOpenSandbox,
    /// TLS could not be agreed: an unknown authority, a wrong name, plain HTTP.
    Tls,
    /// There was no answer in time.
    TimedOut,
    /// The connection broke after the request was sent.
    Lost,
    /// A stream of events ended before it told the command's end.
    Cut,
    /// A stream was silent for longer than an agent ever is.
    Stalled,
    /// The server wants an API key and got none.
    KeyMissing,
    /// The server does not know the API key.
    KeyWrong,
    /// The server has no such image and cannot pull it.
    ImageUnavailable,
    /// The server cannot reach the sandbox.
    SandboxUnreachable,
    /// What the server runs sandboxes on (Docker, Kubernetes) does not answer it.
    RuntimeDown,
    /// The server does not let this host path be mounted.
    HostPathRefused,
    /// The server has no sidecar image for network policies.
    EgressMissing,
    /// The server cannot enforce the network policy.
    PolicyRefused,
    /// A quota or a pool is exhausted, or there were too many requests; later it may work.
    Exhausted,
    /// The sandbox, file or command does not exist, or not any more.
    NotFound,
    /// It exists but is not ready yet.
    NotReady,
    /// Its state does not allow the operation.
    WrongState,
    /// The server cannot do this at all.
    NotSupported,
    /// The server or the agent finds the request wrong.
    InvalidRequest,
    /// The address, key or file of the connection cannot be used.
    InvalidConnection,
    /// The server or the agent failed by itself.
    ServerFailed,
    /// The answer is not what the protocol says.
    Surprise,
}

/// Who was asked for what: the part of a failure that is known before anything is sent.
#[derive(Clone, Default)]
pub(super) struct Context {
    pub(super) operation: &'static str,
    pub(super) place: String,
    pub(super) plane: Plane,
    pub(super) request_id: Option<String>,
    pub(super) time: Duration,
    pub(super) secrets: Vec<Secret>,
}

/// Who answers: the server, or the agent in a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Plane {
    #[default]
    Server,
    Agent,
}

impl Failure {
    /// What kind of failure this is.
    pub fn kind(&self) -> FailureKind {
        self.0.kind
    }

    /// The HTTP status of the answer, when there was one.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The server's own code, such as `DOCKER::SANDBOX_NOT_FOUND`.
    pub fn server_code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// The id under which the server logged the request.
    pub fn request_id(&self) -> Option<&str> {
        self.0.context.request_id.as_deref()
    }

    /// How long the server asks to wait before trying again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same request may succeed when it is sent again.
    ///
    /// For a request that changes something this is true only when it surely did not arrive.
    pub(super) fn may_retry(&self, idempotent: bool) -> bool {
        let transient = matches!(self.0.status, Some(429 | 502 | 503))
            || matches!(self.0.kind, FailureKind::Lost | FailureKind::Unreachable);
        self.0.unsent || (idempotent && transient)
    }

    /// What to do about it, when that is known.
    pub fn remedy(&self) -> Option<&'static str> {
        match self.0.context.plane {
            Plane::Server => remedy_for_server(self.0.kind),
            Plane::Agent => remedy_for_agent(self.0.kind),
        }
    }

    /// The error to report when this happened while a command ran: whatever means that its sandbox
    /// is out of reach is `sandbox_lost`.
    pub fn while_running(self) -> Error {
        let lost = match self.0.kind {
            FailureKind::Unreachable
            | FailureKind::TimedOut
            | FailureKind::Lost
            | FailureKind::Cut
            | FailureKind::Stalled
            | FailureKind::NotFound
            | FailureKind::SandboxUnreachable
            | FailureKind::RuntimeDown => true,
            // An agent that fails at something is there.
            FailureKind::ServerFailed => self.0.context.plane == Plane::Server,
            _ => false,
        };
        if !lost {
            return self.into();
        }
        self.into_error(ErrorKind::SandboxLost).with_remedy(LOOK)
    }

    pub(super) fn new(kind: FailureKind, context: &Context, words: impl AsRef<str>) -> Self {
        // Redacted before it is cut, so that no half of a secret is left.
        let words = context
            .secrets
            .iter()
            .fold(words.as_ref().to_owned(), |words, secret| secret.hide_in(words));
        let words = words.chars().take(TOLD).collect();
        let (code, status, subject, retry_after) = (None, None, None, None);
        let context = context.clone();
        let unsent = false;
        Self(Box::new(Inner { kind, context, words, code, status, subject, retry_after, unsent }))
    }

    /// The particular words, without the sentence around them.
    pub(super) fn words(&self) -> &str {
        &self.0.words
    }

    pub(super) fn timed_out(context: &Context) -> Self {
        let words = format!("not within {} s", context.time.as_secs_f64());
        Self::new(FailureKind::TimedOut, context, words)
    }

    /// A connection that cannot be used, found before anything is sent.
    pub(super) fn connection(words: impl AsRef<str>) -> Self {
        Self::new(FailureKind::InvalidConnection, &Context::default(), words)
    }

    /// An answer that is not what the protocol says.
    pub(super) fn surprise(context: &Context, words: &str, received: &[u8]) -> Self {
        let words = format!("{words}: {}", quote(received));
        Self::new(FailureKind::Surprise, context, words)
    }

    /// An answer that refuses the request: the server's code, if it gave one, and its words.
    pub(super) fn refused(
        context: &Context,
        status: u16,
        code: Option<String>,
        words: &str,
    ) -> Self {
        let kind = kind_of(context.plane, status, code.as_deref().unwrap_or(""), words);
        let mut failure = Self::new(kind, context, words);
        failure.0.status = Some(status);
        failure.0.code = code;
        failure
    }

    /// A request that failed without an answer.
    pub(super) fn transport(context: &Context, error: reqwest::Error) -> Self {
        let kind = match &error {
            error if is_tls(error) => FailureKind::Tls,
            error if error.is_connect() => FailureKind::Unreachable,
            error if error.is_timeout() => FailureKind::TimedOut,
            _ => FailureKind::Lost,
        };
        let mut failure = Self::new(kind, context, root_cause(&error));
        failure.0.unsent = kind == FailureKind::Unreachable;
        failure
    }

    pub(super) fn with_retry_after(mut self, pause: Option<Duration>) -> Self {
        self.0.retry_after = pause;
        self
    }

    /// Whether the server failed without a word of its own.
    pub(super) fn is_unexplained(&self) -> bool {
        self.0.kind == FailureKind::ServerFailed
            && self.0.status == Some(500)
            && self.0.code.is_none()
    }

    pub(super) fn explained_by(mut self, kind: FailureKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Names what the request was about, such as the image.
    pub(super) fn about(mut self, subject: Option<&str>) -> Self {
        self.0.subject = subject.map(str::to_owned);
        self
    }

    fn error_kind(&self) -> ErrorKind {
        use FailureKind::{
            Cut, EgressMissing, Exhausted, HostPathRefused, ImageUnavailable, InvalidConnection,
            InvalidRequest, KeyMissing, KeyWrong, Lost, NotFound, NotOpenSandbox, NotReady,
            NotSupported, PolicyRefused, RuntimeDown, SandboxUnreachable, ServerFailed, Stalled,
            Surprise, TimedOut, Tls, Unreachable, WrongState,
        };
        match self.0.kind {
            InvalidRequest => ErrorKind::InvalidRequest,
            InvalidConnection | KeyMissing | KeyWrong => ErrorKind::InvalidSettings,
            HostPathRefused => ErrorKind::PolicyDenied,
            Exhausted => ErrorKind::ResourceExhausted,
            Cut | Stalled => ErrorKind::SandboxLost,
            Unreachable | NotOpenSandbox | Tls | TimedOut | Lost | ImageUnavailable
            | RuntimeDown | EgressMissing | PolicyRefused | NotFound | NotReady | WrongState
            | NotSupported | SandboxUnreachable | ServerFailed | Surprise => {
                ErrorKind::SandboxUnavailable
            }
        }
    }

    fn into_error(self, kind: ErrorKind) -> Error {
        let error = Error::new(kind, self.to_string());
        match self.remedy() {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    }

    /// What happened, in a few words; the server's own words follow.
    fn sentence(&self) -> &'static str {
        use FailureKind::{
            Cut, EgressMissing, Exhausted, HostPathRefused, ImageUnavailable, InvalidConnection,
            InvalidRequest, KeyMissing, KeyWrong, Lost, NotFound, NotOpenSandbox, NotReady,
            NotSupported, PolicyRefused, RuntimeDown, SandboxUnreachable, ServerFailed, Stalled,
            Surprise, TimedOut, Tls, Unreachable, WrongState,
        };
        match self.0.kind {
            Unreachable => "no connection could be made",
            NotOpenSandbox => "what answers there is not an OpenSandbox server",
            Tls => "no secure connection could be made",
            TimedOut => "there was no answer in time",
            Lost => "the connection broke",
            Cut => "the stream of events ended without a result",
            Stalled => "the stream of events stalled",
            KeyMissing => "the server wants an API key",
            KeyWrong => "the server does not accept the API key",
            ImageUnavailable => "the server cannot get the image",
            SandboxUnreachable => "the server cannot reach the sandbox",
            RuntimeDown => "the server cannot reach its container engine",
            HostPathRefused => "the server does not let this host path be mounted",
            EgressMissing => "the server is not set up for network policies",
            PolicyRefused => "the server cannot enforce the network policy",
            Exhausted => "the server has no capacity left",
            NotFound => "it does not exist, or not any more",
            NotReady => "it is not ready yet",
            WrongState => "its state does not allow that",
            NotSupported => "the server cannot do that",
            InvalidRequest => "the request is not valid",
            InvalidConnection => "the connection's settings cannot be used",
            ServerFailed if self.0.context.plane == Plane::Agent => "the agent failed",
            ServerFailed => "the server failed",
            Surprise => "the answer is not what the protocol says",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Context { operation, place, request_id, .. } = &self.0.context;
        if !operation.is_empty() {
            write!(f, "cannot {operation} at `{place}`: ")?;
        }
        f.write_str(self.sentence())?;
        if let Some(subject) = &self.0.subject {
            write!(f, " `{subject}`")?;
        }
        if !self.0.words.is_empty() {
            write!(f, ": {}", self.0.words)?;
        }
        match (&self.0.code, request_id) {
            (Some(code), Some(id)) => write!(f, " ({code}, request {id})"),
            (None, Some(id)) => write!(f, " (request {id})"),
            (Some(code), None) => write!(f, " ({code})"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?})", self.0.kind)
    }
}

impl StdError for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = failure.error_kind();
        failure.into_error(kind)
    }
}

/// What a refusal means. Codes first; the status where a code says nothing.
fn kind_of(plane: Plane, status: u16, code: &str, words: &str) -> FailureKind {
    let (family, name) = code.split_once("::").unwrap_or(("", code));
    match name {
        "MISSING_API_KEY" => FailureKind::KeyMissing,
        "INVALID_API_KEY" | "MISSING_OR_INVALID_SECURE_ACCESS" => FailureKind::KeyWrong,
        "INITIALIZATION_ERROR" => FailureKind::RuntimeDown,
        _ if family == "DOCKER" && tells_of_engine(words) => FailureKind::RuntimeDown,
        "SANDBOX_IMAGE_PULL_FAILED" => FailureKind::ImageUnavailable,
        "HOST_PATH_NOT_ALLOWED" => FailureKind::HostPathRefused,
        "QUOTA_EXCEEDED" | "POOL_CAPACITY_EXHAUSTED" => FailureKind::Exhausted,
        "POD_IP_NOT_AVAILABLE" | "POD_READY_TIMEOUT" => FailureKind::NotReady,
        "BACKEND_CONNECTION_FAILED" | "BACKEND_RESPONSE_FAILED" | "BACKEND_TIMEOUT" => {
            FailureKind::SandboxUnreachable
        }
        "INVALID_PARAMETER" if words.contains("egress.image") => FailureKind::EgressMissing,
        "INVALID_PARAMETER" if tells_of_policy(words) => FailureKind::PolicyRefused,
        "API_NOT_SUPPORTED" | "POOL_NOT_SUPPORTED" | "NOT_SUPPORTED" => FailureKind::NotSupported,
        "UNSUPPORTED_BACKEND" | "UNSUPPORTED_POOL_REF" => FailureKind::NotSupported,
        _ => kind_of_status(plane, status, code.is_empty()),
    }
}

fn kind_of_status(plane: Plane, status: u16, without_code: bool) -> FailureKind {
    match status {
        // The server's own routes answer 404 with a code; one without is somebody else's.
        404 | 405 if without_code && plane == Plane::Server => FailureKind::NotOpenSandbox,
        400 | 413 | 416 | 422 => FailureKind::InvalidRequest,
        401 | 403 => FailureKind::KeyWrong,
        404 => FailureKind::NotFound,
        409 => FailureKind::WrongState,
        429 => FailureKind::Exhausted,
        501 => FailureKind::NotSupported,
        500..=599 => FailureKind::ServerFailed,
        _ => FailureKind::Surprise,
    }
}

/// Whether the server's words come from its Docker library failing to reach the engine. An engine
/// that cannot reach a registry says the same in small letters.
fn tells_of_engine(words: &str) -> bool {
    let signs = [
        "Error while fetching server API version",
        "Cannot connect to the Docker daemon",
        "Connection aborted",
        "Connection refused",
        "docker.sock",
    ];
    // A sidecar that does not start is refused connections, too.
    !words.contains("gress sidecar") && signs.iter().any(|sign| words.contains(sign))
}

fn tells_of_policy(words: &str) -> bool {
    words.contains("networkPolicy")
        && (words.contains("not supported") || words.contains("not compatible"))
}

fn remedy_for_server(kind: FailureKind) -> Option<&'static str> {
    let remedy = match kind {
        FailureKind::Unreachable => {
            "start the server: `opensandbox-server init-config ~/.sandbox.toml --example docker`, \
             then `opensandbox-server`; or correct `security.sandbox.server_url`"
        }
        FailureKind::NotOpenSandbox => "correct `security.sandbox.server_url`",
        FailureKind::TimedOut => {
            "look at the server's log; to wait longer, set `request_timeout_seconds` or \
             `start_timeout_seconds` below `security.sandbox`"
        }
        FailureKind::Lost => "see that the server runs, and look at its log; then try again",
        FailureKind::Tls => {
            "install the authority's certificate on this machine or name its file, and check that \
             `security.sandbox.server_url` says `http` or `https` as the server does"
        }
        FailureKind::KeyMissing | FailureKind::KeyWrong => {
            "set `OPEN_SANDBOX_API_KEY` or `security.sandbox.api_key` to the `api_key` below \
             `[server]` in the server's configuration"
        }
        FailureKind::ImageUnavailable => {
            "correct `security.sandbox.image`, or make the image available to the server: \
             `docker pull` or `docker load` on its machine"
        }
        FailureKind::RuntimeDown => {
            "start Docker on the server's machine (`systemctl start docker`), then the server again"
        }
        FailureKind::HostPathRefused => {
            "add the path to `allowed_host_paths` below `[storage]` in the server's configuration \
             and start the server again"
        }
        FailureKind::EgressMissing => {
            "set `image` below `[egress]` in the server's configuration and start the server again"
        }
        FailureKind::PolicyRefused => {
            "set `network_mode = \"bridge\"` below `[docker]` in the server's configuration"
        }
        FailureKind::Exhausted => "try again later, or delete sandboxes that are not needed",
        FailureKind::ServerFailed => {
            "look at the server's log; often Docker is not running on its machine"
        }
        _ => return None,
    };
    Some(remedy)
}

fn remedy_for_agent(kind: FailureKind) -> Option<&'static str> {
    let remedy = match kind {
        FailureKind::Unreachable | FailureKind::TimedOut => {
            "if the sandbox's ports cannot be reached from here, use `use_server_proxy`"
        }
        FailureKind::Surprise => {
            "see what answers in the agent's place: a proxy on the way, or another agent in the \
             server's `execd_image`"
        }
        FailureKind::ServerFailed => {
            "see that the sandbox's /tmp can be written to and is not full, and look at the log of \
             its container"
        }
        _ => return None,
    };
    Some(remedy)
}

/// The start of what was received, as text on one line.
pub(super) fn quote(received: &[u8]) -> String {
    if received.is_empty() {
        return "nothing was received".to_owned();
    }
    // Four bytes is the longest character.
    let start = &received[..received.len().min(4 * QUOTED)];
    let text = String::from_utf8_lossy(start);
    let line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTED).collect();
    let more = if line.len() < received.len() { " …" } else { "" };
    format!("received `{}`{more}", line.trim())
}

/// An error and what caused it, down to the last.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        // An `io::Error` gives its inner error's source as its own, and so skips the inner one.
        next = match error.downcast_ref::<io::Error>() {
            Some(outer) => outer.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
        Some(error)
    })
}

fn is_tls(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.is::<rustls::Error>())
}

/// The last of the causes: the layers above it only repeat the address.
fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}
