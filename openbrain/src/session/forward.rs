//! A port of the host that leads to one of a sandbox.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use super::{Reference, Sandbox};
use crate::error::{Error, ErrorKind, Result};

/// How many connections are relayed at a time; further ones wait. A sandbox starts 64 commands at a
/// time, of which each connection is one: some are left for others.
const MOST: usize = 32;

/// How long nothing is accepted when the system has nothing left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// A port of this host that leads to one of a sandbox, made by [`Sandbox::forward`]. Dropping it
/// closes the port and its connections.
#[derive(Debug)]
pub struct Forward {
    local: SocketAddr,
    serving: JoinHandle<Error>,
}

impl Sandbox {
    /// Makes a port of the sandbox reachable at `127.0.0.1` of this host, on a port that the system
    /// chooses.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// use openbrain::{Exec, Sandbox};
    ///
    /// let sandbox = Sandbox::builder().create().await?;
    /// let server = sandbox.spawn(Exec::new("python3 -m http.server 8000")).await?;
    /// let forward = sandbox.forward(8000).await?;
    /// println!("http://{}/", forward.local_addr());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Sandbox::forward_to`].
    pub async fn forward(&self, port: u16) -> Result<Forward> {
        self.forward_to(port, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Makes a port of the sandbox reachable at a loopback address of this host; port 0 is one that
    /// the system chooses.
    ///
    /// Every user of this host can connect there, and nobody else: other sandboxes reach it only where
    /// `allowed_hosts` lists it. Up to 32 connections are relayed at a time, others wait. One that is
    /// refused in the sandbox is closed.
    ///
    /// # Errors
    ///
    /// `invalid_request` for an address that is not the loopback address; `connection_failed` when it
    /// cannot be listened on.
    pub async fn forward_to(&self, port: u16, local: SocketAddr) -> Result<Forward> {
        if !local.ip().to_canonical().is_loopback() {
            return Err(Error::invalid(format!("`{local}` is not a loopback address"))
                .with_remedy("forward to 127.0.0.1, and let a server of yours relay from there"));
        }
        let cannot = |error: io::Error| {
            let what = format!("cannot listen on `{local}`");
            let error = Error::new(ErrorKind::ConnectionFailed, what).with_source(error);
            error.with_remedy("choose another port, or 0 for one that is free")
        };
        let listener = TcpListener::bind(local).await.map_err(cannot)?;
        let local = listener.local_addr().map_err(cannot)?;
        let serving = tokio::spawn(serve(listener, self.reference(), port));
        Ok(Forward { local, serving })
    }
}

impl Forward {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits until it has ended by itself, and tells why: `sandbox_lost` when the sandbox has ended,
    /// which the next connection notices.
    pub async fn ended(&mut self) -> Error {
        (&mut self.serving).await.unwrap_or_else(|_| {
            Error::new(ErrorKind::ConnectionFailed, "the port is not relayed any more")
                .with_remedy("keep the tokio runtime alive in which it was forwarded")
        })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Relays connections until the sandbox has ended.
async fn serve(listener: TcpListener, sandbox: Reference, port: u16) -> Error {
    let places = Arc::new(Semaphore::new(MOST));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let place = Arc::clone(&places).acquire_owned().await.ok();
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => match ended {
                Ok(Err(error)) => return error,
                _ => continue,
            },
        };
        // What was accepted may have gone already; a lack of descriptors ends with a connection,
        // whosever that is.
        let Ok((stream, _)) = accepted else {
            sleep(EXHAUSTED).await;
            continue;
        };
        let sandbox = sandbox.clone();
        connections.spawn(async move {
            let relayed = relay(stream, &sandbox, port).await;
            drop(place);
            relayed
        });
    }
}

/// Relays one connection; fails when the sandbox has ended.
async fn relay(mut outside: TcpStream, sandbox: &Reference, port: u16) -> Result<()> {
    // Small answers are passed on as they come.
    let _ = outside.set_nodelay(true);
    let connect = async { sandbox.sandbox()?.connect(port).await };
    match connect.await {
        Ok(mut inside) => {
            // One side has gone: so does the other.
            let _ = copy_bidirectional(&mut outside, &mut inside).await;
            Ok(())
        }
        Err(error) => {
            // Closed without an end, so that whoever connected does not take it for an empty answer.
            let _ = outside.set_zero_linger();
            if error.kind() == ErrorKind::SandboxLost { Err(error) } else { Ok(()) }
        }
    }
}
