//! Netlink messages as bytes: built for the helper, read from the kernel. Pure.

use std::net::IpAddr;

/// A message under construction: header, fixed part, attributes (`netlink(7)`).
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    /// Where the attributes begin that are not closed yet.
    open: Vec<usize>,
}

/// Request, please.
pub(super) const REQUEST: u16 = 1;
/// Answer with an error number, 0 for success.
pub(super) const ACK: u16 = 4;
/// Make what is not there.
pub(super) const CREATE: u16 = 0x400;

const NESTED: u16 = 0x8000;
const HEADER: usize = 16;

impl Message {
    /// A message of a kind, with its flags and its fixed part.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Self { bytes, open: Vec::new() }
    }

    /// Adds an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute with a text, which ends with a NUL byte.
    pub(super) fn text(self, kind: u16, text: &str) -> Self {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Begins an attribute that is made of attributes.
    pub(super) fn begin(mut self, kind: u16) -> Self {
        self.open.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        self
    }

    /// Ends the attribute begun last.
    pub(super) fn end(mut self) -> Self {
        if let Some(at) = self.open.pop() {
            let length = (self.bytes.len() - at) as u16;
            self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        }
        self
    }

    /// The bytes, which another message may follow.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The attributes of a message behind a fixed part of so many bytes; stops at what is broken.
pub(super) fn attributes(message: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let length = u32_at(message, 0).map_or(0, |length| length as usize);
    let end = length.min(message.len());
    let mut rest = message.get(HEADER + fixed..end).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

/// The messages in what one call has received.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The kind of a message.
pub(super) fn kind(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A packet that the sandbox's filter has told of: protocol, destination, port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) is_tcp: bool,
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// Reads the start of a packet, as it went over the wire.
pub(super) fn packet(bytes: &[u8]) -> Option<Packet> {
    let (protocol, address, transport): (u8, IpAddr, &[u8]) = match bytes.first()? >> 4 {
        4 => {
            let length = usize::from(bytes[0] & 15) * 4;
            let address: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
            (*bytes.get(9)?, address.into(), bytes.get(length..)?)
        }
        6 => {
            let address: [u8; 16] = bytes.get(24..40)?.try_into().ok()?;
            (*bytes.get(6)?, address.into(), bytes.get(40..)?)
        }
        _ => return None,
    };
    let port = u16::from_be_bytes(transport.get(2..4)?.try_into().ok()?);
    let is_tcp = protocol == libc::IPPROTO_TCP as u8;
    (is_tcp || protocol == libc::IPPROTO_UDP as u8).then_some(Packet { is_tcp, address, port })
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{any, prop_assert_eq, proptest},
    };

    use super::{ACK, Message, Packet, attributes, kind, messages, packet};

    #[test]
    fn attributes_are_aligned_and_nested() {
        let message = Message::new(7, ACK, &[1, 2, 3, 4])
            .attribute(1, &[9])
            .begin(2)
            .text(3, "ab")
            .end()
            .finish();
        assert_eq!(message.len() % 4, 0);
        assert_eq!(kind(&message), Some(7));
        let found: Vec<_> = attributes(&message, 4).collect();
        assert_eq!(found[0], (1, &[9][..]));
        assert_eq!(found[1].0, 2);
        assert_eq!(found[1].1, [7, 0, 3, 0, b'a', b'b', 0, 0]);
        let two = [message.clone(), message].concat();
        assert_eq!(messages(&two).count(), 2);
    }

    #[test]
    fn packets_are_read() {
        let mut v4 = vec![0x45; 20];
        (v4[9], v4[16], v4[17], v4[18], v4[19]) = (6, 192, 0, 2, 1);
        v4.extend_from_slice(&[0, 1, 0x1f, 0x90]);
        let expected = Packet { is_tcp: true, address: [192, 0, 2, 1].into(), port: 8080 };
        assert_eq!(packet(&v4), Some(expected));
        let mut v6 = vec![0x60; 40];
        v6[6] = 17;
        v6.extend_from_slice(&[0, 1, 1, 187]);
        assert_eq!(packet(&v6).map(|p| (p.is_tcp, p.port)), Some((false, 443)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200), fixed in 0usize..20) {
            let _ = (messages(&bytes).count(), attributes(&bytes, fixed).count(), packet(&bytes));
        }

        #[test]
        fn attributes_read_back(values in vec(vec(any::<u8>(), 0..20), 0..10)) {
            let message = Message::new(1, 0, &[]);
            let message = values.iter().fold(message, |m, v| m.attribute(5, v)).finish();
            let found: Vec<_> = attributes(&message, 0).map(|(_, value)| value.to_vec()).collect();
            prop_assert_eq!(found, values);
        }
    }
}
