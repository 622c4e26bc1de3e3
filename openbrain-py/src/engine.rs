//! The engine of this process.

use std::{
    env, mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use openbrain::{Engine, Settings};
use pyo3::{PyResult, Python};

use crate::failure::Failure;

/// The engine that the last call had, which has the pool of ready sandboxes, and the process that it
/// belongs to. Locked only by threads that hold the interpreter, as `runtime::HOME` is.
static KEPT: Mutex<Option<(u32, Engine)>> = Mutex::new(None);

/// The engine with the settings and the variables of this moment: the one that the last call had,
/// unless the settings have changed since then. Both read the environment, which no other thread of
/// Python changes while this one holds the interpreter.
pub(crate) fn engine(py: Python<'_>) -> PyResult<Engine> {
    let loaded = Settings::load().map_err(|error| Failure::from(error).raise(py))?;
    Ok(with(loaded.settings).with_environment(env::vars_os()))
}

/// Lets go of the engine, and of the sandboxes that it has ready.
pub(crate) fn forget() {
    let kept = kept().take();
    release(kept);
}

fn with(settings: Settings) -> Engine {
    let mut kept = kept();
    if let Some((process, engine)) = &*kept
        && *process == std::process::id()
        && *engine.settings() == settings
    {
        return engine.clone();
    }
    let engine = Engine::new(settings);
    let last = kept.replace((std::process::id(), engine.clone()));
    drop(kept);
    release(last);
    engine
}

/// What a forked child has a copy of is the parent's: ending it would wait for threads that are not
/// there.
fn release(kept: Option<(u32, Engine)>) {
    if let Some((process, engine)) = kept
        && process != std::process::id()
    {
        mem::forget(engine);
    }
}

fn kept() -> MutexGuard<'static, Option<(u32, Engine)>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}
