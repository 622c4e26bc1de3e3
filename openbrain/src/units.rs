//! Grammars of amounts: durations (`600`, `1.5`, `10m`, `1h 30m`) and sizes (`512m`, `2GiB`). Random names.

use std::time::Duration;

use crate::error::{Error, Result};

/// The longest timeout that is accepted: 365 days. Anything above is taken for a mistake of unit.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Parses a duration: a bare number is seconds, otherwise units as in `500ms`, `10m` or `1h 30m`.
///
/// # Errors
///
/// `invalid_request` when the text is no duration, is zero, negative or above [`MAX_TIMEOUT`].
///
/// ```
/// # use std::time::Duration;
/// assert_eq!(openbrain::parse_duration("10m")?, Duration::from_secs(600));
/// assert_eq!(openbrain::parse_duration("1.5")?, Duration::from_millis(1500));
/// # Ok::<(), openbrain::Error>(())
/// ```
pub fn parse_duration(text: &str) -> Result<Duration> {
    let text = text.trim();
    let duration = match text.parse::<f64>() {
        Ok(seconds) => return duration_from_seconds(seconds),
        Err(_) => humantime::parse_duration(text).map_err(|_| Error::bad_duration(text))?,
    };
    check_timeout(duration)
}

/// Turns a number of seconds into a timeout, with the same limits as [`parse_duration`].
pub(crate) fn duration_from_seconds(seconds: f64) -> Result<Duration> {
    let duration = Duration::try_from_secs_f64(seconds)
        .map_err(|_| Error::bad_duration(&seconds.to_string()))?;
    check_timeout(duration)
}

/// Refuses a timeout of zero and one above [`MAX_TIMEOUT`].
pub(crate) fn check_timeout(duration: Duration) -> Result<Duration> {
    if duration < Duration::from_millis(1) || duration > MAX_TIMEOUT {
        return Err(Error::bad_duration(&humantime::format_duration(duration).to_string()));
    }
    Ok(duration)
}

/// 128 random bits in hexadecimal digits: a name that nobody else has and nobody can guess.
pub(crate) fn random_name() -> String {
    let mut bytes = [0u8; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    // Fewer than 256 bytes are never interrupted nor cut (`getrandom(2)`), so that what is left is a
    // kernel without the call (before 3.17) or a filter that forbids it.
    assert_eq!(filled, Ok(bytes.len()), "the kernel gives no random bytes");
    format!("{:032x}", u128::from_ne_bytes(bytes))
}

/// Parses a size in bytes: a bare number, or `k`, `m`, `g`, `t` with an optional `b` or `ib`, in any case.
///
/// Every unit is a power of 1024, as in Docker's `--memory`.
///
/// # Errors
///
/// `invalid_request` when the text is no size or does not fit in 64 bits.
///
/// ```
/// assert_eq!(openbrain::parse_size("512m")?, 512 << 20);
/// assert_eq!(openbrain::parse_size("2GiB")?, 2 << 30);
/// # Ok::<(), openbrain::Error>(())
/// ```
pub fn parse_size(text: &str) -> Result<u64> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(Error::bad_size(text)),
    };
    let number = number.trim_end();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(|| Error::bad_size(text));
    }
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let bytes = number.parse::<f64>().unwrap_or(-1.0) * (1u64 << shift) as f64;
    if !plain || bytes.is_nan() || bytes < 0.0 || bytes >= u64::MAX as f64 {
        return Err(Error::bad_size(text));
    }
    Ok(bytes as u64)
}

/// The candidate nearest to a misspelt word, when one is near enough to be worth suggesting.
///
/// ```
/// assert_eq!(openbrain::nearest("timeot", ["timeout", "mounts"]), Some("timeout"));
/// ```
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Serde for [`Duration`] in seconds: a number, or a text as [`parse_duration`] reads it.
pub(crate) mod serde_seconds {
    use std::time::Duration;

    use schemars::JsonSchema;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    #[derive(Deserialize, JsonSchema)]
    #[serde(untagged)]
    pub(crate) enum Seconds {
        Number(f64),
        Text(String),
    }

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            None => to.serialize_none(),
            Some(d) if d.subsec_nanos() == 0 => to.serialize_u64(d.as_secs()),
            Some(d) => to.serialize_f64(d.as_secs_f64()),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let duration = match Option::<Seconds>::deserialize(from)? {
            None => return Ok(None),
            Some(Seconds::Number(seconds)) => super::duration_from_seconds(seconds),
            Some(Seconds::Text(text)) => super::parse_duration(&text),
        };
        duration.map(Some).map_err(D::Error::custom)
    }
}

/// Serde for a [`Duration`] that is never absent, in seconds.
pub(crate) mod serde_duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer, de::Error};

    use super::serde_seconds;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        serde_seconds::deserialize(from)?.ok_or_else(|| D::Error::custom("a time is missing"))
    }

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        serde_seconds::serialize(&Some(*value), to)
    }
}

/// Serde for a moment, as RFC 3339 with milliseconds.
pub(crate) mod serde_time {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_millis(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        humantime::parse_rfc3339(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Whether the host of an address is this machine by name, without asking anybody.
pub(crate) fn is_loopback(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host_port.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => host_port.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Serde for a size in bytes: a number, or a text as [`parse_size`] reads it.
pub(crate) mod serde_size {
    use schemars::JsonSchema;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    #[derive(Deserialize, JsonSchema)]
    #[serde(untagged)]
    pub(crate) enum Size {
        Number(u64),
        Text(String),
    }

    pub(crate) fn serialize<S: Serializer>(value: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            None => to.serialize_none(),
            Some(bytes) => to.serialize_u64(*bytes),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        match Option::<Size>::deserialize(from)? {
            None => Ok(None),
            Some(Size::Number(bytes)) => Ok(Some(bytes)),
            Some(Size::Text(text)) => super::parse_size(&text).map(Some).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod loopback_tests {
    use super::is_loopback;

    #[test]
    fn this_machine_is_known_by_its_names() {
        for url in ["http://localhost:8080", "https://127.0.0.1", "http://[::1]:80/v1", "LOCALHOST"]
        {
            assert!(is_loopback(url), "{url}");
        }
        for url in
            ["http://a", "http://localhost.evil.com", "http://localhost@evil.com", "http://[::2]"]
        {
            assert!(!is_loopback(url), "{url}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Duration, nearest, parse_duration, parse_size};

    #[test]
    fn durations_are_seconds_or_carry_a_unit() {
        for (text, millis) in
            [("600", 600_000), ("0.25", 250), ("10m", 600_000), ("1h 30m", 5_400_000)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn absurd_durations_are_refused() {
        for text in
            ["0", "-1", "0s", "nan", "inf", "1e300", "400d", "ten", "", "5 parsecs", "0.0001"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for text in ["", "-1", "1x", "m", "1e3", "99999999999t", "nan", "1.2.3g", "½"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nearest_suggests_only_what_is_near() {
        assert_eq!(nearest("timeot", ["timeout", "mount"]), Some("timeout"));
        assert_eq!(nearest("zzz", ["timeout", "mount"]), None);
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in ".{0,40}") {
            let _ = (parse_duration(&text), parse_size(&text));
        }

        #[test]
        fn a_plain_number_is_bytes(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&bytes.to_string()).unwrap(), bytes);
        }
    }
}
