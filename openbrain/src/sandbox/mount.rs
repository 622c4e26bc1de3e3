//! Host directories inside a sandbox.

use std::{
    borrow::Cow,
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};

/// Where a mount without a target appears, and the working directory of a sandboxed command.
pub const WORKSPACE: &str = "/workspace";

/// A host path made visible inside a sandbox.
///
/// As text: `PATH` or `PATH:ro|rw|overlay` (at `/workspace`, which is the working directory) or
/// `SRC:DST[:ro|rw|overlay]`. In JSON and YAML the text form or an object with the same fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Host path. A relative one is taken from the caller's working directory.
    pub source: PathBuf,
    /// Absolute path inside the sandbox.
    pub target: PathBuf,
    /// What happens to writes. Default: `rw`.
    pub mode: MountMode,
}

/// What happens when the sandbox writes to a [`Mount`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MountMode {
    /// Writes reach the host directory.
    #[default]
    Rw,
    /// Writes fail.
    Ro,
    /// Writes succeed inside and are thrown away with the sandbox; the host directory never changes.
    Overlay,
}

impl Mount {
    /// A read-write mount of `source` at `/workspace`.
    pub fn workspace(source: impl Into<PathBuf>) -> Self {
        Self { source: source.into(), target: WORKSPACE.into(), mode: MountMode::Rw }
    }

    /// A mount of `source` at `target`.
    pub fn new(source: impl Into<PathBuf>, target: impl Into<PathBuf>, mode: MountMode) -> Self {
        Self { source: source.into(), target: target.into(), mode }
    }

    /// The same mount, refused when its paths cannot be used.
    pub(crate) fn checked(self) -> Result<Self> {
        check_source(&self.source)?;
        check_target(&self.target)?;
        Ok(self)
    }
}

/// Refuses an empty source and one with a NUL byte.
fn check_source(source: &Path) -> Result<()> {
    let bytes = source.as_os_str().as_encoded_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(Error::invalid(format!("mount source {source:?} is not a path"))
            .with_remedy("name a directory or a file of the host"));
    }
    Ok(())
}

/// Refuses targets that are relative, contain `..` or would replace the sandbox's own directories.
fn check_target(target: &Path) -> Result<()> {
    let plain = target.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !target.is_absolute() || !plain || target.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Error::invalid(format!("mount target {target:?} is not an absolute path"))
            .with_remedy("write SRC:DST with an absolute DST without `..`"));
    }
    let mut names = target.components().skip(1);
    let reserved = match (names.next(), names.next()) {
        (None, _) => true,
        (Some(top), None) => OWN_DIRECTORIES.iter().any(|own| top.as_os_str() == *own),
        (Some(top), Some(_)) => ["proc", "dev", "sys"].iter().any(|own| top.as_os_str() == *own),
    };
    if reserved {
        return Err(Error::invalid(format!(
            "mount target {target:?} belongs to the sandbox itself"
        ))
        .with_remedy("mount below it or elsewhere, for example at /workspace or /data"));
    }
    Ok(())
}

/// Top-level directories that the sandbox builds itself; a mount may go below most of them.
const OWN_DIRECTORIES: [&str; 12] =
    ["bin", "dev", "etc", "home", "lib", "lib64", "proc", "run", "sbin", "sys", "usr", "var"];

impl FromStr for MountMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "rw" => Ok(Self::Rw),
            "ro" => Ok(Self::Ro),
            "overlay" => Ok(Self::Overlay),
            _ => Err(Error::invalid(format!("`{text}` is not a mount mode"))
                .with_remedy("use rw, ro or overlay")),
        }
    }
}

impl FromStr for Mount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let source = parts.next().unwrap_or_default();
        let mount = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => Self::workspace(source),
            // A target is absolute.
            (Some(mode @ ("rw" | "ro" | "overlay")), None, _) => {
                Self { mode: mode.parse()?, ..Self::workspace(source) }
            }
            (Some(target), mode, None) => {
                Self::new(source, target, mode.map_or(Ok(MountMode::Rw), str::parse)?)
            }
            (Some(_), _, Some(_)) => {
                return Err(Error::invalid(format!("mount `{text}` has too many `:`"))
                    .with_remedy("write PATH[:ro|rw|overlay] or SRC:DST[:ro|rw|overlay]"));
            }
        };
        mount.checked()
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            MountMode::Rw => "rw",
            MountMode::Ro => "ro",
            MountMode::Overlay => "overlay",
        };
        write!(f, "{}:{}:{mode}", self.source.display(), self.target.display())
    }
}

/// A [`Mount`] as JSON and YAML write it.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected `SRC:DST[:mode]` or {source, target, mode}")]
enum Form {
    Text(String),
    Fields(Fields),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    source: PathBuf,
    #[serde(default = "workspace")]
    target: PathBuf,
    #[serde(default)]
    mode: MountMode,
}

fn workspace() -> PathBuf {
    WORKSPACE.into()
}

impl<'de> Deserialize<'de> for Mount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mount = match Form::deserialize(from)? {
            Form::Text(text) => text.parse(),
            Form::Fields(Fields { source, target, mode }) => {
                Self::new(source, target, mode).checked()
            }
        };
        mount.map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Mount {
    fn schema_name() -> Cow<'static, str> {
        "Mount".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Form::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{Mount, MountMode};

    #[test]
    fn a_bare_path_is_the_workspace() {
        assert_eq!("/w".parse::<Mount>().unwrap(), Mount::workspace("/w"));
    }

    #[test]
    fn modes_are_read() {
        let mount: Mount = "./src:/app:overlay".parse().unwrap();
        assert_eq!(mount, Mount::new("./src", "/app", MountMode::Overlay));
        let mount: Mount = ".:overlay".parse().unwrap();
        assert_eq!(mount, Mount::new(".", "/workspace", MountMode::Overlay));
        assert!(".:overlay:ro".parse::<Mount>().is_err());
    }

    #[test]
    fn targets_that_would_break_the_sandbox_are_refused() {
        for text in [
            "",
            ":/x",
            "/a:",
            "/a:b",
            "/a:/../x",
            "/a:/",
            "/a:/usr",
            "/a:/proc/self",
            "/a:/x:rx",
            "/a:/x:ro:y",
            "/a:/dev/null",
            "/a:/etc",
            "/a\0:/x",
        ] {
            assert!(text.parse::<Mount>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn json_takes_both_forms() {
        let object = r#"{"source":"/a","target":"/b","mode":"ro"}"#;
        let text: Mount = serde_json::from_str(r#""/a:/b:ro""#).unwrap();
        assert_eq!(serde_json::from_str::<Mount>(object).unwrap(), text);
        assert!(serde_json::from_str::<Mount>(r#"{"source":"/a","sauce":1}"#).is_err());
    }

    proptest! {
        #[test]
        fn an_accepted_mount_reads_back(text in "[a-z/:.]{0,30}") {
            if let Ok(mount) = text.parse::<Mount>() {
                prop_assert_eq!(mount.to_string().parse::<Mount>().unwrap(), mount);
            }
        }
    }
}
