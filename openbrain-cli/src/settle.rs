//! The end of a command: nothing of it is left behind when we are gone.

use std::{fmt::Display, future::pending, thread, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::sleep,
};

use crate::{
    console::say,
    failure::{Failure, Result},
    signals::Signals,
};

/// How long something may take before we say what it is.
const SILENCE: Duration = Duration::from_secs(1);

/// How long we wait for a server to delete a sandbox. It does so by itself some minutes later.
const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime for one command.
pub(crate) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::system("cannot start an async runtime", e))
}

/// Waits until nothing is left of commands that were given up, a sandbox on a server above all. The
/// next signal ends the waiting.
pub(crate) fn wait(announced: bool) {
    if openbrain::settle(Duration::ZERO) {
        return;
    }
    let (told, settled) = oneshot::channel();
    thread::spawn(move || told.send(openbrain::settle(PATIENCE)));
    let Ok(runtime) = runtime() else { return };
    let done = runtime.block_on(async {
        let Ok(mut signals) = Signals::listen() else { return settled.await.unwrap_or(false) };
        tokio::select! {
            biased;
            done = settled => done.unwrap_or(false),
            _ = signals.end() => false,
            done = announce(announced, "removing the sandbox…") => done,
        }
    });
    if !done {
        say("the sandbox may not be deleted yet; the server does it within minutes by itself");
        say("hint: `openbrain sandbox list` shows what is there");
    }
}

/// Says what we are waiting for, when that takes long and somebody is looking. Never ends.
pub(crate) async fn announce<T>(wanted: bool, what: impl Display) -> T {
    if wanted {
        sleep(SILENCE).await;
        say(what);
    }
    pending().await
}
