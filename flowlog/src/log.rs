//! The flow log: from records to files, and from files to what is known of them.
//!
//! | module | owns | IO |
//! |---|---|---|
//! | [`disk`] | rights, durability, and which errors mean a full disk | disk |
//! | [`schema`] | record = row of a record batch; the only place that makes columns from records | no |
//! | [`wal`] | rows on the disk before they are published: segments, recovery | disk |
//! | [`ledger`] | the chain of what was written, lost and deleted | disk |
//! | [`writer`] | record batches = Parquet files: staging, rotation, publishing | disk |
//! | [`verify`] | whether a ledger and its files are what was written | reads |
//! | [`retention`] | which files may be deleted | no |
//! | [`store`] | the order in which write-ahead log, files and ledger are written; recovery | disk |

pub mod disk;

pub mod schema;

pub mod wal;

pub mod ledger;

pub mod writer;

pub mod verify;

pub mod retention;

pub mod store;
