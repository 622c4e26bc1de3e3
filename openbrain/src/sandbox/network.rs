//! What a sandbox may reach, and how lists of names and hosts are written.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The network policy of a sandbox, decided by the settings and the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// No network but the sandbox's own loopback.
    #[default]
    None,
    /// Any public TCP destination, and DNS.
    Public,
    /// Only what is listed; an empty list allows nothing.
    Listed {
        /// Allowed TCP ports; `None` allows every port.
        ports: Option<Vec<u16>>,
        /// Allowed names (`example.com`, `*.example.com`, with an optional `:port`); `None` allows
        /// every public name.
        domains: Option<Vec<String>>,
    },
}

/// The type of service (`IP_TOS`, `IPV6_TCLASS`) of every connection that a sandboxed command makes to the
/// loopback of this host. A server that controls openbrain refuses them by it, whichever process has the
/// sandbox: `sock_diag(7)` tells it of the socket at the other end. It is of the pool for local use
/// (RFC 2474, section 6).
pub const SANDBOX_TOS: u8 = 0xbc;

/// Ports of this host that no sandbox of this process reaches, whatever a list says.
static PROTECTED: Mutex<Vec<u16>> = Mutex::new(Vec::new());

/// Keeps a port of this host out of reach for every sandbox of this process, though
/// `allowed_hosts` may list it: for servers that control openbrain itself.
pub fn protect_port(port: u16) {
    let mut ports = PROTECTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !ports.contains(&port) {
        ports.push(port);
    }
}

/// Whether [`protect_port`] was called for this port.
pub(crate) fn is_protected(port: u16) -> bool {
    PROTECTED.lock().unwrap_or_else(PoisonError::into_inner).contains(&port)
}

/// A name, or every name below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NamePattern {
    /// `example.com`: this name alone.
    Exact(String),
    /// `*.example.com`: every name below, and not the name itself.
    Below(String),
}

/// An entry of `allowed_domains`: a name, with an optional port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DomainRule {
    pub(crate) name: NamePattern,
    /// The one port of this entry, whatever `allowed_ports` says; `None`: those of `allowed_ports`.
    pub(crate) port: Option<u16>,
}

/// An entry of `allowed_hosts`: an address, a range of addresses or a name, with an optional port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostRule {
    pub(crate) host: Host,
    /// The one port of this entry; `None`: every port.
    pub(crate) port: Option<u16>,
}

/// What an entry of `allowed_hosts` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// Addresses with these leading bits.
    Range(AddressRange),
    Name(NamePattern),
}

/// The addresses that share a number of leading bits with one (RFC 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressRange {
    first: IpAddr,
    bits: u8,
}

/// A name as DNS compares it: lower case, without the dot at the end.
///
/// `None` for what is no name of a host: empty or long labels, anything but letters, digits, hyphens
/// and underscores, and what other programs read as an address (a last label that is a number).
pub(crate) fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").unwrap_or("-");
    let number =
        last.bytes().all(|c| c.is_ascii_digit()) || hex.bytes().all(|c| c.is_ascii_hexdigit());
    (name.len() <= 253 && !number && name.split('.').all(label)).then_some(name)
}

impl NamePattern {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("*.") {
            Some(below) => host_name(below).map(Self::Below),
            None => host_name(text).map(Self::Exact),
        }
    }

    /// Whether a name, in the form of [`host_name`], is meant.
    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Below(parent) => {
                name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
        }
    }

    /// Whether every name that `other` means is meant.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(name)) => self.matches(name),
            (Self::Below(_), Self::Below(parent)) => self == other || self.matches(parent),
            (Self::Exact(_), Self::Below(_)) => false,
        }
    }
}

impl DomainRule {
    /// Whether everything that `other` allows is allowed.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.name.covers(&other.name) && self.port.is_none_or(|port| other.port == Some(port))
    }
}

impl HostRule {
    /// Whether everything that `other` allows is allowed.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let host = match (&self.host, &other.host) {
            (Host::Range(own), Host::Range(other)) => own.covers(other),
            (Host::Name(own), Host::Name(other)) => own.covers(other),
            (Host::Range(_), Host::Name(_)) | (Host::Name(_), Host::Range(_)) => false,
        };
        host && self.port.is_none_or(|port| other.port == Some(port))
    }
}

impl AddressRange {
    /// The range of an address and a number of bits; `None` when it has not so many.
    pub(crate) fn new(first: IpAddr, bits: u8) -> Option<Self> {
        (bits <= width(first)).then_some(Self { first, bits })
    }

    /// Whether an address is inside.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        width(address) == width(self.first) && {
            let unused = 128 - u32::from(self.bits);
            let cut = |address| number(address).checked_shr(unused).unwrap_or(0);
            cut(address) == cut(self.first)
        }
    }

    /// Whether its addresses are of the sixth version.
    pub(crate) fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }

    fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(other.first)
    }

    /// Whether some address inside is a loopback address.
    pub(crate) fn meets_loopback(&self) -> bool {
        let loopback = [
            Self { first: IpAddr::from([127, 0, 0, 0]), bits: 8 },
            Self { first: Ipv6Addr::LOCALHOST.into(), bits: 128 },
        ];
        loopback.iter().any(|l| l.covers(self) || self.covers(l))
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The bits of an address, from the highest bit of a number of 128 bits on.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl FromStr for DomainRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let rule = || {
            let (name, port) = split_port(text)?;
            Some(Self { name: NamePattern::parse(name)?, port })
        };
        rule().ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is not a name; write `example.com`, `*.example.com` or `example.com:8443`"
            ))
        })
    }
}

impl FromStr for HostRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let rule = || {
            let (host, port) = split_port(text)?;
            let host = match AddressRange::parse(host) {
                Some(range) => Host::Range(range),
                None => Host::Name(NamePattern::parse(host)?),
            };
            Some(Self { host, port })
        };
        let rule = rule().ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is not a host; write `10.0.0.5:5432`, `10.0.0.0/8`, `[fd00::1]:443` or \
                 `db.internal:5432`"
            ))
        })?;
        let loopback = match &rule.host {
            Host::Range(range) => range.meets_loopback(),
            Host::Name(name) => name.matches("localhost"),
        };
        // Inside, all other ports of the loopback address are the sandbox's own.
        if loopback && rule.port.is_none() {
            return Err(Error::invalid(format!("{text:?} needs a port: write `localhost:8080`")));
        }
        Ok(rule)
    }
}

impl AddressRange {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let first: IpAddr = address.parse().ok()?;
        let bits = bits.map_or(Some(width(first)), |bits| bits.parse().ok())?;
        // One spelling of one address: what is mapped is of the fourth version.
        match first {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Self::new(v6.to_ipv4_mapped()?.into(), bits.checked_sub(96)?)
            }
            _ => Self::new(first, bits),
        }
    }
}

/// Takes a port off the end: `name:443`, `[fd00::1]:443`. An address of version 6 without brackets
/// has none.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(number) => Some((host, Some(port(number)?))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        Some((host, number)) if !number.contains(':') => Some((host, Some(port(number)?))),
        _ => Some((text, None)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{AddressRange, DomainRule, Host, HostRule, IpAddr, NamePattern, host_name};

    fn domain(text: &str) -> Option<DomainRule> {
        text.parse().ok()
    }

    #[test]
    fn names_are_compared_as_dns_does() {
        for (text, expected) in [
            ("example.com", Some("example.com")),
            ("EXAMPLE.com.", Some("example.com")),
            ("_dmarc.a-b.example", Some("_dmarc.a-b.example")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("localhost", Some("localhost")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("-a.b", None),
            ("a b.c", None),
            ("a\0.b", None),
            ("a%00.b", None),
            ("bücher.example", None),
            ("127.0.0.1", None),
            ("0177.0.0.1", None),
            ("2130706433", None),
            ("a.0x7f", None),
            ("1.2.3.0x", None),
        ] {
            assert_eq!(host_name(text).as_deref(), expected, "{text:?}");
        }
        assert!(host_name(&format!("{}.com", "a".repeat(64))).is_none());
        assert!(host_name(&"a.".repeat(127)).is_some());
        assert!(host_name(&"a.".repeat(128)).is_none());
    }

    #[test]
    fn a_pattern_ends_at_a_dot() {
        let below = NamePattern::Below("allowed.com".into());
        let exact = NamePattern::Exact("allowed.com".into());
        for (name, by_exact, by_below) in [
            ("allowed.com", true, false),
            ("a.allowed.com", false, true),
            ("b.a.allowed.com", false, true),
            ("evilallowed.com", false, false),
            ("a.allowed.com.evil.com", false, false),
            (".allowed.com", false, true),
            ("com", false, false),
        ] {
            assert_eq!(exact.matches(name), by_exact, "{name}");
            assert_eq!(below.matches(name), by_below, "{name}");
        }
    }

    #[test]
    fn lists_are_read_or_refused() {
        for good in ["a.com", "*.a.com", "a.com:8443", "*.a.com:22", "A.COM."] {
            assert!(domain(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "*",
            "*.",
            "a.*",
            "a.com:",
            "a.com:0",
            "a.com:65536",
            "http://a.com",
            "a/b",
            "10.0.0.1",
            "[::1]",
            "a.com:80:90",
            "**.a.com",
        ] {
            assert!(domain(bad).is_none(), "{bad}");
        }
        for good in [
            "10.0.0.5",
            "10.0.0.5:5432",
            "10.0.0.0/8",
            "10.0.0.0/8:22",
            "fd00::1",
            "[fd00::1]:443",
            "[fd00::/8]:443",
            "db.internal:5432",
            "*.corp",
            "localhost:11434",
            "127.0.0.1:80",
            "[::1]:80",
        ] {
            assert!(good.parse::<HostRule>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/x",
            "localhost",
            "127.0.0.1",
            "0.0.0.0/0",
            "::/0",
            "::1",
            "10.0.0.5:0",
            "::ffff:127.0.0.1",
            "[::1",
            "010.0.0.1",
        ] {
            assert!(bad.parse::<HostRule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_mapped_is_of_the_fourth_version() {
        let rule: HostRule = "[::ffff:10.0.0.0/104]:80".parse().unwrap();
        let range = AddressRange::new([10, 0, 0, 0].into(), 8).unwrap();
        assert_eq!(rule, HostRule { host: Host::Range(range), port: Some(80) });
    }

    #[test]
    fn covering_is_allowing_no_more() {
        for (own, other, covered) in [
            ("a.com", "a.com", true),
            ("a.com", "a.com:80", true),
            ("a.com:80", "a.com", false),
            ("a.com:80", "a.com:443", false),
            ("*.a.com", "b.a.com", true),
            ("*.a.com", "*.b.a.com", true),
            ("*.a.com", "*.a.com", true),
            ("*.a.com", "a.com", false),
            ("b.a.com", "*.a.com", false),
        ] {
            assert_eq!(
                domain(own).unwrap().covers(&domain(other).unwrap()),
                covered,
                "{own} {other}"
            );
        }
        let host = |text: &str| text.parse::<HostRule>().unwrap();
        assert!(host("10.0.0.0/8").covers(&host("10.1.0.0/16:22")));
        assert!(!host("10.1.0.0/16").covers(&host("10.0.0.0/8")));
        assert!(!host("10.0.0.0/8").covers(&host("db.internal")));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_grammar_panic(text in any::<String>()) {
            let _ = (text.parse::<DomainRule>(), text.parse::<HostRule>(), host_name(&text));
        }

        #[test]
        fn a_range_contains_what_shares_its_bits(first in any::<u32>(), other in any::<u32>(), bits in 0u8..=32) {
            let range = AddressRange::new(IpAddr::from(first.to_be_bytes()), bits).unwrap();
            let same = (first ^ other).leading_zeros() >= u32::from(bits);
            prop_assert_eq!(range.contains(IpAddr::from(other.to_be_bytes())), same);
            prop_assert!(range.contains(IpAddr::from(first.to_be_bytes())));
        }
    }
}
