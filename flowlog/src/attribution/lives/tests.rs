//! Single lives.

use flowlog_common::Owner;

use super::*;
use crate::record::{Holder, Origin};

const LINGER_NS: u64 = 1000;

/// Lives with the holders of their sockets.
#[derive(Default)]
struct Table {
    lives: Lives<u8, ()>,
    holders: Holders,
}

impl Table {
    fn open(&mut self, cookie: u64, key: u8, opened_ns: u64) {
        self.open_by(cookie, key, opened_ns, 1);
    }

    fn open_by(&mut self, cookie: u64, key: u8, opened_ns: u64, uid: u32) {
        let owner = Owner { uid, time_ns: 1, ..Owner::UNKNOWN };
        let holder = Holder { owner, process: None, origin: Origin::default(), is_seeded: false };
        let holder = self.holders.intern(holder, opened_ns);
        let life = Life { opened_ns, closed_ns: None, cookie, holder, value: () };
        self.lives.open(key, life, &mut self.holders);
    }

    fn close(&mut self, cookie: u64, at_ns: u64) {
        self.lives.close(cookie, at_ns, &self.holders);
    }

    fn expire(&mut self, now_ns: u64) {
        self.lives.expire(now_ns, LINGER_NS, |_| LINGER_NS, &mut self.holders);
    }

    /// Forgets a life of this user early.
    fn evict(&mut self, uid: u32, overdue_ns: u64) -> bool {
        let of_user = |life: &Life<()>| self.holders.get(life.holder).owner.uid == uid;
        let Some(life) = self.lives.all().find(of_user) else { return false };
        let group = self.holders.group(life.holder);
        self.lives.evict(group, overdue_ns, &mut self.holders).is_some()
    }

    /// When the lives with this key began.
    fn opened(&self, key: u8) -> Vec<u64> {
        let mut opened: Vec<u64> = self.lives.with_key(key).map(|(_, life)| life.opened_ns).collect();
        opened.sort_unstable();
        assert_eq!(self.lives.count(&key), Some(opened.len()));
        opened
    }

    /// When they began and ended.
    fn spans(&self, key: u8) -> Vec<(u64, Option<u64>)> {
        let mut spans: Vec<_> =
            self.lives.with_key(key).map(|(_, life)| (life.opened_ns, life.closed_ns)).collect();
        spans.sort_unstable();
        spans
    }
}

#[test]
fn ended_lives_expire_and_leave_nothing_behind() {
    let mut table = Table::default();
    for cookie in 1..=3 {
        table.open(cookie, 7, cookie * 100);
        table.close(cookie, cookie * 100 + 50);
    }
    table.expire(260 + LINGER_NS);
    assert_eq!(table.opened(7), [300]);
    table.expire(1000 + LINGER_NS);
    assert!(table.opened(7).is_empty() && table.lives.is_empty());
    assert_eq!(table.holders.bytes(), 0);
}

#[test]
fn a_socket_with_another_key_begins_another_life() {
    let mut table = Table::default();
    table.open(1, 7, 100);
    table.open(1, 8, 200);
    assert_eq!((table.spans(7), table.spans(8)), (vec![(100, Some(200))], vec![(200, None)]));
    table.expire(210 + LINGER_NS);
    assert_eq!((table.opened(7), table.opened(8)), (vec![], vec![200]));
}

#[test]
fn the_end_of_a_former_life_does_not_end_the_next() {
    let mut table = Table::default();
    table.open(1, 7, 100);
    table.close(1, 150);
    table.open(1, 7, 200);
    table.expire(160 + LINGER_NS);
    assert_eq!(table.opened(7), [200]);
}

/// Who floods makes its own new sockets nameless, not what it did before, and not others.
#[test]
fn what_is_forgotten_first_is_overdue_then_new() {
    let mut table = Table::default();
    for cookie in 1..=4 {
        table.open_by(cookie, 7, cookie, 1);
    }
    table.open_by(5, 7, 5, 2);
    for cookie in [2, 1, 3] {
        table.close(cookie, 100 + cookie);
    }
    assert!(table.evict(1, 103));
    assert_eq!(table.opened(7), [1, 3, 4, 5], "the one that closed first, since its flow has ended");
    assert!(table.evict(1, 100));
    assert_eq!(table.opened(7), [1, 4, 5], "the one that closed last");
    assert!(table.evict(1, 100) && table.evict(1, 100));
    assert_eq!(table.opened(7), [5], "then those that are open");
    assert!(!table.evict(1, 100));
    assert_eq!(table.lives.evicted(), 4);
}

#[test]
fn after_a_loss_the_living_have_ended() {
    let mut table = Table::default();
    table.open(1, 7, 100);
    table.open(2, 7, 300);
    table.lives.lost_events(200, &table.holders);
    assert_eq!(table.spans(7), [(100, Some(200)), (300, Some(300))]);
}

/// Between the end that was lost and the begin of the next, the key may have been of nobody.
#[test]
fn after_a_loss_an_end_that_was_not_seen_is_as_early_as_can_be() {
    let mut table = Table::default();
    for cookie in 1..=4 {
        table.open(cookie, 7, cookie * 100);
    }
    table.lives.close_with_key(&7, 500, &table.holders, |life| life.opened_ns <= 200);
    table.close(3, 500);
    table.open(4, 8, 500);
    table.lives.lost_events(350, &table.holders);
    assert_eq!(table.spans(7), [(100, Some(350)), (200, Some(350)), (300, Some(500)), (400, Some(400))]);
}

/// Somebody opens and closes sockets with one port all day: what others ask for there must not take the day.
#[test]
fn of_too_many_with_one_key_it_is_said_that_they_are_too_many() {
    let mut table = Table::default();
    let most = u64::try_from(MAX_LOOKED_THROUGH).unwrap();
    for cookie in 1..most {
        table.open(cookie, 7, cookie);
    }
    assert_eq!(table.lives.count(&7), Some(MAX_LOOKED_THROUGH - 1));
    table.open(most, 7, most);
    assert_eq!(table.lives.count(&7), None);
    assert_eq!(table.lives.with_key(7).count(), MAX_LOOKED_THROUGH);
}

/// Its tuple is the one of both ends of its flow.
#[test]
fn what_is_forgotten_twice_is_forgotten_once() {
    let mut table = Table::default();
    table.open(1, 7, 100);
    table.open(2, 7, 200);
    let (number, _) = table.lives.with_key(7).find(|(_, life)| life.cookie == 1).unwrap();
    table.lives.forget(number, &mut table.holders);
    table.lives.forget(number, &mut table.holders);
    assert_eq!((table.opened(7), table.lives.len()), (vec![200], 1));
    assert!(table.evict(1, 0) && table.lives.is_empty());
}
