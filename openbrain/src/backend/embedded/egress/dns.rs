//! Messages of DNS (RFC 1035), as little of it as a relay needs: one question, answers that are
//! addresses. Pure, and fuzzed.

use std::net::IpAddr;

use crate::sandbox::host_name;

/// The type of an address of the fourth version.
pub(super) const A: u16 = 1;
/// The type of an address of the sixth version.
pub(super) const AAAA: u16 = 28;
const CNAME: u16 = 5;
const INTERNET: u16 = 1;
const HEADER: usize = 12;
/// The longest message that everybody takes in one datagram.
const MOST_IN_DATAGRAM: usize = 512;

/// How a question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    Ok = 0,
    Malformed = 1,
    Failed = 2,
    NoName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// A question that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    id: [u8; 2],
    /// The second word of the header, of which an answer repeats the wish for recursion.
    flags: [u8; 2],
    /// The name as it was asked for, to be repeated in the answer, with type and class.
    question: Vec<u8>,
    /// The name, if it is that of a host.
    pub(super) name: Option<String>,
    /// The name in any case, for people.
    pub(super) shown: String,
    /// The type of what is asked for.
    pub(super) kind: u16,
}

/// What is to be done with bytes that should be a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    Query(Query),
    /// No question for us, but this is the answer.
    Reply(Vec<u8>),
    /// Nothing to answer.
    Noise,
}

/// Reads a question.
pub(super) fn query(message: &[u8]) -> Arrived {
    let Some(header) = message.get(..HEADER) else { return Arrived::Noise };
    let (id, flags) = ([header[0], header[1]], [header[2], header[3]]);
    if flags[0] & 0x80 != 0 {
        return Arrived::Noise;
    }
    let reply = |code| Arrived::Reply(head(id, flags, code, 0, 0));
    if flags[0] & 0x78 != 0 {
        return reply(Code::NotImplemented);
    }
    let Some((labels, end)) = labels(message, HEADER).filter(|_| header[4..6] == [0, 1]) else {
        return reply(Code::Malformed);
    };
    let Some(question) = message.get(HEADER..end + 4) else { return reply(Code::Malformed) };
    let [.., k1, k2, c1, c2] = *question else { return reply(Code::Malformed) };
    // A pointer into the question would not mean the same in an answer.
    if u16::from_be_bytes([c1, c2]) != INTERNET || end - HEADER != length(&labels) {
        return reply(Code::Refused);
    }
    Arrived::Query(Query {
        id,
        flags,
        question: question.to_vec(),
        name: text(&labels),
        shown: shown(&labels),
        kind: u16::from_be_bytes([k1, k2]),
    })
}

impl Query {
    /// An answer without records.
    pub(super) fn empty(&self, code: Code) -> Vec<u8> {
        self.answer(code, None, 0)
    }

    /// An answer with one address, or none.
    pub(super) fn answer(&self, code: Code, address: Option<IpAddr>, ttl: u32) -> Vec<u8> {
        let mut bytes = head(self.id, self.flags, code, 1, u16::from(address.is_some()));
        bytes.extend_from_slice(&self.question);
        if let Some(address) = address {
            let (kind, octets) = match address {
                IpAddr::V4(address) => (A, address.octets().to_vec()),
                IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
            };
            // A pointer to the name in the question.
            bytes.extend_from_slice(&[0xc0, HEADER as u8]);
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&INTERNET.to_be_bytes());
            bytes.extend_from_slice(&ttl.to_be_bytes());
            bytes.extend_from_slice(&(octets.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&octets);
        }
        bytes
    }

    /// Somebody else's answer to the same question, as ours; cut when it must fit a datagram.
    pub(super) fn pass_on(&self, mut message: Vec<u8>, datagram: bool) -> Vec<u8> {
        const CUT: u8 = 2;
        message[..2].copy_from_slice(&self.id);
        if datagram && message.len() > MOST_IN_DATAGRAM {
            message.truncate(HEADER);
            message[2] |= CUT;
            message[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
            message.extend_from_slice(&self.question);
        }
        message
    }
}

fn head(id: [u8; 2], flags: [u8; 2], code: Code, questions: u16, answers: u16) -> Vec<u8> {
    const ANSWER: u8 = 0x80;
    const RECURSION_WANTED: u8 = 1;
    const RECURSION_OFFERED: u8 = 0x80;
    let mut bytes = id.to_vec();
    bytes.push(ANSWER | flags[0] & RECURSION_WANTED);
    bytes.push(RECURSION_OFFERED | code as u8);
    bytes.extend_from_slice(&questions.to_be_bytes());
    bytes.extend_from_slice(&answers.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// A question of our own; `name` is the name of a host.
pub(super) fn ask(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&INTERNET.to_be_bytes());
    bytes
}

/// What a server has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The code of the answer; unknown ones are failures.
    pub(super) code: Code,
    /// Whether it has to be asked for again over TCP.
    pub(super) cut: bool,
    /// The addresses at the end of the chain of other names.
    pub(super) addresses: Vec<IpAddr>,
    /// For how many seconds they hold.
    pub(super) ttl: u32,
}

/// The most records that are read of an answer.
const MOST_RECORDS: usize = 128;

/// Reads the answer to the question `ask(id, name, kind)`; `None` when it is none.
pub(super) fn answer(message: &[u8], id: u16, name: &str, kind: u16) -> Option<Answer> {
    let header = message.get(..HEADER)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let is_answer = header[2] & 0xf8 == 0x80;
    if word(0) != id || !is_answer || word(4) != 1 {
        return None;
    }
    let (asked, end) = labels(message, HEADER)?;
    let rest = message.get(end..end + 4)?;
    let same = rest[..2] == kind.to_be_bytes() && rest[2..] == INTERNET.to_be_bytes();
    if !same || text(&asked).as_deref() != Some(name) {
        return None;
    }
    let code = match header[3] & 15 {
        0 => Code::Ok,
        3 => Code::NoName,
        5 => Code::Refused,
        _ => Code::Failed,
    };
    let cut = header[2] & 2 != 0;
    let mut answer = Answer { code, cut, addresses: Vec::new(), ttl: u32::MAX };
    let count = usize::from(word(6)).min(MOST_RECORDS);
    records(message, end + 4, count, name, kind, &mut answer);
    Some(answer)
}

/// Follows the names of the answer section to their addresses; stops at what is broken.
fn records(
    message: &[u8],
    mut at: usize,
    count: usize,
    name: &str,
    kind: u16,
    answer: &mut Answer,
) -> Option<()> {
    let mut wanted = name.to_owned();
    for _ in 0..count {
        let (owner, end) = labels(message, at)?;
        let head = message.get(end..end + 10)?;
        let [k1, k2, c1, c2, t1, t2, t3, t4, l1, l2] = *head else { return None };
        let data = end + 10;
        at = data + usize::from(u16::from_be_bytes([l1, l2]));
        let bytes = message.get(data..at)?;
        let relevant =
            u16::from_be_bytes([c1, c2]) == INTERNET && shown(&owner).eq_ignore_ascii_case(&wanted);
        let found = u16::from_be_bytes([k1, k2]);
        if !relevant || (found != CNAME && found != kind) {
            continue;
        }
        answer.ttl = answer.ttl.min(u32::from_be_bytes([t1, t2, t3, t4]));
        match (found, bytes.len()) {
            (CNAME, _) => wanted = shown(&labels(message, data)?.0),
            (A, 4) => answer.addresses.push(<[u8; 4]>::try_from(bytes).ok()?.into()),
            (AAAA, 16) => answer.addresses.push(<[u8; 16]>::try_from(bytes).ok()?.into()),
            _ => {}
        }
    }
    Some(())
}

/// The labels of a name, and where what follows it begins. Pointers lead backwards only, so that
/// reading ends.
fn labels(message: &[u8], start: usize) -> Option<(Vec<&[u8]>, usize)> {
    let (mut labels, mut total) = (Vec::new(), 0);
    let (mut at, mut end, mut floor) = (start, None, start);
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some((labels, end.unwrap_or(at + 1))),
            1..64 => {
                labels.push(message.get(at + 1..at + 1 + length)?);
                at += 1 + length;
                total += 1 + length;
            }
            192.. => {
                let target = (length & 63) << 8 | usize::from(*message.get(at + 1)?);
                end.get_or_insert(at + 2);
                if target >= floor {
                    return None;
                }
                (at, floor) = (target, target);
            }
            _ => return None,
        }
        if total > 254 {
            return None;
        }
    }
}

/// The bytes that labels take when they are written out.
fn length(labels: &[&[u8]]) -> usize {
    labels.iter().map(|label| label.len() + 1).sum::<usize>() + 1
}

/// The name of a host in the one form that is compared.
fn text(labels: &[&[u8]]) -> Option<String> {
    // A dot inside a label is not the end of one.
    let odd = labels.iter().any(|label| label.contains(&b'.'));
    (!odd && !labels.is_empty()).then(|| host_name(&shown(labels))).flatten()
}

/// A name for people: what cannot be printed is written as `?`.
fn shown(labels: &[&[u8]]) -> String {
    let plain = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' };
    let labels: Vec<String> =
        labels.iter().map(|label| label.iter().map(plain).collect()).collect();
    labels.join(".")
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::{
        collection::vec,
        prelude::{any, prop_assert, prop_assert_eq, proptest},
    };

    use super::{A, AAAA, Arrived, CNAME, Code, answer, ask, labels, query};

    fn asked(name: &str, kind: u16) -> super::Query {
        match query(&ask(7, name, kind)) {
            Arrived::Query(query) => query,
            other => panic!("{other:?}"),
        }
    }

    /// An answer to `ask(7, name, A)` with these records: owner, type, data.
    fn message(name: &str, records: &[(&str, u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = ask(7, name, A);
        bytes[2] |= 0x80;
        bytes[7] = records.len() as u8;
        for (owner, kind, data) in records {
            bytes.extend(written(owner));
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 60]);
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(data);
        }
        bytes
    }

    fn written(name: &str) -> Vec<u8> {
        let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
        name.split('.').flat_map(label).chain([0]).collect()
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let query = asked("Example.COM", AAAA);
        assert_eq!((query.name.as_deref(), query.kind), (Some("example.com"), AAAA));
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let reply = query.answer(Code::Ok, Some(address), 5);
        let read = answer(&reply, 7, "example.com", AAAA).unwrap();
        assert_eq!((read.code, read.addresses, read.ttl), (Code::Ok, vec![address], 5));
        let read = answer(&query.empty(Code::NoName), 7, "example.com", AAAA).unwrap();
        assert_eq!((read.code, read.addresses.len()), (Code::NoName, 0));
    }

    #[test]
    fn odd_names_are_shown_and_are_no_hosts() {
        let mut bytes = ask(7, "axb.example", A);
        bytes[14] = 0;
        let Arrived::Query(query) = query(&bytes) else { panic!() };
        assert_eq!((query.name, query.shown.as_str()), (None, "a?b.example"));
        bytes[14] = b'.';
        let Arrived::Query(query) = super::query(&bytes) else { panic!() };
        assert_eq!(query.name, None);
    }

    #[test]
    fn what_is_no_question_is_refused_or_ignored() {
        let good = ask(7, "a.example", A);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            query(&bytes)
        };
        assert_eq!(changed(2, 0x80), Arrived::Noise, "an answer");
        assert_eq!(query(&good[..11]), Arrived::Noise);
        for (at, byte, code) in [(2, 0x28, 4), (5, 0, 1), (5, 2, 1), (12, 0xc0, 1), (26, 3, 5)] {
            match changed(at, byte) {
                Arrived::Reply(reply) => assert_eq!(reply[3] & 15, code, "{at}"),
                other => panic!("{at}: {other:?}"),
            }
        }
        assert!(matches!(query(&good[..good.len() - 1]), Arrived::Reply(_)));
    }

    #[test]
    fn a_chain_of_names_is_followed_and_nothing_else() {
        let records = [
            ("a.example", CNAME, written("b.example")),
            ("evil.example", A, vec![192, 0, 2, 66]),
            ("B.example", CNAME, written("c.example")),
            ("c.example", A, vec![192, 0, 2, 1]),
            ("c.example", A, vec![192, 0, 2]),
            ("c.example", AAAA, vec![0; 16]),
            ("c.example", A, vec![192, 0, 2, 2]),
        ];
        let read = answer(&message("a.example", &records), 7, "a.example", A).unwrap();
        assert_eq!(read.addresses, [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])]);
        assert_eq!(read.ttl, 60);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let message = message("a.example", &[("a.example", A, vec![192, 0, 2, 1])]);
        assert!(answer(&message, 7, "a.example", A).is_some());
        assert!(answer(&message, 8, "a.example", A).is_none());
        assert!(answer(&message, 7, "b.example", A).is_none());
        assert!(answer(&message, 7, "a.example", AAAA).is_none());
        assert!(answer(&ask(7, "a.example", A), 7, "a.example", A).is_none(), "a question");
    }

    #[test]
    fn pointers_lead_backwards() {
        let mut message = vec![0; 12];
        message.extend([1, b'a', 0, 0xc0, 12, 0xc0, 15, 0xc0, 17, 0xc0, 21]);
        let read = |at| labels(&message, at).map(|(labels, end)| (labels.len(), end));
        assert_eq!(read(12), Some((1, 15)));
        assert_eq!(read(15), Some((1, 17)));
        assert_eq!(read(17), Some((1, 19)));
        assert_eq!(read(21), None, "to itself");
    }

    #[test]
    fn a_long_answer_is_cut_for_a_datagram() {
        let query = asked("a.example", 16);
        let mut long = ask(9, "a.example", 16);
        long[2] |= 0x80;
        long.resize(600, 0);
        assert_eq!(query.pass_on(long.clone(), false)[..2], [0, 7]);
        let cut = query.pass_on(long, true);
        assert!(cut.len() < 64 && cut[2] & 2 != 0);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..300)) {
            let _ = (query(&bytes), answer(&bytes, 0, "a.example", A));
        }

        #[test]
        fn no_changed_message_panics(at in 0usize..100, byte in any::<u8>(), cut in 0usize..100) {
            let records = [("a.example", CNAME, written("b.example")), ("b.example", A, vec![1; 4])];
            let mut bytes = message("a.example", &records);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len() - cut % bytes.len());
            let _ = (query(&bytes), answer(&bytes, 7, "a.example", A));
            if let Arrived::Query(query) = query(&bytes) {
                prop_assert!(query.empty(Code::Ok).len() < 300);
            }
        }

        #[test]
        fn questions_read_back(name in "[a-z][a-z0-9]{0,20}(\\.[a-z][a-z0-9]{0,20}){0,5}", kind in any::<u16>()) {
            let query = asked(&name, kind);
            prop_assert_eq!(query.name, Some(name));
            prop_assert_eq!(query.kind, kind);
        }
    }
}
