//! What had a key for some time: the lives of sockets. A pure data structure: no clock, no IO.
//!
//! A key (a tuple, a port) is used by one socket after the other, and by several at once. A life ends
//! when its socket closes, and is remembered for a while: connection tracking forgets later than
//! sockets do. Times are `CLOCK_MONOTONIC` nanoseconds.
//!
//! There may be millions of them, so a life has what a join needs and no more: a slot of 92 bytes for a TCP connection over
//! IPv4, 4 bytes of the index of keys, and while it is open 2 of that of cookies. What the slots of one key, of one cookie,
//! or of one group of holders have to do with each other is in the slots themselves, as numbers of the next and the one
//! before.

mod buckets;
mod families;
mod slot;

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hash};

use self::buckets::Buckets;
pub use self::families::{Families, Number};
use self::slot::{ALONE, Neighbours, OPEN, Slot, Tagged};
use crate::attribution::holders::{GroupId, HolderId, Holders};
use crate::attribution::slots::{NO_SLOT, Packed, Slots};

/// How many lives of one key are looked through. A socket of a crowded port costs each flow of the port so much.
const MAX_LOOKED_THROUGH: usize = 4096;

/// How many are looked through for one that is open. If there are more, an end that was not seen may stay unknown, which
/// makes two lives with the key ambiguous.
const MAX_LOOKED_THROUGH_FOR_OPEN: usize = 256;

/// How many closed lives are found by their cookie at least, of those of which no more is told.
const MAX_COMPLETE: usize = 4096;

/// How many buckets an index gets at once.
const GROWN_AT_ONCE: usize = 16;

/// What is kept of a life, beside its times, its cookie and its holder.
pub trait LifeValue: Copy {
    /// Another holder than that of the life, which it uses, too.
    fn other_holder(&self) -> Option<HolderId> {
        None
    }

    /// Whether no more is told of the socket when it has closed: then its cookie is of no use.
    fn is_complete(&self) -> bool {
        false
    }
}

impl LifeValue for () {}

/// One socket while it had one key.
#[derive(Clone, Copy, Debug)]
pub struct Life<T> {
    /// When it began.
    pub opened_ns: u64,
    /// When it ended.
    pub closed_ns: Option<u64>,
    /// `SO_COOKIE`, unique until the next boot.
    pub cookie: u64,
    /// Who has it; for an accepted socket the owner of the listener.
    pub holder: HolderId,
    /// What else is known of it.
    pub value: T,
}

/// The first and the last of some lives.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

/// The lives of one group: those that are open, and those that are not, each in the order in which they came to be so.
#[derive(Clone, Copy, Debug)]
struct Lists {
    open: List,
    closed: List,
    len: usize,
}

const EMPTY: List = List { first: NO_SLOT, last: NO_SLOT };

/// The lives that are remembered, by key and by the cookie of their socket.
#[derive(Debug)]
pub struct Lives<K, T> {
    slots: Slots<Slot<K, T>>,
    by_key: Buckets,
    by_cookie: Buckets,
    /// How many slots are found by their cookie.
    with_cookie: usize,
    /// Those among them that closed last, with their cookies.
    complete: VecDeque<(u32, u64)>,
    /// By the number of a group.
    groups: Vec<Lists>,
    hasher: foldhash::fast::RandomState,
    evicted: u64,
}

impl<K: Copy + Eq + Hash, T: LifeValue> Default for Lives<K, T> {
    fn default() -> Self {
        Self {
            slots: Slots::default(),
            by_key: Buckets::default(),
            by_cookie: Buckets::default(),
            with_cookie: 0,
            complete: VecDeque::new(),
            groups: Vec::new(),
            hasher: foldhash::fast::RandomState::default(),
            evicted: 0,
        }
    }
}

impl<K: Copy + Eq + Hash, T: LifeValue> Lives<K, T> {
    /// The socket has this key from now on; a life that it had before ends. The holder is used by the life from here on.
    pub fn open(&mut self, key: K, life: Life<T>, holders: &mut Holders) {
        let Life { opened_ns, closed_ns, cookie, holder, value } = life;
        self.supersede(cookie, opened_ns, holders);
        let slot = Slot {
            opened_ns: Packed::new(opened_ns),
            closed_ns: Packed::new(closed_ns.unwrap_or(OPEN)),
            cookie: Packed::new(cookie),
            holder: Tagged(holder.0 & !Tagged::FLAGS),
            of_key: ALONE,
            next_of_cookie: NO_SLOT,
            of_group: ALONE,
            key,
            value,
        };
        let Some(number) = self.slots.insert(slot) else {
            self.evicted += 1;
            holders.release(holder);
            return;
        };
        self.link_key(number);
        self.link_cookie(number);
        self.enlist(number, holders);
        if self.slots.len() > self.by_key.len() {
            self.grow_keys();
        }
        if self.with_cookie > 2 * self.by_cookie.len() {
            let first = self.by_cookie.grow();
            self.relink_cookies(first);
        }
    }

    /// The socket has another key since `at_ns`, here or elsewhere: its cookie stands for that life.
    pub fn supersede(&mut self, cookie: u64, at_ns: u64, holders: &Holders) {
        if let Some(former) = self.number_of(cookie) {
            self.end(former, at_ns, true, holders);
            self.unlink_cookie(former);
        }
    }

    /// Whether the socket has this key now.
    pub fn is_open_with(&self, cookie: u64, key: &K) -> bool {
        let slot = self.number_of(cookie).and_then(|number| self.slots.get(number));
        slot.is_some_and(|slot| slot.key == *key && slot.is_open())
    }

    /// Ends those lives with this key that have not ended and are `wanted`.
    pub fn close_with_key(
        &mut self,
        key: &K,
        at_ns: u64,
        holders: &Holders,
        wanted: impl Fn(&Life<T>) -> bool,
    ) {
        let mut next = self.by_key.first(self.hash(key));
        for _ in 0..MAX_LOOKED_THROUGH_FOR_OPEN {
            let Some(slot) = self.slots.get(next) else { return };
            let (number, is_wanted) = (next, slot.key == *key && slot.is_open() && wanted(&slot.life()));
            next = slot.of_key.next;
            if is_wanted {
                self.end(number, at_ns, true, holders);
            }
        }
    }

    /// The life that the socket has now, or had last.
    pub fn get(&self, cookie: u64) -> Option<Life<T>> {
        self.get_with_key(cookie).map(|(_, life)| life)
    }

    /// The same, after its key.
    pub fn get_with_key(&self, cookie: u64) -> Option<(K, Life<T>)> {
        let slot = self.number_of(cookie).and_then(|number| self.slots.get(number))?;
        Some((slot.key, slot.life()))
    }

    /// Puts another beginning, holder and value into the life that the socket has now, or had last, and says whether there is
    /// one. A holder that it does not have any more is used once less.
    pub fn replace(&mut self, life: Life<T>, holders: &mut Holders) -> bool {
        let Life { opened_ns, closed_ns: _, cookie, holder, value } = life;
        let Some(number) = self.number_of(cookie) else { return false };
        let Some(slot) = self.slots.get(number) else { return false };
        let former = slot.holder.holder();
        if former != holder {
            self.unlist(number, holders);
        }
        if let Some(slot) = self.slots.get_mut(number) {
            slot.opened_ns = Packed::new(opened_ns);
            slot.holder.set_holder(holder);
            slot.value = value;
        }
        if former != holder {
            self.enlist(number, holders);
            holders.release(former);
        }
        self.may_be_complete(number);
        true
    }

    /// The life of the socket ends, where it has not yet. Says whether there is one.
    pub fn close(&mut self, cookie: u64, at_ns: u64, holders: &Holders) -> bool {
        let number = self.number_of(cookie);
        if let Some(number) = number {
            self.end(number, at_ns, false, holders);
        }
        number.is_some()
    }

    /// The same, with what else is known of it then.
    pub fn close_with(
        &mut self,
        cookie: u64,
        at_ns: u64,
        holders: &Holders,
        tell: impl FnOnce(&mut T),
    ) -> bool {
        let Some(number) = self.number_of(cookie) else { return false };
        let Some(slot) = self.slots.get_mut(number) else { return false };
        tell(&mut slot.value);
        if slot.is_open() {
            self.end(number, at_ns, false, holders);
        } else {
            self.may_be_complete(number);
        }
        true
    }

    /// Reads what is there about this key: of several keys all wait for memory together, rather than one after the other
    /// later. What it gives is of no interest, but makes sure that it is read.
    pub fn look_ahead(&self, key: &K) -> u64 {
        self.slots.get(self.by_key.first(self.hash(key))).map_or(0, |slot| slot.cookie.get())
    }

    /// How many lives have this key; `None` if there are too many to look through.
    pub fn count(&self, key: &K) -> Option<usize> {
        let mut next = self.by_key.first(self.hash(key));
        let mut found = 0;
        for _ in 0..MAX_LOOKED_THROUGH {
            let Some(slot) = self.slots.get(next) else { return Some(found) };
            found += usize::from(slot.key == *key);
            next = slot.of_key.next;
        }
        None
    }

    /// Lives with this key with their numbers, in no order; all if they can be counted.
    pub fn with_key(&self, key: K) -> impl Iterator<Item = (u32, Life<T>)> + use<'_, K, T> {
        let mut next = self.by_key.first(self.hash(&key));
        let slots = std::iter::from_fn(move || {
            let number = next;
            let slot = self.slots.get(number)?;
            next = slot.of_key.next;
            Some((number, slot))
        });
        slots
            .take(MAX_LOOKED_THROUGH)
            .filter(move |(_, slot)| slot.key == key)
            .map(|(number, slot)| (number, slot.life()))
    }

    /// All lives, in no order.
    pub fn all(&self) -> impl Iterator<Item = Life<T>> {
        self.slots.numbers().filter_map(|number| self.slots.get(number)).map(Slot::life)
    }

    /// Events were lost since `since_ns`: a socket that was open then may have closed, and its key may
    /// belong to another that was not seen. So its life counts for what happened before, no more for
    /// what comes. The same holds where its end was only inferred since.
    pub fn lost_events(&mut self, since_ns: u64, holders: &Holders) {
        let numbers: Vec<u32> = self.slots.numbers().collect();
        for number in numbers {
            let Some(slot) = self.slots.get_mut(number) else { continue };
            let at_ns = slot.opened_ns.get().max(since_ns);
            if slot.is_open() {
                self.end(number, at_ns, false, holders);
            } else if slot.holder.has(Tagged::END_INFERRED) && slot.closed_ns.get() > since_ns {
                slot.closed_ns = Packed::new(at_ns);
            }
        }
    }

    /// Forgets what ended longer than `linger_ns` before `now_ns`, and says how much. `shortest_ns` is the shortest time.
    pub fn expire(
        &mut self,
        now_ns: u64,
        shortest_ns: u64,
        linger_ns: impl Fn(&K) -> u64,
        holders: &mut Holders,
    ) -> usize {
        let before = self.slots.len();
        let is_over =
            |slot: &Slot<K, T>, linger_ns: u64| slot.closed_ns.get().saturating_add(linger_ns) < now_ns;
        for group in 0..self.groups.len() {
            let Some(last) = self.groups.get(group).map(|lists| lists.closed.last) else { continue };
            while let Some(number) = self.groups.get(group).map(|lists| lists.closed.first)
                && let Some(slot) = self.slots.get(number)
                && is_over(slot, shortest_ns)
            {
                if is_over(slot, linger_ns(&slot.key)) {
                    self.forget(number, holders);
                } else {
                    // Of a kind that is remembered longer: it is looked at again when the others are.
                    self.unlist(number, holders);
                    self.enlist(number, holders);
                }
                if number == last {
                    break;
                }
            }
        }
        before - self.slots.len()
    }

    /// Forgets a life, by its number, if it is there.
    pub fn forget(&mut self, number: u32, holders: &mut Holders) {
        // A socket that is connected to itself is both ends of its flow.
        if !self.slots.is_used(number) {
            return;
        }
        self.unlist(number, holders);
        self.unlink_cookie(number);
        self.unlink_key(number);
        let Some(slot) = self.slots.remove(number) else { return };
        holders.release(slot.holder.holder());
        if let Some(other) = slot.value.other_holder() {
            holders.release(other);
        }
        let first = self.by_key.shrink(self.slots.len());
        self.relink_keys(first);
    }

    /// Forgets a life of this group early, and gives it: first the one that closed longest ago, if it
    /// did so before `overdue_ns`, as its flow has ended, too; then those that closed or opened last. So who opens
    /// very many sockets does not make nameless what it did before.
    pub(crate) fn evict(
        &mut self,
        group: GroupId,
        overdue_ns: u64,
        holders: &mut Holders,
    ) -> Option<(K, Life<T>)> {
        let Lists { open, closed, .. } = self.groups.get(group.0 as usize).copied()?;
        let first = self.slots.get(closed.first);
        let is_overdue = first.is_some_and(|slot| slot.closed_ns.get() < overdue_ns);
        let number = match (first, is_overdue) {
            (Some(_), true) => closed.first,
            (Some(_), false) => closed.last,
            (None, _) => open.last,
        };
        let evicted = self.slots.get(number).map(|slot| (slot.key, slot.life()))?;
        self.forget(number, holders);
        self.evicted += 1;
        Some(evicted)
    }

    /// How many lives this group has.
    pub(crate) fn len_of(&self, group: GroupId) -> usize {
        self.groups.get(group.0 as usize).map_or(0, |lists| lists.len)
    }

    /// How many lives there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a life takes, without its place in the indexes, in bytes.
    pub(crate) const LIFE_BYTES: usize = size_of::<Slot<K, T>>();

    /// What all of them take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.len() * Self::LIFE_BYTES + (self.by_key.len() + self.by_cookie.len()) * size_of::<u32>()
    }

    /// How many lives were forgotten early, or not remembered, because there were too many.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// A life ends, if it has not.
    fn end(&mut self, number: u32, at_ns: u64, is_inferred: bool, holders: &Holders) {
        if self.slots.get(number).is_none_or(|slot| !slot.is_open()) {
            return;
        }
        self.unlist(number, holders);
        if let Some(slot) = self.slots.get_mut(number) {
            slot.closed_ns = Packed::new(at_ns.min(OPEN - 1));
            if is_inferred {
                slot.holder.set(Tagged::END_INFERRED);
            }
        }
        self.enlist(number, holders);
        self.may_be_complete(number);
    }

    fn hash(&self, key: &K) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The slot that the cookie stands for.
    fn number_of(&self, cookie: u64) -> Option<u32> {
        let mut next = self.by_cookie.first(self.hasher.hash_one(cookie));
        loop {
            let slot = self.slots.get(next)?;
            if slot.cookie.get() == cookie {
                return Some(next);
            }
            next = slot.next_of_cookie;
        }
    }

    fn link_key(&mut self, number: u32) {
        let Some(slot) = self.slots.get(number) else { return };
        let hash = self.hash(&slot.key);
        let next = self.by_key.first(hash);
        if let Some(slot) = self.slots.get_mut(next) {
            slot.of_key.previous = number;
        }
        if let Some(slot) = self.slots.get_mut(number) {
            slot.of_key = Neighbours { previous: NO_SLOT, next };
        }
        self.by_key.set_first(hash, number);
    }

    fn link_cookie(&mut self, number: u32) {
        let Some(slot) = self.slots.get(number) else { return };
        let hash = self.hasher.hash_one(slot.cookie.get());
        let next = self.by_cookie.first(hash);
        if let Some(slot) = self.slots.get_mut(number) {
            slot.next_of_cookie = next;
        }
        self.by_cookie.set_first(hash, number);
        self.with_cookie += 1;
    }

    /// More buckets of keys, some at once: the slots that they take are anywhere in memory, and so are waited for together.
    fn grow_keys(&mut self) {
        let firsts: [u32; GROWN_AT_ONCE] = std::array::from_fn(|_| self.by_key.grow());
        let there = firsts.iter().filter_map(|first| self.slots.get(*first));
        std::hint::black_box(there.fold(0, |all, slot| all ^ slot.of_key.next));
        for first in firsts {
            self.relink_keys(first);
        }
    }

    /// Puts the slots of a bucket into those in which they are looked for.
    fn relink_keys(&mut self, first: u32) {
        let mut next = first;
        while let Some(slot) = self.slots.get(next) {
            let number = std::mem::replace(&mut next, slot.of_key.next);
            self.link_key(number);
        }
    }

    /// The same for the index of cookies.
    fn relink_cookies(&mut self, first: u32) {
        let mut next = first;
        while let Some(slot) = self.slots.get(next) {
            let number = std::mem::replace(&mut next, slot.next_of_cookie);
            self.with_cookie -= 1;
            self.link_cookie(number);
        }
    }

    fn unlink_key(&mut self, number: u32) {
        let Some(slot) = self.slots.get(number) else { return };
        let (Neighbours { previous, next }, hash) = (slot.of_key, self.hash(&slot.key));
        if let Some(slot) = self.slots.get_mut(next) {
            slot.of_key.previous = previous;
        }
        match self.slots.get_mut(previous) {
            Some(slot) => slot.of_key.next = next,
            None => self.by_key.set_first(hash, next),
        }
    }

    /// Its cookie does not stand for this life any more.
    fn unlink_cookie(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(number).filter(|slot| !slot.holder.has(Tagged::UNLINKED)) else {
            return;
        };
        slot.holder.set(Tagged::UNLINKED);
        let (hash, following) = (self.hasher.hash_one(slot.cookie.get()), slot.next_of_cookie);
        self.with_cookie -= 1;
        let mut next = self.by_cookie.first(hash);
        if next == number {
            self.by_cookie.set_first(hash, following);
        }
        while let Some(slot) = self.slots.get_mut(next) {
            next = slot.next_of_cookie;
            if next == number {
                slot.next_of_cookie = following;
                break;
            }
        }
        let first = self.by_cookie.shrink(self.with_cookie);
        self.relink_cookies(first);
    }

    /// No more may be told of this socket. Those that closed last are found by their cookie all the same.
    fn may_be_complete(&mut self, number: u32) {
        let Some(slot) = self.slots.get(number) else { return };
        if !slot.value.is_complete() || slot.is_open() {
            return;
        }
        self.complete.push_back((number, slot.cookie.get()));
        if self.complete.len() > MAX_COMPLETE
            && let Some((number, cookie)) = self.complete.pop_front()
            && self.slots.get(number).is_some_and(|slot| slot.cookie.get() == cookie && !slot.is_open())
        {
            self.unlink_cookie(number);
        }
    }

    /// Puts a life at the end of the list of its group.
    fn enlist(&mut self, number: u32, holders: &Holders) {
        let Some(slot) = self.slots.get(number) else { return };
        let (is_open, group) = (slot.is_open(), holders.group(slot.holder.holder()).0 as usize);
        if group >= self.groups.len() {
            self.groups.resize(group + 1, Lists { open: EMPTY, closed: EMPTY, len: 0 });
        }
        let Some(lists) = self.groups.get_mut(group) else { return };
        lists.len += 1;
        let list = if is_open { &mut lists.open } else { &mut lists.closed };
        let previous = std::mem::replace(&mut list.last, number);
        if previous == NO_SLOT {
            list.first = number;
        }
        if let Some(slot) = self.slots.get_mut(previous) {
            slot.of_group.next = number;
        }
        if let Some(slot) = self.slots.get_mut(number) {
            slot.of_group = Neighbours { previous, next: NO_SLOT };
        }
    }

    /// Takes a life out of the list of its group.
    fn unlist(&mut self, number: u32, holders: &Holders) {
        let Some(slot) = self.slots.get(number) else { return };
        let (is_open, group) = (slot.is_open(), holders.group(slot.holder.holder()).0 as usize);
        let Neighbours { previous, next } = slot.of_group;
        let Some(lists) = self.groups.get_mut(group) else { return };
        lists.len -= 1;
        let list = if is_open { &mut lists.open } else { &mut lists.closed };
        if list.first == number {
            list.first = next;
        }
        if list.last == number {
            list.last = previous;
        }
        if let Some(slot) = self.slots.get_mut(previous) {
            slot.of_group.next = next;
        }
        if let Some(slot) = self.slots.get_mut(next) {
            slot.of_group.previous = previous;
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
