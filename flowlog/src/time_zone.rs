//! The zone of local times. Unlike the C library, what cannot be used is an error here, and not UTC.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;

use jiff::tz::TimeZone;

/// The rule of a POSIX string that has the name of a summer time and no rule, as glibc has it (`parse_rule` of tzset.c).
const DEFAULT_RULE: &str = ",M3.2.0,M11.1.0";

/// The zone of the host, where `TZ` is not set.
const HOST_ZONE: &str = "/etc/localtime";

/// `TZ`, or the zone of the host, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableTimeZone {
    /// It names no zone that is known here.
    #[error(
        "found TZ={0:?}, expected a file below /usr/share/zoneinfo such as `Europe/Berlin` (the package tzdata has them), \
         or a POSIX string such as `CET-1CEST,M3.5.0,M10.5.0/3`"
    )]
    Variable(OsString),
    /// The host's zone is a link to nowhere, or no zone.
    #[error(
        "found no time zone in `{HOST_ZONE}`, expected a link to a file below /usr/share/zoneinfo; install the package \
         tzdata, or set TZ, such as TZ=UTC"
    )]
    Host,
}

/// The zone that `TZ` tells, or that of the host.
///
/// # Errors
///
/// Where it cannot be used.
pub fn local() -> Result<TimeZone, UnusableTimeZone> {
    let variable = env::var_os("TZ");
    if let Ok(zone) = TimeZone::try_system() {
        return Ok(zone);
    }
    match variable {
        Some(variable) => match variable.to_str().and_then(without_files) {
            Some(zone) => Ok(zone),
            None => Err(UnusableTimeZone::Variable(variable)),
        },
        // localtime(5): without the file it is UTC.
        None => match fs::symlink_metadata(HOST_ZONE) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(TimeZone::UTC),
            _ => Err(UnusableTimeZone::Host),
        },
    }
}

/// What tzset(3) takes where there is no file of that name.
fn without_files(variable: &str) -> Option<TimeZone> {
    match variable.strip_prefix(':').unwrap_or(variable) {
        "" | "UTC" | "GMT" => Some(TimeZone::UTC),
        text => TimeZone::posix(text).or_else(|_| TimeZone::posix(&format!("{text}{DEFAULT_RULE}"))).ok(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn strings_of_posix_need_no_files() {
        let hours = |text: &str| {
            let zone = without_files(text)?;
            let hours = |month| {
                let noon = date(2026, month, 15).at(12, 0, 0, 0).to_zoned(TimeZone::UTC).unwrap();
                zone.to_offset(noon.timestamp()).seconds() / 3600
            };
            Some([1, 7].map(hours))
        };
        for (text, expected) in [
            ("CET-1CEST,M3.5.0,M10.5.0/3", Some([1, 2])),
            ("CET-1CEST", Some([1, 2])),
            ("EST5EDT", Some([-5, -4])),
            ("CET-1", Some([1, 1])),
            ("<+03>-3", Some([3, 3])),
            ("UTC", Some([0, 0])),
            ("UTC0", Some([0, 0])),
            (":", Some([0, 0])),
            ("CEST", None),
            ("Europe/Berln", None),
            ("CET-1CEST ", None),
            ("Europe/Berlin ", None),
            ("+2", None),
        ] {
            assert_eq!(hours(text), expected, "{text:?}");
        }
    }
}
