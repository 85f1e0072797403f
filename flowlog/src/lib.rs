//! flowlog records every finished connection that the kernel's connection tracking saw, with the
//! kernel's final counters, NAT, and the local process at each end, in Parquet files.
//!
//! This is the library behind the `flowlog` command: plain values, and five wings.
//!
//! | module | owns |
//! |---|---|
//! | [`causes`] | errors as one line of the log |
//! | [`time`] | units of time, and what is made of what |
//! | [`flow`] | a tracked connection, as the kernel describes it |
//! | [`record`] | what one row says of a flow, before it is columns |
//! | [`connections`] | what connection tracking says: over netlink and in text, which flows are recorded, which ended |
//! | [`host`] | what flowlog needs of the machine, and what identifies it |
//! | [`attribution`] | sockets and processes from eBPF and /proc, and the join of a flow with them |
//! | [`log`] | columns, write-ahead log, files, ledger; recovery, retention, verification |
//! | [`commands`] | what a user starts: `run` (the daemon), `doctor`, `verify`, `import`, `schema`, `conntrack` |
//!
//! A module uses only modules above it, here and in the list of its wing. `flowlog/tests/architecture.rs` checks
//! that, and that modules that are said to have no IO have none.

#![forbid(unsafe_code)]

pub mod causes;
pub mod time;

pub mod flow;
pub mod record;

pub mod connections;
pub mod host;

pub mod attribution;

pub mod log;

pub mod commands;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(any(test, fuzzing))]
mod testing;
