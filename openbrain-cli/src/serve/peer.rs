//! Who is at the other end of a connection, as the kernel knows it.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use openbrain::{SANDBOX_TOS, is_in_sandbox};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use tokio::net::UnixStream;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process of this user of this machine.
    Uid(u32),
    /// A command in a sandbox of openbrain.
    Sandbox,
    /// Nobody that the kernel knows: another machine, or somebody who has gone.
    Unknown,
}

/// `SOCK_DIAG_BY_FAMILY`, `sock_diag(7)`.
const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
/// `INET_DIAG_TOS` and `INET_DIAG_TCLASS`, and the bits that ask for them.
const TOS: u16 = 5;
const TCLASS: u16 = 6;
const EXTENSIONS: u8 = 1 << (TOS - 1) | 1 << (TCLASS - 1);
/// Every state of a TCP connection.
const ALL_STATES: u32 = !0;
/// Where the state and the user are in `struct inet_diag_msg`, behind the netlink header.
const STATE_AT: usize = 16 + 1;
const UID_AT: usize = 16 + 64;
/// Where the attributes begin.
const ATTRIBUTES_AT: usize = 16 + 72;
/// `TCP_LISTEN`: the kernel finds a socket that listens there when there is no connection.
const LISTENS: u8 = 10;

/// The user whose socket is at the other end of a TCP connection of this machine.
pub(super) fn of_tcp(own: SocketAddr, peer: SocketAddr) -> Peer {
    if !peer.ip().to_canonical().is_loopback() {
        return Peer::Unknown;
    }
    look_up(own, peer).unwrap_or(Peer::Unknown)
}

/// Asks the kernel for the socket whose own address is `peer`: `sock_diag(7)`. It answers at once.
fn look_up(own: SocketAddr, peer: SocketAddr) -> io::Result<Peer> {
    let socket = diagnostics()?;
    send(&socket, &question(own, peer), SendFlags::empty())?;
    let mut answer = [0u8; 512];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    Ok(read(&answer[..length]))
}

fn diagnostics() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let family = AddressFamily::NETLINK;
    let socket = socket_with(family, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
    // The kernel has answered before `send` returns; this is for the case that it does not.
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(100)))?;
    Ok(socket)
}

/// A netlink header and a `struct inet_diag_req_v2` for one connection, seen from the peer.
fn question(own: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    const LENGTH: u32 = 16 + 56;
    let family = match peer {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family.as_raw() as u8, IPPROTO_TCP, EXTENSIONS, 0]);
    message.extend(ALL_STATES.to_ne_bytes());
    message.extend(peer.port().to_be_bytes());
    message.extend(own.port().to_be_bytes());
    message.extend(octets(peer));
    message.extend(octets(own));
    message.extend([0; 4]);
    // No cookie.
    message.extend([0xff; 8]);
    message
}

fn octets(address: SocketAddr) -> [u8; 16] {
    match address {
        SocketAddr::V6(address) => address.ip().octets(),
        SocketAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.ip().octets());
            octets
        }
    }
}

/// The user in an answer. A connection that its process has closed belongs to nobody.
fn read(answer: &[u8]) -> Peer {
    let kind = answer.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    let field = |at: usize| answer.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let is_connection = answer.get(STATE_AT).is_some_and(|state| *state != LISTENS);
    match (kind, field(UID_AT), field(UID_AT + 4)) {
        (Some(BY_FAMILY), Some(uid), Some(inode)) if inode != 0 && is_connection => {
            let attributes = answer.get(ATTRIBUTES_AT..).unwrap_or_default();
            if is_marked(attributes) { Peer::Sandbox } else { Peer::Uid(uid) }
        }
        _ => Peer::Unknown,
    }
}

/// Whether the connection has the type of service of those from sandboxes.
fn is_marked(mut attributes: &[u8]) -> bool {
    while let [a, b, c, d, rest @ ..] = attributes {
        let (length, kind) = (u16::from_ne_bytes([*a, *b]), u16::from_ne_bytes([*c, *d]));
        if matches!(kind, TOS | TCLASS) && rest.first() == Some(&SANDBOX_TOS) {
            return true;
        }
        // Each begins at a multiple of four, and has its own header.
        let whole = usize::from(length).next_multiple_of(4).max(4);
        attributes = attributes.get(whole..).unwrap_or_default();
    }
    false
}

/// Who is at the other end of a Unix socket: a command in a sandbox where one is mounted.
pub(super) fn of_unix(stream: &UnixStream) -> Peer {
    let own = rustix::process::geteuid().as_raw();
    let Ok(peer) = stream.peer_cred() else { return Peer::Unknown };
    match peer.uid() == own && is_in_sandbox(peer.pid()) {
        true => Peer::Sandbox,
        false => Peer::Uid(peer.uid()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::net::sockopt;

    use super::{AddressFamily, Peer, SANDBOX_TOS, SocketAddr, SocketType, of_tcp};

    #[test]
    fn the_kernel_knows_whose_connection_it_is() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (served, peer) = listener.accept().unwrap();
            let own = served.local_addr().unwrap();
            let uid = rustix::process::getuid().as_raw();
            assert_eq!(of_tcp(own, peer), Peer::Uid(uid), "{address}");
            drop(client);
            assert_eq!(of_tcp(own, peer), Peer::Unknown, "{address}");
        }
    }

    #[test]
    fn a_connection_of_a_sandbox_is_known() {
        for (address, marked) in [("127.0.0.1:0", true), ("[::1]:0", true), ("[::1]:0", false)] {
            let listener = TcpListener::bind(address).unwrap();
            let address = listener.local_addr().unwrap();
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let client = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
            match address {
                SocketAddr::V4(_) => sockopt::set_ip_tos(&client, SANDBOX_TOS).unwrap(),
                SocketAddr::V6(_) if marked => {
                    sockopt::set_ipv6_tclass(&client, SANDBOX_TOS.into()).unwrap();
                }
                SocketAddr::V6(_) => sockopt::set_ipv6_tclass(&client, 0xb8).unwrap(),
            }
            rustix::net::connect(&client, &address).unwrap();
            let (served, peer) = listener.accept().unwrap();
            let is_sandbox = of_tcp(served.local_addr().unwrap(), peer) == Peer::Sandbox;
            assert_eq!(is_sandbox, marked, "{address}");
        }
    }

    #[test]
    fn another_machine_is_nobody() {
        let (own, peer) = ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:5000".parse().unwrap());
        assert_eq!(of_tcp(own, peer), Peer::Unknown);
    }
}
