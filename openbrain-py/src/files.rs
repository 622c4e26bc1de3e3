//! The files of a sandbox.

use std::{io::Cursor, path::PathBuf, sync::Arc};

use openbrain::{Error, ErrorKind, FileEntry, FileKind, Found, Transfer};
use pyo3::{
    Bound, IntoPyObject, Py, PyAny, PyResult, Python, pyclass, pymethods,
    types::{PyBytes, PyDict, PyDictMethods, PyInt, PyList, PyListMethods, PyString},
};
use tokio::{fs, io};

use crate::{
    convert,
    failure::Failure,
    pending::{Answer, Pending},
    replacement::Replacement,
    sandbox::Sandbox,
    watch::Watch,
};

/// The files of a sandbox.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Files(Py<Sandbox>);

impl Files {
    pub(crate) fn new(sandbox: Py<Sandbox>) -> Self {
        Self(sandbox)
    }

    /// Starts something that is done with this file.
    fn ask<F>(
        &self,
        py: Python<'_>,
        path: PathBuf,
        work: impl FnOnce(Arc<openbrain::Sandbox>, PathBuf) -> F,
    ) -> PyResult<Pending>
    where
        F: Future<Output = openbrain::Result<Answer>> + Send + 'static,
    {
        let work = work(self.0.get().get(py)?, path.clone());
        Pending::ask(
            py,
            async move { work.await.map_err(|error| Failure::File(error, Some(path))) },
        )
    }
}

#[pymethods]
impl Files {
    /// The content of a file, or at most so much of it from an offset on.
    #[pyo3(signature = (path, offset, limit))]
    fn read(
        &self,
        py: Python<'_>,
        path: PathBuf,
        offset: &Bound<'_, PyInt>,
        limit: Option<&Bound<'_, PyInt>>,
    ) -> PyResult<Pending> {
        let offset = convert::number(offset, "an offset")?;
        let limit = limit.map(|limit| convert::number(limit, "a limit")).transpose()?;
        self.ask(py, path, move |sandbox, path| async move {
            let content = match (offset, limit) {
                (0, None) => sandbox.files().read(path).await?,
                (offset, limit) => {
                    part(&sandbox, path, offset, limit.unwrap_or(usize::MAX)).await?
                }
            };
            Ok(Answer::new(move |py| Ok(PyBytes::new(py, &content).into_any().unbind())))
        })
    }

    /// Writes a file, or adds to it.
    fn write(
        &self,
        py: Python<'_>,
        path: PathBuf,
        content: &[u8],
        append: bool,
    ) -> PyResult<Pending> {
        let content = content.to_vec();
        self.ask(py, path, move |sandbox, path| async move {
            let files = sandbox.files();
            match append {
                true => files.append(path, content).await?,
                false => files.write(path, content).await?,
            }
            Ok(Answer::done())
        })
    }

    /// What is known of a file.
    fn stat(&self, py: Python<'_>, path: PathBuf) -> PyResult<Pending> {
        self.ask(py, path, |sandbox, path| async move {
            let found = sandbox.files().stat(path).await?;
            Ok(Answer::new(|py| entry(py, found)))
        })
    }

    /// What is in a directory.
    fn entries(&self, py: Python<'_>, path: PathBuf) -> PyResult<Pending> {
        self.ask(py, path, |sandbox, path| async move {
            let found = sandbox.files().list(path).await?;
            Ok(Answer::new(|py| entries(py, found)))
        })
    }

    /// What is anywhere below a directory and matches a pattern.
    fn search(
        &self,
        py: Python<'_>,
        path: PathBuf,
        pattern: &Bound<'_, PyString>,
    ) -> PyResult<Pending> {
        let pattern = convert::text(pattern)?;
        self.ask(py, path, |sandbox, path| async move {
            let found = sandbox.files().search(path, &pattern).await?;
            Ok(Answer::new(|py| entries(py, found)))
        })
    }

    /// At most so many of them, and whether there are more.
    #[pyo3(signature = (path, pattern, limit))]
    fn find(
        &self,
        py: Python<'_>,
        path: PathBuf,
        pattern: Option<&Bound<'_, PyString>>,
        limit: &Bound<'_, PyInt>,
    ) -> PyResult<Pending> {
        let limit = convert::number(limit, "a limit")?;
        let pattern = pattern.map(convert::text).transpose()?;
        self.ask(py, path, move |sandbox, path| async move {
            let found = sandbox.files().find(path, pattern.as_deref(), limit).await?;
            let Found { entries: found, truncated, .. } = found;
            Ok(Answer::new(move |py| {
                Ok((entries(py, found)?, truncated).into_pyobject(py)?.into_any().unbind())
            }))
        })
    }

    /// Watches a directory.
    fn watch(&self, py: Python<'_>, path: PathBuf) -> PyResult<Pending> {
        self.ask(py, path, |sandbox, path| async move {
            let watch = sandbox.files().watch(path).await?;
            Ok(Answer::object(|_| Ok(Watch::new(watch))))
        })
    }

    /// Makes a directory.
    fn mkdir(&self, py: Python<'_>, path: PathBuf) -> PyResult<Pending> {
        self.ask(py, path, |sandbox, path| async move {
            sandbox.files().mkdir(path).await.map(|()| Answer::done())
        })
    }

    /// Removes a file or an empty directory, or a directory with all that is in it.
    fn remove(&self, py: Python<'_>, path: PathBuf, whole: bool) -> PyResult<Pending> {
        self.ask(py, path, move |sandbox, path| async move {
            let files = sandbox.files();
            match whole {
                true => files.remove_all(path).await?,
                false => files.remove(path).await?,
            }
            Ok(Answer::done())
        })
    }

    /// Renames a file.
    fn rename(&self, py: Python<'_>, old: PathBuf, new: PathBuf) -> PyResult<Pending> {
        self.ask(py, old, |sandbox, old| async move {
            sandbox.files().rename(old, new).await.map(|()| Answer::done())
        })
    }

    /// Copies a tree of the host into the sandbox.
    fn upload(&self, py: Python<'_>, source: PathBuf, target: PathBuf) -> PyResult<Pending> {
        let sandbox = self.0.get().get(py)?;
        Pending::ask(py, async move {
            match sandbox.files().upload(&source, target).await {
                Ok(done) => Ok(Answer::new(|py| transfer(py, done))),
                // The error may be about either side: it is the source when that cannot be had at all.
                Err(error) if error.kind() == ErrorKind::FileFailed => {
                    let is_there = fs::symlink_metadata(&source).await.is_ok();
                    Err(Failure::File(error, (!is_there).then_some(source)))
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Copies a tree of the sandbox to the host.
    fn download(&self, py: Python<'_>, source: PathBuf, target: PathBuf) -> PyResult<Pending> {
        let sandbox = self.0.get().get(py)?;
        Pending::ask(py, async move {
            let files = sandbox.files();
            match files.download(&source, target).await {
                Ok(done) => Ok(Answer::new(|py| transfer(py, done))),
                // As with `upload`.
                Err(error) if error.kind() == ErrorKind::FileFailed => {
                    let is_there = files.stat(&source).await.is_ok();
                    Err(Failure::File(error, (!is_there).then_some(source)))
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Unpacks an archive in the sandbox: these bytes, or a file of the host.
    #[pyo3(signature = (target, content, archive))]
    fn upload_tar(
        &self,
        py: Python<'_>,
        target: PathBuf,
        content: Option<&[u8]>,
        archive: PathBuf,
    ) -> PyResult<Pending> {
        let (sandbox, content) = (self.0.get().get(py)?, content.map(<[u8]>::to_vec));
        Pending::ask(py, async move {
            let files = sandbox.files();
            let done = match content {
                Some(content) => files.upload_tar(&target, Cursor::new(content)).await,
                None => {
                    let file = fs::File::open(&archive).await;
                    let file = file.map_err(|error| Failure::Host(error, archive))?;
                    files.upload_tar(&target, file).await
                }
            };
            let done = done.map_err(|error| Failure::File(error, Some(target)))?;
            Ok(Answer::new(|py| transfer(py, done)))
        })
    }

    /// Packs a tree of the sandbox into a file of the host; the answer is its length.
    fn download_tar(&self, py: Python<'_>, source: PathBuf, archive: PathBuf) -> PyResult<Pending> {
        let sandbox = self.0.get().get(py)?;
        Pending::ask(py, async move {
            let copied = async {
                let stream = sandbox.files().download_tar(&source).await;
                let mut stream = stream.map_err(io::Error::other)?;
                let mut file = Replacement::begin(&archive).await?;
                let length = io::copy(&mut stream, file.writer()).await?;
                file.finish().await.map(|()| length)
            };
            match copied.await {
                Ok(length) => Ok(Answer::value(length)),
                // The stream has the library's errors in those of the system.
                Err(error) => Err(match error.downcast::<Error>() {
                    Ok(error) => Failure::File(error, Some(source)),
                    Err(error) => Failure::Host(error, archive),
                }),
            }
        })
    }
}

/// At most so many bytes of a file.
async fn part(
    sandbox: &openbrain::Sandbox,
    path: PathBuf,
    offset: u64,
    limit: usize,
) -> Result<Vec<u8>, Error> {
    let mut reader = sandbox.files().reader(path, offset).await?;
    let mut content = Vec::new();
    while content.len() < limit
        && let Some(piece) = reader.next().await?
    {
        content.extend_from_slice(&piece);
    }
    content.truncate(limit);
    Ok(content)
}

fn entries(py: Python<'_>, found: Vec<FileEntry>) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    found.into_iter().try_for_each(|file| list.append(entry(py, file)?))?;
    Ok(list.into_any().unbind())
}

/// The fields of an entry. Names are any bytes, which Python has as texts of its own.
fn entry(py: Python<'_>, file: FileEntry) -> PyResult<Py<PyAny>> {
    let kind = match file.kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Link => "link",
        FileKind::Other => "other",
    };
    let since = file.modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let fields = PyDict::new(py);
    fields.set_item("path", file.path.into_os_string())?;
    fields.set_item("kind", kind)?;
    fields.set_item("mode", file.mode)?;
    fields.set_item("size", file.size)?;
    fields.set_item("modified", since.as_secs_f64())?;
    fields.set_item("target", file.target.map(PathBuf::into_os_string))?;
    Ok(fields.into_any().unbind())
}

fn transfer(py: Python<'_>, done: Transfer) -> PyResult<Py<PyAny>> {
    let skipped: Vec<_> = done.skipped.into_iter().map(PathBuf::into_os_string).collect();
    let fields = PyDict::new(py);
    fields.set_item("entries", done.entries)?;
    fields.set_item("bytes", done.bytes)?;
    fields.set_item("skipped", skipped)?;
    Ok(fields.into_any().unbind())
}
