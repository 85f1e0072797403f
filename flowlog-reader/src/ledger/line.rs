//! One line: its fields, and how it becomes bytes and comes back.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::gaps::Gap;
use crate::run::{RunContext, RunFacts};

/// The longest line. The longest fields are the inodes of namespaces and a path.
pub const MAX_LINE_BYTES: usize = 256 << 10;

/// What stands between the fields of a line and its checksum, of 8 hex digits.
const CHECKSUM: &[u8] = br#","crc32c":""#;
const CHECKSUM_END: &[u8] = br#""}"#;

/// A SHA-256 hash, in text 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hash(#[serde(with = "hex")] [u8; 32]);

impl Hash {
    /// What the first line has in place of the hash of the line before it.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The hash of what a reader gives until its end, and how many bytes that was; tells the size of
    /// each part that was read to `each`.
    ///
    /// # Errors
    ///
    /// Those of the reader.
    pub fn of_reader(mut reader: impl io::Read, mut each: impl FnMut(u64)) -> io::Result<(Self, u64)> {
        let mut hasher = Sha256::new();
        let mut part = vec![0; 256 << 10];
        let mut bytes = 0_u64;
        loop {
            let read = match reader.read(&mut part) {
                Ok(0) => return Ok((hasher.into(), bytes)),
                Ok(read) => part.get(..read).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hasher.update(read);
            let read = u64::try_from(read.len()).unwrap_or(u64::MAX);
            bytes = bytes.saturating_add(read);
            each(read);
        }
    }
}

impl From<Sha256> for Hash {
    fn from(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut hash = Self::ZERO;
        hex::decode_to_slice(text, &mut hash.0)?;
        Ok(hash)
    }
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The hash of the bytes of the line before, without its newline; [`Hash::ZERO`] in the first.
    pub prev: Hash,
    /// When it was appended. In text RFC 3339, UTC, with microseconds.
    #[serde(with = "micros")]
    pub time: Timestamp,
    /// The run that appended it.
    pub run_id: Uuid,
    /// What it says.
    #[serde(flatten)]
    pub event: Event,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run begins.
    Start(Started),
    /// A file was published.
    File(PublishedFile),
    /// A loss was declared.
    Gap(DeclaredGap),
    /// The write-ahead log of a run that did not stop was converted.
    Recover(Recovered),
    /// A run ends, and all its rows are published.
    Stop(Stopped),
    /// A published file is about to be deleted.
    Delete(Deleted),
    /// The run begins or ends to watch a network namespace.
    Namespace(NamespaceChange),
    /// Something that a later version of flowlog says. Cannot be appended.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// The run that begins, and how it was told to work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Version of flowlog.
    pub version: String,
    /// Application-specific hash of the machine id.
    pub host_id: String,
    /// Name of the host.
    pub host_name: String,
    /// Boot id of the kernel, where known.
    pub boot_id: Option<String>,
    /// Release of the kernel.
    pub kernel: String,
    /// How the kernel delivers events: `reliable` or `best-effort`.
    pub delivery: String,
    /// Inodes of the network namespaces that are watched. None are watched by an import; 0 stands for those that may
    /// come later if there is none yet.
    pub netns: Vec<u64>,
    /// Which flows are recorded; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Value>,
    /// When the write-ahead log is synced, as it was configured.
    pub wal_sync: String,
    /// Since when nobody watched, in microseconds since 1970, where there was a run before. The run declares
    /// that time as a gap, too; the next one does it, where it did not come to that, or where this one watches
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwatched_since_us: Option<i64>,
    /// What it took over from the run before, if nobody missed events in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// What a start cut off, so that the cut leaves a trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torn_bytes: Option<u64>,
}

/// A run that goes on where another one ended: a service manager kept its sockets meanwhile, so that events waited there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// The run before.
    pub of_run: Uuid,
    /// Until when that run had read all events, in microseconds since 1970. Those since then are of this run.
    pub since_us: i64,
    /// Network namespaces whose sockets were taken over.
    pub sockets: u64,
    /// What is known of sockets and processes: `kept`, or `rebuilt` of what the host shows.
    pub attribution: String,
}

impl Started {
    /// What the files of the run say of it, as far as the ledger knows.
    pub fn facts(self, run_id: Uuid) -> RunFacts {
        let Self { host_id, host_name, boot_id, kernel, filter, .. } = self;
        let run = RunContext { run_id, host_id, host_name, boot_id };
        RunFacts { run, kernel, acct: None, timestamp: None, filter }
    }
}

/// Which rows a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Finished connections.
    Flows,
    /// Declared losses.
    Gaps,
}

/// A file that was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedFile {
    /// Which rows it has.
    pub table: Table,
    /// Where it is, below the output directory.
    pub path: String,
    /// The run whose rows these are, where it is an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_run: Option<Uuid>,
    /// How many rows.
    pub rows: u64,
    /// Lowest `seq` in it, of flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_first: Option<i64>,
    /// Highest `seq` in it, of flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_last: Option<i64>,
    /// Lowest [`DeclaredGap::gap`] in it, of gaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_first: Option<u64>,
    /// Highest [`DeclaredGap::gap`] in it, of gaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_last: Option<u64>,
    /// Lowest `end_time` in it, of flows: microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time_min_us: Option<i64>,
    /// Highest `end_time` in it, of flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time_max_us: Option<i64>,
    /// Size of the file.
    pub bytes: u64,
    /// Hash of the file.
    pub sha256: Hash,
}

impl PublishedFile {
    /// A file whose other facts are still to be taken.
    pub fn new(table: Table, path: impl Into<String>, rows: u64) -> Self {
        Self {
            table,
            path: path.into(),
            of_run: None,
            rows,
            seq_first: None,
            seq_last: None,
            gap_first: None,
            gap_last: None,
            end_time_min_us: None,
            end_time_max_us: None,
            bytes: 0,
            sha256: Hash::ZERO,
        }
    }
}

/// A declared loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredGap {
    /// Its number in the run, from 1, without holes.
    pub gap: u64,
    /// What was lost.
    #[serde(flatten)]
    pub loss: Gap,
}

/// What came of the write-ahead log of a run that did not stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The run that did not stop.
    pub of_run: Uuid,
    /// Rows that were published now.
    pub rows: u64,
    /// Rows in the log that had been published before.
    pub already_published: u64,
    /// Bytes of the log that could not be read.
    pub dropped_bytes: u64,
    /// Why not.
    pub dropped_reason: Option<String>,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// The highest `seq` of the run; 0 where it has no rows.
    pub last_seq: i64,
    /// Rows of the run that were published.
    pub rows: u64,
    /// All flows that ended before were taken; microseconds since 1970. Earlier than the line by the time
    /// that the last files took.
    pub complete_until_us: i64,
}

/// A network namespace that came or went while the run goes on. Those of its start are in [`Started::netns`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceChange {
    /// Its inode.
    pub netns: u64,
    /// Its name in `ip netns`, or its path.
    pub name: String,
    /// What became of it.
    pub change: Presence,
    /// Since when it is watched, or until when all was read, in microseconds since 1970.
    pub at_us: i64,
    /// How many connections were open when it was deleted: the kernel tells nothing of their end, so they have rows as of
    /// that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_flows: Option<u64>,
}

/// What became of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It is watched.
    Came,
    /// It was deleted, and is watched no more.
    Gone,
}

/// A file that is about to be deleted: the line comes first, so that no file is missing without one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Where it is, below the output directory.
    pub path: String,
    /// Its hash when it was published.
    pub sha256: Hash,
    /// Its size.
    pub bytes: u64,
    /// Which bound it had passed.
    pub reason: DeleteReason,
}

/// Why a file is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeleteReason {
    /// It was older than files may be.
    Age,
    /// All files had more bytes than they may have.
    Bytes,
    /// The file system had less free space than it must have.
    MinFree,
}

/// Why bytes are not a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// Nobody wrote such a line with flowlog.
    #[error("has {bytes} bytes, expected at most {MAX_LINE_BYTES}")]
    TooLong {
        /// Its size.
        bytes: u64,
    },
    /// The bytes are not JSON: torn by a crash, or overwritten.
    #[error("is not JSON: {0}")]
    NotJson(String),
    /// It ends otherwise than each line does.
    #[error("has no checksum, expected `\"crc32c\"` as its last field")]
    NoChecksum,
    /// Its bytes are not those that were written.
    #[error("has the checksum {found}, expected {expected}: it was changed")]
    Changed {
        /// The checksum in it.
        found: String,
        /// The checksum of its bytes.
        expected: String,
    },
    /// A field is missing, or has another type.
    #[error("has other fields than a line of the ledger: {0}")]
    Fields(String),
}

impl Line {
    /// The bytes of the line, without its newline.
    ///
    /// The hash in the next line shows a change of this one. While it is the last line, its checksum
    /// does, at least one that was not made with care.
    pub fn encode(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.clear();
        serde_json::to_writer(&mut *bytes, self)?;
        bytes.pop();
        let checksum = crc32c::crc32c(bytes);
        bytes.extend_from_slice(CHECKSUM);
        write!(bytes, "{checksum:08x}")?;
        bytes.extend_from_slice(CHECKSUM_END);
        if bytes.len() > MAX_LINE_BYTES {
            let error = BadLine::TooLong { bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX) };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        Ok(())
    }

    /// Reads the bytes of a line.
    ///
    /// # Errors
    ///
    /// They are not what flowlog wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadLine> {
        Self::decode_json(bytes).map_err(|bad| match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => bad,
            Err(error) => BadLine::NotJson(error.to_string()),
        })
    }

    fn decode_json(bytes: &[u8]) -> Result<Self, BadLine> {
        let (fields, found) = bytes
            .strip_suffix(CHECKSUM_END)
            .and_then(|bytes| bytes.split_last_chunk::<8>())
            .and_then(|(bytes, found)| Some((bytes.strip_suffix(CHECKSUM)?, found)))
            .ok_or(BadLine::NoChecksum)?;
        let found = String::from_utf8_lossy(found);
        let expected = format!("{:08x}", crc32c::crc32c(fields));
        if found != expected {
            return Err(BadLine::Changed { found: found.into_owned(), expected });
        }
        serde_json::from_slice(bytes).map_err(|error| BadLine::Fields(error.to_string()))
    }
}

/// RFC 3339, UTC, always with six digits.
mod micros {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{time:.6}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
