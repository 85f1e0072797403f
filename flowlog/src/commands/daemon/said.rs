//! What is said not too often: whoever changes the host back and forth all the time must not fill the log, nor must
//! what comes by the thousand.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::host::needs::{Change, Need};

/// How often the same is said at most.
const EVERY: Duration = Duration::from_secs(10);

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    /// It is not met.
    Lost(Need),
    /// It is met again.
    Met(Need),
    /// Connections may not have been tracked for a moment.
    Blink,
    /// Rules were added.
    Added,
    /// Why it could not be mended.
    Why(Need),
}

/// When what was said, and what is to be said later.
#[derive(Debug, Default)]
pub(super) struct Said {
    at: HashMap<Topic, Instant>,
    owed: HashMap<Need, Change>,
}

impl Said {
    /// Whether this is to be said now, since it has not been said for a while.
    pub(super) fn is_time(&mut self, topic: Topic, now: Instant) -> bool {
        let is_time = self.at.get(&topic).is_none_or(|at| now >= *at + EVERY);
        if is_time {
            self.at.insert(topic, now);
        }
        is_time
    }

    /// What is to be said of a need that was looked at: the change that was found, or one that could not be said when it
    /// was found, if it was the last one.
    pub(super) fn change(&mut self, need: Need, found: Option<Change>, now: Instant) -> Option<Change> {
        let owed = self.owed.remove(&need);
        let change = found.or(owed)?;
        let topic = match change {
            Change::Lost { need } => Topic::Lost(need),
            Change::Met { need, .. } => Topic::Met(need),
        };
        if self.is_time(topic, now) {
            return Some(change);
        }
        self.owed.insert(need, change);
        None
    }
}

/// A count that is said each time when it is more than twice what was said.
#[derive(Debug, Default)]
pub(super) struct Doubling {
    said: u64,
}

impl Doubling {
    /// Whether the count is to be said now; then it was.
    pub(super) fn is_due(&mut self, count: u64) -> bool {
        let is_due = count > self.said.saturating_mul(2);
        if is_due {
            self.said = count;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_said_when_it_has_doubled() {
        let mut said = Doubling::default();
        assert!(!said.is_due(0));
        let due: Vec<u64> = (1..20).filter(|&count| said.is_due(count)).collect();
        assert_eq!(due, [1, 3, 7, 15]);
    }

    const NEED: Need = Need::Events;
    const LOST: Option<Change> = Some(Change::Lost { need: NEED });
    const MET: Option<Change> = Some(Change::Met { need: NEED, after_us: 1 });

    #[test]
    fn a_loss_that_lasts_is_said_although_another_one_was_said_just_before() {
        let (mut said, start) = (Said::default(), Instant::now());
        let mut at = |seconds, found| said.change(NEED, found, start + Duration::from_secs(seconds));
        assert_eq!(at(0, LOST), LOST);
        assert_eq!(at(1, MET), MET);
        assert_eq!(at(2, LOST), None);
        assert_eq!([3, 9].map(|seconds| at(seconds, None)), [None, None]);
        assert_eq!(at(10, None), LOST);
        assert_eq!([11, 30].map(|seconds| at(seconds, None)), [None, None]);
        assert_eq!(at(31, MET), MET);
    }

    #[test]
    fn what_changes_all_the_time_is_said_now_and_then() {
        let (mut said, start) = (Said::default(), Instant::now());
        let mut lines = 0;
        for tenth in 0..600 {
            let found = if tenth % 2 == 0 { LOST } else { MET };
            lines +=
                u32::from(said.change(NEED, found, start + Duration::from_millis(100) * tenth).is_some());
        }
        assert_eq!(lines, 12, "a minute");
        let calm = start + Duration::from_secs(70);
        assert_eq!(said.change(NEED, None, calm), MET, "the last one");
    }
}
