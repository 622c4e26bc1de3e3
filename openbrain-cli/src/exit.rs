//! Exit codes. No other file knows them.
//!
//! The child's own code is passed on unchanged; the rest follows `timeout(1)`, `docker run` and
//! the shells.

use openbrain::{ErrorKind, Output, Status};

/// Everything went well.
pub(crate) const SUCCESS: u8 = 0;

/// `openbrain doctor` found something that does not work.
pub(crate) const UNHEALTHY: u8 = 1;

/// openbrain could not do what was asked, usage errors included.
pub(crate) const FAILURE: u8 = 125;

const TIMED_OUT: u8 = 124;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The code of a command that was started. `asked` is the signal that made us end it, if one did.
pub(crate) fn of_output(output: &Output, asked: Option<i32>) -> u8 {
    match output.status {
        // A process has eight bits of exit code (`wait(2)`); a server may report more.
        Status::Exited(code) => (code & 0xff) as u8,
        Status::Signaled(signal) => of_signal(signal),
        Status::TimedOut => TIMED_OUT,
        Status::Cancelled => asked.map_or(FAILURE, of_signal),
    }
}

/// The code of a command that could not be started.
pub(crate) fn of_error(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::CommandNotFound => NOT_FOUND,
        ErrorKind::CommandNotExecutable => NOT_EXECUTABLE,
        _ => FAILURE,
    }
}

/// The code of a process that a signal ended, as shells report it.
pub(crate) fn of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(FAILURE)
}
