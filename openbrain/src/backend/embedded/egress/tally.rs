//! What a run reached and what it was refused, counted for its result.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::policy::Reason;
use crate::output::{Denial, NetworkUse};

/// How many destinations, and how many refusals, are told apart.
const MOST: usize = 256;

/// The counts of a run.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    uses: Table<(String, u16), Arc<Use>>,
    denials: Table<(String, Option<u16>, Reason), u64>,
}

/// Values by key, in the order in which the keys first came.
#[derive(Debug)]
struct Table<K, V> {
    index: HashMap<K, usize>,
    rows: Vec<(K, V)>,
}

/// What was exchanged with one destination.
#[derive(Debug, Default)]
pub(super) struct Use {
    pub(super) connections: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// What was counted until some moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) uses: Vec<NetworkUse>,
    pub(crate) denials: Vec<Denial>,
}

impl Seen {
    /// What was added since an earlier moment.
    pub(crate) fn since(mut self, earlier: &Self) -> Self {
        for now in &mut self.uses {
            let key = |one: &NetworkUse| (one.host.clone(), one.port);
            if let Some(then) = earlier.uses.iter().find(|then| key(then) == key(now)) {
                now.connections -= then.connections;
                now.failed -= then.failed;
                now.bytes_sent -= then.bytes_sent;
                now.bytes_received -= then.bytes_received;
            }
        }
        for now in &mut self.denials {
            let same = |then: &&Denial| then.what == now.what && then.reason == now.reason;
            now.count -= earlier.denials.iter().find(same).map_or(0, |then| then.count);
        }
        let is_used = |one: &NetworkUse| {
            one.connections + one.failed + one.bytes_sent + one.bytes_received > 0
        };
        self.uses.retain(is_used);
        self.denials.retain(|denial| denial.count > 0);
        self
    }
}

impl Tally {
    /// The counts of a destination, and one more connection.
    pub(super) fn connection(&self, host: &str, port: u16) -> Arc<Use> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = counts.uses.row((host.to_owned(), port), ("*".to_owned(), 0));
        row.connections.fetch_add(1, Relaxed);
        Arc::clone(row)
    }

    /// One more refusal.
    pub(super) fn denied(&self, host: &str, port: Option<u16>, reason: Reason) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.denials.row((host.to_owned(), port, reason), ("*".to_owned(), None, reason)) += 1;
    }

    /// The refusals, for the result.
    pub(super) fn denials(&self) -> Vec<Denial> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = counts.denials.rows.iter();
        rows.map(|((host, port, reason), count)| denial(host, *port, *reason, *count)).collect()
    }

    /// The destinations, for the result.
    pub(super) fn uses(&self) -> Vec<NetworkUse> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = counts.uses.rows.iter();
        rows.map(|((host, port), counts)| NetworkUse {
            host: host.clone(),
            port: *port,
            connections: counts.connections.load(Relaxed),
            failed: counts.failed.load(Relaxed),
            bytes_sent: counts.sent.load(Relaxed),
            bytes_received: counts.received.load(Relaxed),
        })
        .collect()
    }
}

fn denial(host: &str, port: Option<u16>, reason: Reason, count: u64) -> Denial {
    let what = match port {
        Some(port) if host.contains(':') => format!("[{host}]:{port}"),
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let remedy = if host == "*" { None } else { reason.remedy(host, port) };
    let host = Some(host.to_owned());
    Denial { what, host, port, reason: reason.words().into(), remedy, count }
}

impl<K: Clone + Eq + std::hash::Hash, V: Default> Table<K, V> {
    /// The value of a key; once there are too many, of `rest`.
    fn row(&mut self, key: K, rest: K) -> &mut V {
        let key = match self.index.contains_key(&key) || self.rows.len() < MOST - 1 {
            true => key,
            false => rest,
        };
        let next = self.rows.len();
        let at = *self.index.entry(key.clone()).or_insert(next);
        if at == next {
            self.rows.push((key, V::default()));
        }
        &mut self.rows[at].1
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { index: HashMap::new(), rows: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, Reason, Relaxed, Seen, Tally};

    #[test]
    fn refusals_are_counted_by_host_port_and_reason() {
        let tally = Tally::default();
        tally.denied("a.example", Some(22), Reason::Port);
        tally.denied("a.example", Some(22), Reason::Port);
        tally.denied("2001:db8::1", Some(22), Reason::Port);
        let [first, second] = &tally.denials()[..] else { panic!() };
        assert_eq!((first.what.as_str(), first.count), ("a.example:22", 2));
        assert!(first.remedy.as_ref().unwrap().contains("--allow-port 22"));
        assert_eq!(second.what, "[2001:db8::1]:22");
    }

    #[test]
    fn what_was_added_is_told_apart() {
        let tally = Tally::default();
        let seen = || Seen { uses: tally.uses(), denials: tally.denials() };
        let used = tally.connection("a.example", 443);
        used.sent.fetch_add(5, Relaxed);
        tally.denied("b.example", None, Reason::Name);
        let before = seen();
        assert_eq!(seen().since(&before), Seen::default());
        used.sent.fetch_add(2, Relaxed);
        tally.denied("b.example", None, Reason::Name);
        tally.connection("c.example", 80);
        let added = seen().since(&before);
        let uses = added.uses.iter().map(|u| (u.host.as_str(), u.connections, u.bytes_sent));
        assert_eq!(uses.collect::<Vec<_>>(), [("a.example", 0, 2), ("c.example", 1, 0)]);
        assert_eq!(added.denials.iter().map(|d| d.count).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn counts_are_bounded_and_nothing_is_lost() {
        let tally = Tally::default();
        for n in 0..10_000 {
            tally.connection(&format!("n{n}.example"), 443).sent.fetch_add(1, Relaxed);
            tally.denied(&format!("n{n}.example"), None, Reason::Name);
        }
        let (uses, denials) = (tally.uses(), tally.denials());
        assert_eq!((uses.len(), denials.len()), (MOST, MOST));
        assert_eq!(uses.iter().map(|u| u.bytes_sent).sum::<u64>(), 10_000);
        assert_eq!(uses.iter().map(|u| u.connections).sum::<u64>(), 10_000);
        assert_eq!(denials.iter().map(|d| d.count).sum::<u64>(), 10_000);
        assert_eq!((denials[MOST - 1].what.as_str(), &denials[MOST - 1].remedy), ("*", &None));
    }
}
