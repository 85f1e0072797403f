//! What must be recorded: a few rules about times, and nothing of how the daemon works.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::harness::tally::{GapRow, Tally};

/// Microseconds since 1970: something happened between these.
pub(super) type Window = RangeInclusive<i64>;

/// What happened, as far as it matters for what must be recorded.
#[derive(Debug, Default)]
pub(super) struct Reference {
    /// When each entry ended.
    ended: BTreeMap<u32, Window>,
    /// Those that may have ended by expiry, of which the kernel tells later.
    expiring: BTreeSet<u32>,
    /// Times of which no end may be missing: from when a daemon was ready until it was asked to stop, or, where it
    /// was killed, until the last time after which all was seen to be published.
    kept: Vec<Window>,
    /// Those of them whose run stopped, so that nothing in them may be declared missing either.
    complete: Vec<Window>,
    /// Times of which a run that was killed had logged all ends of which the kernel had told.
    logged: Vec<Window>,
    /// When the first daemon was ready. Nobody declares what was before.
    first_ready_us: Option<i64>,
}

impl Reference {
    /// An entry ended.
    #[track_caller]
    pub(super) fn ended(&mut self, number: u32, window: Window) {
        assert!(self.ended.insert(number, window).is_none(), "entry {number} ended twice in the model");
    }

    /// An entry ended that expires, be it by that or because it was removed.
    #[track_caller]
    pub(super) fn expired(&mut self, number: u32, window: Window) {
        self.ended(number, window);
        self.expiring.insert(number);
    }

    /// A daemon is ready.
    pub(super) fn ready(&mut self, at_us: i64) {
        self.first_ready_us.get_or_insert(at_us);
    }

    /// Whether a daemon was ready once.
    pub(super) fn has_begun(&self) -> bool {
        self.first_ready_us.is_some()
    }

    /// No end in this time may be missing.
    pub(super) fn kept(&mut self, window: Window) {
        self.kept.push(window);
    }

    /// No end in this time may be missing that the kernel tells at once.
    pub(super) fn logged(&mut self, window: Window) {
        self.logged.push(window);
    }

    /// The run of this time said that it published all.
    pub(super) fn complete(&mut self, window: Window) {
        self.complete.push(window);
    }

    /// The entries that must be rows if no end of this time may be missing either.
    pub(super) fn required(&self, time: &Window) -> impl Iterator<Item = u32> {
        let is_kept = move |ended: &Window| self.kept.iter().chain([time]).any(|kept| is_within(ended, kept));
        self.ended.iter().filter(move |(_, ended)| is_kept(ended)).map(|(number, _)| *number)
    }

    /// Each end is one row, or lies in a time that is declared; within the times that are kept it is a row.
    #[track_caller]
    pub(super) fn check(&self, tally: &Tally) {
        tally.check_each_once();
        assert_eq!(tally.others, 0, "rows of no entry");
        let unknown: Vec<_> = tally.rows.keys().filter(|number| !self.ended.contains_key(number)).collect();
        assert!(unknown.is_empty(), "rows of entries that did not end: {unknown:?}");
        for gap in &tally.gaps {
            assert_eq!((gap.cause.as_str(), gap.lost_flows), ("daemon_down", None), "{gap:?}");
            let wrong = self.complete.iter().find(|complete| overlap(complete, &time(gap)));
            assert_eq!(wrong, None, "a gap within a time of which all is there: {gap:?}");
        }
        let mut missing = Vec::new();
        let mut undeclared = Vec::new();
        for (number, ended) in self.ended.iter().filter(|(number, _)| !tally.rows.contains_key(number)) {
            let is_logged = !self.expiring.contains(number) && is_within_any(ended, &self.logged);
            if is_logged || is_within_any(ended, &self.kept) {
                missing.push((number, ended));
            }
            let is_before = self.first_ready_us.is_none_or(|first_us| *ended.start() < first_us);
            if !is_before && !tally.gaps.iter().any(|gap| overlap(ended, &time(gap))) {
                undeclared.push((number, ended));
            }
        }
        let gaps = &tally.gaps;
        assert!(missing.is_empty(), "{} rows are missing: {:?}; {gaps:?}", missing.len(), first(&missing));
        let count = undeclared.len();
        assert!(undeclared.is_empty(), "{count} are lost, not declared: {:?}; {gaps:?}", first(&undeclared));
    }
}

fn time(gap: &GapRow) -> Window {
    gap.from_us..=gap.to_us
}

fn is_within(inner: &Window, outer: &Window) -> bool {
    outer.contains(inner.start()) && outer.contains(inner.end())
}

fn is_within_any(inner: &Window, outer: &[Window]) -> bool {
    outer.iter().any(|outer| is_within(inner, outer))
}

fn overlap(one: &Window, other: &Window) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

fn first<T>(all: &[T]) -> &[T] {
    &all[..all.len().min(5)]
}
