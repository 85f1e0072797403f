//! What had a key for some time: the lives of sockets. A pure data structure: no clock, no IO.
//!
//! A key (a tuple, a port) is used by one socket after the other, and by several at once. A life ends
//! when its socket closes, and is remembered for a while: connection tracking forgets later than
//! sockets do. Times are `CLOCK_MONOTONIC` nanoseconds.

use std::collections::VecDeque;
use std::hash::Hash;

use crate::time::NS_PER_S;
use hashbrown::HashMap;

/// How much is remembered, in each table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many lives. The default is nearly two ends for each entry of a connection tracking table of the
    /// usual size (262 144). One takes 480 bytes then, and 790 with the next one more: a hash table doubles
    /// when it has filled 7/8 of a power of two.
    pub sockets: usize,
    /// How long a life is remembered after its end. A closed TCP connection stays in the connection
    /// tracking table for 120 s (TIME_WAIT, by default up to 300 s in other states) before it is destroyed.
    /// One whose end the kernel did not track stays ESTABLISHED for days, and is then without its process.
    pub linger_ns: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sockets: 458_752, linger_ns: 600 * NS_PER_S }
    }
}

/// Set in the number of a socket's former life: the socket has another key since, and its cookie stands
/// for that life. Cookies count up from 1 and never get here.
const FORMER_LIFE: u64 = 1 << 63;

/// One socket while it had one key.
#[derive(Clone, Debug)]
pub struct Life<T> {
    /// When it began.
    pub opened_ns: u64,
    /// When it ended.
    pub closed_ns: Option<u64>,
    /// What is known of it.
    pub value: T,
}

#[derive(Debug)]
struct Entry<K, T> {
    key: K,
    life: Life<T>,
    /// Its end was not seen: it has ended at the latest when something else began.
    is_end_inferred: bool,
    /// Numbers of other lives with the same key: those before and after this one.
    previous: Option<u64>,
    next: Option<u64>,
}

/// The lives that are remembered, by key and by the cookie of their socket.
#[derive(Debug)]
pub struct Lives<K, T> {
    /// By cookie; former lives by numbers with [`FORMER_LIFE`].
    entries: HashMap<u64, Entry<K, T>, foldhash::fast::RandomState>,
    /// Number of the first life with this key; others hang below it.
    by_key: HashMap<K, u64, foldhash::fast::RandomState>,
    /// Times of close and numbers of ended lives, longest ended first.
    closed: VecDeque<(u64, u64)>,
    former_lives: u64,
    limits: Limits,
    evicted: u64,
}

impl<K: Copy + Eq + Hash, T> Lives<K, T> {
    /// Remembers nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            entries: HashMap::default(),
            by_key: HashMap::default(),
            closed: VecDeque::new(),
            former_lives: 0,
            limits,
            evicted: 0,
        }
    }

    /// The socket with this cookie has this key from now on; a life that it had before ends.
    pub fn open(&mut self, cookie: u64, key: K, life: Life<T>) {
        while self.entries.len() >= self.limits.sockets {
            let Some((closed_ns, number)) = self.closed.pop_front() else {
                // Full of living ones: the newcomer is left out.
                self.evicted += 1;
                return;
            };
            self.evicted += u64::from(self.remove_if_closed_at(number, closed_ns));
        }
        if let Some(Entry { key: former_key, life: mut former, mut is_end_inferred, .. }) =
            self.remove(cookie)
        {
            is_end_inferred |= former.closed_ns.is_none();
            let closed_ns = *former.closed_ns.get_or_insert(life.opened_ns);
            self.former_lives += 1;
            let number = FORMER_LIFE | self.former_lives;
            self.insert(number, former_key, former, is_end_inferred);
            self.closed.push_back((closed_ns, number));
        }
        self.insert(cookie, key, life, false);
    }

    /// Whether the socket has this key now.
    pub fn is_open_with(&self, cookie: u64, key: &K) -> bool {
        self.entries.get(&cookie).is_some_and(|entry| entry.key == *key && entry.life.closed_ns.is_none())
    }

    /// Ends those lives with this key that have not ended and are `wanted`.
    pub fn close_with_key(&mut self, key: &K, at_ns: u64, wanted: impl Fn(&T) -> bool) {
        let mut next = self.by_key.get(key).copied();
        while let Some(number) = next {
            let Some(Entry { life, is_end_inferred, next: following, .. }) = self.entries.get_mut(&number)
            else {
                return;
            };
            next = *following;
            if life.closed_ns.is_none() && wanted(&life.value) {
                life.closed_ns = Some(at_ns);
                *is_end_inferred = true;
                self.closed.push_back((at_ns, number));
            }
        }
    }

    /// The life that the socket has now, or had last.
    pub fn get_mut(&mut self, cookie: u64) -> Option<&mut Life<T>> {
        self.entries.get_mut(&cookie).map(|entry| &mut entry.life)
    }

    /// As [`Lives::get_mut`].
    pub fn get(&self, cookie: u64) -> Option<&Life<T>> {
        self.entries.get(&cookie).map(|entry| &entry.life)
    }

    /// The life of the socket ends, where it has not yet.
    pub fn close(&mut self, cookie: u64, at_ns: u64) {
        if let Some(life) = self.get_mut(cookie)
            && life.closed_ns.is_none()
        {
            life.closed_ns = Some(at_ns);
            self.closed.push_back((at_ns, cookie));
        }
    }

    /// All lives with this key, in no order.
    pub fn with_key<'a>(&'a self, key: &K) -> impl Iterator<Item = (u64, &'a Life<T>)> + use<'a, K, T> {
        let mut next = self.by_key.get(key).copied();
        std::iter::from_fn(move || {
            let number = next?;
            let entry = self.entries.get(&number)?;
            next = entry.next;
            Some((number, &entry.life))
        })
    }

    /// Events were lost since `since_ns`: a socket that was open then may have closed, and its key may
    /// belong to another that was not seen. So its life counts for what happened before, no more for
    /// what comes. The same holds where its end was only inferred since.
    pub fn lost_events(&mut self, since_ns: u64) {
        for (&number, Entry { life, is_end_inferred, .. }) in &mut self.entries {
            let may_have_ended = match life.closed_ns {
                Some(closed_ns) => *is_end_inferred && closed_ns > since_ns,
                None => true,
            };
            if may_have_ended {
                let closed_ns = life.opened_ns.max(since_ns);
                life.closed_ns = Some(closed_ns);
                self.closed.push_back((closed_ns, number));
            }
        }
    }

    /// Forgets what ended long before `now_ns`, and says how much.
    pub fn expire(&mut self, now_ns: u64) -> usize {
        let before = self.entries.len();
        while let Some(&(closed_ns, number)) = self.closed.front()
            && closed_ns.saturating_add(self.limits.linger_ns) < now_ns
        {
            self.closed.pop_front();
            self.remove_if_closed_at(number, closed_ns);
        }
        before - self.entries.len()
    }

    /// How many lives were forgotten early, or not remembered, because there were too many.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    fn insert(&mut self, number: u64, key: K, life: Life<T>, is_end_inferred: bool) {
        let next = self.by_key.insert(key, number);
        if let Some(next) = next.and_then(|next| self.entries.get_mut(&next)) {
            next.previous = Some(number);
        }
        self.entries.insert(number, Entry { key, life, is_end_inferred, previous: None, next });
    }

    /// The socket may have begun another life since this close was noted.
    fn remove_if_closed_at(&mut self, number: u64, closed_ns: u64) -> bool {
        let is_that = self.entries.get(&number).is_some_and(|entry| entry.life.closed_ns == Some(closed_ns));
        is_that && self.remove(number).is_some()
    }

    fn remove(&mut self, number: u64) -> Option<Entry<K, T>> {
        let removed = self.entries.remove(&number)?;
        let Entry { key, previous, next, .. } = removed;
        if let Some(next) = next.and_then(|next| self.entries.get_mut(&next)) {
            next.previous = previous;
        }
        match (previous, next) {
            (Some(previous), _) => self.entries.get_mut(&previous)?.next = next,
            (None, Some(next)) => *self.by_key.get_mut(&key)? = next,
            (None, None) => drop(self.by_key.remove(&key)),
        }
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER_NS: u64 = 1000;

    fn remember(sockets: usize) -> Lives<u8, u64> {
        Lives::new(Limits { sockets, linger_ns: LINGER_NS })
    }

    fn life(opened_ns: u64) -> Life<u64> {
        Life { opened_ns, closed_ns: None, value: opened_ns }
    }

    fn values(lives: &Lives<u8, u64>, key: u8) -> Vec<u64> {
        let mut values: Vec<u64> = lives.with_key(&key).map(|(_, life)| life.value).collect();
        values.sort_unstable();
        values
    }

    #[test]
    fn ended_lives_expire_and_leave_nothing_behind() {
        let mut lives = remember(10);
        for cookie in 1..=3 {
            lives.open(cookie, 7, life(cookie * 100));
            lives.close(cookie, cookie * 100 + 50);
        }
        lives.expire(260 + LINGER_NS);
        assert_eq!(values(&lives, 7), [300]);
        lives.expire(1000 + LINGER_NS);
        assert!(lives.entries.is_empty() && lives.by_key.is_empty() && lives.closed.is_empty());
    }

    #[test]
    fn lives_that_share_a_key_are_forgotten_in_any_order() {
        for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
            let mut lives = remember(10);
            for cookie in 1..=3 {
                lives.open(cookie, 7, life(cookie));
            }
            let mut left = vec![1, 2, 3];
            for cookie in order {
                lives.remove(cookie);
                left.retain(|other| *other != cookie);
                assert_eq!(values(&lives, 7), left, "{order:?}");
            }
            assert!(lives.by_key.is_empty(), "{order:?}");
        }
    }

    #[test]
    fn a_socket_with_another_key_begins_another_life() {
        let mut lives = remember(10);
        lives.open(1, 7, life(100));
        lives.open(1, 8, life(200));
        assert_eq!((values(&lives, 7), values(&lives, 8)), (vec![100], vec![200]));
        let (_, former) = lives.with_key(&7).next().unwrap();
        assert_eq!(former.closed_ns, Some(200));
        lives.expire(210 + LINGER_NS);
        assert_eq!((values(&lives, 7), values(&lives, 8)), (vec![], vec![200]));
    }

    #[test]
    fn the_end_of_a_former_life_does_not_end_the_next() {
        let mut lives = remember(10);
        lives.open(1, 7, life(100));
        lives.close(1, 150);
        lives.open(1, 7, life(200));
        lives.expire(160 + LINGER_NS);
        assert_eq!(values(&lives, 7), [200]);
    }

    #[test]
    fn the_longest_ended_is_forgotten_first() {
        let mut lives = remember(3);
        for cookie in 1..=3 {
            lives.open(cookie, 7, life(cookie));
        }
        lives.close(2, 110);
        lives.close(1, 120);
        lives.open(4, 7, life(4));
        assert_eq!((values(&lives, 7), lives.evicted()), (vec![1, 3, 4], 1));
        lives.open(5, 7, life(5));
        lives.open(6, 7, life(6));
        assert_eq!((values(&lives, 7), lives.evicted()), (vec![3, 4, 5], 3), "the living are not forgotten");
    }

    #[test]
    fn after_a_loss_the_living_have_ended() {
        let mut lives = remember(10);
        lives.open(1, 7, life(100));
        lives.open(2, 7, life(300));
        lives.lost_events(200);
        assert_eq!(lives.get_mut(1).unwrap().closed_ns, Some(200));
        assert_eq!(lives.get_mut(2).unwrap().closed_ns, Some(300));
    }

    /// Between the end that was lost and the begin of the next, the key may have been of nobody.
    #[test]
    fn after_a_loss_an_end_that_was_not_seen_is_as_early_as_can_be() {
        let mut lives = remember(10);
        for cookie in 1..=4 {
            lives.open(cookie, 7, life(cookie * 100));
        }
        lives.close_with_key(&7, 500, |opened_ns| *opened_ns <= 200);
        lives.close(3, 500);
        lives.open(4, 8, life(500));
        lives.lost_events(350);
        let mut ends: Vec<_> = lives.with_key(&7).map(|(_, life)| (life.value, life.closed_ns)).collect();
        ends.sort_unstable();
        assert_eq!(ends, [(100, Some(350)), (200, Some(350)), (300, Some(500)), (400, Some(400))]);
    }
}
