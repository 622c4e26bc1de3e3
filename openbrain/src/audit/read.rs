//! Reading the log.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{
    file::{full, lock},
    record::Record,
};
use crate::error::{Error, ErrorKind, Result};

/// A line of the log.
#[derive(Debug)]
pub enum Line<'a> {
    /// A record, and the line that it is written as.
    Record(Record, &'a str),
    /// A line that is no record.
    Damaged {
        /// The file that it is in.
        file: &'a Path,
        /// Its number there, from 1.
        number: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads the log whose current file this is, the oldest line first, with the full files beside it.
/// A log that does not exist has no lines. Records that are written meanwhile may be missing.
///
/// # Errors
///
/// When a file cannot be read.
pub fn read(file: &Path, mut each: impl FnMut(Line<'_>)) -> Result<()> {
    let failed = |path: &Path, error: io::Error| {
        Error::new(ErrorKind::Internal, format!("cannot read `{}`", path.display()))
            .with_source(error)
            .with_remedy("read it as the user whose log it is, or set `audit.file`")
    };
    let files = open_all(file).map_err(|error| failed(file, error))?;
    for (path, file, size) in files.into_iter().rev() {
        lines(&path, BufReader::new(file.take(size)), &mut each)
            .map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

/// The files of the log, the youngest first, and how much of each is complete. In this order a file
/// that is given the next number meanwhile is seen twice rather than not at all.
fn open_all(current: &Path) -> io::Result<Vec<(PathBuf, File, u64)>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for number in numbers(current)? {
        let path = full(current, number);
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let size = complete(&file)?;
        let meta = file.metadata()?;
        if seen.insert((meta.dev(), meta.ino())) {
            found.push((path, file, size));
        }
    }
    Ok(found)
}

/// The size of a file to which nobody is writing at this moment.
fn complete(file: &File) -> io::Result<u64> {
    lock(file, FlockOperation::NonBlockingLockShared)?;
    let size = file.metadata()?.len();
    flock(file, FlockOperation::Unlock)?;
    Ok(size)
}

/// The numbers of the files that there are: 0 for the current one.
fn numbers(current: &Path) -> io::Result<BTreeSet<u64>> {
    let (Some(directory), Some(name)) = (current.parent(), current.file_name()) else {
        return Ok(BTreeSet::new());
    };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let mut numbers = BTreeSet::from([0]);
    for entry in entries {
        let entry = entry?.file_name();
        let rest = entry.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
        let rest = rest.and_then(|rest| str::from_utf8(rest.strip_prefix(b".")?).ok());
        numbers.extend(rest.and_then(|number| number.parse::<u64>().ok()));
    }
    Ok(numbers)
}

fn lines(path: &Path, mut from: impl BufRead, each: &mut impl FnMut(Line<'_>)) -> io::Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        match serde_json::from_str(&text) {
            Ok(record) => each(Line::Record(record, text.trim_end())),
            Err(error) => {
                let reason = error.to_string();
                each(Line::Damaged { file: path, number, reason });
            }
        }
    }
    Ok(())
}
