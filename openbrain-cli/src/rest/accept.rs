//! What a client wants, by its headers: `Accept`, `Prefer`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};

pub(super) const JSON: &str = "application/json";
pub(super) const EVENT_STREAM: &str = "text/event-stream";
pub(super) const NDJSON: &str = "application/x-ndjson";

/// How a client wants to be told of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The result, at the end.
    Json,
    /// Server-sent events.
    Events,
    /// A JSON record in each line.
    Lines,
}

/// The form that a client likes most (RFC 9110, section 12.5.1), of several the first; `usual` for
/// one that says nothing of ours.
pub(super) fn wanted(headers: &HeaderMap, usual: Wanted) -> Wanted {
    let texts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut best = (usual, 0.0);
    for range in texts.flat_map(|text| text.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            JSON => Wanted::Json,
            EVENT_STREAM => Wanted::Events,
            NDJSON => Wanted::Lines,
            "*/*" | "application/*" => usual,
            _ => continue,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        if quality > best.1 {
            best = (form, quality);
        }
    }
    best.0
}

/// How long a client wants to wait for the end (`Prefer: wait=SECONDS`, RFC 7240, section 4.3). What
/// cannot be read is no preference.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    static PREFER: HeaderName = HeaderName::from_static("prefer");
    let texts = headers.get_all(&PREFER).iter().filter_map(|value| value.to_str().ok());
    let seconds = texts.flat_map(|text| text.split([',', ';'])).find_map(|preference| {
        match preference.split_once('=') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("wait") => {
                value.trim().trim_matches('"').parse().ok()
            }
            _ => None,
        }
    })?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::{HeaderMap, Wanted, wait, wanted};

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let name = http::HeaderName::from_static(name);
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_form_is_what_the_client_likes_most() {
        for (accept, expected) in [
            (&[][..], Wanted::Json),
            (&["*/*"], Wanted::Json),
            (&["text/html"], Wanted::Json),
            (&["text/event-stream"], Wanted::Events),
            (&["Text/Event-Stream; charset=utf-8"], Wanted::Events),
            (&["application/x-ndjson, */*;q=0.1"], Wanted::Lines),
            (&["application/json;q=0.5, text/event-stream"], Wanted::Events),
            (&["application/json, text/event-stream"], Wanted::Json),
            (&["text/event-stream;q=0, */*;q=0.1"], Wanted::Json),
            (&["application/x-ndjson;q=oops"], Wanted::Lines),
            (&["text/html", "application/x-ndjson"], Wanted::Lines),
        ] {
            assert_eq!(wanted(&headers("accept", accept), Wanted::Json), expected, "{accept:?}");
        }
    }

    #[test]
    fn the_wait_is_in_seconds() {
        let seconds = |values: &[&str]| wait(&headers("prefer", values)).map(|wait| wait.as_secs());
        assert_eq!(seconds(&["wait=10"]), Some(10));
        assert_eq!(seconds(&["respond-async, Wait = 3"]), Some(3));
        assert_eq!(seconds(&["respond-async", "wait=4"]), Some(4));
        for nothing in ["", "wait", "wait=", "wait=-1", "wait=1.5", "waiting=3"] {
            assert_eq!(seconds(&[nothing]), None, "{nothing}");
        }
    }
}
