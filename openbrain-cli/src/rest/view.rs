//! How commands that are remembered appear in JSON.

use std::sync::Arc;

use axum::{
    BoxError,
    body::{Body, Bytes},
    response::Response,
};
use futures_util::stream::{Stream, TryStreamExt, try_unfold};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use openbrain::{BackendName, Command, Isolation, Output};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    accept::JSON,
    long::{self, Room},
    problem::{self, Form, Problem},
};
use crate::{moment::rfc3339, service::Kept};

/// The content type of bytes of any kind.
pub(super) const BYTES: &str = "application/octet-stream";

/// How much of a command is shown.
const SHOWN: usize = 200;

/// A command that is remembered.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ExecState")]
pub(super) struct ExecView {
    #[serde(flatten)]
    summary: Summary,
    /// What is enforced around it.
    isolation: Isolation,
    /// The result, once it has ended.
    result: Option<Output>,
    /// Why there is no result though it has ended.
    error: Option<Form>,
}

/// A command in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ExecSummary")]
pub(super) struct Summary {
    /// Its name, unique and unguessable.
    exec_id: String,
    /// Whether it runs.
    state: State,
    /// The beginning of what was asked for, in one line.
    command: String,
    /// The open sandbox that it runs in, when it was started in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<String>,
    /// Where it runs.
    backend: BackendName,
    /// When it was started, RFC 3339.
    started_at: String,
    /// Bytes of standard output so far.
    stdout_bytes: u64,
    /// Bytes of standard error so far.
    stderr_bytes: u64,
}

/// Whether a command runs.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum State {
    /// It runs.
    Running,
    /// It has ended.
    Ended,
}

/// The commands of a caller, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ExecList")]
pub(super) struct List {
    /// The commands.
    pub(super) execs: Vec<Summary>,
    /// What to send as `after` for the rest of the list; null at its end.
    pub(super) next: Option<String>,
}

impl ExecView {
    pub(super) fn of(kept: &Kept) -> Self {
        let (result, error) = match kept.outcome().map(unshare) {
            None => (None, None),
            Some(Ok(output)) => (Some(output), None),
            Some(Err(problem)) => (None, Some(problem.form().clone())),
        };
        let isolation = kept.isolation().clone();
        Self { summary: Summary::of(kept), isolation, result, error }
    }
}

/// The outcome itself where nobody else has it.
fn unshare(outcome: Arc<openbrain::Result<Output>>) -> Result<Output, Problem> {
    match Arc::try_unwrap(outcome) {
        Ok(outcome) => outcome.map_err(Problem::from),
        Err(shared) => shared.as_ref().as_ref().cloned().map_err(Problem::from),
    }
}

/// How a command stands, as the answer: it may have a long result.
pub(super) async fn standing(
    room: &Room,
    status: StatusCode,
    kept: &Kept,
) -> problem::Result<Response> {
    // As long as it runs there is no result.
    let length = if kept.progress().ended { kept.cost() } else { 0 };
    let place = room.place(length).await?;
    Ok(json_holding(status, &ExecView::of(kept), place))
}

impl Summary {
    pub(super) fn of(kept: &Kept) -> Self {
        let progress = kept.progress();
        Self {
            exec_id: kept.exec_id().to_owned(),
            state: if progress.ended { State::Ended } else { State::Running },
            command: shown(&kept.exec().command),
            sandbox_id: kept.sandbox_id().map(str::to_owned),
            backend: kept.backend(),
            started_at: rfc3339(kept.started_at()),
            stdout_bytes: progress.stdout,
            stderr_bytes: progress.stderr,
        }
    }
}

/// The beginning of a command, in one line.
fn shown(command: &Command) -> String {
    let start = |text: &str| text.chars().take(SHOWN + 1).collect::<String>();
    let text = match command {
        Command::Shell(script) => start(script),
        Command::Script { language: _, source } => start(source),
        Command::Argv(argv) => {
            let words: Vec<_> = argv.iter().take(SHOWN).map(|word| start(word)).collect();
            start(&words.join(" "))
        }
    };
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A value as the answer.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    json_holding(status, value, ())
}

/// A value as the answer, which holds something until it is sent.
pub(super) fn json_holding<T: Send + Unpin + 'static>(
    status: StatusCode,
    value: &impl Serialize,
    held: T,
) -> Response {
    // Texts, numbers and maps with texts for keys, which JSON can always write.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(long::body(bytes, held));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

/// Pieces as the answer, which is made while it is sent, and takes up a place among the commands until
/// the last of them.
pub(super) fn download<E: Into<BoxError> + Send + 'static>(
    content_type: &str,
    pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    place: OwnedSemaphorePermit,
) -> Response {
    // With an error the connection ends, so that nobody takes a part for the whole.
    let pieces = try_unfold((Box::pin(pieces), place), async |(mut pieces, place)| {
        let piece = pieces.try_next().await?;
        Ok::<_, E>(piece.map(|piece| (piece, (pieces, place))))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    insert(response.headers_mut(), header::CONTENT_TYPE, content_type);
    response
}

/// Sets a header to a text that is always one: a name of ours, a number.
pub(super) fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use openbrain::Command;

    use super::{SHOWN, shown};

    #[test]
    fn a_command_is_shown_in_one_short_line() {
        assert_eq!(shown(&Command::Shell("a\nb\u{1b}c".into())), "a b c");
        assert_eq!(shown(&Command::Argv(vec!["ls".into(), "-l".into()])), "ls -l");
        let long = shown(&Command::Shell("é".repeat(1000)));
        assert_eq!(long.chars().count(), SHOWN + 1);
        assert!(long.ends_with("é…"));
    }
}
