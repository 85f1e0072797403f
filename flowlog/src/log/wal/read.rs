//! Recovery: frames of a segment as rows, until its end or until the first bad one.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use arrow_array::RecordBatch;
use flowlog_reader::segments::{self, Bytes, FrameError, Head, MARK, ROWS, ReadError, SegmentHeader};
use lz4_flex::block::decompress_into;

use super::columns::{Columns, DecodeError, MAX_BYTES};

/// By how much LZ4 can make something smaller: a byte of a length stands for at most 255 others.
const MAX_RATIO: usize = 255;

/// A frame that was intact.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Its rows; `None` for a mark.
    pub batch: Option<RecordBatch>,
    /// All flows that were received before this time are in this frame and those before it;
    /// microseconds since 1970.
    pub complete_until_us: i64,
    /// See [`Head::round`].
    pub round: u64,
}

/// Where reading a segment stopped before its end.
#[derive(Debug, thiserror::Error)]
#[error("dropped {bytes} bytes from byte {offset} on: {cause}")]
pub struct Damage {
    /// Where the first bad frame begins.
    pub offset: u64,
    /// How much is there from it to the end of the file.
    pub bytes: u64,
    /// What is wrong with it.
    pub cause: DamageCause,
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum DamageCause {
    /// It is not intact, or cannot be read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame is intact, but not of a kind that this flowlog knows.
    #[error("the frame has the unknown kind {kind}")]
    Kind {
        /// The kind.
        kind: u32,
    },
    /// The frame is intact, but its rows are not those of this flowlog.
    #[error("the frame cannot be decoded: {0}")]
    Content(#[from] DecodeError),
}

/// The frames of a segment, in order. After an error there are no more.
#[derive(Debug)]
pub struct Frames<R> {
    frames: segments::Frames<R>,
    has_ended: bool,
    columns: Columns,
    raw: Vec<u8>,
}

/// Opens a segment for recovery.
///
/// # Errors
///
/// No frame can be read; the error says whether the file may be intact.
pub fn read(path: &Path) -> Result<(SegmentHeader, Frames<BufReader<File>>), ReadError> {
    let (header, frames) = segments::open(path)?;
    Ok((header, Frames::of(frames)))
}

impl<R: Read> Frames<R> {
    /// The frames of a segment of so many bytes.
    ///
    /// # Errors
    ///
    /// As [`read`].
    pub fn new(reader: R, bytes: u64) -> Result<(SegmentHeader, Self), ReadError> {
        let (header, frames) = segments::Frames::new(reader, bytes)?;
        Ok((header, Self::of(frames)))
    }

    fn of(frames: segments::Frames<R>) -> Self {
        Self { frames, has_ended: false, columns: Columns::new(), raw: Vec::new() }
    }
}

impl<R: Read> Iterator for Frames<R> {
    type Item = Result<Frame, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let (offset, bytes) = self.frames.position();
        let frame = self.frames.next_frame()?.map_err(DamageCause::from);
        let decoded = frame.and_then(|frame| {
            let Head { kind, rows, first_seq, complete_until_us, round } = frame.head;
            let batch = match kind {
                ROWS => Some(decode(&self.columns, rows, first_seq, frame.payload, &mut self.raw)?),
                MARK => None,
                kind => return Err(DamageCause::Kind { kind }),
            };
            Ok(Frame { batch, complete_until_us, round })
        });
        self.has_ended = decoded.is_err();
        Some(decoded.map_err(|cause| Damage { offset, bytes, cause }))
    }
}

fn decode(
    columns: &Columns,
    rows: u32,
    first_seq: i64,
    payload: &[u8],
    raw: &mut Vec<u8>,
) -> Result<RecordBatch, DecodeError> {
    let mut payload = Bytes(payload);
    let raw_bytes = payload.u32().and_then(|bytes| usize::try_from(bytes).ok()).ok_or(DecodeError::Cut)?;
    let Bytes(compressed) = payload;
    if raw_bytes > MAX_BYTES || raw_bytes / MAX_RATIO > compressed.len() {
        return Err(DecodeError::TooLarge { bytes: raw_bytes });
    }
    raw.clear();
    raw.resize(raw_bytes, 0);
    let found = decompress_into(compressed, raw)?;
    if found != raw_bytes {
        return Err(DecodeError::Cut);
    }
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    columns.decode(rows, first_seq, raw)
}
