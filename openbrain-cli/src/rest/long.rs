//! Answers that are in memory as a whole and may be long: only so many at a time, until their clients
//! have taken them.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::problem::{Code, Problem, Result};

/// Longer ones than this are given a few at a time.
const SHORT: u64 = 64 << 10;
const AT_ONCE: usize = 4;

/// How long a long answer waits for another one to be taken.
const WAIT: Duration = Duration::from_secs(10);

/// How much is handed to the connection at a time. It asks for more when it has room for it.
const PIECE: usize = 64 << 10;

/// Where long answers have their places.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

/// A body that holds something until the connection has taken the last piece of it.
struct Held<T> {
    left: Bytes,
    _held: T,
}

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Room {
    /// A place for a part of an answer, if it needs one, whenever there is one: those who have one must
    /// take their answers in time.
    pub(super) async fn turn(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        // Nobody closes the semaphore.
        if bytes <= SHORT { None } else { Arc::clone(&self.0).acquire_owned().await.ok() }
    }

    /// A place for an answer of about so many bytes, if it needs one.
    pub(super) async fn place(&self, bytes: u64) -> Result<Option<OwnedSemaphorePermit>> {
        if bytes <= SHORT {
            return Ok(None);
        }
        match timeout(WAIT, Arc::clone(&self.0).acquire_owned()).await {
            Ok(Ok(place)) => Ok(Some(place)),
            Ok(Err(_)) | Err(_) => Err(Problem::new(
                Code::Busy,
                format!("{AT_ONCE} long answers are on their way to slow clients"),
            )
            .remedy("try again later")),
        }
    }
}

/// The body of an answer that holds something until it is sent.
pub(super) fn body<T: Send + Unpin + 'static>(bytes: impl Into<Bytes>, held: T) -> Body {
    Body::new(Held { left: bytes.into(), _held: held })
}

impl<T: Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.left.len().min(PIECE);
        let piece = self.left.split_to(length);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::{AT_ONCE, Code, PIECE, Room, SHORT, body};

    #[tokio::test]
    async fn a_body_holds_on_until_its_last_piece_was_taken() {
        let (held, mut let_go) = tokio::sync::oneshot::channel::<()>();
        let mut body = body(vec![7; 2 * PIECE + 1], held);
        for length in [PIECE, PIECE, 1] {
            let_go.try_recv().unwrap_err();
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap().len(), length);
        }
        assert!(body.frame().await.is_none());
        drop(body);
        let_go.await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_long_answers_are_in_memory() {
        let room = Room::default();
        let mut places = Vec::new();
        for _ in 0..AT_ONCE {
            places.push(room.place(SHORT + 1).await.unwrap());
        }
        assert!(room.place(SHORT).await.unwrap().is_none());
        assert_eq!(room.place(SHORT + 1).await.unwrap_err().code(), Code::Busy);
        places.pop();
        room.place(SHORT + 1).await.unwrap();
    }
}
