//! The body of a request: read within limits of size, time and memory, whatever its content type.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::problem::{Code, Problem, Result};

/// How long a body may pause, and how long all of it may take.
const PAUSE: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(300);

/// Bodies longer than this are read a few at a time.
const SHORT: usize = 64 << 10;
const LONG_ONES: usize = 4;

/// How long a long body waits for another one to be done with.
const WAIT: Duration = Duration::from_secs(10);

/// Reads bodies.
#[derive(Debug)]
pub(crate) struct Reader {
    most: u64,
    long_ones: Arc<Semaphore>,
}

/// A body, and its place among the long ones, to be kept as long as its content is in memory.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    pub(crate) place: Option<OwnedSemaphorePermit>,
}

impl Reader {
    /// Bodies of at most so many bytes.
    pub(crate) fn new(most: u64) -> Self {
        Self { most, long_ones: Arc::new(Semaphore::new(LONG_ONES)) }
    }

    /// Reads all of a body.
    pub(crate) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Read> {
        check_encoding(headers)?;
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: u64| length > self.most) {
            return Err(self.too_large());
        }
        let deadline = Instant::now() + WHOLE;
        timeout_at(deadline, self.collect(body)).await.unwrap_or_else(|_| Err(too_slow(WHOLE)))
    }

    async fn collect(&self, mut body: Body) -> Result<Read> {
        let mut bytes = Vec::new();
        let mut place = None;
        while let Some(data) = next(&mut body).await? {
            if (bytes.len() + data.len()) as u64 > self.most {
                return Err(self.too_large());
            }
            if place.is_none() && bytes.len() + data.len() > SHORT {
                place = Some(self.place().await?);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Read { bytes: bytes.into(), place })
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.long_ones).acquire_owned();
        match timeout(WAIT, place).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(Problem::new(
                Code::Busy,
                format!("more than {LONG_ONES} long bodies are coming in"),
            )
            .remedy("try again later")),
        }
    }

    fn too_large(&self) -> Problem {
        Problem::new(Code::BodyTooLarge, format!("the body is longer than {} bytes", self.most))
            .remedy(
                "the key is `server.max_body`; long input goes to `/v1/execs/{id}/stdin` in parts",
            )
    }
}

/// The next bytes of a body. One that sends nothing, or nothing but empty pieces, has had its time.
pub(super) async fn next(body: &mut Body) -> Result<Option<Bytes>> {
    let piece = async {
        loop {
            match body.frame().await {
                None => return Ok(None),
                Some(Err(_)) => {
                    return Err(Problem::malformed("the body is broken off or garbled"));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    // Trailers, and pieces without content.
                    Ok(_) | Err(_) => {}
                },
            }
        }
    };
    timeout(PAUSE, piece).await.unwrap_or_else(|_| Err(too_slow(PAUSE)))
}

fn too_slow(limit: Duration) -> Problem {
    let seconds = limit.as_secs();
    Problem::new(Code::RequestTimeout, format!("the body did not go on for {seconds} seconds"))
}

/// Refuses a body that would have to be decoded first.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<()> {
    let plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().all(plain) {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedEncoding, "the body is compressed")
        .remedy("send it as it is"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};

    use super::{Body, Bytes, Code, Duration, HeaderMap, Instant, Reader};

    async fn read(most: u64, body: Body) -> Result<Bytes, Code> {
        let read = Reader::new(most).read(&HeaderMap::new(), body).await;
        read.map(|read| read.bytes).map_err(|problem| problem.code())
    }

    fn pieces(
        pieces: Vec<&'static str>,
    ) -> stream::Iter<std::vec::IntoIter<Result<&'static str, Infallible>>> {
        stream::iter(pieces.into_iter().map(Ok).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit() {
        let body = || Body::from_stream(pieces(vec!["ab", "", "cd"]));
        assert_eq!(read(4, body()).await.unwrap(), "abcd");
        assert_eq!(read(3, body()).await, Err(Code::BodyTooLarge));
    }

    #[tokio::test]
    async fn an_announced_length_is_refused_without_reading() {
        let headers = [(http::header::CONTENT_LENGTH, "5".parse().unwrap())].into_iter().collect();
        let silent = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let problem = Reader::new(4).read(&headers, silent).await.unwrap_err();
        assert_eq!(problem.code(), Code::BodyTooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_pauses_is_given_up() {
        let begun = Instant::now();
        let silent = pieces(vec!["{"]).chain(stream::pending());
        assert_eq!(read(9, Body::from_stream(silent)).await, Err(Code::RequestTimeout));
        assert_eq!(begun.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_given_up() {
        let begun = Instant::now();
        let trickle = stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            Ok::<_, Infallible>("x")
        });
        assert_eq!(read(9999, Body::from_stream(trickle)).await, Err(Code::RequestTimeout));
        assert_eq!(begun.elapsed().as_secs(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_long_bodies_are_held() {
        let reader = Reader::new(1 << 20);
        let long = || Body::from(vec![b'x'; 100_000]);
        let headers = HeaderMap::new();
        let mut held = Vec::new();
        for _ in 0..super::LONG_ONES {
            held.push(reader.read(&headers, long()).await.unwrap());
        }
        assert_eq!(reader.read(&headers, long()).await.unwrap_err().code(), Code::Busy);
        assert_eq!(reader.read(&headers, Body::from("short")).await.unwrap().bytes, "short");
        held.pop();
        reader.read(&headers, long()).await.unwrap();
    }
}
