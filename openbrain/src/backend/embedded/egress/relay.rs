//! Connections of the command: where each was to go, whether it may, and the bytes.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use rustix::{
    net::sockopt,
    process::{Resource, getrlimit},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OnceCell, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    address::{Kind, kind, plain},
    copy::{self, Bounds, both_ways},
    names::{Entry, Names},
    policy::{Policy, Reason, Target},
    resolver::{Found, Resolver},
    router,
    tally::{Tally, Use},
};
use crate::sandbox::{SANDBOX_TOS, is_protected};

/// What a run may use of the relay. A build meets none of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at a time; more wait.
    pub(super) connections: usize,
    /// Of each connection.
    pub(super) bounds: Bounds,
    /// Questions in a second that the host's name servers are asked, and after a pause at once.
    pub(super) questions: Rate,
    /// The same for questions that are answered here.
    pub(super) own_questions: Rate,
}

/// How often something may happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) in_a_second: u32,
    pub(super) at_once: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let bounds = Bounds { idle: Duration::from_secs(3600), bytes: 1 << 40 };
        Self {
            connections: 1024,
            bounds,
            questions: Rate { in_a_second: 500, at_once: 2000 },
            own_questions: Rate { in_a_second: 10_000, at_once: 50_000 },
        }
    }
}

/// Time for one address to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// How long one address may keep the next one from being tried as well.
const NEXT: Duration = Duration::from_millis(250);
/// Time until descriptors may be there again.
const SHORTAGE: Duration = Duration::from_millis(20);
/// The bounds of how long an answer of a name server is believed.
const BELIEVED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// What all connections of a run share.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) policy: Policy,
    pub(super) limits: Limits,
    /// Whether the sandbox has IPv6.
    pub(super) ipv6: bool,
    pub(super) resolver: Resolver,
    pub(super) tally: Tally,
    names: Mutex<Names>,
    /// Names that somebody is asked for right now: everybody who wants to know waits for that.
    asking: Mutex<HashMap<String, Arc<OnceCell<Known>>>>,
    places: Arc<Semaphore>,
    /// Connections that still have something of the command's to pass on.
    pub(super) unsent: watch::Sender<usize>,
    /// Connections.
    pub(super) open: watch::Sender<usize>,
}

/// What became of the question for a name.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// It has these addresses, made-up ones among them for the command.
    Entry(Entry),
    NoName,
    Nothing,
}

impl Run {
    pub(super) fn new(policy: Policy, limits: Limits, ipv6: bool) -> Self {
        Self {
            policy,
            limits,
            ipv6,
            resolver: Resolver::of_host(),
            tally: Tally::default(),
            names: Mutex::default(),
            asking: Mutex::default(),
            places: Arc::new(Semaphore::new(limits.connections)),
            unsent: watch::Sender::new(0),
            open: watch::Sender::new(0),
        }
    }

    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is behind a name that may be asked for.
    pub(super) async fn look_up(&self, name: &str) -> Known {
        if let Some(entry) = self.names().fresh(name, Instant::now().into_std()) {
            return Known::Entry(entry.clone());
        }
        let asking = || self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = Arc::clone(asking().entry(name.to_owned()).or_default());
        let known = cell.get_or_init(|| self.ask_for(name)).await.clone();
        // Whoever comes later asks again, when the answer has become too old.
        asking().remove(name);
        known
    }

    async fn ask_for(&self, name: &str) -> Known {
        let now = Instant::now().into_std();
        match self.resolver.addresses(name).await {
            Found::Addresses(addresses, ttl) => {
                let until = now + ttl.clamp(BELIEVED.0, BELIEVED.1);
                let addresses: Arc<[IpAddr]> = addresses.into();
                self.names().keep(name, Arc::clone(&addresses), until);
                Known::Entry(Entry { name: name.into(), addresses, until })
            }
            Found::NoName => Known::NoName,
            Found::Nothing => Known::Nothing,
        }
    }

    /// An address and a port as the policy sees them.
    pub(super) fn target(&self, address: IpAddr, port: u16) -> Target {
        let is_own = router::is_own(address);
        Target { address, port, is_own, is_protected: is_protected(port) }
    }
}

/// Relays what arrives at a listener, for as long as it is polled.
pub(super) async fn relay(run: Arc<Run>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((client, _)) = accepted else {
            // Out of descriptors, or a connection that has gone before it was accepted.
            sleep(SHORTAGE).await;
            continue;
        };
        // Who finds no place waits, and whoever comes after waits in the sandbox.
        let places = [Arc::clone(&run.places), Arc::clone(places())].map(Semaphore::acquire_owned);
        let [of_run, of_all] = places;
        let permits = (of_run.await, of_all.await);
        let run = Arc::clone(&run);
        connections.spawn(async move {
            serve(&run, client).await;
            drop(permits);
        });
    }
}

/// The places of all runs of this process: a quarter of the descriptors that it may have, each
/// connection taking two.
fn places() -> &'static Arc<Semaphore> {
    static PLACES: OnceLock<Arc<Semaphore>> = OnceLock::new();
    PLACES.get_or_init(|| {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).clamp(64, 1 << 16);
        Arc::new(Semaphore::new(files as usize / 4))
    })
}

/// One connection, from where it was to go to its end.
async fn serve(run: &Run, client: TcpStream) {
    let (sent, _open) = (Counted::new(&run.unsent), Counted::new(&run.open));
    if let Some((server, counts)) = reach(run, &client).await {
        let ended = move || drop(sent);
        both_ways(&client, &server, &counts, run.limits.bounds, ended).await;
    } else {
        copy::reset(&client);
    }
}

/// One more, for as long as it lives.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Connects to where the command wanted to go, when it may.
async fn reach(run: &Run, client: &TcpStream) -> Option<(TcpStream, Arc<Use>)> {
    let wanted = client.local_addr().ok()?;
    let (address, port) = (plain(wanted.ip()), wanted.port());
    let entry = run.names().behind(address).cloned();
    let (host, allowed) = match &entry {
        Some(entry) => (entry.name.to_string(), addresses_of(run, entry, address, port).await),
        None => (address.to_string(), literal(run, address, port)),
    };
    let addresses = match allowed {
        Ok(addresses) => addresses,
        // What the command finds closed on its own loopback is no refusal of ours.
        Err(Reason::Loopback) if entry.is_none() && kind(address) == Kind::Loopback => return None,
        Err(reason) => {
            run.tally.denied(&host, Some(port), reason);
            return None;
        }
    };
    let counts = run.tally.connection(&host, port);
    let server = connect(&addresses, port).await;
    if server.is_none() {
        counts.failed.fetch_add(1, Relaxed);
    }
    // Small messages are not held back for larger ones.
    let server = server?;
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    Some((server, counts))
}

/// The addresses that an address stands for: itself, and for one loopback address the other, because
/// `localhost` is both and a service listens on one of them.
fn literal(run: &Run, address: IpAddr, port: u16) -> Result<Vec<IpAddr>, Reason> {
    run.policy.literal(run.target(address, port))?;
    let other: Option<IpAddr> = match address {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Some(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Some(Ipv4Addr::LOCALHOST.into()),
        _ => None,
    };
    let other = other.filter(|other| run.policy.literal(run.target(*other, port)).is_ok());
    Ok([address].into_iter().chain(other).collect())
}

/// The addresses of a name that may be connected to; those of the version that the command chose
/// come first.
async fn addresses_of(
    run: &Run,
    entry: &Entry,
    made_up: IpAddr,
    port: u16,
) -> Result<Vec<IpAddr>, Reason> {
    let known = run.look_up(&entry.name).await;
    // Without a newer answer the last one is as good as it was.
    let addresses = match known {
        Known::Entry(newer) => newer.addresses,
        Known::NoName | Known::Nothing => Arc::clone(&entry.addresses),
    };
    let mut refused = Reason::Name;
    let mut allowed = Vec::new();
    for address in addresses.iter().map(|address| plain(*address)) {
        match run.policy.connection(&entry.name, run.target(address, port)) {
            Ok(()) => allowed.push(address),
            Err(reason) => refused = reason,
        }
    }
    allowed.sort_by_key(|address| address.is_ipv4() != made_up.is_ipv4());
    if allowed.is_empty() && !addresses.is_empty() { Err(refused) } else { Ok(allowed) }
}

/// Connects to an address. On this host, to which the unspecified address leads as well, the other end
/// can tell whose connection it is.
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let is_own = address.ip().is_loopback() || address.ip().is_unspecified();
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    match address {
        SocketAddr::V4(_) if is_own => sockopt::set_ip_tos(&socket, SANDBOX_TOS)?,
        SocketAddr::V6(_) if is_own => sockopt::set_ipv6_tclass(&socket, SANDBOX_TOS.into())?,
        _ => {}
    }
    socket.connect(address).await
}

/// Connects to the first address that answers; each has a start over the next one.
async fn connect(addresses: &[IpAddr], port: u16) -> Option<TcpStream> {
    let dial = |address: IpAddr| async move {
        let connecting = dial(SocketAddr::new(address, port));
        timeout(CONNECT, connecting).await.ok()?.ok()
    };
    if let [only] = addresses {
        return dial(*only).await;
    }
    let mut attempts = JoinSet::new();
    let mut left = addresses.iter();
    loop {
        let next = left.next();
        if let Some(address) = next {
            attempts.spawn(dial(*address));
        }
        let limit = if next.is_some() { NEXT } else { CONNECT };
        match timeout(limit, attempts.join_next()).await {
            Ok(Some(Ok(Some(server)))) => return Some(server),
            Ok(None) if next.is_none() => return None,
            Err(_) if next.is_none() => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SANDBOX_TOS, SocketAddr, TcpListener, dial, sockopt};

    #[tokio::test]
    async fn what_goes_to_this_host_is_marked() {
        for (listening, address) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", "0.0.0.0"),
            ("[::1]", "[::1]"),
            ("[::1]", "[::]"),
        ] {
            let listener = TcpListener::bind(format!("{listening}:0")).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let to: SocketAddr = format!("{address}:{port}").parse().unwrap();
            let stream = dial(to).await.unwrap();
            let mark = match to {
                SocketAddr::V4(_) => sockopt::ip_tos(&stream).unwrap(),
                SocketAddr::V6(_) => sockopt::ipv6_tclass(&stream).unwrap() as u8,
            };
            assert_eq!(mark, SANDBOX_TOS, "{address}");
        }
    }
}
