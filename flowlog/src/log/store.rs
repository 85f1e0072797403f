//! Rows become part of the flow log, exactly once, whatever happens to the disk or to the process.
//!
//! Owns the order in which the write-ahead log, the files and the ledger are written; each of them has
//! its own module. Has no clock and no thread: the time is an argument, and calls return when their work
//! is on the disk.
//!
//! ```text
//! append  -> write-ahead log -> open files           a row that is refused here was taken by nobody
//! publish -> file has its name -> line of the ledger -> segments without unpublished rows are removed
//! trouble -> open files are dropped, their rows are read from the write-ahead log later     convert
//! start   -> the same for the segments of runs that did not stop                            recover
//! ```
//!
//! Invariants: a row that [`Store::append`] took is in the write-ahead log until its file is published
//! and the ledger says so. A row of the write-ahead log becomes part of a file only where no published
//! file of its run has its `seq`. What is lost is in the ledger.

mod convert;
mod delete;
mod error;
mod kept;
mod queue;
mod recover;
mod retry;
mod run_gaps;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arrow_array::RecordBatch;
use flowlog_reader::gaps::{Cause, Declared, Gap};
use flowlog_reader::ledger::{Event, NamespaceChange, PublishedFile, Restart, Started, Stopped, Table};
use flowlog_reader::run::{RunContext, RunFacts};
use flowlog_reader::segments::SegmentHeader;
use rangemap::RangeInclusiveSet;
use tracing::{error, warn};
use uuid::Uuid;

pub use error::{OpenError, Refused};

use crate::causes::one_line;
use crate::log::ledger::Ledger;
use crate::log::retention::RetentionLimits;
use crate::log::wal::{self, Segment, Wal, WalError, WalSync};
use crate::log::writer::{Compatibility, Directory, Published, Rotation, WriteError, Writer};
use crate::time::us_since_1970;
use convert::{Conversion, Fault, read_out, set_aside};
use delete::Retention;
pub use kept::{InFlight, Kept, NONE_YET};
use queue::{LineQueue, Unlogged};
use recover::{Earlier, RunToRecover};
use retry::Retry;
use run_gaps::RunGaps;

/// How long after the last frame of the write-ahead log a mark says that nothing came since. What a start
/// after a crash declares as unwatched begins at the last frame or mark.
const MARK_INTERVAL_US: u64 = 10_000_000;

/// What a store is made of.
#[derive(Debug)]
pub struct StoreConfig {
    /// The directory of the flow log, taken for this process.
    pub directory: Directory,
    /// When a file ends.
    pub rotation: Rotation,
    /// Which readers the files are for.
    pub compatibility: Compatibility,
    /// When the write-ahead log is synced.
    pub wal_sync: WalSync,
    /// Which files are deleted.
    pub retention: RetentionLimits,
    /// The run.
    pub facts: RunFacts,
    /// How the kernel delivers events: `reliable` or `best-effort`; or `import`.
    pub delivery: &'static str,
    /// Inodes of the network namespaces that are watched; none by an import.
    pub netns: Vec<u64>,
    /// Since when events are received, in microseconds since 1970; `None` for a run that watches nothing,
    /// as an import: it leaves the time before it in which nobody watched to a run that does.
    pub watched_since_us: Option<i64>,
    /// What was kept of an earlier run, if a service manager kept its sockets.
    pub kept: Option<Kept>,
    /// The memory into which events are received.
    pub in_flight: Option<InFlight>,
}

/// What a store has published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of files.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Their size.
    pub bytes: u64,
}

/// The flow log of one run.
pub struct Store {
    directory: Arc<Directory>,
    rotation: Rotation,
    compatibility: Compatibility,
    lines: LineQueue,
    wal: Wal,
    sealed: Vec<Segment>,
    /// Segments of earlier runs whose rows are all published. They never become files of this run: their rows have
    /// numbers of their own.
    recovered: Vec<PathBuf>,
    writer: Writer,
    /// Segments of this run whose rows have to become files by reading them.
    conversion: Conversion,
    /// Runs that did not stop, and whose rows are not all published.
    unfinished: Vec<RunToRecover>,
    /// Since when nobody had watched, until it is declared; microseconds since 1970. `None` where this run
    /// does not watch either.
    unwatched_since_us: Option<i64>,
    losses: RunGaps,
    declared: BTreeMap<Cause, Declared>,
    retention: Retention,
    /// The rows of this run that are published.
    seqs: RangeInclusiveSet<i64>,
    summary: Summary,
    /// Since when events are received, or since when the run is there.
    watched_since_us: i64,
    /// All flows that ended before were appended; microseconds since 1970.
    complete_until_us: i64,
    /// What of that the write-ahead log says.
    marked_us: i64,
    retry: Retry,
    restart: Option<Restart>,
    round: u64,
    in_flight: Option<InFlight>,
}

impl Store {
    /// Opens the ledger and the write-ahead log of a directory, and looks what earlier runs left.
    ///
    /// # Errors
    ///
    /// They cannot be used.
    // Long, since each step needs what the one before found.
    pub fn open(config: StoreConfig, now: SystemTime) -> Result<Self, OpenError> {
        let StoreConfig {
            directory,
            rotation,
            compatibility,
            wal_sync,
            retention,
            facts,
            delivery,
            netns,
            watched_since_us,
            kept,
            in_flight,
        } = config;
        let directory = Arc::new(directory);
        let unusable = |path: PathBuf| move |source| OpenError::Unusable { path, source };
        recover::refuse_newer(&directory)?;
        let (ledger, history) = Ledger::open(&directory.ledger()).map_err(unusable(directory.ledger()))?;
        if let Some(damage) = &history.damaged {
            warn!(
                "{} lines of the ledger are damaged, the first is line {}: flowlog leaves them as they are and goes on; \
                 `flowlog verify` shows more",
                damage.lines, damage.first_line
            );
        }
        let torn_bytes = history.torn.map(|torn| torn.bytes);
        let memory = in_flight.as_ref().map(|in_flight| in_flight.id);
        let kept = kept.filter(|kept| kept.is_all_since(&history, &netns, facts.filter.as_ref()));
        let earlier = recover::unfinished(&directory, history, memory).map_err(unusable(directory.wal()))?;
        let Earlier { runs: unfinished, unwatched_since_us, restart, round, .. } = earlier.with(kept);
        let RunFacts { run: RunContext { run_id: _, host_id, host_name, boot_id }, kernel, filter, .. } =
            facts.clone();
        let started = Started {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host_id,
            host_name,
            boot_id,
            kernel,
            delivery: delivery.to_owned(),
            netns,
            filter,
            wal_sync: wal_sync.to_string(),
            unwatched_since_us,
            restart: restart.clone(),
            torn_bytes,
        };
        let unwatched_since_us = unwatched_since_us.filter(|_| watched_since_us.is_some());
        let watched_since_us = watched_since_us.unwrap_or(us_since_1970(now));
        let header = SegmentHeader::of(&facts, watched_since_us, memory);
        // What an earlier run did not read is still to be read.
        let complete_until_us = restart.as_ref().map_or(watched_since_us, |restart| restart.since_us);
        let mut store = Self {
            wal: Wal::open(directory.wal(), &header, wal_sync)?,
            writer: Writer::new(Arc::clone(&directory), rotation, compatibility, &facts),
            conversion: Conversion::default(),
            losses: RunGaps::new(Arc::clone(&directory), &facts),
            declared: BTreeMap::new(),
            lines: LineQueue::new(ledger, facts.run.run_id, Arc::clone(&directory)),
            directory,
            rotation,
            compatibility,
            sealed: Vec::new(),
            recovered: Vec::new(),
            unfinished,
            unwatched_since_us,
            retention: Retention::new(retention),
            seqs: RangeInclusiveSet::new(),
            summary: Summary::default(),
            watched_since_us,
            complete_until_us,
            marked_us: i64::MIN,
            retry: Retry::new(now),
            restart,
            round,
            in_flight,
        };
        store.log(Unlogged::Event(Event::Start(started)), now);
        // If the process is killed now, it was complete until here.
        store.mark(complete_until_us);
        Ok(store)
    }

    /// What the run took over from the one before, if it goes on where that one ended.
    pub fn restart(&self) -> Option<&Restart> {
        self.restart.as_ref()
    }

    /// Up to which round of receiving ([`Head::round`](flowlog_reader::segments::Head::round)) the write-ahead log has the
    /// rows of earlier runs, as far as it still has them.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Takes rows made by [`FlowBatch`](crate::log::schema::FlowBatch). All flows that ended before
    /// `complete_until_us` are in this batch or in earlier ones, as are all that were received in this `round` or in
    /// earlier ones.
    ///
    /// # Errors
    ///
    /// The rows were not taken, and can be given again.
    pub fn append(
        &mut self,
        batch: &RecordBatch,
        complete_until_us: i64,
        round: u64,
        now: SystemTime,
    ) -> Result<(), Refused> {
        let declared_until_us = self.declared_until_us(complete_until_us);
        let mut is_logged = true;
        match self.wal.append(batch, declared_until_us, round) {
            Ok(()) => {}
            Err(error) if error.is_taken() => warn!("{}", one_line(&error)),
            // Waiting does not help.
            Err(error @ WalError::Encode { .. }) => {
                is_logged = false;
                error!(
                    "rows are not in the write-ahead log, so a crash would lose them: {}",
                    one_line(&error)
                );
            }
            Err(error) => {
                self.sealed.extend(self.wal.take_sealed());
                return Err(Refused(error));
            }
        }
        if let Some(in_flight) = self.in_flight.as_ref().filter(|_| is_logged) {
            (in_flight.has_round)(round);
        }
        self.complete_until_us = complete_until_us;
        self.marked_us = declared_until_us;
        self.sealed.extend(self.wal.take_sealed());
        // A segment that failed to sync has ended, and has the rows.
        let segment = self.wal.current().or(self.sealed.last()).map(|segment| segment.path.clone());
        let written = self.writer.append(batch, &segment.unwrap_or_default(), now);
        self.settle(written, now);
        Ok(())
    }

    /// Declares losses.
    pub fn declare(&mut self, gaps: Vec<Gap>, now: SystemTime) {
        for gap in gaps {
            self.losses.add(gap);
        }
        self.log_losses(now);
    }

    /// Does what is due. To be called about once a second. All flows that ended before `complete_until_us`
    /// were appended.
    pub fn tick(&mut self, complete_until_us: i64, now: SystemTime) {
        self.retry(now);
        let written = self.writer.tick(now);
        self.settle(written, now);
        if self.losses.is_file_due(self.rotation.interval, now) {
            self.publish_gaps(now);
        }
        // The writing side ticks also while it has nothing new to say.
        if complete_until_us != i64::MIN {
            self.complete_until_us = complete_until_us;
            let declared_until_us = self.declared_until_us(complete_until_us);
            // Also where the clock was set back.
            if declared_until_us.abs_diff(self.marked_us) > MARK_INTERVAL_US {
                self.mark(declared_until_us);
            }
        }
        if let Err(error) = self.wal.sync_if_due(Instant::now()) {
            warn!("{}", one_line(&error));
        }
        self.retention.delete(&self.directory, &self.unfinished, &mut self.lines, now);
        self.flush_log(now);
    }

    /// Publishes all that is there.
    pub fn rotate(&mut self, now: SystemTime) {
        let written = self.writer.rotate_all();
        self.settle(written, now);
        self.publish_gaps(now);
    }

    /// A network namespace came or went.
    pub fn namespace(&mut self, change: NamespaceChange, now: SystemTime) {
        self.log(Unlogged::Event(Event::Namespace(change)), now);
    }

    /// Ends the run: publishes all that is there where that is wanted, else leaves it in the write-ahead
    /// log. Returns what the run published, and whether that is all of it.
    pub fn finish(mut self, publish: bool, now: SystemTime) -> (Summary, bool) {
        let mut is_complete = false;
        if publish {
            self.retry.hurry();
            self.retry(now);
            self.rotate(now);
            is_complete = self.conversion.is_empty()
                && self.losses.is_published()
                && self.unfinished.is_empty()
                && self.lines.is_empty();
        }
        if is_complete {
            let last_seq = self.seqs.last().map_or(0, |last| *last.end());
            let stopped =
                Stopped { last_seq, rows: self.summary.rows, complete_until_us: self.complete_until_us };
            self.log(Unlogged::Event(Event::Stop(stopped)), now);
            is_complete = self.lines.is_empty();
        }
        if let Err(error) = self.wal.seal() {
            warn!("{}", one_line(&error));
        }
        if is_complete {
            self.sealed.extend(self.wal.take_sealed());
            self.remove_segments();
        }
        (self.summary, is_complete)
    }

    /// What the run has published so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Losses that the run has declared so far.
    pub fn declared(&self) -> &BTreeMap<Cause, Declared> {
        &self.declared
    }

    /// Bytes in the write-ahead log of the run: rows that are not published, and some that are.
    pub fn wal_bytes(&self) -> u64 {
        let segments = self.wal.current().into_iter().chain(&self.sealed).chain(self.conversion.segments());
        segments.map(|segment| segment.bytes).sum()
    }

    /// After files were written: tells the ledger, and lets the write-ahead log go as far as it is not
    /// needed any more. Where files could not be written, their rows are read from it later.
    fn settle(&mut self, written: Result<(), WriteError>, now: SystemTime) {
        let published = self.writer.take_published();
        let has_published = !published.is_empty();
        for file in published {
            self.take_published(file, None, now);
        }
        if let Err(error) = written {
            // The name of the file is another one each time.
            let cause = one_line(&error.source);
            self.retry.say(format!("cannot write files, the write-ahead log keeps their rows: {cause}"));
            self.writer.discard();
            self.seal();
            self.conversion.add(std::mem::take(&mut self.sealed));
            self.retry.begin(now);
        } else if has_published {
            self.seal();
        }
        if has_published {
            // What the segments that go now said last.
            self.mark(self.marked_us);
            self.remove_segments();
        }
    }

    fn take_published(&mut self, file: Published, of_run: Option<Uuid>, now: SystemTime) {
        if of_run.is_none() {
            self.summary.files += 1;
            self.summary.rows += file.rows;
            self.summary.bytes += file.bytes;
            self.seqs.extend(file.seqs.iter().cloned());
        }
        let (seq_first, seq_last) = file.seq_range();
        let line = PublishedFile {
            of_run,
            seq_first: Some(seq_first),
            seq_last: Some(seq_last),
            end_time_min_us: Some(file.end_first_us),
            end_time_max_us: Some(file.end_last_us),
            ..PublishedFile::new(Table::Flows, file.path.display().to_string(), file.rows)
        };
        self.log(Unlogged::File(line), now);
    }

    fn seal(&mut self) {
        if let Err(error) = self.wal.seal() {
            warn!("{}", one_line(&error));
        }
        self.sealed.extend(self.wal.take_sealed());
    }

    /// Removes the segments whose rows are all published, and the ledger says so.
    fn remove_segments(&mut self) {
        if !self.lines.is_empty() {
            return;
        }
        let (needed, done) = std::mem::take(&mut self.sealed)
            .into_iter()
            .partition(|segment: &Segment| self.writer.needs(&segment.path));
        self.sealed = needed;
        done.iter().for_each(|segment| remove_segment(&segment.path));
        std::mem::take(&mut self.recovered).iter().for_each(|path| remove_segment(path));
    }

    fn mark(&mut self, complete_until_us: i64) {
        match self.wal.mark(complete_until_us) {
            Ok(()) => self.marked_us = complete_until_us,
            // The next rows find the same.
            Err(error) => tracing::debug!("{}", one_line(&error)),
        }
        self.sealed.extend(self.wal.take_sealed());
    }

    /// Tries again what the disk refused.
    fn retry(&mut self, now: SystemTime) {
        self.flush_log(now);
        self.log_losses(now);
        if !self.retry.is_due(now) {
            return;
        }
        if self.has_to_wait() {
            self.retry.begin(now);
            self.convert_own(now);
            self.recover(now);
            self.retry.end(self.has_to_wait());
        }
        self.remove_segments();
    }

    /// Writes the rows that were dropped from memory once more.
    fn convert_own(&mut self, now: SystemTime) {
        let segments = std::mem::take(&mut self.conversion).into_segments();
        if segments.is_empty() {
            return;
        }
        let paths: Vec<PathBuf> = segments.iter().map(|segment| segment.path.clone()).collect();
        // From here on they are segments like others: needed until their rows are published.
        self.sealed.extend(segments);
        let Self { writer, seqs, .. } = self;
        let read = read_out(&paths, false, seqs, |batch, path| {
            writer.append(&batch, path, now).map_err(|error| Fault(one_line(&error)))
        });
        match read {
            Ok(readout) => {
                if let Some(gap) = readout.gap(self.watched_since_us, us_since_1970(now)) {
                    self.losses.add(gap);
                }
                self.settle(Ok(()), now);
                // Not only what the rotation asks for: these rows have waited long enough.
                let (damaged, intact) = std::mem::take(&mut self.sealed)
                    .into_iter()
                    .partition::<Vec<_>, _>(|segment: &Segment| readout.damaged.contains(&segment.path));
                self.sealed = intact;
                self.rotate(now);
                if self.conversion.is_empty() {
                    damaged.iter().for_each(|segment| set_aside(&segment.path));
                    tracing::info!(rows = readout.rows, "published the rows that had to wait");
                } else {
                    // Their good rows are still to be published.
                    self.conversion.add(damaged);
                }
            }
            Err(Fault(error)) => {
                self.retry.say(format!("cannot write files, the write-ahead log keeps their rows: {error}"));
                self.writer.discard();
                for file in self.writer.take_published() {
                    self.take_published(file, None, now);
                }
                self.seal();
                self.conversion.add(std::mem::take(&mut self.sealed));
            }
        }
    }

    /// Whether there are rows that could not be published.
    fn has_to_wait(&self) -> bool {
        !self.conversion.is_empty() || !self.unfinished.is_empty()
    }

    /// Appends a line to the ledger, now or as soon as there is room for it.
    fn log(&mut self, line: Unlogged, now: SystemTime) {
        self.lines.push(line);
        self.flush_log(now);
    }

    fn flush_log(&mut self, now: SystemTime) {
        self.lines.flush(now);
        if let Some(tip) = self.lines.tip() {
            self.writer.set_ledger_tip(&tip.to_string());
        }
    }

    /// Until when all is known, of what is known until then but for losses that the ledger does not have yet: after a
    /// crash nobody would know of them.
    fn declared_until_us(&self, complete_until_us: i64) -> i64 {
        let undeclared_us =
            self.losses.undeclared_since_us().into_iter().chain(self.lines.undeclared_since_us());
        undeclared_us.min().map_or(complete_until_us, |since_us| complete_until_us.min(since_us))
    }

    fn log_losses(&mut self, now: SystemTime) {
        if !self.lines.is_empty() {
            return;
        }
        for declared in self.losses.take_undeclared(now) {
            let Declared { gaps, lost_flows } = self.declared.entry(declared.loss.cause).or_default();
            *gaps += 1;
            *lost_flows += declared.loss.lost_flows.unwrap_or_default();
            self.writer.add_gap(declared.loss.clone());
            self.log(Unlogged::Event(Event::Gap(declared)), now);
        }
    }

    fn publish_gaps(&mut self, now: SystemTime) {
        self.log_losses(now);
        loop {
            match self.losses.publish(now) {
                Ok(None) => return,
                Ok(Some(line)) => {
                    self.log(Unlogged::File(line), now);
                }
                Err(error) => {
                    return self.retry.say(format!(
                        "cannot write a file of gaps, the ledger has them: {}",
                        one_line(&error)
                    ));
                }
            }
        }
    }
}

fn remove_segment(path: &std::path::Path) {
    if let Err(error) = wal::remove(path) {
        warn!("cannot remove `{}`, whose rows are all published: {error}", path.display());
    }
}

#[cfg(test)]
mod tests;
