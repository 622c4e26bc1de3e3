//! A sandbox that stays open: built as any other, and then every command costs one more process.
//!
//! Its process 1 has all the walls, and its commands inherit them. A request for a command goes through
//! the [`Door`] straight to it; each command has a socket of its own for orders and reports.

use std::{
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::timeout,
};

use super::{
    build::{Build, unavailable},
    cgroup::Groups,
    command,
    egress::{Egress, Seen},
    open_streams, walls,
};
use crate::{
    backend::{
        Backend, BoxFuture, Control, Ended, Order, Running, Session, SessionEnd, SessionOrder,
        helper::{
            self, CommandPlan, Descriptors, Door, Guarded, Link, Program, Section, StartFailure,
            wire::{self, report},
        },
    },
    error::{Error, ErrorKind, Result},
    output::BackendName,
    sandbox::{Isolation, WORKSPACE},
    spec::{Place, SessionSpec, Spec},
};

/// How long an order for the whole sandbox may take.
const ANSWER: Duration = Duration::from_secs(5);

/// How long the reason of an end is waited for that has shown already.
const REASON: Duration = Duration::from_secs(1);

/// Sandboxes that were kept. They are held here for their network, which this process relays, and so
/// that their monitors are reaped.
static KEPT: Mutex<Vec<Arc<Open>>> = Mutex::new(Vec::new());

/// Opens a sandbox.
pub(crate) async fn open(spec: &SessionSpec) -> Result<Arc<dyn Session>> {
    let mut kept = std::mem::take(&mut *kept());
    kept.retain(|sandbox| !sandbox.link.is_over());
    self::kept().append(&mut kept);
    loop {
        if let Some(open) = attempt(spec).await? {
            return Ok(open);
        }
    }
}

fn kept() -> std::sync::MutexGuard<'static, Vec<Arc<Open>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Builds the sandbox; `None` when the kernel has refused what the next attempt does without.
async fn attempt(spec: &SessionSpec) -> Result<Option<Arc<Open>>> {
    let Place::Embedded(sandbox) = &spec.place else {
        return Err(Error::unavailable("the request is not for the embedded engine"));
    };
    let mut build = Build::look(sandbox, &spec.limits)?;
    let (door, inside) = Door::new()?;
    let mut program = Program::default();
    program.lifetime = Some(spec.timeout);
    compile(&build, &mut program);
    let link = helper::launch(&program, &build.descriptors([inside.as_fd()]))?;
    drop(inside);
    let handed = match helper::started(&link, &program).await {
        Ok(handed) => handed,
        Err(failure) if build.can_do_without(&failure) => return Ok(None),
        Err(failure) => return Err(failure.into_error("the sandbox", unavailable)),
    };
    let (isolation, warnings) = (build.isolation(), build.enforcement.warnings.clone());
    let egress = build.egress.take().map(|plan| plan.serve(handed.egress)).transpose()?;
    Ok(Some(Arc::new_cyclic(|own| Open {
        own: Weak::clone(own),
        id: new_id(),
        link,
        door,
        serial: Mutex::default(),
        heard: watch::Sender::default(),
        ear: AsyncMutex::default(),
        is_paused: AtomicBool::new(false),
        is_killed: AtomicBool::new(false),
        groups: build.groups.map(Arc::new),
        rlimits: build.enforcement.rlimits,
        egress: egress.map(Arc::new),
        isolation,
        warnings,
    })))
}

/// The sandbox as system calls, up to the point where process 1 serves.
fn compile(build: &Build<'_>, to: &mut Program) {
    build.compile(to, 1);
    let rules = build.landlock(to);
    walls::confine_opener(to, build.first_inside(), rules, &build.enforcement.rules);
}

/// 128 random bits.
fn new_id() -> String {
    let mut bytes = [0u8; 16];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    format!("sbx_{:032x}", u128::from_ne_bytes(bytes))
}

/// An open sandbox. Dropping it closes the socket to its monitor, which ends it.
#[derive(Debug)]
struct Open {
    own: Weak<Self>,
    id: String,
    link: Link,
    door: Door,
    /// The number of the last order.
    serial: Mutex<u32>,
    heard: watch::Sender<Heard>,
    /// Held by whoever waits for the next report.
    ear: AsyncMutex<()>,
    is_paused: AtomicBool,
    is_killed: AtomicBool,
    groups: Option<Arc<Groups>>,
    /// Limits that each command sets for itself.
    rlimits: Vec<(u32, u64)>,
    egress: Option<Arc<Egress>>,
    isolation: Isolation,
    warnings: Vec<String>,
}

/// What was heard from the monitor.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// The last order that was carried out.
    done: u32,
    has_expired: bool,
    end: Option<SessionEnd>,
}

impl Backend for Open {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        Box::pin(self.start(spec))
    }
}

impl Session for Open {
    fn id(&self) -> &str {
        &self.id
    }

    fn backend(&self) -> BackendName {
        BackendName::Embedded
    }

    fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn order(self: Arc<Self>, order: SessionOrder) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            match order {
                SessionOrder::Renew(time) => self.answered(wire::Order::LIVE, time).await,
                SessionOrder::Pause => {
                    self.answered(wire::Order::PAUSE, Duration::ZERO).await?;
                    self.is_paused.store(true, Relaxed);
                    Ok(())
                }
                SessionOrder::Resume => {
                    self.is_paused.store(false, Relaxed);
                    self.answered(wire::Order::RESUME, Duration::ZERO).await
                }
                SessionOrder::Keep => {
                    self.answered(wire::Order::KEEP, Duration::ZERO).await?;
                    kept().push(self);
                    Ok(())
                }
                SessionOrder::Kill => {
                    self.is_killed.store(true, Relaxed);
                    self.link.order(wire::Order::KILL);
                    timeout(ANSWER, self.ended()).await.map(drop).map_err(|_| no_answer("kill"))
                }
            }
        })
    }

    fn ended(&self) -> BoxFuture<'_, SessionEnd> {
        Box::pin(self.until(|heard| heard.end))
    }
}

impl Open {
    async fn start(&self, spec: &Spec) -> Result<Running> {
        if self.is_paused.load(Relaxed) {
            return Err(Error::invalid("the sandbox is paused").with_remedy("resume it first"));
        }
        let script = CommandPlan::program(spec)?;
        let file = script.file.as_deref().map(helper::script_file).transpose()?;
        let (ends, streams) = open_streams(spec)?;
        let program = self.compile(spec, &script.argv, file.is_some())?;
        let fds: Vec<_> = ends.as_fds().into_iter().chain(file.as_ref().map(AsFd::as_fd)).collect();
        let before = Before { kills: self.oom_kills(), seen: self.seen().await };
        let link = match self.door.ask(&program, &fds).await {
            Ok(link) => link,
            Err(error) => return Err(self.lost(error).await),
        };
        drop(ends);
        let handed = match helper::started(&link, &program).await {
            Ok(handed) => handed,
            Err(StartFailure::Helper(error)) => return Err(self.lost(error).await),
            Err(failure) => return Err(failure.into_error(&script.argv[0], unavailable)),
        };
        let streams = match handed.terminal {
            Some(terminal) => helper::streams_of_terminal(terminal)?,
            None => streams,
        };
        Ok(Running {
            backend: BackendName::Embedded,
            sandbox_id: Some(self.id.clone()),
            isolation: self.isolation.clone(),
            warnings: Vec::new(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            control: Box::new(Job {
                guarded: Guarded::new(link, streams.terminal),
                sandbox: Weak::clone(&self.own),
                groups: self.groups.clone(),
                egress: self.egress.clone(),
                before,
                ended: None,
            }),
        })
    }

    /// One command as system calls: it inherits the walls of process 1, and adds its own limits and
    /// its number.
    fn compile(&self, spec: &Spec, argv: &[String], has_file: bool) -> Result<Program> {
        let mut program = Program::default();
        let to = &mut program;
        let descriptors = Descriptors::Passed;
        if let Some(size) = spec.tty {
            let socket = Program::passed(0).into();
            for end in command::make_terminal(to, socket, descriptors, size) {
                to.try_call(Section::Reaper, libc::SYS_close, [end.into()]);
            }
        }
        let more = spec.limits.open_files.map(|limit| (libc::RLIMIT_NOFILE, limit));
        let command = CommandPlan {
            env: command::environment(spec),
            descriptors,
            terminal: spec.tty.is_some(),
            workdir: Some(spec.workdir.as_deref().unwrap_or(Path::new(WORKSPACE))),
            rlimits: self.rlimits.iter().copied().chain(more).collect(),
        };
        command.prepare(to, has_file);
        walls::number_command(to);
        command.execute(to, argv)?;
        Ok(program)
    }

    fn oom_kills(&self) -> u64 {
        self.groups.as_ref().map_or(0, |groups| groups.oom_kills())
    }

    async fn seen(&self) -> Seen {
        match &self.egress {
            Some(egress) => egress.seen().await,
            None => Seen::default(),
        }
    }

    /// Gives an order and waits until it was carried out.
    async fn answered(&self, signal: i32, time: Duration) -> Result<()> {
        let milliseconds = time.as_millis() as u64;
        let serial = {
            // Orders are sent in the order of their numbers.
            let mut last = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            *last += 1;
            self.link.send(wire::Order { signal, serial: *last, milliseconds });
            *last
        };
        let answer = self.until(|heard| match heard.end {
            Some(end) => Some(Err(lost(end))),
            None => (heard.done >= serial).then_some(Ok(())),
        });
        timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(no_answer("obey")))
    }

    /// Waits until the reports have told something. Of several who wait one hears, for all of them.
    /// Cancel-safe.
    async fn until<T>(&self, told: impl Fn(&Heard) -> Option<T>) -> T {
        let mut heard = self.heard.subscribe();
        loop {
            if let Some(told) = told(&heard.borrow_and_update()) {
                return told;
            }
            tokio::select! {
                biased;
                _ = heard.changed() => {}
                () = self.hear() => {}
            }
        }
    }

    /// Hears one report. Cancel-safe.
    async fn hear(&self) {
        let _ear = self.ear.lock().await;
        let report = self.link.report().await.ok().flatten().map(|(report, _)| report);
        self.heard.send_modify(|heard| match report {
            Some(report) if report.kind == report::DONE => heard.done = report.first as u32,
            Some(report) if report.kind == report::EXPIRED => heard.has_expired = true,
            Some(report) if report.kind != report::ENDED => {}
            _ => {
                heard.end = Some(match (heard.has_expired, self.is_killed.load(Relaxed)) {
                    (true, _) => SessionEnd::Expired,
                    (false, true) => SessionEnd::Killed,
                    (false, false) => SessionEnd::Died,
                });
            }
        });
    }

    /// What has become of a command whose socket closed: the end of the sandbox, if that is it.
    async fn lost(&self, error: Error) -> Error {
        match timeout(REASON, self.ended()).await {
            Ok(end) => lost(end),
            Err(_) => error,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // The monitor removes them; this is for one that was killed.
        if let Some(groups) = &self.groups {
            groups.abandon();
        }
    }
}

fn lost(end: SessionEnd) -> Error {
    let (why, remedy) = match end {
        SessionEnd::Expired => {
            ("its time was over", "give it a longer timeout, or renew it in time")
        }
        SessionEnd::Killed => ("it was killed", "create another one"),
        SessionEnd::Died => (
            "its processes were killed from outside, or the machine ran out of memory",
            "create another one; look for who kills processes named `openbrain`",
        ),
    };
    Error::new(ErrorKind::SandboxLost, format!("the sandbox has ended: {why}")).with_remedy(remedy)
}

fn no_answer(what: &str) -> Error {
    let seconds = ANSWER.as_secs();
    Error::new(ErrorKind::Internal, format!("the sandbox did not {what} within {seconds} s"))
        .with_remedy("kill it, or drop it; its processes end with it in any case")
}

/// What was there before a command.
struct Before {
    kills: u64,
    seen: Seen,
}

/// A command in an open sandbox.
struct Job {
    guarded: Guarded,
    /// Does not keep the sandbox open.
    sandbox: Weak<Open>,
    groups: Option<Arc<Groups>>,
    egress: Option<Arc<Egress>>,
    before: Before,
    /// The end, once it is known: what follows may be interrupted.
    ended: Option<Ended>,
}

impl Control for Job {
    fn order(&mut self, order: Order) {
        self.guarded.order(order);
    }

    fn ended(&mut self) -> BoxFuture<'_, Result<Ended>> {
        Box::pin(async move {
            if self.ended.is_none() {
                self.ended = Some(self.wait().await?);
            }
            let seen = match &self.egress {
                Some(egress) => egress.seen().await.since(&self.before.seen),
                None => Seen::default(),
            };
            let ended = self.ended.take();
            let mut ended = ended.ok_or_else(|| Error::new(ErrorKind::Internal, "ended twice"))?;
            ended.resources.network = seen.uses;
            ended.denials.extend(seen.denials);
            Ok(ended)
        })
    }
}

impl Job {
    async fn wait(&mut self) -> Result<Ended> {
        let (groups, known) = (&self.groups, self.before.kills);
        let ended = self.guarded.wait(move |ended| {
            if let Some(groups) = groups {
                groups.read(&mut ended.resources, known);
            }
        });
        match ended.await {
            Ok(ended) => Ok(ended),
            Err(error) => Err(match self.sandbox.upgrade() {
                Some(sandbox) => sandbox.lost(error).await,
                None => Error::new(ErrorKind::SandboxLost, "the sandbox was dropped")
                    .with_remedy("keep the `Sandbox` until its commands have ended"),
            }),
        }
    }
}
