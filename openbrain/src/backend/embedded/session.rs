//! A sandbox that stays open, and its owner: built as any other, and then every command costs one more
//! process, which comes by the [`Entrance`].

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use super::{
    cgroup::Groups,
    egress::{Egress, Seen},
    entrance::Entrance,
    limits::Enforcement,
    waiting::{self, Waiting},
    written::{Access, Written},
};
use crate::{
    backend::{
        Account, Backend, BoxFuture, Ended, Layers, Owner, Running, Session, SessionEnd,
        SessionOrder, WayIn,
        helper::{
            Commands, Link,
            wire::{self, Report, report},
        },
    },
    error::{Error, ErrorKind, Result},
    output::BackendName,
    sandbox::Isolation,
    spec::{Place, SessionSpec, Spec},
    units::random_name,
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
    let Place::Embedded(sandbox) = &spec.place else {
        return Err(Error::unavailable("the request is not for the embedded engine"));
    };
    let waiting = waiting::make(sandbox, &spec.limits, Commands::Many(spec.timeout)).await?;
    let Waiting { door, link, egress, groups, enforcement, isolation, written, .. } = waiting;
    let Enforcement { rlimits, warnings, .. } = enforcement;
    Ok(Arc::new_cyclic(|own| Open {
        own: Weak::clone(own),
        entrance: Entrance { id: format!("sbx_{}", random_name()), door, rlimits, isolation },
        link,
        heard: watch::Sender::default(),
        ordering: tokio::sync::Mutex::default(),
        serial: AtomicU32::new(0),
        is_paused: AtomicBool::new(false),
        is_killed: AtomicBool::new(false),
        groups: groups.map(Arc::new),
        egress: egress.map(Arc::new),
        written: Mutex::new(written),
        warnings,
    }))
}

fn kept() -> std::sync::MutexGuard<'static, Vec<Arc<Open>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open sandbox. Dropping it closes the socket to its monitor, which ends it.
#[derive(Debug)]
struct Open {
    own: Weak<Self>,
    entrance: Entrance,
    link: Link,
    heard: watch::Sender<Heard>,
    /// Who gives an order and waits for its answer.
    ordering: tokio::sync::Mutex<()>,
    /// Number of the last order.
    serial: AtomicU32,
    is_paused: AtomicBool,
    is_killed: AtomicBool,
    groups: Option<Arc<Groups>>,
    egress: Option<Arc<Egress>>,
    /// What was written; nothing when it was left to itself or killed, so that nothing of it is left.
    written: Mutex<Option<Written>>,
    warnings: Vec<String>,
}

/// What was heard from the monitor. Whoever waits for a report hears for all.
#[derive(Debug, Default)]
struct Heard {
    /// Number of the last order that was carried out.
    done: u32,
    has_expired: bool,
    end: Option<SessionEnd>,
}

impl Backend for Open {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        let owner: Weak<Self> = Weak::clone(&self.own);
        Box::pin(self.entrance.start(spec, owner))
    }
}

impl Owner for Open {
    fn account(&self) -> BoxFuture<'_, Result<Box<dyn Account>>> {
        Box::pin(async {
            if self.is_paused.load(Relaxed) {
                return Err(Error::invalid("the sandbox is paused").with_remedy("resume it first"));
            }
            let (groups, egress) = (self.groups.clone(), self.egress.clone());
            let kills = groups.as_ref().map_or(0, |groups| groups.oom_kills());
            let seen = seen(egress.as_deref()).await;
            Ok(Box::new(Share { groups, egress, kills, seen }) as Box<dyn Account>)
        })
    }

    fn why_ended(&self) -> BoxFuture<'_, Option<Error>> {
        Box::pin(async { timeout(REASON, self.end()).await.ok().map(SessionEnd::into_error) })
    }
}

/// The share of one command in what the whole sandbox has used, from what was there before it.
struct Share {
    groups: Option<Arc<Groups>>,
    egress: Option<Arc<Egress>>,
    kills: u64,
    seen: Seen,
}

impl Account for Share {
    fn close<'a>(&'a mut self, ended: &'a mut Ended) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let now = seen(self.egress.as_deref()).await.since(&self.seen);
            if let Some(groups) = &self.groups {
                groups.read(&mut ended.resources, self.kills);
            }
            ended.resources.network = now.uses;
            ended.denials.extend(now.denials);
        })
    }
}

async fn seen(egress: Option<&Egress>) -> Seen {
    match egress {
        Some(egress) => egress.seen().await,
        None => Seen::default(),
    }
}

impl Session for Open {
    fn id(&self) -> &str {
        &self.entrance.id
    }

    fn backend(&self) -> BackendName {
        BackendName::Embedded
    }

    fn isolation(&self) -> &Isolation {
        &self.entrance.isolation
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn layers(&self) -> Result<Layers> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match &*written {
            Some(written) => written.layers(Access::Shared),
            None => Err(Error::new(ErrorKind::SandboxLost, "what the sandbox has written is gone")
                .with_remedy("ask for its changes before you kill it or leave it to itself")),
        }
    }

    fn ended(self: Arc<Self>) -> BoxFuture<'static, SessionEnd> {
        Box::pin(async move { self.end().await })
    }

    fn way_in(&self) -> Result<WayIn> {
        Ok(WayIn::Door(self.entrance.door.again()?, self.entrance.rlimits.clone()))
    }

    fn order(self: Arc<Self>, order: SessionOrder) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            match order {
                SessionOrder::Renew(time) => self.answered(wire::Order::LIVE, time).await,
                SessionOrder::Pause => self.answered(wire::Order::PAUSE, Duration::ZERO).await,
                SessionOrder::Resume => self.answered(wire::Order::RESUME, Duration::ZERO).await,
                SessionOrder::Keep => {
                    self.answered(wire::Order::KEEP, Duration::ZERO).await?;
                    self.forget_written();
                    kept().push(self);
                    Ok(())
                }
                SessionOrder::Kill => {
                    self.is_killed.store(true, Relaxed);
                    self.forget_written();
                    self.link.order(wire::Order::KILL);
                    timeout(ANSWER, self.end()).await.map(drop).map_err(|_| no_answer("kill"))
                }
            }
        })
    }
}

impl Open {
    fn forget_written(&self) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Gives an order and waits until it was carried out. One at a time: a later one says nothing of
    /// those before it, and whether the sandbox is paused is what the last of them has made of it.
    async fn answered(&self, signal: i32, time: Duration) -> Result<()> {
        let _others_wait = self.ordering.lock().await;
        if signal == wire::Order::PAUSE {
            // Nobody may learn of it too late, not even when nobody waits for the answer.
            self.is_paused.store(true, Relaxed);
        }
        self.carried_out(signal, time).await?;
        if signal == wire::Order::RESUME {
            self.is_paused.store(false, Relaxed);
        }
        Ok(())
    }

    async fn carried_out(&self, signal: i32, time: Duration) -> Result<()> {
        let serial = self.serial.fetch_add(1, Relaxed) + 1;
        let milliseconds = time.as_millis() as u64;
        self.link.send(wire::Order { signal, serial, milliseconds });
        // The monitor carries orders out one after the other.
        let answer = self.hear_until(|heard| match heard.end {
            _ if heard.done >= serial => Some(Ok(())),
            end => end.map(|end| Err(end.into_error())),
        });
        timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(no_answer("obey")))
    }

    /// Waits until the sandbox has ended.
    async fn end(&self) -> SessionEnd {
        self.hear_until(|heard| heard.end).await
    }

    /// Hears reports until they say what is looked for. Cancel-safe.
    async fn hear_until<T>(&self, look: impl Fn(&Heard) -> Option<T>) -> T {
        let mut news = self.heard.subscribe();
        loop {
            if let Some(found) = look(&news.borrow_and_update()) {
                return found;
            }
            tokio::select! {
                _ = news.changed() => {}
                report = self.link.report() => {
                    let report = report.ok().flatten().map(|(report, _)| report);
                    let is_killed = self.is_killed.load(Relaxed);
                    self.heard.send_modify(|heard| heard.note(report, is_killed));
                }
            }
        }
    }
}

impl Heard {
    /// Notes a report, or that there are none any more.
    fn note(&mut self, report: Option<Report>, is_killed: bool) {
        match report {
            Some(report) if report.kind == report::DONE => self.done = report.first as u32,
            Some(report) if report.kind == report::EXPIRED => self.has_expired = true,
            Some(report) if report.kind != report::ENDED => {}
            _ => {
                self.end.get_or_insert(match (self.has_expired, is_killed) {
                    (true, _) => SessionEnd::Expired,
                    (false, true) => SessionEnd::Killed,
                    (false, false) => SessionEnd::Died,
                });
            }
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

fn no_answer(what: &str) -> Error {
    let seconds = ANSWER.as_secs();
    Error::new(ErrorKind::Internal, format!("the sandbox did not {what} within {seconds} s"))
        .with_remedy("kill it, or drop it; its processes end with it in any case")
}
