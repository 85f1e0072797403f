//! Recovery: frames of a segment until its end, or until the first bad one.

use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::path::Path;

use arrow_array::RecordBatch;
use lz4_flex::block::decompress_into;

use super::bytes::Bytes;
use super::columns::{Columns, DecodeError, MAX_BYTES};
use super::frame::{Head, MARK, PREFIX_BYTES, ROWS, checksum};
use super::header::{self, HeaderError, SegmentHeader};

/// By how much LZ4 can make something smaller: a byte of a length stands for at most 255 others.
const MAX_RATIO: usize = 255;

/// A segment has no frames that can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read. It may be intact.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file does not begin as a segment does.
    #[error("dropped {bytes} bytes: {cause}")]
    Header {
        /// Size of the file.
        bytes: u64,
        /// What is wrong with its beginning.
        cause: HeaderError,
    },
}

/// A frame that was intact.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Its rows; `None` for a mark.
    pub batch: Option<RecordBatch>,
    /// All flows that were received before this time are in this frame and those before it;
    /// microseconds since 1970.
    pub complete_until_us: i64,
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
    /// The file ends within the frame: writing it was interrupted, or its length is damaged.
    #[error("the frame is cut off")]
    Torn,
    /// The bytes are not those that were written.
    #[error("the checksum of the frame is wrong")]
    Checksum,
    /// The frame is intact, but not of a kind that this flowlog knows.
    #[error("the frame has the unknown kind {kind}")]
    Kind {
        /// The kind.
        kind: u32,
    },
    /// The frame is intact, but its rows are not those of this flowlog.
    #[error("the frame cannot be decoded: {0}")]
    Content(#[from] DecodeError),
    /// The file cannot be read further. It may be intact.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The frames of a segment, in order. After an error there are no more.
#[derive(Debug)]
pub struct Frames<R> {
    reader: Chain<Cursor<Vec<u8>>, R>,
    /// Where the next frame begins.
    offset: u64,
    /// Bytes of the file from there on.
    remaining: u64,
    columns: Columns,
    rest: Vec<u8>,
    raw: Vec<u8>,
}

/// Opens a segment for recovery.
///
/// # Errors
///
/// No frame can be read; the error says whether the file may be intact.
pub fn read(path: &Path) -> Result<(SegmentHeader, Frames<BufReader<File>>), ReadError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Frames::new(BufReader::new(file), bytes)
}

impl<R: Read> Frames<R> {
    /// The frames of a segment of so many bytes.
    ///
    /// # Errors
    ///
    /// As [`read`].
    pub fn new(mut reader: R, bytes: u64) -> Result<(SegmentHeader, Self), ReadError> {
        let mut beginning = Vec::new();
        reader.by_ref().take(header::FIXED_BYTES).read_to_end(&mut beginning)?;
        // Whatever the length says, there is no more than the file has.
        reader.by_ref().take(header::json_bytes(&beginning).min(bytes)).read_to_end(&mut beginning)?;
        let mut rest = Bytes(&beginning);
        let header = header::parse(&mut rest).map_err(|cause| ReadError::Header { bytes, cause })?;

        let Bytes(rest) = rest;
        let header_bytes = beginning.len().saturating_sub(rest.len());
        let offset = u64::try_from(header_bytes).unwrap_or(u64::MAX);
        let mut beginning = Cursor::new(beginning);
        beginning.set_position(offset);
        let frames = Self {
            reader: beginning.chain(reader),
            offset,
            remaining: bytes.saturating_sub(offset),
            columns: Columns::new(),
            rest: Vec::new(),
            raw: Vec::new(),
        };
        Ok((header, frames))
    }

    /// The next frame and its size.
    fn frame(&mut self) -> Result<(Frame, u64), DamageCause> {
        let mut prefix = [0; PREFIX_BYTES];
        self.reader.read_exact(&mut prefix).map_err(torn)?;
        let mut fields = Bytes(&prefix);
        let (length, crc) = fields.u32().zip(fields.u32()).ok_or(DamageCause::Torn)?;

        // The length is not to be trusted before the checksum: what is not there is not asked for.
        let bytes = u64::try_from(PREFIX_BYTES).unwrap_or(u64::MAX).saturating_add(u64::from(length));
        let is_cut = bytes > self.remaining;
        let length_bytes = usize::try_from(length).ok().filter(|_| !is_cut).ok_or(DamageCause::Torn)?;
        self.rest.clear();
        self.rest.resize(length_bytes, 0);
        self.reader.read_exact(&mut self.rest).map_err(torn)?;
        if checksum(length, &self.rest) != crc {
            return Err(DamageCause::Checksum);
        }

        let mut payload = Bytes(&self.rest);
        let Head { kind, rows, first_seq, complete_until_us } =
            Head::parse(&mut payload).ok_or(DamageCause::Content(DecodeError::Cut))?;
        let batch = match kind {
            ROWS => Some(decode(&self.columns, rows, first_seq, payload, &mut self.raw)?),
            MARK => None,
            kind => return Err(DamageCause::Kind { kind }),
        };
        Ok((Frame { batch, complete_until_us }, bytes))
    }
}

impl<R: Read> Iterator for Frames<R> {
    type Item = Result<Frame, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.remaining == 0 {
            return None;
        }
        Some(match self.frame() {
            Ok((frame, bytes)) => {
                self.offset = self.offset.saturating_add(bytes);
                self.remaining = self.remaining.saturating_sub(bytes);
                Ok(frame)
            }
            Err(cause) => {
                let bytes = std::mem::take(&mut self.remaining);
                Err(Damage { offset: self.offset, bytes, cause })
            }
        })
    }
}

fn decode(
    columns: &Columns,
    rows: u32,
    first_seq: i64,
    mut payload: Bytes<'_>,
    raw: &mut Vec<u8>,
) -> Result<RecordBatch, DecodeError> {
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

/// The file became shorter than it was when it was opened.
fn torn(error: io::Error) -> DamageCause {
    if error.kind() == io::ErrorKind::UnexpectedEof { DamageCause::Torn } else { DamageCause::Io(error) }
}
