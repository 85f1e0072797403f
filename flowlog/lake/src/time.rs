//! Times as people write them, and as JSON has them.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// Reads a time: RFC 3339 with an offset, a date or a date and a time of the local time zone, or how long ago.
///
/// # Errors
///
/// It is none of them.
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    parse_at(text, &Zoned::now())
}

fn parse_at(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let zone: &TimeZone = now.time_zone();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    // A date is a time, too, but not one that must be complete.
    if let Ok(time) = text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(DateTime::from)) {
        return time.to_zoned(zone.clone()).map(|time| time.timestamp()).map_err(|error| error.to_string());
    }
    // `2h` is two hours ago; `2h ago` says so.
    if let Ok(span) = text.strip_prefix('-').unwrap_or(text).parse::<Span>() {
        let ago = if span.is_negative() { now.checked_add(span) } else { now.checked_sub(span) };
        return ago.map(|time| time.timestamp()).map_err(|error| error.to_string());
    }
    Err("expected a time such as 2026-11-29T14:00Z, 2026-11-29, 2026-11-29T14:00 (local time), or how long ago, such as 2h"
        .to_owned())
}

/// A time of the flow log, RFC 3339 in UTC with microseconds. Beyond all calendars it is the number.
pub(crate) fn render(time_us: i64) -> String {
    Timestamp::from_microsecond(time_us).map_or_else(|_| time_us.to_string(), |time| format!("{time:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now: Zoned = "2026-11-29T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        for (text, expected) in [
            ("2026-11-29T14:00:00Z", "2026-11-29T14:00:00Z"),
            ("2026-11-29T14:00+02:00", "2026-11-29T12:00:00Z"),
            ("2026-11-29T14:00", "2026-11-29T13:00:00Z"),
            ("2026-11-29 14:00:01.5", "2026-11-29T13:00:01.5Z"),
            ("2026-11-29", "2026-11-28T23:00:00Z"),
            ("2h", "2026-11-29T09:00:00Z"),
            ("90 min", "2026-11-29T09:30:00Z"),
            ("1d ago", "2026-11-28T11:00:00Z"),
        ] {
            assert_eq!(parse_at(text, &now).map(|time| time.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in ["", "tomorrow", "2026-13-01", "14", "2026-11-29T25:00Z"] {
            assert!(parse_at(text, &now).is_err(), "{text}");
        }
        assert_eq!(render(1_795_248_000_000_001), "2026-11-21T08:00:00.000001Z");
    }
}
