//! One HTTP connection: bounded in time and in number, and ended gently.

use std::{future::pending, io, pin::pin, time::Duration};

use axum::{Router, body::Body, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::debug;

use super::{impatient::Impatient, listener::Connection, peer::Peer};

/// How long a client has for the head of a request, and between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 64 << 10;

/// How long an answer may still take once its client sends nothing more. The HTTP library sees that
/// by itself, and at once, unless there is something left to read.
const FAREWELL: Duration = Duration::from_secs(1);

/// Answers the requests of one connection until it ends; asked to close, it answers the one that it
/// is at.
pub(super) async fn serve(
    connection: Connection,
    peer: Peer,
    router: Router,
    closing: CancellationToken,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        let router = router.clone();
        async move { router.oneshot(request).await }
    });
    let gone = gone(connection.again());
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(Impatient::new(connection)), service);
    let mut served = pin!(served);
    let answered = async {
        tokio::select! {
            result = served.as_mut() => result,
            () = closing.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    };
    tokio::select! {
        result = answered => if let Err(error) = result {
            debug!(%error, "connection ended early");
        },
        () = gone => debug!("the client has gone"),
    }
}

/// Waits until a client has gone that has sent more than the request that is answered.
async fn gone(connection: io::Result<Connection>) {
    let closed = async { connection?.closed().await };
    match closed.await {
        Ok(()) => sleep(FAREWELL).await,
        // Without a second descriptor the HTTP library has to see it by itself.
        Err(_) => pending().await,
    }
}
