//! The zone of local times. Unlike the C library, what cannot be used is an error here, and not UTC.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use jiff::tz::TimeZone;

/// Where zones have their files.
const ZONES: &str = "/usr/share/zoneinfo";

/// Zones with leap seconds are below this directory: their times are 27 s off.
const WITH_LEAP_SECONDS: &str = "right/";

/// The zone of the host, where `TZ` is not set.
const HOST_ZONE: &str = "/etc/localtime";

/// `TZ`, or the zone of the host, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableTimeZone {
    /// It names no zone that is known here.
    #[error(
        "found TZ={0:?}, expected a file below /usr/share/zoneinfo such as `Europe/Berlin` (the package tzdata has them), \
         or a POSIX string with its rule, such as `CET-1CEST,M3.5.0,M10.5.0/3`"
    )]
    Variable(OsString),
    /// It counts leap seconds, which times of connection tracking do not have.
    #[error("found TZ={0:?}, which counts leap seconds, expected the same zone without `right/`")]
    LeapSeconds(OsString),
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
    if let Some(variable) = &variable
        && variable.to_string_lossy().contains(WITH_LEAP_SECONDS)
    {
        return Err(UnusableTimeZone::LeapSeconds(variable.clone()));
    }
    if let Ok(zone) = TimeZone::try_system() {
        return Ok(zone);
    }
    match variable {
        Some(variable) => {
            let zone = variable.to_str().and_then(|text| of_file(text).or_else(|| without_files(text)));
            zone.ok_or(UnusableTimeZone::Variable(variable))
        }
        // localtime(5): without the file it is UTC.
        None => match fs::symlink_metadata(HOST_ZONE) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(TimeZone::UTC),
            _ => Err(UnusableTimeZone::Host),
        },
    }
}

/// A file that is no name of the IANA, such as `posix/Europe/Berlin`.
fn of_file(variable: &str) -> Option<TimeZone> {
    let name = variable.strip_prefix(':').unwrap_or(variable);
    let bytes = fs::read(Path::new(ZONES).join(name)).ok()?;
    TimeZone::tzif(name, &bytes).ok()
}

/// What needs no file. A name of a summer time without its rule, as in `CET-1CEST`, is not taken: glibc takes that of the
/// USA, which nobody means who lives elsewhere.
fn without_files(variable: &str) -> Option<TimeZone> {
    match variable.strip_prefix(':').unwrap_or(variable) {
        "" | "UTC" | "GMT" => Some(TimeZone::UTC),
        text => TimeZone::posix(text).ok(),
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
            ("CET-1CEST", None),
            ("EST5EDT", None),
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
