//! `/v1/sandboxes/{id}/files`: the files of a sandbox that is open. Contents go both ways as they come:
//! whoever is slower slows the other.

use axum::{
    body::Bytes,
    extract::{Request, State},
    response::Response,
};
use futures_util::stream::try_unfold;
use http::StatusCode;
use openbrain::{Error, WriteOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    body,
    execs::within,
    problem::{Problem, Result},
    state::{App, NamedSandbox, Query},
    view::{BYTES, download, json, json_holding},
};
use crate::file_view::FileView;

/// How many entries an answer has.
const ENTRIES: usize = 1000;
const MOST_ENTRIES: usize = 10_000;

/// Which file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PathQuery {
    /// The file; a relative path starts in the sandbox's working directory.
    path: String,
}

impl PathQuery {
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// Which part of which file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadQuery {
    /// The file; a relative path starts in the sandbox's working directory.
    path: String,
    /// The first byte. Default: 0.
    offset: Option<u64>,
    /// Most bytes. Default: all.
    limit: Option<u64>,
}

/// How which file is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteQuery {
    /// The file; a relative path starts in the sandbox's working directory.
    path: String,
    /// Whether the body is added to the file, instead of taking its place. Default: false.
    #[serde(default)]
    append: bool,
    /// Permissions in octal digits. Default: those that it has; of a new file 644.
    #[schemars(regex(pattern = "^[0-7]{1,4}$"))]
    mode: Option<String>,
}

/// What is removed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    /// The file; a relative path starts in the sandbox's working directory.
    path: String,
    /// Whether a directory is removed with everything in it. Default: false.
    #[serde(default)]
    recursive: bool,
}

/// What is moved.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RenameQuery {
    /// The file; a relative path starts in the sandbox's working directory.
    from: String,
    /// What it is to be called; what has that name is replaced.
    to: String,
}

/// Which files are listed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// The directory; a relative path starts in the sandbox's working directory.
    path: String,
    /// Instead of the entries of the directory, everything below it whose name matches: `*` is any
    /// text, `?` one byte.
    pattern: Option<String>,
    /// Most entries, 1 to 10000. Default: 1000.
    #[schemars(range(min = 1, max = 10_000))]
    limit: Option<usize>,
}

/// Files of a sandbox, by path.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct FileList {
    /// The files.
    files: Vec<FileView>,
    /// Whether there are more.
    truncated: bool,
}

/// Gives the content of a file.
pub(super) async fn read(
    State(app): State<App>,
    NamedSandbox(open): NamedSandbox,
    Query(query): Query<ReadQuery>,
) -> Result<Response> {
    let ReadQuery { path, offset, limit } = query;
    let place = app.service.enter().await?;
    let reader = open.sandbox().files().reader(&path, offset.unwrap_or_default()).await?;
    let pieces = try_unfold((reader, limit.unwrap_or(u64::MAX)), async |(mut reader, left)| {
        if left == 0 {
            return Ok(None);
        }
        let Some(mut piece) = reader.next().await? else { return Ok::<_, Error>(None) };
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - piece.len() as u64;
        Ok(Some((Bytes::from(piece), (reader, left))))
    });
    Ok(download(BYTES, pieces, place))
}

/// Writes a file as the body comes.
pub(super) async fn write(
    State(app): State<App>,
    NamedSandbox(open): NamedSandbox,
    Query(query): Query<WriteQuery>,
    request: Request,
) -> Result<StatusCode> {
    let WriteQuery { path, append, mode } = query;
    let mode = mode.as_deref().map(octal).transpose()?;
    let (parts, mut body) = request.into_parts();
    body::check_encoding(&parts.headers)?;
    let _place = app.service.enter().await?;
    let options = WriteOptions { append, mode };
    let mut writer = open.sandbox().files().writer(&path, options).await?;
    while let Some(piece) = body::next(&mut body).await? {
        writer.write(&piece).await?;
    }
    writer.finish().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn octal(digits: &str) -> Result<u32> {
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.filter(|_| !digits.starts_with('+')).ok_or_else(|| {
        Problem::invalid("`mode` is not a number of up to four octal digits, such as 755")
    })
}

/// Removes a file or a directory.
pub(super) async fn remove(
    State(app): State<App>,
    NamedSandbox(open): NamedSandbox,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode> {
    let _place = app.service.enter().await?;
    let files = open.sandbox().files();
    match query.recursive {
        true => files.remove_all(&query.path).await?,
        false => files.remove(&query.path).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Tells what is known of a file.
pub(super) async fn stat(
    State(app): State<App>,
    NamedSandbox(open): NamedSandbox,
    Query(query): Query<PathQuery>,
) -> Result<Response> {
    let _place = app.service.enter().await?;
    let entry = open.sandbox().files().stat(&query.path).await?;
    Ok(json(StatusCode::OK, &FileView::of(&entry)))
}

/// Lists a directory, or what matches below it.
pub(super) async fn list(
    State(app): State<App>,
    NamedSandbox(open): NamedSandbox,
    Query(query): Query<ListQuery>,
) -> Result<Response> {
    let limit = within("limit", query.limit, ENTRIES, MOST_ENTRIES)?;
    let place = app.service.enter().await?;
    let found = open.sandbox().files().find(&query.path, query.pattern.as_deref(), limit).await?;
    let files = found.entries.iter().map(FileView::of).collect();
    Ok(json_holding(StatusCode::OK, &FileList { files, truncated: found.truncated }, place))
}

/// Makes a directory and those above it.
pub(super) async fn mkdir(
    State(app): State<App>,
    NamedSandbox(open): NamedSandbox,
    Query(query): Query<PathQuery>,
) -> Result<StatusCode> {
    let _place = app.service.enter().await?;
    open.sandbox().files().mkdir(&query.path).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a file another name.
pub(super) async fn rename(
    State(app): State<App>,
    NamedSandbox(open): NamedSandbox,
    Query(query): Query<RenameQuery>,
) -> Result<StatusCode> {
    let _place = app.service.enter().await?;
    open.sandbox().files().rename(&query.from, &query.to).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::octal;

    #[test]
    fn permissions_are_octal() {
        assert_eq!(octal("755").unwrap(), 0o755);
        assert_eq!(octal("07777").unwrap(), 0o7777);
        for wrong in ["", "8", "10000", "-1", "+7", "rwx", " 7"] {
            assert!(octal(wrong).is_err(), "{wrong}");
        }
    }
}
