//! Who is at the other end of a connection, as the kernel knows it.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process of this user of this machine.
    Uid(u32),
    /// Nobody that the kernel knows: another machine, or somebody who has gone.
    Unknown,
}

/// `SOCK_DIAG_BY_FAMILY`, `sock_diag(7)`.
const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
/// Every state of a TCP connection.
const ALL_STATES: u32 = !0;
/// Where the state and the user are in `struct inet_diag_msg`, behind the netlink header.
const STATE_AT: usize = 16 + 1;
const UID_AT: usize = 16 + 64;
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
    message.extend([family.as_raw() as u8, IPPROTO_TCP, 0, 0]);
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
        (Some(BY_FAMILY), Some(uid), Some(inode)) if inode != 0 && is_connection => Peer::Uid(uid),
        _ => Peer::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::{Peer, of_tcp};

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
    fn another_machine_is_nobody() {
        let (own, peer) = ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:5000".parse().unwrap());
        assert_eq!(of_tcp(own, peer), Peer::Unknown);
    }
}
