//! The warm pool: unused sandboxes that are ready before their command is known.
//!
//! A sandbox of the pool is the one that would be made for the command, stopped at the point where its
//! process 1 has nothing left to do but start it. It is used for a single command and ends with it, as
//! any other; what it is built from is its *shape*. A thread of its own makes them, so that nobody who
//! runs commands waits for it.
//!
//! What counts is that nobody can tell a warm start from a cold one but by the clock. So one is thrown
//! away when it would be another one now: a source of its mounts was replaced, something was mounted
//! or unmounted on the host, an entry of `/etc` has come or gone. Overlays of the caller's directories
//! have no pool: what becomes of one whose lower directory changes is undefined (the kernel's
//! `overlayfs.rst`), and such a directory may change at any time before the command.

mod mount_table;
mod ready;
mod shelves;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{sleep, sleep_until},
};

use self::{
    mount_table::MountTable,
    ready::Ready,
    shelves::{Next, Shelves},
};
use super::thread;
use crate::{
    backend::Running,
    error::{Error, Result},
    sandbox::{Limits, Mount, MountMode},
    spec::{SandboxSpec, Spec},
};

/// How long after a change more are made: a command that has just been given one has the processors to
/// itself, and a short one its result.
const LULL: Duration = Duration::from_millis(10);

/// Ready sandboxes of several shapes. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Pool {
    stock: Arc<Stock>,
    /// The task that fills it; none before there is something to fill.
    keeper: Mutex<Option<AbortHandle>>,
    /// The process that has it: a forked child has the descriptors of its parent's sandboxes, and must
    /// not use them.
    process: u32,
}

/// What there is, shared with the task that makes it.
#[derive(Debug)]
struct Stock {
    shelves: Mutex<Shelves<Shape, Ready>>,
    mounts: MountTable,
    /// Told when the shelves have changed.
    changed: watch::Sender<()>,
}

/// All that a sandbox is built from.
#[derive(Clone, Debug, PartialEq)]
struct Shape {
    sandbox: SandboxSpec,
    /// Without those that a command sets for itself.
    limits: Limits,
}

impl Shape {
    /// The shape of a sandbox; `None` when such a one cannot be kept.
    fn of(sandbox: &SandboxSpec, limits: &Limits) -> Option<Self> {
        let Limits { memory, cpus, pids, disk, open_files: _, output: _ } = *limits;
        let limits = Limits { memory, cpus, pids, disk, open_files: None, output: None };
        let is_overlay = |mount: &Mount| mount.mode == MountMode::Overlay;
        let has_overlay = sandbox.rootfs.is_some() || sandbox.mounts.iter().any(is_overlay);
        (!has_overlay).then(|| Self { sandbox: sandbox.clone(), limits })
    }
}

impl Pool {
    /// A pool that keeps so many of each shape.
    pub(super) fn new(size: usize) -> Self {
        let shelves = Mutex::new(Shelves::new(size));
        let (mounts, changed) = (MountTable::new(), watch::Sender::default());
        let stock = Arc::new(Stock { shelves, mounts, changed });
        Self { stock, keeper: Mutex::new(None), process: std::process::id() }
    }

    /// Starts a command: in a sandbox that is ready if there is one, else in one of its own.
    pub(super) async fn spawn(&self, sandbox: &SandboxSpec, spec: &Spec) -> Result<Running> {
        let Some(shape) = self.shape(sandbox, &spec.limits) else {
            return super::spawn(spec).await;
        };
        let gone = self.stock.shelves().ask(&shape, Instant::now());
        gone.into_iter().for_each(Ready::discard);
        let running = self.spawn_of(&shape, spec).await;
        // The command comes first.
        self.keep(&shape);
        running
    }

    async fn spawn_of(&self, shape: &Shape, spec: &Spec) -> Result<Running> {
        while let Some(ready) = self.stock.take(shape) {
            if let Some(running) = ready.start(spec).await? {
                return Ok(running);
            }
        }
        let mut running = super::spawn(spec).await?;
        let trouble = self.stock.shelves().trouble(shape).map(str::to_owned);
        let warning = |what| format!("no sandbox could be kept ready (`pool`): {what}");
        running.warnings.extend(trouble.map(warning));
        Ok(running)
    }

    /// Makes what is missing of a shape.
    pub(super) async fn fill(&self, sandbox: &SandboxSpec, limits: &Limits) -> Result<()> {
        let Some(shape) = self.shape(sandbox, limits) else { return Ok(()) };
        let gone = self.stock.shelves().want(&shape, Instant::now());
        gone.into_iter().for_each(Ready::discard);
        while self.stock.shelves().lacks(&shape) {
            let made = self.stock.make(&shape).await?;
            self.stock.put(&shape, made);
        }
        // Not before: the two would make the same.
        self.keep(&shape);
        Ok(())
    }

    fn shape(&self, sandbox: &SandboxSpec, limits: &Limits) -> Option<Shape> {
        let is_own = self.process == std::process::id();
        if is_own { Shape::of(sandbox, limits) } else { None }
    }

    /// Has the thread of the pool keep a shape ready, when it is wanted at all.
    fn keep(&self, shape: &Shape) {
        if !self.stock.shelves().lacks(shape) {
            return;
        }
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*keeper, thread::POOL.runtime()) {
            (Some(_), _) => self.stock.changed.send_replace(()),
            (None, Ok(runtime)) => {
                let keep = runtime.spawn(Arc::clone(&self.stock).keep());
                *keeper = Some(keep.abort_handle());
            }
            (None, Err(error)) => {
                let error = Error::system("cannot start the thread of the pool", error);
                self.stock.failed(shape, &error);
            }
        }
    }
}

impl Stock {
    /// Keeps the shelves as they are to be; for a task of its own.
    async fn keep(self: Arc<Self>) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let (next, old) = self.shelves().next(Instant::now());
            old.into_iter().for_each(Ready::discard);
            match next {
                Next::Make(shape) => match self.make(&shape).await {
                    Ok(ready) => self.put(&shape, ready),
                    Err(error) => self.failed(&shape, &error),
                },
                Next::Wait(until) => tokio::select! {
                    _ = changed.changed() => sleep(LULL).await,
                    () = sleep_until(until.into()) => {}
                },
            }
        }
    }

    async fn make(&self, shape: &Shape) -> Result<Ready> {
        let mounts = self.mounts.version();
        Ready::make(&shape.sandbox, &shape.limits, mounts).await
    }

    fn put(&self, shape: &Shape, ready: Ready) {
        let surplus = self.shelves().put(shape, ready, Instant::now());
        surplus.into_iter().for_each(Ready::discard);
        self.changed.send_replace(());
    }

    fn failed(&self, shape: &Shape, error: &Error) {
        self.shelves().failed(shape, error.to_string(), Instant::now());
        self.changed.send_replace(());
    }

    /// Takes one that is as good as new.
    fn take(&self, shape: &Shape) -> Option<Ready> {
        let mounts = self.mounts.version();
        loop {
            let ready = self.shelves().take(shape)?;
            if ready.is_fresh(&shape.sandbox, mounts) {
                return Some(ready);
            }
            ready.discard();
        }
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves<Shape, Ready>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = keeper.take() {
            keeper.abort();
        }
        let left = self.stock.shelves().clear();
        left.into_iter().for_each(Ready::discard);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::{Instant, Pool, SandboxSpec, Spec};
    use crate::{
        exec::{Command, Stdin},
        output::Start,
        sandbox::{Limits, Mount, MountMode},
        spec::{InheritEnv, Place},
    };

    fn request(source: &Path) -> (SandboxSpec, Spec) {
        let mounts = vec![Mount::new(source, "/workspace", MountMode::Ro)];
        let sandbox = SandboxSpec { mounts, ..SandboxSpec::default() };
        let spec = Spec {
            place: Place::Embedded(sandbox.clone()),
            command: Command::Argv(vec!["true".into()]),
            shell: "/bin/sh".into(),
            timeout: None,
            workdir: None,
            env: BTreeMap::new(),
            inherit_env: InheritEnv::All,
            stdin: Stdin::Null,
            tty: None,
            changes: false,
            limits: Limits::default(),
            warnings: Vec::new(),
        };
        (sandbox, spec)
    }

    #[tokio::test]
    async fn a_pool_that_cannot_be_filled_is_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        let (sandbox, spec) = request(&source);
        let pool = Pool::new(1);
        let shape = pool.shape(&sandbox, &spec.limits).unwrap();
        pool.stock.shelves().want(&shape, Instant::now());
        let mut changed = pool.stock.changed.subscribe();
        pool.keep(&shape);
        changed.wait_for(|()| pool.stock.shelves().trouble(&shape).is_some()).await.unwrap();
        assert!(pool.fill(&sandbox, &spec.limits).await.is_err());

        fs::create_dir(&source).unwrap();
        let running = pool.spawn(&sandbox, &spec).await.unwrap();
        assert_eq!(running.start, Some(Start::Cold));
        let [warning] = &running.warnings[..] else { panic!("{:?}", running.warnings) };
        assert!(warning.contains("`pool`") && warning.contains("source"), "{warning}");

        pool.fill(&sandbox, &spec.limits).await.unwrap();
        let running = pool.spawn(&sandbox, &spec).await.unwrap();
        assert_eq!((running.start, &running.warnings[..]), (Some(Start::Warm), &[][..]));
    }
}
