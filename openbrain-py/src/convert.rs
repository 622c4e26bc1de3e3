//! Between Python's values and those of the library, by way of what serde makes of both.

use std::time::Duration;

use openbrain::{Event, Exec, NewSandbox, Output, Stdin};
use pyo3::{
    Bound, IntoPyObject, Py, PyAny, PyErr, PyResult, Python,
    conversion::FromPyObjectOwned,
    exceptions::PyTypeError,
    types::{
        PyAnyMethods, PyBool, PyBytes, PyDict, PyDictMethods, PyFloat, PyInt, PyList,
        PyListMethods, PyString, PyTuple, PyTupleMethods,
    },
};
use serde_json::{Map, Number, Value};

use crate::{changes::Changes, failure::Failure};

/// The request: a dict with the names of the JSON request, and the bytes for standard input, which
/// JSON cannot carry.
pub(crate) fn request(
    py: Python<'_>,
    fields: &Bound<'_, PyDict>,
    stdin: Option<&[u8]>,
) -> PyResult<Exec> {
    let fields = Value::Object(object(fields)?);
    let exec = serde_json::from_value::<Exec>(fields);
    let mut exec = exec.map_err(|error| Failure::Request(error.to_string()).raise(py))?;
    if let Some(bytes) = stdin {
        exec.stdin = Stdin::Bytes(bytes.into());
    }
    Ok(exec)
}

/// The request for a sandbox that stays open: a dict with the names of the JSON request.
pub(crate) fn new_sandbox(py: Python<'_>, fields: &Bound<'_, PyDict>) -> PyResult<NewSandbox> {
    let fields = Value::Object(object(fields)?);
    serde_json::from_value(fields).map_err(|error| Failure::Request(error.to_string()).raise(py))
}

/// A number that the library can hold, such as `a port`.
pub(crate) fn number<'py, T: FromPyObjectOwned<'py>>(
    number: &Bound<'py, PyInt>,
    what: &str,
) -> PyResult<T> {
    number.extract().map_err(|_| not(number, what))
}

/// A text that the library can hold.
pub(crate) fn text(text: &Bound<'_, PyString>) -> PyResult<String> {
    text.extract().map_err(|_| {
        Failure::Request("a text has a surrogate, which UTF-8 cannot hold".into()).raise(text.py())
    })
}

/// A time that was given as seconds.
pub(crate) fn duration(py: Python<'_>, seconds: f64) -> PyResult<Duration> {
    let time = Duration::try_from_secs_f64(seconds);
    time.map_err(|_| Failure::Request(format!("`{seconds}` is not a timeout")).raise(py))
}

/// The fields of a result as a dict, and the exact bytes of its two streams. Its `changes` are the
/// fields of the report, and the report.
pub(crate) fn output(py: Python<'_>, mut output: Output) -> PyResult<Py<PyAny>> {
    let stdout = std::mem::take(&mut output.stdout.bytes);
    let stderr = std::mem::take(&mut output.stderr.bytes);
    let fields = encode(py, &output)?;
    if let Some(changes) = output.changes {
        let fields = fields.bind(py).cast::<PyDict>()?;
        let report = (fields.get_item("changes")?, Changes::new(changes));
        fields.set_item("changes", report)?;
    }
    let triple = (fields, PyBytes::new(py, &stdout), PyBytes::new(py, &stderr));
    Ok(triple.into_pyobject(py)?.into_any().unbind())
}

/// `("stdout", bytes)`, `("stderr", bytes)`, `("ended", result)`, or `None` when all is over.
pub(crate) fn event(py: Python<'_>, event: Option<Event>) -> PyResult<Py<PyAny>> {
    let pair = match event {
        None => return Ok(py.None()),
        Some(Event::Stdout(bytes)) => ("stdout", PyBytes::new(py, &bytes).into_any().unbind()),
        Some(Event::Stderr(bytes)) => ("stderr", PyBytes::new(py, &bytes).into_any().unbind()),
        Some(Event::Ended(result)) => ("ended", output(py, *result)?),
        Some(other) => return Err(PyTypeError::new_err(format!("unknown event: {other:?}"))),
    };
    Ok(pair.into_pyobject(py)?.into_any().unbind())
}

/// What serde makes of a value, as Python has it.
pub(crate) fn encode(py: Python<'_>, value: &impl serde::Serialize) -> PyResult<Py<PyAny>> {
    let value =
        serde_json::to_value(value).map_err(|error| PyTypeError::new_err(error.to_string()))?;
    to_python(py, &value).map(Bound::unbind)
}

fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(value) => PyBool::new(py, *value).to_owned().into_any(),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into_pyobject(py)?.into_any(),
            (_, Some(number)) => number.into_pyobject(py)?.into_any(),
            _ => PyFloat::new(py, number.as_f64().unwrap_or(f64::NAN)).into_any(),
        },
        Value::String(text) => PyString::new(py, text).into_any(),
        Value::Array(items) => {
            let list = PyList::empty(py);
            items.iter().try_for_each(|item| list.append(to_python(py, item)?))?;
            list.into_any()
        }
        Value::Object(fields) => {
            let dict = PyDict::new(py);
            fields.iter().try_for_each(|(name, item)| dict.set_item(name, to_python(py, item)?))?;
            dict.into_any()
        }
    })
}

fn object(dict: &Bound<'_, PyDict>) -> PyResult<Map<String, Value>> {
    let items = dict.iter().map(|(name, value)| Ok((text(name.cast()?)?, from_python(&value)?)));
    items.collect()
}

fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if value.is_none() {
        return Ok(Value::Null);
    }
    // A bool is an int to Python.
    if let Ok(value) = value.cast::<PyBool>() {
        return value.extract().map(Value::Bool);
    }
    if value.is_instance_of::<PyInt>() {
        let number = value.extract::<i64>().map(Number::from);
        let number = number.or_else(|_| value.extract::<u64>().map(Number::from));
        return number.map(Value::Number).map_err(|_| not(value, "a number of a request"));
    }
    if value.is_instance_of::<PyFloat>() {
        let number: f64 = value.extract()?;
        let finite = Number::from_f64(number).map(Value::Number);
        return finite.ok_or_else(|| {
            Failure::Request(format!("{number} is not a number")).raise(value.py())
        });
    }
    if let Ok(value) = value.cast::<PyString>() {
        return text(value).map(Value::String);
    }
    if let Ok(dict) = value.cast::<PyDict>() {
        return object(dict).map(Value::Object);
    }
    if let Ok(list) = value.cast::<PyList>() {
        return list
            .iter()
            .map(|item| from_python(&item))
            .collect::<PyResult<_>>()
            .map(Value::Array);
    }
    if let Ok(tuple) = value.cast::<PyTuple>() {
        return tuple
            .iter()
            .map(|item| from_python(&item))
            .collect::<PyResult<_>>()
            .map(Value::Array);
    }
    Err(unknown(value))
}

fn not(value: &Bound<'_, PyAny>, what: &str) -> PyErr {
    Failure::Request(format!("`{value}` is not {what}")).raise(value.py())
}

fn unknown(value: &Bound<'_, PyAny>) -> PyErr {
    let name = value.get_type();
    PyTypeError::new_err(format!("a request cannot hold {name}"))
}
