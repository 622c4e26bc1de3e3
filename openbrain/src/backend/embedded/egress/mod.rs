//! Egress: the network that the settings allow, and nothing else.
//!
//! The sandbox keeps its own network namespace, in which every address is local. Connections end in
//! sockets that the helper has opened there and handed to this process, before the command ran; a
//! thread here accepts them, decides ([`policy`]), connects from the host and copies ([`relay`]).
//! Names are answered with made-up addresses ([`names`], [`server`]), so that a connection tells the
//! name it is for. The command has no socket, no descriptor and no address of the relay.

mod address;
mod copy;
mod dns;
mod names;
mod netlink;
mod policy;
mod relay;
mod resolver;
mod router;
mod server;
mod setup;
mod tally;

use std::{
    fs, io,
    net::{TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::net::RecvFlags;
use tokio::{
    io::unix::AsyncFd,
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet, yield_now},
    time::timeout,
};

use self::{
    policy::{Policy, Ports, Reason},
    relay::{Limits, Run},
    server::Server,
    setup::{MOST_LISTENERS, Setup},
};
pub(crate) use self::{
    setup::{NAME_SERVER, REDIRECT, ROUTES},
    tally::Seen,
};
use super::thread;
use crate::{
    backend::{Ended, helper::Program, sys},
    check::Check,
    error::{Error, Result},
    sandbox::Network,
    spec::SandboxSpec,
};

/// How long the result waits until the relay has passed on what the command sent last.
const SETTLE: Duration = Duration::from_millis(100);
/// How long the other side of a connection may take to end it, after the command has.
const LINGER: Duration = Duration::from_secs(5);

/// Set when the kernel has refused to redirect: the next runs do not ask again.
static NO_REDIRECTION: AtomicBool = AtomicBool::new(false);

/// What a run may reach, decided before it starts.
#[derive(Debug)]
pub(crate) struct Plan {
    policy: Policy,
    setup: Setup,
    runtime: Handle,
    summary: String,
}

impl Plan {
    /// The plan of a sandbox; `None` when it has no network.
    ///
    /// # Errors
    ///
    /// When the lists cannot be read, or ask for what the kernel does not have.
    pub(crate) fn new(sandbox: &SandboxSpec) -> Result<Option<Self>> {
        let Some(policy) = Policy::new(&sandbox.network, &sandbox.allowed_hosts)? else {
            return Ok(None);
        };
        let setup = Setup {
            ports: policy.ports(),
            loopback_ports: policy.loopback_ports(),
            redirect: !NO_REDIRECTION.load(Ordering::Relaxed) || needs_redirection(&policy),
            ipv6: has_ipv6(),
        };
        check_ipv6(&policy, setup.ipv6)?;
        let runtime = thread::RELAY
            .runtime()
            .map_err(|e| Error::system("cannot start the thread that relays", e))?;
        let summary = summary(&sandbox.network, &sandbox.allowed_hosts, &setup);
        Ok(Some(Self { policy, setup, runtime, summary }))
    }

    /// Adds the sandbox's side of the relay.
    pub(crate) fn compile(&self, to: &mut Program) {
        self.setup.compile(to);
    }

    /// What the command reaches, for people.
    pub(crate) fn summary(&self) -> &str {
        &self.summary
    }

    /// Whether a run that the kernel has refused to redirect can do without; later runs will.
    pub(crate) fn can_do_without_redirection(&self, refusal: &io::Error) -> bool {
        // What the kernel does not have, unlike what it is short of.
        let missing = [libc::ENOENT, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT];
        let lacks = refusal.raw_os_error().is_some_and(|errno| missing.contains(&errno));
        let can = lacks && self.setup.redirect && !needs_redirection(&self.policy);
        if can {
            NO_REDIRECTION.store(true, Ordering::Relaxed);
        }
        can
    }

    /// Serves a sandbox, with the sockets that the helper has made in it.
    pub(crate) fn serve(self, sockets: Vec<OwnedFd>) -> Result<Egress> {
        let Self { policy, setup, runtime, summary: _ } = self;
        let run = Arc::new(Run::new(policy, Limits::default(), setup.ipv6));
        let serve = || {
            let _inside = runtime.enter();
            let mut sockets = sockets.into_iter();
            let mut next = || sockets.next().ok_or_else(|| io::Error::other("a socket is missing"));
            let names = tokio::net::UdpSocket::from_std(UdpSocket::from(next()?))?;
            let names_tcp = tokio::net::TcpListener::from_std(TcpListener::from(next()?))?;
            let told = if setup.redirect { Some(sys::watch(next()?)?) } else { None };
            let server = Arc::new(Server::new(Arc::clone(&run)));
            let mut tasks = JoinSet::new();
            tasks.spawn_on(Arc::clone(&server).datagrams(names), &runtime);
            tasks.spawn_on(server.connections(names_tcp), &runtime);
            if let Some(told) = told {
                tasks.spawn_on(listen_to_filter(Arc::clone(&run), told), &runtime);
            }
            for listener in sockets {
                let listener = tokio::net::TcpListener::from_std(TcpListener::from(listener))?;
                tasks.spawn_on(relay::relay(Arc::clone(&run), listener), &runtime);
            }
            io::Result::Ok(tasks)
        };
        let tasks = serve().map_err(|e| Error::system("cannot serve the sandbox's network", e))?;
        let (end, ending) = mpsc::channel(1);
        let task = runtime.spawn(live(Arc::clone(&run), tasks, ending)).abort_handle();
        Ok(Egress { run, end, task, runtime, settled: false })
    }
}

/// The network of a running sandbox. Dropping it ends every connection.
#[derive(Debug)]
pub(crate) struct Egress {
    run: Arc<Run>,
    end: mpsc::Sender<oneshot::Sender<()>>,
    task: AbortHandle,
    runtime: Handle,
    settled: bool,
}

impl Egress {
    /// After the end of the command: what it sent last is passed on, and the result told what it
    /// reached and what it was refused. Cancel-safe.
    pub(crate) async fn settle(&mut self, ended: &mut Ended) {
        let (done, settled) = oneshot::channel();
        if self.end.try_send(done).is_ok() {
            let _ = timeout(SETTLE + SETTLE / 2, settled).await;
        }
        self.settled = true;
        ended.resources.network = self.run.tally.uses();
        ended.denials.extend(self.run.tally.denials());
    }
}

impl Egress {
    /// What the sandbox has reached and was refused until now, after a look at what the kernel has and
    /// nobody has looked at yet.
    pub(crate) async fn seen(&self) -> Seen {
        let _ = self.runtime.spawn(look()).await;
        Seen { uses: self.run.tally.uses(), denials: self.run.tally.denials() }
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        // A run that has settled has its tasks end by themselves, with a bound.
        if !self.settled {
            self.task.abort();
        }
    }
}

/// Owns the tasks of a run until its end.
async fn live(run: Arc<Run>, tasks: JoinSet<()>, mut ending: mpsc::Receiver<oneshot::Sender<()>>) {
    let Some(done) = ending.recv().await else { return };
    look().await;
    let mut unsent = run.unsent.subscribe();
    let _ = timeout(SETTLE, unsent.wait_for(|unsent| *unsent == 0)).await;
    let _ = done.send(());
    drop(ending);
    let mut open = run.open.subscribe();
    let _ = timeout(LINGER, open.wait_for(|open| *open == 0)).await;
    drop(tasks);
}

/// Lets the others look at what the kernel has, and nobody has looked at yet: connections, questions,
/// refusals.
async fn look() {
    for _ in 0..3 {
        yield_now().await;
    }
}

/// Counts what the sandbox's filter tells of: packets to where nobody listens.
async fn listen_to_filter(run: Arc<Run>, socket: AsyncFd<OwnedFd>) {
    const PACKET: u16 = 4 << 8;
    const PAYLOAD: u16 = 9;
    let mut buffer = vec![0u8; 16 * 1024];
    while let Ok(mut ready) = socket.readable().await {
        let received = ready.try_io(|fd| {
            let received = rustix::net::recv(fd, &mut buffer[..], RecvFlags::DONTWAIT);
            Ok(received?.0)
        });
        // A full socket has lost some, and goes on.
        let Ok(Ok(length)) = received else { continue };
        let messages = netlink::messages(&buffer[..length]);
        for message in messages.filter(|message| netlink::kind(message) == Some(PACKET)) {
            let payload = netlink::attributes(message, 4).find(|(kind, _)| *kind == PAYLOAD);
            if let Some(packet) = payload.and_then(|(_, bytes)| netlink::packet(bytes)) {
                refused(&run, packet);
            }
        }
    }
}

fn refused(run: &Run, packet: netlink::Packet) {
    let address = address::plain(packet.address);
    let host = match run.names().behind(address) {
        Some(entry) => entry.name.to_string(),
        None => address.to_string(),
    };
    let reason = if packet.is_tcp { Reason::Port } else { Reason::Datagram };
    run.tally.denied(&host, Some(packet.port), reason);
}

/// Whether only redirection gives what the policy allows: a socket cannot listen on every port.
fn needs_redirection(policy: &Policy) -> bool {
    let loopback = policy.loopback_ports().len();
    !matches!(policy.ports(), Ports::These(ports) if ports.len() + loopback <= MOST_LISTENERS)
}

/// Whether a new network namespace will have IPv6.
fn has_ipv6() -> bool {
    let is = |path: &str, values: &[&str]| {
        fs::read_to_string(path).is_ok_and(|text| values.contains(&text.trim()))
    };
    // A namespace is made with the kernel's defaults unless it takes after the first one.
    let inherits = is("/proc/sys/net/core/devconf_inherit_init_net", &["1", "3"]);
    let disabled = is("/proc/sys/net/ipv6/conf/all/disable_ipv6", &["1"]);
    fs::exists("/proc/net/if_inet6").unwrap_or(false) && !(inherits && disabled)
}

/// Refuses a host that could not be reached.
fn check_ipv6(policy: &Policy, ipv6: bool) -> Result<()> {
    match policy.ipv6_host().filter(|_| !ipv6) {
        None => Ok(()),
        Some(host) => {
            Err(Error::unavailable(format!("`{host}` needs IPv6, which the kernel lacks"))
                .with_remedy("boot without `ipv6.disable=1`, or list the host by its name"))
        }
    }
}

fn summary(network: &Network, hosts: &[String], setup: &Setup) -> String {
    let ports = |ports: &Option<Vec<u16>>| match ports {
        None => "every TCP port".to_owned(),
        Some(ports) if ports.is_empty() => "no TCP port".to_owned(),
        Some(ports) => {
            let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
            format!("TCP ports {}", ports.join(", "))
        }
    };
    let mut text = match network {
        Network::None => "none".to_owned(),
        Network::Public => "every TCP port of public hosts".to_owned(),
        Network::Listed { ports: list, domains: None } => {
            format!("{} of public hosts", ports(list))
        }
        Network::Listed { ports: list, domains: Some(names) } if names.is_empty() => {
            format!("{} of no name", ports(list))
        }
        Network::Listed { ports: list, domains: Some(names) } => {
            format!("{} of {}", ports(list), names.join(", "))
        }
    };
    if !hosts.is_empty() {
        text += &format!("; {}", hosts.join(", "));
    }
    if !setup.ipv6 {
        text += "; IPv4 alone";
    }
    if !setup.redirect {
        text += "; without redirection: refused ports are not counted";
    }
    text
}

/// What is missing when the sandbox's side of the relay cannot be made, and what mends it.
pub(crate) fn remedy(what: &str) -> Option<&'static str> {
    match what {
        REDIRECT => Some(
            "load the kernel modules nf_tables, nft_tproxy and nfnetlink_log, list the ports \
             (`--allow-port 443`), or do without network (`--allow-network false`)",
        ),
        ROUTES => Some("use a kernel with IP_MULTIPLE_TABLES, or do without network"),
        _ => None,
    }
}

/// The checks of the network that need no trial.
pub(crate) fn checks() -> Vec<Check> {
    let ipv6 = match has_ipv6() {
        true => Check::ok("egress_ipv6", "sandboxes with a network have IPv6"),
        false => Check::warning(
            "egress_ipv6",
            "the kernel has no IPv6; sandboxes reach hosts by IPv4 alone",
            "boot without `ipv6.disable=1`",
        ),
    };
    vec![ipv6]
}

#[cfg(test)]
mod tests {
    use super::{Network, Policy, Program, Setup, check_ipv6, needs_redirection};

    fn policy(ports: Option<Vec<u16>>, hosts: &[&str]) -> Policy {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        let network = Network::Listed { ports, domains: None };
        Policy::new(&network, &hosts).unwrap().unwrap()
    }

    #[test]
    fn without_ipv6_an_address_of_it_is_an_error() {
        let listed = policy(None, &["[fd00::1]:80"]);
        assert!(check_ipv6(&listed, true).is_ok());
        assert!(check_ipv6(&listed, false).unwrap_err().to_string().contains("fd00::1"));
        assert!(check_ipv6(&policy(None, &["10.0.0.1"]), false).is_ok());
    }

    #[test]
    fn few_ports_need_no_redirection() {
        assert!(needs_redirection(&policy(None, &[])));
        assert!(needs_redirection(&policy(Some(vec![80]), &["10.0.0.1"])));
        assert!(needs_redirection(&policy(Some((1..100).collect()), &[])));
        assert!(!needs_redirection(&policy(Some(vec![80, 443]), &["10.0.0.1:22"])));
        assert!(!needs_redirection(&policy(Some(vec![]), &[])));
    }

    #[test]
    fn every_form_of_the_setup_is_a_sound_program() {
        for (redirect, ipv6) in [(true, true), (true, false), (false, true), (false, false)] {
            let policy = policy(Some(vec![80, 443]), &["localhost:8080"]);
            let (ports, loopback_ports) = (policy.ports(), policy.loopback_ports());
            let mut program = Program::default();
            Setup { ports, loopback_ports, redirect, ipv6 }.compile(&mut program);
            assert!(crate::backend::helper::wire::is_sound(&program.encode()));
        }
    }
}
