//! The engine: a few questions to it, and a way to it that can be cut.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
};

/// Sends a request to the engine and gives its answer.
pub(crate) async fn ask(method: &str, path: &str) -> Value {
    let socket = socket();
    let mut engine = UnixStream::connect(&socket)
        .await
        .unwrap_or_else(|error| panic!("no Docker at {}: {error}", socket.display()));
    let head = format!("{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n");
    engine.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    engine.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.split(' ').nth(1).unwrap().starts_with('2'), "{answer}");
    serde_json::from_str(body).unwrap_or_default()
}

fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").into()
}

/// A way to the engine.
#[derive(Debug)]
pub(crate) struct Way {
    directory: TempDir,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Way {
    pub(crate) fn open() -> Self {
        let way = Self { directory: TempDir::new().unwrap(), task: Mutex::new(None) };
        way.restore();
        way
    }

    /// What `DOCKER_HOST` must be to go this way.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// Cuts it: as if the engine had been stopped.
    pub(crate) async fn cut(&self) {
        let task = self.task.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
            // Only then all its connections are closed.
            let _ = task.await;
        }
        std::fs::remove_file(self.socket()).unwrap();
    }

    pub(crate) fn restore(&self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        *self.task.lock().unwrap() = Some(tokio::spawn(forward(listener, socket())));
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap().take() {
            task.abort();
        }
    }
}

async fn forward(listener: UnixListener, engine: impl AsRef<Path>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else { return };
        let Ok(mut engine) = UnixStream::connect(engine.as_ref()).await else { continue };
        connections.spawn(async move { copy_bidirectional(&mut client, &mut engine).await });
    }
}
