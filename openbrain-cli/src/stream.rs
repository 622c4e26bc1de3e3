//! From the running command to our own streams.

use std::{future::pending, time::Duration};

use openbrain::{Event, Output, Process, Recorder};
use tokio::time::{Instant, sleep_until};

use crate::{
    changes,
    console::json_line,
    failure::{Failure, Result},
    signals::Signals,
    writer::{Chunk, Writer},
};

/// How long after its deadline, or after it was told to end, a command may still wait for somebody
/// to read its output. The library has killed it by then, and so there is little left to read.
const PATIENCE: Duration = Duration::from_millis(850);

/// In which form events are written.
#[derive(Debug)]
pub(crate) enum Form {
    /// Its bytes, as they come.
    Plain,
    /// Lines of JSON.
    Records(Recorder),
}

impl Form {
    /// Writes an event, and returns the result when it is the last one.
    fn write(&mut self, event: Event, to: &mut Writer) -> Result<Option<Output>> {
        let ended = match &event {
            Event::Ended(output) => Some(Output::clone(output)),
            _ => None,
        };
        match (self, event) {
            (Self::Plain, Event::Stdout(bytes)) => to.push(Chunk::Out(bytes)),
            (Self::Plain, Event::Stderr(bytes)) => to.push(Chunk::Err(bytes)),
            (Self::Plain, _) => {}
            (Self::Records(recorder), event) => {
                for record in recorder.record(event) {
                    to.push(Chunk::Out(json_line(&record)?.into_bytes()));
                }
            }
        }
        Ok(ended)
    }
}

/// Copies what the command writes until it has ended, and waits until it is written.
///
/// A slow reader of ours slows the command. One that is gone ends it.
pub(crate) async fn copy(
    mut process: Process,
    mut form: Form,
    signals: &mut Signals,
    timeout: Option<Duration>,
) -> Result<Output> {
    let handle = process.handle();
    let mut limit = timeout.map(|timeout| Instant::now() + timeout + PATIENCE);
    let mut writer = Writer::start();
    let mut overdue = false;
    let output = loop {
        tokio::select! {
            biased;
            () = signals.relay(&handle) => if signals.ending() {
                limit = Some(Instant::now() + PATIENCE);
            },
            () = writer.progress() => if writer.failed() {
                handle.cancel();
            },
            event = process.next_event(), if overdue || writer.has_room() => {
                let Some(mut event) = event? else { continue };
                if let Event::Ended(output) = &mut event {
                    changes::save(output);
                }
                if let Some(output) = form.write(event, &mut writer)? {
                    break output;
                }
            }
            () = at(limit), if !overdue => overdue = true,
        }
    };
    let by_itself = output.exit_code().or(output.signal()).is_some();
    flush(writer, signals, limit.filter(|_| !by_itself)).await?;
    Ok(output)
}

/// Collects the result of the command.
pub(crate) async fn collect(process: Process, signals: &mut Signals) -> Result<Output> {
    let handle = process.handle();
    let mut result = std::pin::pin!(process.wait());
    loop {
        tokio::select! {
            biased;
            () = signals.relay(&handle) => {}
            output = &mut result => {
                let mut output = output?;
                changes::save(&mut output);
                return Ok(output);
            }
        }
    }
}

/// Writes a text, as the output of a command is written: a reader that stalls stops nobody's signals.
pub(crate) async fn print(text: String, signals: &mut Signals) -> Result<()> {
    let mut writer = Writer::start();
    writer.push(Chunk::Out(text.into_bytes()));
    flush(writer, signals, None).await
}

/// Waits until everything is written, but not beyond the limit of a command that did not end by
/// itself, and only until the next signal.
async fn flush(writer: Writer, signals: &mut Signals, limit: Option<Instant>) -> Result<()> {
    tokio::select! {
        biased;
        result = writer.finish() => result.map_err(Failure::output),
        () = at(limit) => Ok(()),
        kind = signals.end() => Err(Failure::Signal(kind.as_raw_value())),
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
