//! What a call about a sandbox that stays open returns: as [`report`](super::report) for commands, the
//! same facts as text and as structured content.

use openbrain::{BackendName, Data, FileEntry, FileKind};
use rmcp::model::{CallToolResult, ContentBlock};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    failure::Failure,
    report::Walls,
    sandbox_tools::{END_SANDBOX, READ_FILE},
    tools::EXEC_COMMAND,
};
use crate::{moment::rfc3339, service::OpenSandbox};

/// Warnings that are told.
const REMARKS: usize = 10;

/// Characters of the names in a list, together.
const NAMES: usize = 20_000;

/// How a sandbox stands, or what was done in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(super) struct SandboxReport {
    /// `open` or `ended` for the sandbox, `done` for work on its files, and `not_done` when openbrain
    /// did not do what it was asked.
    pub(super) status: State,
    /// The handle of the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) sandbox_id: Option<String>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BackendName")]
    backend: Option<BackendName>,
    /// What is enforced around everything in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Walls")]
    isolation: Option<Walls>,
    /// When it ends by itself, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    expires_at: Option<String>,
    /// The file or directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    path: Option<String>,
    /// What is in the file, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    content: Option<String>,
    /// What is in the file, in base64, when it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    content_base64: Option<String>,
    /// The first byte of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    offset: Option<u64>,
    /// Where to read on, when there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    next_offset: Option<u64>,
    /// Bytes that were written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    written: Option<u64>,
    /// The files that were found, by path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<Entry>")]
    files: Option<Vec<Entry>>,
    /// Whether there are more files than these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    truncated: Option<bool>,
    /// What the caller should know that is no failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    warnings: Vec<String>,
    /// Why openbrain did not do what it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Failure")]
    error: Option<Failure>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    next: Option<String>,
}

/// How a sandbox stands, or whether something was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Open,
    Ended,
    Done,
    #[default]
    NotDone,
}

/// A file in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Entry {
    /// Its path below the directory.
    path: String,
    /// What it is; links are not followed.
    kind: FileKind,
    /// Bytes.
    size: u64,
    /// Permissions in octal digits.
    mode: String,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    target: Option<String>,
}

/// A text and the report that says the same.
#[derive(Debug)]
pub(super) struct SandboxAnswer {
    text: String,
    report: SandboxReport,
}

/// A part of a file.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: String,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    /// Whether there is more.
    pub(super) goes_on: bool,
}

/// The sandbox is open.
pub(super) fn open(open: &OpenSandbox) -> SandboxAnswer {
    let (id, sandbox) = (open.id(), open.sandbox());
    let (walls, until) = (Walls::of(sandbox.isolation()), rfc3339(sandbox.expires_at()));
    let warnings: Vec<_> = sandbox.warnings().take(REMARKS).map(str::to_owned).collect();
    let next = format!(
        "run commands in it with {EXEC_COMMAND} {{\"command\": \"…\", \"sandbox_id\": \"{id}\"}}, and \
         end it with {END_SANDBOX}"
    );
    let mut text = format!(
        "[sandbox {id} is open until {until}; network: {}]\n[{next}]\n",
        sandbox.isolation().network
    );
    warnings.iter().for_each(|warning| text.push_str(&format!("[warning: {warning}]\n")));
    let report = SandboxReport {
        backend: Some(sandbox.backend()),
        isolation: Some(walls),
        expires_at: Some(until),
        warnings,
        next: Some(next),
        ..SandboxReport::of(State::Open, id)
    };
    SandboxAnswer { text, report }
}

/// The sandbox has ended.
pub(super) fn ended(id: &str) -> SandboxAnswer {
    let text = format!("[sandbox {id} has ended with everything in it]");
    SandboxAnswer { text, report: SandboxReport::of(State::Ended, id) }
}

/// A part of a file was read.
pub(super) fn read(id: &str, part: Part) -> SandboxAnswer {
    let Part { path, offset, bytes, goes_on } = part;
    let end = offset + bytes.len() as u64;
    let quoted = serde_json::Value::from(path.as_str());
    let next = goes_on.then(|| {
        format!(
            "read on with {READ_FILE} {{\"sandbox_id\": \"{id}\", \"path\": {quoted}, \
             \"offset\": {end}}}"
        )
    });
    let rest = if goes_on { ", and there is more" } else { ", the end of the file" };
    let mut text = format!("[bytes {offset} to {end} of {}{rest}]\n", shown(&path));
    let (content, content_base64) = match Data::from(bytes) {
        Data::Data(content) => {
            text.push_str(&content);
            (Some(content), None)
        }
        Data::DataBase64(content) => {
            text.push_str("[it is no text; in base64]\n");
            text.push_str(&content);
            (None, Some(content))
        }
    };
    if let Some(next) = &next {
        text.push_str(&format!("\n[{next}]"));
    }
    let report = SandboxReport {
        path: Some(path),
        content,
        content_base64,
        offset: Some(offset),
        next_offset: goes_on.then_some(end),
        next,
        ..SandboxReport::of(State::Done, id)
    };
    SandboxAnswer { text, report }
}

/// A file was written.
pub(super) fn written(id: &str, path: String, bytes: u64) -> SandboxAnswer {
    let text = format!("[{bytes} bytes were written to {}]", shown(&path));
    let report = SandboxReport {
        path: Some(path),
        written: Some(bytes),
        ..SandboxReport::of(State::Done, id)
    };
    SandboxAnswer { text, report }
}

/// Files were found, perhaps more than have room.
pub(super) fn listed(id: &str, path: String, found: Vec<FileEntry>, more: bool) -> SandboxAnswer {
    let (mut room, all) = (NAMES, found.len());
    let files: Vec<_> = found
        .into_iter()
        .map(Entry::of)
        .take_while(|entry| {
            let length = entry.path.len() + entry.target.as_ref().map_or(0, String::len) + 40;
            room = room.saturating_sub(length);
            room > 0
        })
        .collect();
    let truncated = more || files.len() < all;
    let count = files.len();
    let rest = if truncated { ", and there are more" } else { "" };
    let mut text = format!("[{count} files in {}{rest}]\n", shown(&path));
    files.iter().for_each(|entry| text.push_str(&entry.line()));
    let next = truncated.then(|| "name fewer with `pattern`, or a directory below".to_owned());
    if let Some(next) = &next {
        text.push_str(&format!("[{next}]"));
    }
    let report = SandboxReport {
        path: Some(path),
        files: Some(files),
        truncated: Some(truncated),
        next,
        ..SandboxReport::of(State::Done, id)
    };
    SandboxAnswer { text, report }
}

impl SandboxReport {
    fn of(status: State, id: &str) -> Self {
        Self { status, sandbox_id: Some(id.to_owned()), ..Self::default() }
    }
}

impl Entry {
    fn of(entry: FileEntry) -> Self {
        Self {
            path: entry.path.to_string_lossy().into_owned(),
            kind: entry.kind,
            size: entry.size,
            mode: format!("{:04o}", entry.mode),
            target: entry.target.map(|target| target.to_string_lossy().into_owned()),
        }
    }

    fn line(&self) -> String {
        let Self { path, kind, size, mode, target } = self;
        let target = target.as_ref().map(|target| format!(" -> {}", shown(target)));
        let kind = kind.as_str();
        format!("{kind:9} {mode} {size:>10} {}{}\n", shown(path), target.unwrap_or_default())
    }
}

/// A path in one line: what would break it, or be taken for something else, is written out.
fn shown(path: &str) -> String {
    match path.chars().any(char::is_control) {
        true => format!("{path:?}"),
        false => path.to_owned(),
    }
}

impl SandboxAnswer {
    /// The result of a call that was done, or was not.
    pub(super) fn result(answer: Result<Self, Failure>) -> CallToolResult {
        let is_error = answer.is_err();
        let Self { text, report } = answer.unwrap_or_else(|failure| {
            let failure = failure.short();
            let text = failure.text();
            Self {
                text,
                report: SandboxReport { error: Some(failure), ..SandboxReport::default() },
            }
        });
        let mut result = CallToolResult::success(vec![ContentBlock::text(text.trim_end())]);
        result.structured_content = serde_json::to_value(report).ok();
        result.is_error = Some(is_error);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, SandboxAnswer, listed, read};

    fn part(bytes: &[u8], goes_on: bool) -> SandboxAnswer {
        read("sbx_1", Part { path: "/a b".into(), offset: 5, bytes: bytes.to_vec(), goes_on })
    }

    #[test]
    fn a_part_of_a_file_says_where_it_goes_on() {
        let answer = part(b"text\n", true);
        let next = r#"read_file {"sandbox_id": "sbx_1", "path": "/a b", "offset": 10}"#;
        assert!(answer.text.contains(next), "{}", answer.text);
        assert_eq!(answer.report.next_offset, Some(10));
        assert_eq!(answer.report.content.as_deref(), Some("text\n"));
        let answer = part(b"text", false);
        assert_eq!(answer.text, "[bytes 5 to 9 of /a b, the end of the file]\ntext");
        assert_eq!((answer.report.next, answer.report.next_offset), (None, None));
    }

    #[test]
    fn what_is_no_text_is_base64_in_both_forms() {
        let answer = part(b"\xff\x00", false);
        assert!(answer.text.ends_with("in base64]\n/wA="), "{}", answer.text);
        assert_eq!(answer.report.content_base64.as_deref(), Some("/wA="));
        assert_eq!(answer.report.content, None);
    }

    #[test]
    fn an_empty_list_says_so() {
        let answer = listed("sbx_1", "/tmp".into(), Vec::new(), false);
        assert_eq!(answer.text, "[0 files in /tmp]\n");
        assert_eq!((answer.report.files, answer.report.truncated), (Some(vec![]), Some(false)));
    }
}
