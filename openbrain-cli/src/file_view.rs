//! What is known of a file, as it stands in JSON.

use std::path::Path;

use openbrain::{FileEntry, FileKind};
use schemars::JsonSchema;
use serde::Serialize;

use crate::moment::rfc3339;

/// What is known of a file.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "File")]
pub(crate) struct FileView {
    /// As asked for; in a list the name, or the path below the directory.
    path: String,
    /// What it is; links are not followed.
    kind: FileKind,
    /// Permissions in octal digits.
    mode: String,
    /// Bytes.
    size: u64,
    /// When its content was changed last, RFC 3339.
    modified: String,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl FileView {
    /// Names that are no UTF-8 are shown with marks in place of what is none.
    pub(crate) fn of(entry: &FileEntry) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Self {
            path: text(&entry.path),
            kind: entry.kind,
            mode: format!("{:04o}", entry.mode),
            size: entry.size,
            modified: rfc3339(entry.modified),
            target: entry.target.as_deref().map(text),
        }
    }
}
