//! The names by which a server may be called.

use std::net::{IpAddr, Ipv6Addr};

use openbrain::settings::Listen;

/// What a URL names as the server: a name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// A name, in small letters and without the dot at the end.
    Name(String),
    /// An address, as the URL standard writes it: nothing octal, nothing shortened.
    Address(IpAddr),
}

/// The names and addresses by which the server may be called.
///
/// A page of `http://evil.example:8000` whose name is suddenly this machine's address (DNS rebinding)
/// is same-origin with the server for its browser, and nothing but the name tells it apart. An
/// address cannot be rebound, and the names below `localhost` are nobody's to give away.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    named: Vec<Host>,
    listening: Option<IpAddr>,
}

impl Host {
    /// Reads a `Host` header or the authority of a URL: a name or an address, and a port.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (Self::Address(address.parse::<Ipv6Addr>().ok()?.into()), port)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                (Self::name_or_address(&text[..end])?, &text[end..])
            }
        };
        let has_port = port.strip_prefix(':').is_some_and(is_port);
        (port.is_empty() || has_port).then_some(host)
    }

    fn name_or_address(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let known = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let labels_known =
            name.split('.').all(|label| !label.is_empty() && label.bytes().all(known));
        labels_known.then_some(Self::Name(name))
    }
}

impl Hosts {
    /// The names and addresses of a server that listens there and was given these names.
    pub(super) fn new(listening: &Listen, names: &[String]) -> Self {
        let listening = match listening {
            Listen::Tcp(address) => Some(address.ip().to_canonical()),
            Listen::Unix(_) => None,
        };
        Self { named: names.iter().filter_map(|name| Host::parse(name)).collect(), listening }
    }

    /// Whether the server may be called so.
    pub(super) fn allow(&self, host: &Host) -> bool {
        let below_localhost = match host {
            Host::Name(name) => name.ends_with(".localhost"),
            Host::Address(_) => false,
        };
        below_localhost || self.own(host)
    }

    /// Whether a page that the server itself would have served may be from there. Names below
    /// `localhost` are missing: not every browser keeps them from being asked of a name server.
    pub(super) fn own(&self, host: &Host) -> bool {
        let known = match host {
            Host::Name(name) => name == "localhost",
            Host::Address(address) => self.is_own(address.to_canonical()),
        };
        known || self.named.contains(host)
    }

    /// A server that listens at every address has any; then it has a token, too.
    fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback()
            || self.listening.is_some_and(|own| own == address || own.is_unspecified())
    }
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::{Host, Hosts};

    fn hosts(listening: &str) -> Hosts {
        Hosts::new(&listening.parse().unwrap(), &["brain.example".into(), "10.9.9.9".into()])
    }

    fn allowed(listening: &str, host: &str) -> bool {
        Host::parse(host).is_some_and(|host| hosts(listening).allow(&host))
    }

    #[test]
    fn loopback_is_known_by_every_name() {
        for host in [
            "localhost",
            "localhost:8000",
            "LOCALHOST:1",
            "localhost.",
            "a.localhost:9",
            "127.0.0.1",
            "127.0.0.1:8000",
            "127.3.2.1:80",
            "[::1]:8000",
            "[::1]",
            "[::ffff:127.0.0.1]:8000",
            "brain.example",
            "Brain.Example:443",
            "10.9.9.9:1",
        ] {
            assert!(allowed("127.0.0.1:8000", host), "{host}");
            assert!(allowed("unix:/a", host), "{host}");
        }
    }

    #[test]
    fn other_names_are_unknown() {
        for host in [
            "evil.example:8000",
            "localhost.evil.example",
            "evillocalhost",
            "127.0.0.1.evil.example",
            "brain.example.evil",
            "x.brain.example",
            "0.0.0.0:8000",
            "[::]:8000",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "10.0.0.1:8000",
            "[::2]",
        ] {
            assert!(!allowed("127.0.0.1:8000", host), "{host}");
        }
    }

    #[test]
    fn what_is_no_host_is_not_read() {
        for host in [
            "",
            ":8000",
            "a b",
            "user@localhost",
            "localhost:8000@evil.example",
            "localhost/..",
            "localhost:",
            "localhost:port",
            "localhost:65536",
            "localhost:+80",
            "localhost:80:80",
            "localhost,evil.example",
            "[::1",
            "[::1]80",
            "[fe80::1%25lo]",
            "[127.0.0.1]",
            "::1",
            "..",
            ".localhost",
            "a..localhost",
            "localhost..",
            "loc\u{e4}lhost",
        ] {
            assert_eq!(Host::parse(host), None, "{host}");
        }
    }

    #[test]
    fn an_address_to_listen_at_is_a_name() {
        assert!(allowed("10.0.0.1:8000", "10.0.0.1:8000"));
        assert!(!allowed("10.0.0.1:8000", "10.0.0.2:8000"));
        assert!(allowed("0.0.0.0:8000", "10.0.0.2:8000"));
        assert!(allowed("[::]:8000", "10.0.0.2:8000"));
        assert!(!allowed("[::]:8000", "evil.example:8000"));
    }

    #[test]
    fn no_page_is_from_below_localhost() {
        let host = Host::parse("a.localhost:8000").unwrap();
        assert!(hosts("127.0.0.1:8000").allow(&host));
        assert!(!hosts("127.0.0.1:8000").own(&host));
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in ".{0,40}") {
            let _ = Host::parse(&text);
        }
    }
}
