//! Questions to the host's own name servers, as `resolv.conf(5)` and `hosts(5)` name them.

use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::dns::{self, A, AAAA, Answer, Code};

/// Time for one server to answer once.
const PATIENCE: Duration = Duration::from_millis(2000);
/// How often every server is asked.
const ROUNDS: usize = 2;
/// How long the second half of an answer may come after the first.
const BEHIND: Duration = Duration::from_millis(300);
/// The most name servers that are asked, as the C library has it (`MAXNS`).
const MOST_SERVERS: usize = 3;

/// The host's name servers and its own table of names.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolver {
    servers: Vec<SocketAddr>,
    hosts: HashMap<String, Vec<IpAddr>>,
}

/// What there is behind a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Addresses(Vec<IpAddr>, Duration),
    /// There is no such name.
    NoName,
    /// Nobody could tell.
    Nothing,
}

impl Resolver {
    /// The host's configuration as it is now.
    pub(super) fn of_host() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::new(&read("/etc/resolv.conf"), &read("/etc/hosts"))
    }

    fn new(resolv_conf: &str, hosts: &str) -> Self {
        let mut servers: Vec<SocketAddr> = lines(resolv_conf)
            .filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok())
            .map(|address: IpAddr| SocketAddr::new(address, 53))
            .take(MOST_SERVERS)
            .collect();
        if servers.is_empty() {
            servers.push((Ipv4Addr::LOCALHOST, 53).into());
        }
        let mut table: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in lines(hosts) {
            let mut words = line.split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse) else { continue };
            for name in words {
                table.entry(name.to_ascii_lowercase()).or_default().push(address);
            }
        }
        Self { servers, hosts: table }
    }

    /// The addresses of a name of a host, of both versions.
    pub(super) async fn addresses(&self, name: &str) -> Found {
        const OF_TABLE: Duration = Duration::from_secs(60);
        if let Some(addresses) = self.hosts.get(name) {
            return Found::Addresses(addresses.clone(), OF_TABLE);
        }
        let (mut v4, mut v6) = (None, None);
        let mut ask_v4 = std::pin::pin!(self.ask(name, A));
        let mut ask_v6 = std::pin::pin!(self.ask(name, AAAA));
        tokio::select! {
            answer = &mut ask_v4 => v4 = Some(answer),
            answer = &mut ask_v6 => v6 = Some(answer),
        }
        // One half with addresses does not wait long for the other.
        let has = |half: &Option<Option<Answer>>| {
            half.iter().flatten().any(|answer| !answer.addresses.is_empty())
        };
        let limit = if has(&v4) || has(&v6) { BEHIND } else { PATIENCE * 4 };
        if v4.is_none() {
            v4 = timeout(limit, ask_v4).await.ok();
        } else {
            v6 = timeout(limit, ask_v6).await.ok();
        }
        join(v4.flatten(), v6.flatten())
    }

    /// Asks the servers in turn; `None` when none gives an answer.
    async fn ask(&self, name: &str, kind: u16) -> Option<Answer> {
        let id = random();
        let message = self.message(id, name, kind).await?;
        dns::answer(&message, id, name, kind)
    }

    /// The answer of the first server that has one, as it came.
    pub(super) async fn message(&self, id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
        let question = dns::ask(id, name, kind);
        let mut refused = None;
        for server in self.servers.iter().cycle().take(self.servers.len() * ROUNDS) {
            let over_udp = by_udp(*server, &question, id, name, kind);
            let Ok(Ok((mut message, cut))) = timeout(PATIENCE, over_udp).await else { continue };
            if cut {
                let over_tcp = by_tcp(*server, &question);
                let Ok(Ok(whole)) = timeout(PATIENCE, over_tcp).await else { continue };
                message = whole;
            }
            match dns::answer(&message, id, name, kind) {
                Some(answer) if matches!(answer.code, Code::Ok | Code::NoName) => {
                    return Some(message);
                }
                Some(_) => refused = Some(message),
                None => {}
            }
        }
        refused
    }
}

/// Both halves of an answer as one.
fn join(v4: Option<Answer>, v6: Option<Answer>) -> Found {
    let halves = [&v4, &v6].map(|half| half.iter());
    let addresses: Vec<IpAddr> =
        halves.clone().into_iter().flatten().flat_map(|half| half.addresses.clone()).collect();
    let known = |code| halves.clone().into_iter().flatten().any(|half| half.code == code);
    if addresses.is_empty() {
        return match known(Code::NoName) {
            true => Found::NoName,
            false if known(Code::Ok) => Found::Addresses(Vec::new(), Duration::ZERO),
            false => Found::Nothing,
        };
    }
    let holding = halves.into_iter().flatten().filter(|half| !half.addresses.is_empty());
    let ttl = holding.map(|half| half.ttl).min().unwrap_or(0);
    Found::Addresses(addresses, Duration::from_secs(ttl.into()))
}

async fn by_udp(
    server: SocketAddr,
    question: &[u8],
    id: u16,
    name: &str,
    kind: u16,
) -> io::Result<(Vec<u8>, bool)> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not fit the question may be a guess of somebody else's.
        if let Some(answer) = dns::answer(&buffer[..length], id, name, kind) {
            buffer.truncate(length);
            return Ok((buffer, answer.cut));
        }
    }
}

async fn by_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let framed = [&(question.len() as u16).to_be_bytes(), question].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// A number that nobody can guess, for the question.
pub(super) fn random() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness the source port, which the kernel draws, is all that hides the question.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u16::from_ne_bytes(bytes)
}

/// Lines without comments.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default().trim())
}

#[cfg(test)]
mod tests {
    use super::{Answer, Code, Duration, Found, Resolver, join};

    #[test]
    fn the_files_of_the_host_are_read() {
        let resolver = Resolver::new(
            "# none\nsearch a.b\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 ; second\n\
             nameserver fe80::1%eth0\noptions ndots:1\n",
            "127.0.0.1 localhost\n192.0.2.9 Db.Internal db # the database\n2001:db8::9 db\nx y\n",
        );
        let servers: Vec<_> = resolver.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53"]);
        assert_eq!(resolver.hosts["db.internal"].len(), 1);
        assert_eq!(resolver.hosts["db"].len(), 2);
        assert_eq!(Resolver::new("", "").servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn both_halves_count() {
        let half = |code, addresses: &[&str], ttl| {
            let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
            Some(Answer { code, cut: false, addresses, ttl })
        };
        let v6_only = join(half(Code::Ok, &[], u32::MAX), half(Code::Ok, &["2001:db8::1"], 9));
        let expected =
            Found::Addresses(vec!["2001:db8::1".parse().unwrap()], Duration::from_secs(9));
        assert_eq!(v6_only, expected);
        assert_eq!(join(half(Code::NoName, &[], 0), None), Found::NoName);
        assert_eq!(join(None, None), Found::Nothing);
        assert_eq!(join(half(Code::Failed, &[], 0), None), Found::Nothing);
        let no_data = Found::Addresses(Vec::new(), Duration::ZERO);
        assert_eq!(join(half(Code::Ok, &[], 0), half(Code::Ok, &[], 0)), no_data);
    }
}
