//! The files of a sandbox, through its agent.

use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use reqwest::{
    Body, Method,
    header::{CONTENT_LENGTH, HeaderValue, RANGE},
    multipart::{Form, Part},
};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio_util::io::{ReaderStream, StreamReader};

use super::{
    agent::Agent,
    failure::Failure,
    http::{Answer, Call},
    wire::{FileInfo, Move, Permission, Replaced, Replacement, UploadMetadata},
};

/// From what size on an upload's arrival is checked: proxies have lost bodies of 18 KB and more
/// without an error.
const CHECKED_FROM: u64 = 16 << 10;

/// A file to be written into a sandbox.
pub struct Upload {
    path: String,
    permission: Permission,
    size: u64,
    source: Source,
}

enum Source {
    Bytes(Bytes),
    Reader(Pin<Box<dyn AsyncRead + Send>>),
}

impl Upload {
    /// A file at the absolute `path` with this content. Missing directories are made.
    pub fn bytes(path: impl Into<String>, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let (path, permission) = (path.into(), Permission::mode(0o644));
        Self { path, permission, size: content.len() as u64, source: Source::Bytes(content) }
    }

    /// A file at the absolute `path` with the next `size` bytes of `reader`, streamed.
    pub fn reader(
        path: impl Into<String>,
        reader: impl AsyncRead + Send + 'static,
        size: u64,
    ) -> Self {
        let source = Source::Reader(Box::pin(reader));
        Self { path: path.into(), permission: Permission::mode(0o644), size, source }
    }

    /// Who it belongs to and its mode; without, it is the agent's own and `0o644`.
    pub fn permission(mut self, permission: Permission) -> Self {
        self.permission = permission;
        self
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("path", &self.path)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// The content of a file on its way out of a sandbox.
pub struct Download {
    size: Option<u64>,
    reader: StreamReader<Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>, Bytes>,
}

impl Download {
    /// How many bytes come, where the agent says so.
    pub fn size(&self) -> Option<u64> {
        self.size
    }
}

impl AsyncRead for Download {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Agent {
    /// Writes files, all in one request. Files of 16 KiB and more are looked at afterwards.
    ///
    /// It may take a second longer than other requests for every MiB.
    ///
    /// # Errors
    ///
    /// When a file could not be written or did not arrive whole; some of the others may be there.
    pub async fn upload(&self, files: Vec<Upload>) -> Result<(), Failure> {
        let mebibytes = files.iter().map(|file| file.size >> 20).sum::<u64>();
        let time = self.target.time + Duration::from_secs(mebibytes);
        let checked: BTreeMap<String, u64> = files
            .iter()
            .filter(|file| file.size >= CHECKED_FROM)
            .map(|file| (file.path.clone(), file.size))
            .collect();
        let form = files.into_iter().fold(Form::new(), |form, file| {
            let (metadata, content) = parts(file);
            form.part("metadata", metadata).part("file", content)
        });
        let call = Call::new("upload files", Method::POST, &["files", "upload"]).time(time);
        let answer = self.http.submit(&self.target, call, form).await?;
        if checked.is_empty() {
            return Ok(());
        }
        let paths: Vec<&str> = checked.keys().map(String::as_str).collect();
        let found = self.info(&paths).await?;
        for (path, size) in &checked {
            let arrived = found.get(path).map(|info| info.size);
            if arrived != Some(*size) {
                let arrived = arrived.unwrap_or(0);
                return Err(
                    answer.surprise(&format!("{arrived} of {size} bytes of `{path}` arrived"))
                );
            }
        }
        Ok(())
    }

    /// Reads a file, or a range of its bytes.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`](super::FailureKind::NotFound) when there is none. A file that is cut
    /// on its way is an error of the reader.
    pub async fn download(
        &self,
        path: &str,
        range: Option<Range<u64>>,
    ) -> Result<Download, Failure> {
        let mut call =
            Call::new("download a file", Method::GET, &["files", "download"]).query("path", path);
        if let Some(range) = range {
            if range.is_empty() {
                let nothing: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(stream::empty());
                return Ok(Download { size: Some(0), reader: StreamReader::new(nothing) });
            }
            let value = format!("bytes={}-{}", range.start, range.end - 1);
            let value = HeaderValue::try_from(value).expect("digits are a header's value");
            call = call.header(RANGE, value);
        }
        let answer = self.http.open(&self.target, call).await?;
        let size = answer.headers().get(CONTENT_LENGTH);
        let size = size.and_then(|size| size.to_str().ok()?.parse().ok());
        Ok(Download { size, reader: StreamReader::new(chunks(answer, self.stall_timeout)) })
    }

    /// What is at each of `paths`.
    ///
    /// # Errors
    ///
    /// When one of them is not there.
    pub async fn info(&self, paths: &[&str]) -> Result<BTreeMap<String, FileInfo>, Failure> {
        let call = with_paths(Call::new("look at files", Method::GET, &["files", "info"]), paths);
        self.http.fetch(&self.target, call).await?.json()
    }

    /// What is in a directory, `depth` levels deep.
    ///
    /// # Errors
    ///
    /// When it is not a directory; a symbolic link is none.
    pub async fn list(&self, path: &str, depth: u32) -> Result<Vec<FileInfo>, Failure> {
        let call = Call::new("list a directory", Method::GET, &["directories", "list"])
            .query("path", path)
            .query("depth", depth);
        self.http.fetch(&self.target, call).await?.json_or_default()
    }

    /// Removes files. One that is not there is no error.
    ///
    /// # Errors
    ///
    /// When one of them is a directory or cannot be removed.
    pub async fn remove(&self, paths: &[&str]) -> Result<(), Failure> {
        let call = with_paths(Call::new("remove files", Method::DELETE, &["files"]), paths);
        self.http.fetch(&self.target, call).await.map(drop)
    }

    /// Removes directories with what is in them. Without `/tmp`, older agents run no command any more.
    ///
    /// # Errors
    ///
    /// When one of them cannot be removed.
    pub async fn remove_directories(&self, paths: &[&str]) -> Result<(), Failure> {
        let call =
            with_paths(Call::new("remove directories", Method::DELETE, &["directories"]), paths);
        self.http.fetch(&self.target, call).await.map(drop)
    }

    /// Makes directories, and those above them.
    ///
    /// # Errors
    ///
    /// When one of them cannot be made.
    #[doc(alias = "mkdir")]
    pub async fn make_directories(
        &self,
        directories: &BTreeMap<String, Permission>,
    ) -> Result<(), Failure> {
        let call = Call::new("make directories", Method::POST, &["directories"]).json(directories);
        self.http.fetch(&self.target, call).await.map(drop)
    }

    /// Gives a file or directory another path. Missing directories are made.
    ///
    /// # Errors
    ///
    /// When something is at `to` already.
    #[doc(alias = "mv")]
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        let call = Call::new("rename a file", Method::POST, &["files", "mv"])
            .json(&[Move { src: from, dest: to }]);
        self.http.fetch(&self.target, call).await.map(drop)
    }

    /// The files below `path` whose name matches `pattern`, such as `*.py`.
    ///
    /// # Errors
    ///
    /// When `path` is not there.
    pub async fn search(&self, path: &str, pattern: &str) -> Result<Vec<FileInfo>, Failure> {
        let call = Call::new("search files", Method::GET, &["files", "search"])
            .query("path", path)
            .query("pattern", pattern);
        self.http.fetch(&self.target, call).await?.json_or_default()
    }

    /// Replaces a text in each of the files, and says how often, where the agent counts.
    ///
    /// # Errors
    ///
    /// When one of them is not there.
    pub async fn replace(
        &self,
        replacements: &BTreeMap<String, Replacement>,
    ) -> Result<BTreeMap<String, u64>, Failure> {
        let call = Call::new("replace text in files", Method::POST, &["files", "replace"])
            .query("verbose", true)
            .json(replacements);
        let answer = self.http.fetch(&self.target, call).await?;
        let counts: BTreeMap<String, Replaced> = answer.json_or_default()?;
        Ok(counts.into_iter().map(|(path, counted)| (path, counted.replaced_count)).collect())
    }

    /// Changes whom files belong to and what may be done with them.
    ///
    /// # Errors
    ///
    /// When one of them is not there or the agent may not.
    #[doc(alias = "chmod")]
    pub async fn set_permissions(
        &self,
        permissions: &BTreeMap<String, Permission>,
    ) -> Result<(), Failure> {
        let call = Call::new("change permissions", Method::POST, &["files", "permissions"])
            .json(permissions);
        self.http.fetch(&self.target, call).await.map(drop)
    }
}

fn with_paths<'a>(call: Call<'a>, paths: &[&str]) -> Call<'a> {
    paths.iter().fold(call, |call, path| call.query("path", path))
}

/// The two parts of a file. The agent takes the first one only if it has a file's name too.
fn parts(file: Upload) -> (Part, Part) {
    let Upload { path, permission, size, source } = file;
    let metadata = UploadMetadata { path: &path, permission: &permission };
    let metadata = serde_json::to_vec(&metadata).expect("metadata is plain data with text keys");
    let content = match source {
        Source::Bytes(bytes) => Part::stream_with_length(bytes, size),
        Source::Reader(reader) => {
            let exact = Exact { reader: reader.take(size), missing: size };
            Part::stream_with_length(Body::wrap_stream(ReaderStream::new(exact)), size)
        }
    };
    (Part::bytes(metadata).file_name("metadata"), content.file_name("file"))
}

/// A reader that fails when it ends early, so that no file is cut without an error.
struct Exact<R> {
    reader: R,
    missing: u64,
}

impl<R: AsyncRead + Unpin> AsyncRead for Exact<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut self.reader).poll_read(context, buffer))?;
        let read = (buffer.filled().len() - before) as u64;
        self.missing -= read;
        match read == 0 && self.missing > 0 {
            true => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            false => Poll::Ready(Ok(())),
        }
    }
}

fn chunks(
    answer: Answer,
    silence: Duration,
) -> Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>> {
    Box::pin(stream::try_unfold(answer, move |mut answer| async move {
        let chunk = answer.chunk(silence).await.map_err(io::Error::other)?;
        Ok(chunk.map(|chunk| (chunk, answer)))
    }))
}

#[cfg(test)]
mod tests;
