//! Appending to the ledger, and what it says of earlier runs. Its lines are in [`flowlog_reader::ledger`].
//!
//! Does not read the clock and does not judge: that is [`verify`](crate::log::verify)'s.
//!
//! Invariants: a line that [`Ledger::append`] took is synced, and is never touched again. Each line
//! holds the hash of the bytes of the line before it, so that a change shows in all lines after it. A
//! line that could not be appended leaves nothing behind, neither by an error nor by a crash:
//! [`Ledger::open`] cuts off what a crash left of it. A run's first line is [`Event::Start`], and its
//! last one [`Event::Stop`].

mod history;

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use flowlog_reader::ledger::{Entry, Event, Hash, Line, Lines};
use jiff::Timestamp;
use nix::fcntl::OFlag;
use uuid::Uuid;

use crate::log::disk::{FILE_MODE, sync_directory};

pub use history::{Damage, History, LastLine, UnfinishedRun};

/// The ledger of an output directory, open for appending. The caller sees to it that there is one.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    /// Where the next line begins.
    end_bytes: u64,
    tip: Hash,
    /// The line that is made now.
    line: Vec<u8>,
    /// Whether something of a failed line may be behind the end.
    is_torn: bool,
}

impl Ledger {
    /// Opens the ledger at `path`, or makes it, and reads what it says about earlier runs.
    ///
    /// What a crash left of its last line is cut off ([`History::torn`]). Other damage stays as it is,
    /// for `flowlog verify` to name: the chain goes on from the last line.
    ///
    /// # Errors
    ///
    /// It cannot be read or written.
    pub fn open(path: &Path) -> io::Result<(Self, History)> {
        // Where others may write to the directory, a link of theirs must not lead to another file.
        let flags = OFlag::O_NOFOLLOW.bits();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .custom_flags(flags)
            .open(path)?;
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        let mut ledger = Self { file, end_bytes: 0, tip: Hash::ZERO, line: Vec::new(), is_torn: false };

        let mut history = History::default();
        let mut last: Option<Entry> = None;
        for entry in Lines::new(ledger.file.try_clone()?) {
            if let Some(before) = last.replace(entry?) {
                ledger.take(before, &mut history);
            }
        }
        // Only the end can be torn by a crash.
        match last.map(|last| (last.torn(), last)) {
            Some((Some(torn), _)) => history.torn = Some(torn),
            Some((None, last)) => ledger.take(last, &mut history),
            None => {}
        }
        ledger.cut()?;
        if let Some(directory) = path.parent() {
            // A line that is synced must be found after a power failure, so the file must be, too.
            sync_directory(directory)?;
        }
        Ok((ledger, history))
    }

    /// The hash of the last line: what [`Line::prev`] of the next one will be. Whoever notes it
    /// elsewhere can tell later that nothing before it was changed.
    pub fn tip(&self) -> Hash {
        self.tip
    }

    /// Appends a line and syncs it.
    ///
    /// # Errors
    ///
    /// The line is not in the ledger, and nothing of it. It can be appended again.
    pub fn append(&mut self, run_id: Uuid, now: SystemTime, event: Event) -> io::Result<()> {
        let time = Timestamp::try_from(now).map_err(io::Error::other)?;
        let line = Line { prev: self.tip, time, run_id, event };
        line.encode(&mut self.line)?;
        let tip = Hash::of(&self.line);
        self.line.push(b'\n');
        if self.is_torn {
            self.cut()?;
        }
        self.is_torn = true;
        let written = self
            .file
            .write_all_at(&self.line, self.end_bytes)
            // Metadata that is needed to read it, such as the new size, is synced with it.
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Tried again before the next line, where it fails now, and when the ledger is opened.
            let _ = self.cut();
            return Err(error);
        }
        self.is_torn = false;
        self.end_bytes = self.end_bytes.saturating_add(u64::try_from(self.line.len()).unwrap_or(u64::MAX));
        self.tip = tip;
        Ok(())
    }

    /// Goes on behind a line that is in the file.
    fn take(&mut self, entry: Entry, history: &mut History) {
        let prev = std::mem::replace(&mut self.tip, entry.hash);
        self.end_bytes = entry.end_bytes();
        history.take(entry, prev);
    }

    /// Cuts off what is behind the last line.
    fn cut(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() > self.end_bytes {
            self.file.set_len(self.end_bytes)?;
            self.file.sync_all()?;
        }
        self.is_torn = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
