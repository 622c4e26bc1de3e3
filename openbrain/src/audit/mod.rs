//! The audit log: a record of the start and the end of every command, and of every sandbox that stays
//! open, that the settings want recorded, as JSON Lines that only their owner can read.
//!
//! The start is written before the command is started, and without it the command does not run. The
//! end is written when the command has ended, though nobody reads its output and though everything
//! around it is dropped. Only openbrain's own sudden death leaves a start without an end.
//!
//! Several processes may write at once, each record with one `write(2)` under a lock (`flock(2)`).
//! What can be long is cut, so that a record has a bounded size. A command is recorded as it was
//! given, and with it whatever secret somebody writes into it; the values of variables and standard
//! input are not.

mod command;
mod file;
mod read;
mod record;
mod tenancy;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::Value;

pub(crate) use self::tenancy::Tenancy;
use self::{command::beginning, file::LogFile};
pub use self::{
    read::{Line, read},
    record::{
        Cut, End, Failure, Opens, Policy, Record, Refused, Request, Run, Server, Start, Status,
    },
};
use crate::{
    caller::Caller,
    error::{Error, ErrorKind, Result},
    exec::Exec,
    new_sandbox::{LONGEST_NAME, MOST_LABELS, NewSandbox},
    output,
    process::{self, Facts, Observer, Outcome},
    sandbox::Limits,
    script::SHELL,
    spec::{Place, SandboxSpec, SessionSpec, Spec},
};

/// The longest a record may be as it is; a longer one is [cut](cut_down).
const MOST: usize = 256 << 10;

/// The audit log of one engine.
#[derive(Debug)]
pub(crate) struct Log(Option<Mutex<LogFile>>);

/// A request that is on record when it is refused or started.
#[derive(Debug)]
pub(crate) struct Asked {
    log: Arc<Log>,
    request: Request,
}

/// A command whose start is on record. Told nothing before it is dropped, it was given up while it
/// was being started.
#[derive(Debug)]
pub(crate) struct Entry {
    log: Arc<Log>,
    exec_id: String,
    ended: bool,
}

impl Log {
    /// A log in this file; `None` when nobody knows where it should be. Touches nothing.
    pub(crate) fn new(file: Option<PathBuf>, max_size: u64, keep_files: u32) -> Self {
        let file = file.map(|path| LogFile { path, max_size, keep_files, open: None });
        Self(file.map(Mutex::new))
    }

    /// Takes note of a request, and writes nothing yet.
    pub(crate) fn asked(self: &Arc<Self>, exec_id: &str, caller: &Caller, exec: &Exec) -> Asked {
        let (command, command_cut) = command::recorded(&exec.command);
        let request = Request {
            time: now(),
            exec_id: exec_id.to_owned(),
            surface: caller.surface,
            caller: caller.name.clone(),
            pid: std::process::id(),
            command: Some(command),
            opens: None,
            command_cut,
            env: exec.env.keys().cloned().collect(),
            workdir: exec.workdir.as_ref().map(|path| path.to_string_lossy().into_owned()),
            sandbox: exec.sandbox,
        };
        Asked { log: Arc::clone(self), request }
    }

    /// Takes note of a request for a sandbox that stays open, and writes nothing yet.
    pub(crate) fn asked_to_open(
        self: &Arc<Self>,
        exec_id: &str,
        caller: &Caller,
        new: &NewSandbox,
    ) -> Asked {
        let mut asked = self.asked(exec_id, caller, &new.as_exec());
        asked.request.command = None;
        // One too long, or one too many, tells why it was refused.
        let cut = |text: &String| beginning(text, LONGEST_NAME + 1).to_owned();
        let labels = new.labels.iter().take(MOST_LABELS + 1);
        asked.request.opens = Some(Opens {
            name: new.name.as_ref().map(cut),
            labels: labels.map(|(name, value)| (cut(name), cut(value))).collect(),
        });
        asked
    }

    fn write(&self, record: &Record) -> Result<()> {
        let Some(file) = &self.0 else {
            return Err(Error::settings("there is no place for the audit log")
                .with_remedy("set `audit.file`, or HOME; `audit.execs: none` records nothing"));
        };
        let line = line(record)?;
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.append(&line).map_err(|error| {
            let path = file.path.display();
            Error::new(ErrorKind::Internal, format!("cannot write the audit log `{path}`"))
                .with_source(error)
                .with_remedy(
                    "mend that, or name another `audit.file`; `audit.execs: none` records nothing",
                )
        })
    }
}

impl Asked {
    /// Records that the request was refused.
    ///
    /// # Errors
    ///
    /// When the log cannot be written.
    pub(crate) fn refused(self, error: &Error) -> Result<()> {
        let Self { log, request } = self;
        log.write(&Record::Refused(Box::new(Refused { request, error: error.into() })))
    }

    /// Records that the command is about to be started.
    ///
    /// # Errors
    ///
    /// When the log cannot be written; the command must not run then.
    pub(crate) fn start(self, spec: &Spec) -> Result<Entry> {
        self.begin(&spec.place, &spec.shell, spec.timeout, &spec.limits)
    }

    /// Records that the sandbox is about to be created.
    ///
    /// # Errors
    ///
    /// When the log cannot be written; the sandbox must not be created then.
    pub(crate) fn open(self, spec: &SessionSpec) -> Result<Entry> {
        self.begin(&spec.place, SHELL, Some(spec.timeout), &spec.limits)
    }

    fn begin(
        self,
        place: &Place,
        shell: &str,
        timeout: Option<Duration>,
        limits: &Limits,
    ) -> Result<Entry> {
        let Self { log, request } = self;
        let exec_id = request.exec_id.clone();
        let (backend, sandbox, server) = match place {
            Place::Direct => (output::BackendName::Direct, None, None),
            Place::Embedded(sandbox) => (output::BackendName::Embedded, Some(sandbox), None),
            Place::Opensandbox(sandbox, server) => {
                let server = Server { url: server.url.clone(), image: server.image.clone() };
                (output::BackendName::Opensandbox, Some(sandbox), Some(server))
            }
        };
        log.write(&Record::Start(Box::new(Start {
            request,
            backend,
            server,
            shell: shell.to_owned(),
            timeout_seconds: timeout.map(|timeout| timeout.as_secs_f64()),
            limits: limits.clone(),
            policy: sandbox.map(Policy::from),
        })))?;
        Ok(Entry { log, exec_id, ended: false })
    }
}

impl Entry {
    /// Records that the command could not be started. Where that cannot be written the start stays
    /// without an end, which tells of itself.
    pub(crate) fn not_started(mut self, error: &Error) {
        let _ = self.end(Status::NotStarted, None, Some(error.into()), None);
    }

    fn end(
        &mut self,
        status: Status,
        code: Option<i32>,
        error: Option<Failure>,
        run: Option<Run>,
    ) -> Result<()> {
        self.ended = true;
        let (exit_code, signal) = match status {
            Status::Exited => (code, None),
            Status::Signaled => (None, code),
            Status::TimedOut
            | Status::Cancelled
            | Status::Kept
            | Status::NotStarted
            | Status::Lost => (None, None),
        };
        let (time, exec_id) = (now(), self.exec_id.clone());
        self.log.write(&Record::End(Box::new(End {
            time,
            exec_id,
            status,
            exit_code,
            signal,
            error,
            run,
        })))
    }
}

impl Observer for Entry {
    fn ended(mut self: Box<Self>, facts: &Facts, end: process::End) -> Option<String> {
        let (status, code, error) = match &end.outcome {
            Outcome::Ended(output::Status::Exited(code)) => (Status::Exited, Some(*code), None),
            Outcome::Ended(output::Status::Signaled(signal)) => {
                (Status::Signaled, Some(*signal), None)
            }
            Outcome::Ended(output::Status::TimedOut) => (Status::TimedOut, None, None),
            Outcome::Ended(output::Status::Cancelled) => (Status::Cancelled, None, None),
            Outcome::Failed(code, message) => {
                let (code, message) = ((*code).to_owned(), message.clone());
                (Status::Lost, None, Some(Failure { code, message }))
            }
            Outcome::Dropped => (Status::Lost, None, None),
        };
        let written = self.end(status, code, error, Some(run(facts, end)));
        written.err().map(|error| format!("the end is not in the audit log: {error}"))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.end(Status::Cancelled, None, None, None);
        }
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self { code: error.code().to_owned(), message: error.to_string() }
    }
}

impl From<&SandboxSpec> for Policy {
    fn from(sandbox: &SandboxSpec) -> Self {
        let SandboxSpec { mounts, expose, within: _, network, allowed_hosts, system, rootfs } =
            sandbox;
        Self {
            mounts: mounts.iter().map(ToString::to_string).collect(),
            expose: expose.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            network: network.clone(),
            allowed_hosts: allowed_hosts.clone(),
            system: *system,
            rootfs: rootfs.as_ref().map(|path| path.to_string_lossy().into_owned()),
        }
    }
}

fn run(facts: &Facts, end: process::End) -> Run {
    let process::End { outcome: _, duration, bytes, truncated, denials, warnings } = end;
    Run {
        duration_ms: duration.as_millis() as u64,
        sandbox_id: facts.sandbox_id.clone(),
        isolation: facts.isolation.clone(),
        stdout_bytes: bytes[0],
        stderr_bytes: bytes[1],
        stdout_truncated: truncated.map(|[stdout, _]| stdout),
        stderr_truncated: truncated.map(|[_, stderr]| stderr),
        denials,
        warnings: facts.warnings.iter().cloned().chain(warnings).collect(),
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// A record as a line of bounded length.
fn line(record: &impl Serialize) -> Result<Vec<u8>> {
    let failed = |error: serde_json::Error| {
        Error::new(ErrorKind::Internal, "cannot write a record of the audit log").with_source(error)
    };
    let mut line = serde_json::to_vec(record).map_err(failed)?;
    if line.len() > MOST {
        let mut value: Value = serde_json::from_slice(&line).map_err(failed)?;
        // A command has been cut, and its length and sum been taken, where that was needed.
        let fields = value.as_object_mut().into_iter().flatten();
        fields.filter(|(name, _)| *name != "command").for_each(|(_, value)| cut_down(value));
        line = serde_json::to_vec(&value).map_err(failed)?;
    }
    line.push(b'\n');
    Ok(line)
}

/// Shortens the texts and lists of a record in which a request has been given without measure.
fn cut_down(value: &mut Value) {
    /// Bytes of a text, and entries of a list.
    const MOST_OF: (usize, usize) = (1024, 32);
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) if text.len() > MOST_OF.0 => {
            *text = format!("{}…", beginning(text, MOST_OF.0));
        }
        Value::String(_) => {}
        Value::Array(list) => {
            let cut = list.len() > MOST_OF.1 && list[0].is_string();
            list.truncate(MOST_OF.1);
            list.iter_mut().for_each(cut_down);
            list.extend(cut.then(|| "…".into()));
        }
        Value::Object(fields) => fields.values_mut().for_each(cut_down),
    }
}

#[cfg(test)]
mod tests;
