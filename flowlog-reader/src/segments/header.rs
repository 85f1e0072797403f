//! What stands before the first frame of a segment.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::bytes::Bytes;
use super::frame::checksum;
use crate::run::{RunContext, RunFacts};

/// The first bytes of a segment.
const MAGIC: [u8; 8] = *b"flowlogW";

/// Version of the format. To be raised when an older flowlog could misread what this one writes. Columns are found by
/// their ids, so it may have others, and in another order.
pub(super) const VERSION: u32 = 2;

/// The run that wrote a segment: all that is needed to make its rows files of that run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// UUIDv7 of the run.
    pub run_id: Uuid,
    /// Application-specific hash of the machine id.
    pub host_id: String,
    /// Name of the host.
    pub host_name: String,
    /// Boot id of the kernel, where known.
    pub boot_id: Option<String>,
    /// Release of the kernel.
    pub kernel: String,
    /// Whether the kernel counted packets and bytes, where known.
    pub acct: Option<bool>,
    /// Whether the kernel took start and stop times, where known.
    pub timestamp: Option<bool>,
    /// Which flows were recorded; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Value>,
    /// When the run began, in microseconds since 1970.
    pub started_us: i64,
    /// The memory into which the run receives, which a service manager may keep beyond the end of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<Uuid>,
}

impl SegmentHeader {
    /// The header of the segments of a run.
    pub fn of(facts: &RunFacts, started_us: i64, in_flight: Option<Uuid>) -> Self {
        let RunFacts { run, kernel, acct, timestamp, filter } = facts.clone();
        let RunContext { run_id, host_id, host_name, boot_id } = run;
        Self { run_id, host_id, host_name, boot_id, kernel, acct, timestamp, filter, started_us, in_flight }
    }

    /// The run, for the files made of it.
    pub fn facts(&self) -> RunFacts {
        let Self { run_id, host_id, host_name, boot_id, kernel, acct, timestamp, filter, .. } = self.clone();
        RunFacts { run: RunContext { run_id, host_id, host_name, boot_id }, kernel, acct, timestamp, filter }
    }

    /// The bytes before the first frame.
    ///
    /// # Errors
    ///
    /// Those of the JSON serialiser; plain texts and numbers have none.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let json = serde_json::to_vec(self)?;
        // A name that is longer than 4 GiB does not exist.
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
        let fields = [VERSION, length, checksum(length, &json)].map(u32::to_le_bytes);
        Ok([&MAGIC, fields.as_flattened(), &json].concat())
    }
}

/// Why the beginning of a file is not that of a segment.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The file is shorter than its header: making it was interrupted, or a power failure came before it
    /// was synced for the first time.
    #[error("the file ends within its header")]
    Torn,
    /// The file is something else, or its first bytes are damaged.
    #[error("the file does not begin as a segment of a write-ahead log does")]
    Magic,
    /// The file has a format of another flowlog.
    #[error(
        "the format has version {found}, expected at most {VERSION}: read it with the flowlog that wrote it"
    )]
    Version {
        /// The version.
        found: u32,
    },
    /// The header is damaged.
    #[error("the checksum of the header is wrong")]
    Checksum,
    /// The header is intact and says something else than expected.
    #[error("the header cannot be understood: {0}")]
    Content(#[from] serde_json::Error),
}

/// What stands before the JSON: magic, version, length and checksum.
pub(super) const FIXED_BYTES: u64 = 20;

/// How long the JSON is, as the fixed part says; 0 where that is not whole.
pub(super) fn json_bytes(fixed: &[u8]) -> u64 {
    let length = fixed.get(12..).and_then(|rest| rest.first_chunk());
    length.map_or(0, |length| u64::from(u32::from_le_bytes(*length)))
}

/// Reads the header and the version of the format, and leaves what follows them.
pub(super) fn parse(bytes: &mut Bytes<'_>) -> Result<(SegmentHeader, u32), HeaderError> {
    let magic: [u8; 8] = bytes.array().ok_or(HeaderError::Torn)?;
    if magic != MAGIC {
        return Err(HeaderError::Magic);
    }
    let found = bytes.u32().ok_or(HeaderError::Torn)?;
    if !(1..=VERSION).contains(&found) {
        return Err(HeaderError::Version { found });
    }
    let length = bytes.u32().ok_or(HeaderError::Torn)?;
    let crc = bytes.u32().ok_or(HeaderError::Torn)?;
    let json = usize::try_from(length).ok().and_then(|length| bytes.take(length));
    let json = json.ok_or(HeaderError::Torn)?;
    if checksum(length, json) != crc {
        return Err(HeaderError::Checksum);
    }
    Ok((serde_json::from_slice(json)?, found))
}
