//! `exec_output`, `exec_input` and `exec_kill`: commands that outlive the call that started them.

use std::{sync::Arc, time::Duration};

use rmcp::model::JsonObject;
use tokio::time::timeout;

use super::{
    arguments::{ExecInput, ExecKill, ExecOutput, StreamName, parse, seconds},
    call::Call,
    failure::Failure,
    report::{Answer, Page},
    server::Server,
    standing::standing,
    text::{page, room},
    tools::{EXEC_INPUT, EXEC_KILL, EXEC_OUTPUT},
};
use crate::service::{InputFailure, Kept, Stream};

/// The most bytes of a stream in one answer.
const PAGE: u64 = 24_000;

/// How long a signal or the end of a command is waited for: TERM, half a second, KILL.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// How long the effect of a signal is waited for, that the command may well survive.
const SIGNAL_WAIT: Duration = Duration::from_millis(300);

impl Server {
    pub(super) async fn exec_output(
        &self,
        arguments: Option<JsonObject>,
        call: &Call,
    ) -> Result<Answer, Failure> {
        let arguments: ExecOutput = parse(self.input_schema(EXEC_OUTPUT), arguments)?;
        let ExecOutput { exec_id, stream, offset, wait_seconds, max_bytes } = arguments;
        let kept = self.find(&exec_id)?;
        let most = self.service().settings().server.yield_after;
        let wait = match wait_seconds {
            Some(_) => seconds("wait_seconds", wait_seconds, most, "server.yield_seconds")?,
            None => Duration::ZERO,
        };
        if stream.is_none() && offset.is_none() && max_bytes.is_none() {
            wait_until(call, wait, kept.ended()).await;
            return standing(&kept, |standing| standing.answer());
        }
        let (name, stream) = match stream {
            Some(StreamName::Stderr) => ("stderr", Stream::Stderr),
            Some(StreamName::Stdout) | None => ("stdout", Stream::Stdout),
        };
        let (offset, most) = (offset.unwrap_or(0), max_bytes.unwrap_or(PAGE).clamp(4, PAGE));
        wait_until(call, wait, more(&kept, stream, offset)).await;
        standing(&kept, |standing| {
            let mut slice = kept.read(stream, offset, most as usize);
            slice.bytes.truncate(room(&slice.bytes, PAGE));
            let (offset, total) = (slice.offset, slice.total);
            standing.page(Page { name, offset, bytes: page(slice.bytes), total })
        })
    }

    pub(super) async fn exec_input(
        &self,
        arguments: Option<JsonObject>,
        call: &Call,
    ) -> Result<Answer, Failure> {
        let arguments: ExecInput = parse(self.input_schema(EXEC_INPUT), arguments)?;
        let ExecInput { exec_id, data, eof } = arguments;
        let kept = self.find(&exec_id)?;
        let written = tokio::select! {
            written = kept.write(data.as_bytes(), eof) => written,
            () = call.abandoned() => Err(InputFailure::NotRead(0)),
        };
        written.map_err(unwritten)?;
        let end = if eof { ", and the end of the input" } else { "" };
        let done = format!("[{} bytes were written{end}]", data.len());
        standing(&kept, |standing| standing.brief(&done))
    }

    pub(super) async fn exec_kill(&self, arguments: Option<JsonObject>) -> Result<Answer, Failure> {
        let arguments: ExecKill = parse(self.input_schema(EXEC_KILL), arguments)?;
        let ExecKill { exec_id, signal } = arguments;
        let kept = self.find(&exec_id)?;
        if kept.progress().ended {
            return standing(&kept, |standing| standing.brief("[it had ended already]"));
        }
        let Some(signal) = signal else {
            kept.cancel();
            // A process that not even KILL ends at once is reported as running.
            let _ = timeout(LAST_WAIT, kept.ended()).await;
            return standing(&kept, |standing| standing.answer());
        };
        kept.signal(signal.into());
        // Most signals end a command, some do not.
        let _ = timeout(SIGNAL_WAIT, kept.ended()).await;
        standing(&kept, |standing| standing.brief("[the signal was sent]"))
    }

    fn find(&self, exec_id: &str) -> Result<Arc<Kept>, Failure> {
        let keep = self.service().settings().server.keep.as_secs();
        self.service().find(exec_id).ok_or_else(|| Failure {
            code: "not_found".into(),
            message: format!("there is no command `{exec_id}`"),
            retryable: false,
            remedy: Some(format!(
                "a handle is forgotten {keep} seconds after its command ended, earlier when there is \
                 much output, and when the server ends; run the command again"
            )),
        })
    }
}

/// Waits for something as long as the caller wants, and as there is a caller.
async fn wait_until<T>(call: &Call, wait: Duration, event: impl Future<Output = T>) {
    tokio::select! {
        biased;
        // Either way the caller is told how things stand.
        _ = timeout(wait, event) => {}
        () = call.abandoned() => {}
    }
}

/// Waits until a stream has more bytes than this, or the command has ended.
async fn more(kept: &Kept, stream: Stream, offset: u64) {
    loop {
        let seen = kept.progress();
        let total = match stream {
            Stream::Stdout => seen.stdout,
            Stream::Stderr => seen.stderr,
        };
        if total > offset || seen.ended {
            return;
        }
        kept.changed(seen).await;
    }
}

fn unwritten(failure: InputFailure) -> Failure {
    match failure {
        InputFailure::NoPipe => Failure::invalid("the command was not started with an open input")
            .with_remedy("start it with `\"stdin\": {\"pipe\": true}`"),
        InputFailure::Closed => Failure::invalid("the input of the command is closed"),
        InputFailure::NotRead(written) => {
            Failure::exhausted(format!("the command does not read: {written} bytes were written"))
                .with_remedy("send the rest when it reads, or end the command")
        }
    }
}
