//! `openbrain audit`: what the audit log says, a line for each command.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, SystemTime},
};

use openbrain::{
    Command, Surface,
    audit::{self, End, Failure as Reason, Line, Opens, Record, Request, Status},
    settings::AuditedExecs,
};

use crate::{
    args::AuditArgs,
    config,
    console::{one_line, print, say, table},
    exit,
    failure::{Failure, Result},
    moment::rfc3339,
};

/// How much of a command, and of a caller's name, has room in a line.
const COMMAND: usize = 120;
const NAME: usize = 32;

/// Runs `openbrain audit` and returns the exit code.
pub(crate) fn run(args: &AuditArgs) -> Result<u8> {
    let settings = config::load(&args.settings)?.settings.audit;
    let Some(file) = settings.file else {
        let remedy = "set `audit.file`, or HOME";
        return Err(Failure::usage("nobody knows where the audit log is", remedy));
    };
    let book = read(&file, args)?;
    if book.is_empty && settings.execs != AuditedExecs::All {
        let whose = match settings.execs {
            AuditedExecs::None => "of nobody",
            AuditedExecs::Servers | AuditedExecs::All => "of REST and MCP callers",
        };
        say(format_args!("nothing is in `{}` yet: commands {whose} are recorded", file.display()));
        say("hint: the key is `audit.execs`");
    }
    let skipped = book.entries.len().saturating_sub(args.number.unwrap_or(usize::MAX));
    let shown = &book.entries[skipped..];
    let text = match args.json {
        true => json(shown),
        false => people(shown),
    };
    print(text).map(|()| exit::SUCCESS)
}

/// The commands of the log that are wanted.
struct Book<'a> {
    args: &'a AuditArgs,
    /// Nothing before this time is wanted, as the log writes times, which sort as texts do.
    since: Option<String>,
    entries: Vec<Entry>,
    /// Commands whose end has not come yet: where they are in `entries`, if they are wanted.
    open: HashMap<String, Option<usize>>,
    /// Whether the log has no records at all.
    is_empty: bool,
    lines: u64,
}

/// One command.
struct Entry {
    exec_id: String,
    time: String,
    /// What was asked for; `None` when the start has gone with an old file.
    request: Option<Request>,
    place: Option<&'static str>,
    outcome: Outcome,
    /// The records as they are written, each with its place in the log.
    lines: Vec<(u64, String)>,
}

/// What became of it.
enum Outcome {
    /// It runs, or openbrain was killed with it.
    Unknown,
    Ended(Box<End>),
    Refused(Reason),
}

fn read<'a>(file: &Path, args: &'a AuditArgs) -> Result<Book<'a>> {
    let since = args.since.map(|age| {
        let time = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        rfc3339(time)
    });
    let (entries, open) = (Vec::new(), HashMap::new());
    let mut book = Book { args, since, entries, open, is_empty: true, lines: 0 };
    audit::read(file, |line| match line {
        Line::Record(record, text) => book.add(record, text),
        Line::Damaged { file, number, reason } => {
            let file = file.display();
            say(format_args!("warning: line {number} of `{file}` is damaged: {reason}"));
        }
    })?;
    Ok(book)
}

impl Book<'_> {
    fn add(&mut self, record: Record, text: &str) {
        self.is_empty = false;
        self.lines += 1;
        let line = (self.lines, if self.args.json { text.to_owned() } else { String::new() });
        let (exec_id, time) = (record.exec_id().to_owned(), record.time().to_owned());
        let (request, place, outcome) = match record {
            Record::Start(start) => {
                (Some(start.request), Some(start.backend.as_str()), Outcome::Unknown)
            }
            Record::Refused(refused) => {
                (Some(refused.request), None, Outcome::Refused(refused.error))
            }
            Record::End(end) => match self.open.remove(&exec_id) {
                Some(Some(at)) => {
                    let entry = &mut self.entries[at];
                    entry.outcome = Outcome::Ended(end);
                    entry.lines.push(line);
                    return;
                }
                Some(None) => return,
                None => (None, None, Outcome::Ended(end)),
            },
        };
        let is_open = matches!(outcome, Outcome::Unknown);
        let entry = Entry { exec_id, time, request, place, outcome, lines: vec![line] };
        let wanted = self.wants(&entry);
        if is_open {
            let at = wanted.then_some(self.entries.len());
            self.open.insert(entry.exec_id.clone(), at);
        }
        self.entries.extend(wanted.then_some(entry));
    }

    fn wants(&self, entry: &Entry) -> bool {
        let AuditArgs { since: _, exec, surface, number: _, json: _, settings: _ } = self.args;
        let from = entry.request.as_ref().map(|request| request.surface);
        self.since.as_ref().is_none_or(|since| entry.time >= *since)
            && exec.as_ref().is_none_or(|exec| entry.exec_id == *exec)
            && surface.is_none_or(|surface| from == Some(surface))
    }
}

/// The records in the order of the log.
fn json(entries: &[Entry]) -> String {
    let mut lines: Vec<_> = entries.iter().flat_map(|entry| &entry.lines).collect();
    lines.sort_unstable_by_key(|(place, _)| *place);
    lines.into_iter().map(|(_, line)| format!("{line}\n")).collect()
}

/// A line for each command below a line of titles; nothing when there is none.
fn people(entries: &[Entry]) -> String {
    let titles = ["WHEN", "WHO", "WHERE", "STATUS", "TOOK", "EXEC", "COMMAND"];
    table(titles, entries.iter().map(row))
}

fn row(entry: &Entry) -> [String; 7] {
    let Entry { exec_id, time, request, place, outcome, lines: _ } = entry;
    let dash = || "-".to_owned();
    let (status, took) = outcome.words();
    [
        one_line(time, NAME),
        request.as_ref().map_or_else(dash, who),
        place.unwrap_or("-").to_owned(),
        status,
        took.map_or_else(dash, |took| humantime::format_duration(took).to_string()),
        one_line(exec_id, 2 * NAME),
        request.as_ref().map_or_else(dash, |request| one_line(&wanted(request), COMMAND)),
    ]
}

impl Outcome {
    /// The outcome in a few words, and how long it took.
    fn words(&self) -> (String, Option<Duration>) {
        let end = match self {
            Self::Unknown => return ("unknown".into(), None),
            Self::Refused(Reason { code, .. }) => {
                return (format!("refused {}", one_line(code, NAME)), None);
            }
            Self::Ended(end) => end,
        };
        let code = end.exit_code.or(end.signal).map(|code| format!(" {code}"));
        let reason = end.error.as_ref().map(|error| format!(" {}", one_line(&error.code, NAME)));
        let status = match end.status {
            Status::Exited | Status::Signaled => end.status.as_str().to_owned(),
            Status::TimedOut
            | Status::Cancelled
            | Status::Kept
            | Status::NotStarted
            | Status::Lost => end.status.as_str().replace('_', " "),
        };
        let text = [Some(status), code, reason].into_iter().flatten().collect();
        (text, end.run.as_ref().map(|run| Duration::from_millis(run.duration_ms)))
    }
}

fn who(request: &Request) -> String {
    let Request { surface, caller, .. } = request;
    let name = caller.as_ref().map(|name| format!(" {}", one_line(name, NAME)));
    format!("{}{}", surface.as_str(), name.unwrap_or_default())
}

/// What was asked for: a command, or a sandbox that stays open.
fn wanted(request: &Request) -> String {
    match (&request.command, &request.opens) {
        (Some(command), _) => words(command),
        (None, Some(Opens { name: Some(name), labels: _ })) => format!("(sandbox {name})"),
        (None, _) => "(sandbox)".to_owned(),
    }
}

/// A command as a person would write it.
fn words(command: &Command) -> String {
    match command {
        Command::Shell(script) => script.clone(),
        Command::Argv(argv) => {
            let is_plain =
                |word: &str| !word.is_empty() && !word.contains(|c: char| c.is_whitespace());
            let quoted = argv.iter().map(|word| match is_plain(word) {
                true => word.clone(),
                false => format!("'{}'", word.replace('\'', r"'\''")),
            });
            quoted.collect::<Vec<_>>().join(" ")
        }
        Command::Script { language, source } => {
            format!("{}: {source}", language.as_deref().unwrap_or("program"))
        }
    }
}

/// Reads the name of a surface.
pub(crate) fn surface(text: &str) -> Result<Surface, String> {
    let all = [Surface::Library, Surface::Cli, Surface::Rest, Surface::Mcp];
    let names = all.map(Surface::as_str).join(", ");
    all.into_iter().find(|s| s.as_str() == text).ok_or(format!("it is one of {names}"))
}

#[cfg(test)]
mod tests {
    use openbrain::Command;

    use super::words;

    #[test]
    fn arguments_can_be_told_apart() {
        let argv = ["echo", "a b", "", "it's"].map(str::to_owned).to_vec();
        assert_eq!(words(&Command::Argv(argv)), "echo 'a b' '' it's");
    }
}
