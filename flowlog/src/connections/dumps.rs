//! What dumps of the connection tracking table tell that events do not: entries that end without a
//! DESTROY message, and how flows that go on stand now.
//!
//! An entry that was made while nobody listened never sends DESTROY (`nf_conntrack_events` = 2, the
//! default since Linux 5.19), nor does one that was made while events were off, or under a rule that leaves this
//! event out. [`Dumps`] remembers what the first dump listed, and what audits do, which are made now and then, and
//! compares the later ones with it. A dump is a list of the whole table, or asks for a few entries by their tuples:
//! those that may end without a message, and those that are missing. A pure data structure: dumps are handed in, times
//! are arguments in `CLOCK_REALTIME` nanoseconds.
//!
//! Invariant: each entry becomes one record of its end: by its DESTROY message where that comes, else by
//! [`Dumps::take_record`], never by both.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::connections::duplicates::{entry_key, identity_while_open};
use crate::flow::{Counters, Flow, Tuple};
use crate::record::Sighting;

/// In how many dumps an entry has to be missing before it is taken to have ended without a message. The
/// kernel takes an entry out of its table before it sends the message, and sends it late where a listener
/// has no room: the first dump without the entry may overtake the message.
const MISSING_DUMPS: u32 = 2;

/// For how many more dumps a late DESTROY message of an entry that was recorded is recognised.
const REMEMBERED_DUMPS: u32 = 30;

/// How many entries are followed at most; one takes some 340 bytes.
const MAX_FOLLOWED: usize = 1 << 18;

/// To ask for one entry takes three system calls, and costs as much as to list so many: 8.7 us and 2.4 us of the daemon,
/// measured with 200 000 entries on Linux 6.18.
const LISTED_PER_ASKED: usize = 4;

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
    /// The current dump asks for entries, and lists none.
    asks: bool,
    /// An entry could not be asked for: the next dump is a list.
    must_list: bool,
    /// Entries of the first dump that have not ended, and those that were made while events were off: some of them
    /// may never send a message.
    silent: usize,
    /// Entries that the last dump that looked for them did not have, and of which no message told.
    missing: usize,
    /// Those of them that no dump has found by their tuples yet.
    missing_unasked: usize,
    /// Entries that may never send a message or are missing, each once.
    awaited: usize,
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
    /// How many dumps looked for it since, and did not have it.
    misses: u32,
    /// Its tuple has found it once, so it will as long as it is there.
    was_asked: bool,
    /// Somebody set its counters back.
    was_zeroed: bool,
    /// When it last became a record; `None` before.
    recorded_ns: Option<u64>,
    /// It was recorded as ended.
    ended: bool,
    /// The first dump had it, or events were off.
    may_be_silent: bool,
}

impl Entry {
    /// Whether each dump looks for it, one that asks, too.
    fn is_awaited(&self) -> bool {
        !self.ended && (self.may_be_silent || self.misses > 0)
    }
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
            asks: false,
            must_list: false,
            silent: 0,
            missing: 0,
            missing_unasked: 0,
            awaited: 0,
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

    /// How many dumps there were.
    pub fn dumps(&self) -> u32 {
        self.dump
    }

    /// When the last one began, in nanoseconds since 1970.
    pub fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// Entries that have not ended, as far as they are followed.
    pub fn open(&self) -> impl Iterator<Item = u64> {
        self.entries.values().filter(|entry| !entry.ended).map(|entry| identity_while_open(&entry.flow))
    }

    /// Those of them that may end without a message.
    pub fn silent(&self) -> impl Iterator<Item = &Flow> {
        let silent = self.entries.values().filter(|entry| entry.may_be_silent && !entry.ended);
        silent.map(|entry| &entry.flow)
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

    /// Whether the next dump, if it follows [`Follow::Known`], can ask for the few entries that it is about, in place of a
    /// list of the table, which has so many entries.
    ///
    /// An entry that was never found by its tuple is not taken to be gone because its tuple does not find it: then
    /// the table is listed.
    pub fn can_ask(&self, table_entries: usize) -> bool {
        let Self { dump, active_interval_ns, must_list, missing_unasked, awaited, .. } = self;
        let may_ask = *dump > 0 && active_interval_ns.is_none() && !*must_list && *missing_unasked == 0;
        may_ask && awaited.saturating_mul(LISTED_PER_ASKED) <= table_entries
    }

    /// A dump begins that lists the table.
    pub fn begin(&mut self, now_ns: u64, follow: Follow) {
        self.begin_any(now_ns, follow);
        self.asks = false;
        self.must_list = false;
    }

    /// A dump begins that asks for entries by their tuples, and in their zones: these.
    pub fn begin_asking(&mut self, now_ns: u64) -> Vec<(Tuple, Option<u16>)> {
        self.begin_any(now_ns, Follow::Known);
        self.asks = true;
        let awaited = self.entries.values().filter(|entry| entry.is_awaited());
        awaited.map(|entry| (entry.flow.orig, entry.flow.zone)).collect()
    }

    fn begin_any(&mut self, now_ns: u64, follow: Follow) {
        self.dump += 1;
        self.began_ns = now_ns;
        self.follow = if self.dump == 1 { Follow::Silent } else { follow };
    }

    /// The dump failed. What it did not show is no sign of anything.
    pub fn cancel(&mut self) {
        self.must_list |= self.asks;
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
        let Self { entries, missing, missing_unasked, awaited, ended, .. } = self;
        (*missing, *missing_unasked, *awaited, *ended) = (0, 0, 0, 0);
        for entry in entries.values() {
            let is_missing = !entry.ended && entry.misses > 0;
            *missing += usize::from(is_missing);
            *missing_unasked += usize::from(is_missing && !entry.was_asked);
            *awaited += usize::from(entry.is_awaited());
            *ended += usize::from(entry.ended);
        }
    }

    /// The dump has this entry. One that is not recorded as it is now is not followed by an audit.
    pub fn saw(&mut self, flow: Flow, is_recorded: bool, now_ns: u64) {
        let flow = Flow { event_ns: Some(now_ns), ..flow };
        let (dump, has_room) = (self.dump, self.entries.len() < MAX_FOLLOWED);
        let is_followed =
            dump == 1 || self.active_interval_ns.is_some() || self.follow != Follow::Known && is_recorded;
        let (may_be_silent, was_asked) = (self.follow == Follow::Silent, self.asks);
        let entry = match self.entries.entry(identity(&flow)) {
            hashbrown::hash_map::Entry::Occupied(known) => {
                let entry = known.into_mut();
                let went_down = went_down(&entry.flow, &flow);
                self.zeroed += u64::from(went_down);
                entry.was_zeroed |= went_down;
                entry.dump = dump;
                entry.misses = 0;
                entry.was_asked |= was_asked;
                entry.flow = flow;
                if may_be_silent && !entry.may_be_silent && !entry.ended {
                    entry.may_be_silent = true;
                    self.silent += 1;
                }
                entry
            }
            hashbrown::hash_map::Entry::Vacant(unknown) if is_followed && (has_room || dump == 1) => {
                self.silent += usize::from(may_be_silent);
                unknown.insert(Box::new(Entry {
                    flow,
                    dump,
                    misses: 0,
                    was_asked,
                    was_zeroed: false,
                    recorded_ns: None,
                    ended: false,
                    may_be_silent,
                }))
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

    /// The table is about to go with its namespace, and all messages were read: whatever has not ended is recorded, as the
    /// last dump that had it. No other follows. Gives how many there are.
    pub fn end_deleted(&mut self, now_ns: u64) -> u64 {
        self.dumped_ns = [self.began_ns; 2];
        self.is_over = true;
        let Self { entries, records, .. } = self;
        let before = records.len();
        let open = entries.drain().filter(|(_, entry)| !entry.ended);
        records.extend(open.map(|(_, entry)| Record {
            flow: entry.flow,
            sighting: Sighting::Vanished,
            at_ns: now_ns,
        }));
        let open = self.records.len() - before;
        self.silent = 0;
        self.count();
        u64::try_from(open).unwrap_or(u64::MAX)
    }

    fn end_missing(&mut self, dumps: u32, now_ns: u64) {
        let Self { entries, records, dump, asks, silent, .. } = self;
        entries.retain(|_, entry| {
            let was_looked_for = !*asks || entry.is_awaited() || entry.ended;
            entry.misses += u32::from(was_looked_for && entry.dump < *dump);
            if entry.misses >= dumps && !entry.ended {
                entry.ended = true;
                *silent -= usize::from(entry.may_be_silent);
                records.push_back(Record {
                    flow: entry.flow.clone(),
                    sighting: Sighting::Vanished,
                    at_ns: now_ns,
                });
            }
            entry.misses < MISSING_DUMPS + REMEMBERED_DUMPS
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
                let is_missing = entry.misses > 0;
                self.missing = self.missing.saturating_sub(usize::from(is_missing));
                let is_unasked = is_missing && !entry.was_asked;
                self.missing_unasked = self.missing_unasked.saturating_sub(usize::from(is_unasked));
                self.awaited = self.awaited.saturating_sub(usize::from(entry.is_awaited()));
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
mod asking;
#[cfg(test)]
mod tests;
