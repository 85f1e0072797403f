//! Rows of segments become files: what the write-ahead log is for.

use std::io;
use std::path::{Path, PathBuf};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::ArrowError;
use arrow_select::filter::filter_record_batch;
use flowlog_reader::gaps::{Cause, Gap, Stage};
use flowlog_reader::segments::{FrameError, HeaderError, ReadError};
use rangemap::RangeInclusiveSet;
use tracing::{error, warn};

use crate::causes::one_line;
use crate::log::wal::{self, Damage, DamageCause, Frame, Segment};
use crate::log::writer::seqs;

/// Segments of the run itself whose rows were dropped from memory, because their files could not be
/// written.
#[derive(Debug, Default)]
pub(super) struct Conversion(Vec<Segment>);

impl Conversion {
    pub(super) fn add(&mut self, segments: Vec<Segment>) {
        self.0.extend(segments);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.0
    }

    pub(super) fn into_segments(self) -> Vec<Segment> {
        self.0
    }
}

/// What reading segments gave, besides their rows.
#[derive(Debug, Default)]
pub(super) struct Readout {
    /// Rows that were handed on.
    pub(super) rows: u64,
    /// Rows that are in published files, or were handed on before.
    pub(super) already_published: u64,
    /// All flows that were received before this time were in the log.
    pub(super) complete_until_us: Option<i64>,
    /// What of that was known before the first damage.
    pub(super) intact_until_us: Option<i64>,
    /// Bytes that could not be read, and why the first of them could not.
    pub(super) dropped_bytes: u64,
    pub(super) dropped_reason: Option<String>,
    /// Segments that are damaged, not just torn at their end, which is how a crash leaves them.
    pub(super) damaged: Vec<PathBuf>,
}

impl Readout {
    /// What is lost by damage, of a run that began then.
    pub(super) fn gap(&self, began_us: i64, to_us: i64) -> Option<Gap> {
        if self.damaged.is_empty() {
            return None;
        }
        let from_us = self.intact_until_us.unwrap_or(began_us).min(to_us);
        let detail = self.dropped_reason.clone();
        Some(Gap { lost_flows: None, detail, ..Gap::new(Cause::WalError, Stage::Recover, from_us, to_us) })
    }
}

/// Reads the rows of segments, and hands those on that are not published. Where the process that wrote them
/// was killed, the last segment may be torn at its end; in any other place that is damage.
///
/// # Errors
///
/// A segment cannot be read now, or its rows cannot be taken.
pub(super) fn read_out(
    segments: &[PathBuf],
    was_killed: bool,
    published: &RangeInclusiveSet<i64>,
    mut each: impl FnMut(RecordBatch, &Path) -> Result<(), Fault>,
) -> Result<Readout, Fault> {
    let mut readout = Readout::default();
    let mut taken = published.clone();
    for (index, path) in segments.iter().enumerate() {
        let may_be_torn = was_killed && index + 1 == segments.len();
        let frames = match wal::read(path) {
            Ok((_, frames)) => frames,
            // Nothing can be done about it by waiting.
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                readout.drop_bytes(0, format!("`{}` was removed", path.display()));
                readout.is_damaged(path);
                continue;
            }
            Err(ReadError::Io(error)) => return Err(error.into()),
            Err(ReadError::Header { bytes, cause }) => {
                // One that was killed while it made a segment had written no rows to it.
                if !(may_be_torn && matches!(cause, HeaderError::Torn)) {
                    readout.is_damaged(path);
                }
                readout.drop_bytes(bytes, cause.to_string());
                continue;
            }
        };
        for frame in frames {
            let Frame { batch, complete_until_us, round: _ } = match frame {
                Ok(frame) => frame,
                Err(Damage { cause: DamageCause::Frame(FrameError::Io(error)), .. }) => {
                    return Err(error.into());
                }
                Err(damage) => {
                    if !(may_be_torn && matches!(damage.cause, DamageCause::Frame(FrameError::Torn))) {
                        readout.is_damaged(path);
                    }
                    readout.drop_bytes(damage.bytes, damage.to_string());
                    break;
                }
            };
            // The last one counts, not the largest: the clock may have been set back.
            readout.complete_until_us = Some(complete_until_us);
            let Some(batch) = batch else { continue };
            let new = take_new(&batch, &mut taken)?;
            let (all, new_rows) = (batch.num_rows(), new.num_rows());
            readout.already_published += u64::try_from(all - new_rows).unwrap_or(u64::MAX);
            readout.rows += u64::try_from(new_rows).unwrap_or(u64::MAX);
            if new_rows > 0 {
                each(new, path)?;
            }
        }
    }
    Ok(readout)
}

impl Readout {
    fn is_damaged(&mut self, path: &Path) {
        if self.damaged.is_empty() {
            self.intact_until_us = self.complete_until_us;
        }
        self.damaged.push(path.to_owned());
    }

    fn drop_bytes(&mut self, bytes: u64, reason: String) {
        self.dropped_bytes += bytes;
        self.dropped_reason.get_or_insert(reason);
    }
}

/// The rows whose number is not in the set. Then it is: somebody may have put back a copy of a segment.
fn take_new(batch: &RecordBatch, taken: &mut RangeInclusiveSet<i64>) -> Result<RecordBatch, Fault> {
    let seqs = seqs(batch).map_err(|error| Fault(one_line(&error)))?.values();
    let is_new: BooleanArray = seqs.iter().map(|seq| Some(!taken.contains(seq))).collect();
    // The numbers of a frame have no holes.
    if let (Some(first), Some(last)) = (seqs.first(), seqs.last()) {
        taken.insert(*first..=*last);
    }
    Ok(filter_record_batch(batch, &is_new)?)
}

/// Moves a damaged segment out of the way, so that it is looked at by people and not at each start.
pub(super) fn set_aside(path: &Path) {
    let aside = path.with_extension("wal.damaged");
    match std::fs::rename(path, &aside) {
        Ok(()) => error!(
            "rows are declared as lost: cannot read a segment of the write-ahead log to its end; it is kept as `{}`",
            aside.display()
        ),
        Err(error) => warn!(
            "rows are declared as lost: the segment `{}` is damaged, and cannot be renamed: {error}",
            path.display()
        ),
    }
}

/// Why rows could not be taken.
pub(super) struct Fault(pub(super) String);

impl From<ArrowError> for Fault {
    fn from(error: ArrowError) -> Self {
        Self(error.to_string())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}
