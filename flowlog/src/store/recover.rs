//! What runs left that did not stop: the rows of their write-ahead log become files, and the time in
//! which nobody watched becomes a gap.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use rangemap::RangeInclusiveSet;
use tracing::{info, warn};
use uuid::Uuid;

use super::convert::{Fault, Readout, read_out, set_aside};
use super::losses::Losses;
use super::{Store, Unlogged, one_line, remove_segment};
use crate::gaps::{Cause, Gap, Stage};
use crate::ledger::{self, DeclaredGap, Event, History, PublishedFile, Recovered};
use crate::schema::{RunContext, RunFacts};
use crate::wal;
use crate::writer::{Directory, FLOWS, Published, Writer};

/// A run that did not stop.
pub(super) struct Unfinished {
    run_id: Uuid,
    /// `None` where it left no segment that can be read; then it has no rows to be recovered.
    facts: Option<RunFacts>,
    segments: Vec<PathBuf>,
    /// Its files that the ledger has, with the highest `seq` of each.
    listed: BTreeMap<String, i64>,
    gaps: Vec<DeclaredGap>,
    /// Whether the ledger waits for the end of the run.
    is_open: bool,
}

impl Unfinished {
    /// The ledger has this file now.
    fn list(&mut self, file: &Published) {
        let (_, last_seq) = file.seq_range();
        self.listed.insert(file.path.display().to_string(), last_seq);
    }
}

/// When the last run ended, and how.
#[derive(Clone, Copy, Debug)]
pub(super) enum Before {
    /// There was none.
    Nothing,
    /// It stopped; microseconds since 1970.
    Stopped(i64),
    /// It did not stop. All of its rows before this time are known from the ledger.
    Killed(i64),
}

/// The runs that did not stop, by their ledger and by what they left, oldest first; and how the last run
/// ended.
pub(super) fn unfinished(directory: &Directory, history: History) -> io::Result<(Vec<Unfinished>, Before)> {
    let History { last, unfinished, torn: _, damaged: _ } = history;
    let mut runs: BTreeMap<Uuid, Unfinished> = BTreeMap::new();
    let new = |run_id, is_open| Unfinished {
        run_id,
        facts: None,
        segments: Vec::new(),
        listed: BTreeMap::new(),
        gaps: Vec::new(),
        is_open,
    };
    let mut known_until_us = None;
    for (run_id, ledger::Unfinished { started, last_time: _, files, gaps }) in unfinished {
        let mut run = new(run_id, true);
        run.facts = started.map(|started| RunFacts {
            run: RunContext {
                run_id,
                host_id: started.host_id,
                host_name: started.host_name,
                boot_id: started.boot_id,
            },
            kernel: started.kernel,
            acct: None,
            timestamp: None,
        });
        known_until_us = files.iter().filter_map(|file| file.end_time_max_us).max();
        run.listed = files.into_iter().map(|file| (file.path, file.seq_last.unwrap_or(i64::MAX))).collect();
        run.gaps = gaps.into_iter().map(|(gap, loss)| DeclaredGap { gap, loss }).collect();
        runs.insert(run_id, run);
    }
    let listing = wal::segments(&directory.wal())?;
    for path in listing.foreign {
        warn!("`{}` is not of the write-ahead log, and left alone", path.display());
    }
    for segment in listing.segments {
        let run = runs.entry(segment.run_id).or_insert_with(|| new(segment.run_id, false));
        if let Ok((header, _)) = wal::read(&segment.path) {
            run.facts = Some(header.facts());
        }
        run.segments.push(segment.path);
    }
    let before = match last {
        None => Before::Nothing,
        Some(last) if last.is_stop => Before::Stopped(last.time.as_microsecond()),
        Some(last) => {
            let last_us = last.time.as_microsecond();
            Before::Killed(known_until_us.map_or(last_us, |known_us| known_us.min(last_us)))
        }
    };
    Ok((runs.into_values().collect(), before))
}

impl Store {
    /// Publishes what earlier runs left, and declares the time in which nobody watched. What fails now is
    /// tried again by [`Store::tick`].
    pub fn recover(&mut self, now: SystemTime) {
        let mut complete_until_us = None;
        for mut run in std::mem::take(&mut self.unfinished) {
            match self.recover_run(&mut run, now) {
                Ok(readout) => complete_until_us = readout.complete_until_us,
                Err(Fault(error)) => {
                    self.say(format!("the rows of the run {} cannot be published: {error}", run.run_id));
                    self.unfinished.push(run);
                }
            }
        }
        let from_us = match std::mem::replace(&mut self.before, Before::Nothing) {
            Before::Nothing => return,
            Before::Stopped(at_us) => at_us,
            Before::Killed(known_us) => complete_until_us.map_or(known_us, |at_us| at_us.max(known_us)),
        };
        let to_us = self.watched_since_us;
        let gap = Gap::new(Cause::DaemonDown, Stage::Receive, from_us.min(to_us), to_us);
        self.losses.add(Gap { lost_flows: None, ..gap });
        self.log_losses(now);
    }

    fn recover_run(&mut self, run: &mut Unfinished, now: SystemTime) -> Result<Readout, Fault> {
        let mut readout = Readout::default();
        if let Some(facts) = run.facts.clone() {
            // Of the files in the ledger those matter that were published last: their rows may still be in
            // the write-ahead log.
            let first_seq = first_seq(&run.segments).unwrap_or(i64::MAX);
            let mut seqs = RangeInclusiveSet::new();
            for path in files_of(&self.directory, run.run_id)? {
                let listed = run.listed.get(&path.display().to_string()).copied();
                if listed.is_some_and(|last_seq| last_seq < first_seq) {
                    continue;
                }
                let file =
                    Published::read(self.directory.root(), path).map_err(|error| Fault(one_line(&error)))?;
                seqs.extend(file.seqs.iter().cloned());
                if listed.is_none() {
                    run.list(&file);
                    self.take_published(file, Some(run.run_id), now);
                }
            }
            let mut writer = Writer::new(Arc::clone(&self.directory), self.rotation, &facts);
            let read = read_out(&run.segments, &seqs, |batch, path| {
                writer.append(&batch, path, now).map_err(|error| Fault(one_line(&error)))
            });
            let read = read.and_then(|readout| {
                writer.rotate_all().map_err(|error| Fault(one_line(&error))).map(|()| readout)
            });
            for file in writer.take_published() {
                run.list(&file);
                self.take_published(file, Some(run.run_id), now);
            }
            if read.is_err() {
                writer.discard();
            }
            readout = read?;
            self.publish_gaps_of(run, now)?;
        }
        self.finish_run(run, &readout, now);
        Ok(readout)
    }

    /// Everything of the run is published: the ledger says so, and its segments go.
    fn finish_run(&mut self, run: &mut Unfinished, readout: &Readout, now: SystemTime) {
        let Readout { rows, already_published, complete_until_us: _, dropped_bytes, dropped_reason, damaged } =
            readout;
        if let Some(gap) = readout.gap(self.watched_since_us, self.watched_since_us) {
            self.losses.add(gap);
        }
        if run.is_open || *rows > 0 {
            info!(run = %run.run_id, rows, dropped_bytes, "recovered what a run left that did not stop");
            let recovered = Recovered {
                of_run: run.run_id,
                rows: *rows,
                already_published: *already_published,
                dropped_bytes: *dropped_bytes,
                dropped_reason: dropped_reason.clone(),
            };
            self.log(Event::Recover(recovered), now);
        }
        for path in &run.segments {
            if damaged.contains(path) {
                set_aside(path);
            } else if self.unlogged.is_empty() {
                remove_segment(path);
            }
            // Else the next start finds that all of its rows are published.
        }
    }

    /// The losses that the run declared in the ledger, but in no file.
    fn publish_gaps_of(&mut self, run: &mut Unfinished, now: SystemTime) -> Result<(), Fault> {
        let Some(facts) = &run.facts else { return Ok(()) };
        let gaps = std::mem::take(&mut run.gaps);
        let mut losses = Losses::of_ledger(Arc::clone(&self.directory), facts, gaps);
        let result = loop {
            match losses.publish(now) {
                Ok(None) => break Ok(()),
                Ok(Some(line)) => {
                    let line = PublishedFile { of_run: Some(run.run_id), ..line };
                    self.unlogged.push_back(Unlogged::File(line));
                }
                Err(error) => break Err(Fault(one_line(&error))),
            }
        };
        run.gaps = losses.into_unpublished();
        self.flush_log(now);
        result
    }
}

/// The files of flows whose name says that they have rows of this run, below the output directory.
fn files_of(directory: &Directory, run_id: Uuid) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let in_name = format!("_{run_id}_");
    for date in subdirectories(&directory.root().join(FLOWS))? {
        for hour in subdirectories(&date)? {
            for entry in fs::read_dir(hour)? {
                let entry = entry?;
                let is_of_run = entry.file_name().to_str().is_some_and(|name| name.contains(&in_name));
                if let Ok(below) = entry.path().strip_prefix(directory.root())
                    && is_of_run
                {
                    files.push(below.to_owned());
                }
            }
        }
    }
    Ok(files)
}

fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The number of the first row that the segments have.
fn first_seq(segments: &[PathBuf]) -> Option<i64> {
    let batch = segments.iter().find_map(|path| {
        let (_, mut frames) = wal::read(path).ok()?;
        frames.find_map(|frame| frame.ok()?.batch)
    })?;
    let seqs = batch.column_by_name("seq")?.as_primitive_opt::<Int64Type>()?;
    seqs.values().first().copied()
}
