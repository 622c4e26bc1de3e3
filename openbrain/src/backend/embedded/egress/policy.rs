//! Who may be reached: decided from the rules, the name, the address and the port alone. Pure.

use std::net::IpAddr;

use super::address::{Kind, kind, plain};
use crate::{
    error::{Error, Result},
    sandbox::{AddressRange, DomainRule, Host, HostRule, NamePattern, Network},
};

/// What a sandbox may reach.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// `None`: every port.
    ports: Option<Vec<u16>>,
    /// `None`: every public name and address.
    domains: Option<Vec<DomainRule>>,
    /// Private services, and public ones beside the rules above.
    hosts: Vec<HostRule>,
}

/// Why something is not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The name is not among the allowed ones.
    Name,
    /// What was asked for is no name of a host.
    NoName,
    /// An address was used and only names are allowed.
    Literal,
    Port,
    Private,
    Loopback,
    LinkLocal,
    Metadata,
    Reserved,
    /// An address of this very host.
    Own,
    /// A port that controls openbrain.
    Protected,
    /// UDP other than questions to the sandbox's own name server.
    Datagram,
    /// The run has asked for too much in a short time.
    Busy,
}

/// An address to connect to, as the host sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// Whether the host would deliver to itself, or to a group, what is sent there.
    pub(crate) is_own: bool,
    /// Whether a port of openbrain itself is meant, if the host delivers to itself.
    pub(crate) is_protected: bool,
}

/// Which ports of the sandbox lead to the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    All,
    These(Vec<u16>),
}

impl Policy {
    /// Reads the rules; `None` when there is no network at all.
    pub(crate) fn new(network: &Network, hosts: &[String]) -> Result<Option<Self>> {
        let (ports, domains) = match network {
            Network::None => return Ok(None),
            Network::Public => (None, None),
            Network::Listed { ports, domains } => (ports.clone(), domains.as_ref()),
        };
        let read = |domains: &Vec<String>| domains.iter().map(|d| d.parse()).collect();
        let policy = Self {
            ports,
            domains: domains.map(read).transpose()?,
            hosts: hosts.iter().map(|host| host.parse()).collect::<Result<_>>()?,
        };
        match policy.ports() {
            Ports::These(ports) if ports.len() > MOST_PORTS => {
                Err(Error::invalid(format!("more than {MOST_PORTS} ports to reach"))
                    .with_remedy("allow fewer, or all of them by leaving the list out"))
            }
            _ => Ok(Some(policy)),
        }
    }

    /// The ports that lead to the relay: those that some rule allows.
    pub(crate) fn ports(&self) -> Ports {
        let Some(ports) = &self.ports else { return Ports::All };
        if self.hosts.iter().any(|host| host.port.is_none()) {
            return Ports::All;
        }
        let domains = self.domains.iter().flatten().filter_map(|domain| domain.port);
        let hosts = self.hosts.iter().filter_map(|host| host.port);
        let mut all: Vec<u16> = ports.iter().copied().chain(domains).chain(hosts).collect();
        all.sort_unstable();
        all.dedup();
        Ports::These(all)
    }

    /// The ports of the loopback address that are the host's and not the sandbox's own.
    pub(crate) fn loopback_ports(&self) -> Vec<u16> {
        let of_host = |rule: &HostRule| match &rule.host {
            Host::Range(range) if range.meets_loopback() => rule.port,
            Host::Name(NamePattern::Exact(name)) if name == "localhost" => rule.port,
            Host::Range(_) | Host::Name(_) => None,
        };
        self.hosts.iter().filter_map(of_host).collect()
    }

    /// Whether a name may be asked for at all, on some port.
    pub(crate) fn name(&self, name: &str) -> Result<(), Reason> {
        let listed = self.domains.as_ref().is_none_or(|d| d.iter().any(|d| d.name.matches(name)));
        let nothing = self.ports.as_ref().is_some_and(Vec::is_empty) && self.ports() == NO_PORTS;
        match listed && !nothing || self.hosts.iter().any(|host| names(host, name)) {
            true => Ok(()),
            false => Err(Reason::Name),
        }
    }

    /// Whether every public name may be asked for anything.
    pub(crate) fn is_open(&self) -> bool {
        self.domains.is_none() && self.ports() != NO_PORTS
    }

    /// Whether a connection to a port of a name may be made, to one of its addresses.
    pub(crate) fn connection(&self, name: &str, target: Target) -> Result<(), Reason> {
        let listed = self.hosts.iter().any(|rule| names(rule, name) && fits(rule, target.port));
        if listed && !is_dangerous_by_name(target) || self.lists(target) {
            return protected(target);
        }
        self.name(name)?;
        let by_domain = |domain: &DomainRule| {
            domain.name.matches(name)
                && domain.port.map_or_else(|| self.allows(target.port), |p| p == target.port)
        };
        let port = match &self.domains {
            None => self.allows(target.port),
            Some(domains) => domains.iter().any(by_domain),
        };
        if !port {
            return Err(Reason::Port);
        }
        public(target)
    }

    /// Whether an address of a name that may be asked for may be reached, on some port.
    pub(crate) fn any_port(&self, name: &str, target: Target) -> Result<(), Reason> {
        let by_name = self.hosts.iter().any(|rule| names(rule, name));
        let by_address = self.hosts.iter().any(|rule| is_in(rule, target.address));
        if by_name && !is_dangerous_by_name(target) || by_address {
            return Ok(());
        }
        public(target)
    }

    /// Whether a connection to an address may be made that the command itself named.
    pub(crate) fn literal(&self, target: Target) -> Result<(), Reason> {
        if self.lists(target) {
            return protected(target);
        }
        public(target)?;
        if self.domains.is_some() {
            return Err(Reason::Literal);
        }
        if self.allows(target.port) { Ok(()) } else { Err(Reason::Port) }
    }

    /// An allowed host that a command reaches by IPv6 alone.
    pub(crate) fn ipv6_host(&self) -> Option<AddressRange> {
        self.hosts.iter().find_map(|rule| match &rule.host {
            Host::Range(range) if range.is_ipv6() => Some(*range),
            Host::Range(_) | Host::Name(_) => None,
        })
    }

    fn allows(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }

    /// Whether the address itself is one of the allowed hosts.
    fn lists(&self, target: Target) -> bool {
        self.hosts.iter().any(|rule| is_in(rule, target.address) && fits(rule, target.port))
    }
}

/// Whether an address is what a rule names; `localhost` names the loopback addresses.
fn is_in(rule: &HostRule, address: IpAddr) -> bool {
    match &rule.host {
        Host::Range(range) => range.contains(plain(address)),
        Host::Name(NamePattern::Exact(name)) => {
            name == "localhost" && kind(address) == Kind::Loopback
        }
        Host::Name(NamePattern::Below(_)) => false,
    }
}

/// The most ports that can be listed.
const MOST_PORTS: usize = 256;

const NO_PORTS: Ports = Ports::These(Vec::new());

fn names(rule: &HostRule, name: &str) -> bool {
    matches!(&rule.host, Host::Name(pattern) if pattern.matches(name))
}

fn fits(rule: &HostRule, port: u16) -> bool {
    rule.port.is_none_or(|own| own == port)
}

/// Whether somebody who answers for a name could use it to get at the host or at a metadata
/// service: these are allowed by their address alone.
fn is_dangerous_by_name(target: Target) -> bool {
    let kind = kind(target.address);
    matches!(kind, Kind::Metadata | Kind::LinkLocal | Kind::Loopback | Kind::Reserved)
}

/// Listed or not, what controls openbrain is never reached.
fn protected(target: Target) -> Result<(), Reason> {
    match target.is_protected && (target.is_own || kind(target.address) == Kind::Loopback) {
        true => Err(Reason::Protected),
        false => Ok(()),
    }
}

fn public(target: Target) -> Result<(), Reason> {
    match kind(target.address) {
        Kind::Public if target.is_own => Err(Reason::Own),
        Kind::Public => Ok(()),
        Kind::Loopback => Err(Reason::Loopback),
        Kind::Private => Err(Reason::Private),
        Kind::LinkLocal => Err(Reason::LinkLocal),
        Kind::Metadata => Err(Reason::Metadata),
        Kind::Reserved => Err(Reason::Reserved),
    }
}

impl Reason {
    /// Why, in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Name => "the name is not in `allowed_domains`",
            Self::NoName => "this is no name of a host",
            Self::Literal => "only names are allowed, and this is an address",
            Self::Port => "the port is not in `allowed_ports`",
            Self::Private => "the address is private",
            Self::Loopback => "the address is the host's loopback",
            Self::LinkLocal => "the address is link-local",
            Self::Metadata => "the address is a metadata service",
            Self::Reserved => "the address is reserved",
            Self::Own => "the address is this host's own",
            Self::Protected => "the port controls openbrain itself",
            Self::Datagram => "UDP is not relayed",
            Self::Busy => "too many questions to the name server",
        }
    }

    /// The setting that would allow it: flag and key.
    pub(crate) fn remedy(self, host: &str, port: Option<u16>) -> Option<String> {
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        // A name that leads to such an address is not what would be listed.
        let by_address = matches!(self, Self::Loopback | Self::LinkLocal | Self::Metadata);
        if by_address && host.parse::<IpAddr>().is_err() {
            return None;
        }
        let both = port.map_or_else(|| bracketed.clone(), |port| format!("{bracketed}:{port}"));
        let (flag, value, key) = match self {
            Self::Name => ("--allow-domain", host.to_owned(), "allowed_domains"),
            Self::Port => ("--allow-port", port?.to_string(), "allowed_ports"),
            Self::Literal
            | Self::Private
            | Self::Loopback
            | Self::LinkLocal
            | Self::Metadata
            | Self::Own => ("--allow-host", both, "allowed_hosts"),
            Self::NoName | Self::Reserved | Self::Protected | Self::Datagram | Self::Busy => {
                return None;
            }
        };
        Some(format!("allow it by `{flag} {value}` or `security.sandbox.network.{key}`"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, prop_assume, proptest};

    use super::{Kind, Network, Policy, Ports, Reason, Target, kind};

    fn listed(ports: Option<&[u16]>, domains: Option<&[&str]>, hosts: &[&str]) -> Policy {
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let network =
            Network::Listed { ports: ports.map(<[u16]>::to_vec), domains: domains.map(texts) };
        Policy::new(&network, &texts(hosts)).unwrap().unwrap()
    }

    fn target(address: &str, port: u16) -> Target {
        Target { address: address.parse().unwrap(), port, is_own: false, is_protected: false }
    }

    #[test]
    fn without_a_network_there_is_no_policy() {
        assert!(Policy::new(&Network::None, &["10.0.0.1".into()]).unwrap().is_none());
    }

    #[test]
    fn open_reaches_what_is_public() {
        let open = listed(None, None, &[]);
        assert_eq!(open.ports(), Ports::All);
        assert_eq!(open.literal(target("203.0.113.5", 22)), Ok(()));
        assert_eq!(open.connection("any.example", target("2001:db8::1", 9)), Ok(()));
        assert_eq!(open.literal(target("10.0.0.1", 80)), Err(Reason::Private));
        let own = Target { is_own: true, ..target("203.0.113.5", 22) };
        assert_eq!(open.literal(own), Err(Reason::Own));
        assert_eq!(open.connection("any.example", own), Err(Reason::Own));
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        for policy in [listed(Some(&[]), None, &[]), listed(None, Some(&[]), &[])] {
            assert_eq!(policy.name("a.example"), Err(Reason::Name));
            assert!(!policy.is_open());
            assert!(policy.literal(target("203.0.113.5", 443)).is_err());
            assert!(policy.connection("a.example", target("203.0.113.5", 443)).is_err());
        }
    }

    #[test]
    fn ports_and_names_are_both_asked() {
        let policy = listed(Some(&[80, 443]), Some(&["a.example", "b.example:8443"]), &[]);
        let to = |name: &str, port| policy.connection(name, target("203.0.113.5", port));
        assert_eq!(to("a.example", 443), Ok(()));
        assert_eq!(to("a.example", 8443), Err(Reason::Port));
        assert_eq!(to("b.example", 8443), Ok(()));
        assert_eq!(to("b.example", 443), Err(Reason::Port));
        assert_eq!(to("c.example", 443), Err(Reason::Name));
        assert_eq!(policy.literal(target("203.0.113.5", 443)), Err(Reason::Literal));
        assert_eq!(policy.ports(), Ports::These(vec![80, 443, 8443]));
    }

    #[test]
    fn a_name_with_a_private_address_is_refused() {
        let policy = listed(None, Some(&["a.example"]), &[]);
        for (address, reason) in [
            ("10.0.0.1", Reason::Private),
            ("127.0.0.1", Reason::Loopback),
            ("::ffff:127.0.0.1", Reason::Loopback),
            ("169.254.169.254", Reason::Metadata),
            ("64:ff9b::a9fe:a9fe", Reason::Metadata),
            ("fe80::1", Reason::LinkLocal),
            ("0.0.0.0", Reason::Reserved),
        ] {
            assert_eq!(policy.connection("a.example", target(address, 443)), Err(reason));
        }
    }

    #[test]
    fn hosts_open_what_they_name_and_nothing_more() {
        let hosts = ["10.0.0.0/8:5432", "db.internal:5432", "localhost:11434", "192.0.2.7"];
        let policy = listed(Some(&[443]), Some(&[]), &hosts);
        assert_eq!(policy.ports(), Ports::All);
        assert_eq!(policy.loopback_ports(), [11434]);
        assert_eq!(policy.literal(target("10.1.2.3", 5432)), Ok(()));
        assert_eq!(policy.literal(target("::ffff:10.1.2.3", 5432)), Ok(()));
        assert_eq!(policy.literal(target("10.1.2.3", 80)), Err(Reason::Private));
        assert_eq!(policy.literal(target("11.1.2.3", 5432)), Err(Reason::Literal));
        assert_eq!(policy.literal(target("127.0.0.1", 11434)), Ok(()));
        assert_eq!(policy.literal(target("::1", 11434)), Ok(()));
        assert_eq!(policy.literal(target("127.0.0.1", 80)), Err(Reason::Loopback));
        assert_eq!(policy.ipv6_host(), None);
        assert!(listed(None, None, &["10.0.0.1", "[fd00::1]:80"]).ipv6_host().is_some());
        assert_eq!(policy.name("db.internal"), Ok(()));
        assert_eq!(policy.connection("db.internal", target("192.168.1.1", 5432)), Ok(()));
        let port = policy.connection("db.internal", target("192.168.1.1", 22));
        assert_eq!(port, Err(Reason::Port));
        // Who answers for the name does not get to name the host.
        for address in ["127.0.0.1", "169.254.169.254"] {
            assert!(policy.connection("db.internal", target(address, 5432)).is_err());
        }
    }

    #[test]
    fn what_controls_openbrain_is_never_reached() {
        let policy = listed(None, None, &["127.0.0.1:8000", "192.0.2.1"]);
        let protected = |address| Target { is_protected: true, ..target(address, 8000) };
        assert_eq!(policy.literal(protected("127.0.0.1")), Err(Reason::Protected));
        let own = Target { is_own: true, ..protected("192.0.2.1") };
        assert_eq!(policy.literal(own), Err(Reason::Protected));
        // The same number elsewhere is somebody else's port.
        assert_eq!(policy.literal(protected("192.0.2.1")), Ok(()));
    }

    #[test]
    fn a_refusal_names_the_setting() {
        let remedy = Reason::Private.remedy("10.0.0.1", Some(5432)).unwrap();
        assert!(remedy.contains("--allow-host 10.0.0.1:5432"), "{remedy}");
        let remedy = Reason::Private.remedy("fd00::1", Some(80)).unwrap();
        assert!(remedy.contains("--allow-host [fd00::1]:80"), "{remedy}");
        assert!(Reason::Name.remedy("a.b", None).unwrap().contains("--allow-domain a.b"));
        assert!(Reason::Port.remedy("a.b", Some(22)).unwrap().contains("--allow-port 22"));
        assert_eq!(Reason::Loopback.remedy("evil.example", None), None);
        assert_eq!(Reason::Protected.remedy("::1", Some(80)), None);
    }

    proptest! {
        /// Without `allowed_hosts`, whatever the lists say, nothing that is not public is reached.
        #[test]
        fn lists_never_open_what_is_not_public(bits in any::<u128>(), v4 in any::<bool>(), port in 1u16..) {
            let address = if v4 { std::net::Ipv4Addr::from_bits(bits as u32).into() }
                else { std::net::IpAddr::from(std::net::Ipv6Addr::from_bits(bits)) };
            prop_assume!(kind(address) != Kind::Public);
            let target = Target { address, port, is_own: false, is_protected: false };
            for policy in [
                listed(None, None, &[]),
                listed(Some(&[port]), None, &[]),
                listed(Some(&[port]), Some(&["a.example", "*.example"]), &[]),
            ] {
                prop_assert_eq!(policy.literal(target).is_ok(), false);
                prop_assert_eq!(policy.connection("a.example", target).is_ok(), false);
            }
        }
    }
}
