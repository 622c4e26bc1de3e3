//! From bytes to the agent's events, without any I/O.

use std::{fmt, ops::Range};

use super::{
    failure::quote,
    wire::{AgentEvent, NotAnEvent, read_event},
};

/// The longest event that is taken, in bytes.
const MOST_EVENT: usize = 16 << 20;

/// Takes a stream of events apart, whatever pieces it comes in.
///
/// The agent says `text/event-stream` and then sends bare JSON objects, each followed by an empty
/// line. A stream that begins with anything else than `{` or `[` is read as server-sent events. Only
/// the bytes `\n\n` (and `\r\n\r\n` between server-sent events) separate: U+2028 and its like are
/// ordinary characters in JSON.
///
/// ```
/// use openbrain::opensandbox::{AgentEvent, Decoder};
///
/// let mut decoder = Decoder::new();
/// decoder.push(b"{\"type\":\"stdout\",\"text\":\"hel");
/// assert_eq!(decoder.next_event()?, None);
/// decoder.push(b"lo\"}\n\n");
/// assert_eq!(decoder.next_event()?, Some(AgentEvent::Stdout("hello".into())));
/// # Ok::<(), openbrain::opensandbox::DecodeError>(())
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Where the next event begins.
    start: usize,
    /// From where on no separator was looked for yet.
    unseen: usize,
    form: Option<Form>,
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    BareJson,
    ServerSentEvents,
}

/// Where an event is in the buffer.
struct Frame {
    bounds: Range<usize>,
    /// Where the next one begins.
    next: usize,
}

/// A stream that is no stream of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError(String);

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed {
            return;
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.unseen -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event, or nothing until more is received. Events of unknown types are skipped.
    ///
    /// # Errors
    ///
    /// When what was received is no event, or longer than 16 MiB. Nothing follows it.
    pub fn next_event(&mut self) -> Result<Option<AgentEvent>, DecodeError> {
        while let Some(Frame { bounds, next }) = self.next_frame()? {
            let read = self.read(bounds);
            self.start = next;
            self.unseen = next;
            if let Some(event) = self.checked(read)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The event that the stream ended in, if only the empty line after it is missing.
    pub fn finish(&mut self) -> Option<AgentEvent> {
        let rest = self.start..self.buffer.len();
        self.start = self.buffer.len();
        self.unseen = self.start;
        self.read(rest).ok().flatten()
    }

    /// What was received and is no event yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        let Some(form) = self.form() else { return Ok(None) };
        let separator = form.separator(&self.buffer[self.unseen..]);
        let Some((at, length)) = separator else {
            // A separator may have begun in the last bytes.
            self.unseen = self.buffer.len().saturating_sub(3).max(self.unseen);
            return match self.rest().len() > MOST_EVENT {
                true => self.checked(Err(NotAnEvent("an event is too long".to_owned()))),
                false => Ok(None),
            };
        };
        let end = self.unseen + at;
        if end - self.start > MOST_EVENT {
            return self.checked(Err(NotAnEvent("an event is too long".to_owned())));
        }
        Ok(Some(Frame { bounds: self.start..end, next: end + length }))
    }

    /// The form of the stream, which its first byte that is not blank tells.
    fn form(&mut self) -> Option<Form> {
        if self.form.is_none() {
            let blank = self.rest().iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.start += blank;
            self.unseen = self.unseen.max(self.start);
            self.form = self.rest().first().map(|byte| match byte {
                b'{' | b'[' => Form::BareJson,
                _ => Form::ServerSentEvents,
            });
        }
        self.form
    }

    fn read(&self, bounds: Range<usize>) -> Result<Option<AgentEvent>, NotAnEvent> {
        let frame = self.buffer[bounds].trim_ascii();
        let read = match self.form {
            _ if frame.is_empty() => Ok(None),
            Some(Form::ServerSentEvents) => match data(frame) {
                Ok(data) if data.is_empty() => Ok(None),
                Ok(data) => read_event(&data),
                Err(error) => Err(error),
            },
            Some(Form::BareJson) | None => read_event(frame),
        };
        read.map_err(|NotAnEvent(why)| NotAnEvent(format!("{why}: {}", quote(frame))))
    }

    /// Remembers an error, so that nothing follows it.
    fn checked<T>(&mut self, result: Result<T, NotAnEvent>) -> Result<T, DecodeError> {
        result.map_err(|NotAnEvent(why)| {
            self.failed = true;
            self.buffer = Vec::new();
            (self.start, self.unseen) = (0, 0);
            DecodeError(why)
        })
    }
}

impl Form {
    /// Where the first separator is and how long it is.
    fn separator(self, bytes: &[u8]) -> Option<(usize, usize)> {
        let plain = find(bytes, b"\n\n").map(|at| (at, 2));
        match self {
            Self::BareJson => plain,
            Self::ServerSentEvents => {
                let long = find(bytes, b"\r\n\r\n").map(|at| (at, 4));
                plain.into_iter().chain(long).min()
            }
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DecodeError {}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The data lines of a server-sent event, joined.
///
/// The standard ignores fields that it does not know. Here a line that is none of its fields means
/// that something else than the agent answers, such as a proxy's page.
fn data(frame: &[u8]) -> Result<Vec<u8>, NotAnEvent> {
    let mut data: Vec<&[u8]> = Vec::new();
    for line in frame.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = (&line[..colon], line.get(colon + 1..).unwrap_or_default());
        match field {
            b"data" => data.push(value.strip_prefix(b" ").unwrap_or(value)),
            b"" | b"event" | b"id" | b"retry" => {}
            _ => return Err(NotAnEvent("a line is no field of an event".to_owned())),
        }
    }
    Ok(data.join(&b'\n'))
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{any, prop_assert_eq, proptest},
    };

    use super::{super::wire::Completion, AgentEvent, DecodeError, Decoder, MOST_EVENT};

    fn decode(pieces: &[&[u8]]) -> (Vec<AgentEvent>, Option<DecodeError>) {
        let mut decoder = Decoder::new();
        let mut events = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            loop {
                match decoder.next_event() {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(error) => return (events, Some(error)),
                }
            }
        }
        events.extend(decoder.finish());
        (events, None)
    }

    fn stdout(text: &str) -> AgentEvent {
        AgentEvent::Stdout(text.to_owned())
    }

    fn typical() -> Vec<AgentEvent> {
        let id = "a".to_owned();
        let done = AgentEvent::Done(Completion::Exited(0));
        vec![AgentEvent::Init { id }, stdout("x\u{2028}\u{85}\n\ny"), AgentEvent::Ping, done]
    }

    const BARE: &str = "\n{\"type\":\"init\",\"text\":\"a\"}\n\n{\"type\":\"new\"}\n\n\
        {\"type\":\"stdout\",\"text\":\"x\u{2028}\u{85}\\n\\ny\"}\n\n\n\n{\"type\":\"ping\"}\n\n\
        {\"type\":\"execution_complete\"}";

    const SENT: &str = ": hello\n\nevent: init\ndata: {\"type\":\"init\",\ndata: \"text\":\"a\"}\n\n\
        data:{\"type\":\"stdout\",\"text\":\"x\u{2028}\u{85}\\n\\ny\"}\r\n\r\n\
        data: {\"type\":\"ping\"}\n\nid: 7\ndata: {\"type\":\"execution_complete\"}\n\n";

    #[test]
    fn both_forms_give_the_same_events() {
        assert_eq!(decode(&[BARE.as_bytes()]), (typical(), None));
        assert_eq!(decode(&[SENT.as_bytes()]), (typical(), None));
    }

    #[test]
    fn garbage_is_quoted() {
        for garbage in ["{\"a\":1}\n\n", "<html>\n\n", "{]\n\n", "data: x\n\n", "HTTP/1.1 200\n\n"]
        {
            let (events, error) = decode(&[garbage.as_bytes()]);
            assert_eq!(events, []);
            let error = error.expect(garbage).to_string();
            assert!(error.contains("received `"), "{error}");
        }
    }

    #[test]
    fn nothing_follows_garbage() {
        let mut decoder = Decoder::new();
        decoder.push(b"{]\n\n{\"type\":\"ping\"}\n\n");
        assert!(decoder.next_event().is_err());
        decoder.push(b"{\"type\":\"ping\"}\n\n");
        assert_eq!(decoder.next_event(), Ok(None));
    }

    #[test]
    fn a_huge_event_is_refused_and_a_large_one_is_not() {
        let mut text = "x".repeat(MOST_EVENT - 100);
        let frame = format!("{{\"type\":\"stdout\",\"text\":\"{text}\"}}\n\n");
        assert_eq!(decode(&[frame.as_bytes()]), (vec![stdout(&text)], None));
        text.push_str(&"x".repeat(200));
        let frame = format!("{{\"type\":\"stdout\",\"text\":\"{text}");
        let (_, error) = decode(&[frame.as_bytes()]);
        assert!(error.unwrap().to_string().contains("too long"));
    }

    fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    proptest! {
        #[test]
        fn any_cuts_give_the_same_events(cuts in vec(any::<usize>(), 0..12)) {
            for text in [BARE, SENT] {
                prop_assert_eq!(decode(&pieces(text.as_bytes(), &cuts)), (typical(), None));
            }
        }

        #[test]
        fn any_bytes_give_the_same_in_any_cuts(
            bytes in vec(proptest::sample::select(b"{}[]\":,\n\r datype\xff".to_vec()), 0..200),
            cuts in vec(any::<usize>(), 0..8),
        ) {
            let whole = decode(&[&bytes]);
            prop_assert_eq!(decode(&pieces(&bytes, &cuts)), whole);
        }
    }
}
