//! Files as lines, with their places.

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, Take};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::connections::proc_net::parse::{self, Context, Line};
use crate::flow::Flow;

/// No line of connection tracking comes near to this: most have 300 bytes. It bounds the memory.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// Fields that may have any bytes.
const NAMES: [&str; 2] = [" progname=", " secctx="];

/// What some editors and shells put in front of a text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// What is wrong with a last line that may be cut, even inside a number.
const NO_END: &str = "found a last line that has no end, expected a newline after it: it may be cut; add one if \
                      it is complete";

/// What may be done about a field that is not known.
const IGNORE_UNKNOWN: &str = "; --ignore-unknown leaves out fields and flags that are not known";

/// Where a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file as it was given.
    pub(super) name: String,
    /// The number of the line, from 1.
    pub(super) line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.line)
    }
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Where it is.
    pub(super) place: Place,
    /// The number of the character from 1.
    pub(super) column: usize,
    /// What is wrong.
    pub(super) what: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place, self.column, self.what)
    }
}

/// A file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{name}`")]
pub(super) struct Unreadable {
    /// As it was given.
    name: String,
    source: io::Error,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes that were read; where bad lines are not left out, all are read twice.
    pub done_bytes: u64,
    /// All bytes to read, as far as that is known.
    pub total_bytes: u64,
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
    pub(super) fn find(path: impl AsRef<Path>) -> Result<Self, Unreadable> {
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
    pub(super) fn make_repeatable(&mut self) -> Result<(), Unreadable> {
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
    pub(super) fn lines(&self) -> Result<Lines, Unreadable> {
        let file = self.open().map_err(|error| self.unreadable(error))?;
        let reader = BufReader::with_capacity(256 << 10, file.take(self.end_bytes));
        Ok(Lines {
            name: self.name(),
            reader,
            line: 0,
            read_bytes: 0,
            told_bytes: 0,
            notes: 0,
            lost: None,
            buffer: Vec::new(),
        })
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

    fn unreadable(&self, source: io::Error) -> Unreadable {
        Unreadable { name: self.name(), source }
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
    /// Lines and marks that are no entries, and no bad lines.
    notes: u64,
    /// Where conntrack(8) first said that it lost events.
    lost: Option<Place>,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line that is not empty.
    pub(super) fn next(
        &mut self,
        context: &Context<'_>,
    ) -> Result<Option<Result<Line, BadLine>>, Unreadable> {
        loop {
            let unreadable = |source| Unreadable { name: self.name.clone(), source };
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
            let has_end = self.buffer.ends_with(b"\n");
            let is_too_long = !has_end && self.buffer.len() as u64 == MAX_LINE_BYTES;
            if is_too_long {
                read += self.reader.skip_until(b'\n').map_err(unreadable)?;
            }
            self.line += 1;
            self.read_bytes += read as u64;
            let is_marked = self.line == 1 && self.buffer.starts_with(BYTE_ORDER_MARK);
            self.notes += u64::from(is_marked);
            let line = self.buffer.trim_ascii_end();
            let line = if is_marked { line.get(BYTE_ORDER_MARK.len()..).unwrap_or_default() } else { line };
            if is_too_long {
                let what = format!("found a line of {read} bytes, expected no more than {MAX_LINE_BYTES}");
                return Ok(Some(Err(self.bad(1, what))));
            }
            if let Some(note) = note(line) {
                self.notes += 1;
                if note == Note::Lost && self.lost.is_none() {
                    self.lost = Some(self.place());
                }
            } else if !line.is_empty() && !has_end {
                let column = String::from_utf8_lossy(line).chars().count() + 1;
                return Ok(Some(Err(self.bad(column, NO_END.to_owned()))));
            } else if !line.is_empty() {
                return Ok(Some(self.parse(line, context)));
            }
        }
    }

    fn parse(&self, line: &[u8], context: &Context<'_>) -> Result<Line, BadLine> {
        let text = match std::str::from_utf8(line) {
            Ok(text) => Cow::Borrowed(text),
            Err(error) => {
                let good = String::from_utf8_lossy(line.get(..error.valid_up_to()).unwrap_or_default());
                // Names that the kernel or conntrack(8) cut, and which have no column.
                if !NAMES.iter().any(|name| good.contains(name)) {
                    let what = "found bytes that are not UTF-8, expected text".to_owned();
                    return Err(self.bad(good.chars().count() + 1, what));
                }
                String::from_utf8_lossy(line)
            }
        };
        parse::line(&text, context).map_err(|error| {
            let lenient = Context { ignore_unknown: true, ..*context };
            let would_help = !context.ignore_unknown && parse::line(&text, &lenient).is_ok();
            let advice = if would_help { IGNORE_UNKNOWN } else { "" };
            self.bad(error.column, format!("{error}{advice}"))
        })
    }

    /// How many lines and marks were left out that are neither entries nor bad.
    pub(super) fn notes(&self) -> u64 {
        self.notes
    }

    /// Where conntrack(8) first said that it lost events.
    pub(super) fn lost(&self) -> Option<Place> {
        self.lost.clone()
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

/// What a line is that is no entry, and not bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    /// It says what conntrack(8) did, or is an expectation of a list of Linux before 2.6.9.
    Other,
    /// conntrack(8) says that it lost events.
    Lost,
}

/// Recognises what conntrack(8) says of itself, of all versions, and what lists have besides entries.
fn note(line: &[u8]) -> Option<Note> {
    let text = std::str::from_utf8(line).ok()?.trim_start();
    // `conntrack v1.4.7 (conntrack-tools): 3 flow entries have been shown.`
    let is_closing = || {
        let said = text.strip_prefix("conntrack v").and_then(|rest| rest.split_once(": "));
        said.is_some_and(|(_, said)| {
            said.ends_with('.') && [" have been ", " has been "].iter().any(|words| said.contains(words))
        })
    };
    if text.starts_with("WARNING: We have hit ENOBUFS!") {
        return Some(Note::Lost);
    }
    let is_other = text.starts_with("EXPECTING: ")
        || text.starts_with("NOTICE: Netlink socket buffer size has been set to ")
        || text.starts_with("This message means that the current netlink socket buffer size is too small.")
        || text.starts_with("Please, check --buffer-size in conntrack(8) manpage.")
        || is_closing();
    is_other.then_some(Note::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_conntrack_says_of_itself_is_no_entry() {
        for (line, expected) in [
            ("conntrack v1.4.7 (conntrack-tools): 3 flow entries have been shown.", Some(Note::Other)),
            ("conntrack v0.9.14 (conntrack-tools): 0 flow entries has been shown.", Some(Note::Other)),
            ("conntrack v0.9.7: 3 flow entries has been shown.", Some(Note::Other)),
            ("\tconntrack v1.4.4 (conntrack-tools): 17 flow entries have been deleted.", Some(Note::Other)),
            (
                "conntrack v1.4.7 (conntrack-tools): connection tracking table has been emptied.",
                Some(Note::Other),
            ),
            ("EXPECTING: - use=1 proto=6 src=10.0.0.1 dst=10.0.0.2 sport=0 dport=1200", Some(Note::Other)),
            ("NOTICE: Netlink socket buffer size has been set to 425984 bytes.", Some(Note::Other)),
            ("WARNING: We have hit ENOBUFS! We are losing events.", Some(Note::Lost)),
            ("conntrack v1.4.7 (conntrack-tools): Operation failed: such conntrack doesn't exist", None),
            ("conntrack v1.4.7 (conntrack-tools): 3 flow entries have been sho", None),
            ("tcp 6 src=192.0.2.1", None),
        ] {
            assert_eq!(note(line.as_bytes()), expected, "{line}");
        }
    }
}
