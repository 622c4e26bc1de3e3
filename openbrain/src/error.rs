//! The one error of the crate: a stable code, what failed on what, and what to do next.

use std::{error::Error as StdError, fmt, io};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a command could not be run.
///
/// Everything that happens after the command started (a non-zero exit, a signal, a timeout, cut
/// output) is a value in [`Output`](crate::Output), never an `Error`.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    remedy: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What kind of failure an [`Error`] is. [`ErrorKind::code`] is the stable name of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong: an empty command, a bad size, a mount that does not exist.
    InvalidRequest,
    /// A settings file or an `OPENBRAIN_*` variable is wrong, unreadable or not trusted.
    InvalidSettings,
    /// The settings forbid what was asked for.
    PolicyDenied,
    /// The program was not found, on the host or in the sandbox.
    CommandNotFound,
    /// The program was found but cannot be executed.
    CommandNotExecutable,
    /// A sandbox was asked for and this machine or server cannot give it.
    SandboxUnavailable,
    /// The sandbox, its server or the way to it was lost while a command ran. Part of the command may
    /// have run, so that trying again is for the caller to decide.
    SandboxLost,
    /// A file of a sandbox is missing, in the way or not permitted; [`Error::io_kind`] says which.
    FileFailed,
    /// A port of a sandbox, or the one of this host that is to lead there, is refused or silent;
    /// [`Error::io_kind`] says which.
    ConnectionFailed,
    /// Somebody else has changed what was to be changed.
    Conflict,
    /// What was waited for did not come; [`Error::io_kind`] says whether the time was over.
    WaitFailed,
    /// The machine ran out of something (processes, memory, descriptors); trying later may work.
    ResourceExhausted,
    /// A failure of the system or of openbrain that fits no other kind.
    Internal,
}

impl ErrorKind {
    /// Every kind that this version knows.
    pub const ALL: &[Self] = &[
        Self::InvalidRequest,
        Self::InvalidSettings,
        Self::PolicyDenied,
        Self::CommandNotFound,
        Self::CommandNotExecutable,
        Self::SandboxUnavailable,
        Self::SandboxLost,
        Self::FileFailed,
        Self::ConnectionFailed,
        Self::Conflict,
        Self::WaitFailed,
        Self::ResourceExhausted,
        Self::Internal,
    ];

    /// The kind with this name.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.code() == code)
    }

    /// The stable, machine-readable name, as it appears in JSON.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidSettings => "invalid_settings",
            Self::PolicyDenied => "policy_denied",
            Self::CommandNotFound => "command_not_found",
            Self::CommandNotExecutable => "command_not_executable",
            Self::SandboxUnavailable => "sandbox_unavailable",
            Self::SandboxLost => "sandbox_lost",
            Self::FileFailed => "file_failed",
            Self::ConnectionFailed => "connection_failed",
            Self::Conflict => "conflict",
            Self::WaitFailed => "wait_failed",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Internal => "internal",
        }
    }
}

impl Error {
    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable, machine-readable name of the kind.
    pub fn code(&self) -> &'static str {
        self.0.kind.code()
    }

    /// Whether the same request may succeed later without any change.
    pub fn retryable(&self) -> bool {
        self.0.kind == ErrorKind::ResourceExhausted
    }

    /// What to do about it, when that is known.
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// What the operating system said, for errors that came from it.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        let source = self.0.source.as_deref()?;
        source.downcast_ref::<io::Error>().map(io::Error::kind)
    }

    /// The error as the JSON object that every edge prints.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "code": self.code(),
            "message": self.to_string(),
            "retryable": self.retryable(),
            "remedy": self.remedy(),
        })
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), remedy: None, source: None }))
    }

    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    pub(crate) fn settings(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidSettings, message)
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::PolicyDenied, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::SandboxUnavailable, message)
    }

    pub(crate) fn bad_duration(text: &str) -> Self {
        Self::invalid(format!("`{text}` is not a timeout between 1 ms and 365 days"))
            .with_remedy("give seconds, or a number with a unit: 600, 1.5, 500ms, 10m, 1h")
    }

    pub(crate) fn bad_size(text: &str) -> Self {
        Self::invalid(format!("`{text}` is not a size"))
            .with_remedy("give bytes, or a number with a unit: 1048576, 512m, 2GiB")
    }

    /// A failed system operation: `what` says what was being done, on which object.
    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.raw_os_error() {
            Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
                ErrorKind::ResourceExhausted
            }
            _ => ErrorKind::Internal,
        };
        Self::new(kind, what).with_source(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.code())?;
        match self.remedy() {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The message already tells the cause itself; what is behind that is not told yet.
        self.0.source.as_deref().and_then(StdError::source)
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn error_can_cross_threads() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Error>();
    }
}
