//! What is where below the output directory, and what it is called. Computes names; what is there, others look at.
//!
//! ```text
//! flows/v1/date=YYYY-MM-DD/hour=HH/<name>.parquet   complete files of flows, by the hour of their `end_time`
//! gaps/v1/date=YYYY-MM-DD/<name>.parquet            complete files of gaps
//! _flowlog/lock                                     held while a writer lives
//! _flowlog/ledger.jsonl                             what was published, lost and deleted
//! _flowlog/wal/<run>_<n>.wal                        rows that are not in a complete file
//! _flowlog/staging/<name>.parquet.unfinished        unfinished files
//! ```
//!
//! `<name>` is `<host>_<start>_<run>_<n>`: host, start, run and number make it unique among all hosts that write to one
//! place. Many engines skip names that begin with `_`, but not all of them: nothing that is not complete ends with
//! `.parquet`.

use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

/// The table of flows.
pub const FLOWS: &str = "flows/v1";

/// The table of gaps.
pub const GAPS: &str = "gaps/v1";

/// The directories below which all published files are, of whatever version.
pub const TABLES: [&str; 2] = ["flows", "gaps"];

/// Held while a writer lives.
pub const LOCK: &str = "_flowlog/lock";

/// What was published, lost and deleted.
pub const LEDGER: &str = "_flowlog/ledger.jsonl";

/// The write-ahead log.
pub const WAL: &str = "_flowlog/wal";

/// Unfinished files.
pub const STAGING: &str = "_flowlog/staging";

const FILE: &str = ".parquet";
const UNFINISHED: &str = ".unfinished";
const SEGMENT: &str = ".wal";

/// How much of a host's name goes into a file name, which may have 255 bytes.
const MAX_HOST_LEN: usize = 64;

const HOUR: Duration = Duration::from_secs(3600);
const US_PER_HOUR: i64 = 3_600_000_000;

/// An hour of `end_time`: hours since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hour(i64);

impl Hour {
    /// The hour of a time in microseconds since 1970.
    pub fn of(time_us: i64) -> Self {
        Self(time_us.div_euclid(US_PER_HOUR))
    }

    /// The directory of its files of flows.
    ///
    /// # Errors
    ///
    /// No calendar has it.
    pub fn directory(self) -> Result<PathBuf, jiff::Error> {
        let start = jiff::Timestamp::from_second(self.0.saturating_mul(3600))?;
        Ok(Path::new(FLOWS).join(start.strftime("date=%Y-%m-%d/hour=%H").to_string()))
    }

    /// Whether it has passed.
    pub fn is_over(self, now: SystemTime) -> bool {
        let Ok(end_s) = u64::try_from(self.0.saturating_add(1).saturating_mul(3600)) else { return true };
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end_s)).is_some_and(|end| end <= now)
    }
}

/// The directory of files of gaps, of which the first ended at a time in microseconds since 1970.
///
/// # Errors
///
/// No calendar has the day.
pub fn gap_directory(end_us: i64) -> Result<PathBuf, jiff::Error> {
    let day = jiff::Timestamp::from_microsecond(end_us)?.strftime("date=%Y-%m-%d").to_string();
    Ok(Path::new(GAPS).join(day))
}

/// The end of the time of a directory with files: the hour, or the day where it has none. `None` for other directories.
pub fn end_of_directory(directory: &Path) -> Option<SystemTime> {
    let table = [FLOWS, GAPS].into_iter().find_map(|table| directory.strip_prefix(table).ok())?;
    let mut names =
        table.components().map(|name| name.as_os_str().to_str().and_then(|name| name.split_once('=')));
    let Some(("date", date)) = names.next()? else { return None };
    let date: jiff::civil::Date = date.parse().ok()?;
    let begin = SystemTime::from(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp());
    let hours = match names.next() {
        None => 24,
        Some(Some(("hour", hour))) => hour.parse::<u32>().ok().filter(|hour| *hour < 24)? + 1,
        Some(_) => return None,
    };
    names.next().is_none().then(|| begin + HOUR * hours)
}

/// What the name of a host becomes in the names of its files.
pub fn host_in_name(host: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' };
    let host: String = host.chars().map(safe).take(MAX_HOST_LEN).collect();
    // Engines skip files whose name begins with a dot.
    let host = host.trim_start_matches('.');
    if host.is_empty() { "host".to_owned() } else { host.to_owned() }
}

/// The name of a file that a run makes. `host` is of [`host_in_name`].
pub fn file_name(host: &str, start: jiff::Timestamp, run_id: Uuid, number: u64) -> String {
    let start = start.strftime("%Y%m%dT%H%M%SZ");
    format!("{host}_{start}_{run_id}_{number}{FILE}")
}

/// What a file is called in [`STAGING`] until it is complete.
pub fn unfinished(name: &str) -> String {
    format!("{name}{UNFINISHED}")
}

/// Whether this is the name of a complete file. Others leave files of their own beside, such as `.name.parquet.crc`.
pub fn is_file(name: &str) -> bool {
    name.ends_with(FILE) && !name.starts_with(['.', '_'])
}

/// Whether a path says that the file has rows of this run.
pub fn is_of_run(path: &Path, run_id: Uuid) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.contains(&format!("_{run_id}_")))
}

/// The name of a segment of the write-ahead log.
pub fn segment_name(run_id: Uuid, number: u64) -> String {
    format!("{run_id}_{number:08}{SEGMENT}")
}

/// The run and the number of a segment. Numbers and ids have several spellings, of which the log makes one.
pub fn parse_segment_name(name: &str) -> Option<(Uuid, u64)> {
    let (run_id, number) = name.strip_suffix(SEGMENT)?.split_once('_')?;
    let (run_id, number) = (Uuid::try_parse(run_id).ok()?, number.parse().ok()?);
    (segment_name(run_id, number) == name).then_some((run_id, number))
}

/// Whether a path from a ledger stays below the directory that it is joined to.
pub fn is_below(path: &str) -> bool {
    !path.contains('\0')
        && Path::new(path).components().all(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn directories_have_the_end_of_their_time() {
        let hour = Hour::of(1_700_000_000_000_000);
        let directory = hour.directory().unwrap();
        assert_eq!(directory, Path::new("flows/v1/date=2023-11-14/hour=22"));
        assert_eq!(end_of_directory(&directory), Some(at(1_700_002_800)));
        assert!(!hour.is_over(at(1_700_002_799)) && hour.is_over(at(1_700_002_800)));
        let directory = gap_directory(1_700_000_000_000_000).unwrap();
        assert_eq!(directory, Path::new("gaps/v1/date=2023-11-14"));
        assert_eq!(end_of_directory(&directory), Some(at(1_700_006_400)));
        for other in [
            "flows/v1",
            "flows/v2/date=2023-11-14",
            "flows/v1/date=2023-11-14/hour=24",
            "flows/v1/hour=22",
            "a",
        ] {
            assert_eq!(end_of_directory(Path::new(other)), None, "{other}");
        }
        assert_eq!(Hour::of(-1).directory().unwrap(), Path::new("flows/v1/date=1969-12-31/hour=23"));
    }

    #[test]
    fn names_tell_their_run() {
        let run_id = Uuid::from_u128(7);
        let start = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        let name = file_name(&host_in_name("..web 1/ä"), start, run_id, 3);
        assert_eq!(name, format!("web-1--_20231114T221320Z_{run_id}_3.parquet"));
        assert!(is_file(&name) && is_of_run(Path::new(&name), run_id));
        assert!(!is_of_run(Path::new(&name), Uuid::from_u128(8)));
        assert!(!is_file(&unfinished(&name)) && !is_file(&format!(".{name}")) && !is_file("_probe"));
        assert_eq!(host_in_name(""), "host");
        let segment = segment_name(run_id, 12);
        assert_eq!(parse_segment_name(&segment), Some((run_id, 12)));
        assert_eq!(parse_segment_name(&segment.replace("00000012", "12")), None);
    }

    #[test]
    fn paths_stay_below() {
        assert!(is_below("flows/v1/a.parquet"));
        for path in ["/etc/passwd", "../a", "flows/../../a", "./a", "flows/\0"] {
            assert!(!is_below(path), "{path}");
        }
    }
}
