//! Why a call was not done, told to the model: a code, what is wrong, and what would change it.

use openbrain::ErrorKind;
use schemars::JsonSchema;
use serde::Serialize;

use crate::service::{IN_THE_LOG, is_own};

/// The longest message or remedy: either may quote what the caller sent.
const LONGEST: usize = 2000;

/// Why openbrain could not or would not do what a tool was called for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Failure {
    /// The stable name of the kind of failure.
    pub(super) code: String,
    /// What is wrong.
    pub(super) message: String,
    /// Whether the same call may succeed later.
    pub(super) retryable: bool,
    /// What to do about it, and the setting that would allow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Failure {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { code: kind.code().into(), message: message.into(), retryable: false, remedy: None }
    }

    /// The call itself is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    /// The settings or a person said no.
    pub(super) fn denied(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::PolicyDenied, message)
    }

    /// Something ran out; later there may be more.
    pub(super) fn exhausted(message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::new(ErrorKind::ResourceExhausted, message) }
    }

    pub(super) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The same failure, short enough to be told.
    pub(super) fn short(mut self) -> Self {
        for text in [&mut self.message].into_iter().chain(&mut self.remedy) {
            if let Some((end, _)) = text.char_indices().nth(LONGEST) {
                text.truncate(end);
                text.push('…');
            }
        }
        self
    }

    /// The failure as a model reads it.
    pub(super) fn text(&self) -> String {
        let Self { code, message, retryable, remedy } = self;
        let remedy = remedy.as_ref().map(|remedy| format!("\nTo change that: {remedy}"));
        let again = if *retryable { "\nThe same call may succeed later." } else { "" };
        format!(
            "openbrain did not do this ({code}): {message}{}{again}",
            remedy.unwrap_or_default()
        )
    }
}

impl From<&openbrain::Error> for Failure {
    /// What the library says, except for what only the log of the server should.
    fn from(error: &openbrain::Error) -> Self {
        if is_own(error) {
            return Self::new(error.kind(), IN_THE_LOG);
        }
        Self {
            code: error.code().into(),
            message: error.to_string(),
            retryable: error.retryable(),
            remedy: error.remedy().map(Into::into),
        }
    }
}
