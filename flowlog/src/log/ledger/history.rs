//! What a ledger says about earlier runs, as far as the next run has to know it.

use std::collections::BTreeMap;

use flowlog_reader::gaps::{Cause, Gap};
use flowlog_reader::ledger::{
    DeclaredGap, Entry, Event, Hash, Line, NamespaceChange, Presence, PublishedFile, Started, Table, Torn,
};
use jiff::Timestamp;
use uuid::Uuid;

/// What [`Ledger::open`](super::Ledger::open) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The last line that could be read, of the runs that watched.
    pub last: Option<LastLine>,
    /// The first line of the last run that watched.
    pub started: Option<Started>,
    /// Runs that neither stopped nor were recovered: ids of runs are in the order of their starts. This
    /// has each file of such a run, some MiB for one of a year.
    pub unfinished: BTreeMap<Uuid, UnfinishedRun>,
    /// What a crash left of a line, and was cut off.
    pub torn: Option<Torn>,
    /// Lines that are not what flowlog wrote, or not where it wrote them.
    pub damaged: Option<Damage>,
}

/// The end of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastLine {
    /// The run that wrote it.
    pub run_id: Uuid,
    /// When.
    pub time: Timestamp,
    /// Whether the run stopped by it.
    pub is_stop: bool,
    /// Until when that run watched, where it stopped; microseconds since 1970.
    pub complete_until_us: Option<i64>,
}

/// A run that did not stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfinishedRun {
    /// What it said when it began; `None` where that line cannot be read.
    pub started: Option<Started>,
    /// When it wrote its last line.
    pub last_time: Timestamp,
    /// Files with its rows, also those that a later run published in an unfinished recovery.
    pub files: Vec<PublishedFile>,
    /// Its gaps that no file has, by their number.
    pub gaps: BTreeMap<u64, Gap>,
    /// Whether it declared the time before it in which nobody watched.
    pub has_declared_down: bool,
}

/// Lines that are not what flowlog wrote, or not where it wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first of them.
    pub first_line: u64,
    /// How many.
    pub lines: u64,
}

impl History {
    /// Takes the next line, which follows one with the hash `prev`.
    pub(super) fn take(&mut self, entry: Entry, prev: Hash) {
        if entry.line.as_ref().map(|line| line.prev) != Ok(prev) {
            self.damaged.get_or_insert(Damage { first_line: entry.number, lines: 0 }).lines += 1;
        }
        let Ok(Line { prev: _, time, run_id, event }) = entry.line else { return };
        self.run(run_id, time).last_time = time;
        if let Event::Start(started) = &event {
            self.run(run_id, time).started = Some(started.clone());
            if !started.netns.is_empty() {
                self.started = Some(started.clone());
            }
        }
        let run = self.run(run_id, time);
        let import = run.started.as_ref().filter(|started| started.netns.is_empty());
        let complete_until_us = match (import, &event) {
            // It watched nothing, and knew better than the lines before since when nobody does: what a crash
            // had left told it, too.
            (Some(started), _) => started.unwatched_since_us,
            (None, Event::Stop(stopped)) => Some(stopped.complete_until_us),
            (None, _) => None,
        };
        if import.is_none() || complete_until_us.is_some() {
            let is_stop = complete_until_us.is_some();
            self.last = Some(LastLine { run_id, time, is_stop, complete_until_us });
        }
        let run = self.run(run_id, time);
        match event {
            Event::Start(_) => {}
            Event::Gap(DeclaredGap { gap, loss }) => {
                run.has_declared_down |= loss.cause == Cause::DaemonDown;
                run.gaps.insert(gap, loss);
            }
            Event::File(file) => {
                let run = self.run(file.of_run.unwrap_or(run_id), time);
                if let (Table::Gaps, Some(first), Some(last)) = (file.table, file.gap_first, file.gap_last) {
                    run.gaps.retain(|&gap, _| gap < first || gap > last);
                }
                run.files.push(file);
            }
            Event::Recover(recovered) => {
                self.unfinished.remove(&recovered.of_run);
            }
            Event::Stop(_) => {
                self.unfinished.remove(&run_id);
            }
            Event::Namespace(NamespaceChange { netns, change, .. }) => {
                let Some(started) = &mut self.started else { return };
                started.netns.retain(|known| *known != netns);
                if change == Presence::Came {
                    started.netns.push(netns);
                }
            }
            Event::Delete(_) | Event::Unknown => {}
        }
    }

    fn run(&mut self, run_id: Uuid, time: Timestamp) -> &mut UnfinishedRun {
        self.unfinished.entry(run_id).or_insert_with(|| UnfinishedRun {
            started: None,
            last_time: time,
            files: Vec::new(),
            gaps: BTreeMap::new(),
            has_declared_down: false,
        })
    }
}
