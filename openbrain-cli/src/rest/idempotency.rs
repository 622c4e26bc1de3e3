//! `Idempotency-Key`: a request that is sent again, because its answer was lost, starts nothing new.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, HeaderName};
use openbrain::{Caller, Exec};
use tokio::sync::OnceCell;
use tracing::Instrument;

use super::{
    problem::{Code, Problem, Result},
    state::App,
};
use crate::service::{Kept, Service};

/// The name of the header.
pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest key, and how many are remembered. A key is remembered as long as its command.
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

/// The request that a key was used for, and the command that was started, if it was.
#[derive(Debug)]
struct Use {
    request: u64,
    exec_id: OnceCell<String>,
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
pub(super) async fn keep(app: App, key: String, exec: Exec, caller: Caller) -> Result<Arc<Kept>> {
    let started = async move { app.keys.keep(&app.service, key, exec, caller).await };
    let lost = |_| Problem::new(Code::Internal, "the start of the command was lost");
    tokio::spawn(started.in_current_span()).await.map_err(lost)?
}

impl Keys {
    async fn keep(
        &self,
        service: &Service,
        key: String,
        exec: Exec,
        caller: Caller,
    ) -> Result<Arc<Kept>> {
        let used = self.used_for((caller.name.clone(), key), self.fingerprint(&exec), service)?;
        let mut kept = None;
        let exec_id = used.exec_id.get_or_try_init(async || -> Result<String> {
            let started = service.keep(exec, caller).await?;
            let exec_id = started.exec_id().to_owned();
            kept = Some(started);
            Ok(exec_id)
        });
        let exec_id = exec_id.await?;
        kept.or_else(|| service.find(exec_id)).ok_or_else(|| {
            Problem::new(Code::NotFound, "the command of this key was forgotten just now")
                .remedy("the next request with this key starts a new one")
        })
    }

    /// Notes what a key is used for, unless it is used for something else.
    fn used_for(&self, key: Owner, request: u64, service: &Service) -> Result<Arc<Use>> {
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
        let one = Arc::new(Use { request, exec_id: OnceCell::new() });
        used.insert(key, Arc::clone(&one));
        Ok(one)
    }

    /// Two requests that ask for the same thing have the same number, however they are written.
    fn fingerprint(&self, exec: &Exec) -> u64 {
        // A request was JSON before.
        self.hasher.hash_one(serde_json::to_vec(exec).unwrap_or_default())
    }
}

impl Use {
    /// Whether its command is remembered, or is being started.
    fn is_remembered(self: &Arc<Self>, service: &Service) -> bool {
        match self.exec_id.get() {
            Some(exec_id) => service.find(exec_id).is_some(),
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
