//! `/v1/sandboxes/{id}/files/tar`: trees of a sandbox that is open, as tar archives that are made and
//! unpacked on their way.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    response::Response,
};
use futures_util::stream::{Stream, StreamExt, TryStreamExt, iter, unfold};
use http::StatusCode;
use openbrain::{Error, Transfer};
use schemars::JsonSchema;
use serde::Serialize;
use tokio_util::io::{ReaderStream, StreamReader};

use super::{
    body,
    files::PathQuery,
    problem::{Code, Problem, Result},
    state::{App, NamedSandbox, Query},
    view::{download, json},
};

/// The content type of an archive.
pub(super) const TAR: &str = "application/x-tar";

/// The longest piece of an archive.
const PIECE: usize = 64 << 10;

/// How many of those that were left out are told.
const MOST_SKIPPED: usize = 100;

/// What was unpacked.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Unpacked {
    /// How many files, directories and links.
    entries: u64,
    /// Bytes of the contents of files.
    bytes: u64,
    /// What is none of these, and was left out; the first 100.
    skipped: Vec<String>,
}

/// Gives everything below a directory.
pub(super) async fn pack(
    State(app): State<App>,
    NamedSandbox(open): NamedSandbox,
    Query(query): Query<PathQuery>,
) -> Result<Response> {
    let place = app.service.enter().await?;
    let archive = open.sandbox().files().download_tar(query.path()).await?;
    let mut pieces = ReaderStream::with_capacity(archive, PIECE);
    // What cannot be begun is a problem; what breaks later is an answer that breaks off.
    let first = pieces.try_next().await.map_err(|error| problem(&error))?;
    Ok(download(TAR, iter(first.map(Ok)).chain(pieces), place))
}

fn problem(error: &io::Error) -> Problem {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(error) => Problem::from(error),
        None => Problem::new(Code::FileFailed, error.to_string()),
    }
}

/// Unpacks the body below a directory.
pub(super) async fn unpack(
    State(app): State<App>,
    NamedSandbox(open): NamedSandbox,
    Query(query): Query<PathQuery>,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    body::check_encoding(&parts.headers)?;
    let _place = app.service.enter().await?;
    let trouble = Arc::default();
    let archive = StreamReader::new(Box::pin(pieces(body, Arc::clone(&trouble))));
    let unpacked = open.sandbox().files().upload_tar(query.path(), archive).await;
    // What is wrong with the body says more than that the archive cannot be read.
    if let Some(problem) = trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(problem);
    }
    let Transfer { entries, bytes, skipped, .. } = unpacked?;
    let skipped = skipped.iter().take(MOST_SKIPPED);
    let skipped = skipped.map(|path| path.to_string_lossy().into_owned()).collect();
    Ok(json(StatusCode::OK, &Unpacked { entries, bytes, skipped }))
}

/// The pieces of a body; what is wrong with it is left where it is looked for.
fn pieces(
    body: Body,
    trouble: Arc<Mutex<Option<Problem>>>,
) -> impl Stream<Item = io::Result<Bytes>> {
    unfold((body, trouble), async |(mut body, trouble)| {
        let piece = match body::next(&mut body).await {
            Ok(piece) => Ok(piece?),
            Err(problem) => {
                *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        };
        Some((piece, (body, trouble)))
    })
}
