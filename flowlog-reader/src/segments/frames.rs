//! The frames of a segment, until its end or until the first bad one.

use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::path::Path;

use super::bytes::Bytes;
use super::frame::{Head, PREFIX_BYTES, checksum};
use super::header::{self, HeaderError, SegmentHeader};

/// The longest header: the longest field is the filter, which has at most 128 KiB.
const MAX_HEADER_BYTES: u64 = 1 << 20;

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

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The file ends within the frame: writing it was interrupted or goes on, or its length is damaged.
    #[error("the frame is cut off")]
    Torn,
    /// The bytes are not those that were written.
    #[error("the checksum of the frame is wrong")]
    Checksum,
    /// The file cannot be read further. It may be intact.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A frame that is intact.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What it says of itself.
    pub head: Head,
    /// What it holds, as it was written.
    pub payload: &'a [u8],
}

/// The frames of a segment, in order. After an error there are no more.
#[derive(Debug)]
pub struct Frames<R> {
    reader: Chain<Cursor<Vec<u8>>, R>,
    /// Where the next frame begins.
    offset: u64,
    /// Bytes of the file from there on.
    remaining: u64,
    rest: Vec<u8>,
    /// Of the format.
    version: u32,
}

/// Opens a segment, as far as it is written now.
///
/// # Errors
///
/// No frame can be read; the error says whether the file may be intact.
pub fn open(path: &Path) -> Result<(SegmentHeader, Frames<BufReader<File>>), ReadError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Frames::new(BufReader::new(file), bytes)
}

impl<R: Read> Frames<R> {
    /// The frames of a segment of so many bytes.
    ///
    /// # Errors
    ///
    /// As [`open`].
    pub fn new(mut reader: R, bytes: u64) -> Result<(SegmentHeader, Self), ReadError> {
        let mut beginning = Vec::new();
        reader.by_ref().take(header::FIXED_BYTES).read_to_end(&mut beginning)?;
        // Whatever the length says, there is no more than the file has.
        reader
            .by_ref()
            .take(header::json_bytes(&beginning).min(bytes).min(MAX_HEADER_BYTES))
            .read_to_end(&mut beginning)?;
        let mut rest = Bytes(&beginning);
        let (header, version) =
            header::parse(&mut rest).map_err(|cause| ReadError::Header { bytes, cause })?;

        let Bytes(rest) = rest;
        let header_bytes = beginning.len().saturating_sub(rest.len());
        let offset = u64::try_from(header_bytes).unwrap_or(u64::MAX);
        let mut beginning = Cursor::new(beginning);
        beginning.set_position(offset);
        let frames = Self {
            reader: beginning.chain(reader),
            offset,
            remaining: bytes.saturating_sub(offset),
            rest: Vec::new(),
            version,
        };
        Ok((header, frames))
    }

    /// The next frame; `None` at the end.
    pub fn next_frame(&mut self) -> Option<Result<Frame<'_>, FrameError>> {
        if self.remaining == 0 {
            return None;
        }
        let head = self.read();
        let head_bytes = Head::bytes_of(self.version);
        if head.is_err() {
            self.remaining = 0;
        }
        Some(head.map(|head| Frame { head, payload: self.rest.get(head_bytes..).unwrap_or_default() }))
    }

    /// Where the next frame begins, and how much is there from it to the end of the file.
    pub fn position(&self) -> (u64, u64) {
        (self.offset, self.remaining)
    }

    /// Reads the next frame into `rest`, from its head on.
    fn read(&mut self) -> Result<Head, FrameError> {
        let mut prefix = [0; PREFIX_BYTES];
        self.reader.read_exact(&mut prefix).map_err(torn)?;
        let mut fields = Bytes(&prefix);
        let (length, crc) = fields.u32().zip(fields.u32()).ok_or(FrameError::Torn)?;

        // The length is not to be trusted before the checksum: what is not there is not asked for.
        let bytes = u64::try_from(PREFIX_BYTES).unwrap_or(u64::MAX).saturating_add(u64::from(length));
        let is_cut = bytes > self.remaining;
        let length_bytes = usize::try_from(length).ok().filter(|_| !is_cut).ok_or(FrameError::Torn)?;
        self.rest.clear();
        self.rest.resize(length_bytes, 0);
        self.reader.read_exact(&mut self.rest).map_err(torn)?;
        if checksum(length, &self.rest) != crc {
            return Err(FrameError::Checksum);
        }
        let head = Head::parse(&mut Bytes(&self.rest), self.version).ok_or(FrameError::Checksum)?;
        self.offset = self.offset.saturating_add(bytes);
        self.remaining = self.remaining.saturating_sub(bytes);
        Ok(head)
    }
}

/// The file became shorter than it was when it was opened.
fn torn(error: io::Error) -> FrameError {
    if error.kind() == io::ErrorKind::UnexpectedEof { FrameError::Torn } else { FrameError::Io(error) }
}
