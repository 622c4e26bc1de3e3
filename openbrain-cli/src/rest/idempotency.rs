//! `Idempotency-Key`: a request that is sent again, because its answer was lost, starts nothing new.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, HeaderName};
use openbrain::{Caller, Exec, NewSandbox};
use serde::Serialize;
use tokio::sync::OnceCell;
use tracing::Instrument;

use super::{
    problem::{Code, Problem, Result},
    sandboxes::Within,
    state::App,
};
use crate::service::{Kept, OpenSandbox, Service};

/// The name of the header.
pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest key, and how many are remembered. A key is remembered as long as its command or
/// sandbox.
const LONGEST: usize = 255;
const MOST: usize = 4096;

/// The keys that were used.
#[derive(Debug, Default)]
pub(super) struct Keys {
    used: Mutex<HashMap<Owner, Arc<Use>>>,
    hasher: RandomState,
}

/// The name of a caller, and a key of theirs.
type Owner = (Option<String>, String);

/// The request that a key was used for, and what was started, if it was.
#[derive(Debug)]
struct Use {
    request: u64,
    started: OnceCell<Started>,
}

/// The name of what was started with a key.
#[derive(Debug)]
enum Started {
    Exec(String),
    Sandbox(String),
}

/// The key of a request.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>> {
    let mut keys = headers.get_all(KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let known = |key: &&str| {
        (1..=LONGEST).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match (key.to_str().ok().filter(known), keys.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(Problem::malformed(format!(
            "an `Idempotency-Key` has 1 to {LONGEST} visible characters, and is there once"
        ))),
    }
}

/// Starts the command, or finds the one that was started with this key. It is started though the
/// client goes away meanwhile: it will ask again.
pub(super) async fn keep(
    app: App,
    key: String,
    exec: Exec,
    caller: Caller,
    within: Within,
) -> Result<Arc<Kept>> {
    surely(async move {
        let request = (within.as_ref().map(|open| open.id()), &exec);
        let used = app.keys.used_for(&app.service, &caller, key, &request)?;
        let mut kept = None;
        let started = used.started.get_or_try_init(async || -> Result<Started> {
            let started = app.service.keep(exec, caller, within.as_deref()).await?;
            let exec_id = started.exec_id().to_owned();
            kept = Some(started);
            Ok(Started::Exec(exec_id))
        });
        let Started::Exec(exec_id) = started.await? else { return Err(forgotten()) };
        kept.or_else(|| app.service.find(exec_id)).ok_or_else(forgotten)
    })
    .await
}

/// Creates the sandbox, or finds the one that was created with this key, as [`keep`] does.
pub(super) async fn create(
    app: App,
    key: String,
    new: NewSandbox,
    caller: Caller,
) -> Result<Arc<OpenSandbox>> {
    surely(async move {
        let used = app.keys.used_for(&app.service, &caller, key, &new)?;
        let mut open = None;
        let started = used.started.get_or_try_init(async || -> Result<Started> {
            let created = app.service.create_sandbox(new, caller).await?;
            let sandbox_id = created.id().to_owned();
            open = Some(created);
            Ok(Started::Sandbox(sandbox_id))
        });
        let Started::Sandbox(sandbox_id) = started.await? else { return Err(forgotten()) };
        open.or_else(|| app.service.find_sandbox(sandbox_id)).ok_or_else(forgotten)
    })
    .await
}

/// Goes on though the client goes away.
async fn surely<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let lost = |_| Problem::new(Code::Internal, "what was asked for was lost");
    tokio::spawn(work.in_current_span()).await.map_err(lost)?
}

fn forgotten() -> Problem {
    Problem::new(Code::NotFound, "what was started with this key was forgotten just now")
        .remedy("the next request with this key starts something new")
}

impl Keys {
    /// Notes what a key is used for, unless it is used for something else.
    fn used_for(
        &self,
        service: &Service,
        caller: &Caller,
        key: String,
        request: &impl Serialize,
    ) -> Result<Arc<Use>> {
        let (key, request): (Owner, _) = ((caller.name.clone(), key), self.fingerprint(request));
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= MOST {
            used.retain(|_, one| one.is_remembered(service));
        }
        match used.get(&key).filter(|one| one.is_remembered(service)) {
            Some(one) if one.request == request => return Ok(Arc::clone(one)),
            Some(_) => {
                let detail = "this `Idempotency-Key` was used for another request";
                return Err(Problem::new(Code::IdempotencyKeyReused, detail)
                    .remedy("take a new key for a new request"));
            }
            None if used.len() >= MOST => {
                let detail = "more keys are in use than the server remembers";
                return Err(Problem::new(Code::Busy, detail).remedy("try again later"));
            }
            None => {}
        }
        let one = Arc::new(Use { request, started: OnceCell::new() });
        used.insert(key, Arc::clone(&one));
        Ok(one)
    }

    /// Two requests that ask for the same thing have the same number, however they are written.
    fn fingerprint(&self, request: &impl Serialize) -> u64 {
        // A request was JSON before.
        self.hasher.hash_one(serde_json::to_vec(request).unwrap_or_default())
    }
}

impl Use {
    /// Whether what was started is remembered, or is being started.
    fn is_remembered(self: &Arc<Self>, service: &Service) -> bool {
        match self.started.get() {
            Some(Started::Exec(exec_id)) => service.find(exec_id).is_some(),
            Some(Started::Sandbox(id)) => service.find_sandbox(id).is_some(),
            None => Arc::strong_count(self) > 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KEY, key};

    #[test]
    fn a_key_is_short_visible_and_there_once() {
        let of = |values: &[&str]| {
            key(&values.iter().map(|value| (KEY, value.parse().unwrap())).collect())
        };
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&["\"a-1\""]).unwrap(), Some("\"a-1\"".into()));
        for wrong in [&[""][..], &["a b"], &["a", "a"], &[&"x".repeat(256)]] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }
}
