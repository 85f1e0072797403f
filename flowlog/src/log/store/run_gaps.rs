//! Losses on their way to the ledger and to the table of gaps.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flowlog_reader::gaps::{Gap, Pending};
use flowlog_reader::ledger::{DeclaredGap, Hash, PublishedFile, Table};
use flowlog_reader::run::RunFacts;

use crate::log::writer::{Directory, Fault, GapWriter};

/// The losses of one run.
pub(super) struct RunGaps {
    directory: Arc<Directory>,
    writer: GapWriter,
    undeclared: Pending,
    /// In the ledger, but in no file; in the order of their numbers.
    unpublished: Vec<DeclaredGap>,
    /// When the first of them was declared.
    since: SystemTime,
    last_gap: u64,
}

impl RunGaps {
    pub(super) fn new(directory: Arc<Directory>, facts: &RunFacts) -> Self {
        Self {
            directory,
            writer: GapWriter::new(facts),
            undeclared: Pending::default(),
            unpublished: Vec::new(),
            since: SystemTime::UNIX_EPOCH,
            last_gap: 0,
        }
    }

    /// Of a run that did not stop: what its ledger has, and no file.
    pub(super) fn of_ledger(directory: Arc<Directory>, facts: &RunFacts, gaps: Vec<DeclaredGap>) -> Self {
        Self { unpublished: gaps, ..Self::new(directory, facts) }
    }

    pub(super) fn add(&mut self, gap: Gap) {
        self.undeclared.add(gap);
    }

    /// Gives the losses that are not declared yet their numbers, for the ledger.
    pub(super) fn take_undeclared(&mut self, now: SystemTime) -> Vec<DeclaredGap> {
        let Self { undeclared, unpublished, since, last_gap, .. } = self;
        if undeclared.is_empty() {
            return Vec::new();
        }
        if unpublished.is_empty() {
            *since = now;
        }
        let number = |loss| {
            *last_gap += 1;
            DeclaredGap { gap: *last_gap, loss }
        };
        let declared: Vec<DeclaredGap> = undeclared.take().into_iter().map(number).collect();
        unpublished.extend_from_slice(&declared);
        declared
    }

    /// The earliest time of a loss that is not declared yet, in microseconds since 1970.
    pub(super) fn undeclared_since_us(&self) -> Option<i64> {
        self.undeclared.since_us()
    }

    /// What is in no file.
    pub(super) fn into_unpublished(self) -> Vec<DeclaredGap> {
        self.unpublished
    }

    /// Whether all losses are in files.
    pub(super) fn is_published(&self) -> bool {
        self.undeclared.is_empty() && self.unpublished.is_empty()
    }

    /// Whether a loss has waited for its file for so long.
    pub(super) fn is_file_due(&self, interval: Duration, now: SystemTime) -> bool {
        // A clock that was set back makes it due, too.
        !self.unpublished.is_empty() && now.duration_since(self.since).map_or(true, |age| age >= interval)
    }

    /// Publishes a file of losses, those of one day. `None` where there is nothing to publish.
    pub(super) fn publish(&mut self, now: SystemTime) -> Result<Option<PublishedFile>, Fault> {
        let day = |gap: &DeclaredGap| gap.loss.to_us.div_euclid(24 * 3_600_000_000);
        let in_one_file = |one: &DeclaredGap, next: &DeclaredGap| {
            day(one) == day(next) && one.gap.checked_add(1) == Some(next.gap)
        };
        let Some(of_day) = self.unpublished.chunk_by(in_one_file).next() else {
            return Ok(None);
        };
        let [first, .., last] = [of_day.first(), of_day.last()].map(|gap| gap.map_or(0, |gap| gap.gap));
        let gaps: Vec<Gap> = of_day.iter().map(|gap| gap.loss.clone()).collect();
        let path = self.writer.publish(&self.directory, first..=last, &gaps, now)?;
        self.unpublished.drain(..gaps.len());
        Ok(Some(gap_file(&path, first..=last, u64::try_from(gaps.len()).unwrap_or(u64::MAX))))
    }
}

/// A line of the ledger about a file of gaps; size and hash are still to be taken.
pub(super) fn gap_file(path: &Path, numbers: RangeInclusive<u64>, rows: u64) -> PublishedFile {
    PublishedFile {
        gap_first: Some(*numbers.start()),
        gap_last: Some(*numbers.end()),
        ..PublishedFile::new(Table::Gaps, path.display().to_string(), rows)
    }
}

/// Takes size and hash of the file, where that was not done.
pub(super) fn take_hash(line: &mut PublishedFile, directory: &Directory) -> std::io::Result<()> {
    if line.sha256 != Hash::ZERO {
        return Ok(());
    }
    match File::open(directory.root().join(&line.path)) {
        Ok(file) => (line.sha256, line.bytes) = Hash::of_reader(file, |_| {})?,
        // Somebody took it away already; its line says that it was there.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::warn!(
                path = line.path,
                "somebody removed a file right after it was published: its rows are gone"
            );
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
