//! What a caller can do to a command that runs: write to it, signal it, end it.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use openbrain::nearest;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    fields,
    problem::{Code, Problem, Result},
    state::{App, Named, Query},
    view::standing,
};
use crate::service::{InputFailure, Kept};

/// How long the end of a command is waited for: it has half a second between TERM and KILL.
const END: Duration = Duration::from_secs(5);

/// The signals of Linux that have a name (`signal(7)`), which on every platform of ours have these
/// numbers.
const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Which signal.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SignalRequest")]
pub(super) struct SignalRequest {
    /// `TERM`, `SIGTERM` or 15.
    signal: NameOrNumber,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected the name or the number of a signal")]
#[schemars(inline)]
enum NameOrNumber {
    Number(#[schemars(range(min = 1, max = 64))] i32),
    Name(String),
}

/// Whether the input ends with these bytes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct InputQuery {
    /// Whether the command is to see the end of its input after these bytes. Default: false.
    eof: bool,
}

/// Writes bytes to the standard input of a command.
pub(super) async fn stdin(
    State(app): State<App>,
    Named(kept): Named,
    Query(query): Query<InputQuery>,
    request: Request,
) -> Result<StatusCode> {
    let (parts, body) = request.into_parts();
    let read = app.bodies.read(&parts.headers, body).await?;
    let written = kept.write(&read.bytes, query.eof).await;
    written.map(|()| StatusCode::NO_CONTENT).map_err(|failure| no_input(failure, &kept))
}

fn no_input(failure: InputFailure, kept: &Kept) -> Problem {
    let problem = match failure {
        InputFailure::NoPipe => Problem::invalid("the command was started without an open input")
            .remedy("start it with `\"stdin\": {\"pipe\": true}`"),
        InputFailure::Closed => {
            Problem::new(Code::InputClosed, "the command has closed its input, or has ended")
        }
        InputFailure::NotRead(written) => Problem::new(
            Code::InputNotRead,
            format!("the command does not read its input: {written} of these bytes were written"),
        )
        .remedy("send the rest when it reads, or end the command"),
    };
    problem.of_exec(kept.exec_id())
}

/// Sends a signal to the process group of a command.
pub(super) async fn signal(
    State(app): State<App>,
    Named(kept): Named,
    request: Request,
) -> Result<StatusCode> {
    let (parts, body) = request.into_parts();
    let read = app.bodies.read(&parts.headers, body).await?;
    let signal = number(&read.bytes)?;
    if kept.progress().ended {
        let problem = Problem::new(Code::AlreadyEnded, "the command has ended");
        return Err(problem.of_exec(kept.exec_id()));
    }
    kept.signal(signal);
    Ok(StatusCode::NO_CONTENT)
}

fn number(json: &[u8]) -> Result<i32> {
    match fields::read_as::<SignalRequest>(json, r#"{"signal": "TERM"}"#)?.signal {
        // The last real-time signal is 64.
        NameOrNumber::Number(number @ 1..=64) => Ok(number),
        NameOrNumber::Number(number) => {
            Err(Problem::invalid(format!("{number} is no signal: they are 1 to 64")))
        }
        NameOrNumber::Name(name) => named(&name),
    }
}

fn named(name: &str) -> Result<i32> {
    let upper: String = name.chars().take(16).collect::<String>().to_ascii_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == plain) {
        return Ok(*number);
    }
    let near = nearest(plain, SIGNALS.map(|(name, _)| name));
    let hint = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
    Err(Problem::invalid(format!("`{plain}` is no signal{hint}")))
}

/// Ends a command: TERM, half a second later KILL to all its processes. One that has ended stays as
/// it is.
pub(super) async fn delete(State(app): State<App>, Named(kept): Named) -> Result<Response> {
    kept.cancel();
    let ended = timeout(END, kept.ended()).await.is_ok();
    let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    standing(&app.answers, status, &kept).await
}

#[cfg(test)]
mod tests {
    use super::{Code, number};

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        for (json, expected) in [
            (r#"{"signal":"TERM"}"#, 15),
            (r#"{"signal":"SIGTERM"}"#, 15),
            (r#"{"signal":"sigusr1"}"#, 10),
            (r#"{"signal":9}"#, 9),
            (r#"{"signal":64}"#, 64),
        ] {
            assert_eq!(number(json.as_bytes()).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for json in [
            r#"{"signal":0}"#,
            r#"{"signal":65}"#,
            r#"{"signal":-9}"#,
            r#"{"signal":1.5}"#,
            r#"{"signal":"TREM"}"#,
            r#"{"signal":""}"#,
            r#"{"signal":null}"#,
            r#"{"signal":15,"x":1}"#,
            r#"{}"#,
            r#"[15]"#,
        ] {
            assert_eq!(number(json.as_bytes()).unwrap_err().code(), Code::InvalidRequest, "{json}");
        }
        assert_eq!(number(b"15 ").unwrap_err().code(), Code::InvalidRequest);
        assert_eq!(number(b"signal=15").unwrap_err().code(), Code::MalformedRequest);
        let problem = number(br#"{"signal":"TREM"}"#).unwrap_err();
        let form = serde_json::to_value(problem.form()).unwrap();
        assert!(form["detail"].as_str().unwrap().contains("`TERM`"), "{form}");
    }
}
