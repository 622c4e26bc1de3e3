//! Why openbrain could not do what was asked, and how it says so.

use std::{fmt::Display, io};

use openbrain::ErrorKind;
use serde_json::json;
use tokio::signal::unix::SignalKind;

use crate::{
    console::{print_json, say},
    exit,
};

/// A result whose error is [`Failure`].
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why openbrain could not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library refused or failed.
    Library(openbrain::Error),
    /// The command line cannot be meant, or the system failed us.
    Own {
        /// What kind of failure it is, as the library would say.
        kind: ErrorKind,
        /// What is wrong.
        message: String,
        /// What to do about it, when that is known.
        remedy: Option<String>,
    },
    /// A signal ended openbrain while the command was being started, or nobody reads its output.
    /// A person is told nothing then.
    Signal(i32),
}

impl Failure {
    /// The command line cannot be meant.
    pub(crate) fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (kind, remedy) = (ErrorKind::InvalidRequest, Some(remedy.into()));
        Self::Own { kind, message: message.into(), remedy }
    }

    /// An operation of the system failed: `what` says which, on which object.
    pub(crate) fn system(what: impl Display, error: impl Into<io::Error>) -> Self {
        let message = format!("{what}: {}", error.into());
        Self::Own { kind: ErrorKind::Internal, message, remedy: None }
    }

    /// The same failure, with this to do about it.
    pub(crate) fn hint(self, remedy: impl Into<String>) -> Self {
        match self {
            Self::Own { kind, message, remedy: _ } => {
                Self::Own { kind, message, remedy: Some(remedy.into()) }
            }
            Self::Library(_) | Self::Signal(_) => self,
        }
    }

    /// Our standard output could not be written. A closed one ends us as it ends `yes | head`.
    pub(crate) fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Signal(SignalKind::pipe().as_raw_value()),
            _ => Self::system("cannot write the output", error),
        }
    }

    /// What is wrong.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Library(error) => error.to_string(),
            Self::Own { message, .. } => message.clone(),
            Self::Signal(signal) => format!("signal {signal} came"),
        }
    }

    /// What to do about it, when that is known.
    pub(crate) fn remedy(&self) -> Option<&str> {
        match self {
            Self::Library(error) => error.remedy(),
            Self::Own { remedy, .. } => remedy.as_deref(),
            Self::Signal(_) => None,
        }
    }

    /// The exit code that tells of this failure.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Library(error) => exit::of_error(error.kind()),
            Self::Own { .. } => exit::FAILURE,
            Self::Signal(signal) => exit::of_signal(*signal),
        }
    }

    /// Says on standard error what went wrong.
    pub(crate) fn print(&self) {
        if let Self::Signal(_) = self {
            return;
        }
        say(self.message());
        if let Some(remedy) = self.remedy() {
            say(format_args!("hint: {remedy}"));
        }
    }

    /// Says on standard output, as one JSON object, what went wrong.
    pub(crate) fn print_json(&self) -> Result<()> {
        let error = match self {
            Self::Library(error) => error.to_json(),
            Self::Own { kind, message, remedy } => json!({
                "code": kind.code(),
                "message": message,
                "retryable": false,
                "remedy": remedy,
            }),
            Self::Signal(signal) => json!({
                "code": "cancelled",
                "message": format!("signal {signal} came while the command was being started"),
                "retryable": true,
                "remedy": null,
            }),
        };
        print_json(&json!({ "error": error }))
    }
}

impl From<openbrain::Error> for Failure {
    fn from(error: openbrain::Error) -> Self {
        Self::Library(error)
    }
}
