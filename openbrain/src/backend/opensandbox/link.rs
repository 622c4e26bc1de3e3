//! The way to a bridge: parcels come out of the agent's stream of events, letters and pieces of
//! standard input go in as files.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{Instant, sleep},
};

use super::{
    agent::{Agent, CommandStream},
    client::Client,
    failure::{Failure, LOOK},
    files::Upload,
    job::WINDOW,
    parcel::{Damage, Parcel, Parcels},
    wire::{AgentEvent, Completion, RunCommand, Sandbox, SandboxState},
};
use crate::{
    backend::{
        Ended,
        helper::{
            self,
            wire::{self, Letter, bridge, letter, report},
        },
    },
    error::{Error, ErrorKind, Result},
};

/// How many letters may wait to be sent.
const LETTERS: usize = 256;

/// How many letters go into one file.
const BATCH: usize = 8;

/// The longest piece of standard input.
const PIECE: usize = 512 << 10;

/// How much is between a stream and its reader here.
pub(super) const BUFFER: usize = 256 << 10;

/// How long a sandbox that is being deleted may still be found.
const VANISHES: Duration = Duration::from_secs(2);

/// How much of what an agent says by itself is kept.
const KEPT: usize = 4096;

/// What comes out of a bridge.
pub(super) struct Bridge {
    stream: CommandStream,
    parcels: Parcels,
    waiting: VecDeque<Parcel>,
    /// Standard error of the command that starts the bridge: the words of a shell that cannot.
    words: String,
}

/// Something out of the stream of a bridge.
pub(super) enum Heard {
    Parcel(Parcel),
    /// The bridge itself has ended.
    End(Completion),
}

impl Bridge {
    /// Starts the bridge whose files are in `directory`.
    pub(super) async fn start(agent: &Agent, directory: &str) -> Result<Self, Failure> {
        let program = bridge::PROGRAM;
        let mut command = RunCommand::shell(format!("exec {directory}/{program} {directory}"));
        command.cwd = Some("/".into());
        let stream = agent.run(&command).await?;
        let (parcels, waiting, words) = (Parcels::default(), VecDeque::new(), String::new());
        Ok(Self { stream, parcels, waiting, words })
    }

    /// Waits for the next parcel or the end. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Heard> {
        loop {
            if let Some(parcel) = self.waiting.pop_front() {
                return Ok(Heard::Parcel(parcel));
            }
            let event = self.stream.next().await.map_err(Failure::while_running)?;
            match event {
                Some(AgentEvent::Stdout(text)) => {
                    self.waiting.extend(self.parcels.push(&text).map_err(damaged)?);
                }
                Some(AgentEvent::Stderr(text)) if self.words.len() < KEPT => {
                    self.words.push_str(&text);
                }
                Some(AgentEvent::Done(completion)) => return Ok(Heard::End(completion)),
                Some(_) => {}
                None => return Ok(Heard::End(Completion::Exited(0))),
            }
        }
    }

    /// What it means that the bridge is gone and the command's end was not told.
    pub(super) fn ended_early(&self, completion: Completion) -> Error {
        let how = match completion {
            Completion::Exited(code) => format!("exited with code {code}"),
            Completion::Killed { .. } => "was killed".into(),
            Completion::NotStarted { reason } => format!("was not started: {reason}"),
        };
        Error::new(
            ErrorKind::SandboxLost,
            format!("openbrain's helper in the sandbox {how}. {}", self.words()),
        )
        .with_remedy("part of the command may have run; check the sandbox's memory limit")
    }

    /// What was said that is from no bridge.
    pub(super) fn words(&self) -> String {
        format!("{}{}", self.parcels.rest(), self.words).trim().to_owned()
    }
}

fn damaged(damage: Damage) -> Error {
    match damage {
        Damage::Foreign(text) => Error::new(
            ErrorKind::Internal,
            format!("the agent's stream holds what is not from openbrain's helper: `{text}`"),
        ),
        Damage::Lost { expected, found } => Error::new(
            ErrorKind::SandboxLost,
            format!("output was lost on the way: part {found} came instead of {expected}"),
        ),
    }
    .with_remedy("the command may have run; look at what it did before running it again")
}

/// One of the two outputs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// The command's end, as its reader saw it.
pub(super) type End = Result<Ended>;

/// What the reader of a bridge works with.
pub(super) struct Reader {
    pub(super) client: Client,
    pub(super) sandbox: String,
    pub(super) bridge: Bridge,
    pub(super) stdout: DuplexStream,
    pub(super) stderr: DuplexStream,
    pub(super) letters: Letters,
    pub(super) pieces: Arc<Semaphore>,
    /// Whether the command was killed: its end then matters more than output that nobody reads.
    pub(super) killed: watch::Receiver<bool>,
    /// What nobody had read then: less than what may be on its way.
    pub(super) unread: Option<Vec<(Stream, Bytes)>>,
    pub(super) end: oneshot::Sender<End>,
}

impl Reader {
    /// Passes on what the bridge says until the command has ended, or is lost.
    pub(super) async fn read(mut self) {
        let end = self.pass_on().await;
        let end = match end {
            Err(error) if error.kind() == ErrorKind::SandboxLost && !*self.killed.borrow() => {
                Err(explain(&self.client, &self.sandbox, error).await)
            }
            end => end,
        };
        self.pieces.close();
        // The owner may be gone; the streams end with this either way.
        let _ = self.end.send(end);
        for (stream, mut bytes) in self.unread.unwrap_or_default() {
            let to = match stream {
                Stream::Stdout => &mut self.stdout,
                Stream::Stderr => &mut self.stderr,
            };
            let _ = to.write_all_buf(&mut bytes).await;
        }
    }

    async fn pass_on(&mut self) -> End {
        let mut taken = 0;
        loop {
            let parcel = match self.bridge.next().await? {
                Heard::Parcel(parcel) => parcel,
                Heard::End(completion) => return Err(self.bridge.ended_early(completion)),
            };
            match parcel {
                Parcel::Report(found) if found.kind == report::ENDED => {
                    return Ok(helper::ended(&found, None));
                }
                Parcel::Report(_) => {}
                Parcel::Stdout(bytes) => taken += self.deliver(Stream::Stdout, bytes).await,
                Parcel::Stderr(bytes) => taken += self.deliver(Stream::Stderr, bytes).await,
                Parcel::Taken => self.pieces.add_permits(1),
                Parcel::Closed => self.pieces.close(),
            }
            if taken >= WINDOW / 2 {
                self.letters.send(Letter { kind: letter::CREDIT, value: taken as u32 });
                taken = 0;
            }
        }
    }

    /// Passes on output, as fast as it is read, and says how much it was. A reader that is gone wants
    /// no more; the command runs on all the same.
    async fn deliver(&mut self, stream: Stream, bytes: Vec<u8>) -> u64 {
        let length = bytes.len() as u64;
        let mut bytes = Bytes::from(bytes);
        if self.unread.is_none() {
            let mut killed = self.killed.clone();
            tokio::select! {
                biased;
                _ = self.stream(stream).write_all_buf(&mut bytes) => return length,
                Ok(_) = killed.wait_for(|killed| *killed) => {}
            }
        }
        self.unread.get_or_insert_default().push((stream, bytes));
        0
    }

    fn stream(&mut self, stream: Stream) -> &mut DuplexStream {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// Asks the server what became of the sandbox.
pub(super) async fn explain(client: &Client, id: &str, error: Error) -> Error {
    let what = match settled(client, id).await {
        Ok(sandbox) => match sandbox.status.state {
            SandboxState::Running => return error,
            state => {
                let why = sandbox.status.message.or(sandbox.status.reason).unwrap_or_default();
                format!("sandbox {id} is {}: {why}", state.as_str())
            }
        },
        Err(failure) if failure.kind() == super::FailureKind::NotFound => {
            format!("sandbox {id} is gone: it has expired or somebody deleted it")
        }
        Err(failure) => failure.to_string(),
    };
    Error::new(ErrorKind::SandboxLost, format!("{what} ({error})")).with_remedy(LOOK)
}

/// The sandbox as it stands when what broke the stream has come to its end: one that is being
/// deleted runs, and has then failed, before it is gone.
async fn settled(client: &Client, id: &str) -> Result<Sandbox, Failure> {
    let end = Instant::now() + VANISHES;
    loop {
        let found = client.get(id).await?;
        if Instant::now() >= end {
            return Ok(found);
        }
        sleep(VANISHES / 8).await;
    }
}

/// Sends letters, in order.
#[derive(Clone, Debug)]
pub(super) struct Letters(mpsc::Sender<Letter>);

impl Letters {
    /// A way for letters, and where they arrive.
    pub(super) fn channel() -> (Self, mpsc::Receiver<Letter>) {
        let (sender, letters) = mpsc::channel(LETTERS);
        (Self(sender), letters)
    }

    /// A way to the bridge in `directory`; the future carries the letters until nobody can send any.
    pub(super) fn new(agent: Agent, directory: String) -> (Self, impl Future<Output = ()>) {
        let (sender, mut letters) = Self::channel();
        let carry = async move {
            let mut number = 0u64;
            let mut batch = Vec::new();
            while letters.recv_many(&mut batch, BATCH).await > 0 {
                let bytes: Vec<u8> =
                    batch.drain(..).flat_map(|l| wire::bytes_of(&l).to_vec()).collect();
                let path = format!("{directory}/{}{number}", bridge::LETTERS as char);
                // A sandbox that takes no letters is lost, which its reader notices.
                let _ = agent.upload(vec![Upload::bytes(path, bytes)]).await;
                number += 1;
            }
        };
        (sender, carry)
    }

    /// More letters than can wait are signals from somebody who sends them faster than the command
    /// can take them.
    pub(super) fn send(&self, letter: Letter) {
        let _ = self.0.try_send(letter);
    }
}

/// Carries standard input to the bridge, piece by piece, each as soon as there is something and the
/// bridge has room.
pub(super) async fn feed(
    mut input: DuplexStream,
    agent: Agent,
    directory: String,
    room: Arc<Semaphore>,
    letters: Letters,
) {
    let mut buffer = vec![0; PIECE];
    let mut number = 0;
    // Dropping the input tells the writer that nobody reads any more.
    while let Ok(permit) = room.acquire().await {
        permit.forget();
        let length = tokio::select! {
            length = input.read(&mut buffer) => length.unwrap_or(0),
            () = closed(&room) => return,
        };
        if length == 0 {
            letters.send(Letter { kind: letter::END, value: number });
            return;
        }
        let path = format!("{directory}/{}{number}.{length}", bridge::PIECE as char);
        let piece = Upload::bytes(path, buffer[..length].to_vec());
        if agent.upload(vec![piece]).await.is_err() {
            return;
        }
        number += 1;
    }
}

/// Waits until nobody reads standard input any more.
async fn closed(room: &Semaphore) {
    // More than there ever are: this ends only when the semaphore is closed.
    let _ = room.acquire_many(bridge::PIECES as u32 + 1).await;
}
