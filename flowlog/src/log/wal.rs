//! The write-ahead log: rows are on the disk before they are in a published file, so that a crash
//! loses none of them.
//!
//! Makes, syncs and removes segments, and turns rows into frames and back. Their format is in
//! [`flowlog_reader::segments`], that of the columns in `columns`. Knows nothing of Parquet, has no clock and no
//! thread: times are arguments. What a recovered row becomes, and when a segment may go, is for the caller.
//!
//! # Invariants
//!
//! A frame stands by itself: besides the header, nothing else is needed to read it. No good frame ever
//! follows a bad one: what could not be appended is cut off, and a segment where that failed, or whose
//! sync failed, takes no more frames. Reading never panics, never makes up a row, and says how much it
//! dropped and why.

mod columns;
mod directory;
mod log;
mod read;
mod segment;

pub use columns::{DecodeError, EncodeError};
pub use directory::remove;
pub use log::{Wal, WalError, WalSync};
pub use read::{Damage, DamageCause, Frame, Frames, read};
pub use segment::Segment;

#[cfg(test)]
mod tests;
