//! What happens to a command, as it happens: server-sent events, or a JSON record in each line.
//!
//! A record is asked for when the client has taken the ones before it. A client that reads slowly so
//! slows a command that is attached to it; one that is not goes on, and the client finds a gap.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures_util::stream::unfold;
use http::{HeaderName, HeaderValue, header};
use openbrain::{Error, Event, Record, RecordKind, Recorder};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::timeout;

use super::{
    accept::{EVENT_STREAM, NDJSON},
    long::Room,
    problem::{Form, Problem},
};
use crate::service::{Attached, Item, Kept, cost_of};

/// After how long without a record a comment tells that somebody is still there.
const SILENCE: Duration = Duration::from_secs(15);
const COMMENT: &[u8] = b": the command runs\n\n";

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// Server-sent events.
    Events,
    /// A JSON record in each line.
    Lines,
}

/// One record of a stream: what happened to the command, or to the stream itself.
#[derive(Debug, JsonSchema)]
#[schemars(untagged, rename = "StreamRecord")]
pub(super) enum Line {
    /// What happened to the command.
    Record(Arc<Record>),
    /// What happened to the stream.
    Note(Note),
}

/// What happened to a stream.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Note {
    /// Number of the record; of a gap, the last one that is missing.
    seq: u64,
    /// What happened.
    #[serde(flatten)]
    kind: NoteKind,
}

/// What a [`Note`] says.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum NoteKind {
    /// Records that are no longer remembered.
    Gap {
        /// The first one.
        from_seq: u64,
        /// The last one.
        to_seq: u64,
    },
    /// The command was lost, and its result with it. The last record.
    Error {
        /// Why.
        error: Box<Form>,
    },
}

/// Where records come from.
#[derive(Debug)]
pub(super) enum Source {
    /// A command that ends with its client.
    Attached(Box<Live>),
    /// A command that goes on without it.
    Kept(Past),
}

/// A command that ends with its client.
#[derive(Debug)]
pub(super) struct Live {
    /// Gone when it has ended, so that it no longer counts as running.
    attached: Option<Attached>,
    recorder: Recorder,
    ready: VecDeque<Record>,
    seq: u64,
}

/// What is remembered of a command, and what is still to come.
#[derive(Debug)]
pub(super) struct Past {
    kept: Arc<Kept>,
    seq: u64,
}

impl Source {
    /// The records of a command that ends with its client.
    pub(super) fn attached(attached: Attached) -> Self {
        let (recorder, ready) = (Recorder::default(), VecDeque::new());
        Self::Attached(Box::new(Live { attached: Some(attached), recorder, ready, seq: 0 }))
    }

    /// The records of a command after this one.
    pub(super) fn kept(kept: Arc<Kept>, after: u64) -> Self {
        Self::Kept(Past { kept, seq: after })
    }

    /// The next record. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Line> {
        match self {
            Self::Attached(live) => live.next().await,
            Self::Kept(past) => past.next().await,
        }
    }
}

impl Live {
    async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                self.seq = record.seq;
                return Some(Line::Record(Arc::new(record)));
            }
            match self.attached.as_mut()?.next_event().await {
                Ok(Some(event)) => {
                    if matches!(event, Event::Ended(_)) {
                        self.attached = None;
                    }
                    self.ready.extend(self.recorder.record(event));
                }
                Ok(None) => self.attached = None,
                Err(error) => {
                    self.attached = None;
                    return Some(Line::lost(self.seq + 1, &error));
                }
            }
        }
    }
}

impl Past {
    async fn next(&mut self) -> Option<Line> {
        Some(match self.kept.event_after(self.seq).await? {
            Item::Lost { seq, result } => {
                self.seq = seq;
                Line::lost(seq, result.as_ref().as_ref().err()?)
            }
            Item::Record(record) => {
                self.seq = record.seq;
                Line::Record(record)
            }
            Item::Gap { from_seq, to_seq } => {
                self.seq = to_seq;
                let kind = NoteKind::Gap { from_seq, to_seq };
                Line::Note(Note { seq: to_seq, kind })
            }
        })
    }
}

impl Line {
    fn lost(seq: u64, error: &Error) -> Self {
        let error = Box::new(Problem::from(error).form().clone());
        Self::Note(Note { seq, kind: NoteKind::Error { error } })
    }

    fn seq(&self) -> u64 {
        match self {
            Self::Record(record) => record.seq,
            Self::Note(note) => note.seq,
        }
    }

    /// About how long it is beside a piece of output, in bytes.
    fn length(&self) -> u64 {
        let Self::Record(record) = self else { return 0 };
        let RecordKind::Ended { result } = &record.kind else { return 0 };
        result.changes.as_ref().map_or(0, cost_of)
    }

    /// The `type` in the JSON.
    fn name(&self) -> &'static str {
        match self {
            Self::Record(record) => match record.kind {
                RecordKind::Stdout(_) => "stdout",
                RecordKind::Stderr(_) => "stderr",
                RecordKind::Ended { .. } => "ended",
            },
            Self::Note(note) => match note.kind {
                NoteKind::Gap { .. } => "gap",
                NoteKind::Error { .. } => "error",
            },
        }
    }

    /// JSON has no line breaks, which would end a line or an event.
    fn write(&self, writing: Writing) -> Bytes {
        let json = match self {
            Self::Record(record) => serde_json::to_string(record.as_ref()),
            Self::Note(note) => serde_json::to_string(note),
        };
        // Texts, numbers and maps with texts for keys, which JSON can always write.
        let json = json.unwrap_or_default();
        match writing {
            Writing::Events => {
                let (id, event) = (self.seq(), self.name());
                format!("id: {id}\nevent: {event}\ndata: {json}\n\n").into()
            }
            Writing::Lines => (json + "\n").into(),
        }
    }
}

/// A response that goes on as long as there are records, beginning with this one if it is known.
pub(super) fn response(
    first: Option<Line>,
    source: Source,
    writing: Writing,
    room: &Room,
) -> Response {
    let room = room.clone();
    let stream = unfold((first, source, None), move |(first, mut source, place)| {
        let room = room.clone();
        async move {
            // The connection has taken the record before.
            drop(place);
            let line = match first {
                Some(line) => Some(line),
                None => next(&mut source, writing).await?,
            };
            let place = room.turn(line.as_ref().map_or(0, Line::length)).await;
            let bytes = line.map_or(Bytes::from_static(COMMENT), |line| line.write(writing));
            Some((Ok::<_, Infallible>(bytes), (None, source, place)))
        }
    });
    let mut response = Response::new(Body::from_stream(stream));
    let content_type = match writing {
        Writing::Events => EVENT_STREAM,
        Writing::Lines => NDJSON,
    };
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        // Some proxies keep everything until it is complete, unless they are told.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The next record, or none for a comment where the form has comments and nothing happens.
async fn next(source: &mut Source, writing: Writing) -> Option<Option<Line>> {
    match writing {
        Writing::Lines => Some(Some(source.next().await?)),
        Writing::Events => match timeout(SILENCE, source.next()).await {
            Ok(line) => Some(Some(line?)),
            Err(_) => Some(None),
        },
    }
}

#[cfg(test)]
mod tests {
    use openbrain::{Data, Record, RecordKind};

    use super::{Arc, Line, Note, NoteKind, Writing};

    #[test]
    fn a_line_of_output_stays_one_line() {
        let kind = RecordKind::Stdout(Data::Data("a\n\nid: 7\r\n\u{2028}".into()));
        let line = Line::Record(Arc::new(Record { seq: 3, time: "now".into(), kind }));
        let json = r#"{"seq":3,"time":"now","type":"stdout","data":"a\n\nid: 7\r\n"#;
        let json = format!("{json}\u{2028}\"}}");
        assert_eq!(line.write(Writing::Lines), format!("{json}\n"));
        let event = format!("id: 3\nevent: stdout\ndata: {json}\n\n");
        assert_eq!(line.write(Writing::Events), event);
    }

    #[test]
    fn the_event_is_named_as_in_the_json() {
        let kind = NoteKind::Gap { from_seq: 2, to_seq: 5 };
        let line = Line::Note(Note { seq: 5, kind });
        let json: serde_json::Value = serde_json::from_slice(&line.write(Writing::Lines)).unwrap();
        assert_eq!(json["type"], line.name());
        assert_eq!(json["seq"], 5);
    }
}
