//! The ledger, and the lines that it could not take yet.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use flowlog_reader::ledger::{Event, Hash, PublishedFile};
use tracing::{error, info};
use uuid::Uuid;

use super::run_gaps::take_hash;
use crate::log::ledger::Ledger;
use crate::log::writer::Directory;

/// The lines of a run, in the order in which they come, whatever the disk does.
pub(super) struct LineQueue {
    ledger: Ledger,
    run_id: Uuid,
    directory: Arc<Directory>,
    /// What the ledger could not take yet.
    unlogged: VecDeque<Unlogged>,
    is_stuck: bool,
    tip: Option<Hash>,
}

/// What the ledger has to say.
pub(super) enum Unlogged {
    Event(Event),
    /// A file, whose hash is still to be taken.
    File(PublishedFile),
}

impl LineQueue {
    pub(super) fn new(ledger: Ledger, run_id: Uuid, directory: Arc<Directory>) -> Self {
        Self { ledger, run_id, directory, unlogged: VecDeque::new(), is_stuck: false, tip: None }
    }

    /// Whether the ledger has all lines.
    pub(super) fn is_empty(&self) -> bool {
        self.unlogged.is_empty()
    }

    /// Adds a line for the next [`LineQueue::flush`].
    pub(super) fn push(&mut self, line: Unlogged) {
        self.unlogged.push_back(line);
    }

    /// The hash of the last line of the run that the ledger has.
    pub(super) fn tip(&self) -> Option<Hash> {
        self.tip
    }

    /// Appends to the ledger what it takes now.
    pub(super) fn flush(&mut self, now: SystemTime) {
        let Self { ledger, run_id, directory, unlogged, is_stuck, tip } = self;
        while let Some(next) = unlogged.front_mut() {
            let appended = next.event(directory).and_then(|event| ledger.append(*run_id, now, event));
            if let Err(error) = appended {
                if !std::mem::replace(is_stuck, true) {
                    error!(
                        "cannot write the ledger, flowlog keeps trying: {error}; until then the write-ahead log keeps \
                         the rows"
                    );
                }
                return;
            }
            unlogged.pop_front();
            *tip = Some(ledger.tip());
        }
        if std::mem::take(is_stuck) {
            info!("the ledger can be written again");
        }
    }

    /// The earliest time of a loss that the ledger does not have yet, in microseconds since 1970.
    pub(super) fn undeclared_since_us(&self) -> Option<i64> {
        let gaps = self.unlogged.iter().filter_map(|line| match line {
            Unlogged::Event(Event::Gap(declared)) => Some(declared.loss.from_us),
            Unlogged::Event(_) | Unlogged::File(_) => None,
        });
        gaps.min()
    }
}

impl Unlogged {
    /// The line; of a file only where it can be read.
    fn event(&mut self, directory: &Directory) -> io::Result<Event> {
        match self {
            Self::Event(event) => Ok(event.clone()),
            Self::File(line) => {
                take_hash(line, directory)?;
                Ok(Event::File(line.clone()))
            }
        }
    }
}
