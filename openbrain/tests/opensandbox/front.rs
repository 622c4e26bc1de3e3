//! A proxy in front of a server, on which faults can be made.
//!
//! It takes one request from each connection, so that it knows what every byte belongs to. What it
//! passes to create a sandbox gets the label of the test, and the variables by which the agent
//! misbehaves.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

use crate::lab::LABEL;

/// Something that the front does to a request or its answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answers by itself; the server never hears of it.
    Answer(String),
    /// Passes the request on, waits for the whole answer and breaks the connection instead of giving
    /// it.
    LoseAnswer,
    /// Takes the request and never answers.
    Silence,
    /// Ends the connection after so many bytes of the answer's body.
    CutAfter(usize),
    /// Sends nothing more after so many bytes of the answer's body.
    StallAfter(usize),
    /// Sends the answer in pieces of one byte.
    Trickle,
    /// Puts bytes, as a chunk of their own, before the answer's body.
    Inject(Vec<u8>),
    /// Holds the request until the test lets it go on.
    Hold(Arc<Gate>),
    /// Names this address as the agent's.
    Endpoint(SocketAddr),
}

/// Where a request waits for the test.
#[derive(Debug)]
pub(crate) struct Gate {
    reached: Semaphore,
    open: Semaphore,
}

/// A request that was seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) head: String,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<String>,
    label: String,
    variables: Mutex<BTreeMap<String, String>>,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    /// Bytes of answers.
    passed: AtomicU64,
    changed: Notify,
}

#[derive(Debug)]
struct Rule {
    method: &'static str,
    path: &'static str,
    times: usize,
    fault: Fault,
}

struct Request {
    seen: Seen,
    /// What was received of the body.
    body: Vec<u8>,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { reached: Semaphore::new(0), open: Semaphore::new(0) })
    }

    /// Waits until a request has come.
    pub(crate) async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    /// Lets one request go on.
    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }

    async fn wait(&self) {
        self.reached.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }
}

impl Seen {
    pub(crate) fn creates(&self) -> bool {
        self.method == "POST" && self.path.ends_with("/sandboxes")
    }
}

impl Front {
    /// A front to `upstream`, which is `host:port`.
    pub(crate) async fn start(upstream: &str, label: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream.to_owned()),
            label: label.to_owned(),
            variables: Mutex::default(),
            rules: Mutex::default(),
            seen: Mutex::default(),
            passed: AtomicU64::new(0),
            changed: Notify::new(),
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let shared = Arc::clone(&serving);
                tokio::spawn(async move {
                    // Connections break here; that is what a front is for.
                    let _ = shared.serve(client).await;
                });
            }
        });
        Self { address, shared, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Leads to another server from now on.
    pub(crate) fn lead_to(&self, upstream: impl Into<String>) {
        *self.shared.upstream.lock().unwrap() = upstream.into();
    }

    /// Sets a variable of every container that is made from now on.
    pub(crate) fn variable(&self, name: &str, value: impl ToString) {
        self.shared.variables.lock().unwrap().insert(name.into(), value.to_string());
    }

    /// Makes a fault, `times` times, on requests whose path contains `path`.
    pub(crate) fn fault(
        &self,
        method: &'static str,
        path: &'static str,
        times: usize,
        fault: Fault,
    ) {
        self.shared.rules.lock().unwrap().push(Rule { method, path, times, fault });
    }

    /// Holds the next such request.
    pub(crate) fn hold(&self, method: &'static str, path: &'static str) -> Arc<Gate> {
        let gate = Gate::new();
        self.fault(method, path, 1, Fault::Hold(Arc::clone(&gate)));
        gate
    }

    /// Every request until now.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many such requests there were.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.method == method && seen.path.contains(path)).count()
    }

    /// Waits until such a request has come.
    pub(crate) async fn until(&self, method: &str, path: &str) {
        loop {
            let changed = self.shared.changed.notified();
            if self.count(method, path) > 0 {
                return;
            }
            changed.await;
        }
    }

    /// How many bytes of answers were passed on.
    pub(crate) fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Requests that are on their way end by themselves.
        self.task.abort();
    }
}

impl Shared {
    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let Some(mut request) = Request::read(&mut client).await? else { return Ok(()) };
        self.seen.lock().unwrap().push(request.seen.clone());
        self.changed.notify_waiters();
        let fault = self.next_fault(&request.seen);
        if request.seen.creates() {
            request.read_body(&mut client).await?;
            request.body = self.label_sandbox(&request.body);
        }
        match &fault {
            Some(Fault::Answer(answer)) => {
                request.read_body(&mut client).await?;
                client.write_all(answer.as_bytes()).await?;
                return client.shutdown().await;
            }
            Some(Fault::Silence) => {
                let mut rest = Vec::new();
                client.read_to_end(&mut rest).await?;
                return Ok(());
            }
            Some(Fault::Hold(gate)) => gate.wait().await,
            _ => {}
        }
        let upstream = self.upstream.lock().unwrap().clone();
        let (mut answer, mut server) = TcpStream::connect(upstream).await?.into_split();
        server.write_all(request.head().as_bytes()).await?;
        server.write_all(&request.body).await?;
        if matches!(fault, Some(Fault::LoseAnswer)) {
            let mut lost = Vec::new();
            answer.read_to_end(&mut lost).await?;
            return reset(&client);
        }
        let (mut from, mut to) = client.into_split();
        let body = tokio::spawn(async move { tokio::io::copy(&mut from, &mut server).await });
        let passed = self.answer(&mut answer, &mut to, fault).await;
        body.abort();
        passed
    }

    fn next_fault(&self, seen: &Seen) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let rule = rules.iter_mut().find(|rule| {
            rule.times > 0 && rule.method == seen.method && seen.path.contains(rule.path)
        })?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    fn label_sandbox(&self, body: &[u8]) -> Vec<u8> {
        let mut body: Value = serde_json::from_slice(body).unwrap();
        body["metadata"][LABEL] = json!(self.label);
        for (name, value) in &*self.variables.lock().unwrap() {
            body["env"][name] = json!(value);
        }
        serde_json::to_vec(&body).unwrap()
    }

    async fn answer(
        &self,
        from: &mut OwnedReadHalf,
        to: &mut tokio::net::tcp::OwnedWriteHalf,
        fault: Option<Fault>,
    ) -> io::Result<()> {
        let Some((head, mut body)) = read_head(from).await? else { return Ok(()) };
        if let Some(Fault::Endpoint(address)) = fault {
            from.read_to_end(&mut body).await?;
            return to.write_all(&with_endpoint(&body, address)).await;
        }
        // Without this the client would use the connection again.
        let head = format!("{}connection: close\r\n\r\n", &head[..head.len() - 2]);
        to.write_all(head.as_bytes()).await?;
        if let Some(Fault::Inject(bytes)) = &fault {
            to.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
            to.write_all(bytes).await?;
            to.write_all(b"\r\n").await?;
        }
        let mut left = match fault {
            Some(Fault::CutAfter(bytes) | Fault::StallAfter(bytes)) => bytes,
            _ => usize::MAX,
        };
        let step = if matches!(fault, Some(Fault::Trickle)) { 1 } else { usize::MAX };
        loop {
            let size = body.len().min(left);
            for piece in body[..size].chunks(step.min(size.max(1))) {
                to.write_all(piece).await?;
            }
            self.passed.fetch_add(size as u64, Ordering::Relaxed);
            left -= size;
            match fault {
                Some(Fault::CutAfter(_)) if left == 0 => return Ok(()),
                Some(Fault::StallAfter(_)) if left == 0 => return std::future::pending().await,
                _ => {}
            }
            body.clear();
            if from.read_buf(&mut body).await? == 0 {
                return to.shutdown().await;
            }
        }
    }
}

impl Request {
    async fn read(client: &mut TcpStream) -> io::Result<Option<Self>> {
        let Some((head, body)) = read_head(client).await? else { return Ok(None) };
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        Ok(Some(Self { seen: Seen { method, path, head }, body }))
    }

    /// Reads the rest of a body whose length is known.
    async fn read_body(&mut self, client: &mut TcpStream) -> io::Result<()> {
        let length = header(&self.seen.head, "content-length");
        let length = length.map_or(0, |length| length.parse().unwrap());
        while self.body.len() < length {
            if client.read_buf(&mut self.body).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// The head to pass on.
    fn head(&self) -> String {
        let mut head = String::new();
        let creates = self.seen.creates();
        for line in self.seen.head.trim_end().split("\r\n") {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if name != "connection" && !(creates && name == "content-length") {
                head += &format!("{line}\r\n");
            }
        }
        if creates {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        head + "connection: close\r\n\r\n"
    }
}

/// Reads up to the empty line, and what came with it; nothing from a connection that is not used.
async fn read_head(
    from: &mut (impl AsyncReadExt + Unpin),
) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut received = Vec::new();
    loop {
        if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let body = received.split_off(end + 4);
            return Ok(Some((String::from_utf8(received).unwrap(), body)));
        }
        if from.read_buf(&mut received).await? == 0 {
            return Ok(None);
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = head.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// The answer that names the agent's address, with another address in it.
fn with_endpoint(body: &[u8], address: SocketAddr) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(body).unwrap();
    let endpoint = value["endpoint"].as_str().unwrap();
    let path = endpoint.find('/').map_or("", |at| &endpoint[at..]);
    value["endpoint"] = json!(format!("{address}{path}"));
    answer(200, "", &value.to_string()).into_bytes()
}

/// An answer in JSON; `headers` are whole lines.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n{headers}\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// Makes the connection end by a reset.
fn reset(client: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO))?)
}
