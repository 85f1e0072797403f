//! An index: the first slot of each bucket. What follows is in the slots.

use crate::attribution::slots::NO_SLOT;

/// How many buckets an index has at least; a power of two.
const MIN_HEADS: usize = if cfg!(test) { 16 } else { 1024 };

/// The first slot of each bucket of an index. It grows by one bucket at a time, without a pause (linear hashing).
#[derive(Debug)]
pub(super) struct Buckets(pub(super) Vec<u32>);

impl Default for Buckets {
    fn default() -> Self {
        Self(vec![NO_SLOT; MIN_HEADS])
    }
}

impl Buckets {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Beyond the buckets that there are, those of half as many count.
    fn of(&self, hash: u64) -> usize {
        let most = self.0.len().next_power_of_two();
        let bucket = usize::try_from(hash & (most as u64 - 1)).unwrap_or(0);
        if bucket < self.0.len() { bucket } else { bucket & (most / 2 - 1) }
    }

    pub(super) fn first(&self, hash: u64) -> u32 {
        self.0.get(self.of(hash)).copied().unwrap_or(NO_SLOT)
    }

    pub(super) fn set_first(&mut self, hash: u64, number: u32) {
        let bucket = self.of(hash);
        if let Some(first) = self.0.get_mut(bucket) {
            *first = number;
        }
    }

    /// One bucket more. Gives what the one had of which it takes a part, and which is empty now.
    pub(super) fn grow(&mut self) -> u32 {
        let parent = self.0.len() - (1 << self.0.len().ilog2());
        self.0.push(NO_SLOT);
        self.0.get_mut(parent).map_or(NO_SLOT, |first| std::mem::replace(first, NO_SLOT))
    }

    /// One bucket less, if there are many more than slots. Gives what it had.
    pub(super) fn shrink(&mut self, slots: usize) -> u32 {
        if self.0.len() <= MIN_HEADS.max(2 * slots) {
            return NO_SLOT;
        }
        let first = self.0.pop().unwrap_or(NO_SLOT);
        self.0.shrink_to(2 * self.0.len());
        first
    }
}
