//! From the running command to our own streams.

use std::{future::pending, time::Duration};

use openbrain::{Event, Output, Process, Recorder};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    console::json_line,
    failure::{Failure, Result},
    signals::Signals,
    writer::{Chunk, Writer},
};

/// How long after its deadline, or after it was told to end, a command may still wait for somebody
/// to read its output. Longer than the library takes to kill.
const PATIENCE: Duration = Duration::from_millis(950);

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
    let deadline = timeout.map(|timeout| Instant::now() + timeout + PATIENCE);
    let mut writer = Writer::start();
    let mut overdue = false;
    let output = loop {
        tokio::select! {
            biased;
            () = signals.relay(&handle) => overdue |= signals.ending(),
            () = writer.progress() => if writer.failed() {
                handle.cancel();
            },
            event = process.next_event(), if overdue || writer.has_room() => {
                let Some(event) = event? else { continue };
                if let Some(output) = form.write(event, &mut writer)? {
                    break output;
                }
            }
            () = at(deadline), if !overdue => overdue = true,
        }
    };
    flush(writer, signals, &output).await?;
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
            output = &mut result => return Ok(output?),
        }
    }
}

/// Waits until everything is written; but not for long when the command did not end by itself, and
/// only until the next signal.
async fn flush(writer: Writer, signals: &mut Signals, output: &Output) -> Result<()> {
    let by_itself = output.exit_code().or(output.signal()).is_some();
    let patience = async {
        match by_itself {
            true => pending().await,
            false => sleep(PATIENCE).await,
        }
    };
    tokio::select! {
        biased;
        result = writer.finish() => result.map_err(Failure::output),
        () = patience => Ok(()),
        kind = signals.end() => Err(Failure::Signal(kind.as_raw_value())),
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
