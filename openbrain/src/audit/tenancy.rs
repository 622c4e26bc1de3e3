//! A sandbox that stays open, from the record of its start to that of its end.

use std::time::Instant;

use super::{
    Entry,
    record::{Run, Status},
};
use crate::sandbox::Isolation;

/// An open sandbox whose start is on record. Dropping it records that its owner has ended it.
#[derive(Debug)]
pub(crate) struct Tenancy {
    entry: Entry,
    run: Run,
    opened: Instant,
}

impl Tenancy {
    /// The sandbox has been created, and this is known of it.
    pub(crate) fn new(
        entry: Entry,
        sandbox_id: &str,
        isolation: &Isolation,
        warnings: &[String],
    ) -> Self {
        let run = Run {
            duration_ms: 0,
            sandbox_id: Some(sandbox_id.to_owned()),
            isolation: isolation.clone(),
            stdout_bytes: 0,
            stderr_bytes: 0,
            stdout_truncated: None,
            stderr_truncated: None,
            denials: 0,
            warnings: warnings.to_vec(),
        };
        Self { entry, run, opened: Instant::now() }
    }

    /// Records its end. Where that cannot be written the start stays without an end, which tells of
    /// itself.
    pub(crate) fn ended(mut self, status: Status) {
        self.record(status);
    }

    fn record(&mut self, status: Status) {
        let duration_ms = self.opened.elapsed().as_millis() as u64;
        let run = Run { duration_ms, ..self.run.clone() };
        let _ = self.entry.end(status, None, None, Some(run));
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        if !self.entry.ended {
            self.record(Status::Cancelled);
        }
    }
}
