//! One run on a server: create, wait for the agent, upload, start, and delete whatever happens.

use std::{ops::RangeInclusive, os::fd::OwnedFd, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    fs::File,
    io::{AsyncWrite, DuplexStream, duplex},
    sync::{Semaphore, oneshot, watch},
    time::timeout,
};

use super::{
    agent::Agent,
    client::{Client, Connection},
    create,
    files::Upload,
    host_input,
    job::{Content, Job, Source, terminal},
    keeper::Lease,
    link::{BUFFER, Bridge, End, Heard, Letters, Reader, feed},
    parcel::Parcel,
    plain, ready,
    wire::{AgentEvent, Completion, Permission},
};
use crate::{
    backend::{
        BoxFuture, Control, Ended, Order, Running, contained,
        helper::{
            self,
            wire::{Letter, bridge, letter},
        },
    },
    error::{Error, ErrorKind, Result},
    output::{BackendName, Resources, Status},
    spec::{Place, SandboxSpec, ServerSpec, Spec},
    units::random_name,
};

/// How long the result waits for the sandbox to be deleted. The deletion goes on after that.
const DELETION: Duration = Duration::from_secs(10);

/// Where the files of bridges are, in a sandbox.
pub(super) const DIRECTORY: &str = "/tmp/.openbrain";

/// Exit codes with which surely nothing has run: those of a bridge that cannot begin (from 121), and the
/// shell's, which cannot execute it.
const NEVER_STARTED: RangeInclusive<i32> = 121..=127;

pub(super) async fn spawn(spec: &Spec) -> Result<Running> {
    let Place::Opensandbox(sandbox, server) = &spec.place else {
        return Err(Error::unavailable("the request is not for an OpenSandbox server"));
    };
    // Everything that can be refused here is, before the server is asked for anything.
    let job = Job::new(spec)?;
    check_paths(sandbox)?;
    let run = random_name();
    let request = create::request(&spec.limits, sandbox, server, &run)?;
    let policy = request.network_policy.clone();
    let connection = connection(server);
    let lease = Lease::create(Client::new(connection.clone())?, request, None).await?;
    let client = Client::new(connection)?;
    let start = async {
        if let Some(wanted) = &policy {
            create::check_policy(wanted, &client.network_policy(lease.id()).await?)?;
        }
        let agent = ready::agent(&client, lease.id(), server.start_timeout).await?;
        let directory = format!("{DIRECTORY}/{run}");
        start(spec, job, &client, lease.id(), agent, directory).await
    };
    match start.await {
        Ok(started) => Ok(Running {
            backend: BackendName::Opensandbox,
            sandbox_id: Some(lease.id().to_owned()),
            start: None,
            isolation: create::isolation(&spec.limits, sandbox, server),
            warnings: started.warnings,
            stdin: started.stdin,
            stdout: Some(Box::new(started.stdout)),
            stderr: Some(Box::new(started.stderr)),
            changes: None,
            control: Box::new(Remote {
                letters: started.letters,
                end: started.end,
                kill: started.kill,
                lease: Some(lease),
                deletion: None,
                is_terminal: spec.tty.is_some(),
            }),
        }),
        Err(error) => {
            // Where the deletion fails, the reason of the first failure says more.
            let _ = timeout(DELETION, lease.delete()).await;
            Err(error)
        }
    }
}

/// Refuses host paths of somebody else's request that have a link in them. The server opens what these
/// texts name when it comes to it: see docs/SECURITY.md.
pub(super) fn check_paths(sandbox: &SandboxSpec) -> Result<()> {
    let Some(roots) = &sandbox.within else { return Ok(()) };
    let mounts = sandbox.mounts.iter().map(|mount| &mount.source);
    mounts.chain(&sandbox.expose).try_for_each(|path| contained::check_text(path, roots))
}

pub(super) fn connection(server: &ServerSpec) -> Connection {
    Connection {
        api_key: server.api_key.clone(),
        use_server_proxy: server.use_server_proxy,
        request_timeout: server.request_timeout,
        create_timeout: server.start_timeout,
        stall_timeout: STALL,
        ca_file: server.ca_file.clone(),
        ..Connection::new(&server.url)
    }
}

/// The longest silence of a command's stream: five pings.
const STALL: Duration = Duration::from_secs(15);

/// A command that runs.
pub(super) struct Started {
    pub(super) stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub(super) stdout: DuplexStream,
    pub(super) stderr: DuplexStream,
    pub(super) letters: Letters,
    pub(super) end: oneshot::Receiver<End>,
    pub(super) kill: watch::Sender<bool>,
    pub(super) warnings: Vec<String>,
}

/// Uploads a job and starts it; `directory` is a place for its files that no other has.
pub(super) async fn start(
    spec: &Spec,
    mut job: Job,
    client: &Client,
    sandbox: &str,
    agent: Agent,
    directory: String,
) -> Result<Started> {
    let files = job.files.drain(..).map(|file| {
        let path = format!("{directory}/{}", file.name);
        let upload = match file.content {
            Content::Static(bytes) => Upload::bytes(path, Bytes::from_static(bytes)),
            Content::Bytes(bytes) => Upload::bytes(path, bytes),
            Content::File(file, size) => Upload::reader(path, File::from_std(file), size),
        };
        upload.permission(Permission::mode(if file.executable { 0o755 } else { 0o600 }))
    });
    agent.upload(files.collect()).await?;
    let mut bridge = Bridge::start(&agent, &directory).await?;
    loop {
        let report = match bridge.next().await? {
            Heard::Parcel(Parcel::Report(report)) => report,
            Heard::End(Completion::Exited(code)) if NEVER_STARTED.contains(&code) => {
                let why = bridge.words();
                return start_plain(spec, &job, client, sandbox, agent, &directory, &why).await;
            }
            // The command may have run, and must not run again.
            Heard::End(completion) => return Err(bridge.ended_early(completion)),
            Heard::Parcel(_) => return Err(cannot_run("its helper does not tell of the start")),
        };
        match helper::start(&report, &job.program) {
            Some(Ok(())) => break,
            Some(Err(failure)) => {
                let machine = |what, e| Error::unavailable(format!("cannot {what}")).with_source(e);
                return Err(failure.into_error(&job.argv[0], machine));
            }
            None => {}
        }
    }
    let (letters, carry) = Letters::new(agent.clone(), directory.clone());
    tokio::spawn(carry);
    let pieces = Arc::new(Semaphore::new(bridge::PIECES));
    let (stdin, input) = duplex(BUFFER);
    let mut writer: Option<Box<dyn AsyncWrite + Send + Unpin>> = None;
    match job.source {
        Source::Nothing => pieces.close(),
        Source::Caller => writer = Some(Box::new(stdin)),
        Source::Descriptor(fd) => read_host(fd, stdin)?,
    }
    tokio::spawn(feed(input, agent, directory, Arc::clone(&pieces), letters.clone()));
    let ((stdout, out), (stderr, err)) = (duplex(BUFFER), duplex(BUFFER));
    let (sender, end) = oneshot::channel();
    let (kill, killed) = watch::channel(false);
    let reader = Reader {
        client: client.clone(),
        sandbox: sandbox.to_owned(),
        bridge,
        stdout: out,
        stderr: err,
        letters: letters.clone(),
        pieces,
        killed,
        unread: None,
        end: sender,
    };
    tokio::spawn(reader.read());
    let warnings = Vec::new();
    Ok(Started { stdin: writer, stdout, stderr, letters, end, kill, warnings })
}

/// Starts the command without a bridge, and says why.
async fn start_plain(
    spec: &Spec,
    job: &Job,
    client: &Client,
    sandbox: &str,
    agent: Agent,
    directory: &str,
    why: &str,
) -> Result<Started> {
    let (command, line) = plain::command(spec, job, directory, why)?;
    agent.upload(vec![line]).await?;
    let mut stream = agent.run(&command).await?;
    let id = loop {
        match stream.next().await? {
            Some(AgentEvent::Init { id }) => break id,
            Some(AgentEvent::Ping) => {}
            other => return Err(cannot_run(&format!("the agent says {other:?}"))),
        }
    };
    let (letters, received) = Letters::channel();
    tokio::spawn(plain::obey(agent, id, received));
    let ((stdout, out), (stderr, err)) = (duplex(BUFFER), duplex(BUFFER));
    let (sender, end) = oneshot::channel();
    let (client, sandbox) = (client.clone(), sandbox.to_owned());
    let reader = plain::Reader { client, sandbox, stream, stdout: out, stderr: err, end: sender };
    tokio::spawn(reader.read());
    let (kill, warnings) = (watch::channel(false).0, vec![plain::warning(why)]);
    Ok(Started { stdin: None, stdout, stderr, letters, end, kill, warnings })
}

/// Copies a descriptor of the host to standard input.
fn read_host(fd: OwnedFd, mut to: DuplexStream) -> Result<()> {
    let mut from = host_input::open(fd)?;
    tokio::spawn(async move {
        // A command that reads no more is no failure.
        let _ = tokio::io::copy(&mut from, &mut to).await;
    });
    Ok(())
}

fn cannot_run(words: &str) -> Error {
    Error::unavailable(format!("the agent does not run the command: {words}"))
        .with_remedy("check that the image has `sh`")
}

/// A command on a server.
struct Remote {
    letters: Letters,
    end: oneshot::Receiver<End>,
    /// Tells the reader of a kill.
    kill: watch::Sender<bool>,
    lease: Option<Lease>,
    /// Started by a kill: it ends everything, whatever the bridge does.
    deletion: Option<BoxFuture<'static, Result<()>>>,
    is_terminal: bool,
}

impl Remote {
    fn delete(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.deletion = Some(Box::pin(lease.delete()));
        }
    }
}

impl Control for Remote {
    fn order(&mut self, order: Order) {
        pass_on(order, &self.letters, self.is_terminal);
        if order == Order::Kill {
            self.kill.send_replace(true);
            self.delete();
        }
    }

    fn ended(&mut self) -> BoxFuture<'_, Result<Ended>> {
        Box::pin(async {
            let deleted = async {
                match &mut self.deletion {
                    Some(deletion) => deletion.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                end = &mut self.end => match end {
                    Ok(Ok(ended)) => Ok(ended),
                    // What a kill tears down is no loss.
                    _ if self.lease.is_none() => Ok(killed()),
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(Error::new(ErrorKind::Internal, "the reader of the sandbox ended")),
                },
                deleted = deleted => deleted.map(|()| killed()),
            }
        })
    }

    fn removed(&mut self) -> BoxFuture<'_, Vec<String>> {
        self.delete();
        Box::pin(async {
            let Some(deletion) = &mut self.deletion else { return Vec::new() };
            let why = match timeout(DELETION, deletion).await {
                Ok(Ok(())) => return Vec::new(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the server takes long".to_owned(),
            };
            vec![format!("the sandbox is not deleted yet: {why}; it ends by itself within minutes")]
        })
    }
}

/// Tells the bridge of an order.
pub(super) fn pass_on(order: Order, letters: &Letters, is_terminal: bool) {
    for signal in helper::signals(order) {
        letters.send(Letter { kind: letter::ORDER, value: signal as u32 });
    }
    if let (Order::Resize(size), true) = (order, is_terminal) {
        letters.send(Letter { kind: letter::RESIZE, value: terminal(size) });
    }
}

fn killed() -> Ended {
    Ended {
        status: Status::Signaled(libc::SIGKILL),
        resources: Resources::default(),
        denials: Vec::new(),
        warnings: Vec::new(),
    }
}
