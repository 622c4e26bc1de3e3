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
            Self::Library(error) => {
                let (retryable, remedy) = (error.retryable(), error.remedy());
                exception(py, (error.code(), error.to_string(), retryable, remedy))
            }
            Self::Request(message) => {
                exception(py, ("invalid_request", message.clone(), false, None))
            }
            Self::Gone(message) => exception(py, ("internal", (*message).into(), false, None)),
            Self::System(error) => {
                let message = format!("cannot prepare the call: {error}");
                exception(py, ("resource_exhausted", message, true, None))
            }
        }
    }
}

fn exception(py: Python<'_>, error: (&str, String, bool, Option<&str>)) -> PyErr {
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
