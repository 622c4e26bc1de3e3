//! The JSON of the server and of the agent; nothing outside of this folder knows it.
//!
//! Unknown fields are ignored, an unknown state or kind is kept as text, and what is not set is not
//! sent. `Debug` shows no value of an environment variable and no secret.

mod agent;
mod event;
mod refusal;
mod server;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::secret::Secret;

pub use self::{
    agent::{
        CommandLine, CommandStatus, FileInfo, FileKind, Metrics, Permission, Replacement,
        RunCommand,
    },
    event::{AgentEvent, Completion},
    server::{
        CreateSandbox, Diagnostics, Endpoint, HostVolume, Image, NetworkPolicy, NetworkPolicyState,
        NetworkRule, OssfsVolume, Platform, Pvc, RegistryAuth, RuleAction, Sandbox, SandboxState,
        SandboxStatus, Volume, VolumeSource,
    },
};
pub(super) use self::{
    agent::{Move, Replaced, RunRequest, UploadMetadata},
    event::{NotAnEvent, read_event},
    refusal::Refusal,
    server::{Page, Renewal, Version},
};

/// An enum of known words that keeps unknown ones as text.
macro_rules! open_words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $word:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
        #[serde(from = "String")]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $word,)*
            /// A word that this version does not know.
            Other(String),
        }

        impl $name {
            /// The word on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$word => $text,)*
                    Self::Other(word) => word,
                }
            }
        }

        impl From<String> for $name {
            fn from(word: String) -> Self {
                match word.as_str() {
                    $($text => Self::$word,)*
                    _ => Self::Other(word),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
use open_words;

fn is_false(value: &bool) -> bool {
    !value
}

/// A value that may be missing or `null`, which both mean the default.
fn or_default<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn exposed<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(secret.expose())
}

fn exposed_values<S: Serializer>(map: &BTreeMap<String, Secret>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(map.iter().map(|(name, value)| (name, value.expose())))
}

fn secret_values<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Secret>, D::Error> {
    let map = Option::<BTreeMap<String, String>>::deserialize(from)?.unwrap_or_default();
    Ok(map.into_iter().map(|(name, value)| (name, Secret::new(value))).collect())
}

/// Whole seconds, as the server wants a duration; a part of one counts as one.
fn seconds<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    duration.map(|d| d.as_secs() + u64::from(d.subsec_nanos() > 0)).serialize(to)
}

/// Whole milliseconds and at least one, as the agent wants a duration.
fn milliseconds<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    let whole = |d: Duration| u64::try_from(d.as_nanos().div_ceil(1_000_000).max(1));
    duration.map(|d| whole(d).unwrap_or(u64::MAX)).serialize(to)
}

/// A point in time, in UTC or with an offset; one that makes no sense is none.
fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SystemTime>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.as_deref().and_then(parse_time))
}

/// RFC 3339 with any offset. humantime reads `Z` only.
fn parse_time(text: &str) -> Option<SystemTime> {
    let utc = |local: &str| humantime::parse_rfc3339_weak(local).ok();
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return utc(local);
    }
    let Some((local, offset)) = text.len().checked_sub(6).and_then(|at| text.split_at_checked(at))
    else {
        return utc(text);
    };
    let (east, Some((hours, minutes))) = (
        offset.starts_with('+'),
        offset.strip_prefix(['+', '-']).and_then(|offset| offset.split_once(':')),
    ) else {
        return utc(text);
    };
    let minutes = hours.parse::<u64>().ok()? * 60 + minutes.parse::<u64>().ok()?;
    let offset = Duration::from_secs(minutes * 60);
    match east {
        true => utc(local)?.checked_sub(offset),
        false => utc(local)?.checked_add(offset),
    }
}

/// A mode of a file, which the agent writes as if its octal digits were decimal: 0o644 is 644.
mod octal_digits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(mode: &Option<u32>, to: S) -> Result<S::Ok, S::Error> {
        // Zero stands for "leave it as it is".
        to.serialize_u32(mode.map_or(0, write))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
        match Option::<u32>::deserialize(from)? {
            None => Ok(None),
            Some(digits) => read(digits).map(Some).ok_or_else(|| {
                D::Error::custom(format!("`{digits}` is not a mode in octal digits"))
            }),
        }
    }

    fn write(mode: u32) -> u32 {
        let digits = format!("{:o}", mode & 0o7777);
        digits.parse().expect("at most four octal digits are a decimal number")
    }

    fn read(digits: u32) -> Option<u32> {
        u32::from_str_radix(&digits.to_string(), 8).ok()
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn modes_are_octal_digits() {
            for mode in 0..=0o7777 {
                assert_eq!(super::read(super::write(mode)), Some(mode));
            }
            assert_eq!(super::write(0o644), 644);
            assert_eq!(super::read(648), None);
        }
    }
}

#[cfg(test)]
mod tests;
