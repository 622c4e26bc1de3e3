//! What happens while a command runs, live and as records for JSON.

use std::{borrow::Cow, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::output::Output;

/// Something that happened to a running command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Bytes of standard output, as they came.
    Stdout(Vec<u8>),
    /// Bytes of standard error, as they came.
    Stderr(Vec<u8>),
    /// The command ended. The streams of this result hold no bytes, which were events, but their
    /// totals.
    Ended(Box<Output>),
}

/// Turns events into numbered records for JSON: text that is never cut inside a character.
#[derive(Debug, Default)]
pub struct Recorder {
    seq: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// One line of an event stream.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Number of the record, from 1, without gaps.
    pub seq: u64,
    /// When it was recorded, RFC 3339.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub kind: RecordKind,
}

/// What a [`Record`] says.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RecordKind {
    /// Text of standard output.
    Stdout(Data),
    /// Text of standard error.
    Stderr(Data),
    /// The result; its streams are empty.
    Ended {
        /// The result.
        result: Box<Output>,
    },
}

/// Bytes of a stream in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// Valid UTF-8.
    Data(String),
    /// Anything else, in base64.
    DataBase64(String),
}

impl From<Vec<u8>> for Data {
    /// Text where it is one, else base64.
    fn from(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Data(text),
            Err(error) => Self::DataBase64(BASE64.encode(error.as_bytes())),
        }
    }
}

impl Data {
    /// The bytes themselves. What is not base64, which no recorder writes, has none.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Data(text) => Cow::Borrowed(text.as_bytes()),
            Self::DataBase64(text) => Cow::Owned(BASE64.decode(text).unwrap_or_default()),
        }
    }
}

impl Recorder {
    /// The records of one event: none while a character is incomplete, several at the end.
    pub fn record(&mut self, event: Event) -> Vec<Record> {
        let kinds = match event {
            Event::Stdout(bytes) => vec![take(&mut self.stdout, &bytes).map(RecordKind::Stdout)],
            Event::Stderr(bytes) => vec![take(&mut self.stderr, &bytes).map(RecordKind::Stderr)],
            Event::Ended(result) => vec![
                flush(&mut self.stdout).map(RecordKind::Stdout),
                flush(&mut self.stderr).map(RecordKind::Stderr),
                Some(RecordKind::Ended { result }),
            ],
        };
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        kinds
            .into_iter()
            .flatten()
            .map(|kind| {
                self.seq += 1;
                Record { seq: self.seq, time: time.clone(), kind }
            })
            .collect()
    }
}

/// Joins what was held back with new bytes and holds back an incomplete last character.
fn take(held: &mut Vec<u8>, bytes: &[u8]) -> Option<Data> {
    held.extend_from_slice(bytes);
    let complete = held.len() - incomplete_tail(held);
    let rest = held.split_off(complete);
    let ready = std::mem::replace(held, rest);
    encode(ready)
}

fn flush(held: &mut Vec<u8>) -> Option<Data> {
    encode(std::mem::take(held))
}

fn encode(bytes: Vec<u8>) -> Option<Data> {
    (!bytes.is_empty()).then(|| bytes.into())
}

/// How many bytes at the end may be the start of a character that is not complete yet.
fn incomplete_tail(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    match std::str::from_utf8(&bytes[start..]) {
        Ok(_) => 0,
        Err(_) => bytes[start..]
            .iter()
            .rposition(|b| *b >= 0xc0)
            .map(|at| bytes.len() - start - at)
            .filter(|length| *length < character_length(bytes[bytes.len() - length]))
            .unwrap_or(0),
    }
}

/// The length of a character that starts with this byte.
fn character_length(first: u8) -> usize {
    match first {
        0xf0..=0xf7 => 4,
        0xe0..=0xef => 3,
        0xc0..=0xdf => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{any, prop_assert_eq, proptest},
    };

    use super::{Event, RecordKind, Recorder};

    fn bytes(records: &[super::Record]) -> Vec<u8> {
        let mut all = Vec::new();
        for record in records {
            if let RecordKind::Stdout(data) = &record.kind {
                all.extend_from_slice(&data.bytes());
            }
        }
        all
    }

    #[test]
    fn a_split_character_stays_whole() {
        let mut recorder = Recorder::default();
        let text = "é€😀".as_bytes();
        let mut records = Vec::new();
        for byte in text {
            records.extend(recorder.record(Event::Stdout(vec![*byte])));
        }
        assert_eq!(records.len(), 3, "{records:?}");
        assert_eq!(bytes(&records), text);
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(chunks in vec(vec(any::<u8>(), 0..8), 0..8)) {
            let mut recorder = Recorder::default();
            let mut records = Vec::new();
            for chunk in &chunks {
                records.extend(recorder.record(Event::Stdout(chunk.clone())));
            }
            let held = recorder.stdout.clone();
            let mut all = bytes(&records);
            all.extend(held);
            prop_assert_eq!(all, chunks.concat());
        }
    }
}
