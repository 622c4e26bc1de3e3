//! The agent in a sandbox: commands. Its files are in `files`.

use std::{fmt, time::Duration};

use reqwest::Method;

use super::{
    failure::{Failure, FailureKind},
    http::{Answer, Call, Http, Target},
    stream::Decoder,
    wire::{AgentEvent, CommandStatus, Completion, Metrics, RunCommand, RunRequest},
};

/// The longest wait for an answer to a ping.
const PING: Duration = Duration::from_secs(5);

/// The agent in one sandbox. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Agent {
    pub(super) http: Http,
    pub(super) target: Target,
    pub(super) stall_timeout: Duration,
}

/// Some of what a background command wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPage {
    /// The output, both streams mixed.
    pub bytes: bytes::Bytes,
    /// Where the next page begins, where the agent says so.
    pub cursor: Option<u64>,
}

/// The events of a running command.
///
/// Dropping it does not end the command: see [`Agent::interrupt`].
pub struct CommandStream {
    answer: Answer,
    decoder: Decoder,
    stall_timeout: Duration,
    ended: bool,
}

impl Agent {
    pub(super) fn new(http: Http, target: Target, stall_timeout: Duration) -> Self {
        Self { http, target, stall_timeout }
    }

    /// Asks whether the agent answers, once and for at most 5 s.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn ping(&self) -> Result<(), Failure> {
        let call = Call::new("reach the agent", Method::GET, &["ping"]).time(PING).once();
        self.http.fetch(&self.target, call).await.map(drop)
    }

    /// Starts a command and gives its events.
    ///
    /// # Errors
    ///
    /// When it could not be sent or is refused. That it cannot be started may also be told by
    /// [`Completion::NotStarted`].
    pub async fn run(&self, command: &RunCommand) -> Result<CommandStream, Failure> {
        self.start(command, false).await
    }

    /// Starts a command in the background, and gives its id.
    ///
    /// # Errors
    ///
    /// As [`Agent::run`], and when it could not be started.
    pub async fn start_background(&self, command: &RunCommand) -> Result<String, Failure> {
        let mut events = self.start(command, true).await?;
        let mut started = None;
        while let Some(event) = events.next().await? {
            match event {
                AgentEvent::Init { id } => started = Some(id),
                AgentEvent::Done(Completion::NotStarted { reason }) => {
                    return Err(Failure::new(
                        FailureKind::InvalidRequest,
                        &events.answer.context,
                        reason,
                    ));
                }
                _ => {}
            }
        }
        let context = &events.answer.context;
        started.ok_or_else(|| Failure::new(FailureKind::Surprise, context, "it gives no id"))
    }

    async fn start(
        &self,
        command: &RunCommand,
        background: bool,
    ) -> Result<CommandStream, Failure> {
        let call = Call::new("run a command", Method::POST, &["command"])
            .json(&RunRequest { command, background });
        let answer = self.http.open(&self.target, call).await?;
        Ok(CommandStream {
            answer,
            decoder: Decoder::new(),
            stall_timeout: self.stall_timeout,
            ended: false,
        })
    }

    /// How a command stands.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] for one that the agent does not know.
    pub async fn status(&self, id: &str) -> Result<CommandStatus, Failure> {
        let call = Call::new("look at a command", Method::GET, &["command", "status", id]);
        self.http.fetch(&self.target, call).await?.json()
    }

    /// What a background command wrote from `cursor` on, in bytes; up to 16 MiB.
    ///
    /// # Errors
    ///
    /// For a command that the agent does not know, and for one that is not in the background.
    pub async fn logs(&self, id: &str, cursor: u64) -> Result<LogPage, Failure> {
        let call = Call::new("read the output of a command", Method::GET, &["command", id, "logs"])
            .query("cursor", cursor);
        let answer = self.http.fetch(&self.target, call).await?;
        let next = answer.headers.get("execd-commands-tail-cursor");
        let cursor = next.and_then(|next| next.to_str().ok()?.trim().parse().ok());
        Ok(LogPage { bytes: answer.body, cursor })
    }

    /// Ends a command with everything in its process group, by TERM and after 3 s by KILL, and says
    /// whether it ran.
    ///
    /// # Errors
    ///
    /// When the agent does not answer, or cannot.
    #[doc(alias = "kill")]
    pub async fn interrupt(&self, id: &str) -> Result<bool, Failure> {
        let call =
            Call::new("interrupt a command", Method::DELETE, &["command"]).query("id", id).once();
        let failure = match self.http.fetch(&self.target, call).await {
            Ok(_) => return Ok(true),
            Err(failure) => failure,
        };
        // One that has ended is refused like any failure of the agent.
        match failure.kind() {
            FailureKind::NotFound => Ok(false),
            FailureKind::ServerFailed if !self.status(id).await?.running => Ok(false),
            _ => Err(failure),
        }
    }

    /// What the agent sees of the machine. It measures for about a second.
    ///
    /// # Errors
    ///
    /// When the agent does not answer.
    pub async fn metrics(&self) -> Result<Metrics, Failure> {
        let call = Call::new("measure a sandbox", Method::GET, &["metrics"]);
        self.http.fetch(&self.target, call).await?.json()
    }
}

impl CommandStream {
    /// The next event, or nothing after [`AgentEvent::Done`].
    ///
    /// It does not wait for the end of the stream, which older agents delay by a second. May be
    /// dropped and called again without loss.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Cut`] when the stream ends before the command does,
    /// [`FailureKind::Stalled`] when nothing comes for longer than
    /// [`Connection::stall_timeout`](super::Connection::stall_timeout), and
    /// [`FailureKind::Surprise`] when what comes is no event.
    pub async fn next(&mut self) -> Result<Option<AgentEvent>, Failure> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if let Some(event) = self.decoded()? {
                self.ended = matches!(event, AgentEvent::Done(_));
                return Ok(Some(event));
            }
            match self.answer.chunk(self.stall_timeout).await {
                Ok(Some(bytes)) => self.decoder.push(&bytes),
                Ok(None) => return self.last(None),
                Err(failure) if failure.kind() == FailureKind::Stalled => {
                    self.ended = true;
                    return Err(failure);
                }
                Err(failure) => return self.last(Some(failure)),
            }
        }
    }

    fn decoded(&mut self) -> Result<Option<AgentEvent>, Failure> {
        self.decoder.next_event().map_err(|error| {
            self.ended = true;
            Failure::new(FailureKind::Surprise, &self.answer.context, error.to_string())
        })
    }

    /// What is left when the stream is over: a result that only lacks its empty line, or an error.
    fn last(&mut self, failure: Option<Failure>) -> Result<Option<AgentEvent>, Failure> {
        self.ended = true;
        let rest = self.decoder.rest().len();
        if let Some(event @ AgentEvent::Done(_)) = self.decoder.finish() {
            return Ok(Some(event));
        }
        let mut words = match failure {
            Some(failure) => failure.words().to_owned(),
            None => "it was closed".to_owned(),
        };
        if rest > 0 {
            words += &format!(", {rest} bytes into an event");
        }
        Err(Failure::new(FailureKind::Cut, &self.answer.context, words))
    }
}

impl fmt::Debug for CommandStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandStream").field("ended", &self.ended).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
