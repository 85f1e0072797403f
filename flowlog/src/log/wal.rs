//! The write-ahead log: rows are on the disk before they are in a published file, so that a crash
//! loses none of them.
//!
//! Owns the bytes of its segments: making, appending, syncing, listing, reading, removing. Knows
//! nothing of Parquet, has no clock and no thread: times are arguments. What a recovered row becomes,
//! and when a segment may go, is for the caller.
//!
//! # Format, version 1
//!
//! A segment is the file `<run_id>_<number, 8 digits>.wal`: a header, then frames. Numbers are
//! little-endian.
//!
//! ```text
//! header   "flowlogW" | version u32 | length u32 | crc32c u32 | JSON of SegmentHeader, `length` bytes
//! frame    length u32 | crc32c u32 | kind u32 | rows u32 | first_seq i64 | complete_until_us i64 | payload
//! payload  kind 1, rows: bytes before compression u32 | columns, one LZ4 block      columns
//!          kind 2, mark: nothing
//! ```
//!
//! `length` counts what follows the checksum. The checksum is of `length` and of all that follows the
//! checksum. The rows of a frame have the numbers `first_seq`, `first_seq + 1` and so on.
//! `complete_until_us` says that all flows that were received before are in this frame and those
//! before it. How columns become bytes is told in `wal/columns.rs`.
//!
//! # Invariants
//!
//! A frame stands by itself: besides the header, nothing else is needed to read it. No good frame ever
//! follows a bad one: what could not be appended is cut off, and a segment where that failed, or whose
//! sync failed, takes no more frames. Reading never panics, never makes up a row, and says how much it
//! dropped and why.

mod bytes;
mod columns;
mod directory;
mod frame;
mod header;
mod log;
mod read;
mod segment;

pub use columns::{DecodeError, EncodeError};
pub use directory::{Listing, SegmentFile, remove, segments};
pub use header::{HeaderError, SegmentHeader};
pub use log::{Wal, WalError, WalSync};
pub use read::{Damage, DamageCause, Frame, Frames, ReadError, read};
pub use segment::Segment;

#[cfg(test)]
mod tests;
