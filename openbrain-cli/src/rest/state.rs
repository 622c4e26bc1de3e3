//! What every handler is given: the service, and what a request says of itself.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use openbrain::{Caller, Exec, Surface};

use super::{
    body::{Read, Reader},
    fields,
    guard::Identity,
    idempotency::Keys,
    long::Room,
    problem::{Code, Problem, Result},
    ready::Probe,
};
use crate::service::{Kept, OpenSandbox, Service};

/// What every handler is given.
#[derive(Clone)]
pub(super) struct App(Arc<Inner>);

pub(super) struct Inner {
    pub(super) service: Arc<Service>,
    pub(super) bodies: Reader,
    pub(super) answers: Room,
    pub(super) keys: Keys,
    pub(super) probe: Probe,
}

impl App {
    pub(super) fn new(service: Arc<Service>) -> Self {
        let bodies = Reader::new(service.settings().server.max_body);
        let probe = Probe::new(service.settings());
        Self(Arc::new(Inner {
            service,
            bodies,
            answers: Room::default(),
            keys: Keys::default(),
            probe,
        }))
    }

    /// Reads the request for a command, and keeps its place among the bodies.
    pub(super) async fn exec(&self, request: axum::extract::Request) -> Result<(Exec, Read)> {
        let (parts, body) = request.into_parts();
        let read = self.bodies.read(&parts.headers, body).await?;
        Ok((fields::read(&read.bytes)?, read))
    }

    /// The command of this name, when it is this caller's.
    pub(super) fn find(&self, exec_id: &str, caller: &Caller) -> Result<Arc<Kept>> {
        let own = self.service.find(exec_id).filter(|kept| kept.caller() == caller);
        own.ok_or_else(|| {
            let detail = "there is no such command, or it is no longer remembered";
            Problem::new(Code::NotFound, detail)
                .remedy("commands are remembered for `server.keep_seconds` after their end")
        })
    }
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Who asks.
pub(super) struct Asker(pub(super) Caller);

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let caller = Caller::new(Surface::Rest);
        Ok(Self(match parts.extensions.get() {
            Some(Identity(name)) => caller.named(name.clone()),
            None => return Err(Problem::new(Code::Internal, "the request came past the guard")),
        }))
    }
}

/// A command that the path names and that is the asker's.
pub(super) struct Named(pub(super) Arc<Kept>);

impl FromRequestParts<App> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let Asker(caller) = Asker::from_request_parts(parts, app).await?;
        // A name that cannot be read is the name of no command.
        let path = Path::<String>::from_request_parts(parts, app).await;
        app.find(path.as_deref().map_or("", String::as_str), &caller).map(Self)
    }
}

/// An open sandbox that the path names and that is the asker's.
pub(super) struct NamedSandbox(pub(super) Arc<OpenSandbox>);

impl FromRequestParts<App> for NamedSandbox {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let Asker(caller) = Asker::from_request_parts(parts, app).await?;
        // A name that cannot be read is the name of no sandbox.
        let path = Path::<String>::from_request_parts(parts, app).await;
        let found = app.service.find_sandbox(path.as_deref().map_or("", String::as_str));
        let own = found.filter(|open| *open.caller() == caller);
        own.map(Self).ok_or_else(|| {
            Problem::new(Code::NotFound, "there is no such sandbox, or it has ended")
                .remedy("create another one, with a longer `timeout`, or renew it in time")
        })
    }
}

/// What the query of a URL says, all of it known.
pub(super) struct Query<T>(pub(super) T);

impl<T: serde::de::DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(query) => Ok(Self(query.0)),
            Err(rejection) => Err(Problem::invalid(rejection.body_text())),
        }
    }
}
