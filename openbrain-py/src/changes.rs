//! What commands have changed: reported, kept, and applied to the host or discarded.

use std::{
    ffi::OsString,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use openbrain::{SavedChanges, settings::Sources};
use pyo3::{
    Bound, IntoPyObject, PyResult, Python, pyclass, pyfunction, pymethods, types::PyString,
};

use crate::{
    convert,
    failure::Failure,
    pending::{Answer, Pending},
};

/// A report that can be saved: it knows where the new contents are.
#[pyclass(frozen, module = "openbrain._openbrain")]
pub(crate) struct Changes(Arc<Mutex<openbrain::Changes>>);

impl Changes {
    pub(crate) fn new(changes: openbrain::Changes) -> Self {
        Self(Arc::new(Mutex::new(changes)))
    }
}

/// The fields of a report, and the report.
pub(crate) fn answer(changes: openbrain::Changes) -> Answer {
    Answer::new(|py| {
        let fields = convert::encode(py, &changes)?;
        Ok((fields, Changes::new(changes)).into_pyobject(py)?.into_any().unbind())
    })
}

#[pymethods]
impl Changes {
    /// Saves it; the answer is `(name, about)`, or none when no mount has changed.
    fn save(&self, py: Python<'_>) -> PyResult<Pending> {
        let (changes, directory) = (Arc::clone(&self.0), directory(py)?);
        Pending::block(py, move || {
            let mut changes = changes.lock().unwrap_or_else(PoisonError::into_inner);
            let saved = changes.save(&directory)?;
            let saved = saved.map(|saved| (saved.id().to_owned(), about(&saved)));
            Ok(Answer::new(|py| Ok(saved.into_pyobject(py)?.unbind())))
        })
    }
}

/// All that are saved, each as `(name, about)`; without the latter while somebody else has it.
#[pyfunction]
pub(crate) fn changes_list(py: Python<'_>) -> PyResult<Pending> {
    let directory = directory(py)?;
    Pending::block(py, move || {
        let found = SavedChanges::list(&directory)?.into_iter().map(|(id, _)| {
            let about = SavedChanges::load(&directory, &id).ok().as_ref().map(about);
            (id, about)
        });
        let found: Vec<_> = found.collect();
        Ok(Answer::new(|py| Ok(found.into_pyobject(py)?.unbind())))
    })
}

/// What is left to be applied: `(about, changes)`, the latter as a dict.
#[pyfunction]
pub(crate) fn changes_load(py: Python<'_>, id: &Bound<'_, PyString>) -> PyResult<Pending> {
    let (directory, id) = (directory(py)?, convert::text(id)?);
    Pending::block(py, move || {
        let saved = SavedChanges::load(&directory, &id)?;
        let (about, changes) = (about(&saved), saved.changes());
        Ok(Answer::new(move |py| {
            Ok((about, convert::encode(py, &changes)?).into_pyobject(py)?.into_any().unbind())
        }))
    })
}

/// Applies those of the paths, or all when there is none; the answer is what was applied.
#[pyfunction]
pub(crate) fn changes_apply(
    py: Python<'_>,
    id: &Bound<'_, PyString>,
    paths: Vec<PathBuf>,
) -> PyResult<Pending> {
    let (directory, id) = (directory(py)?, convert::text(id)?);
    Pending::block(py, move || {
        let mut saved = SavedChanges::load(&directory, &id)?;
        Ok(Answer::value(saved.apply(&paths)?))
    })
}

/// Removes them.
#[pyfunction]
pub(crate) fn changes_discard(py: Python<'_>, id: &Bound<'_, PyString>) -> PyResult<Pending> {
    let (directory, id) = (directory(py)?, convert::text(id)?);
    Pending::block(py, move || {
        SavedChanges::discard_by_id(&directory, &id)?;
        Ok(Answer::done())
    })
}

/// When they were saved, RFC 3339, and where the mounts that have changed are on the host.
fn about(saved: &SavedChanges) -> (String, Vec<OsString>) {
    let mounts = saved.mounts().map(|(_, source)| source.as_os_str().to_owned());
    (saved.saved_at().to_owned(), mounts.collect())
}

/// Where they are kept. It reads the environment, as the settings do.
fn directory(py: Python<'_>) -> PyResult<PathBuf> {
    let sources = Sources::from_process().map_err(|error| Failure::from(error).raise(py))?;
    let unknown = "nobody knows where changes are saved: set HOME, or XDG_STATE_HOME";
    sources.changes().ok_or_else(|| Failure::Request(unknown.into()).raise(py))
}
