//! The ledger as text: what was written, lost and deleted, one line each, chained by hashes.
//!
//! Each line holds the hash of the bytes of the line before it, so that a change shows in all lines after it.

mod line;
mod lines;

pub use line::{
    BadLine, DeclaredGap, DeleteReason, Deleted, Event, Hash, Line, MAX_LINE_BYTES, NamespaceChange,
    Presence, PublishedFile, Recovered, Restart, Started, Stopped, Table,
};
pub use lines::{Entry, Lines, Torn, lines};

/// A text of a ledger for people: what somebody put into it must not steer their terminal.
pub fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
