//! What a call returns: the same facts as text and as structured content, each small and enough by
//! itself.

use std::time::{Duration, SystemTime};

use openbrain::{BackendName, Denial, Isolation, IsolationLevel, Output, Start, Status};
use rmcp::model::{CallToolResult, ContentBlock};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    changed::Changed,
    failure::Failure,
    text::{Excerpt, Pieces, lossy, plain, share},
    tools::EXEC_OUTPUT,
};
use crate::{moment::rfc3339, refused};

/// Characters of output in either form. With the lines around it a result stays below 30,000, which
/// no client is known to cut.
const OUTPUT: usize = 28_000;

/// Denials and warnings that are told; a command may cause any number.
const REMARKS: usize = 10;

/// How a command stands, and what it wrote: the names of the library's `Output`, cut down to what
/// stays small.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(super) struct Report {
    /// How the command ended, `running` before that, and `not_done` when openbrain did not do what
    /// it was asked.
    pub(super) status: State,
    /// The handle of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) exec_id: Option<String>,
    /// The exit code, when the command ended by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32")]
    pub(super) exit_code: Option<i32>,
    /// The signal that ended the command, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32")]
    pub(super) signal: Option<i32>,
    /// Whether the command ended by itself with exit code 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub(super) success: Option<bool>,
    /// Standard output, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) stdout: Option<String>,
    /// Standard error, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) stderr: Option<String>,
    /// Whether a part of standard output is missing in `stdout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub(super) stdout_truncated: Option<bool>,
    /// Whether a part of standard error is missing in `stderr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub(super) stderr_truncated: Option<bool>,
    /// Bytes of standard output so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub(super) stdout_bytes: Option<u64>,
    /// Bytes of standard error so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub(super) stderr_bytes: Option<u64>,
    /// The first byte of what is shown of the stream that was asked for; later than asked for when
    /// what came before is no longer kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub(super) offset: Option<u64>,
    /// Where to read on in the stream that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub(super) next_offset: Option<u64>,
    /// From start to end, or so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub(super) duration_ms: Option<u64>,
    /// When the command was started, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) started_at: Option<String>,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BackendName")]
    pub(super) backend: Option<BackendName>,
    /// What is enforced around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Walls")]
    pub(super) isolation: Option<Walls>,
    /// Whether its sandbox was made for it or was ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Start")]
    pub(super) start: Option<Start>,
    /// What it has changed, when that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Changed")]
    pub(super) changes: Option<Changed>,
    /// What the sandbox refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Refused>")]
    pub(super) denials: Vec<Refused>,
    /// What the caller should know that is no failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub(super) warnings: Vec<String>,
    /// Why openbrain did not do what it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Failure")]
    pub(super) error: Option<Failure>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) next: Option<String>,
}

/// How a command stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Running,
    Exited,
    Signaled,
    TimedOut,
    Cancelled,
    #[default]
    NotDone,
}

/// The library's `Isolation` without its details.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Walls {
    /// The kind of wall.
    level: IsolationLevel,
    /// What the command sees of the file system.
    filesystem: String,
    /// What the command reaches of the network.
    network: String,
}

/// The library's `Denial` without its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Refused {
    /// What was asked for: `host:port`, a path.
    what: String,
    /// Why it was refused.
    reason: String,
    /// The setting that would allow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    remedy: Option<String>,
    /// How many times.
    count: u64,
}

/// A command as it stands now.
#[derive(Debug)]
pub(super) struct Standing<'a> {
    pub(super) exec_id: &'a str,
    pub(super) backend: BackendName,
    pub(super) isolation: &'a Isolation,
    pub(super) started_at: SystemTime,
    /// The result, when there is one.
    pub(super) output: Option<&'a Output>,
    pub(super) stdout: Pieces,
    pub(super) stderr: Pieces,
}

/// A part of one stream.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) name: &'static str,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) total: u64,
}

/// A text and the report that says the same.
#[derive(Debug)]
pub(super) struct Answer {
    text: String,
    report: Report,
    is_error: bool,
}

impl Walls {
    pub(super) fn of(isolation: &Isolation) -> Self {
        let Isolation { level, filesystem, network, .. } = isolation;
        Self { level: *level, filesystem: filesystem.clone(), network: network.clone() }
    }
}

impl Standing<'_> {
    /// The command with the beginning and the end of both of its streams.
    pub(super) fn answer(&self) -> Answer {
        let [out, err] = self.excerpts(plain);
        let mut report = self.report();
        let cut = [out.cut, err.cut];
        report.next = self.next(cut);
        let mut text = self.headline();
        match (out.text.is_empty(), err.text.is_empty()) {
            (true, true) => text.push_str("(no output)\n"),
            (true, false) => push(&mut text, "[standard error]\n", &err.text),
            (false, true) => push(&mut text, "", &out.text),
            (false, false) => {
                push(&mut text, "", &out.text);
                push(&mut text, "[standard error]\n", &err.text);
            }
        }
        remark(&mut text, &report);
        let [out, err] = self.excerpts(lossy);
        (report.stdout_truncated, report.stderr_truncated) = (Some(out.cut), Some(err.cut));
        (report.stdout, report.stderr) = (Some(out.text), Some(err.text));
        self.finish(text, report)
    }

    /// The command with a part of one of its streams.
    pub(super) fn page(&self, page: Page) -> Answer {
        let Page { name, offset, bytes, total } = page;
        let end = offset + bytes.len() as u64;
        let mut report = self.report();
        (report.offset, report.next_offset) = (Some(offset), Some(end));
        let ended = self.output.is_some();
        report.next = match (end < total, ended) {
            (true, _) => Some(format!("read on with {}", self.read_on(name, end))),
            (false, false) => Some(format!("wait for more with {}", self.wait(name, end))),
            (false, true) => None,
        };
        let mut text = self.headline();
        text.push_str(&format!("[bytes {offset} to {end} of {total} of {name}]\n"));
        push(&mut text, "", &plain(&bytes));
        remark(&mut text, &report);
        let raw = Some(lossy(&bytes));
        match name {
            "stderr" => report.stderr = raw,
            _ => report.stdout = raw,
        }
        self.finish(text, report)
    }

    /// The command without its output.
    pub(super) fn brief(&self, done: &str) -> Answer {
        let mut report = self.report();
        report.next = self.next([false; 2]);
        let mut text = format!("{done}\n{}", self.headline());
        remark(&mut text, &report);
        self.finish(text, report)
    }

    fn finish(&self, text: String, report: Report) -> Answer {
        Answer { text, report, is_error: false }
    }

    fn excerpts(&self, form: fn(&[u8]) -> String) -> [Excerpt; 2] {
        let (out, err) = share(self.stdout.length(form), self.stderr.length(form), OUTPUT);
        [self.stdout.excerpt(out, form), self.stderr.excerpt(err, form)]
    }

    /// Everything but what the command wrote.
    fn report(&self) -> Report {
        let output = self.output;
        Report {
            status: output.map_or(State::Running, |output| State::from(output.status)),
            exec_id: Some(self.exec_id.into()),
            exit_code: output.and_then(Output::exit_code),
            signal: output.and_then(Output::signal),
            success: output.map(Output::success),
            stdout_bytes: Some(self.stdout.total),
            stderr_bytes: Some(self.stderr.total),
            duration_ms: Some(self.duration().as_millis() as u64),
            started_at: Some(rfc3339(self.started_at)),
            backend: Some(self.backend),
            isolation: Some(Walls::of(self.isolation)),
            start: output.and_then(|output| output.start),
            changes: output.and_then(|output| output.changes.as_ref()).map(Changed::of),
            denials: output.map(|output| denials(&output.denials)).unwrap_or_default(),
            warnings: output.map(warnings).unwrap_or_default(),
            ..Report::default()
        }
    }

    fn duration(&self) -> Duration {
        let so_far = || self.started_at.elapsed().unwrap_or_default();
        self.output.map_or_else(so_far, |output| output.duration)
    }

    /// How the command stands, in one line.
    fn headline(&self) -> String {
        let time = format!("{:.1?}", self.duration());
        let state = match self.output.map(|output| output.status) {
            None => format!("still running after {time}, exec_id {}", self.exec_id),
            Some(Status::Exited(code)) => format!("exit code {code} after {time}"),
            Some(Status::Signaled(signal)) => format!("ended by signal {signal} after {time}"),
            Some(Status::TimedOut) => {
                format!("timed out after {time}, everything that it started was killed")
            }
            Some(Status::Cancelled) => format!("cancelled after {time}"),
        };
        let place = match self.isolation.level {
            IsolationLevel::None => "on the host".into(),
            _ => format!("in a sandbox, network: {}", self.isolation.network),
        };
        format!("[{state}; {place}]\n")
    }

    /// What to do next, when there is something.
    fn next(&self, cut: [bool; 2]) -> Option<String> {
        let id = self.exec_id;
        match (self.output.map(|output| output.status), cut) {
            (None, _) => Some(format!(
                "wait for it with {EXEC_OUTPUT} {{\"exec_id\": \"{id}\", \"wait_seconds\": 30}}, \
                 or end it with exec_kill {{\"exec_id\": \"{id}\"}}"
            )),
            (Some(Status::TimedOut), _) => {
                Some("give it more time with `timeout`, in seconds".into())
            }
            (Some(_), [true, _]) => Some(format!("read all with {}", self.read_on("stdout", 0))),
            (Some(_), [_, true]) => Some(format!("read all with {}", self.read_on("stderr", 0))),
            (Some(_), [false, false]) => None,
        }
    }

    fn read_on(&self, stream: &str, offset: u64) -> String {
        let id = self.exec_id;
        format!(
            "{EXEC_OUTPUT} {{\"exec_id\": \"{id}\", \"stream\": \"{stream}\", \"offset\": {offset}}}"
        )
    }

    fn wait(&self, stream: &str, offset: u64) -> String {
        let call = self.read_on(stream, offset);
        format!("{}, \"wait_seconds\": 30}}", call.trim_end_matches('}'))
    }
}

impl Answer {
    /// The answer of a call that was not done.
    pub(super) fn failed(failure: Failure) -> Self {
        let failure = failure.short();
        let text = failure.text();
        let report = Report { error: Some(failure), ..Report::default() };
        Self { text, report, is_error: true }
    }
}

impl From<Answer> for CallToolResult {
    fn from(answer: Answer) -> Self {
        let Answer { text, report, is_error } = answer;
        let mut result = Self::success(vec![ContentBlock::text(text.trim_end())]);
        result.structured_content = serde_json::to_value(report).ok();
        result.is_error = Some(is_error);
        result
    }
}

impl From<Status> for State {
    fn from(status: Status) -> Self {
        match status {
            Status::Exited(_) => Self::Exited,
            Status::Signaled(_) => Self::Signaled,
            Status::TimedOut => Self::TimedOut,
            Status::Cancelled => Self::Cancelled,
        }
    }
}

/// Appends a part that ends with a line feed.
fn push(text: &mut String, title: &str, part: &str) {
    text.push_str(title);
    text.push_str(part);
    if !part.is_empty() && !part.ends_with('\n') {
        text.push('\n');
    }
}

/// Appends what is not output, in square brackets like the first line.
fn remark(text: &mut String, report: &Report) {
    if let Some(changes) = &report.changes {
        push(text, "", &changes.text());
    }
    for Refused { what, reason, remedy, count } in &report.denials {
        let told = refused::Refused { what, reason, remedy: remedy.as_deref(), count: *count };
        text.push_str(&format!("[{told}]\n"));
    }
    for warning in &report.warnings {
        text.push_str(&format!("[warning: {warning}]\n"));
    }
    if let Some(next) = &report.next {
        text.push_str(&format!("[{next}]\n"));
    }
}

fn denials(denials: &[Denial]) -> Vec<Refused> {
    let few = denials.iter().take(REMARKS);
    few.map(|denial| {
        let Denial { what, host: _, port: _, reason, remedy, count } = denial.clone();
        Refused { what, reason, remedy, count }
    })
    .collect()
}

fn warnings(output: &Output) -> Vec<String> {
    let killed = output.resources.oom_killed;
    let killed = killed.then(|| "the memory limit of the sandbox was reached".to_owned());
    let more = output.denials.len().saturating_sub(REMARKS);
    let more = (more > 0).then(|| format!("the sandbox refused {more} more places"));
    let all = output.warnings.iter().take(REMARKS).cloned();
    all.chain(killed).chain(more).collect()
}
