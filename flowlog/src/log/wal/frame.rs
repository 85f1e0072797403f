//! The head of a frame, and its checksum.

use super::bytes::Bytes;

/// Bytes of the length and the checksum, which the length does not count.
pub(super) const PREFIX_BYTES: usize = 8;

/// Bytes of a frame before its payload.
pub(super) const HEAD_BYTES: usize = PREFIX_BYTES + 24;

/// Rows follow.
pub(super) const ROWS: u32 = 1;

/// Only says until when the log is complete.
pub(super) const MARK: u32 = 2;

/// What a frame says of itself, besides its length and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// [`ROWS`] or [`MARK`].
    pub(super) kind: u32,
    pub(super) rows: u32,
    pub(super) first_seq: i64,
    pub(super) complete_until_us: i64,
}

impl Head {
    pub(super) fn parse(bytes: &mut Bytes<'_>) -> Option<Self> {
        Some(Self {
            kind: bytes.u32()?,
            rows: bytes.u32()?,
            first_seq: bytes.i64()?,
            complete_until_us: bytes.i64()?,
        })
    }

    /// Completes a frame of which the payload is there, after room for the head. `None` where it is too
    /// long for its length field.
    pub(super) fn seal(&self, frame: &mut [u8]) -> Option<()> {
        let Self { kind, rows, first_seq, complete_until_us } = self;
        let (prefix, rest) = frame.split_first_chunk_mut::<PREFIX_BYTES>()?;
        let length = u32::try_from(rest.len()).ok()?;
        let head: [&[u8]; 4] = [
            &kind.to_le_bytes(),
            &rows.to_le_bytes(),
            &first_seq.to_le_bytes(),
            &complete_until_us.to_le_bytes(),
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
