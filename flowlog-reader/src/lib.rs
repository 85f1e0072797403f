//! The flow log as its readers need it: the formats of its files, and what it has of a time.
//!
//! Writes nothing, deletes nothing, and takes no lock that keeps a daemon from starting. What writes is in `flowlog`.
//!
//! | module | owns | IO |
//! |---|---|---|
//! | [`gaps`] | declared losses | no |
//! | [`run`] | what is said of a run | no |
//! | [`schema`] | the columns of both tables, by id | no |
//! | [`layout`] | what is where below the output directory, and what it is called | no |
//! | [`ledger`] | the lines of the ledger | reads |
//! | [`segments`] | the write-ahead log: segments, their headers, heads of frames | reads |
//! | [`directory`] | what is published, and whether a daemon has the directory | reads |
//! | [`read`] | the files and gaps of a time, and whether all of it is there | reads |
//!
//! A module uses only modules above it.

#![forbid(unsafe_code)]

pub mod gaps;
pub mod run;
pub mod schema;

pub mod layout;

pub mod ledger;

pub mod segments;

pub mod directory;

pub mod read;
