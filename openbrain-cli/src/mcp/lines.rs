//! Messages as lines of JSON over standard input and output.
//!
//! rmcp's own transport drops lines that are no JSON without a word, and answers others without
//! their id, so that a client waits for ever. This one answers every line, whatever it is, and says
//! when the client has closed its end.

use std::{io, sync::Arc};

use rmcp::{
    RoleServer,
    model::{ErrorData, JsonRpcMessage, RequestId},
    service::{RxJsonRpcMessage, TxJsonRpcMessage},
    transport::Transport,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    sync::Mutex,
};
use tokio_util::sync::CancellationToken;

/// Lines of JSON, one message in each.
pub(super) struct Lines<R, W> {
    reader: BufReader<R>,
    /// What was read of the current line.
    line: Vec<u8>,
    /// Whether the rest of the current line is thrown away.
    skipping: bool,
    /// The longest line.
    most: usize,
    /// Whether a request has come: before the first one nothing else means anything.
    begun: bool,
    /// Answers to lines that are no messages, which are sent before anything else is read.
    unsent: Option<TxJsonRpcMessage<RoleServer>>,
    writer: Arc<Mutex<W>>,
    /// Told when the client has closed its end.
    closed: CancellationToken,
}

/// What a line is.
#[derive(Debug)]
enum Line {
    /// A message for the server.
    Message(Box<RxJsonRpcMessage<RoleServer>>),
    /// Something to be answered with an error.
    Wrong(ErrorData, Option<RequestId>),
    /// Something that is not answered: an unknown notification, a blank line.
    Nothing,
}

impl<R: AsyncRead + Unpin, W> Lines<R, W> {
    pub(super) fn new(reader: R, writer: W, most: usize, closed: CancellationToken) -> Self {
        Self {
            reader: BufReader::new(reader),
            line: Vec::new(),
            skipping: false,
            most,
            begun: false,
            unsent: None,
            writer: Arc::new(Mutex::new(writer)),
            closed,
        }
    }

    /// The next line; `None` at the end of input. Cancel-safe: a line that was read in part is kept.
    async fn read(&mut self) -> io::Result<Option<Line>> {
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                return Ok(None);
            }
            let newline = available.iter().position(|byte| *byte == b'\n');
            let taken = newline.map_or(available.len(), |at| at + 1);
            let too_long = self.line.len() + taken > self.most + 1;
            let first = !self.skipping;
            if !self.skipping && !too_long {
                self.line.extend_from_slice(&available[..taken]);
            }
            self.reader.consume(taken);
            if too_long && first {
                self.line = Vec::new();
                self.skipping = newline.is_none();
                let message = format!("a message is longer than {} bytes", self.most);
                return Ok(Some(Line::Wrong(ErrorData::invalid_request(message, None), None)));
            }
            if newline.is_some() {
                if std::mem::take(&mut self.skipping) {
                    continue;
                }
                let line = understand(&self.line);
                self.line.clear();
                return Ok(Some(line));
            }
        }
    }
}

impl<R, W> Transport<RoleServer> for Lines<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let writer = Arc::clone(&self.writer);
        async move { write(&writer, &message).await }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        let message = self.next().await;
        if message.is_none() {
            self.closed.cancel();
        }
        message
    }

    async fn close(&mut self) -> io::Result<()> {
        self.writer.lock().await.flush().await
    }
}

impl<R, W> Lines<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    async fn next(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            if let Some(answer) = &self.unsent {
                write(&self.writer, answer).await.ok()?;
                self.unsent = None;
            }
            match self.read().await {
                Ok(Some(Line::Message(message))) => {
                    self.begun |= matches!(*message, JsonRpcMessage::Request(_));
                    if self.begun {
                        return Some(*message);
                    }
                }
                Ok(Some(Line::Wrong(error, id))) => {
                    self.unsent = Some(JsonRpcMessage::error(error, id));
                }
                Ok(Some(Line::Nothing)) => {}
                Ok(None) => return None,
                Err(error) => {
                    tracing::error!(%error, "cannot read from the client");
                    return None;
                }
            }
        }
    }
}

/// Writes a message as one line, in one piece.
async fn write<W: AsyncWrite + Unpin>(
    writer: &Mutex<W>,
    message: &TxJsonRpcMessage<RoleServer>,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut writer = writer.lock().await;
    writer.write_all(&line).await?;
    writer.flush().await
}

/// What a line is. A request that is none is answered under its own id where it has one.
fn understand(line: &[u8]) -> Line {
    let line = line.trim_ascii();
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    if line.is_empty() {
        return Line::Nothing;
    }
    let error = match serde_json::from_slice(line) {
        Ok(message) => return Line::Message(Box::new(message)),
        Err(error) => error,
    };
    let Ok(value) = serde_json::from_slice::<Value>(line) else {
        return Line::Wrong(ErrorData::parse_error(format!("no JSON: {error}"), None), None);
    };
    let id = value.get("id").cloned().and_then(|id| serde_json::from_value(id).ok());
    let is_notification =
        value.get("id").is_none() && value.get("method").is_some_and(Value::is_string);
    if is_notification {
        return Line::Nothing;
    }
    let message = match value.get("method").and_then(Value::as_str) {
        Some(method) => format!("no valid `{method}` request"),
        None => "no JSON-RPC 2.0 message".into(),
    };
    Line::Wrong(ErrorData::invalid_request(message, None), id)
}

#[cfg(test)]
mod tests {
    use rmcp::{model::JsonRpcMessage, transport::Transport};
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_util::sync::CancellationToken;

    use super::Lines;

    /// What a client that sends this and closes its end is answered, and the methods of the requests
    /// that the server gets.
    fn exchange(most: usize, sent: &[u8]) -> (Vec<Value>, Vec<Value>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut client, input) = duplex(7);
            let (output, mut answers) = duplex(1 << 20);
            let closed = CancellationToken::new();
            let mut lines = Lines::new(input, output, most, closed.clone());
            let sent = sent.to_vec();
            let sending = tokio::spawn(async move { client.write_all(&sent).await.unwrap() });
            let mut requests = Vec::new();
            while let Some(message) = lines.receive().await {
                requests.push(match message {
                    JsonRpcMessage::Request(request) => serde_json::to_value(request.id).unwrap(),
                    other => serde_json::to_value(other).unwrap()["method"].clone(),
                });
            }
            sending.await.unwrap();
            assert!(closed.is_cancelled());
            drop(lines);
            let mut text = String::new();
            answers.read_to_string(&mut text).await.unwrap();
            let answers = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (answers, requests)
        })
    }

    const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

    #[test]
    fn every_bad_line_is_answered_and_the_next_one_is_read() {
        for (line, code, id) in [
            ("{not json", -32700, Value::Null),
            ("\u{7f}", -32700, Value::Null),
            ("[]", -32600, Value::Null),
            ("17", -32600, Value::Null),
            (r#"{"jsonrpc":"2.0","id":7}"#, -32600, json!(7)),
            (r#"{"jsonrpc":"2.0","id":"x","method":3}"#, -32600, json!("x")),
            (r#"{"jsonrpc":"1.0","id":8,"method":"ping"}"#, -32600, json!(8)),
        ] {
            let (answers, requests) = exchange(4096, format!("{line}\n{PING}\n").as_bytes());
            assert_eq!(requests, [json!(1)], "{line}");
            assert_eq!(answers.len(), 1, "{line}: {answers:?}");
            assert_eq!(
                (&answers[0]["error"]["code"], &answers[0]["id"]),
                (&json!(code), &id),
                "{line}"
            );
        }
    }

    #[test]
    fn what_needs_no_answer_gets_none() {
        let unknown = r#"{"jsonrpc":"2.0","method":"$/cancel","params":3}"#;
        let sent = format!("\n\r\n{unknown}\n{PING}\r\n\u{feff}{PING}\n");
        assert_eq!(exchange(4096, sent.as_bytes()), (vec![], vec![json!(1), json!(1)]));
    }

    #[test]
    fn nothing_counts_before_the_first_request() {
        let early = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let sent = format!("{early}\n{PING}\n{early}\n");
        let (answers, requests) = exchange(4096, sent.as_bytes());
        assert_eq!(
            (answers.len(), requests),
            (0, vec![json!(1), json!("notifications/initialized")])
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_answered_once() {
        let exact = format!("{PING}{}", " ".repeat(100 - PING.len()));
        let sent = format!("{}\n{exact}\n{exact} \n{PING}\n", "x".repeat(1000));
        let (answers, requests) = exchange(100, sent.as_bytes());
        assert_eq!(requests, [json!(1), json!(1)]);
        assert_eq!(answers.len(), 2, "{answers:?}");
        assert!(answers.iter().all(|answer| answer["error"]["code"] == -32600), "{answers:?}");
    }

    #[test]
    fn the_end_of_input_ends_a_line_that_is_not_complete() {
        let (answers, requests) = exchange(100, PING.as_bytes());
        assert_eq!((answers.len(), requests.len()), (0, 0));
    }
}
