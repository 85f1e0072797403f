//! The segments of the write-ahead log: which are there, and what is in them but for the rows themselves.
//!
//! # Format, version 2
//!
//! A segment is the file `<run_id>_<number, 8 digits>.wal`: a header, then frames. Numbers are
//! little-endian.
//!
//! ```text
//! header   "flowlogW" | version u32 | length u32 | crc32c u32 | JSON of SegmentHeader, `length` bytes
//! frame    length u32 | crc32c u32 | kind u32 | rows u32 | first_seq i64 | complete_until_us i64 | round u64
//!          | payload
//! payload  kind 1, rows: bytes before compression u32 | columns, one LZ4 block      columns
//!          kind 2, mark: nothing
//! ```
//!
//! `length` counts what follows the checksum. The checksum is of `length` and of all that follows the
//! checksum. The rows of a frame have the numbers `first_seq`, `first_seq + 1` and so on.
//! `complete_until_us` says that all flows that were received before are in this frame and those
//! before it, and `round` the same of a round of the memory into which flowlog receives. Version 1 has no `round`.

mod bytes;
mod frame;
mod frames;
mod header;
mod list;

pub use bytes::Bytes;
pub use frame::{HEAD_BYTES, Head, MARK, ROWS};
pub use frames::{Frame, FrameError, Frames, ReadError, open};
pub use header::{HeaderError, SegmentHeader};
pub use list::{Listing, SegmentFile, list};
