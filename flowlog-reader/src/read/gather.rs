//! What the lines of a ledger say of a time.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::unpublished::{self, Logs};
use super::{Completeness, Contents, Deletions, LoggedFile, LoggedGap, Window};
use crate::gaps::{Cause, Gap, Stage};
use crate::ledger::{DeclaredGap, Entry, Event, Hash, Line, PublishedFile, Started, Table};

/// All lines up to one.
pub(super) struct Gather {
    window: Window,
    tip: Hash,
    /// Kept back, since only the last line can be unfinished.
    last: Option<Entry>,
    unread_lines: u64,
    /// Files of the time; `None` for those that are deleted.
    files: Vec<Option<LoggedFile>>,
    /// Where they are in `files`.
    paths: HashMap<String, usize>,
    deleted: Deletions,
    gaps: Vec<LoggedGap>,
    runs: BTreeMap<Uuid, Run>,
}

/// A run, as far as it matters for what is complete.
#[derive(Default)]
struct Run {
    /// When it wrote its first line, in microseconds since 1970.
    began_us: i64,
    /// Whether it watched, and was no import.
    has_watched: bool,
    is_filtered: bool,
    /// Since when nobody had watched before it.
    unwatched_since_us: Option<i64>,
    /// Whether it has declared that.
    has_declared_down: bool,
    /// Its files, by the highest `seq` and the number of rows; none where it has ended.
    files: Vec<(i64, u64)>,
    end: Option<End>,
}

/// How a run has ended.
enum End {
    /// It stopped, and all is published that ended before this time.
    Stopped { complete_until_us: i64 },
    /// A later run has published its rows, and declared since when nobody watched.
    Recovered,
}

impl Gather {
    pub(super) fn new(window: Window) -> Self {
        Self {
            window,
            tip: Hash::ZERO,
            last: None,
            unread_lines: 0,
            files: Vec::new(),
            paths: HashMap::new(),
            deleted: Deletions::default(),
            gaps: Vec::new(),
            runs: BTreeMap::new(),
        }
    }

    /// Takes the next line.
    pub(super) fn take(&mut self, entry: Entry) {
        if let Some(before) = self.last.replace(entry) {
            self.read(before);
        }
    }

    fn read(&mut self, entry: Entry) {
        let prev = std::mem::replace(&mut self.tip, entry.hash);
        let line = match entry.line {
            Ok(line) => line,
            Err(_) => {
                self.unread_lines += 1;
                return;
            }
        };
        // What it says counts all the same.
        self.unread_lines += u64::from(line.prev != prev || matches!(line.event, Event::Unknown));
        let Line { prev: _, time, run_id, event } = line;
        let time_us = time.as_microsecond();
        self.runs.entry(run_id).or_insert_with(|| Run { began_us: time_us, ..Run::default() });
        match event {
            Event::Start(started) => self.start(run_id, &started),
            Event::File(file) => self.file(run_id, file),
            Event::Gap(DeclaredGap { gap, loss }) => self.gap(run_id, gap, loss),
            Event::Recover(recovered) => self.end(recovered.of_run, End::Recovered),
            Event::Stop(stopped) => {
                self.end(run_id, End::Stopped { complete_until_us: stopped.complete_until_us });
            }
            Event::Delete(deleted) => self.delete(&deleted.path),
            Event::Unknown => {}
        }
    }

    fn start(&mut self, run_id: Uuid, started: &Started) {
        let run = self.runs.entry(run_id).or_default();
        run.has_watched = !started.netns.is_empty();
        run.is_filtered = started.filter.is_some();
        run.unwatched_since_us = started.unwatched_since_us;
    }

    fn file(&mut self, run_id: Uuid, file: PublishedFile) {
        let run_id = file.of_run.unwrap_or(run_id);
        let is_wanted = match file.table {
            Table::Flows => {
                let seq_last = file.seq_last.unwrap_or(i64::MAX);
                self.runs.entry(run_id).or_default().files.push((seq_last, file.rows));
                let times = file.end_time_min_us.zip(file.end_time_max_us);
                times.is_none_or(|(min_us, max_us)| self.window.overlaps(min_us, max_us))
            }
            // The lines of its gaps are before it.
            Table::Gaps => self.gaps.iter().any(|gap| {
                let is_in = |number| file.gap_first <= Some(number) && Some(number) <= file.gap_last;
                gap.run_id == run_id && gap.number.is_some_and(is_in)
            }),
        };
        if is_wanted {
            self.paths.insert(file.path.clone(), self.files.len());
            self.files.push(Some(LoggedFile { run_id, file }));
        }
    }

    fn gap(&mut self, run_id: Uuid, number: u64, loss: Gap) {
        if loss.cause == Cause::DaemonDown {
            self.runs.entry(run_id).or_default().has_declared_down = true;
        }
        if self.window.overlaps(loss.from_us, loss.to_us) {
            self.gaps.push(LoggedGap { run_id, number: Some(number), loss });
        }
    }

    fn end(&mut self, run_id: Uuid, end: End) {
        let run = self.runs.entry(run_id).or_default();
        run.end = Some(end);
        run.files = Vec::new();
    }

    fn delete(&mut self, path: &str) {
        let Some(file) = self.paths.remove(path).and_then(|index| self.files.get_mut(index)?.take()) else {
            return;
        };
        if file.file.table == Table::Flows {
            self.deleted.files += 1;
            self.deleted.rows = self.deleted.rows.saturating_add(file.file.rows);
        }
    }

    /// The ledger has ended.
    pub(super) fn finish(mut self, logs: &Logs) -> Contents {
        // A line that is being written, or that a crash has torn, says nothing yet: whatever the write-ahead log knows
        // of came before it.
        if let Some(last) = self.last.take().filter(|last| last.is_ended) {
            self.read(last);
        }
        let watched_since_us = self.watched().map(|run| run.began_us).min();
        let known_until_us = self.known_until_us(logs);
        let Self { window, tip, last: _, unread_lines, files, paths: _, deleted, mut gaps, mut runs } = self;
        for (run_id, run) in &runs {
            // The run has begun and is about to declare it.
            if let Some(since_us) = run.unwatched_since_us
                && run.has_watched
                && !run.has_declared_down
                && window.overlaps(since_us, run.began_us)
            {
                let (from_us, to_us) = (since_us.min(run.began_us), run.began_us);
                let loss =
                    Gap { lost_flows: None, ..Gap::new(Cause::DaemonDown, Stage::Receive, from_us, to_us) };
                gaps.push(LoggedGap { run_id: *run_id, number: None, loss });
            }
        }
        let from_us = window.from_us.or(watched_since_us);
        let until_us = window.until_us.or(known_until_us);
        // Until when a run watched that was killed is known by the next one at the latest.
        let mut next_began_us = i64::MAX;
        let mut ends_us = BTreeMap::new();
        for (run_id, run) in runs.iter().rev() {
            let end_us = match run.end {
                Some(End::Stopped { complete_until_us }) => complete_until_us,
                Some(End::Recovered) | None => next_began_us,
            };
            ends_us.insert(*run_id, end_us);
            next_began_us = run.began_us;
        }
        runs.retain(|run_id, run| {
            let end_us = ends_us.get(run_id).copied().unwrap_or(i64::MAX);
            run.has_watched && window.overlaps(run.began_us, end_us)
        });
        let completeness = Completeness {
            from_us,
            until_us,
            runs: u64::try_from(runs.len()).unwrap_or(u64::MAX),
            is_filtered: runs.values().any(|run| run.is_filtered),
            gaps,
            unpublished_since_us: known_until_us
                .filter(|&known_us| until_us.is_some_and(|until_us| known_us < until_us)),
            unwatched_until_us: watched_since_us
                .filter(|&since_us| from_us.is_some_and(|from_us| from_us < since_us)),
            deleted,
            missing: Vec::new(),
            unread_lines,
        };
        Contents { files: files.into_iter().flatten().collect(), completeness, tip }
    }

    fn watched(&self) -> impl Iterator<Item = &Run> {
        self.runs.values().filter(|run| run.has_watched)
    }

    /// Until when all is known and published.
    fn known_until_us(&mut self, logs: &Logs) -> Option<i64> {
        let mut known_until_us = None;
        for (run_id, run) in &mut self.runs {
            known_until_us = match run.end {
                Some(End::Stopped { complete_until_us }) if run.has_watched => Some(complete_until_us),
                // The next run declares since when nobody watched.
                Some(End::Recovered) if run.has_watched => known_until_us,
                // An import watches nothing, and knows since when nobody does.
                Some(_) => run.unwatched_since_us.or(known_until_us),
                // What later runs know comes after what is not published of this one.
                None if run.has_watched => {
                    let steps = logs.get(run_id).map(Vec::as_slice).unwrap_or_default();
                    let published_seq = unpublished::published_seq(&mut run.files);
                    let until_us = unpublished::published_until_us(steps, published_seq);
                    return Some(until_us.unwrap_or(run.began_us));
                }
                // The rows of an import are of any time.
                None => return Some(self.window.from_us.unwrap_or(run.began_us)),
            };
        }
        known_until_us
    }
}
