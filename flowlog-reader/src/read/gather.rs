//! What the lines of a ledger say of a time.

use std::collections::HashMap;

use uuid::Uuid;

use super::unpublished::{self, Logs};
use super::{Completeness, Contents, Deletions, LoggedFile, LoggedGap, Window};
use crate::gaps::{Cause, Gap, Stage, unnoticed_since_us};
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
    /// In the order in which they began, which the clock may not tell.
    runs: Vec<Run>,
    /// Where they are in `runs`.
    numbers: HashMap<Uuid, usize>,
}

/// A run, as far as it matters for what is complete.
struct Run {
    run_id: Uuid,
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
            runs: Vec::new(),
            numbers: HashMap::new(),
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
        self.run(run_id, time_us);
        match event {
            Event::Start(started) => self.start(run_id, time_us, &started),
            Event::File(file) => self.file(run_id, time_us, file),
            Event::Gap(gap) => self.gap(run_id, time_us, gap),
            Event::Recover(recovered) => self.end(recovered.of_run, time_us, End::Recovered),
            Event::Stop(stopped) => {
                let complete_until_us = stopped.complete_until_us;
                self.end(run_id, time_us, End::Stopped { complete_until_us });
            }
            Event::Delete(deleted) => self.delete(&deleted.path),
            Event::Namespace(_) | Event::Unknown => {}
        }
    }

    /// The run, which is there from this line on at the latest.
    fn run(&mut self, run_id: Uuid, time_us: i64) -> &mut Run {
        let Self { runs, numbers, .. } = self;
        let number = *numbers.entry(run_id).or_insert(runs.len());
        if number == runs.len() {
            runs.push(Run {
                run_id,
                began_us: time_us,
                has_watched: false,
                is_filtered: false,
                unwatched_since_us: None,
                has_declared_down: false,
                files: Vec::new(),
                end: None,
            });
        }
        // It is there: it was pushed now or before.
        #[expect(clippy::indexing_slicing, reason = "numbers are those of runs that are there")]
        &mut runs[number]
    }

    fn start(&mut self, run_id: Uuid, time_us: i64, started: &Started) {
        let run = self.run(run_id, time_us);
        run.has_watched = !started.netns.is_empty();
        run.is_filtered = started.filter.is_some();
        run.unwatched_since_us = started.unwatched_since_us;
    }

    fn file(&mut self, run_id: Uuid, time_us: i64, file: PublishedFile) {
        let run_id = file.of_run.unwrap_or(run_id);
        let is_wanted = match file.table {
            Table::Flows => {
                let seq_last = file.seq_last.unwrap_or(i64::MAX);
                self.run(run_id, time_us).files.push((seq_last, file.rows));
                let times = file.end_time_min_us.zip(file.end_time_max_us);
                times.is_none_or(|(min_us, max_us)| self.window.overlaps(min_us, max_us))
            }
            // The lines of its gaps are before it.
            Table::Gaps => self.gaps.iter().rev().any(|gap| {
                let is_in = |number| file.gap_first <= Some(number) && Some(number) <= file.gap_last;
                gap.run_id == run_id && gap.number.is_some_and(is_in)
            }),
        };
        if is_wanted {
            self.paths.insert(file.path.clone(), self.files.len());
            self.files.push(Some(LoggedFile { run_id, file }));
        }
    }

    fn gap(&mut self, run_id: Uuid, time_us: i64, gap: DeclaredGap) {
        let DeclaredGap { gap: number, loss } = gap;
        if loss.cause == Cause::DaemonDown {
            self.run(run_id, time_us).has_declared_down = true;
        }
        if self.window.overlaps(loss.from_us, loss.to_us) {
            self.gaps.push(LoggedGap { run_id, number: Some(number), loss });
        }
    }

    fn end(&mut self, run_id: Uuid, time_us: i64, end: End) {
        let run = self.run(run_id, time_us);
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
        let watched_since_us = self.runs.iter().find(|run| run.has_watched).map(|run| run.began_us);
        let known_until_us = self.known_until_us(logs, watched_since_us);
        let Self { window, tip: _, last: _, unread_lines, files, paths: _, deleted, mut gaps, runs, .. } =
            self;
        for run in &runs {
            // The run has begun and is about to declare it.
            if let Some(since_us) = run.unwatched_since_us
                && run.has_watched
                && !run.has_declared_down
            {
                let (from_us, to_us) = (since_us.min(run.began_us), since_us.max(run.began_us));
                let loss =
                    Gap { lost_flows: None, ..Gap::new(Cause::DaemonDown, Stage::Receive, from_us, to_us) };
                if window.overlaps(from_us, to_us) {
                    gaps.push(LoggedGap { run_id: run.run_id, number: None, loss });
                }
            }
        }
        let from_us = window.from_us.or(watched_since_us);
        let until_us = window.until_us.or(known_until_us);
        // A run that was killed watched until the next one began, at the latest.
        let nexts_us = runs.iter().skip(1).map(|run| run.began_us).chain([i64::MAX]);
        let has_watched = |(run, next_us): &(&Run, i64)| {
            let end_us = match run.end {
                Some(End::Stopped { complete_until_us }) => complete_until_us,
                Some(End::Recovered) | None => *next_us,
            };
            run.has_watched && window.overlaps(run.began_us, end_us)
        };
        let watched: Vec<&Run> = runs.iter().zip(nexts_us).filter(has_watched).map(|(run, _)| run).collect();
        // Also where all that was asked for is later.
        let is_later = |known_us: &i64| {
            until_us.is_some_and(|until_us| *known_us < until_us)
                || from_us.is_some_and(|from_us| *known_us <= from_us)
        };
        let completeness = Completeness {
            from_us,
            until_us,
            runs: u64::try_from(watched.len()).unwrap_or(u64::MAX),
            is_filtered: watched.iter().any(|run| run.is_filtered),
            gaps,
            unpublished_since_us: known_until_us.filter(is_later),
            unwatched_until_us: watched_since_us
                .filter(|&since_us| from_us.is_some_and(|from_us| from_us < since_us)),
            deleted,
            missing: Vec::new(),
            unread_lines,
        };
        Contents { files: files.into_iter().flatten().collect(), completeness }
    }

    /// Until when all is known and published.
    fn known_until_us(&mut self, logs: &Logs, watched_since_us: Option<i64>) -> Option<i64> {
        let mut known_until_us = None;
        for run in &mut self.runs {
            known_until_us = match run.end {
                Some(End::Stopped { complete_until_us }) if run.has_watched => Some(complete_until_us),
                // The next run declares since when nobody watched.
                Some(End::Recovered) if run.has_watched => known_until_us,
                // An import watches nothing, and knows since when nobody does.
                Some(_) => run.unwatched_since_us.or(known_until_us),
                // What later runs know comes after what is not published of this one.
                None if run.has_watched => {
                    let steps = logs.get(&run.run_id).map(Vec::as_slice).unwrap_or_default();
                    let published_seq = unpublished::published_seq(&mut run.files);
                    let until_us =
                        unpublished::published_until_us(steps, published_seq).unwrap_or(run.began_us);
                    // The kernel tells late what has expired, and losses that go on are declared now and then.
                    return Some(unnoticed_since_us(until_us, run.began_us));
                }
                // The rows of an import are of any time.
                None => return Some(self.window.from_us.or(watched_since_us).unwrap_or(run.began_us)),
            };
        }
        known_until_us
    }
}
