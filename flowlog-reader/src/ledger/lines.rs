//! The lines of a ledger one after the other, in bounded memory whatever the file holds.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::line::{BadLine, Hash, Line, MAX_LINE_BYTES};

/// A line as it is in the file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Counted from 1.
    pub number: u64,
    /// Where it begins.
    pub offset_bytes: u64,
    /// Its size without its newline.
    pub bytes: u64,
    /// The hash of these bytes.
    pub hash: Hash,
    /// Whether a newline ends it. Only the last line can have none.
    pub is_ended: bool,
    /// What it says.
    pub line: Result<Line, BadLine>,
}

impl Entry {
    /// Where the next line begins.
    pub fn end_bytes(&self) -> u64 {
        self.offset_bytes.saturating_add(self.bytes).saturating_add(u64::from(self.is_ended))
    }

    /// What it is where it is the last line and a crash can have left it so: a part of a line, or a
    /// block of the disk that was not written yet. A line that was changed is not taken for that.
    pub fn torn(&self) -> Option<Torn> {
        let is_torn = !self.is_ended || matches!(self.line, Err(BadLine::NotJson(_)));
        is_torn.then_some(Torn { line: self.number, bytes: self.bytes })
    }
}

/// What a crash left of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The number that the line would have had.
    pub line: u64,
    /// How much there was of it.
    pub bytes: u64,
}

/// Iterator over the lines of a ledger.
#[derive(Debug)]
pub struct Lines<R> {
    reader: BufReader<R>,
    /// Lines so far.
    number: u64,
    offset_bytes: u64,
    line: Vec<u8>,
    has_failed: bool,
}

/// The lines of the ledger at `path`.
///
/// # Errors
///
/// It cannot be opened.
pub fn lines(path: &Path) -> io::Result<Lines<File>> {
    Ok(Lines::new(File::open(path)?))
}

impl<R: Read> Lines<R> {
    /// The lines of what a reader gives.
    pub fn new(reader: R) -> Self {
        Self {
            reader: BufReader::with_capacity(64 << 10, reader),
            number: 0,
            offset_bytes: 0,
            line: Vec::new(),
            has_failed: false,
        }
    }

    fn read_line(&mut self) -> io::Result<Option<Entry>> {
        let mut hasher = Sha256::new();
        let mut bytes = 0_u64;
        self.line.clear();
        let is_ended = loop {
            let buffered = match self.reader.fill_buf() {
                Ok([]) if bytes == 0 => return Ok(None),
                Ok([]) => break false,
                Ok(buffered) => buffered,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let newline = buffered.iter().position(|&byte| byte == b'\n');
            let part = buffered.get(..newline.unwrap_or(buffered.len())).unwrap_or_default();
            hasher.update(part);
            bytes = bytes.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
            // A longer one is hashed and not kept.
            if self.line.len() <= MAX_LINE_BYTES {
                self.line.extend_from_slice(part);
            }
            let consumed = part.len().saturating_add(usize::from(newline.is_some()));
            self.reader.consume(consumed);
            if newline.is_some() {
                break true;
            }
        };
        self.number += 1;
        let line = if self.line.len() > MAX_LINE_BYTES {
            Err(BadLine::TooLong { bytes })
        } else {
            Line::decode(&self.line)
        };
        let entry = Entry {
            number: self.number,
            offset_bytes: self.offset_bytes,
            bytes,
            hash: hasher.into(),
            is_ended,
            line,
        };
        self.offset_bytes = entry.end_bytes();
        Ok(Some(entry))
    }
}

impl<R: Read> Iterator for Lines<R> {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let entry = self.read_line().transpose();
        self.has_failed = matches!(entry, Some(Err(_)));
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_take_bounded_memory() {
        let text = vec![b'['; 3 << 20];
        let mut lines = Lines::new(&text[..]);
        let entry = lines.next().unwrap().unwrap();
        assert_eq!(entry.line, Err(BadLine::TooLong { bytes: 3 << 20 }));
        assert_eq!((entry.hash, entry.is_ended), (Hash::of(&text), false));
        assert!(lines.line.capacity() < 1 << 20, "{}", lines.line.capacity());
        assert!(lines.next().is_none());
    }
}
