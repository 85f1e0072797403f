//! The writing side: a thread that takes batches from the channel to the disk, and tries again while the disk refuses.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use arrow_array::RecordBatch;
use flowlog_common::heap;
use flowlog_reader::gaps::{Cause, Gap};
use flowlog_reader::ledger::NamespaceChange;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use super::confined;
use crate::causes::one_line;
use crate::commands::metrics::{Metrics, set};
use crate::host::confinement::ConfinementError;
use crate::log::store::{Store, Summary};

/// How long the writing side waits before it tries again what the disk refused.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What goes to the writing side.
pub(super) enum ToWriter {
    Batch {
        rows: RecordBatch,
        /// All flows that ended before this time are in this batch or in earlier ones.
        complete_until_us: i64,
        /// And all that were received in this round or in earlier ones.
        round: u64,
    },
    Gaps(Vec<Gap>),
    /// Finish what is old enough. What ended before this time was handed over.
    Tick {
        complete_until_us: i64,
    },
    /// Finish all files now.
    Rotate,
    /// A network namespace came or went. Of one that went, all rows were handed over.
    Namespace(NamespaceChange),
}

/// What the two sides know of each other besides the channel.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// Why nothing can be written now; 0 where it can.
    trouble: AtomicU8,
    give_up: AtomicBool,
    /// Up to which round the write-ahead log has all rows.
    durable_round: AtomicU64,
    /// How many messages with gaps are in the ledger, or wait for it.
    declared: AtomicU64,
}

impl Status {
    const DISK_FULL: u8 = 1;
    const WAL_ERROR: u8 = 2;

    /// Why nothing can be written now.
    pub(super) fn cause(&self) -> Option<Cause> {
        match self.trouble.load(Ordering::Relaxed) {
            Self::DISK_FULL => Some(Cause::DiskFull),
            Self::WAL_ERROR => Some(Cause::WalError),
            _ => None,
        }
    }

    fn set_cause(&self, cause: Option<Cause>) {
        let trouble = match cause {
            None => 0,
            Some(Cause::DiskFull) => Self::DISK_FULL,
            Some(_) => Self::WAL_ERROR,
        };
        self.trouble.store(trouble, Ordering::Relaxed);
    }

    /// Up to which round the write-ahead log has all rows.
    pub(super) fn durable_round(&self) -> u64 {
        self.durable_round.load(Ordering::Relaxed)
    }

    /// How many messages with gaps were taken.
    pub(super) fn declared(&self) -> u64 {
        self.declared.load(Ordering::Relaxed)
    }

    /// Asks the writing side to end without publishing, and without waiting for the disk.
    pub(super) fn give_up(&self) {
        self.give_up.store(true, Ordering::Relaxed);
    }

    fn is_given_up(&self) -> bool {
        self.give_up.load(Ordering::Relaxed)
    }
}

/// What became of the rows.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) published: Summary,
    /// Everything is published. Else the rest is in the write-ahead log.
    pub(super) is_complete: bool,
    pub(super) lost_rows: u64,
}

/// Starts the thread, which can write below `output` only, or says why it can write elsewhere. The result comes when the
/// channel was closed and all is written.
pub(super) fn start_writer(
    store: Store,
    output: PathBuf,
    from_reader: mpsc::Receiver<ToWriter>,
    status: Arc<Status>,
    metrics: Metrics,
) -> Result<(oneshot::Receiver<Written>, Result<(), ConfinementError>)> {
    let (done, written) = oneshot::channel();
    let (confined, of_writer) = sync_channel(1);
    std::thread::Builder::new()
        .name("writer".to_owned())
        .spawn(move || {
            let _ = confined.send(confined::writing_side(&output));
            // Nobody waits any more where the stop has run out of time.
            let _ = done.send(write(store, from_reader, &status, &metrics));
        })
        .context("cannot start the writing thread")?;
    let confined = of_writer.recv().context("the writing thread ended at once")?;
    Ok((written, confined))
}

/// Rows that come and go in between leave holes in the heap that together are as large as they were.
const MANY_ROWS: usize = 100_000;

fn write(
    mut store: Store,
    mut from_reader: mpsc::Receiver<ToWriter>,
    status: &Status,
    metrics: &Metrics,
) -> Written {
    let mut lost_rows = 0;
    store.recover(SystemTime::now());
    heap::give_back();
    let mut rows_since_given_back = 0;
    while let Some(message) = from_reader.blocking_recv() {
        let now = SystemTime::now();
        let files = store.summary().files;
        let is_tick = matches!(message, ToWriter::Tick { .. });
        match message {
            ToWriter::Batch { rows, complete_until_us, round } => {
                rows_since_given_back += rows.num_rows();
                // After lost rows there are no others: what comes after the last one is not watched.
                if lost_rows > 0 || !append(&mut store, &rows, (complete_until_us, round), status) {
                    lost_rows += u64::try_from(rows.num_rows()).unwrap_or(u64::MAX);
                } else {
                    status.durable_round.store(round, Ordering::Relaxed);
                }
            }
            ToWriter::Gaps(gaps) => {
                store.declare(gaps, now);
                status.declared.fetch_add(1, Ordering::Relaxed);
            }
            ToWriter::Tick { complete_until_us } if lost_rows == 0 => store.tick(complete_until_us, now),
            ToWriter::Tick { .. } => {}
            ToWriter::Rotate => store.rotate(now),
            ToWriter::Namespace(change) => store.namespace(change, now),
        }
        if store.summary().files > files || is_tick && rows_since_given_back >= MANY_ROWS {
            heap::give_back();
            rows_since_given_back = 0;
        }
        update_metrics(metrics, &store);
    }
    let publish = !status.is_given_up() && lost_rows == 0;
    let (published, is_complete) = store.finish(publish, SystemTime::now());
    Written { published, is_complete, lost_rows }
}

fn update_metrics(metrics: &Metrics, store: &Store) {
    let Summary { files, rows, bytes } = store.summary();
    set(&metrics.files_published, files);
    set(&metrics.rows_published, rows);
    set(&metrics.bytes_published, bytes);
    metrics.set_losses(store.declared());
    metrics.wal_bytes.set(store.wal_bytes());
}

/// Takes a batch into the write-ahead log; tries until that succeeds, or nobody waits for it any more.
/// Meanwhile the channel fills, and the kernel holds the flows. Says whether it was taken.
fn append(
    store: &mut Store,
    rows: &RecordBatch,
    (complete_until_us, round): (i64, u64),
    status: &Status,
) -> bool {
    loop {
        let now = SystemTime::now();
        match store.append(rows, complete_until_us, round, now) {
            Ok(()) => {
                if status.cause().is_some() {
                    info!("flows are written again");
                    status.set_cause(None);
                }
                return true;
            }
            Err(refused) => {
                // Once, and not each second.
                if status.cause().is_none() {
                    error!(
                        "cannot write flows: {}; the kernel holds them for now, and they are lost if this lasts; \
                         flowlog tries again each second",
                        one_line(&refused)
                    );
                }
                status.set_cause(Some(refused.cause()));
            }
        }
        if status.is_given_up() {
            error!("{} flows are lost: flowlog stopped before it could write them", rows.num_rows());
            return false;
        }
        std::thread::sleep(RETRY_INTERVAL);
        store.tick(i64::MIN, SystemTime::now());
    }
}
