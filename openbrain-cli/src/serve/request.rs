//! What is told of every request: an id, for the caller and for the log, and how it went.

use axum::{Router, extract::Request, middleware::Next, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tracing::{Instrument, info, info_span};

/// By this a request is known to its caller, to us and to whoever passed it on.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The same, of a whole trace: <https://www.w3.org/TR/trace-context/>.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The longest id that is taken from a caller.
const LONGEST_ID: usize = 64;

/// Gives every request of a router an id and a line in the log.
pub(super) fn traced(router: Router) -> Router {
    router.layer(axum::middleware::from_fn(trace))
}

async fn trace(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let span = info_span!(
        "request",
        request_id = id,
        method = %request.method(),
        path = request.uri().path(),
        trace_id = trace_id(request.headers()),
    );
    #[cfg(feature = "otlp")]
    super::otlp::join_trace(&span, request.headers());
    async {
        let began = Instant::now();
        let mut response = next.run(request).await;
        let duration_ms = began.elapsed().as_millis() as u64;
        info!(status = response.status().as_u16(), duration_ms, "request answered");
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }
    .instrument(span)
    .await
}

/// The id that the caller gave the request, if it is a decent one, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_decent = |id: &&str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(known)
    };
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    given.filter(is_decent).map_or_else(new_id, str::to_owned)
}

fn new_id() -> String {
    let mut bytes = [0u8; 16];
    // The id only helps a reader; without random bytes it helps a little less.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    format!("{:032x}", u128::from_ne_bytes(bytes))
}

/// The trace that the request is part of: the second field of `version-trace-parent-flags`.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(TRACEPARENT)?.to_str().ok()?.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{REQUEST_ID, TRACEPARENT, request_id, trace_id};

    #[test]
    fn a_decent_id_of_the_caller_is_kept() {
        let of = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(id).unwrap());
            request_id(&headers)
        };
        assert_eq!(of("a-b_c.1"), "a-b_c.1");
        for id in ["", "a b", "a\"", &"x".repeat(65)] {
            assert_eq!(of(id).len(), 32, "{id}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn a_trace_is_recognised() {
        let mut headers = HeaderMap::new();
        let id = "0af7651916cd43dd8448eb211c80319c";
        let parent = format!("00-{id}-b7ad6b7169203331-01");
        headers.insert(TRACEPARENT, HeaderValue::from_str(&parent).unwrap());
        assert_eq!(trace_id(&headers), Some(id));
        headers.insert(TRACEPARENT, HeaderValue::from_static("00-short-x-01"));
        assert_eq!(trace_id(&headers), None);
    }
}
