//! Whether an address is the host's own: the kernel is asked where it would send a packet.

use std::{io, net::IpAddr, os::fd::OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::netlink::{Message, kind, octets};

const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const DESTINATION: u16 = 1;

/// Whether the host would deliver to itself, or to a group, what is sent to an address. An address
/// that it cannot send to at all is nobody's.
pub(super) fn is_own(address: IpAddr) -> bool {
    // What cannot be found out is taken for the host's.
    let Ok(answer) = ask(address) else { return true };
    // The kind of a route is the eighth byte of `struct rtmsg`, behind the header.
    kind(&answer) == Some(NEW_ROUTE) && answer.get(16 + 7) != Some(&libc::RTN_UNICAST)
}

fn ask(address: IpAddr) -> io::Result<Vec<u8>> {
    let socket: OwnedFd = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE, the first of the protocols.
        None,
    )?;
    let (family, bits) =
        if address.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
    let fixed = [family as u8, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let question = Message::new(GET_ROUTE, 0, &fixed).attribute(DESTINATION, &octets(address));
    rustix::net::send(&socket, &question.finish(), SendFlags::empty())?;
    let mut answer = vec![0u8; 4096];
    // The kernel has answered before the call above returned.
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::DONTWAIT)?;
    answer.truncate(length);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::is_own;

    #[test]
    fn loopback_and_groups_are_own() {
        for address in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            assert!(is_own(address.parse::<IpAddr>().unwrap()), "{address}");
        }
        assert!(!is_own("192.0.2.1".parse::<IpAddr>().unwrap()));
    }
}
