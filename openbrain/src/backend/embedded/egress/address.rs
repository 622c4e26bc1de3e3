//! What kind of address an address is, in every spelling of it. Pure.
//!
//! What is not known to be public is not: of the sixth version only `2000::/3` is given out
//! (IANA IPv6 address space), and addresses that carry one of the fourth are judged by that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Somebody else's, on the internet. Addresses for documentation count as such.
    Public,
    Loopback,
    /// RFC 1918, RFC 4193, and those that providers share among customers (RFC 6598).
    Private,
    LinkLocal,
    /// Where machines in clouds ask about themselves.
    Metadata,
    /// Multicast, broadcast, unassigned, of a protocol, or of this engine.
    Reserved,
}

/// Metadata services outside of the link-local range: Alibaba, Azure, Oracle, AWS, Google.
const METADATA: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// What kind of address this is.
pub(crate) fn kind(address: IpAddr) -> Kind {
    match plain(address) {
        address if METADATA.contains(&address) => Kind::Metadata,
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

/// The one spelling of an address: one of the fourth version that is mapped into the sixth is of
/// the fourth.
pub(crate) fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    match address.octets() {
        [127, ..] => Kind::Loopback,
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => Kind::Private,
        [169, 254, ..] => Kind::LinkLocal,
        [0 | 224..=255, ..] | [192, 0, 0, _] | [192, 88, 99, _] | [198, 18 | 19, ..] => {
            Kind::Reserved
        }
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    if address.is_loopback() {
        return Kind::Loopback;
    }
    let s = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    // What a machine on the way, or this one, unpacks and sends to an address inside.
    let inner = match s {
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(v4(s[6], s[7])),
        [0x2002, ..] => Some(v4(s[1], s[2])),
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Some(v4(s[6], s[7])),
        _ => None,
    };
    let inner = inner.map(|address| kind(address.into()));
    if let Some(kind) = inner.filter(|kind| *kind != Kind::Public) {
        return kind;
    }
    match s[0] {
        0xfc00..=0xfdff => Kind::Private,
        0xfe80..=0xfeff => Kind::LinkLocal,
        // Protocols' own, Teredo among them (RFC 2928, RFC 4380).
        0x2001 if s[1] < 0x200 => Kind::Reserved,
        0x2000..=0x3fff => Kind::Public,
        0x64 if inner.is_some() => Kind::Public,
        _ => Kind::Reserved,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{IpAddr, Ipv4Addr, Ipv6Addr, Kind, kind};

    fn of(text: &str) -> Kind {
        kind(text.parse().unwrap())
    }

    #[test]
    fn every_address_has_its_kind() {
        use Kind::{LinkLocal, Loopback, Metadata, Private, Public, Reserved};
        for (kind, addresses) in [
            (
                Loopback,
                "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 \
                        2002:7f00:1:: 2001:db8::5efe:127.0.0.1",
            ),
            (
                Private,
                "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 \
                       100.127.255.255 fc00::1 fdff::1 ::ffff:10.0.0.1 64:ff9b::a00:1 \
                       2002:c0a8:101::1 2001:db8::200:5efe:10.0.0.1",
            ),
            (LinkLocal, "169.254.0.1 169.254.255.255 fe80::1 febf::1 fec0::1 ::ffff:169.254.1.1"),
            (
                Metadata,
                "169.254.169.254 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 \
                        fd20:ce::254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::",
            ),
            (
                Reserved,
                "0.0.0.0 0.1.2.3 192.0.0.1 192.88.99.1 198.18.0.1 198.19.255.255 224.0.0.1 \
                        240.0.0.1 255.255.255.255 :: ff02::1 100::1 2001::1 2001:1ff::1 5f00::1 \
                        64:ff9b:1::1 4000::1 ::ffff:0.0.0.0",
            ),
            (
                Public,
                "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 172.15.0.1 172.32.0.1 \
                      192.0.2.1 198.51.100.1 203.0.113.1 223.255.255.255 2001:db8::1 2606:4700::1111 \
                      2001:200::1 64:ff9b::101:101 2002:101:101::1 ::ffff:1.1.1.1",
            ),
        ] {
            for address in addresses.split_whitespace() {
                assert_eq!(of(address), kind, "{address}");
            }
        }
    }

    proptest! {
        /// No spelling of an address of the fourth version is public when the address is not.
        #[test]
        fn no_spelling_hides_an_address(bits in any::<u32>(), rest in any::<[u16; 5]>()) {
            let v4 = Ipv4Addr::from_bits(bits);
            let [a, b] = [(bits >> 16) as u16, bits as u16];
            let inside = kind(v4.into());
            for segments in [
                [0, 0, 0, 0, 0, 0xffff, a, b],
                [0x64, 0xff9b, 0, 0, 0, 0, a, b],
                [0x2002, a, b, rest[0], rest[1], rest[2], rest[3], rest[4]],
                [0x2001, 0xdb8, rest[0], rest[1], 0, 0x5efe, a, b],
            ] {
                let found = kind(Ipv6Addr::from(segments).into());
                if inside == Kind::Public {
                    continue;
                }
                prop_assert!(found != Kind::Public, "{segments:x?}");
            }
            prop_assert_eq!(kind(v4.to_ipv6_mapped().into()), inside);
        }

        #[test]
        fn outside_of_what_is_given_out_nothing_is_public(bits in any::<u128>()) {
            let address = Ipv6Addr::from_bits(bits);
            let first = address.segments()[0];
            let known = (0x2000..0x4000).contains(&first)
                || first == 0x64
                || IpAddr::from(address).to_canonical().is_ipv4();
            prop_assert!(known || kind(address.into()) != Kind::Public);
        }
    }
}
