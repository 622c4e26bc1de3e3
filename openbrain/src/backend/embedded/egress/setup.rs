//! The sandbox's side of the relay, as system calls of the helper: addresses, routes, redirection,
//! listening sockets, all in the sandbox's own network namespace and before any power is given up.
//!
//! Every address is made local (`local 0.0.0.0/0 dev lo`), so that whatever the command connects to
//! ends in this namespace. A rule of nftables then gives each new connection to one listening
//! socket, whichever the port (`tproxy`: no connection tracking, no change of addresses; the
//! destination is the accepted socket's own address). Where the kernel has no such rules, a socket
//! listens on each allowed port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    netlink::{ACK, CREATE, Message, octets},
    policy::Ports,
};
use crate::backend::helper::{Arg, Program, Register, Section, wire};

const IN: Section = Section::Inside;

/// The address that makes the sandbox look connected: `AI_ADDRCONFIG` does not count loopback.
const OWN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Where the sandbox's name server listens.
pub(crate) const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// Words for the step that a kernel without the needed parts of nftables refuses.
pub(crate) const REDIRECT: &str = "redirect connections (nftables with tproxy and log)";
/// Words for the step that a kernel without such routes refuses.
pub(crate) const ROUTES: &str = "make every address local (a route of the type `local` on `lo`)";

/// The port behind the redirection. It belongs to root, so that no command takes it or has it taken.
const RELAY_PORT: u16 = 1;
/// The most sockets that listen on a port of their own.
pub(crate) const MOST_LISTENERS: usize = 64;
/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// What the sandbox's side is made of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Ports of other hosts that lead to the relay.
    pub(crate) ports: Ports,
    /// Ports of the loopback addresses that do.
    pub(crate) loopback_ports: Vec<u16>,
    /// Whether nftables redirects; otherwise a socket listens on each port.
    pub(crate) redirect: bool,
    /// Whether the kernel has IPv6.
    pub(crate) ipv6: bool,
}

impl Setup {
    /// Adds the calls; the sockets go to the library in this order: name server (UDP, TCP), with
    /// redirection what the filter tells of, listeners.
    pub(crate) fn compile(&self, to: &mut Program) {
        let route = socket(to, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
        to.netlink(IN, route, &self.routes(), ROUTES);
        close(to, route);
        let mut handed = vec![
            self.bound(to, libc::SOCK_DGRAM, IpAddr::V4(NAME_SERVER), 53),
            self.bound(to, libc::SOCK_STREAM, IpAddr::V4(NAME_SERVER), 53),
        ];
        listen(to, handed[1]);
        let ports = match &self.ports {
            _ if self.redirect => vec![RELAY_PORT],
            Ports::These(ports) => ports.iter().chain(&self.loopback_ports).copied().collect(),
            Ports::All => Vec::new(),
        };
        if self.redirect {
            let netfilter = socket(to, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER);
            to.netlink(IN, netfilter, &self.rules(), REDIRECT);
            to.netlink(IN, netfilter, &log_to_this_socket(), REDIRECT);
            handed.push(netfilter);
        }
        for port in ports {
            let every = if self.ipv6 {
                IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            } else {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            };
            let listener = self.bound(to, libc::SOCK_STREAM, every, port);
            listen(to, listener);
            handed.push(listener);
        }
        let (socket, what) = (wire::REPORT_FD.into(), "hand over the sockets of the relay");
        to.hand_over(IN, socket, wire::report::EGRESS, &handed, what);
        for register in handed {
            close(to, register);
        }
    }

    fn routes(&self) -> Vec<u8> {
        const NEW_ADDRESS: u16 = 20;
        const NEW_ROUTE: u16 = 24;
        let lo = 1u32.to_ne_bytes();
        // `struct ifaddrmsg`: family, prefix, flags, scope, interface.
        let fixed = [&[libc::AF_INET as u8, 32, 0, libc::RT_SCOPE_HOST][..], &lo].concat();
        let own = OWN.octets();
        let address =
            Message::new(NEW_ADDRESS, CREATE, &fixed).attribute(1, &own).attribute(2, &own);
        let mut bytes = address.finish();
        let families: &[i32] =
            if self.ipv6 { &[libc::AF_INET, libc::AF_INET6] } else { &[libc::AF_INET] };
        for family in families.iter().copied() {
            // The first answer is then the first error, or the success of the last message.
            let flags = if families.last() == Some(&family) { CREATE | ACK } else { CREATE };
            // `struct rtmsg`: family, lengths, tos, table, protocol, scope, type, flags.
            let table = libc::RT_TABLE_LOCAL;
            let (boot, host) = (libc::RTPROT_BOOT, libc::RT_SCOPE_HOST);
            let local = [family as u8, 0, 0, 0, table, boot, host, libc::RTN_LOCAL, 0, 0, 0, 0];
            let route = Message::new(NEW_ROUTE, flags, &local);
            bytes.extend(route.attribute(libc::RTA_OIF, &lo).finish());
        }
        bytes
    }

    /// A socket on an address. As the redirection's target it takes connections to any address.
    fn bound(&self, to: &mut Program, kind: i32, address: IpAddr, port: u16) -> Register {
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let fd = socket(to, family, kind | libc::SOCK_NONBLOCK, 0);
        let option = |to: &mut Program, level: i32, name: i32, value: i32| {
            let value = to.data(&value.to_ne_bytes());
            let args = [fd.into(), level.into(), name.into(), value.into(), 4.into()];
            to.call(IN, libc::SYS_setsockopt, args, "prepare a socket of the relay");
        };
        if address.is_ipv6() {
            option(to, libc::SOL_IPV6, libc::IPV6_V6ONLY, 0);
        }
        if port == RELAY_PORT && self.redirect {
            option(to, libc::SOL_IP, libc::IP_TRANSPARENT, 1);
        }
        let mut bytes = (family as u16).to_ne_bytes().to_vec();
        bytes.extend(port.to_be_bytes());
        if address.is_ipv6() {
            bytes.extend([0; 4]);
        }
        bytes.extend(octets(address));
        bytes.resize(if address.is_ipv6() { 28 } else { 16 }, 0);
        let length = bytes.len() as u64;
        let place = to.data(&bytes);
        let args = [fd.into(), place.into(), length.into()];
        to.call(IN, libc::SYS_bind, args, format!("listen on port {port} for the relay"));
        fd
    }

    /// The rules of nftables, as one transaction.
    fn rules(&self) -> Vec<u8> {
        let batch = |kind: u16| {
            let subsystem = NFTABLES.to_be_bytes();
            Message::new(kind, 0, &[0, 0, subsystem[0], subsystem[1]]).finish()
        };
        let table = nft(NEW_TABLE).text(1, TABLE).finish();
        let chain = nft(NEW_CHAIN)
            .text(1, TABLE)
            .text(3, TABLE)
            .begin(4)
            .attribute(1, &0u32.to_be_bytes())
            .attribute(2, &(-150i32).to_be_bytes())
            .end()
            .text(7, "filter")
            .finish();
        let mut bytes = [batch(0x10), table, chain].concat();
        let rules = self.chain();
        let last = rules.len() - 1;
        for (n, rule) in rules.into_iter().enumerate() {
            bytes.extend(rule.finish(n == last));
        }
        bytes.extend(batch(0x11));
        bytes
    }

    /// What happens to a packet that arrives on `lo`, in order.
    fn chain(&self) -> Vec<Rule> {
        let v4 = libc::NFPROTO_IPV4 as u8;
        let v6 = libc::NFPROTO_IPV6 as u8;
        let (tcp, udp) = (libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8);
        let mut rules = vec![Rule::default().meta(L4_PROTOCOL, tcp).no_first_segment().accept()];
        for port in &self.loopback_ports {
            for (family, is_loopback) in [(v4, Rule::loopback_v4 as Test), (v6, Rule::loopback_v6)]
            {
                let rule = is_loopback(Rule::default().meta(PROTOCOL_FAMILY, family));
                rules.push(rule.meta(L4_PROTOCOL, tcp).port(*port).redirect());
            }
        }
        let server = NAME_SERVER.octets();
        rules.extend([
            Rule::default().meta(PROTOCOL_FAMILY, v4).loopback_v4().accept(),
            Rule::default().meta(PROTOCOL_FAMILY, v6).loopback_v6().accept(),
            Rule::default().meta(PROTOCOL_FAMILY, v4).payload(NETWORK, 16, &server).accept(),
        ]);
        match &self.ports {
            Ports::All => rules.push(Rule::default().meta(L4_PROTOCOL, tcp).redirect()),
            Ports::These(ports) => rules.extend(
                ports
                    .iter()
                    .map(|port| Rule::default().meta(L4_PROTOCOL, tcp).port(*port).redirect()),
            ),
        }
        rules.extend([tcp, udp].map(|protocol| Rule::default().meta(L4_PROTOCOL, protocol).log()));
        rules
    }
}

type Test = fn(Rule) -> Rule;

const TABLE: &str = "openbrain";
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const L4_PROTOCOL: u32 = 16;
const PROTOCOL_FAMILY: u32 = 15;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

fn nft(kind: u16) -> Message {
    // `struct nfgenmsg`: the family `inet`, a version, nothing.
    Message::new(NFTABLES << 8 | kind, CREATE, &[libc::NFPROTO_INET as u8, 0, 0, 0])
}

/// A rule of nftables: expressions in the kernel's own form (`linux/netfilter/nf_tables.h`).
#[derive(Default)]
struct Rule(Vec<Expression>);

type Expression = (&'static str, fn(Message, &[u8]) -> Message, Vec<u8>);

impl Rule {
    fn with(
        mut self,
        name: &'static str,
        build: fn(Message, &[u8]) -> Message,
        value: Vec<u8>,
    ) -> Self {
        self.0.push((name, build, value));
        self
    }

    /// Register 1 takes a fact about the packet and is compared.
    fn meta(self, key: u32, value: u8) -> Self {
        let load: fn(Message, &[u8]) -> Message =
            |m, key| m.attribute(1, &1u32.to_be_bytes()).attribute(2, key);
        self.with("meta", load, key.to_be_bytes().to_vec()).equals(&[value])
    }

    /// Register 1 takes bytes of the packet and is compared.
    fn payload(self, base: u32, offset: u32, value: &[u8]) -> Self {
        self.load(base, offset, value.len() as u32).equals(value)
    }

    fn load(self, base: u32, offset: u32, length: u32) -> Self {
        let place = [base.to_be_bytes(), offset.to_be_bytes(), length.to_be_bytes()].concat();
        self.with(
            "payload",
            |m, place| {
                let m = m.attribute(1, &1u32.to_be_bytes());
                m.attribute(2, &place[..4]).attribute(3, &place[4..8]).attribute(4, &place[8..])
            },
            place,
        )
    }

    fn equals(self, value: &[u8]) -> Self {
        self.with("cmp", |m, value| compare(m, 0, value), value.to_vec())
    }

    fn loopback_v4(self) -> Self {
        self.payload(NETWORK, 16, &[127])
    }

    fn loopback_v6(self) -> Self {
        self.payload(NETWORK, 24, &Ipv6Addr::LOCALHOST.octets())
    }

    fn port(self, port: u16) -> Self {
        self.payload(TRANSPORT, 2, &port.to_be_bytes())
    }

    /// Of the flags SYN and ACK, not SYN alone.
    fn no_first_segment(self) -> Self {
        self.load(TRANSPORT, 13, 1)
            .with(
                "bitwise",
                |m, mask| {
                    let one = 1u32.to_be_bytes();
                    let m = m.attribute(1, &one).attribute(2, &one).attribute(3, &one);
                    m.begin(4).attribute(1, mask).end().begin(5).attribute(1, &[0]).end()
                },
                vec![0x12],
            )
            .with("cmp", |m, value| compare(m, 1, value), vec![0x02])
    }

    fn accept(self) -> Self {
        self.with(
            "immediate",
            |m, verdict| {
                let m = m.attribute(1, &0u32.to_be_bytes()).begin(2).begin(2);
                m.attribute(1, verdict).end().end()
            },
            (libc::NF_ACCEPT as u32).to_be_bytes().to_vec(),
        )
    }

    /// Gives the connection to the relay's socket.
    fn redirect(self) -> Self {
        self.with(
            "immediate",
            |m, port| m.attribute(1, &1u32.to_be_bytes()).begin(2).attribute(1, port).end(),
            RELAY_PORT.to_be_bytes().to_vec(),
        )
        .with(
            "tproxy",
            |m, register| m.attribute(1, &0u32.to_be_bytes()).attribute(3, register),
            1u32.to_be_bytes().to_vec(),
        )
        .accept()
    }

    /// Tells of the packet, which nobody takes, but not of more than the relay wants to hear.
    fn log(self) -> Self {
        self.with(
            "limit",
            |m, rate| {
                let m = m.attribute(1, rate).attribute(2, &1u64.to_be_bytes());
                m.attribute(3, &1000u32.to_be_bytes()).attribute(4, &0u32.to_be_bytes())
            },
            500u64.to_be_bytes().to_vec(),
        )
        .with("log", |m, group| m.attribute(1, group), 0u16.to_be_bytes().to_vec())
    }

    fn finish(self, last: bool) -> Vec<u8> {
        const APPEND: u16 = 0x800;
        let flags = CREATE | APPEND | if last { ACK } else { 0 };
        let fixed = [libc::NFPROTO_INET as u8, 0, 0, 0];
        let rule = Message::new(NFTABLES << 8 | NEW_RULE, flags, &fixed);
        let rule = rule.text(1, TABLE).text(2, TABLE).begin(4);
        let add = |rule: Message, (name, build, value): Expression| {
            build(rule.begin(1).text(1, name).begin(2), &value).end().end()
        };
        self.0.into_iter().fold(rule, add).end().finish()
    }
}

fn compare(message: Message, operation: u32, value: &[u8]) -> Message {
    let message = message.attribute(1, &1u32.to_be_bytes()).attribute(2, &operation.to_be_bytes());
    message.begin(3).attribute(1, value).end()
}

/// The socket that asks hears of group 0: the first 64 bytes of each packet, one by one.
fn log_to_this_socket() -> Vec<u8> {
    const CONFIGURE: u16 = 4 << 8 | 1;
    Message::new(CONFIGURE, ACK, &[0; 4])
        .attribute(1, &[1])
        .attribute(2, &[0, 0, 0, 64, 2, 0])
        .attribute(5, &1u32.to_be_bytes())
        .finish()
}

fn socket(to: &mut Program, family: i32, kind: i32, protocol: i32) -> Register {
    let args = [family.into(), (kind | libc::SOCK_CLOEXEC).into(), protocol.into()];
    let what = match (family, protocol) {
        (libc::AF_NETLINK, libc::NETLINK_ROUTE) => ROUTES,
        (libc::AF_NETLINK, _) => REDIRECT,
        _ => "make a socket of the relay",
    };
    to.keep(IN, libc::SYS_socket, args, what)
}

fn listen(to: &mut Program, socket: Register) {
    let args = [socket.into(), Arg::from(BACKLOG)];
    to.call(IN, libc::SYS_listen, args, "listen for the relay");
}

fn close(to: &mut Program, fd: Register) {
    to.call(IN, libc::SYS_close, [fd.into()], "close a socket");
    to.release(IN, fd);
}
