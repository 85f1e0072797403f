//! What a verification says.

use flowlog_reader::gaps::{Cause, Gap};
use flowlog_reader::ledger::Hash;
use serde::Serialize;

/// Findings that are kept. More are counted: a ledger of another host alone would make millions.
const MAX_FINDINGS: usize = 1000;

/// How much of a text from a ledger or a file goes into a finding.
const MAX_TEXT_CHARS: usize = 400;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Good to know.
    Information,
    /// Unusual; nothing is missing without a declaration.
    Warning,
    /// The log is not what flowlog wrote, or not all of it.
    Fault,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Each line has the hash of the line before.
    Chain,
    /// A line of the ledger by itself.
    Line,
    /// The order of times.
    Time,
    /// Where runs begin and end.
    Run,
    /// A file that the ledger names.
    File,
    /// The numbers of the rows of a run.
    Rows,
    /// The gaps of a run, and their files.
    Gaps,
    /// Hashes of the ledger that are noted elsewhere.
    Tip,
    /// Files that the ledger does not name.
    Foreign,
    /// The end of the ledger.
    End,
    /// What an unfinished run left.
    Leftover,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub check: Check,
    /// Line of the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// File or directory, below the output directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What was found.
    pub found: String,
    /// What was expected instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
}

impl Finding {
    pub(super) fn new(level: Level, check: Check, found: impl Into<String>) -> Self {
        Self { level, check, line: None, path: None, found: shortened(found.into()), expected: None }
    }

    pub(super) fn fault(check: Check, found: impl Into<String>) -> Self {
        Self::new(Level::Fault, check, found)
    }

    pub(super) fn line(self, line: u64) -> Self {
        Self { line: Some(line), ..self }
    }

    pub(super) fn path(self, path: &str) -> Self {
        Self { path: Some(shortened(path.to_owned())), ..self }
    }

    pub(super) fn expected(self, expected: impl Into<String>) -> Self {
        Self { expected: Some(shortened(expected.into())), ..self }
    }
}

fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT_CHARS) {
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) kept: Vec<Finding>,
    pub(super) faults: u64,
    pub(super) warnings: u64,
    pub(super) not_kept: u64,
}

impl Findings {
    pub(super) fn add(&mut self, finding: Finding) {
        match finding.level {
            Level::Fault => self.faults += 1,
            Level::Warning => self.warnings += 1,
            Level::Information => {}
        }
        if self.kept.len() < MAX_FINDINGS {
            self.kept.push(finding);
        } else {
            self.not_kept += 1;
        }
    }
}

/// The declared losses of one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GapTotal {
    /// Why.
    pub cause: Cause,
    /// How many gaps.
    pub gaps: u64,
    /// Flows that are missing, where that is known.
    pub lost_flows: u64,
    /// Gaps of which it is not known how many flows are missing.
    pub unknown: u64,
    /// Begin of the first, microseconds since 1970.
    pub from_us: i64,
    /// End of the last.
    pub to_us: i64,
}

/// Adds a gap to the total of its cause.
pub(super) fn add_gap(totals: &mut Vec<GapTotal>, gap: &Gap) {
    let Gap { from_us, to_us, cause, lost_flows, .. } = *gap;
    let known = totals.iter().position(|total| total.cause == cause);
    let mut total = known.map(|known| totals.swap_remove(known)).unwrap_or(GapTotal {
        cause,
        gaps: 0,
        lost_flows: 0,
        unknown: 0,
        from_us,
        to_us,
    });
    total.gaps += 1;
    total.lost_flows = total.lost_flows.saturating_add(lost_flows.unwrap_or(0));
    total.unknown += u64::from(lost_flows.is_none());
    total.from_us = total.from_us.min(from_us);
    total.to_us = total.to_us.max(to_us);
    totals.push(total);
}

/// The outcome of a verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether there is no fault.
    pub ok: bool,
    /// Whether a daemon writes to the directory.
    pub in_use: bool,
    /// Lines of the ledger.
    pub lines: u64,
    /// Runs that began.
    pub runs: u64,
    /// Files that were checked.
    pub files: u64,
    /// Files that were deleted, with a line that says so.
    pub deleted_files: u64,
    /// Rows of flows in the files that were checked.
    pub rows: u64,
    /// Size of these files.
    pub bytes: u64,
    /// Declared losses, also those of deleted files.
    pub gaps: Vec<GapTotal>,
    /// What was found, in the order of the ledger.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more_findings: u64,
    /// How many of all findings are faults.
    pub faults: u64,
    /// How many are warnings.
    pub warnings: u64,
    /// The hash of the last line, to be noted elsewhere.
    pub tip: Hash,
}
