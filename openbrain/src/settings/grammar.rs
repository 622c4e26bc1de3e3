//! What the values of a settings file may look like.
//!
//! The checks run while a value is read: what was read needs no further check.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    error::{Error, Result},
    sandbox::{DomainRule, HostRule, Limits},
    secret::Secret,
};

/// The limits of a sandbox when neither the settings nor the request say otherwise.
pub(super) fn default_limits() -> Limits {
    Limits {
        memory: Some(4 << 30),
        cpus: None,
        pids: Some(1024),
        disk: Some(2 << 30),
        open_files: Some(4096),
        output: Some(10 << 20),
    }
}

/// How a timeout is written in YAML and JSON, for the schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
pub(super) enum SecondsOrText {
    Seconds(f64),
    Text(String),
}

/// Serde for a timeout that is never absent.
pub(super) mod timeout {
    use std::time::Duration;

    use serde::{Deserializer, de::Error as _};

    pub(in crate::settings) use crate::units::serde_duration::serialize;
    use crate::units::serde_seconds;

    pub(in crate::settings) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Duration, D::Error> {
        serde_seconds::deserialize(from)?.ok_or_else(|| {
            D::Error::custom("the value is missing; give seconds, or leave the key out")
        })
    }
}

/// The most sandboxes that are kept ready of a shape.
const MOST_READY: usize = 64;

pub(super) fn pool<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    match usize::deserialize(from)? {
        size if size > MOST_READY => Err(D::Error::custom(format!(
            "{size} sandboxes are too many to keep ready; give at most {MOST_READY}"
        ))),
        size => Ok(size),
    }
}

pub(super) fn server_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    checked_text(from, check_server_url)
}

pub(super) fn image<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let image = String::deserialize(from)?;
    if image.is_empty() || image.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(D::Error::custom(format!("{image:?} is not the name of an image")));
    }
    Ok(image)
}

/// Reads a key, which is absent when it is empty.
pub(super) fn api_key<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    Ok(checked_text(from, check_api_key)?.map(Secret::from))
}

/// Reads a token, which is absent when it is empty.
pub(super) fn token<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    Ok(checked_text(from, check_token)?.map(Secret::from))
}

pub(super) fn workspace<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(checked_text(from, check_host_path)?.map(PathBuf::from))
}

pub(super) fn host_paths<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = Vec::<String>::deserialize(from)?;
    paths.iter().try_for_each(|path| check_host_path(path)).map_err(D::Error::custom)?;
    Ok(paths.into_iter().map(PathBuf::from).collect())
}

pub(super) fn ports<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u16>>, D::Error> {
    let ports = Vec::<u16>::deserialize(from)?;
    if ports.contains(&0) {
        return Err(D::Error::custom("port 0 cannot be reached; list ports from 1 to 65535"));
    }
    Ok(Some(ports))
}

/// Reads the allowed names. An empty key is refused: it could mean every name or none.
pub(super) fn domains<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let Some(domains) = Option::<Vec<String>>::deserialize(from)? else {
        return Err(D::Error::custom(
            "the value is missing; write [] for no name, or leave the key out for every name",
        ));
    };
    let known = |domain: &String| domain.parse::<DomainRule>().map(drop);
    domains.iter().try_for_each(known).map_err(D::Error::custom)?;
    Ok(Some(domains))
}

/// Reads the allowed hosts. An empty key is refused, as that of names is.
pub(super) fn hosts<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let Some(hosts) = Option::<Vec<String>>::deserialize(from)? else {
        return Err(D::Error::custom(
            "the value is missing; write [] for no host, or leave the key out",
        ));
    };
    let known = |host: &String| host.parse::<HostRule>().map(drop);
    hosts.iter().try_for_each(known).map_err(D::Error::custom)?;
    Ok(Some(hosts))
}

/// Reads limits and completes them, so that a file with one limit does not lift the others.
pub(super) fn limits<'de, D: Deserializer<'de>>(from: D) -> Result<Limits, D::Error> {
    let limits = Limits::deserialize(from)?;
    limits.check().map_err(D::Error::custom)?;
    Ok(limits.or(&default_limits()))
}

/// Reads a text that is absent when it is empty.
fn checked_text<'de, D: Deserializer<'de>>(
    from: D,
    check: fn(&str) -> Result<()>,
) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(from)?.filter(|text| !text.is_empty());
    text.as_deref().map(check).transpose().map_err(D::Error::custom)?;
    Ok(text)
}

fn check_server_url(url: &str) -> Result<()> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let has_host = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':', '?']));
    if !has_host || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::settings(format!(
            "{url:?} is no address of a server; write it as http://localhost:8080"
        )));
    }
    Ok(())
}

/// The error does not repeat the key.
fn check_api_key(key: &str) -> Result<()> {
    match key.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(Error::settings("the key holds characters that no key has, such as spaces")),
    }
}

/// What a bearer token may hold: RFC 6750, section 2.1. The error does not repeat it.
fn check_token(token: &str) -> Result<()> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if !token.bytes().all(known) || token.len() < 16 {
        return Err(Error::settings(
            "a token has at least 16 characters, of letters, digits and -._~+/=; \
             `openssl rand -hex 32` makes one",
        ));
    }
    Ok(())
}

fn check_host_path(path: &str) -> Result<()> {
    let known = path.starts_with('/') || path.starts_with("~/") || path == "~";
    if !known || path.contains('\0') {
        return Err(Error::settings(format!(
            "{path:?} is not an absolute host path; begin it with `/` or `~/`"
        )));
    }
    Ok(())
}
