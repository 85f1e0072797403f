//! The head of a frame, and its checksum.

use super::bytes::Bytes;
use super::header::VERSION;

/// Bytes of the length and the checksum, which the length does not count.
pub(super) const PREFIX_BYTES: usize = 8;

/// Bytes of a frame before its payload.
pub const HEAD_BYTES: usize = PREFIX_BYTES + Head::BYTES;

/// Rows follow.
pub const ROWS: u32 = 1;

/// Only says until when the log is complete.
pub const MARK: u32 = 2;

/// What a frame says of itself, besides its length and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// [`ROWS`] or [`MARK`].
    pub kind: u32,
    /// How many rows it has.
    pub rows: u32,
    /// Number of the first of them in the run; the others follow without holes.
    pub first_seq: i64,
    /// All flows that were received before are in this frame and those before it; microseconds since 1970.
    pub complete_until_us: i64,
    /// All datagrams that were received into the memory [`in_flight`](super::SegmentHeader::in_flight) in this round or in
    /// earlier ones have their rows in this frame and those before it; 0: none of them.
    pub round: u64,
}

impl Head {
    /// Bytes of it, after the length and the checksum.
    pub(super) const BYTES: usize = Self::bytes_of(VERSION);

    /// As long as it is in a segment of a version.
    pub(super) const fn bytes_of(version: u32) -> usize {
        if version == 1 { 24 } else { 32 }
    }

    pub(super) fn parse(bytes: &mut Bytes<'_>, version: u32) -> Option<Self> {
        Some(Self {
            kind: bytes.u32()?,
            rows: bytes.u32()?,
            first_seq: bytes.i64()?,
            complete_until_us: bytes.i64()?,
            round: if version == 1 { 0 } else { bytes.u64()? },
        })
    }

    /// The number of its last row; `None` where it has none.
    pub fn last_seq(&self) -> Option<i64> {
        self.rows.checked_sub(1).map(|others| self.first_seq.saturating_add(others.into()))
    }

    /// Completes a frame of which the payload is there, after room for the head. `None` where it is too
    /// long for its length field.
    pub fn seal(&self, frame: &mut [u8]) -> Option<()> {
        let Self { kind, rows, first_seq, complete_until_us, round } = self;
        let (prefix, rest) = frame.split_first_chunk_mut::<PREFIX_BYTES>()?;
        let length = u32::try_from(rest.len()).ok()?;
        let head: [&[u8]; 5] = [
            &kind.to_le_bytes(),
            &rows.to_le_bytes(),
            &first_seq.to_le_bytes(),
            &complete_until_us.to_le_bytes(),
            &round.to_le_bytes(),
        ];
        for (place, byte) in rest.iter_mut().zip(head.into_iter().flatten()) {
            *place = *byte;
        }
        let crc = checksum(length, rest);
        let fields = [length, crc].map(u32::to_le_bytes);
        prefix.copy_from_slice(fields.as_flattened());
        Some(())
    }
}

/// The checksum of a frame: of its length, and of all that follows the checksum. So a damaged length
/// does not pass either, and neither do zeros, which some file systems leave after a power failure.
pub(super) fn checksum(length: u32, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), rest)
}
