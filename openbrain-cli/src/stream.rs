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
    fn chunks(&mut self, event: Event) -> Result<Vec<Chunk>> {
        match (self, event) {
            (Self::Plain, Event::Stdout(bytes)) => Ok(vec![Chunk::Out(bytes)]),
            (Self::Plain, Event::Stderr(bytes)) => Ok(vec![Chunk::Err(bytes)]),
            (Self::Plain, _) => Ok(Vec::new()),
            (Self::Records(recorder), event) => recorder
                .record(event)
                .iter()
                .map(|record| json_line(record).map(|line| Chunk::Out(line.into_bytes())))
                .collect(),
        }
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
    let mut lost = None;
    let mut overdue = false;
    let output = loop {
        tokio::select! {
            biased;
            () = signals.relay(&handle) => overdue |= signals.ending(),
            progress = writer.progress(), if lost.is_none() => {
                lost = progress.err();
                if lost.is_some() {
                    handle.cancel();
                }
            }
            event = process.next_event(), if overdue || lost.is_some() || writer.has_room() => {
                let Some(event) = event? else { continue };
                let ended = match &event {
                    Event::Ended(output) => Some(Output::clone(output)),
                    _ => None,
                };
                form.chunks(event)?.into_iter().for_each(|chunk| writer.push(chunk));
                if let Some(output) = ended {
                    break output;
                }
            }
            () = at(deadline), if !overdue => overdue = true,
        }
    };
    match lost {
        Some(error) => Err(Failure::output(error)),
        None => flush(writer, signals, &output).await.map(|()| output),
    }
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
