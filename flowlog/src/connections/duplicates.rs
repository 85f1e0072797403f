//! Which DESTROY messages were seen before.
//!
//! The kernel sends an event again, to all listeners, when one of them asked for reliable delivery and
//! had no room for it. So a healthy listener can get most events of a burst twice. [`Seen`] remembers
//! the identities of the flows that ended last. A pure data structure: the time is an argument.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;
use hashbrown::{HashMap, HashSet};

use crate::flow::Flow;
use crate::time::NS_PER_S;

/// After this time without becoming full, a generation is followed by the next one. The kernel repeats
/// an event as soon as the listener that had no room for it has read something, so a duplicate this old
/// means a listener that stood still for as long.
const GENERATION_NS: u64 = 600 * NS_PER_S;

/// For how long a flow without a start is remembered. Its tuple, id and counters may come again as those of
/// another flow: an entry lives for ten seconds at least, unless somebody removes it.
const WITHOUT_START_NS: u64 = 2 * NS_PER_S;

/// What identifies a flow: its id and tuple, and when it started.
///
/// The id alone comes again: the kernel makes it from the address of the entry and its tuple. Where the
/// kernel takes no start times, the counters stand for them, for a short time.
///
/// It is a hash of all that, since a busy host has a million of them. That a flow has the one of another among as
/// many happens once in 10^13 flows.
type Identity = u64;

/// The identities of the flows that ended last.
#[derive(Debug)]
pub struct Seen {
    young: HashSet<Identity, foldhash::fast::RandomState>,
    /// The generation before; forgotten with the end of the young one.
    old: HashSet<Identity, foldhash::fast::RandomState>,
    /// When flows without a start ended.
    without_start: HashMap<Identity, u64, foldhash::fast::RandomState>,
    /// Those that were noted since [`Seen::take_new`].
    new: Vec<Identity>,
    /// When the young generation began, as far as [`Seen::expire`] told the time.
    since_ns: u64,
    now_ns: u64,
}

impl Seen {
    /// Nothing was seen yet. Times are of any clock that does not go back.
    pub fn new(now_ns: u64) -> Self {
        Self {
            young: HashSet::default(),
            old: HashSet::default(),
            without_start: HashMap::default(),
            new: Vec::new(),
            since_ns: now_ns,
            now_ns,
        }
    }

    /// Notes that the flow has ended. Says whether that is new.
    ///
    /// `max` bounds a generation. The kernel repeats events of entries that it still holds, and they are
    /// at most as many as the table has room for (`nf_conntrack_max`): no more have to be remembered.
    /// `received_ns` is now, of any clock.
    pub fn note(&mut self, flow: &Flow, received_ns: u64, max: usize) -> bool {
        if flow.start_ns.is_none() {
            let is_recent = |at_ns: u64| received_ns.abs_diff(at_ns) < WITHOUT_START_NS;
            if self.without_start.len() >= max {
                self.without_start.retain(|_, at_ns| is_recent(*at_ns));
            }
            let identity = identity(flow);
            let before_ns = self.without_start.insert(identity, received_ns);
            let is_new = !before_ns.is_some_and(is_recent);
            if is_new {
                self.new.push(identity);
            }
            return is_new;
        }
        if self.young.len() >= max {
            self.begin_generation();
        }
        let identity = identity(flow);
        // What is repeated now may be repeated again: it gets young, too.
        let is_new = self.young.insert(identity) && !self.old.contains(&identity);
        if is_new {
            self.new.push(identity);
        }
        is_new
    }

    /// Those that were noted since the last call, for [`Seen::remember`] in a later process.
    pub fn take_new(&mut self) -> impl Iterator<Item = u64> {
        self.new.drain(..)
    }

    /// Whether a flow with this identity was noted.
    pub fn has(&self, identity: u64) -> bool {
        self.young.contains(&identity) || self.old.contains(&identity)
    }

    /// Notes a flow that an earlier process has noted.
    pub fn remember(&mut self, identity: u64, now_ns: u64) {
        self.young.insert(identity);
        // Which of the two it is, only its flow would tell.
        self.without_start.insert(identity, now_ns);
    }

    /// Forgets what is old enough. To be called now and then.
    pub fn expire(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        // Most of it is old by now, and a few seconds too little cost less than a clock here.
        if self.without_start.len() > 1000 {
            self.without_start = HashMap::default();
        }
        if now_ns.saturating_sub(self.since_ns) >= GENERATION_NS {
            self.begin_generation();
        }
    }

    fn begin_generation(&mut self) {
        std::mem::swap(&mut self.young, &mut self.old);
        // Gives the memory of a burst back when it is quiet.
        if self.young.len() < self.young.capacity() / 8 {
            self.young = HashSet::default();
        } else {
            self.young.clear();
        }
        self.since_ns = self.now_ns;
    }
}

/// What tells an entry from others that are there at the same time: its id and a hash of its tuple.
pub fn entry_key(flow: &Flow) -> u64 {
    let tuple = FixedState::default().hash_one((&flow.orig, flow.zone));
    u64::from(flow.id.unwrap_or_default()) << 32 | tuple >> 32
}

/// What identifies a flow that has not ended: its identity when it does, if it has a start.
pub fn identity_while_open(flow: &Flow) -> u64 {
    identity_of(flow, flow.start_ns.unwrap_or_default())
}

fn identity(flow: &Flow) -> Identity {
    let start = flow.start_ns.unwrap_or_else(|| {
        let counters =
            [flow.orig_counters, flow.reply_counters].map(|counters| counters.map(|c| (c.packets, c.bytes)));
        FixedState::default().hash_one((counters, &flow.reply))
    });
    identity_of(flow, start)
}

fn identity_of(flow: &Flow, start: u64) -> Identity {
    FixedState::default().hash_one((&flow.orig, flow.zone, flow.id, start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Counters;
    use crate::testing;

    const MAX: usize = 1000;

    fn flow(port: u16, start_ns: Option<u64>) -> Flow {
        Flow { id: Some(7), start_ns, ..testing::flow(port) }
    }

    #[test]
    fn a_flow_is_new_once() {
        let mut seen = Seen::new(0);
        for (flow, is_new) in [
            (flow(1, Some(100)), true),
            (flow(1, Some(100)), false),
            (flow(2, Some(100)), true),
            (flow(1, Some(101)), true),
            (Flow { id: Some(8), ..flow(1, Some(100)) }, true),
            (Flow { zone: Some(1), ..flow(1, Some(100)) }, true),
        ] {
            assert_eq!(seen.note(&flow, 1, MAX), is_new, "{flow:?}");
        }
    }

    #[test]
    fn without_start_times_the_counters_tell_flows_apart_for_a_while() {
        let mut seen = Seen::new(0);
        let counted =
            |packets| Flow { orig_counters: Some(Counters { packets, bytes: 60 }), ..flow(1, None) };
        assert!(seen.note(&counted(1), 1, MAX));
        assert!(seen.note(&counted(2), 1, MAX));
        assert!(!seen.note(&counted(1), 1, MAX));
        assert!(seen.note(&counted(1), 1 + WITHOUT_START_NS, MAX), "another flow with the same port");
    }

    #[test]
    fn as_many_as_the_table_holds_are_remembered_and_at_most_twice_as_many() {
        let mut seen = Seen::new(0);
        for port in 0..5000 {
            assert!(seen.note(&flow(port, Some(1)), 1, MAX));
            assert!(seen.young.len() <= MAX && seen.old.len() <= MAX);
        }
        for port in 4000..5000 {
            assert!(!seen.note(&flow(port, Some(1)), 1, MAX), "{port}");
        }
    }

    #[test]
    fn a_repeated_flow_stays_known() {
        let mut seen = Seen::new(0);
        assert!(seen.note(&flow(1, Some(1)), 1, MAX));
        for minute in 1..100 {
            let now_ns = minute * 60 * 1_000_000_000;
            seen.expire(now_ns);
            assert!(!seen.note(&flow(1, Some(1)), 1, MAX));
        }
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut seen = Seen::new(0);
        seen.note(&flow(1, Some(1)), 1, MAX);
        seen.expire(GENERATION_NS);
        assert!(seen.old.len() == 1 && seen.young.is_empty());
        seen.expire(2 * GENERATION_NS);
        assert!(seen.old.is_empty() && seen.young.is_empty());
    }
}
