//! Files as lines, with their places.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, Take};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::{ImportError, Progress};
use crate::flow::Flow;
use crate::proc_net::parse::{self, Context, Line};

/// No line of connection tracking comes near to this: most have 300 bytes. It bounds the memory.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// Where a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was given.
    pub name: String,
    /// The number of the line, from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.line)
    }
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Where it is.
    pub place: Place,
    /// The number of the character from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place, self.column, self.what)
    }
}

/// A file that is to be read once or twice.
pub(super) struct Source {
    path: PathBuf,
    /// Its size; `None` where that is not known before it was read.
    bytes: Option<u64>,
    /// What was read of something that cannot be read twice.
    copy: Option<File>,
    /// Where it ends: it may grow while it is read.
    end_bytes: u64,
}

impl Source {
    /// A file that is there, or `-`.
    pub(super) fn find(path: impl AsRef<Path>) -> Result<Self, ImportError> {
        let path = path.as_ref().to_owned();
        let mut source = Self { path, bytes: None, copy: None, end_bytes: u64::MAX };
        if !source.is_stdin() {
            let found = fs::metadata(&source.path).map_err(|error| source.unreadable(error))?;
            // What is in /proc has no size, and is made anew each time that it is read.
            source.bytes = (found.is_file() && found.len() > 0).then_some(found.len());
        }
        Ok(source)
    }

    /// Its size, as far as that is known; sources that must be read to know it count as nothing.
    pub(super) fn known_bytes(&self) -> u64 {
        self.bytes.unwrap_or(0)
    }

    /// Makes a temporary copy of what can be read only once, such as a pipe.
    pub(super) fn make_repeatable(&mut self) -> Result<(), ImportError> {
        if self.bytes.is_none() {
            let copied = self.open().and_then(|mut file| {
                let mut copy = tempfile::tempfile()?;
                io::copy(&mut file, &mut copy)?;
                Ok(copy)
            });
            self.copy = Some(copied.map_err(|error| self.unreadable(error))?);
        }
        Ok(())
    }

    /// What comes after so many bytes is not read the next time.
    pub(super) fn end_after(&mut self, bytes: u64) {
        self.end_bytes = bytes;
    }

    /// Its lines from the beginning.
    pub(super) fn lines(&self) -> Result<Lines, ImportError> {
        let file = self.open().map_err(|error| self.unreadable(error))?;
        let reader = BufReader::with_capacity(256 << 10, file.take(self.end_bytes));
        Ok(Lines { name: self.name(), reader, line: 0, read_bytes: 0, told_bytes: 0, buffer: Vec::new() })
    }

    fn open(&self) -> io::Result<File> {
        match &self.copy {
            Some(copy) => {
                let mut copy = copy.try_clone()?;
                copy.rewind()?;
                Ok(copy)
            }
            None if self.is_stdin() => Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?)),
            None => File::open(&self.path),
        }
    }

    fn is_stdin(&self) -> bool {
        self.path == Path::new("-")
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn unreadable(&self, source: io::Error) -> ImportError {
        ImportError::Read { name: self.name(), source }
    }
}

/// The lines of a file.
pub(super) struct Lines {
    name: String,
    reader: BufReader<Take<File>>,
    /// The number of the line that was read last.
    line: u64,
    read_bytes: u64,
    /// How many of them are in the progress.
    told_bytes: u64,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line that is not empty.
    pub(super) fn next(
        &mut self,
        context: &Context<'_>,
    ) -> Result<Option<Result<Line, BadLine>>, ImportError> {
        loop {
            let unreadable = |source| ImportError::Read { name: self.name.clone(), source };
            self.buffer.clear();
            let mut read = self
                .reader
                .by_ref()
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut self.buffer)
                .map_err(unreadable)?;
            if read == 0 {
                return Ok(None);
            }
            let is_whole = self.buffer.ends_with(b"\n") || self.buffer.len() as u64 != MAX_LINE_BYTES;
            if !is_whole {
                read += self.reader.skip_until(b'\n').map_err(unreadable)?;
            }
            self.line += 1;
            self.read_bytes += read as u64;
            let line = self.buffer.trim_ascii_end();
            if !is_whole {
                let what = format!("found a line of {read} bytes, expected no more than {MAX_LINE_BYTES}");
                return Ok(Some(Err(self.bad(1, what))));
            }
            if !line.is_empty() {
                return Ok(Some(self.parse(line, context)));
            }
        }
    }

    fn parse(&self, line: &[u8], context: &Context<'_>) -> Result<Line, BadLine> {
        let text = std::str::from_utf8(line).map_err(|error| {
            let good = line.get(..error.valid_up_to()).unwrap_or_default();
            let column = String::from_utf8_lossy(good).chars().count() + 1;
            self.bad(column, "found bytes that are no UTF-8, expected text".to_owned())
        })?;
        parse::line(text, context).map_err(|error| self.bad(error.column, error.to_string()))
    }

    /// What the log takes from a line.
    pub(super) fn flow(&self, line: &Line) -> Result<Flow, BadLine> {
        Flow::try_from(&line.entry).map_err(|error| self.bad(1, error.to_string()))
    }

    /// What is wrong with the line that was read last, with its place.
    pub(super) fn check<T>(&self, checked: Result<T, &'static str>) -> Result<T, BadLine> {
        checked.map_err(|what| self.bad(1, what.to_owned()))
    }

    /// Where the line is that was read last.
    pub(super) fn place(&self) -> Place {
        Place { name: self.name.clone(), line: self.line }
    }

    /// How much was read.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Tells what was read since the last call.
    pub(super) fn add_progress(&mut self, progress: &mut Progress, each: &mut dyn FnMut(Progress)) {
        progress.done_bytes += self.read_bytes - self.told_bytes;
        self.told_bytes = self.read_bytes;
        each(*progress);
    }

    fn bad(&self, column: usize, what: String) -> BadLine {
        BadLine { place: self.place(), column, what }
    }
}
