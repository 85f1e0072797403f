//! The batch that is filled, the channel, and what waits for room in it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use flowlog_reader::gaps::{Gap, Pending};
use flowlog_reader::ledger::NamespaceChange;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::clock::now_us;
use super::counts::Counts;
use super::writing::{Status, ToWriter, Written, start_writer};
use crate::commands::metrics::Metrics;
use crate::connections::ctnetlink::DATAGRAMS;
use crate::host::confinement::ConfinementError;
use crate::log::schema::FlowBatch;
use crate::log::store::Store;
use crate::record::{FlowRecord, Sink};

/// Rows that a batch has at most. More make this side hold more memory, fewer make the other side slower. A
/// power of two: columns grow by doubling, so one row more would take twice the memory.
const BATCH_ROWS: usize = 8192;

/// How long a row waits in an unfinished batch.
const BATCH_AGE: Duration = Duration::from_secs(1);

/// Batches between the two sides: how far the writer may be behind before the reader stops, and the
/// kernel has to hold the flows.
const CHANNEL_BATCHES: usize = 8;

/// The batch that is filled now, and the way to the writing side. Never waits: where the channel has no
/// room, a message stays here, and the caller reads no more flows.
pub(super) struct Output {
    batch: FlowBatch,
    pub(super) gaps: Pending,
    pub(super) counts: Counts,
    /// When it began to take flows.
    pub(super) began_us: i64,
    /// All flows that ended before this time were read.
    pub(super) complete_until_us: i64,
    ticked: Instant,
    /// Of the rows in the batch: see `in_flight`.
    round: u64,
    /// Of the rows that were handed over last.
    sent_round: u64,
    /// How many messages with gaps were handed over.
    sent_gaps: u64,
    /// What found no room, oldest first: at most the batch, and what a stop or a rotation adds.
    waiting: VecDeque<ToWriter>,
    to_writer: mpsc::Sender<ToWriter>,
    pub(super) status: Arc<Status>,
    written: oneshot::Receiver<Written>,
}

impl Sink for Output {
    fn record(&mut self, record: &FlowRecord<'_>) {
        self.counts.rows.add(record);
        self.batch.append(record);
    }

    fn lose(&mut self, gap: Gap) {
        self.gaps.add(gap);
    }
}

impl Output {
    /// Starts the writing side, and says what became of its confinement to the directory. The rows that come first are of
    /// this `round`.
    pub(super) fn start(
        batch: FlowBatch,
        store: Store,
        directory: PathBuf,
        metrics: Metrics,
        round: u64,
    ) -> Result<(Self, Result<(), ConfinementError>)> {
        let (to_writer, from_reader) = mpsc::channel(CHANNEL_BATCHES);
        let status = Arc::new(Status::default());
        let began_us = now_us();
        // What an earlier run did not read is still to be read.
        let complete_until_us = store.restart().map_or(began_us, |restart| restart.since_us);
        let (written, confined) = start_writer(store, directory, from_reader, Arc::clone(&status), metrics)?;
        let output = Self {
            batch,
            gaps: Pending::default(),
            counts: Counts::default(),
            began_us,
            complete_until_us,
            ticked: Instant::now(),
            round,
            sent_round: 0,
            sent_gaps: 0,
            waiting: VecDeque::new(),
            to_writer,
            status,
            written,
        };
        Ok((output, confined))
    }

    /// The round of the rows in the batch.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// Up to which round all rows are in the write-ahead log.
    pub(super) fn settled_round(&self) -> u64 {
        let durable = self.status.durable_round();
        // What had no rows since is settled, too.
        if durable >= self.sent_round { self.round - 1 } else { durable }
    }

    /// The round that has the last row.
    pub(super) fn last_round(&self) -> u64 {
        if self.batch.is_empty() { self.round - 1 } else { self.round }
    }

    /// Begins another round: there is no room for more datagrams of this one.
    pub(super) fn end_round(&mut self) -> Result<()> {
        // As long as earlier rows are not in the write-ahead log, it would free nothing.
        if self.batch.is_empty() && self.status.durable_round() >= self.sent_round {
            self.round += 1;
        }
        self.flush()
    }

    /// Hands over the rows that are there. Those that follow are of another round, which an earlier process began.
    pub(super) fn set_round(&mut self, round: u64) -> Result<()> {
        self.flush()?;
        self.round = round;
        Ok(())
    }

    /// Whether there are losses that are not declared yet.
    pub(super) fn has_undeclared(&self) -> bool {
        self.gaps.loses_flows() || self.sent_gaps != self.status.declared()
    }

    /// Whether the writing side is behind, so that no more flows can be taken.
    pub(super) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Waits until the channel has room.
    pub(super) async fn room(&self) -> Result<()> {
        self.to_writer.reserve().await.map(drop).map_err(|_closed| writer_ended())
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn send_waiting(&mut self) -> Result<()> {
        while let Some(message) = self.waiting.pop_front() {
            match self.to_writer.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => {
                    self.waiting.push_front(message);
                    break;
                }
                Err(TrySendError::Closed(_)) => return Err(writer_ended()),
            }
        }
        Ok(())
    }

    /// Hands the batch over where it has no room for all that one read may bring.
    pub(super) fn flush_if_full(&mut self) -> Result<()> {
        if self.batch.len() + DATAGRAMS > BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    /// Once a second: hands over what is there.
    pub(super) fn tick(&mut self) -> Result<()> {
        if self.ticked.elapsed() < BATCH_AGE || self.is_blocked() {
            return Ok(());
        }
        self.ticked = Instant::now();
        self.flush()?;
        self.send(ToWriter::Tick { complete_until_us: self.complete_until_us })
    }

    /// Hands over what is there, and finishes all files.
    pub(super) fn rotate(&mut self) -> Result<()> {
        self.flush()?;
        if self.waiting.iter().any(|message| matches!(message, ToWriter::Rotate)) {
            return Ok(());
        }
        self.send(ToWriter::Rotate)
    }

    /// Hands over the last of all.
    pub(super) fn flush_last(&mut self) -> Result<()> {
        self.flush()?;
        self.send(ToWriter::Tick { complete_until_us: self.complete_until_us })
    }

    /// Hands over the rows and the losses that are there.
    pub(super) fn flush(&mut self) -> Result<()> {
        if !self.gaps.is_empty() {
            let gaps: Vec<Gap> = self.gaps.take();
            self.sent_gaps += 1;
            self.send(ToWriter::Gaps(gaps))?;
        }
        if !self.batch.is_empty() {
            let rows = self.batch.finish();
            let Self { complete_until_us, round, .. } = *self;
            self.sent_round = round;
            self.round += 1;
            self.send(ToWriter::Batch { rows, complete_until_us, round })?;
        }
        Ok(())
    }

    /// Hands over that a network namespace came or went, after its rows.
    pub(super) fn namespace(&mut self, change: NamespaceChange) -> Result<()> {
        self.flush()?;
        self.send(ToWriter::Namespace(change))
    }

    fn send(&mut self, message: ToWriter) -> Result<()> {
        self.waiting.push_back(message);
        self.send_waiting()
    }

    /// How many messages wait for the writing side, and how many can before no more flows are taken.
    pub(super) fn queue(&self) -> (u64, u64) {
        let max = self.to_writer.max_capacity();
        let waiting = max.saturating_sub(self.to_writer.capacity()) + self.waiting.len();
        (waiting as u64, max as u64)
    }

    /// Lets the writing side finish: nothing more comes.
    pub(super) fn close(self) -> oneshot::Receiver<Written> {
        drop(self.to_writer);
        self.written
    }
}

fn writer_ended() -> anyhow::Error {
    anyhow!("the writing thread ended unexpectedly")
}
