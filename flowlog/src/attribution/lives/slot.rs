//! What is kept of one life, and which others it is beside.

use super::Life;
use crate::attribution::holders::HolderId;
use crate::attribution::slots::{NO_SLOT, Packed};

/// A life without an end.
pub(super) const OPEN: u64 = u64::MAX;

/// The number of a holder, and two bits of the life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tagged(pub(super) u32);

impl Tagged {
    /// Its end was not seen: it has ended at the latest when something else began.
    pub(super) const END_INFERRED: u32 = 1 << 31;
    /// It is not found by its cookie: the socket has another key since, or has told all.
    pub(super) const UNLINKED: u32 = 1 << 30;
    pub(super) const FLAGS: u32 = Self::END_INFERRED | Self::UNLINKED;

    pub(super) fn holder(self) -> HolderId {
        HolderId(self.0 & !Self::FLAGS)
    }

    pub(super) fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    pub(super) fn set(&mut self, flag: u32) {
        self.0 |= flag;
    }

    pub(super) fn set_holder(&mut self, holder: HolderId) {
        self.0 = self.0 & Self::FLAGS | holder.0 & !Self::FLAGS;
    }
}

/// A neighbour before and one after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbours {
    pub(super) previous: u32,
    pub(super) next: u32,
}

pub(super) const ALONE: Neighbours = Neighbours { previous: NO_SLOT, next: NO_SLOT };

#[derive(Clone, Copy, Debug)]
pub(super) struct Slot<K, T> {
    pub(super) opened_ns: Packed,
    /// [`OPEN`] if it has not ended.
    pub(super) closed_ns: Packed,
    pub(super) cookie: Packed,
    pub(super) holder: Tagged,
    /// In the bucket of its key.
    pub(super) of_key: Neighbours,
    /// The next in the bucket of its cookie.
    pub(super) next_of_cookie: u32,
    /// Among the lives of its group that are open, or closed.
    pub(super) of_group: Neighbours,
    pub(super) key: K,
    pub(super) value: T,
}

impl<K: Copy, T: Copy> Slot<K, T> {
    pub(super) fn is_open(&self) -> bool {
        self.closed_ns.get() == OPEN
    }

    pub(super) fn life(&self) -> Life<T> {
        let closed_ns = self.closed_ns.get();
        Life {
            opened_ns: self.opened_ns.get(),
            closed_ns: (closed_ns != OPEN).then_some(closed_ns),
            cookie: self.cookie.get(),
            holder: self.holder.holder(),
            value: self.value,
        }
    }
}
