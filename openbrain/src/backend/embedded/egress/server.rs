//! The sandbox's name server: answers for what may be reached, and asks nobody about the rest.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    dns::{self, A, AAAA, Arrived, Code, Query},
    policy::{Reason, Target},
    relay::{Known, Rate, Run},
    resolver::random,
};

/// How long a command may believe an answer. The made-up address of a name stays the same.
const TTL: u32 = 60;
/// Questions that may wait for the host's name servers at a time.
const MOST_WAITING: usize = 256;
/// Connections to the name server at a time.
const MOST_CONNECTIONS: usize = 32;
/// How long such a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);

/// The name server of one run.
pub(super) struct Server {
    run: Arc<Run>,
    waiting: Semaphore,
    /// For what the host's name servers are asked, and for what is answered here.
    budget: Budget,
    own_budget: Budget,
}

impl Server {
    pub(super) fn new(run: Arc<Run>) -> Self {
        let limits = run.limits;
        let budget = Budget::new(limits.questions);
        let own_budget = Budget::new(limits.own_questions);
        Self { run, waiting: Semaphore::new(MOST_WAITING), budget, own_budget }
    }

    /// Answers what comes in datagrams, for as long as it is polled.
    pub(super) async fn datagrams(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut waiting = JoinSet::new();
        let mut buffer = vec![0; 4096];
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer) => received,
                Some(_) = waiting.join_next() => continue,
            };
            let Ok((length, from)) = received else { continue };
            let query = match dns::query(&buffer[..length]) {
                Arrived::Noise => continue,
                Arrived::Reply(reply) => {
                    let _ = socket.try_send_to(&reply, from);
                    continue;
                }
                Arrived::Query(query) => query,
            };
            match self.at_once(&query) {
                Some(reply) => {
                    let _ = socket.try_send_to(&reply, from);
                }
                None => {
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    waiting.spawn(async move { server.later(query, &socket, from).await });
                }
            }
        }
    }

    async fn later(&self, query: Query, socket: &UdpSocket, from: SocketAddr) {
        let reply = self.answer(&query, true).await;
        let _ = socket.send_to(&reply, from).await;
    }

    /// Answers what comes in connections, for as long as it is polled.
    pub(super) async fn connections(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            if connections.len() >= MOST_CONNECTIONS {
                connections.join_next().await;
                continue;
            }
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((client, _)) => {
                    let server = Arc::clone(&self);
                    connections.spawn(async move { server.connection(client).await });
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn connection(&self, mut client: TcpStream) -> Option<()> {
        loop {
            let message = async {
                let length = client.read_u16().await.ok()?;
                let mut message = vec![0; length.into()];
                client.read_exact(&mut message).await.ok().map(|_| message)
            };
            let message = timeout(IDLE, message).await.ok()??;
            let reply = match dns::query(&message) {
                Arrived::Noise => return None,
                Arrived::Reply(reply) => reply,
                Arrived::Query(query) => match self.at_once(&query) {
                    Some(reply) => reply,
                    None => self.answer(&query, false).await,
                },
            };
            let length = u16::try_from(reply.len()).ok()?;
            let framed = [&length.to_be_bytes()[..], &reply].concat();
            timeout(IDLE, client.write_all(&framed)).await.ok()?.ok()?;
        }
    }

    /// The answer to a question for which nobody else has to be asked.
    fn at_once(&self, query: &Query) -> Option<Vec<u8>> {
        if !self.own_budget.take() {
            return Some(self.too_many(query));
        }
        let Some(name) = &query.name else {
            self.run.tally.denied(&query.shown, None, Reason::NoName);
            return Some(query.empty(Code::NoName));
        };
        if let Err(reason) = self.run.policy.name(name) {
            self.run.tally.denied(name, None, reason);
            return Some(query.empty(Code::NoName));
        }
        let is_address = query.kind == A || query.kind == AAAA;
        if !is_address && !self.run.policy.is_open() {
            return Some(query.empty(Code::Ok));
        }
        let fresh = is_address && self.run.names().fresh(name, Instant::now().into_std()).is_some();
        fresh.then(|| self.made_up(query, name))
    }

    /// The answer to a question that the policy allows.
    async fn answer(&self, query: &Query, datagram: bool) -> Vec<u8> {
        let Some(name) = &query.name else { return query.empty(Code::NoName) };
        if !self.budget.take() {
            return self.too_many(query);
        }
        let Ok(_permit) = self.waiting.try_acquire() else { return query.empty(Code::Failed) };
        if query.kind != A && query.kind != AAAA {
            let id = random();
            return match self.run.resolver.message(id, name, query.kind).await {
                Some(message) => query.pass_on(message, datagram),
                None => query.empty(Code::Failed),
            };
        }
        match self.run.look_up(name).await {
            Known::Entry(_) => self.made_up(query, name),
            Known::NoName => query.empty(Code::NoName),
            Known::Nothing => query.empty(Code::Failed),
        }
    }

    /// The answer for a name whose addresses are known: an address that stands for it. A name
    /// without an address that may be reached is not there.
    fn made_up(&self, query: &Query, name: &str) -> Vec<u8> {
        let (entry, made_up) = {
            let names = self.run.names();
            let Some((v4, v6)) = names.made_up(name) else { return query.empty(Code::Failed) };
            let entry = names.behind(v4.into()).cloned();
            (entry, if query.kind == A { IpAddr::V4(v4) } else { IpAddr::V6(v6) })
        };
        let addresses = entry.map(|entry| entry.addresses).unwrap_or_default();
        if addresses.is_empty() {
            return query.empty(Code::Ok);
        }
        let refused = addresses.iter().map(|address| self.refusal(name, *address));
        if let Some(reason) = refused.min().flatten() {
            self.run.tally.denied(name, None, reason);
            return query.empty(Code::NoName);
        }
        // A name of the fourth version alone stays that, and one of the sixth alone is for all.
        let has_v6 = self.run.ipv6 && !addresses.iter().all(IpAddr::is_ipv4);
        let none = query.kind == AAAA && !has_v6;
        query.answer(Code::Ok, (!none).then_some(made_up), TTL)
    }

    /// Why an address of a name may not be reached, whatever the port.
    fn refusal(&self, name: &str, address: IpAddr) -> Option<Reason> {
        let target: Target = self.run.target(address, 0);
        self.run.policy.any_port(name, target).err()
    }

    /// Counts a question that was one too many, and refuses it.
    fn too_many(&self, query: &Query) -> Vec<u8> {
        self.run.tally.denied("*", Some(53), Reason::Busy);
        query.empty(Code::Refused)
    }
}

/// What may still happen of something that has a rate.
struct Budget {
    rate: Rate,
    left: Mutex<(f64, Instant)>,
}

impl Budget {
    fn new(rate: Rate) -> Self {
        Self { rate, left: Mutex::new((rate.at_once.into(), Instant::now())) }
    }

    /// Whether it may happen once more now.
    fn take(&self) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = now.duration_since(left.1).as_secs_f64() * f64::from(self.rate.in_a_second);
        let most = f64::from(self.rate.at_once);
        *left = ((left.0 + earned).min(most), now);
        let enough = left.0 >= 1.0;
        left.0 -= f64::from(u8::from(enough));
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Rate};

    #[test]
    fn a_budget_is_spent_and_earned_again() {
        let budget = Budget::new(Rate { in_a_second: 1000, at_once: 5 });
        let taken = (0..1000).filter(|_| budget.take()).count();
        assert!((5..900).contains(&taken), "{taken}");
        std::thread::sleep(std::time::Duration::from_millis(3));
        assert!(budget.take());
    }
}
