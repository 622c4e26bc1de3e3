//! A server for tests that answers each connection as it is told.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};

use super::{agent::Agent, client::Client, client::Connection};

/// What the server does once a request is there; then it closes the connection.
#[derive(Clone)]
pub(super) enum Step {
    Send(Vec<u8>),
    Pause(Duration),
    /// Neither sends nor closes.
    Hang,
}

/// A server with one list of steps for each connection to come.
pub(super) struct Script {
    pub(super) address: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Script {
    pub(super) async fn new(replies: Vec<Vec<Step>>) -> Self {
        Self::knowing_itself(|_| replies).await
    }

    /// A server whose answers name its own address.
    pub(super) async fn knowing_itself(replies: impl FnOnce(&str) -> Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let replies = replies(&address);
        let task = tokio::spawn(async move {
            for steps in replies {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                seen.lock().unwrap().push(request);
                tokio::spawn(play(stream, steps));
            }
        });
        Self { address, requests, task }
    }

    /// One whole answer for each connection to come.
    pub(super) async fn of(replies: &[(&str, &str)]) -> Self {
        let steps = |(status, body): &(&str, &str)| vec![Step::Send(answer(status, body))];
        Self::new(replies.iter().map(steps).collect()).await
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn connection(&self) -> Connection {
        let mut connection = Connection::new(self.url());
        connection.api_key = Some("hunter2".into());
        connection.request_timeout = Duration::from_secs(5);
        connection.stall_timeout = Duration::from_secs(5);
        connection
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.connection()).unwrap()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An agent that plays `replies`. The first request, for its address, is the server's own.
pub(super) async fn agent(replies: Vec<Vec<Step>>) -> (Script, Agent) {
    let script = Script::new(replies).await;
    let body = format!(
        r#"{{"endpoint":"{}/proxy/44772","headers":{{"X-Token":"t0ken"}}}}"#,
        script.address
    );
    let server = Script::of(&[("200 OK", &body)]).await;
    let mut connection = server.connection();
    connection.stall_timeout = Duration::from_millis(300);
    let agent = Client::new(connection).unwrap().agent("a").await.unwrap();
    (script, agent)
}

/// An answer with a body and headers, which may follow the status after `\r\n`.
pub(super) fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// The head and one chunk of a stream that has no end yet.
pub(super) fn chunk(body: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked";
    format!("{head}\r\n\r\n{:x}\r\n{body}\r\n", body.len()).into_bytes()
}

async fn play(mut stream: TcpStream, steps: Vec<Step>) {
    for step in steps {
        match step {
            // The client may have seen enough.
            Step::Send(bytes) => drop(stream.write_all(&bytes).await),
            Step::Pause(time) => sleep(time).await,
            Step::Hang => drop(stream.read(&mut [0]).await),
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()
            });
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
            return text;
        }
    }
}
