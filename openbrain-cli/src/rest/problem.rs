//! What went wrong, as RFC 9457 writes it. This is the one place that gives failures their HTTP
//! status.

use std::{io, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use openbrain::{Error, ErrorKind};
use schemars::JsonSchema;
use serde::Serialize;

use crate::service::{IN_THE_LOG, Refusal, is_own};

/// The content type of every failure.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// A result whose error is a [`Problem`].
pub(crate) type Result<T, E = Problem> = std::result::Result<T, E>;

/// Why a request got no result.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    code: Code,
    form: Box<Form>,
    retry_after: Option<Duration>,
}

/// A [`Problem`] as JSON writes it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct Form {
    /// Where this kind of problem is explained, on this server.
    #[serde(rename = "type")]
    kind: String,
    /// The kind of problem, for people.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What went wrong this time, for people.
    detail: String,
    /// The kind of problem, for programs. Stable.
    code: &'static str,
    /// Whether the same request may succeed later without any change.
    retryable: bool,
    /// What to do about it, with the setting that would allow what was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// The command that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    exec_id: Option<String>,
    /// Where that command is.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// Every field of the body that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<BadField>,
}

/// A field of the body that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct BadField {
    /// The field, as a JSON pointer (RFC 6901).
    pub(super) pointer: String,
    /// What is wrong with it.
    pub(super) detail: String,
}

/// The kinds of problems: those of the library, and those that only a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    MalformedRequest,
    HostNotAllowed,
    OriginNotAllowed,
    UserNotAllowed,
    TokenMissing,
    TokenInvalid,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    AlreadyEnded,
    InputClosed,
    InputNotRead,
    BodyTooLarge,
    UnsupportedEncoding,
    IdempotencyKeyReused,
    Busy,
    Closing,
    InvalidRequest,
    InvalidSettings,
    PolicyDenied,
    CommandNotFound,
    CommandNotExecutable,
    SandboxUnavailable,
    SandboxLost,
    FileFailed,
    ConnectionFailed,
    Conflict,
    WaitFailed,
    ResourceExhausted,
    Internal,
}

impl Code {
    /// All of them, in the order of the documentation.
    pub(super) const ALL: [Self; 30] = [
        Self::MalformedRequest,
        Self::HostNotAllowed,
        Self::OriginNotAllowed,
        Self::UserNotAllowed,
        Self::TokenMissing,
        Self::TokenInvalid,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::AlreadyEnded,
        Self::InputClosed,
        Self::InputNotRead,
        Self::BodyTooLarge,
        Self::UnsupportedEncoding,
        Self::IdempotencyKeyReused,
        Self::Busy,
        Self::Closing,
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

    /// Its status, its stable name, and what it is called for people.
    fn facts(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::MalformedRequest => {
                (S::BAD_REQUEST, "malformed_request", "The request cannot be read")
            }
            Self::HostNotAllowed => {
                (S::FORBIDDEN, "host_not_allowed", "The server does not go by this name")
            }
            Self::OriginNotAllowed => {
                (S::FORBIDDEN, "origin_not_allowed", "This web page may not call the server")
            }
            Self::UserNotAllowed => {
                (S::FORBIDDEN, "user_not_allowed", "This user may not call the server")
            }
            Self::TokenMissing => (S::UNAUTHORIZED, "token_missing", "The server asks for a token"),
            Self::TokenInvalid => {
                (S::UNAUTHORIZED, "token_invalid", "The token is not the server's")
            }
            Self::NotFound => (S::NOT_FOUND, "not_found", "There is nothing here"),
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not for this path")
            }
            Self::RequestTimeout => {
                (S::REQUEST_TIMEOUT, "request_timeout", "The body did not arrive in time")
            }
            Self::AlreadyEnded => (S::CONFLICT, "already_ended", "The command has ended"),
            Self::InputClosed => {
                (S::CONFLICT, "input_closed", "The command's standard input is closed")
            }
            Self::InputNotRead => {
                (S::CONFLICT, "input_not_read", "The command does not read its standard input")
            }
            Self::BodyTooLarge => (S::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too long"),
            Self::UnsupportedEncoding => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_encoding",
                "The body is in an encoding that the server does not know",
            ),
            Self::IdempotencyKeyReused => (
                S::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "The key was used for another request",
            ),
            Self::Busy => (S::TOO_MANY_REQUESTS, "busy", "The server has enough to do"),
            Self::Closing => (S::SERVICE_UNAVAILABLE, "closing", "The server is ending"),
            Self::InvalidRequest => {
                (S::UNPROCESSABLE_ENTITY, "invalid_request", "The request cannot be meant")
            }
            Self::InvalidSettings => {
                (S::INTERNAL_SERVER_ERROR, "invalid_settings", "The server's settings are wrong")
            }
            Self::PolicyDenied => {
                (S::FORBIDDEN, "policy_denied", "The server's settings forbid this")
            }
            Self::CommandNotFound => {
                (S::UNPROCESSABLE_ENTITY, "command_not_found", "The program was not found")
            }
            Self::CommandNotExecutable => (
                S::UNPROCESSABLE_ENTITY,
                "command_not_executable",
                "The program cannot be executed",
            ),
            Self::SandboxUnavailable => {
                (S::SERVICE_UNAVAILABLE, "sandbox_unavailable", "There is no sandbox to be had")
            }
            Self::SandboxLost => (S::BAD_GATEWAY, "sandbox_lost", "The sandbox was lost"),
            Self::FileFailed => {
                (S::CONFLICT, "file_failed", "The file is missing, in the way or not permitted")
            }
            Self::ConnectionFailed => {
                (S::BAD_GATEWAY, "connection_failed", "Nothing in the sandbox listens on the port")
            }
            Self::Conflict => {
                (S::CONFLICT, "conflict", "Somebody else has changed what was to be changed")
            }
            Self::WaitFailed => {
                (S::GATEWAY_TIMEOUT, "wait_failed", "What was waited for did not come")
            }
            Self::ResourceExhausted => {
                (S::SERVICE_UNAVAILABLE, "resource_exhausted", "The machine ran out of something")
            }
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "openbrain failed"),
        }
    }

    /// The HTTP status.
    pub(super) fn status(self) -> StatusCode {
        self.facts().0
    }

    /// Every HTTP status that it may have: a failure about a file has the one that fits it.
    pub(super) fn statuses(self) -> Vec<StatusCode> {
        match self {
            Self::FileFailed => vec![
                StatusCode::FORBIDDEN,
                StatusCode::NOT_FOUND,
                self.status(),
                StatusCode::GATEWAY_TIMEOUT,
                StatusCode::INSUFFICIENT_STORAGE,
            ],
            other => vec![other.status()],
        }
    }

    /// The stable name.
    pub(super) fn name(self) -> &'static str {
        self.facts().1
    }

    /// What it is called for people.
    pub(super) fn title(self) -> &'static str {
        self.facts().2
    }

    /// Whether the same request may succeed later.
    fn is_retryable(self) -> bool {
        matches!(self, Self::RequestTimeout | Self::Busy | Self::Closing | Self::ResourceExhausted)
    }

    /// Whether the rest of the request is still on its way, so that the connection has to end.
    fn ends_connection(self) -> bool {
        matches!(self, Self::RequestTimeout | Self::BodyTooLarge)
    }

    fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidRequest => Self::InvalidRequest,
            ErrorKind::InvalidSettings => Self::InvalidSettings,
            ErrorKind::PolicyDenied => Self::PolicyDenied,
            ErrorKind::CommandNotFound => Self::CommandNotFound,
            ErrorKind::CommandNotExecutable => Self::CommandNotExecutable,
            ErrorKind::SandboxUnavailable => Self::SandboxUnavailable,
            ErrorKind::SandboxLost => Self::SandboxLost,
            ErrorKind::FileFailed => Self::FileFailed,
            ErrorKind::ConnectionFailed => Self::ConnectionFailed,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::WaitFailed => Self::WaitFailed,
            ErrorKind::ResourceExhausted => Self::ResourceExhausted,
            // The library may come to know more kinds than this file.
            _ => Self::Internal,
        }
    }
}

impl Problem {
    /// A problem of this kind: `detail` says what went wrong this time.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        let form = Form {
            kind: format!("/docs#{}", code.name()),
            title: code.title(),
            status: code.status().as_u16(),
            detail: detail.into(),
            code: code.name(),
            retryable: code.is_retryable(),
            remedy: None,
            exec_id: None,
            instance: None,
            errors: Vec::new(),
        };
        let busy = matches!(code, Code::ResourceExhausted | Code::Closing | Code::Busy);
        let retry_after = busy.then_some(Duration::from_secs(1));
        Self { code, form: Box::new(form), retry_after }
    }

    /// The request as a whole can be read, and something in it cannot be meant.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// The request cannot be read.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Code::MalformedRequest, detail)
    }

    /// These fields of the body are wrong.
    pub(super) fn fields(errors: Vec<BadField>) -> Self {
        let details: Vec<_> = errors.iter().map(|error| error.detail.as_str()).collect();
        let mut problem = Self::invalid(details.join("; "));
        problem.form.errors = errors;
        problem
    }

    /// Says what to do about it.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.form.remedy = Some(remedy.into());
        self
    }

    /// Says which command it is about.
    pub(super) fn of_exec(mut self, exec_id: &str) -> Self {
        self.form.instance = Some(format!("/v1/execs/{exec_id}"));
        self.form.exec_id = Some(exec_id.to_owned());
        self
    }

    /// The problem as JSON writes it.
    pub(super) fn form(&self) -> &Form {
        &self.form
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> Code {
        self.code
    }
}

impl From<&Error> for Problem {
    /// What the library says, except for what only the log of the server should.
    fn from(error: &Error) -> Self {
        let code = Code::of(error.kind());
        if is_own(error) {
            return Self::new(code, IN_THE_LOG);
        }
        let mut problem = Self::new(code, error.to_string());
        if code == Code::FileFailed {
            problem.form.status = status_of_file(error.io_kind()).as_u16();
        }
        problem.form.retryable = error.retryable();
        problem.form.remedy = error.remedy().map(str::to_owned);
        problem
    }
}

/// The status of a failure about a file: without a better one, that its state is in the way.
fn status_of_file(kind: Option<io::ErrorKind>) -> StatusCode {
    use io::ErrorKind as K;
    match kind {
        Some(K::NotFound) => StatusCode::NOT_FOUND,
        Some(K::PermissionDenied | K::ReadOnlyFilesystem) => StatusCode::FORBIDDEN,
        Some(K::StorageFull | K::QuotaExceeded | K::FileTooLarge) => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        Some(K::TimedOut) => StatusCode::GATEWAY_TIMEOUT,
        _ => Code::FileFailed.status(),
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Library(error) => Self::from(&error),
            Refusal::Busy { retry_after } => {
                let detail = "as many commands run and wait as the settings allow";
                let mut problem = Self::new(Code::Busy, detail).remedy(
                    "try again later; the keys are `server.max_execs` and `server.max_queue`",
                );
                problem.retry_after = Some(retry_after);
                problem
            }
            Refusal::TooManySandboxes => {
                Self::new(Code::Busy, "as many sandboxes are open as the settings allow").remedy(
                    "end one, or wait until one has ended; the key is `server.max_sandboxes`",
                )
            }
            Refusal::Closing => Self::new(Code::Closing, "the server starts nothing any more"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // A form has texts and numbers only, which JSON can always write.
        let body = serde_json::to_vec(&self.form).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(self.form.status).unwrap_or(self.code.status());
        let mut set = |name: HeaderName, value: HeaderValue| {
            response.headers_mut().insert(name, value);
        };
        set(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        match self.code {
            // RFC 6750, section 3: who sent no token is told of no error.
            Code::TokenMissing => {
                set(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Bearer realm=\"openbrain\""),
                );
            }
            Code::TokenInvalid => set(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"openbrain\", error=\"invalid_token\""),
            ),
            _ => {}
        }
        if let Some(after) = self.retry_after {
            let seconds = after.as_millis().div_ceil(1000).clamp(1, 3600) as u64;
            set(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code.ends_connection() {
            set(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Duration, ErrorKind, IntoResponse, Problem, Refusal, header};

    #[test]
    fn the_library_s_codes_keep_their_names() {
        for &kind in ErrorKind::ALL {
            assert_eq!(Code::of(kind).name(), kind.code());
        }
    }

    #[test]
    fn every_code_is_listed_once() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        for kind in ErrorKind::ALL {
            assert!(names.contains(&kind.code()), "{kind:?}");
        }
    }

    #[test]
    fn who_is_busy_says_for_how_long() {
        for (wait, text) in [(0, "1"), (1, "1"), (1001, "2"), (9_999_999, "3600")] {
            let retry_after = Duration::from_millis(wait);
            let response = Problem::from(Refusal::Busy { retry_after }).into_response();
            assert_eq!(response.status().as_u16(), 429);
            assert_eq!(response.headers()[header::RETRY_AFTER], text);
        }
    }

    #[test]
    fn only_a_wrong_token_is_called_invalid() {
        let challenge = |code| {
            let response = Problem::new(code, "").into_response();
            response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned()
        };
        assert_eq!(challenge(Code::TokenMissing), "Bearer realm=\"openbrain\"");
        assert!(challenge(Code::TokenInvalid).ends_with("error=\"invalid_token\""));
    }
}
