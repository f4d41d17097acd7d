//! Wall clock of the host, and times in docker's formats.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const NS: i64 = 1_000_000_000;

/// Returns the current time in nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Formats a time like [`rfc3339`]; 0 gives docker's text for a time that has not come yet.
pub(crate) fn rfc3339_or_never(ns: i64) -> String {
    if ns == 0 {
        "0001-01-01T00:00:00Z".into()
    } else {
        rfc3339(ns)
    }
}

/// Formats a time by RFC 3339 with nanoseconds, in UTC: `2026-02-03T04:05:06.000000007Z`.
pub(crate) fn rfc3339(ns: i64) -> String {
    format!("{:.9}", Timestamp::from_nanosecond(ns.into()).unwrap_or_default())
}

/// Formats a time in Go's way, as docker's listings do: `2026-02-03 04:05:06 +0000 UTC`.
pub(crate) fn go_words(ns: i64) -> String {
    let time = Timestamp::from_nanosecond(ns.into()).unwrap_or_default();
    time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

/// Parses an RFC 3339 time (the time of day and the offset may be left out) or seconds since 1970 with a fraction, and
/// returns nanoseconds since 1970. None for an invalid time, or one that nanoseconds cannot represent (before 1678 or
/// after 2261).
pub(crate) fn parse(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return seconds.is_finite().then_some((seconds * NS as f64) as i64);
    }
    let time = text.parse::<Timestamp>().or_else(|_| {
        let local = text.parse::<DateTime>()?;
        Ok::<_, jiff::Error>(local.to_zoned(TimeZone::UTC)?.timestamp())
    });
    i64::try_from(time.ok()?.as_nanosecond()).ok()
}

/// Error of a text that is not a time.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no time: write 2026-02-03T04:05:06, seconds since 1970, or 10m (ago)")]
pub(crate) struct NoTime(String);

/// Parses a time, or a duration before now, as users write it, and returns nanoseconds since 1970.
pub(crate) fn moment(text: &str) -> Result<i64, NoTime> {
    match duration(text) {
        Some(ago) => Ok(now_ns().saturating_sub(ago)),
        None => parse(text).ok_or_else(|| NoTime(text.into())),
    }
}

/// Parses Go's durations, such as `1h30m`, and returns nanoseconds.
pub(crate) fn duration(text: &str) -> Option<i64> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let units = [
            ("ms", 1e6),
            ("us", 1e3),
            ("ns", 1.0),
            ("h", 3.6e12),
            ("m", 6e10),
            ("s", 1e9),
        ];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total += number * factor;
        rest = rest.get(unit.len()..)?;
    }
    (!text.is_empty()).then_some(total as i64)
}

/// Formats the time since `ns` in docker's words: `2 hours ago`.
pub(crate) fn ago(ns: i64) -> String {
    format!("{} ago", duration_words(seconds_since(ns)))
}

/// Returns whole seconds since `ns`; 0 for a time in the future.
pub(crate) fn seconds_since(ns: i64) -> u64 {
    u64::try_from(now_ns().saturating_sub(ns) / NS).unwrap_or(0)
}

/// Formats a duration in docker's words: `2 hours`.
pub(crate) fn duration_words(seconds: u64) -> String {
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{} minutes", seconds / 60),
        3600..7200 => "About an hour".into(),
        7200..172_800 => format!("{} hours", seconds / 3600),
        172_800..1_209_600 => format!("{} days", seconds / 86_400),
        1_209_600..5_184_000 => format!("{} weeks", seconds / 604_800),
        5_184_000..63_072_000 => format!("{} months", seconds / 2_592_000),
        _ => format!("{} years", seconds / 31_536_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_were_written() {
        for ns in [0, 1, 1_709_209_805_123_456_789, 4_102_444_800_000_000_000] {
            assert_eq!(parse(&rfc3339(ns)), Some(ns));
        }
        assert_eq!(rfc3339(1_709_209_805_000_000_007), "2024-02-29T12:30:05.000000007Z");
        assert_eq!(go_words(1_709_209_805_000_000_007), "2024-02-29 12:30:05 +0000 UTC");
    }

    #[test]
    fn times_that_cannot_be_counted_are_none() {
        for far in [
            "9999-12-31T23:59:59Z",
            "0001-01-01T00:00:00Z",
            "1970-01-01T00:00:00+99999999:00",
        ] {
            assert_eq!(parse(far), None, "{far}");
        }
    }

    #[test]
    fn durations_are_dockers() {
        assert_eq!(duration_words(1), "1 second");
        assert_eq!(duration_words(7200), "2 hours");
        assert_eq!(duration_words(3 * 86_400), "3 days");
        assert_eq!(duration_words(800 * 86_400), "2 years");
    }

    #[test]
    fn offsets_and_short_forms_are_read() {
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(parse("1970-01-02"), Some(86_400 * NS));
        assert_eq!(parse("1.5"), Some(NS * 3 / 2));
        for wrong in ["", "yesterday", "1970-13-01", "1970-01-01T25:00:00Z"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(duration("1.5s"), Some(1_500_000_000));
        assert_eq!(duration("200ms"), Some(200_000_000));
        assert_eq!(duration("10"), None);
        assert_eq!(duration("2026-01-01"), None);
    }
}
