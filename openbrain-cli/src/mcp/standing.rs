//! A command of the service, looked at for a report.

use openbrain::Output;

use super::{
    failure::Failure,
    report::{Answer, Standing},
    text::Pieces,
};
use crate::service::{Kept, Stream};

/// Bytes of the beginning and of the end of a stream that are looked at for a result: more than is
/// shown, because a terminal shows less than is written.
const EDGE: usize = 64 << 10;

/// Looks at a command as it stands now.
pub(super) fn standing(
    kept: &Kept,
    answer: impl FnOnce(&Standing<'_>) -> Answer,
) -> Result<Answer, Failure> {
    // Before the streams, so that a command that is said to have ended is shown with all of them.
    let outcome = kept.end();
    let output: Option<&Output> = match outcome.as_deref() {
        Some(Ok(output)) => Some(output),
        Some(Err(error)) => return Err(Failure::from(error)),
        None => None,
    };
    let standing = Standing {
        exec_id: kept.exec_id(),
        backend: kept.backend(),
        isolation: output.map_or(kept.isolation(), |output| &output.isolation),
        started_at: kept.started_at(),
        output,
        stdout: pieces(kept, Stream::Stdout),
        stderr: pieces(kept, Stream::Stderr),
    };
    Ok(answer(&standing))
}

/// The beginning and the end of a stream.
fn pieces(kept: &Kept, stream: Stream) -> Pieces {
    let head = kept.read(stream, 0, EDGE);
    let total = head.total;
    let from = head.next_offset.max(total.saturating_sub(EDGE as u64));
    let mut gap = head.offset > 0 || from > head.next_offset;
    let (mut tail, mut at) = (Vec::new(), from);
    while at < total {
        let slice = kept.read(stream, at, EDGE);
        if slice.bytes.is_empty() {
            break;
        }
        if slice.offset > at {
            // What is before the hole is not the end.
            tail.clear();
            gap = true;
        }
        tail.extend(slice.bytes);
        at = slice.next_offset;
    }
    Pieces { head: head.bytes, tail, gap, total }
}
