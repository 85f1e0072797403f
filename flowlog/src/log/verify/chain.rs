//! The chain of the ledger's lines: whether each follows the one before.

use std::collections::VecDeque;

use flowlog_reader::ledger::{Entry, Hash, Line};
use jiff::Timestamp;

use super::report::{Check, Finding, Findings, Level};

/// How many lines back a file may have its hash of the ledger from. It is of the last line when the
/// file was finished, and few lines can come between.
const RECENT_LINES: usize = 1 << 16;

/// The chain up to a line.
#[derive(Debug)]
pub(super) struct Chain {
    tip: Hash,
    lines: u64,
    /// Whether the last line could be read.
    is_read: bool,
    last_time: Option<Timestamp>,
    /// Hashes of the last lines.
    recent: VecDeque<Hash>,
    /// A hash that was noted elsewhere and was not found yet.
    noted: Option<Hash>,
}

impl Chain {
    pub(super) fn new(noted: Option<Hash>) -> Self {
        Self { tip: Hash::ZERO, lines: 0, is_read: true, last_time: None, recent: VecDeque::new(), noted }
    }

    /// Takes the next line.
    pub(super) fn take(&mut self, entry: &Entry, findings: &mut Findings) {
        match &entry.line {
            Ok(line) => self.check(entry.number, line, findings),
            Err(bad) => {
                let finding = Finding::fault(Check::Line, bad.to_string());
                findings.add(finding.line(entry.number).expected("what flowlog wrote"));
            }
        }
        if !entry.is_ended && entry.line.is_ok() {
            let finding = Finding::fault(Check::Line, "has no newline: it was cut");
            findings.add(finding.line(entry.number));
        }
        self.is_read = entry.line.is_ok();
        self.tip = entry.hash;
        self.lines = entry.number;
        if self.recent.len() == RECENT_LINES {
            self.recent.pop_front();
        }
        self.recent.push_back(entry.hash);
        if self.noted == Some(entry.hash) {
            self.noted = None;
            let finding = Finding::new(Level::Information, Check::Tip, "the noted hash is that of this line");
            findings.add(finding.line(entry.number));
        }
    }

    fn check(&mut self, number: u64, line: &Line, findings: &mut Findings) {
        if line.prev != self.tip {
            let (expected, meaning) = match (self.lines, self.is_read) {
                (0, _) => ("64 zeros".to_owned(), "lines before it were removed".to_owned()),
                (before, true) => (
                    format!("{}, the hash of line {before}", self.tip),
                    format!("line {before} was changed, or lines were removed, added or moved between them"),
                ),
                (before, false) => {
                    (format!("{}, the hash of line {before}", self.tip), format!("line {before} was changed"))
                }
            };
            let finding = Finding::fault(
                Check::Chain,
                format!("follows a line with the hash {}: {meaning}", line.prev),
            );
            findings.add(finding.line(number).expected(expected));
        }
        if let Some(last_time) = self.last_time
            && line.time < last_time
        {
            let found = format!("has the time {}, but the line before has {last_time}", line.time);
            findings.add(
                Finding::new(Level::Warning, Check::Time, found)
                    .line(number)
                    .expected("times that do not go back"),
            );
        }
        self.last_time = Some(line.time);
    }

    /// Whether a line a while ago had this hash.
    pub(super) fn has(&self, hash: Hash) -> bool {
        self.recent.iter().rev().any(|recent| *recent == hash)
    }

    /// The hash of the last line.
    pub(super) fn tip(&self) -> Hash {
        self.tip
    }

    /// How many lines there were.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Says that the hash that was noted elsewhere was not found.
    pub(super) fn finish(&self, findings: &mut Findings) {
        if let Some(noted) = self.noted {
            let found = format!("no line has the noted hash {noted}: lines were removed or changed");
            findings.add(Finding::fault(Check::Tip, found).expected("a line with this hash"));
        }
    }
}
