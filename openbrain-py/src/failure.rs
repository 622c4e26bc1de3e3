//! Why something was not done, as one of the exceptions of `openbrain.errors`.

use std::path::PathBuf;

use pyo3::{PyErr, Python, types::PyAnyMethods};

/// Why something was not done.
pub(crate) enum Failure {
    /// The library refused or failed.
    Library(openbrain::Error),
    /// The library refused or failed to do something with this file, or to execute it, where it is
    /// known which.
    File(openbrain::Error, Option<PathBuf>),
    /// A file of the host could not be read or written.
    Host(std::io::Error, PathBuf),
    /// What was waited for did not come in time.
    Late(String),
    /// The request is no request: an unknown field, a value of the wrong type.
    Request(String),
    /// The caller has no say in it, or none any more.
    Misuse(&'static str),
    /// There is no answer: the call was given up, or has ended without one.
    Gone(&'static str),
    /// The system failed us.
    System(std::io::Error),
}

impl Failure {
    /// The exception. `openbrain.errors` chooses its class by the code.
    pub(crate) fn raise(self, py: Python<'_>) -> PyErr {
        let (code, message, retryable) = match self {
            Self::Library(error) => return library(py, &error, None),
            Self::File(error, path) => return library(py, &error, path),
            Self::Host(error, path) => {
                let message = format!("cannot use `{}`: {error}", path.display());
                let io_kind = Some(format!("{:?}", error.kind()));
                return exception(py, ("file_failed", message, false, None, io_kind), Some(path));
            }
            Self::Late(message) => {
                return exception(
                    py,
                    ("wait_failed", message, false, None, Some("TimedOut".into())),
                    None,
                );
            }
            Self::Request(message) => ("invalid_request", message, false),
            Self::Misuse(message) => ("invalid_request", message.into(), false),
            Self::Gone(message) => ("internal", message.into(), false),
            Self::System(error) => {
                ("resource_exhausted", format!("cannot prepare the call: {error}"), true)
            }
        };
        exception(py, (code, message, retryable, None, None), None)
    }
}

/// The exception for an error of the library, which may be about a file.
pub(crate) fn library(py: Python<'_>, error: &openbrain::Error, path: Option<PathBuf>) -> PyErr {
    let (retryable, remedy) = (error.retryable(), error.remedy());
    let io_kind = error.io_kind().map(|kind| format!("{kind:?}"));
    exception(py, (error.code(), error.to_string(), retryable, remedy, io_kind), path)
}

/// Code, message, whether it may go away, remedy, and what the system said.
type Facts<'a> = (&'a str, String, bool, Option<&'a str>, Option<String>);

fn exception(py: Python<'_>, facts: Facts<'_>, path: Option<PathBuf>) -> PyErr {
    let (code, message, retryable, remedy, io_kind) = facts;
    let path = path.map(PathBuf::into_os_string);
    let made = py
        .import("openbrain.errors")
        .and_then(|errors| errors.getattr("make"))
        .and_then(|make| make.call1((code, message, retryable, remedy, io_kind, path)));
    made.map_or_else(|failed| failed, PyErr::from_value)
}

impl From<openbrain::Error> for Failure {
    fn from(error: openbrain::Error) -> Self {
        Self::Library(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::System(error)
    }
}
