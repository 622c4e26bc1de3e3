//! `/v1/execs`: commands that go on without their request.

use std::time::{Duration, SystemTime};

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, StatusCode, header};
use openbrain::Caller;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    accept::{self, Wanted},
    exec::EXEC_ID,
    idempotency, long,
    problem::{Problem, Result},
    sandboxes::Within,
    state::{App, Asker, Named, Query},
    stream::{self, Source, Writing},
    view::{BYTES, List, Summary, insert, json, standing},
};
use crate::service::{Kept, Stream};

/// The longest time that an answer is held back for `Prefer: wait`.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// How many commands a page of the list has.
const PAGE: usize = 50;
const LONGEST_PAGE: usize = 500;

/// How many bytes of a stream an answer has.
const PIECE: usize = 1 << 20;
const LONGEST_PIECE: usize = 16 << 20;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const OFFSET: HeaderName = HeaderName::from_static("openbrain-offset");
const NEXT_OFFSET: HeaderName = HeaderName::from_static("openbrain-next-offset");
const TOTAL: HeaderName = HeaderName::from_static("openbrain-total");
const ENDED: HeaderName = HeaderName::from_static("openbrain-ended");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Which part of a list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PageQuery {
    /// How many commands, 1 to 500. Default: 50.
    #[schemars(range(min = 1, max = 500))]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Which records of a command.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Only records with a higher number. Default: 0, all of them.
    after: Option<u64>,
}

/// Which bytes of a stream.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StreamQuery {
    /// The first byte. Default: 0.
    offset: Option<u64>,
    /// Most bytes, 1 to 16777216. Default: 1048576.
    #[schemars(range(min = 1, max = 16_777_216))]
    limit: Option<usize>,
}

/// Starts a command where the settings say.
pub(super) async fn create(
    State(app): State<App>,
    Asker(caller): Asker,
    request: Request,
) -> Result<Response> {
    answer(app, caller, None, request).await
}

/// Starts a command and answers with how it stands.
pub(super) async fn answer(
    app: App,
    caller: Caller,
    within: Within,
    request: Request,
) -> Result<Response> {
    let wait = accept::wait(request.headers()).map(|wait| wait.min(LONGEST_WAIT));
    let key = idempotency::key(request.headers())?;
    let (exec, body) = app.exec(request).await?;
    let kept = match key {
        None => app.service.keep(exec, caller, within.as_deref()).await?,
        Some(key) => idempotency::keep(app.clone(), key, exec, caller, within).await?,
    };
    drop(body);
    let ended = timeout(wait.unwrap_or_default(), kept.ended()).await.is_ok();
    let status = match wait {
        Some(_) if ended => StatusCode::OK,
        _ => StatusCode::ACCEPTED,
    };
    let mut response = standing(&app.answers, status, &kept).await?;
    let headers = response.headers_mut();
    insert(headers, EXEC_ID, kept.exec_id());
    insert(headers, header::LOCATION, &format!("/v1/execs/{}", kept.exec_id()));
    if let Some(wait) = wait {
        insert(headers, PREFERENCE_APPLIED, &format!("wait={}", wait.as_secs()));
    }
    Ok(response)
}

/// Lists the commands of a caller, the newest first.
pub(super) async fn list(
    State(app): State<App>,
    Asker(caller): Asker,
    Query(query): Query<PageQuery>,
) -> Result<Response> {
    let limit = within("limit", query.limit, PAGE, LONGEST_PAGE)?;
    let after = query.after.as_deref().map(Place::parse).transpose()?;
    let mut all: Vec<_> =
        app.service.list(&caller).into_iter().map(|k| (Place::of(&k), k)).collect();
    all.sort_by(|a, b| b.0.cmp(&a.0));
    let mut rest =
        all.into_iter().filter(|(place, _)| after.as_ref().is_none_or(|after| place < after));
    let page: Vec<_> = rest.by_ref().take(limit).collect();
    let next = match (page.last(), rest.next()) {
        (Some((place, _)), Some(_)) => Some(place.to_string()),
        _ => None,
    };
    let execs = page.iter().map(|(_, kept)| Summary::of(kept)).collect();
    Ok(json(StatusCode::OK, &List { execs, next }))
}

/// Tells of one command.
pub(super) async fn get(State(app): State<App>, Named(kept): Named) -> Result<Response> {
    standing(&app.answers, StatusCode::OK, &kept).await
}

/// Tells what happens to a command, from the beginning or from a record on.
pub(super) async fn events(
    State(app): State<App>,
    Named(kept): Named,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let after = last_event(&headers)?.or(query.after).unwrap_or_default();
    let writing = match accept::wanted(&headers, Wanted::Events) {
        Wanted::Lines => Writing::Lines,
        Wanted::Events | Wanted::Json => Writing::Events,
    };
    let over = kept.progress().ended;
    let mut source = Source::kept(kept, after);
    // A browser asks again when a stream ends, unless it is told that there is nothing more.
    let first = if over { source.next().await } else { None };
    if over && first.is_none() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(stream::response(first, source, writing, &app.answers))
}

/// What a client has seen before it lost the connection. It wins over the URL, which is the one of
/// the first time.
fn last_event(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(id) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let number = id.to_str().ok().and_then(|id| id.parse().ok());
    number.map(Some).ok_or_else(|| Problem::invalid("the `Last-Event-ID` is none of this stream"))
}

pub(super) async fn stdout(
    State(app): State<App>,
    Named(kept): Named,
    Query(query): Query<StreamQuery>,
) -> Result<Response> {
    bytes(&app, &kept, Stream::Stdout, query).await
}

pub(super) async fn stderr(
    State(app): State<App>,
    Named(kept): Named,
    Query(query): Query<StreamQuery>,
) -> Result<Response> {
    bytes(&app, &kept, Stream::Stderr, query).await
}

/// Gives bytes of a stream as they are. The headers say which, because the stream still grows.
async fn bytes(app: &App, kept: &Kept, stream: Stream, query: StreamQuery) -> Result<Response> {
    let limit = within("limit", query.limit, PIECE, LONGEST_PIECE)?;
    let (offset, so_far) = (query.offset.unwrap_or_default(), kept.progress());
    let total = if stream == Stream::Stdout { so_far.stdout } else { so_far.stderr };
    let place = app.answers.place(total.saturating_sub(offset).min(limit as u64)).await?;
    let slice = kept.read(stream, offset, limit);
    let mut response = Response::new(long::body(slice.bytes, place));
    let headers = response.headers_mut();
    insert(headers, header::CONTENT_TYPE, BYTES);
    insert(headers, OFFSET, &slice.offset.to_string());
    insert(headers, NEXT_OFFSET, &slice.next_offset.to_string());
    insert(headers, TOTAL, &slice.total.to_string());
    insert(headers, ENDED, &slice.ended.to_string());
    Ok(response)
}

/// A number of the query, when it is one that is given.
pub(super) fn within(name: &str, value: Option<usize>, usual: usize, most: usize) -> Result<usize> {
    match value.unwrap_or(usual) {
        value if (1..=most).contains(&value) => Ok(value),
        _ => Err(Problem::invalid(format!("`{name}` is not between 1 and {most}"))),
    }
}

/// The place of a command in the list. It stays where it is when the command is forgotten.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    nanoseconds: u128,
    exec_id: String,
}

impl Place {
    fn of(kept: &Kept) -> Self {
        let since = kept.started_at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { nanoseconds: since.as_nanos(), exec_id: kept.exec_id().to_owned() }
    }

    fn parse(text: &str) -> Result<Self> {
        let place = text.split_once('-').and_then(|(nanoseconds, exec_id)| {
            let nanoseconds = u128::from_str_radix(nanoseconds, 16).ok()?;
            Some(Self { nanoseconds, exec_id: exec_id.to_owned() })
        });
        place.ok_or_else(|| Problem::invalid("`after` is not the `next` of a page"))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{}", self.nanoseconds, self.exec_id)
    }
}
