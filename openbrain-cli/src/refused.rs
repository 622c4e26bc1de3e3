//! What a sandbox has refused, in one line.

use std::fmt::{Display, Formatter, Result};

/// What was refused, why, and which setting would allow it.
pub(crate) struct Refused<'a> {
    pub(crate) what: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) remedy: Option<&'a str>,
    /// How many times.
    pub(crate) count: u64,
}

impl Display for Refused<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { what, reason, remedy, count } = self;
        write!(f, "the sandbox did not reach {what}")?;
        if *count != 1 {
            write!(f, " ({count} times)")?;
        }
        write!(f, ": {reason}")?;
        match remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}
