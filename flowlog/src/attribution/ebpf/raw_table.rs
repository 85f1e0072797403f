//! The table of what raw sockets sent. It takes 10 MiB, and most hosts have no such sockets: so it is mapped into memory when
//! it is first asked.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use flowlog_common::raw_sent::{RawSent, RawTuple, Sent, Shared};
use tracing::warn;

/// The table of the programs.
#[derive(Debug)]
pub struct RawTable {
    table: OwnedFd,
    seed: u64,
    /// `None` if the kernel refused it.
    mapped: OnceCell<Option<Shared>>,
}

impl RawTable {
    /// The table of programs with this seed.
    ///
    /// # Errors
    ///
    /// Where there are too many open files.
    pub(super) fn new(table: BorrowedFd<'_>, seed: u64) -> io::Result<Self> {
        Ok(Self { table: table.try_clone_to_owned()?, seed, mapped: OnceCell::new() })
    }

    fn mapped(&self) -> Option<&Shared> {
        let map = || {
            Shared::map(self.table.as_fd(), self.seed)
                .inspect_err(|error| {
                    warn!("packets made by hand have no process: cannot map the table of what raw sockets sent: {error}");
                })
                .ok()
        };
        self.mapped.get_or_init(map).as_ref()
    }
}

impl Sent for RawTable {
    fn find(&self, tuple: &RawTuple) -> Option<RawSent> {
        self.mapped()?.find(tuple)
    }

    fn forgotten(&self) -> u64 {
        self.mapped().map_or(0, Sent::forgotten)
    }
}
