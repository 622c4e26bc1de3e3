//! Paths in JSON, and on a terminal: a sandbox chooses its names, and any bytes will do.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A path: a text, or its bytes in base64 when they are not UTF-8.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text or {base64}")]
#[schemars(rename = "Path")]
pub(super) enum Text {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Base64 {
        /// The bytes.
        base64: String,
    },
}

impl From<&Path> for Text {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Base64 { base64: BASE64.encode(path.as_os_str().as_bytes()) },
        }
    }
}

impl TryFrom<Text> for PathBuf {
    type Error = base64::DecodeError;

    fn try_from(text: Text) -> Result<Self, base64::DecodeError> {
        Ok(match text {
            Text::Text(text) => text.into(),
            Text::Base64 { base64 } => OsString::from_vec(BASE64.decode(base64)?).into(),
        })
    }
}

/// For `#[serde(with)]`.
pub(super) mod path {
    use super::{Deserialize, Deserializer, Error, Path, PathBuf, Serialize, Serializer, Text};

    pub(crate) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        Text::from(path).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Text::deserialize(from)?.try_into().map_err(D::Error::custom)
    }
}

/// For `#[serde(with)]`.
pub(super) mod optional {
    use super::{Deserialize, Deserializer, Error, PathBuf, Serialize, Serializer, Text};

    pub(crate) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        path.as_deref().map(Text::from).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let text = Option::<Text>::deserialize(from)?;
        text.map(TryInto::try_into).transpose().map_err(D::Error::custom)
    }
}

/// For `#[serde(serialize_with)]`.
pub(super) fn list<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(paths.iter().map(|path| Text::from(&**path)))
}

/// A path for a line of its own: one with control characters is written as a string literal, so that
/// no name can pretend to be another line or move the cursor.
pub(super) fn quoted(path: &Path) -> String {
    let plain = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match path.to_str() {
        Some(text) if text.chars().all(plain) => text.to_owned(),
        _ => format!("{path:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

    use super::quoted;

    #[test]
    fn a_path_is_one_line_whatever_it_has() {
        assert_eq!(quoted(Path::new("/w/a b")), "/w/a b");
        assert_eq!(quoted(Path::new("/w/a\nD /etc")), r#""/w/a\nD /etc""#);
        assert_eq!(quoted(Path::new("/w/\u{1b}[2J")), r#""/w/\u{1b}[2J""#);
        assert_eq!(quoted(Path::new(OsStr::from_bytes(b"/w/\xff"))), r#""/w/\xFF""#);
        assert_eq!(quoted(Path::new("/w/\u{202e}x")), r#""/w/\u{202e}x""#);
    }
}
