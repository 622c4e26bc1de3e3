//! [`Output`] as JSON writes it: flat, with the same names on every edge.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackendName, Captured, Denial, Output, Resources, Start, Status};
use crate::{changes::Changes, sandbox::Isolation};

/// What became of a command that was started: what it printed, how it ended, and what was enforced
/// around it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct OutputForm<'a> {
    /// How the command ended.
    status: StatusName,
    /// The exit code; null unless the command ended by itself.
    exit_code: Option<i32>,
    /// The signal that ended the command, if one did.
    signal: Option<i32>,
    /// Whether the command ended by itself with exit code 0.
    success: bool,
    /// Whether the deadline ended the command.
    timed_out: bool,
    /// What was kept of standard output, as text; invalid UTF-8 is replaced.
    stdout: Cow<'a, str>,
    /// What was kept of standard error, as text; invalid UTF-8 is replaced.
    stderr: Cow<'a, str>,
    /// The exact bytes of `stdout`, in base64; there only when they are not valid UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<String>,
    /// The exact bytes of `stderr`, in base64; there only when they are not valid UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<String>,
    /// Whether the middle of `stdout` is missing.
    stdout_truncated: bool,
    /// Whether the middle of `stderr` is missing.
    stderr_truncated: bool,
    /// How many bytes of standard output there were.
    stdout_bytes: u64,
    /// How many bytes of standard error there were.
    stderr_bytes: u64,
    /// From start to end.
    duration_ms: u64,
    /// When the command was started, RFC 3339.
    started_at: String,
    /// Where it ran.
    backend: BackendName,
    /// The sandbox it ran in, where sandboxes have names.
    sandbox_id: Option<Cow<'a, str>>,
    /// Whether its sandbox was made for it or was ready, of the embedded engine; null for a command
    /// that had no sandbox of its own.
    #[serde(default)]
    start: Option<Start>,
    /// Name of this execution, unique and unguessable.
    exec_id: Cow<'a, str>,
    /// What was really enforced.
    isolation: Cow<'a, Isolation>,
    /// What the command used, as far as the backend knows.
    resources: Cow<'a, Resources>,
    /// What the sandbox refused, as far as it knows.
    denials: Cow<'a, [Denial]>,
    /// What the command has changed; there only when that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changes: Option<Cow<'a, Changes>>,
    /// What the caller should know that is no failure.
    warnings: Cow<'a, [String]>,
}

/// How a command ended.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum StatusName {
    /// It ended by itself.
    Exited,
    /// A signal ended it.
    Signaled,
    /// Its deadline passed and all its processes were killed.
    TimedOut,
    /// The caller ended it.
    Cancelled,
}

impl<'a> From<&'a Output> for OutputForm<'a> {
    fn from(output: &'a Output) -> Self {
        let Output {
            status,
            stdout,
            stderr,
            duration,
            started_at,
            backend,
            sandbox_id,
            start,
            exec_id,
            isolation,
            resources,
            denials,
            changes,
            warnings,
        } = output;
        Self {
            status: match status {
                Status::Exited(_) => StatusName::Exited,
                Status::Signaled(_) => StatusName::Signaled,
                Status::TimedOut => StatusName::TimedOut,
                Status::Cancelled => StatusName::Cancelled,
            },
            exit_code: output.exit_code(),
            signal: output.signal(),
            success: output.success(),
            timed_out: output.timed_out(),
            stdout: String::from_utf8_lossy(&stdout.bytes),
            stderr: String::from_utf8_lossy(&stderr.bytes),
            stdout_base64: exact(stdout),
            stderr_base64: exact(stderr),
            stdout_truncated: stdout.truncated,
            stderr_truncated: stderr.truncated,
            stdout_bytes: stdout.total,
            stderr_bytes: stderr.total,
            duration_ms: duration.as_millis() as u64,
            started_at: humantime::format_rfc3339_millis(*started_at).to_string(),
            backend: *backend,
            sandbox_id: sandbox_id.as_deref().map(Cow::Borrowed),
            start: *start,
            exec_id: Cow::Borrowed(exec_id),
            isolation: Cow::Borrowed(isolation),
            resources: Cow::Borrowed(resources),
            denials: Cow::Borrowed(denials),
            changes: changes.as_ref().map(Cow::Borrowed),
            warnings: Cow::Borrowed(warnings),
        }
    }
}

impl TryFrom<OutputForm<'_>> for Output {
    type Error = String;

    /// Reads what was written, down to milliseconds.
    fn try_from(form: OutputForm<'_>) -> Result<Self, String> {
        let status = match (form.status, form.exit_code, form.signal) {
            (StatusName::Exited, Some(code), None) => Status::Exited(code),
            (StatusName::Signaled, None, Some(signal)) => Status::Signaled(signal),
            (StatusName::TimedOut, None, None) => Status::TimedOut,
            (StatusName::Cancelled, None, None) => Status::Cancelled,
            _ => return Err("status, exit_code and signal do not fit together".into()),
        };
        let stdout = (form.stdout, form.stdout_base64, form.stdout_truncated, form.stdout_bytes);
        let stderr = (form.stderr, form.stderr_base64, form.stderr_truncated, form.stderr_bytes);
        Ok(Self {
            status,
            stdout: captured(stdout)?,
            stderr: captured(stderr)?,
            duration: Duration::from_millis(form.duration_ms),
            started_at: time(&form.started_at)?,
            backend: form.backend,
            sandbox_id: form.sandbox_id.map(Cow::into_owned),
            start: form.start,
            exec_id: form.exec_id.into_owned(),
            isolation: form.isolation.into_owned(),
            resources: form.resources.into_owned(),
            denials: form.denials.into_owned(),
            changes: form.changes.map(Cow::into_owned),
            warnings: form.warnings.into_owned(),
        })
    }
}

/// The bytes in base64, when their text is not exact.
fn exact(captured: &Captured) -> Option<String> {
    std::str::from_utf8(&captured.bytes).is_err().then(|| BASE64.encode(&captured.bytes))
}

fn captured(
    (text, base64, truncated, total): (Cow<'_, str>, Option<String>, bool, u64),
) -> Result<Captured, String> {
    let bytes = match base64 {
        None => text.into_owned().into_bytes(),
        Some(base64) => BASE64.decode(base64).map_err(|error| error.to_string())?,
    };
    Ok(Captured { bytes, truncated, total })
}

fn time(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use crate::{BackendName, Captured, Changes, Isolation, Output, Resources, Start, Status};

    fn output(status: Status, stdout: &[u8]) -> Output {
        Output {
            status,
            stdout: Captured { bytes: stdout.into(), truncated: true, total: 99 },
            stderr: Captured::default(),
            duration: Duration::from_millis(1234),
            started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
            backend: BackendName::Embedded,
            sandbox_id: None,
            start: Some(Start::Warm),
            exec_id: "exec_1".into(),
            isolation: Isolation::none(),
            resources: Resources { cpu_ms: Some(3), ..Resources::default() },
            denials: Vec::new(),
            changes: Some(Changes::default()),
            warnings: vec!["careful".into()],
        }
    }

    #[test]
    fn a_result_reads_back() {
        for status in [Status::Exited(3), Status::Signaled(9), Status::TimedOut, Status::Cancelled]
        {
            for stdout in [&b"text"[..], b"\xff\0"] {
                let json = serde_json::to_value(output(status, stdout)).unwrap();
                let read: Output = serde_json::from_value(json.clone()).unwrap();
                assert_eq!(read.stdout.bytes, stdout);
                assert_eq!(read.status, status);
                assert_eq!(serde_json::to_value(read).unwrap(), json);
            }
        }
    }

    #[test]
    fn exact_bytes_are_there_only_where_the_text_is_not() {
        let json = |bytes: &[u8]| serde_json::to_value(output(Status::Exited(0), bytes)).unwrap();
        assert_eq!(json(b"a").get("stdout_base64"), None);
        assert_eq!(json(b"\xff")["stdout_base64"], "/w==");
    }

    #[test]
    fn the_schema_knows_every_field() {
        let schema = schemars::schema_for!(Output);
        let json = serde_json::to_value(output(Status::Exited(0), b"\xff")).unwrap();
        for name in json.as_object().unwrap().keys() {
            assert!(schema.pointer(&format!("/properties/{name}")).is_some(), "{name}");
        }
    }
}
