//! What dumps of the connection tracking table tell that events do not: entries that end without a
//! DESTROY message, and how flows that go on stand now.
//!
//! An entry that was made while nobody listened never sends DESTROY (`nf_conntrack_events` = 2, the
//! default since Linux 5.19), nor does one that was made while events were off, or under a rule that leaves this
//! event out. [`Dumps`] remembers what the first dump listed, and what audits do, which are made now and then, and
//! compares the later ones with it. A pure data structure: dumps are handed in, times are arguments in
//! `CLOCK_REALTIME` nanoseconds.
//!
//! Invariant: each entry becomes one record of its end: by its DESTROY message where that comes, else by
//! [`Dumps::take_record`], never by both.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::connections::duplicates::entry_key;
use crate::flow::{Counters, Flow};
use crate::record::Sighting;

/// In how many dumps an entry has to be missing before it is taken to have ended without a message. The
/// kernel takes an entry out of its table before it sends the message, and sends it late where a listener
/// has no room: the first dump without the entry may overtake the message.
const MISSING_DUMPS: u32 = 2;

/// For how many more dumps a late DESTROY message of an entry that was recorded is recognised.
const REMEMBERED_DUMPS: u32 = 30;

/// How many entries are followed at most; one takes some 340 bytes.
const MAX_FOLLOWED: usize = 1 << 18;

/// Which entries a dump follows that were not known before. The first dump follows all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// None: it looks for those that are known.
    Known,
    /// All, in case one ends without an event.
    All,
    /// All, and some of them will: events were off. They are followed by each dump.
    Silent,
}

/// What tells an entry from others: its id, its tuple and its start.
type Identity = (u64, u64);

/// The entries that are followed from dump to dump.
#[derive(Debug)]
pub struct Dumps {
    entries: HashMap<Identity, Box<Entry>, foldhash::fast::RandomState>,
    /// Records of flows that go on are made this often, of all entries; `None` turns them off.
    active_interval_ns: Option<u64>,
    /// Records that wait to be taken.
    records: VecDeque<Record>,
    /// Number of the current dump.
    dump: u32,
    /// When the current dump began.
    began_ns: u64,
    /// When the last two complete dumps began, the last one first.
    dumped_ns: [u64; 2],
    /// What the current dump follows.
    follow: Follow,
    /// Entries of the first dump that have not ended, and those that were made while events were off: some of them
    /// may never send a message.
    silent: usize,
    /// Entries that the last dump did not have, and of which no message told.
    missing: usize,
    /// Entries that are recorded as ended and remembered.
    ended: usize,
    /// Entries that were not followed, since there were too many.
    left_out: u64,
    /// No dump follows.
    is_over: bool,
    zeroed: u64,
}

#[derive(Debug)]
struct Entry {
    /// As the last dump that had it; `event_ns` is the time of that dump.
    flow: Flow,
    /// Number of the last dump that had it.
    dump: u32,
    /// Somebody set its counters back.
    was_zeroed: bool,
    /// When it last became a record; `None` before.
    recorded_ns: Option<u64>,
    /// It was recorded as ended.
    ended: bool,
    /// The first dump had it, or events were off.
    may_be_silent: bool,
}

/// What a dump gives to be recorded.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// As the last dump that had it.
    pub flow: Flow,
    /// [`Sighting::Alive`], or [`Sighting::Vanished`].
    pub sighting: Sighting,
    /// When the dump was that showed it.
    pub at_ns: u64,
}

/// What a DESTROY message is, after what dumps told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroyed {
    /// The end of the flow.
    First {
        /// Whether its counters are all that there was: nobody was seen to set them back.
        counters_final: bool,
    },
    /// The end of a flow that was recorded as ended: the message came very late.
    Again,
}

impl Dumps {
    /// Nothing was dumped yet.
    pub fn new(active_interval_ns: Option<u64>) -> Self {
        Self {
            entries: HashMap::default(),
            active_interval_ns,
            records: VecDeque::new(),
            dump: 0,
            began_ns: 0,
            dumped_ns: [0; 2],
            follow: Follow::All,
            silent: 0,
            missing: 0,
            ended: 0,
            left_out: 0,
            is_over: false,
            zeroed: 0,
        }
    }

    /// Whether another dump can tell something.
    pub fn is_needed(&self) -> bool {
        let Self { dump, active_interval_ns, silent, missing, ended, .. } = self;
        *dump == 0 || active_interval_ns.is_some() || *silent + *missing + *ended > 0
    }

    /// How many entries were not followed, since there were too many.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Messages were lost, and are declared: entries of which they told have not ended without one.
    pub fn forget_announced(&mut self) {
        self.entries.retain(|_, entry| entry.may_be_silent || entry.ended);
        self.count();
    }

    /// How often counters were found to be set back.
    pub fn zeroed(&self) -> u64 {
        self.zeroed
    }

    /// Whether records wait to be taken. No dump should be made then: there may be no room for more.
    pub fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// Until when the end of each entry without a message is known and taken; `None` where no such entry is left. What is
    /// in the first dump has not ended before it. After the last one, nobody sees what expires.
    pub fn complete_until_ns(&self) -> Option<u64> {
        let [_, last_but_one_ns] = self.dumped_ns;
        let silent_ns = (self.silent > 0 || self.is_over).then_some(last_but_one_ns);
        // Records that wait are of flows that ended earlier.
        let waiting_ns = self.records.iter().map(|record| record.at_ns).min();
        silent_ns.into_iter().chain(waiting_ns).min()
    }

    /// A dump begins.
    pub fn begin(&mut self, now_ns: u64, follow: Follow) {
        self.dump += 1;
        self.began_ns = now_ns;
        self.follow = if self.dump == 1 { Follow::Silent } else { follow };
    }

    /// The dump failed. What it did not show is no sign of anything.
    pub fn cancel(&mut self) {
        self.dump = self.dump.saturating_sub(1);
        let [last_ns, _] = self.dumped_ns;
        self.began_ns = last_ns;
        for entry in self.entries.values_mut() {
            entry.dump = entry.dump.min(self.dump);
        }
        self.count();
    }

    /// Counts again what is missing and what is remembered.
    fn count(&mut self) {
        let Self { entries, dump, missing, ended, .. } = self;
        *missing = entries.values().filter(|entry| !entry.ended && entry.dump < *dump).count();
        *ended = entries.values().filter(|entry| entry.ended).count();
    }

    /// The dump has this entry. One that is not recorded as it is now is not followed by an audit.
    pub fn saw(&mut self, flow: Flow, is_recorded: bool, now_ns: u64) {
        let flow = Flow { event_ns: Some(now_ns), ..flow };
        let (dump, has_room) = (self.dump, self.entries.len() < MAX_FOLLOWED);
        let is_followed =
            dump == 1 || self.active_interval_ns.is_some() || self.follow != Follow::Known && is_recorded;
        let may_be_silent = self.follow == Follow::Silent;
        let entry = match self.entries.entry(identity(&flow)) {
            hashbrown::hash_map::Entry::Occupied(known) => {
                let entry = known.into_mut();
                let went_down = went_down(&entry.flow, &flow);
                self.zeroed += u64::from(went_down);
                entry.was_zeroed |= went_down;
                entry.dump = dump;
                entry.flow = flow;
                if may_be_silent && !entry.may_be_silent && !entry.ended {
                    entry.may_be_silent = true;
                    self.silent += 1;
                }
                entry
            }
            hashbrown::hash_map::Entry::Vacant(unknown) if is_followed && (has_room || dump == 1) => {
                self.silent += usize::from(may_be_silent);
                let (was_zeroed, ended) = (false, false);
                let entry = Entry { flow, dump, was_zeroed, recorded_ns: None, ended, may_be_silent };
                unknown.insert(Box::new(entry))
            }
            hashbrown::hash_map::Entry::Vacant(_) => {
                self.left_out += u64::from(is_followed);
                return;
            }
        };
        let Some(interval_ns) = self.active_interval_ns else { return };
        let since_ns = entry.recorded_ns.or(entry.flow.start_ns).unwrap_or(now_ns);
        if now_ns.saturating_sub(since_ns) >= interval_ns {
            entry.recorded_ns = Some(now_ns);
            self.records.push_back(Record {
                flow: entry.flow.clone(),
                sighting: Sighting::Alive,
                at_ns: now_ns,
            });
        } else {
            entry.recorded_ns.get_or_insert(since_ns);
        }
    }

    /// The dump is complete.
    pub fn end(&mut self, now_ns: u64) {
        let [last_ns, _] = self.dumped_ns;
        self.dumped_ns = if self.dump == 1 { [self.began_ns; 2] } else { [self.began_ns, last_ns] };
        self.end_missing(MISSING_DUMPS, now_ns);
    }

    /// The dump is complete, and all messages were read: what it does not have has ended. No other follows.
    pub fn end_last(&mut self, now_ns: u64) {
        self.dumped_ns = [self.began_ns; 2];
        self.is_over = true;
        self.end_missing(1, now_ns);
    }

    fn end_missing(&mut self, dumps: u32, now_ns: u64) {
        let Self { entries, records, dump, silent, .. } = self;
        entries.retain(|_, entry| {
            let missing = dump.saturating_sub(entry.dump);
            if missing >= dumps && !entry.ended {
                entry.ended = true;
                *silent -= usize::from(entry.may_be_silent);
                records.push_back(Record {
                    flow: entry.flow.clone(),
                    sighting: Sighting::Vanished,
                    at_ns: now_ns,
                });
            }
            missing < MISSING_DUMPS + REMEMBERED_DUMPS
        });
        self.count();
        // What an audit has brought may be gone by now.
        if self.entries.capacity() > 4 * self.entries.len() {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// The kernel says that it destroyed this entry.
    pub fn destroyed(&mut self, flow: &Flow) -> Destroyed {
        if self.entries.is_empty() {
            return Destroyed::First { counters_final: true };
        }
        match self.entries.remove(&identity(flow)) {
            Some(entry) if entry.ended => {
                self.ended = self.ended.saturating_sub(1);
                Destroyed::Again
            }
            Some(entry) => {
                self.silent -= usize::from(entry.may_be_silent);
                self.missing = self.missing.saturating_sub(usize::from(entry.dump < self.dump));
                let went_down = went_down(&entry.flow, flow);
                self.zeroed += u64::from(went_down);
                Destroyed::First { counters_final: !entry.was_zeroed && !went_down }
            }
            None => Destroyed::First { counters_final: true },
        }
    }

    /// Takes the next record, where there is one.
    pub fn take_record(&mut self) -> Option<Record> {
        self.records.pop_front()
    }
}

/// Whether a counter is less than it was, or is gone.
fn went_down(before: &Flow, after: &Flow) -> bool {
    let less = |before: Option<Counters>, after: Option<Counters>| match (before, after) {
        (Some(before), Some(after)) => after.packets < before.packets || after.bytes < before.bytes,
        _ => false,
    };
    less(before.orig_counters, after.orig_counters) || less(before.reply_counters, after.reply_counters)
}

fn identity(flow: &Flow) -> Identity {
    (entry_key(flow), flow.start_ns.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const S: u64 = 1_000_000_000;

    fn flow(port: u16, packets: u64) -> Flow {
        Flow {
            id: Some(u32::from(port)),
            start_ns: Some(S),
            orig_counters: Some(Counters { packets, bytes: packets * 60 }),
            ..testing::flow(port)
        }
    }

    fn dump(dumps: &mut Dumps, at_s: u64, flows: &[Flow]) {
        dumps.begin(at_s * S, Follow::Known);
        for flow in flows {
            dumps.saw(flow.clone(), true, at_s * S);
        }
        dumps.end(at_s * S);
    }

    fn audit(dumps: &mut Dumps, at_s: u64, follow: Follow, flows: &[Flow]) {
        dumps.begin(at_s * S, follow);
        for flow in flows {
            dumps.saw(flow.clone(), true, at_s * S);
        }
        dumps.end(at_s * S);
    }

    fn records(dumps: &mut Dumps) -> Vec<(Option<u32>, Sighting, u64)> {
        std::iter::from_fn(|| dumps.take_record())
            .map(|Record { flow, sighting, at_ns }| (flow.id, sighting, at_ns / S))
            .collect()
    }

    const FIRST: Destroyed = Destroyed::First { counters_final: true };

    #[test]
    fn what_is_missing_twice_without_a_message_has_vanished() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[flow(1, 1), flow(2, 1)]);
        dump(&mut dumps, 70, &[flow(1, 2)]);
        assert_eq!(records(&mut dumps), []);
        assert!(dumps.is_needed());
        dump(&mut dumps, 130, &[flow(1, 3)]);
        assert_eq!(records(&mut dumps), [(Some(2), Sighting::Vanished, 130)]);
        assert_eq!(dumps.destroyed(&flow(2, 9)), Destroyed::Again, "it came after all");
        assert_eq!(dumps.destroyed(&flow(1, 9)), FIRST);
        assert!(!dumps.is_needed());
    }

    #[test]
    fn a_message_wins_over_a_missing_entry() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[flow(1, 1)]);
        dump(&mut dumps, 70, &[]);
        assert_eq!(dumps.destroyed(&flow(1, 1)), FIRST);
        dump(&mut dumps, 130, &[]);
        assert_eq!(records(&mut dumps), []);
    }

    #[test]
    fn entries_that_came_later_are_not_followed() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[]);
        assert!(!dumps.is_needed());
        dump(&mut dumps, 70, &[flow(1, 1)]);
        dump(&mut dumps, 130, &[]);
        dump(&mut dumps, 190, &[]);
        assert_eq!(records(&mut dumps), []);
    }

    #[test]
    fn an_audit_finds_what_ends_without_a_message() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[]);
        audit(&mut dumps, 600, Follow::All, &[flow(1, 1), flow(2, 2), flow(3, 3)]);
        assert!(!dumps.is_needed(), "all may send their messages");
        assert_eq!(dumps.complete_until_ns(), None, "files do not wait for them");
        assert_eq!(dumps.destroyed(&flow(1, 1)), FIRST);
        audit(&mut dumps, 1200, Follow::All, &[flow(3, 3)]);
        assert_eq!(records(&mut dumps), []);
        assert!(dumps.is_needed(), "one is missing");
        dump(&mut dumps, 1260, &[flow(3, 3)]);
        assert_eq!(records(&mut dumps), [(Some(2), Sighting::Vanished, 1260)]);
        assert_eq!(dumps.destroyed(&flow(2, 2)), Destroyed::Again);
        assert!(!dumps.is_needed());
    }

    #[test]
    fn a_message_after_an_audit_wins() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[]);
        audit(&mut dumps, 600, Follow::All, &[flow(1, 1)]);
        audit(&mut dumps, 1200, Follow::All, &[]);
        assert!(dumps.is_needed());
        assert_eq!(dumps.destroyed(&flow(1, 1)), FIRST);
        assert!(!dumps.is_needed());
        dump(&mut dumps, 1260, &[]);
        assert_eq!(records(&mut dumps), []);
    }

    #[test]
    fn what_was_made_while_events_were_off_is_followed() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[]);
        audit(&mut dumps, 20, Follow::All, &[flow(1, 1)]);
        audit(&mut dumps, 30, Follow::Silent, &[flow(1, 1), flow(2, 1)]);
        assert!(dumps.is_needed());
        dump(&mut dumps, 40, &[]);
        dump(&mut dumps, 50, &[]);
        assert_eq!(records(&mut dumps).len(), 2);
        assert_eq!(dumps.complete_until_ns(), None, "all of them have ended");
    }

    #[test]
    fn an_audit_does_not_follow_what_is_not_recorded() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[]);
        dumps.begin(20 * S, Follow::All);
        dumps.saw(flow(1, 1), false, 20 * S);
        dumps.end(20 * S);
        dump(&mut dumps, 30, &[]);
        dump(&mut dumps, 40, &[]);
        assert_eq!(records(&mut dumps), []);
    }

    #[test]
    fn what_is_declared_lost_has_not_vanished() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[flow(1, 1)]);
        audit(&mut dumps, 20, Follow::All, &[flow(1, 1), flow(2, 1)]);
        dumps.forget_announced();
        dump(&mut dumps, 30, &[]);
        dump(&mut dumps, 40, &[]);
        assert_eq!(records(&mut dumps), [(Some(1), Sighting::Vanished, 40)]);
    }

    #[test]
    fn an_entry_that_was_used_again_is_another() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[flow(1, 5)]);
        let again = Flow { start_ns: Some(20 * S), ..flow(1, 1) };
        dump(&mut dumps, 70, std::slice::from_ref(&again));
        dump(&mut dumps, 130, std::slice::from_ref(&again));
        assert_eq!(records(&mut dumps), [(Some(1), Sighting::Vanished, 130)]);
        assert_eq!(dumps.destroyed(&again), FIRST);
        assert_eq!(dumps.zeroed(), 0);
    }

    #[test]
    fn counters_that_go_down_are_not_final() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[flow(1, 5), flow(2, 5), flow(3, 5)]);
        dump(&mut dumps, 70, &[flow(1, 2), flow(2, 6), flow(3, 6)]);
        assert_eq!(dumps.destroyed(&flow(1, 9)), Destroyed::First { counters_final: false });
        assert_eq!(dumps.destroyed(&flow(2, 1)), Destroyed::First { counters_final: false });
        assert_eq!(dumps.destroyed(&flow(3, 6)), FIRST);
        assert_eq!(dumps.zeroed(), 2);
    }

    #[test]
    fn what_goes_on_is_recorded_each_interval() {
        let mut dumps = Dumps::new(Some(100 * S));
        dump(&mut dumps, 60, &[flow(1, 1)]);
        assert_eq!(records(&mut dumps), []);
        let mut alive = Vec::new();
        for minute in 2..=6 {
            dump(&mut dumps, minute * 60, &[flow(1, minute), flow(2, minute)]);
            alive.extend(records(&mut dumps));
        }
        let at = |port, second| (Some(port), Sighting::Alive, second);
        assert_eq!(alive, [at(1, 120), at(2, 120), at(1, 240), at(2, 240), at(1, 360), at(2, 360)]);
        dump(&mut dumps, 420, &[]);
        dump(&mut dumps, 480, &[]);
        let ended: Vec<_> = records(&mut dumps);
        assert_eq!(ended.len(), 2);
        assert!(ended.iter().all(|(_, sighting, _)| *sighting == Sighting::Vanished));
    }

    #[test]
    fn the_end_of_a_silent_entry_is_known_after_two_dumps() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[flow(1, 1)]);
        assert_eq!(dumps.complete_until_ns(), Some(10 * S));
        dump(&mut dumps, 70, &[flow(1, 1)]);
        dump(&mut dumps, 130, &[]);
        assert_eq!(dumps.complete_until_ns(), Some(70 * S));
        dump(&mut dumps, 190, &[]);
        assert_eq!(dumps.complete_until_ns(), Some(190 * S), "its record waits");
        assert_eq!(records(&mut dumps).len(), 1);
        assert_eq!(dumps.complete_until_ns(), None);
    }

    #[test]
    fn the_last_dump_ends_what_it_does_not_have() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[flow(1, 1), flow(2, 1)]);
        dumps.begin(20 * S, Follow::Known);
        dumps.saw(flow(1, 2), true, 21 * S);
        dumps.end_last(22 * S);
        assert_eq!(records(&mut dumps), [(Some(2), Sighting::Vanished, 22)]);
        assert_eq!(dumps.complete_until_ns(), Some(20 * S));
    }

    #[test]
    fn a_dump_that_fails_counts_for_nothing() {
        let mut dumps = Dumps::new(None);
        dumps.begin(S, Follow::Known);
        dumps.saw(flow(1, 1), true, S);
        dumps.cancel();
        assert!(dumps.is_needed());
        dump(&mut dumps, 10, &[flow(1, 1), flow(2, 1)]);
        dump(&mut dumps, 20, &[]);
        dumps.begin(25 * S, Follow::Known);
        dumps.cancel();
        assert_eq!(records(&mut dumps), []);
        dump(&mut dumps, 30, &[]);
        assert_eq!(records(&mut dumps).len(), 2);
    }

    #[test]
    fn what_has_ended_is_forgotten_in_the_end() {
        let mut dumps = Dumps::new(None);
        dump(&mut dumps, 10, &[flow(1, 1)]);
        for number in 0..=MISSING_DUMPS + REMEMBERED_DUMPS {
            assert!(number == 0 || dumps.is_needed() || number >= REMEMBERED_DUMPS);
            dump(&mut dumps, 20, &[]);
        }
        assert!(!dumps.is_needed());
        assert_eq!(records(&mut dumps).len(), 1);
    }
}
