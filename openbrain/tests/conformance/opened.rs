//! Every command in a sandbox that stays open, so that whatever holds for commands is tried there too.

use std::sync::{Mutex, PoisonError};

use openbrain::{
    Engine, Network, NewSandbox, Place, Result, Sandbox, SandboxSpec, Settings, Spec,
    backend::{Backend, BoxFuture, Running},
};

/// Opens a sandbox for each command, and leaves it open after the command, so that a command that is
/// to leave nothing has to do so itself.
#[derive(Debug)]
pub(crate) struct Opened {
    engine: Engine,
    open: Mutex<Vec<Sandbox>>,
}

impl Opened {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { engine: Engine::new(settings), open: Mutex::default() }
    }
}

impl Backend for Opened {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        Box::pin(async move {
            let sandbox = self.engine.create(request(spec)).await?;
            let running = sandbox.as_backend().spawn(spec).await;
            self.open.lock().unwrap_or_else(PoisonError::into_inner).push(sandbox);
            running
        })
    }
}

/// What the sandbox of this command is given.
fn request(spec: &Spec) -> NewSandbox {
    let (Place::Embedded(sandbox) | Place::Opensandbox(sandbox, _)) = &spec.place else {
        panic!("{:?} is no sandbox", spec.place);
    };
    let SandboxSpec { mounts, expose, network, .. } = sandbox.clone();
    NewSandbox {
        mounts,
        expose,
        allow_network: Some(network != Network::None),
        limits: spec.limits.clone(),
        ..NewSandbox::default()
    }
}
