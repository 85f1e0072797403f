//! Saved text of connection tracking becomes files of the flow log.
//!
//! Owns which lines become rows, and what a row has that its line does not tell. A run of its own, which
//! watches nothing: the order of writing is that of [`Store`], as for a daemon. Lines are read one by one,
//! so that memory does not grow with them.
//!
//! Invariant: unless bad lines are to be left out, no row is taken before all lines were read once.

use std::path::PathBuf;
use std::time::SystemTime;

use jiff::tz::TimeZone;
use tracing::info;

use super::lines::{BadLine, Place, Progress, Source, Unreadable};
use super::unknown::Unknown;
use crate::connections::ctnetlink::decode::EventKind;
use crate::connections::proc_net::LabelNames;
use crate::connections::proc_net::parse::{Context, Line};
use crate::flow::Flow;
use crate::host::identity::Host;
use crate::log::retention::RetentionLimits;
use crate::log::schema::FlowBatch;
use crate::log::store::{OpenError, Refused, Store, StoreConfig, Summary};
use crate::log::wal::WalSync;
use crate::log::writer::{Compatibility, Directory, Rotation};
use crate::record::{FlowRecord, Sighting};
use crate::time::{NS_PER_S, ns_since_1970, us_since_1970};

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// How many bad lines are told one by one.
const MAX_BAD_LINES: usize = 20;

/// Where a line is of no known network namespace: no inode has this number.
const UNKNOWN_NAMESPACE: u64 = 0;

/// What the lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A list: /proc/net/nf_conntrack, /proc/net/ip_conntrack, or `conntrack -L`
    #[value(name = "nf_conntrack")]
    NfConntrack,
    /// Events: `conntrack -E`, of which those with `[DESTROY]` become rows
    ConntrackEvents,
}

/// What is imported, and how.
#[derive(Clone, Debug)]
pub(super) struct Import {
    /// What the lines are.
    pub format: Format,
    /// Files; `-` is the standard input.
    pub inputs: Vec<PathBuf>,
    /// The directory of the flow log.
    pub output: PathBuf,
    /// Whether bad lines are left out. Else the first one ends the import before it takes a row.
    pub keep_going: bool,
    /// Whether fields and flags that are not known are left out. Else they make a line bad.
    pub ignore_unknown: bool,
    /// The host that the lines are of.
    pub host: Host,
    /// Names of labels; without them, labels are left out.
    pub labels: Option<LabelNames>,
    /// The zone of the times in the lines.
    pub time_zone: TimeZone,
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Imported {
    /// What was published.
    pub published: Summary,
    /// Lines that are not empty.
    pub lines: u64,
    /// Events of entries that did not end.
    pub other_events: u64,
    /// Lines that were left out.
    pub bad_lines: u64,
    /// The first of them.
    pub first_bad_lines: Vec<BadLine>,
    /// Lines that are neither entries nor bad, as those that conntrack(8) says of itself, and byte order marks.
    pub notes: u64,
    /// Where conntrack(8) first said that it lost events.
    pub lost: Option<Place>,
    /// Fields and flags that were left out, and how many of each.
    pub unknown: Unknown,
}

/// Why nothing, or not all, was imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] Unreadable),
    /// A line is bad. Nothing was imported.
    #[error("{0}; nothing was imported, --keep-going leaves such lines out")]
    BadLine(BadLine),
    /// A line that was good when it was read first is not any more.
    #[error("{0}; the file changed while it was read, the lines before are imported")]
    Changed(BadLine),
    /// The flow log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk takes no more.
    #[error(
        "the lines from {from} on are not imported; make room and import them: the next run publishes those \
         before"
    )]
    Refused {
        /// The first line that is not.
        from: Place,
        /// The cause.
        source: Refused,
    },
    /// Files could not be written.
    #[error(
        "not all rows could be published; the write-ahead log has the rest, which the next run publishes"
    )]
    Unpublished,
}

/// Imports; tells how far it is to `each`.
///
/// # Errors
///
/// See [`ImportError`].
pub(super) fn import(import: &Import, each: &mut dyn FnMut(Progress)) -> Result<Imported, ImportError> {
    let context = Context {
        time_zone: &import.time_zone,
        labels: import.labels.as_ref(),
        ignore_unknown: import.ignore_unknown,
    };
    let mut sources = import.inputs.iter().map(Source::find).collect::<Result<Vec<_>, _>>()?;
    let passes = if import.keep_going { 1 } else { 2 };
    let total_bytes = sources.iter().map(Source::known_bytes).sum::<u64>() * passes;
    let mut progress = Progress { done_bytes: 0, total_bytes };
    if !import.keep_going {
        for source in &mut sources {
            source.make_repeatable()?;
            let mut lines = source.lines()?;
            while let Some(line) = lines.next(&context)? {
                line.and_then(|line| lines.check(sighting(import.format, &line)))
                    .map_err(ImportError::BadLine)?;
                lines.add_progress(&mut progress, each);
            }
            let read_bytes = lines.read_bytes();
            source.end_after(read_bytes);
        }
    }

    let mut rows = Rows::open(import)?;
    let mut imported = Imported::default();
    for source in &mut sources {
        let mut lines = source.lines()?;
        while let Some(line) = lines.next(&context)? {
            imported.lines += 1;
            lines.add_progress(&mut progress, each);
            let taken = line.and_then(|line| {
                let sighting = lines.check(sighting(import.format, &line))?;
                let flow = lines.flow(&line)?;
                imported.unknown.add(line.unknown);
                Ok((flow, sighting))
            });
            match taken {
                Ok((flow, Some(sighting))) => rows.add(&flow, sighting, || lines.place())?,
                Ok((_, None)) => imported.other_events += 1,
                Err(bad) if import.keep_going => {
                    imported.bad_lines += 1;
                    if imported.first_bad_lines.len() < MAX_BAD_LINES {
                        imported.first_bad_lines.push(bad);
                    }
                }
                Err(bad) => {
                    rows.finish()?;
                    return Err(ImportError::Changed(bad));
                }
            }
        }
        imported.notes += lines.notes();
        imported.lost = imported.lost.take().or_else(|| lines.lost());
    }
    imported.published = rows.finish()?;
    Ok(imported)
}

/// What a line tells of the end of its entry; `None` where the entry goes on.
fn sighting(format: Format, line: &Line) -> Result<Option<Sighting>, &'static str> {
    match (format, line.event) {
        (Format::ConntrackEvents, EventKind::Destroy) => {
            Ok(Some(Sighting::ImportedEnd { by_program: line.by_program }))
        }
        (Format::ConntrackEvents, EventKind::New | EventKind::Update) => Ok(None),
        (Format::ConntrackEvents, EventKind::Other) => {
            Err("found no event, expected [NEW], [UPDATE] or [DESTROY], or --format nf_conntrack")
        }
        (Format::NfConntrack, EventKind::Other) => {
            let start_ns = line.entry.timestamps.as_ref().and_then(|times| times.start_ns);
            let age_ns = line.age_s.and_then(|age_s| age_s.checked_mul(NS_PER_S));
            let listed_ns = start_ns.zip(age_ns).and_then(|(start_ns, age_ns)| start_ns.checked_add(age_ns));
            Ok(Some(Sighting::ImportedEntry { listed_ns }))
        }
        (Format::NfConntrack, _) => {
            Err("found an event, expected an entry of a list, or --format conntrack-events")
        }
    }
}

/// The rows on their way to the store.
struct Rows {
    store: Store,
    batch: FlowBatch,
    /// Where the first row of the batch is from.
    first: Option<Place>,
    started: SystemTime,
}

impl Rows {
    fn open(import: &Import) -> Result<Self, OpenError> {
        let started = SystemTime::now();
        // Which boot and kernel the lines are of is not known.
        let host = Host { boot_id: None, kernel: "unknown".to_owned(), ..import.host.clone() };
        let facts = host.begin_run();
        let run = facts.run.clone();
        let config = StoreConfig {
            directory: Directory::open(&import.output)?,
            rotation: Rotation::default(),
            compatibility: Compatibility::default(),
            wal_sync: WalSync::default(),
            retention: RetentionLimits::default(),
            facts,
            delivery: "import",
            netns: Vec::new(),
            watched_since_us: None,
            kept: None,
            in_flight: None,
        };
        let mut store = Store::open(config, started)?;
        info!("importing as run {} into `{}`", run.run_id, import.output.display());
        store.recover(started);
        Ok(Self { store, batch: FlowBatch::new(&run), first: None, started })
    }

    fn add(
        &mut self,
        flow: &Flow,
        sighting: Sighting,
        place: impl FnOnce() -> Place,
    ) -> Result<(), ImportError> {
        if self.batch.is_empty() {
            self.first = Some(place());
        }
        self.batch.append(&FlowRecord {
            flow,
            sighting,
            received_ns: ns_since_1970(self.started),
            counters_final: matches!(sighting, Sighting::ImportedEnd { .. }),
            observer_netns: UNKNOWN_NAMESPACE,
            observer_netns_name: None,
            last_seen_ns: None,
            direction: None,
            src: None,
            dst: None,
        });
        if self.batch.len() >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ImportError> {
        let Some(from) = self.first.take() else { return Ok(()) };
        let now = SystemTime::now();
        let nothing_was_watched_us = us_since_1970(self.started);
        self.store
            .append(&self.batch.finish(), nothing_was_watched_us, 0, now)
            .map_err(|source| ImportError::Refused { from, source })?;
        self.store.tick(nothing_was_watched_us, now);
        Ok(())
    }

    /// Publishes all rows.
    fn finish(mut self) -> Result<Summary, ImportError> {
        self.flush()?;
        match self.store.finish(true, SystemTime::now()) {
            (published, true) => Ok(published),
            (_, false) => Err(ImportError::Unpublished),
        }
    }
}
