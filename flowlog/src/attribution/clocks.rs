//! `CLOCK_REALTIME`, of which connection tracking speaks, against `CLOCK_MONOTONIC`, of which the eBPF programs do.
//! Pure but for [`read`]: samples are handed in.
//!
//! Both clocks run at the same rate, so their difference changes only when somebody sets `CLOCK_REALTIME`. Between
//! two such moments each sample bounds the same difference, and all samples together bound it better than the best
//! of them. How well it is known is the error of each time that is converted: a join by time has to allow for it.
//!
//! The time between two moments at which the clock was set is an era. A flow that began before the clock was set has
//! its start by the difference of its own era.

pub mod read;

use crate::time::NS_PER_S;
use std::collections::VecDeque;

/// How many eras are remembered: a flow that is older than all of them has no start that could be converted.
const MAX_ERAS: usize = 2048;

/// How many of them are remembered for ever. Each makes the conversion of a time longer.
const OLD_ERAS: usize = 64;

/// No better are the clocks compared, in nanoseconds: they are read on one processor after the other, and round.
const PRECISION_NS: i64 = 500;

/// How long after the clock was set the kernel may tell of it: it wakes up all processors first.
const TOLD_LATE_NS: u64 = 1_000_000;

/// By how much a time may seem to be off, in nanoseconds, because the clock was set twice between two looks. Who sets it
/// by more shows a time that is of no era that is known.
const NEAR_NS: u64 = NS_PER_S;

/// How long it is considered, in nanoseconds, that a flow may have started at a moment at which the clock was set. Each
/// such moment makes a join longer; what starts then and lasts longer is ambiguous.
const UNSURE_FOR_NS: u64 = 600 * NS_PER_S;

/// One reading of `CLOCK_REALTIME` between two readings of `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `CLOCK_MONOTONIC`, read first.
    pub before_ns: u64,
    /// `CLOCK_REALTIME`.
    pub realtime_ns: u64,
    /// `CLOCK_MONOTONIC`, read last.
    pub after_ns: u64,
}

impl Sample {
    /// How long the readings took together, in nanoseconds.
    pub fn took_ns(&self) -> u64 {
        self.after_ns.saturating_sub(self.before_ns)
    }
}

/// A time by `CLOCK_MONOTONIC`, in nanoseconds, and by how much it may be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time.
    pub ns: u64,
    /// By how much it may have been earlier.
    pub early_ns: u64,
    /// By how much it may have been later.
    pub late_ns: u64,
}

impl Moment {
    /// A time that is known exactly.
    pub fn exact(ns: u64) -> Self {
        Self::about(ns, 0)
    }

    /// A time that may be off either way.
    pub fn about(ns: u64, error_ns: u64) -> Self {
        Self { ns, early_ns: error_ns, late_ns: error_ns }
    }
}

/// The clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// By how much `CLOCK_REALTIME` jumped, in nanoseconds.
    pub by_ns: i64,
    /// `CLOCK_MONOTONIC` before it happened.
    pub after_ns: u64,
    /// `CLOCK_MONOTONIC` when it was noticed.
    pub before_ns: u64,
}

/// The bounds of `CLOCK_REALTIME` less `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offset {
    low_ns: i64,
    high_ns: i64,
}

impl Offset {
    fn of(sample: Sample) -> Self {
        let Sample { before_ns, realtime_ns, after_ns } = sample;
        Self { low_ns: difference(realtime_ns, after_ns), high_ns: difference(realtime_ns, before_ns) }
            .widened()
    }

    /// What both allow; `None` if the clock was set between them.
    fn and(self, other: Self) -> Option<Self> {
        let both = Self { low_ns: self.low_ns.max(other.low_ns), high_ns: self.high_ns.min(other.high_ns) };
        (both.low_ns <= both.high_ns).then_some(both)
    }

    /// The same, at least as wide as clocks of several processors may differ.
    fn widened(self) -> Self {
        let missing_ns = (PRECISION_NS - (self.high_ns - self.low_ns)).max(0);
        Self { low_ns: self.low_ns - missing_ns / 2, high_ns: self.high_ns + missing_ns / 2 }
    }

    fn middle_ns(self) -> i64 {
        self.low_ns + (self.high_ns - self.low_ns) / 2
    }

    fn error_ns(self) -> u64 {
        (self.high_ns.abs_diff(self.low_ns)).div_ceil(2)
    }
}

/// A time in which nobody set the clock, by `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Era {
    offset: Offset,
    /// It began at this time at the earliest.
    from_ns: u64,
    /// It ended at this time at the latest.
    until_ns: u64,
}

/// What is known of the two clocks.
#[derive(Clone, Debug)]
pub struct Clocks {
    /// Oldest first; the last one goes on.
    eras: VecDeque<Era>,
    /// Times between two samples in which the clock was set, by `CLOCK_MONOTONIC`: it may have been set twice, and what it
    /// showed between is not known.
    unsure: VecDeque<(u64, u64)>,
    /// Until then the clock was not set since the last era began.
    verified_ns: u64,
    sets: u64,
}

impl Clocks {
    /// What one sample tells. What was before it is taken to be of the same era: nobody knows better.
    pub fn new(sample: Sample) -> Self {
        let era = Era { offset: Offset::of(sample), from_ns: 0, until_ns: u64::MAX };
        Self { eras: VecDeque::from([era]), unsure: VecDeque::new(), verified_ns: sample.before_ns, sets: 0 }
    }

    /// Clocks whose difference is known exactly, for what has no clocks to read.
    pub fn fixed(offset_ns: u64) -> Self {
        let offset_ns = i64::try_from(offset_ns).unwrap_or(i64::MAX);
        let offset = Offset { low_ns: offset_ns, high_ns: offset_ns };
        let era = Era { offset, from_ns: 0, until_ns: u64::MAX };
        Self { eras: VecDeque::from([era]), unsure: VecDeque::new(), verified_ns: 0, sets: 0 }
    }

    /// Takes in a sample. `was_set`: the kernel says that the clock was set since the sample before. Says whether it
    /// was: the samples may tell so, too.
    pub fn add(&mut self, sample: Sample, was_set: bool) -> Option<Set> {
        let offset = Offset::of(sample);
        while self.unsure.front().is_some_and(|(_, until_ns)| until_ns + UNSURE_FOR_NS < sample.before_ns) {
            self.unsure.pop_front();
        }
        let verified_ns =
            std::mem::replace(&mut self.verified_ns, sample.before_ns).saturating_sub(TOLD_LATE_NS);
        let current = self.eras.back_mut()?;
        if !was_set && let Some(both) = current.offset.and(offset) {
            current.offset = both.widened();
            return None;
        }
        let by_ns = offset.middle_ns() - current.offset.middle_ns();
        current.until_ns = sample.after_ns;
        self.eras.push_back(Era { offset, from_ns: verified_ns, until_ns: u64::MAX });
        self.unsure.push_back((verified_ns, sample.after_ns));
        let is_old = |era: &Era| era.until_ns.saturating_add(UNSURE_FOR_NS) < sample.before_ns;
        while self.eras.len() > MAX_ERAS
            || self.eras.len() > OLD_ERAS && self.eras.front().is_some_and(is_old)
        {
            self.eras.pop_front();
        }
        if self.unsure.len() > MAX_ERAS {
            self.unsure.pop_front();
        }
        self.sets += 1;
        Some(Set { by_ns, after_ns: verified_ns, before_ns: sample.after_ns })
    }

    /// The kernel says that the clock was not set before this time, in `CLOCK_MONOTONIC` nanoseconds.
    pub fn verified(&mut self, at_ns: u64) {
        self.verified_ns = at_ns;
    }

    /// How often the clock was set.
    pub fn sets(&self) -> u64 {
        self.sets
    }

    /// By how much a time of now may be off when it is converted, in nanoseconds.
    pub fn error_ns(&self) -> u64 {
        self.eras.back().map_or(u64::MAX, |era| era.offset.error_ns())
    }

    /// `CLOCK_REALTIME` at a time of `CLOCK_MONOTONIC`, both in nanoseconds.
    pub fn realtime_ns(&self, monotonic_ns: u64) -> u64 {
        let era =
            self.eras.iter().rev().find(|era| era.from_ns <= monotonic_ns).or_else(|| self.eras.front());
        let offset_ns = era.map_or(0, |era| era.offset.middle_ns());
        monotonic_ns.saturating_add_signed(offset_ns)
    }

    /// The times of `CLOCK_MONOTONIC` at which `CLOCK_REALTIME` was this; several if the clock was set back. Moments at which
    /// the clock was set are among them if no era that is known showed this time, or one did shortly before or after such
    /// a moment: the clock may have shown anything then.
    pub fn moments(&self, realtime_ns: u64) -> impl Iterator<Item = Moment> {
        let is_near = move |&&(from_ns, until_ns): &&(u64, u64)| {
            let mut known = self.known_moments(realtime_ns).peekable();
            known.peek().is_none()
                || known.any(|Moment { ns, .. }| {
                    ns.saturating_add(NEAR_NS) >= from_ns && ns <= until_ns.saturating_add(NEAR_NS)
                })
        };
        let unsure = self.unsure.iter().filter(is_near);
        self.known_moments(realtime_ns).chain(unsure.map(|&(from_ns, until_ns)| Moment {
            ns: from_ns,
            early_ns: 0,
            late_ns: until_ns - from_ns,
        }))
    }

    /// The same, of the eras that are known.
    fn known_moments(&self, realtime_ns: u64) -> impl Iterator<Item = Moment> {
        self.eras.iter().filter_map(move |era| {
            let error_ns = era.offset.error_ns();
            // Before the boot: older than everything.
            let ns = realtime_ns.saturating_add_signed(-era.offset.middle_ns());
            let is_in_era =
                ns.saturating_add(error_ns) >= era.from_ns && ns.saturating_sub(error_ns) <= era.until_ns;
            is_in_era.then_some(Moment::about(ns, error_ns))
        })
    }

    /// The last time of `CLOCK_MONOTONIC`, in nanoseconds, at which `CLOCK_REALTIME` was this, or may have been if no era
    /// that is known has it; `None` if it never was.
    pub fn latest_ns(&self, realtime_ns: u64) -> Option<u64> {
        let last = |moment: Moment| moment.ns.saturating_add(moment.late_ns);
        let known = self.known_moments(realtime_ns).map(last).max();
        known.or_else(|| self.moments(realtime_ns).map(last).max())
    }
}

/// One time less another, as far as that can be said.
fn difference(one_ns: u64, other_ns: u64) -> i64 {
    let difference = i128::from(one_ns) - i128::from(other_ns);
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN / 4 } else { i64::MAX / 4 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const HOUR: i64 = 3_600_000_000_000;

    /// A sample of clocks with this difference, which take so long to be read.
    fn sample(at_ns: u64, offset_ns: i64, took_ns: u64) -> Sample {
        let realtime_ns = (at_ns + took_ns / 2).saturating_add_signed(offset_ns);
        Sample { before_ns: at_ns, realtime_ns, after_ns: at_ns + took_ns }
    }

    fn moments(clocks: &Clocks, realtime_ns: u64) -> Vec<u64> {
        // Without the moments at which the clock was set.
        let known = clocks.moments(realtime_ns).filter(|moment| moment.early_ns > 0);
        known.map(|moment| moment.ns).collect()
    }

    #[test]
    fn samples_together_are_better_than_the_best_of_them() {
        let us = |before: u64, realtime: u64, after: u64| {
            let [before_ns, realtime_ns, after_ns] = [before, realtime, after].map(|us| us * 1000);
            Sample { before_ns, realtime_ns, after_ns }
        };
        let mut clocks = Clocks::new(us(100, 1150, 200));
        assert_eq!(clocks.error_ns(), 50_000);
        assert_eq!(clocks.add(us(300, 1310, 400), false), None);
        assert_eq!(clocks.error_ns(), 30_000, "from 950 to 1010 us");
        assert_eq!(clocks.moments(5_000_000).collect::<Vec<_>>(), [Moment::about(4_020_000, 30_000)]);
        assert_eq!(clocks.realtime_ns(4_020_000), 5_000_000);
        // As far as that goes: a processor whose clock is 100 ns behind has not set it.
        for (number, processor) in (500..600).zip([0, 0, 1].into_iter().cycle()) {
            let before_ns = number * 1000;
            let realtime_ns = before_ns + 980_020 - processor * 100;
            assert_eq!(clocks.add(Sample { before_ns, realtime_ns, after_ns: before_ns + 40 }, false), None);
        }
        assert!((1..1000).contains(&clocks.error_ns()), "{}", clocks.error_ns());
    }

    #[test]
    fn a_flow_has_its_start_by_the_clock_of_its_time() {
        let mut clocks = Clocks::new(sample(10 * MS, 7 * HOUR, 0));
        let at = |ms: u64, offset: i64| (ms * MS).saturating_add_signed(offset);
        let set = clocks.add(sample(20 * MS, 8 * HOUR, 0), true);
        assert_eq!(set, Some(Set { by_ns: HOUR, after_ns: 9 * MS, before_ns: 20 * MS }));
        assert_eq!(moments(&clocks, at(8, 7 * HOUR)), [8 * MS]);
        assert_eq!(moments(&clocks, at(25, 8 * HOUR)), [25 * MS]);
        let between = clocks.moments(at(25, 7 * HOUR)).collect::<Vec<_>>();
        let unsure = Moment { ns: 9 * MS, early_ns: 0, late_ns: 11 * MS };
        assert_eq!(between, [unsure], "perhaps for a moment");
        clocks.add(sample(20 * MS + UNSURE_FOR_NS, 8 * HOUR, 0), false);
        assert!(clocks.moments(at(25, 7 * HOUR)).any(|moment| moment == unsure));
        clocks.add(sample(21 * MS + UNSURE_FOR_NS, 8 * HOUR, 0), false);
        assert_eq!(clocks.moments(at(25, 7 * HOUR)).next(), None);
        assert_eq!(clocks.realtime_ns(8 * MS), at(8, 7 * HOUR));
        assert_eq!(clocks.realtime_ns(25 * MS), at(25, 8 * HOUR));
        assert_eq!(clocks.sets(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_shows_times_again() {
        let mut clocks = Clocks::new(sample(0, HOUR, 0));
        clocks.add(sample(50 * MS, HOUR, 0), false);
        clocks.add(sample(60 * MS, HOUR - 10_000_000, 0), true);
        let shown_ns = (45 * MS).saturating_add_signed(HOUR);
        assert_eq!(moments(&clocks, shown_ns), [45 * MS, 55 * MS]);
        assert_eq!(clocks.latest_ns(shown_ns), Some(55 * MS + 250));
    }

    #[test]
    fn samples_tell_that_the_clock_was_set() {
        let mut clocks = Clocks::new(sample(1000, HOUR, 1000));
        assert_eq!(clocks.add(sample(3000, HOUR + 400, 1000), false), None, "within the error");
        assert!(clocks.add(sample(5000, HOUR + 5000, 1000), false).is_some());
    }

    #[test]
    fn many_eras_are_forgotten() {
        let mut clocks = Clocks::new(sample(0, 0, 0));
        for number in 1..10_000 {
            clocks.add(sample(number * 10, HOUR, 0), true);
        }
        assert_eq!(clocks.eras.len(), MAX_ERAS);
    }

    proptest! {
        /// However the clocks are read and set, the real difference is within what is known.
        #[test]
        fn the_true_time_is_among_the_moments(
            steps in proptest::collection::vec((0..100_000u64, 0..1000u64, 0..1000u64, -3..4i64), 1..50),
            at in any::<prop::sample::Index>(),
        ) {
            let mut offset_ns = HOUR;
            let (mut now_ns, mut shown) = (1, Vec::new());
            let mut clocks: Option<Clocks> = None;
            for (wait_ns, first_ns, second_ns, set) in steps {
                let was_set = set > 0;
                if was_set {
                    offset_ns += (set - 2) * 50_000 + 1234;
                }
                now_ns += wait_ns;
                shown.push((now_ns, now_ns.saturating_add_signed(offset_ns)));
                let sample = Sample {
                    before_ns: now_ns,
                    realtime_ns: (now_ns + first_ns).saturating_add_signed(offset_ns),
                    after_ns: now_ns + first_ns + second_ns,
                };
                now_ns = sample.after_ns;
                match &mut clocks {
                    Some(clocks) => drop(clocks.add(sample, was_set)),
                    None => clocks = Some(Clocks::new(sample)),
                }
            }
            let (true_ns, realtime_ns) = *at.get(&shown);
            let is_among = clocks.unwrap().moments(realtime_ns).any(|moment| {
                (moment.ns - moment.early_ns.min(moment.ns)..=moment.ns + moment.late_ns).contains(&true_ns)
            });
            prop_assert!(is_among);
        }
    }
}
