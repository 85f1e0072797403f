//! Whose turn it is where there are many network namespaces: to look at all of them twenty times a second would take more
//! than to read their events.

use std::ops::Range;
use std::time::Duration;

use super::DRAIN_INTERVAL;
use super::watched::REFRESH_INTERVAL;

/// So many are few: each is looked at with each tick.
pub(super) const FEW: usize = 16;

/// How long it is looked in one turn what they lack, where there are many.
pub(super) const LOOK_FOR: Duration = Duration::from_millis(20);

/// Up to which one it was the turn the last time.
#[derive(Debug, Default)]
pub(super) struct Turns {
    looked_until: usize,
    refreshed_until: usize,
}

impl Turns {
    /// Those of so many that are looked at with this tick.
    pub(super) fn next_to_look_at(&mut self, all: usize) -> Range<usize> {
        next(&mut self.looked_until, FEW, all)
    }

    /// There was no time for this one and those after it.
    pub(super) fn looked_until(&mut self, index: usize) {
        self.looked_until = index;
    }

    /// Those of which is read again with this tick what changes rarely. If there are few, all of them are at once.
    pub(super) fn next_to_refresh(&mut self, all: usize) -> Range<usize> {
        let ticks = usize::try_from(REFRESH_INTERVAL.as_millis() / DRAIN_INTERVAL.as_millis()).unwrap_or(1);
        if all <= FEW { 0..0 } else { next(&mut self.refreshed_until, all.div_ceil(ticks), all) }
    }
}

fn next(until: &mut usize, some: usize, all: usize) -> Range<usize> {
    let from = if *until < all { *until } else { 0 };
    *until = (from + some).min(all);
    from..*until
}
