//! Why something was not done, as one of the exceptions of `openbrain.errors`.

use pyo3::{PyErr, Python, types::PyAnyMethods};

/// Why something was not done.
pub(crate) enum Failure {
    /// The library refused or failed.
    Library(openbrain::Error),
    /// The request is no request: an unknown field, a value of the wrong type.
    Request(String),
    /// What was asked for needs something that is no longer there.
    Gone(&'static str),
    /// The system failed us.
    System(std::io::Error),
}

impl Failure {
    /// The exception. `openbrain.errors` chooses its class by the code.
    pub(crate) fn raise(self, py: Python<'_>) -> PyErr {
        match &self {
            Self::Library(error) => library(py, error),
            Self::Request(message) => {
                exception(py, ("invalid_request", message.clone(), false, None, None))
            }
            Self::Gone(message) => {
                exception(py, ("internal", (*message).into(), false, None, None))
            }
            Self::System(error) => {
                let message = format!("cannot prepare the call: {error}");
                exception(py, ("resource_exhausted", message, true, None, None))
            }
        }
    }
}

/// The exception for an error of the library.
pub(crate) fn library(py: Python<'_>, error: &openbrain::Error) -> PyErr {
    let (retryable, remedy) = (error.retryable(), error.remedy());
    let io_kind = error.io_kind().map(|kind| format!("{kind:?}"));
    exception(py, (error.code(), error.to_string(), retryable, remedy, io_kind))
}

/// Code, message, whether it may go away, remedy, and what the system said.
type Facts<'a> = (&'a str, String, bool, Option<&'a str>, Option<String>);

fn exception(py: Python<'_>, error: Facts<'_>) -> PyErr {
    let made = py
        .import("openbrain.errors")
        .and_then(|errors| errors.getattr("make"))
        .and_then(|make| make.call1(error));
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
