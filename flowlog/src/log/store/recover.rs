//! What runs left that did not stop: the rows of their write-ahead log become files, and the time in
//! which nobody watched becomes a gap.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use flowlog_reader::gaps::{Cause, Gap, Stage, unnoticed_since_us};
use flowlog_reader::layout;
use flowlog_reader::ledger::{DeclaredGap, Event, PublishedFile, Recovered, Restart};
use flowlog_reader::run::RunFacts;
use flowlog_reader::segments::{self, FrameError, Head, HeaderError, ReadError, SegmentHeader};
use rangemap::RangeInclusiveSet;
use tracing::{info, warn};
use uuid::Uuid;

use super::convert::{Fault, Readout, read_out, set_aside};
use super::queue::Unlogged;
use super::run_gaps::{RunGaps, gap_file};
use super::{Kept, OpenError, Store};
use crate::causes::one_line;
use crate::log::ledger::{self, History, LastLine};
use crate::log::wal::{self, Damage, DamageCause, Frame, Frames};
use crate::log::writer::{Directory, Published, Writer, read_gap_file, seqs};
use crate::time::{NS_PER_S, to_us};

/// What the ledger says of a file.
#[derive(Clone, Copy)]
struct Listed {
    seq_first: i64,
    seq_last: i64,
    rows: u64,
}

impl Listed {
    /// The numbers of its rows, where they have no holes: those of a file that is not there any more.
    fn seqs(self) -> Option<RangeInclusive<i64>> {
        let Self { seq_first, seq_last, rows } = self;
        let numbers = seq_last.checked_sub(seq_first)?.checked_add(1)?;
        (i64::try_from(rows) == Ok(numbers)).then_some(seq_first..=seq_last)
    }
}

/// A run that did not stop.
pub(super) struct RunToRecover {
    run_id: Uuid,
    /// By the ledger, later by its segments. `None` where neither says it; then it has no rows to be recovered.
    facts: Option<RunFacts>,
    segments: Vec<PathBuf>,
    /// Its files that the ledger has.
    listed: BTreeMap<String, Listed>,
    gaps: Vec<DeclaredGap>,
    /// Whether the ledger waits for the end of the run.
    is_open: bool,
}

impl RunToRecover {
    /// Whether this file is of the run.
    pub(super) fn has(&self, path: &Path) -> bool {
        layout::is_of_run(path, self.run_id)
    }

    /// The ledger has this file now.
    fn list(&mut self, file: &Published) {
        let (seq_first, seq_last) = file.seq_range();
        let listed = Listed { seq_first, seq_last, rows: file.rows };
        self.listed.insert(file.path.display().to_string(), listed);
    }
}

/// What earlier runs left.
pub(super) struct Earlier {
    /// Those that did not stop, by the ledger and by what they left, oldest first.
    pub(super) runs: Vec<RunToRecover>,
    /// Since when nobody watched, in microseconds since 1970, if there was a run before.
    pub(super) unwatched_since_us: Option<i64>,
    /// The time before the last run in which nobody watched, which it did not come to declare.
    undeclared_since_us: Option<i64>,
    /// The last run, and until when it watched.
    last: Option<(Uuid, i64)>,
    /// What this run takes over of it.
    pub(super) restart: Option<Restart>,
    /// See [`Store::round`].
    pub(super) round: u64,
}

impl Earlier {
    /// What is left if this was kept and nothing was missed since the last run.
    pub(super) fn with(self, kept: Option<Kept>) -> Self {
        let (Some(kept), Some((of_run, since_us))) = (kept, self.last) else { return self };
        let sockets = u64::try_from(kept.netns.len()).unwrap_or(u64::MAX);
        let restart = Restart { of_run, since_us, sockets, attribution: kept.attribution.to_owned() };
        Self { unwatched_since_us: self.undeclared_since_us, restart: Some(restart), ..self }
    }
}

/// Looks what earlier runs left, as if this one went on where the last one ended. `in_flight` is the memory of which
/// [`Earlier::round`] is wanted.
pub(super) fn unfinished(
    directory: &Directory,
    history: History,
    in_flight: Option<Uuid>,
) -> io::Result<Earlier> {
    let History { last, started: _, unfinished, torn: _, damaged: _ } = history;
    let mut runs: BTreeMap<Uuid, RunToRecover> = BTreeMap::new();
    let new = |run_id, is_open| RunToRecover {
        run_id,
        facts: None,
        segments: Vec::new(),
        listed: BTreeMap::new(),
        gaps: Vec::new(),
        is_open,
    };
    let mut undeclared_since_us = None;
    for (run_id, ledger::UnfinishedRun { started, last_time: _, files, gaps, has_declared_down }) in
        unfinished
    {
        let mut run = new(run_id, true);
        let since_us = started.as_ref().and_then(|started| started.unwatched_since_us);
        undeclared_since_us = since_us.filter(|_| !has_declared_down);
        run.facts = started.map(|started| started.facts(run_id));
        let listed = |file: &PublishedFile| Listed {
            seq_first: file.seq_first.unwrap_or(i64::MAX),
            seq_last: file.seq_last.unwrap_or(i64::MAX),
            rows: file.rows,
        };
        run.listed = files.iter().map(|file| (file.path.clone(), listed(file))).collect();
        run.gaps = gaps.into_iter().map(|(gap, loss)| DeclaredGap { gap, loss }).collect();
        runs.insert(run_id, run);
    }
    let listing = segments::list(&directory.wal())?;
    for path in listing.foreign {
        warn!("`{}` does not belong to the write-ahead log, flowlog leaves it alone", path.display());
    }
    for segment in listing.segments {
        let run = runs.entry(segment.run_id).or_insert_with(|| new(segment.run_id, false));
        run.segments.push(segment.path);
    }
    let ends: BTreeMap<Uuid, (SegmentHeader, Head)> =
        runs.iter().filter_map(|(run_id, run)| Some((*run_id, last_frame(&run.segments)?))).collect();
    let rounds = ends.values().filter(|(header, _)| in_flight.is_some() && header.in_flight == in_flight);
    let round = rounds.map(|(_, head)| head.round).max().unwrap_or(0);
    let watched_until_us = |last: &LastLine| {
        let logged_us = || ends.get(&last.run_id).map(|(_, head)| head.complete_until_us);
        last.complete_until_us.or_else(logged_us).unwrap_or_else(|| last.time.as_microsecond())
    };
    let last = last.map(|last| (last, watched_until_us(&last)));
    let unwatched_since_us = last.map(|(last, watched_until_us)| {
        if last.complete_until_us.is_some() {
            return watched_until_us;
        }
        // What expired then, the kernel may have told nobody.
        let since_us = unnoticed_since_us(watched_until_us, began_us(last.run_id));
        undeclared_since_us.map_or(since_us, |undeclared_us: i64| undeclared_us.min(since_us))
    });
    Ok(Earlier {
        runs: runs.into_values().collect(),
        unwatched_since_us,
        undeclared_since_us,
        last: last.map(|(last, watched_until_us)| (last.run_id, watched_until_us)),
        restart: None,
        round,
    })
}

impl Store {
    /// Publishes what earlier runs left, and declares the time in which nobody watched. What fails now is
    /// tried again by [`Store::tick`].
    pub fn recover(&mut self, now: SystemTime) {
        if let Some(since_us) = self.unwatched_since_us.take() {
            let to_us = self.watched_since_us;
            let gap = Gap::new(Cause::DaemonDown, Stage::Receive, since_us.min(to_us), to_us);
            self.losses.add(Gap { lost_flows: None, ..gap });
            self.log_losses(now);
        }
        for mut run in std::mem::take(&mut self.unfinished) {
            if let Err(Fault(error)) = self.recover_run(&mut run, now) {
                self.retry.say(format!(
                    "cannot publish the rows of the earlier run {}, the write-ahead log keeps them: {error}",
                    run.run_id
                ));
                self.unfinished.push(run);
            }
        }
    }

    fn recover_run(&mut self, run: &mut RunToRecover, now: SystemTime) -> Result<(), Fault> {
        let mut readout = Readout::default();
        // Segments say more than the ledger. Where one cannot be read now, the run waits, and not the start.
        run.facts = facts_of(&run.segments)?.or(run.facts.take());
        if let Some(facts) = run.facts.clone() {
            // Of the files in the ledger those matter that were published last: their rows may still be in
            // the write-ahead log.
            let first_seq = first_seq(&run.segments)?.unwrap_or(i64::MAX);
            let mut seqs = RangeInclusiveSet::new();
            let present = files_of(&self.directory, layout::FLOWS, run.run_id)?;
            let is_present = |path: &String| present.iter().any(|file| file.as_os_str() == path.as_str());
            let gone = run.listed.iter().filter(|(path, _)| !is_present(path));
            seqs.extend(gone.filter_map(|(_, listed)| listed.seqs()));
            for path in present {
                let listed = run.listed.get(&path.display().to_string()).copied();
                if listed.is_some_and(|listed| listed.seq_last < first_seq) {
                    continue;
                }
                let file = match (Published::read(self.directory.root(), path), listed.and_then(Listed::seqs))
                {
                    (Ok(file), _) => file,
                    (Err(error), Some(of_ledger)) => {
                        warn!(
                            "cannot read a published file, flowlog takes its row numbers from the ledger: {}; \
                             `flowlog verify` shows more",
                            one_line(&error)
                        );
                        seqs.insert(of_ledger);
                        continue;
                    }
                    (Err(error), None) => return Err(Fault(one_line(&error))),
                };
                seqs.extend(file.seqs.iter().cloned());
                // The ledger has all files of a run that it says has ended.
                if listed.is_none() && run.is_open {
                    run.list(&file);
                    self.take_published(file, Some(run.run_id), now);
                }
            }
            let mut writer =
                Writer::new(Arc::clone(&self.directory), self.rotation, self.compatibility, &facts);
            let read = read_out(&run.segments, true, &seqs, |batch, path| {
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
        } else if !run.segments.is_empty() {
            // No segment has its header, so none has rows that can be read.
            readout = read_out(&run.segments, true, &RangeInclusiveSet::new(), |_, _| Ok(()))?;
        }
        self.finish_run(run, &readout, now);
        Ok(())
    }

    /// Everything of the run is published: the ledger says so, and its segments go.
    fn finish_run(&mut self, run: &mut RunToRecover, readout: &Readout, now: SystemTime) {
        let Readout { rows, already_published, dropped_bytes, dropped_reason, damaged, .. } = readout;
        if let Some(gap) = readout.gap(began_us(run.run_id), self.watched_since_us) {
            self.losses.add(gap);
            // Before the line that ends the run.
            self.log_losses(now);
        }
        if run.is_open || *rows > 0 {
            info!(run = %run.run_id, rows, dropped_bytes, "recovered the rows of a run that was killed");
            let recovered = Recovered {
                of_run: run.run_id,
                rows: *rows,
                already_published: *already_published,
                dropped_bytes: *dropped_bytes,
                dropped_reason: dropped_reason.clone(),
            };
            self.log(Unlogged::Event(Event::Recover(recovered)), now);
        }
        for path in &run.segments {
            if damaged.contains(path) {
                set_aside(path);
            } else {
                // Removed when the ledger says that its rows are published.
                self.recovered.push(path.clone());
            }
        }
    }

    /// The losses that the run declared in the ledger, but in no file.
    fn publish_gaps_of(&mut self, run: &mut RunToRecover, now: SystemTime) -> Result<(), Fault> {
        let Some(facts) = &run.facts else { return Ok(()) };
        // A file that has its name, but no line.
        for path in files_of(&self.directory, layout::GAPS, run.run_id)? {
            if run.is_open && !run.listed.contains_key(&path.display().to_string()) {
                let read = read_gap_file(&self.directory.root().join(&path));
                let (numbers, rows) = read.map_err(|error| Fault(one_line(&error)))?;
                run.gaps.retain(|gap| !numbers.contains(&gap.gap));
                let line = PublishedFile { of_run: Some(run.run_id), ..gap_file(&path, numbers, rows) };
                run.listed.insert(path.display().to_string(), Listed { seq_first: 0, seq_last: 0, rows });
                self.lines.push(Unlogged::File(line));
            }
        }
        let gaps = std::mem::take(&mut run.gaps);
        let mut losses = RunGaps::of_ledger(Arc::clone(&self.directory), facts, gaps);
        let result = loop {
            match losses.publish(now) {
                Ok(None) => break Ok(()),
                Ok(Some(line)) => {
                    let line = PublishedFile { of_run: Some(run.run_id), ..line };
                    self.lines.push(Unlogged::File(line));
                }
                Err(error) => break Err(Fault(one_line(&error))),
            }
        };
        run.gaps = losses.into_unpublished();
        self.flush_log(now);
        result
    }
}

/// The files of a table whose name says that they have rows of this run, below the output directory.
fn files_of(directory: &Directory, table: &str, run_id: Uuid) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut partitions = subdirectories(&directory.root().join(table))?;
    while let Some(partition) = partitions.pop() {
        partitions.extend(subdirectories(&partition)?);
        for entry in fs::read_dir(partition)? {
            let entry = entry?;
            let is_file = entry.file_name().to_str().is_some_and(layout::is_file);
            let is_of_run = is_file && layout::is_of_run(&entry.path(), run_id);
            if let Ok(below) = entry.path().strip_prefix(directory.root())
                && is_of_run
            {
                files.push(below.to_owned());
            }
        }
    }
    Ok(files)
}

/// None where the directory is not there.
fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The run, by the first segment that says it.
fn facts_of(segments: &[PathBuf]) -> Result<Option<RunFacts>, Fault> {
    for path in segments {
        if let Some((header, _)) = read_if_intact(path)? {
            return Ok(Some(header.facts()));
        }
    }
    Ok(None)
}

/// The number of the first row that the segments have. What cannot be read now may have an earlier one.
fn first_seq(segments: &[PathBuf]) -> Result<Option<i64>, Fault> {
    for path in segments {
        let Some((_, frames)) = read_if_intact(path)? else { continue };
        for frame in frames {
            match frame {
                Ok(Frame { batch: None, .. }) => {}
                Ok(Frame { batch: Some(batch), .. }) => {
                    let seqs = seqs(&batch).map_err(|error| Fault(one_line(&error)))?;
                    return Ok(seqs.values().first().copied());
                }
                Err(Damage { cause: DamageCause::Frame(FrameError::Io(error)), .. }) => {
                    return Err(error.into());
                }
                Err(_) => break,
            }
        }
    }
    Ok(None)
}

type SegmentFrames = Frames<BufReader<File>>;

/// A segment; `None` where waiting does not make it one.
fn read_if_intact(path: &Path) -> Result<Option<(SegmentHeader, SegmentFrames)>, Fault> {
    match wal::read(path) {
        Ok(segment) => Ok(Some(segment)),
        Err(ReadError::Io(error)) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// When a run began, by its id, in microseconds since 1970.
fn began_us(run_id: Uuid) -> i64 {
    let Some((began_s, nanos)) = run_id.get_timestamp().map(|began| began.to_unix()) else { return i64::MIN };
    to_us(began_s.saturating_mul(NS_PER_S).saturating_add(nanos.into()))
}

/// Looks whether all segments are of a version that can be read, before anything is changed.
pub(super) fn refuse_newer(directory: &Directory) -> Result<(), OpenError> {
    let wal = directory.wal();
    let listing = segments::list(&wal).map_err(|source| OpenError::Unusable { path: wal, source })?;
    for segment in listing.segments {
        // Whatever else is wrong with one is told when it is recovered.
        if let Err(ReadError::Header { bytes: _, cause: source @ HeaderError::Version { .. } }) =
            segments::open(&segment.path)
        {
            return Err(OpenError::Newer { path: segment.path, source });
        }
    }
    Ok(())
}

/// What the last intact frame of the segments says of itself, and the header before it.
fn last_frame(segments: &[PathBuf]) -> Option<(SegmentHeader, Head)> {
    segments.iter().rev().find_map(|path| {
        let (header, mut frames) = segments::open(path).ok()?;
        let mut last = None;
        while let Some(Ok(frame)) = frames.next_frame() {
            last = Some(frame.head);
        }
        Some((header, last?))
    })
}
