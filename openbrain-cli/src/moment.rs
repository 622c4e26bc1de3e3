//! Moments as texts.

use std::time::{Duration, SystemTime};

/// The last second of the year 9999, which is as far as RFC 3339 goes.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// A moment as RFC 3339 writes it, in UTC. A sandbox can give its files any time: what is before 1970 or
/// after the year 9999 is told as the nearest moment between.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(LAST);
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::rfc3339;

    #[test]
    fn every_moment_can_be_told() {
        let epoch = SystemTime::UNIX_EPOCH;
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(rfc3339(epoch + day), "1970-01-02T00:00:00.000Z");
        assert_eq!(rfc3339(epoch - day), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(epoch + day * 100_000_000), "9999-12-31T23:59:59.000Z");
    }
}
