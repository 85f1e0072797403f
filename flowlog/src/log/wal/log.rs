//! Appending: batches become frames of the current segment.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use flowlog_reader::segments::{self, HEAD_BYTES, Head, MARK, ROWS, SegmentHeader};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use uuid::Uuid;

use crate::log::disk::is_full;

use super::columns::{Columns, EncodeError, MAX_BYTES};
use super::directory;
use super::segment::{OpenSegment, Segment};

/// When appended frames become durable against a power failure. A crash of the process loses none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalSync {
    /// By [`Wal::sync_if_due`], when so much time has passed since the sync before.
    Interval(Duration),
    /// Before [`Wal::append`] returns.
    Batch,
    /// When the kernel writes it.
    Off,
}

impl Default for WalSync {
    fn default() -> Self {
        Self::Interval(Duration::from_secs(1))
    }
}

impl fmt::Display for WalSync {
    /// As it is configured.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interval(interval) => humantime::format_duration(*interval).fmt(f),
            Self::Batch => f.write_str("batch"),
            Self::Off => f.write_str("off"),
        }
    }
}

/// The log of one run, for appending.
///
/// It never touches a segment that exists: a new one gets the next number.
#[derive(Debug)]
pub struct Wal {
    directory: PathBuf,
    run_id: Uuid,
    /// What each segment begins with.
    header: Vec<u8>,
    sync: WalSync,
    next_number: u64,
    pub(super) current: Option<OpenSegment>,
    sealed: Vec<Segment>,
    last_sync: Option<Instant>,
    /// Of the last frame with rows.
    round: u64,
    encoder: Encoder,
}

/// What can go wrong with the log. It can be used further in any case.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The directory cannot be read at the start.
    #[error("cannot read the directory `{}` of the write-ahead log", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The frame is not in the log, nor a part of it. It can be appended again.
    #[error("cannot append to the write-ahead log in `{}`", path.display())]
    Append {
        /// The segment, or the directory where no segment could be made.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The batch cannot be in a log. Appending it again does not help.
    #[error("cannot log a batch of {rows} rows")]
    Encode {
        /// Its rows.
        rows: usize,
        /// The cause.
        source: EncodeError,
    },
    /// The frames are in the log, but a power failure may lose some of them. Later ones are in another
    /// segment.
    #[error("cannot sync `{}`: {rows} rows are not safe from a power failure", path.display())]
    Sync {
        /// The segment.
        path: PathBuf,
        /// Rows that were appended since the sync before.
        rows: u64,
        /// The cause.
        source: io::Error,
    },
}

impl WalError {
    /// Whether the log has the frame all the same.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Sync { .. })
    }

    /// Whether there is no space, or no more of it for this user.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Directory { source, .. } | Self::Append { source, .. } | Self::Sync { source, .. } => {
                is_full(source)
            }
            Self::Encode { .. } => false,
        }
    }
}

impl Wal {
    /// A log that makes its segments in this directory. No segment is made before the first frame.
    ///
    /// # Errors
    ///
    /// The directory exists and cannot be read.
    pub fn open(directory: PathBuf, header: &SegmentHeader, sync: WalSync) -> Result<Self, WalError> {
        let run_id = header.run_id;
        let result = segments::list(&directory)
            .and_then(|listing| Ok((listing, header.to_bytes().map_err(io::Error::from)?)));
        let (listing, header) = match result {
            Ok(both) => both,
            Err(source) => return Err(WalError::Directory { path: directory, source }),
        };
        let own = listing.segments.iter().filter(|segment| segment.run_id == run_id);
        let last_number = own.map(|segment| segment.number).max().unwrap_or(0);
        Ok(Self {
            directory,
            run_id,
            header,
            sync,
            next_number: last_number.saturating_add(1),
            current: None,
            sealed: Vec::new(),
            last_sync: None,
            round: 0,
            encoder: Encoder::new(),
        })
    }

    /// Appends rows made by [`FlowBatch`](crate::log::schema::FlowBatch). `complete_until_us` says that all
    /// flows that were received before are in the log after this frame; microseconds since 1970. `round` says the same of
    /// a round of receiving ([`Head::round`]).
    ///
    /// # Errors
    ///
    /// See [`WalError`]: where [`WalError::is_taken`] is false, the log is as it was.
    pub fn append(
        &mut self,
        batch: &RecordBatch,
        complete_until_us: i64,
        round: u64,
    ) -> Result<(), WalError> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let first_seq = self
            .encoder
            .rows(batch, complete_until_us, round)
            .map_err(|source| WalError::Encode { rows, source })?;
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        let current = self.append_frame()?;
        current.unsynced_rows = current.unsynced_rows.saturating_add(rows);
        current.segment.rows = current.segment.rows.saturating_add(rows);
        current.segment.last_seq = Some(first_seq.saturating_add_unsigned(rows.saturating_sub(1)));
        self.round = round;
        self.sync_if_each_batch()
    }

    /// Says that all flows that were received before are in the log, where there is no row to say it
    /// with. Costs 40 bytes, and a sync.
    ///
    /// # Errors
    ///
    /// See [`WalError`].
    pub fn mark(&mut self, complete_until_us: i64) -> Result<(), WalError> {
        self.encoder
            .mark(complete_until_us, self.round)
            .map_err(|source| WalError::Encode { rows: 0, source })?;
        self.append_frame()?;
        self.sync_if_each_batch()
    }

    /// Syncs where [`WalSync::Interval`] asks for it. To be called about as often.
    ///
    /// # Errors
    ///
    /// See [`WalError::Sync`].
    pub fn sync_if_due(&mut self, now: Instant) -> Result<(), WalError> {
        let WalSync::Interval(interval) = self.sync else { return Ok(()) };
        let is_due = |last: Instant| now.saturating_duration_since(last) >= interval;
        if self.last_sync.is_none_or(is_due) {
            self.last_sync = Some(now);
            self.sync_current()?;
        }
        Ok(())
    }

    /// Ends the current segment; the next frame begins a new one. The ended one is synced, unless
    /// syncing is [`WalSync::Off`], and [`Wal::take_sealed`] tells it.
    ///
    /// # Errors
    ///
    /// See [`WalError::Sync`]; the segment has ended all the same.
    pub fn seal(&mut self) -> Result<(), WalError> {
        let synced = if self.sync == WalSync::Off { Ok(()) } else { self.sync_current() };
        self.end_segment();
        synced
    }

    /// The segment that takes the next frame, if there is one yet.
    pub fn current(&self) -> Option<&Segment> {
        self.current.as_ref().map(|current| &current.segment)
    }

    /// Rows that a power failure now may lose; a crash of the process loses none.
    pub fn unsynced_rows(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.unsynced_rows)
    }

    /// The segments that have ended, by [`Wal::seal`] or by an error, since this was last asked. To be
    /// removed with [`remove`](super::remove) when their rows are published.
    pub fn take_sealed(&mut self) -> Vec<Segment> {
        std::mem::take(&mut self.sealed)
    }

    /// Appends the frame of the encoder.
    fn append_frame(&mut self) -> Result<&mut OpenSegment, WalError> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => self.create_segment()?,
        };
        match current.append(self.encoder.frame()) {
            Ok(()) => Ok(self.current.insert(current)),
            Err(source) => {
                let path = current.segment.path.clone();
                if current.is_broken {
                    self.sealed.push(current.segment);
                } else {
                    self.current = Some(current);
                }
                Err(WalError::Append { path, source })
            }
        }
    }

    fn create_segment(&mut self) -> Result<OpenSegment, WalError> {
        let number = self.next_number;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| WalError::Append { path, source }
        };
        let (path, file) =
            directory::create(&self.directory, self.run_id, number).map_err(failed(&self.directory))?;
        // Also where the header cannot be written: the name is taken then.
        self.next_number = number.saturating_add(1);
        let mut segment = OpenSegment::new(path.clone(), file);
        segment.append(&self.header).map_err(|source| {
            // Without its header it has nothing to lose, and may stay where it cannot be removed.
            let _ = directory::remove(&path);
            failed(&path)(source)
        })?;
        Ok(segment)
    }

    fn sync_if_each_batch(&mut self) -> Result<(), WalError> {
        if self.sync == WalSync::Batch { self.sync_current() } else { Ok(()) }
    }

    fn sync_current(&mut self) -> Result<(), WalError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let Err(source) = current.sync() else { return Ok(()) };
        let (path, rows) = (current.segment.path.clone(), current.unsynced_rows);
        // The kernel may have dropped the pages, and would say nothing at the next sync.
        self.end_segment();
        Err(WalError::Sync { path, rows, source })
    }

    fn end_segment(&mut self) {
        self.sealed.extend(self.current.take().map(|current| current.segment));
    }
}

/// Makes frames in buffers that are used again.
struct Encoder {
    columns: Columns,
    /// The columns before compression.
    raw: Vec<u8>,
    frame: Vec<u8>,
    table: CompressTable,
}

impl Encoder {
    fn new() -> Self {
        Self { columns: Columns::new(), raw: Vec::new(), frame: Vec::new(), table: CompressTable::default() }
    }

    /// The frame that was made last.
    fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Makes a frame of rows and returns the number of the first.
    fn rows(&mut self, batch: &RecordBatch, complete_until_us: i64, round: u64) -> Result<i64, EncodeError> {
        let Self { columns, raw, frame, table } = self;
        raw.clear();
        let first_seq = columns.encode(batch, raw)?;
        let too_large = EncodeError::TooLarge { bytes: raw.len() };
        let raw_bytes = match u32::try_from(raw.len()) {
            Ok(raw_bytes) if raw.len() <= MAX_BYTES => raw_bytes,
            _ => return Err(too_large),
        };

        frame.clear();
        frame.resize(HEAD_BYTES, 0);
        frame.extend_from_slice(&raw_bytes.to_le_bytes());
        let start = frame.len();
        frame.resize(start + get_maximum_output_size(raw.len()), 0);
        let (_, room) = frame.split_at_mut(start);
        let compressed = compress_into_with_table(raw, room, table)?;
        frame.truncate(start + compressed);

        let rows =
            u32::try_from(batch.num_rows()).map_err(|_| EncodeError::TooLong { rows: batch.num_rows() })?;
        let head = Head { kind: ROWS, rows, first_seq, complete_until_us, round };
        head.seal(frame).ok_or(too_large)?;
        Ok(first_seq)
    }

    /// Makes a frame without rows.
    fn mark(&mut self, complete_until_us: i64, round: u64) -> Result<(), EncodeError> {
        self.frame.clear();
        self.frame.resize(HEAD_BYTES, 0);
        let head = Head { kind: MARK, rows: 0, first_seq: 0, complete_until_us, round };
        head.seal(&mut self.frame).ok_or(EncodeError::TooLarge { bytes: HEAD_BYTES })
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}
