//! The batch that is filled, the channel, and the writing side.

use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use arrow_array::RecordBatch;
use nix::time::ClockId;
use tokio::sync::mpsc;
use tracing::error;

use super::clock::now_ns;
use super::local::Local;
use super::{DRAIN_INTERVAL, one_line};
use crate::schema::FlowBatch;
use crate::writer::{Summary, WriteError, Writer};

/// How long a row waits in an unfinished batch.
const BATCH_AGE: Duration = Duration::from_secs(1);

/// Batches between the two sides: how far the writer may be behind before the reader stops, and the
/// socket buffer has to hold the flows.
const CHANNEL_BATCHES: usize = 16;

/// What goes to the writing side.
pub(super) enum ToWriter {
    Batch(RecordBatch),
    /// Finish what is old enough.
    Tick,
    /// Finish all files now.
    Rotate,
}

/// The batch that is filled now, and the way to the writing side.
pub(super) struct Output {
    pub(super) batch: FlowBatch,
    flushed: Instant,
    to_writer: mpsc::Sender<ToWriter>,
    writer: JoinHandle<Written>,
}

impl Output {
    pub(super) fn start(batch: FlowBatch, writer: Writer) -> Result<Self> {
        let (to_writer, from_reader) = mpsc::channel(CHANNEL_BATCHES);
        let writer = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || write(writer, from_reader))
            .context("cannot start the writing thread")?;
        Ok(Self { batch, flushed: Instant::now(), to_writer, writer })
    }

    /// Hands over a batch that has waited long enough.
    pub(super) async fn tick(&mut self, local: &mut Local) -> Result<()> {
        if self.flushed.elapsed() < BATCH_AGE {
            return Ok(());
        }
        local.tables.expire(now_ns(ClockId::CLOCK_REALTIME));
        local.say_evicted();
        self.flush(local).await?;
        self.send(ToWriter::Tick, local).await
    }

    /// Hands over what is in the batch.
    pub(super) async fn flush(&mut self, local: &mut Local) -> Result<()> {
        self.flushed = Instant::now();
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = self.batch.finish();
        self.send(ToWriter::Batch(batch), local).await
    }

    /// Waits for room in the channel. The ring buffer is small and must be read meanwhile; flows wait
    /// in the socket buffer.
    pub(super) async fn send(&self, message: ToWriter, local: &mut Local) -> Result<()> {
        let permit = loop {
            match tokio::time::timeout(DRAIN_INTERVAL, self.to_writer.reserve()).await {
                Ok(permit) => break permit.context("the writing thread has ended")?,
                Err(_elapsed) => local.drain()?,
            }
        };
        permit.send(message);
        Ok(())
    }

    /// Waits until everything is published.
    pub(super) fn finish(self) -> Written {
        drop(self.to_writer);
        self.writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What became of the rows.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) published: Summary,
    pub(super) lost_rows: u64,
}

/// The writing side. What cannot be written is lost, is said, and does not end the daemon.
fn write(mut writer: Writer, mut from_reader: mpsc::Receiver<ToWriter>) -> Written {
    let mut lost_rows = 0;
    let mut note = |result: Result<(), WriteError>| {
        if let Err(error) = result {
            lost_rows += error.rows;
            error!("{}", one_line(&error));
        }
    };
    while let Some(message) = from_reader.blocking_recv() {
        let now = SystemTime::now();
        note(match message {
            ToWriter::Batch(batch) => writer.append(&batch, now),
            ToWriter::Tick => writer.tick(now),
            ToWriter::Rotate => writer.rotate_all(),
        });
    }
    let (published, last) = writer.finish();
    note(last);
    Written { published, lost_rows }
}
