//! Random histories of sockets against lives in a list.

use flowlog_common::Owner;
use proptest::prelude::*;

use super::*;
use crate::record::{Holder, Origin};

#[derive(Clone, Copy, Debug)]
enum Step {
    Open { cookie: u64, key: u8, uid: u32 },
    Close { cookie: u64 },
    CloseWithKey { key: u8, uid: u32 },
    Claim { cookie: u64, uid: u32 },
    Lose { ago: u64 },
    Expire { linger: u64 },
    Forget { which: usize },
    Evict { which: usize, overdue: u64 },
    Resize { grows: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let (cookie, key, uid) = (|| 1..60_u64, || 0..5_u8, || 0..4_u32);
    prop_oneof![
        8 => (cookie(), key(), uid()).prop_map(|(cookie, key, uid)| Step::Open { cookie, key, uid }),
        6 => cookie().prop_map(|cookie| Step::Close { cookie }),
        1 => (key(), uid()).prop_map(|(key, uid)| Step::CloseWithKey { key, uid }),
        1 => (cookie(), uid()).prop_map(|(cookie, uid)| Step::Claim { cookie, uid }),
        1 => (0..40_u64).prop_map(|ago| Step::Lose { ago }),
        1 => (0..200_u64).prop_map(|linger| Step::Expire { linger }),
        2 => any::<usize>().prop_map(|which| Step::Forget { which }),
        2 => (any::<usize>(), 0..100_u64).prop_map(|(which, overdue)| Step::Evict { which, overdue }),
        1 => any::<bool>().prop_map(|grows| Step::Resize { grows }),
    ]
}

/// A life as the list has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    cookie: u64,
    opened_ns: u64,
    closed_ns: Option<u64>,
    key: u8,
    uid: u32,
    is_end_inferred: bool,
    is_former: bool,
    /// When it came to be open, or closed, as its list has it.
    listed: u64,
}

#[derive(Default)]
struct Model {
    known: Vec<Known>,
    listed: u64,
}

impl Model {
    fn current(&mut self, cookie: u64) -> Option<&mut Known> {
        self.known.iter_mut().find(|known| known.cookie == cookie && !known.is_former)
    }

    fn end(&mut self, at: usize, at_ns: u64, is_inferred: bool) {
        self.listed += 1;
        let known = &mut self.known[at];
        if known.closed_ns.is_none() {
            (known.closed_ns, known.listed) = (Some(at_ns), self.listed);
            known.is_end_inferred |= is_inferred;
        }
    }

    fn position(&self, wanted: impl Fn(&Known) -> bool) -> Option<usize> {
        self.known.iter().position(wanted)
    }

    /// Which one is forgotten early.
    fn evicted(&self, uid: u32, overdue_ns: u64) -> Option<usize> {
        let of_user =
            |known: &Known, is_closed: bool| known.uid == uid && known.closed_ns.is_some() == is_closed;
        let listed = |is_closed: bool| {
            let of_user = self.known.iter().enumerate().filter(move |(_, known)| of_user(known, is_closed));
            of_user.map(|(at, known)| (known.listed, at))
        };
        let overdue = listed(true).min().filter(|(_, at)| self.known[*at].closed_ns < Some(overdue_ns));
        overdue.or_else(|| listed(true).max()).or_else(|| listed(false).max()).map(|(_, at)| at)
    }
}

fn holder(holders: &mut Holders, uid: u32) -> HolderId {
    let owner = Owner { uid, time_ns: 1, ..Owner::UNKNOWN };
    holders.intern(Holder { owner, process: None, origin: Origin::default(), is_seeded: false }, 1)
}

fn number(lives: &Lives<u8, ()>, holders: &Holders, known: &Known) -> Option<u32> {
    let is_it = |life: &Life<()>| {
        (life.cookie, life.opened_ns, life.closed_ns) == (known.cookie, known.opened_ns, known.closed_ns)
            && holders.get(life.holder).owner.uid == known.uid
    };
    lives.with_key(known.key).find(|(_, life)| is_it(life)).map(|(number, _)| number)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    // Long, since each kind of step is a few lines.
    #[test]
    fn lives_are_those_of_a_list(steps in proptest::collection::vec(step(), 0..300)) {
        let (mut lives, mut holders) = (Lives::<u8, ()>::default(), Holders::default());
        let mut model = Model::default();
        for (now_ns, step) in (1000..).step_by(3).zip(steps) {
            match step {
                Step::Open { cookie, key, uid } => {
                    let holder = holder(&mut holders, uid);
                    let life = Life { opened_ns: now_ns, closed_ns: None, cookie, holder, value: () };
                    lives.open(key, life, &mut holders);
                    if let Some(at) = model.position(|known| known.cookie == cookie && !known.is_former) {
                        model.end(at, now_ns, true);
                        model.known[at].is_former = true;
                    }
                    model.listed += 1;
                    let listed = model.listed;
                    let (is_end_inferred, is_former, closed_ns) = (false, false, None);
                    model.known.push(Known { cookie, opened_ns: now_ns, closed_ns, key, uid, is_end_inferred, is_former, listed });
                }
                Step::Close { cookie } => {
                    lives.close(cookie, now_ns, &holders);
                    if let Some(at) = model.position(|known| known.cookie == cookie && !known.is_former) {
                        model.end(at, now_ns, false);
                    }
                }
                Step::CloseWithKey { key, uid } => {
                    let is_wanted = |life: &Life<()>| holders.get(life.holder).owner.uid == uid;
                    // In which order is of no interest.
                    if lives.with_key(key).filter(|(_, life)| life.closed_ns.is_none() && is_wanted(life)).count() > 1 {
                        continue;
                    }
                    lives.close_with_key(&key, now_ns, &holders, is_wanted);
                    let of_key = |known: &Known| (known.key, known.uid, known.closed_ns) == (key, uid, None);
                    if let Some(at) = model.position(of_key) {
                        model.end(at, now_ns, true);
                    }
                }
                Step::Claim { cookie, uid } => {
                    if let Some(life) = lives.get(cookie) {
                        let holder = holder(&mut holders, uid);
                        let is_same = holder == life.holder;
                        lives.replace(Life { holder, ..life }, &mut holders);
                        if is_same {
                            holders.release(holder);
                        }
                        model.listed += 1;
                        let listed = model.listed;
                        let known = model.current(cookie).unwrap();
                        if known.uid != uid {
                            (known.uid, known.listed) = (uid, listed);
                        }
                    }
                }
                Step::Lose { ago } => {
                    let since_ns = now_ns - ago;
                    if lives.all().filter(|life| life.closed_ns.is_none()).count() > 1 {
                        continue;
                    }
                    lives.lost_events(since_ns, &holders);
                    for at in 0..model.known.len() {
                        let Known { opened_ns, closed_ns, is_end_inferred, .. } = model.known[at];
                        let at_ns = opened_ns.max(since_ns);
                        if closed_ns.is_none() {
                            model.end(at, at_ns, false);
                        } else if is_end_inferred && closed_ns > Some(since_ns) {
                            model.known[at].closed_ns = Some(at_ns);
                        }
                    }
                }
                Step::Expire { linger } => {
                    let before_ns = now_ns.saturating_sub(linger);
                    // Lists are in the order in which lives came to be closed: those behind one that is not over stay.
                    let uids: Vec<u32> = (0..4).collect();
                    for uid in uids {
                        let mut closed: Vec<Known> =
                            model.known.iter().filter(|known| known.uid == uid && known.closed_ns.is_some()).copied().collect();
                        closed.sort_by_key(|known| known.listed);
                        let over = closed.iter().take_while(|known| known.closed_ns < Some(before_ns));
                        let over: Vec<u64> = over.map(|known| known.listed).collect();
                        model.known.retain(|known| !over.contains(&known.listed));
                    }
                    lives.expire(now_ns, linger, |_| linger, &mut holders);
                }
                Step::Forget { which } => {
                    if model.known.is_empty() {
                        continue;
                    }
                    let known = model.known.remove(which % model.known.len());
                    lives.forget(number(&lives, &holders, &known).unwrap(), &mut holders);
                }
                Step::Evict { which, overdue } => {
                    if model.known.is_empty() {
                        continue;
                    }
                    let known = model.known[which % model.known.len()];
                    let group = holders.group(lives.with_key(known.key).find(|(_, life)| {
                        holders.get(life.holder).owner.uid == known.uid
                    }).unwrap().1.holder);
                    let overdue_ns = now_ns.saturating_sub(overdue);
                    assert!(lives.evict(group, overdue_ns, &mut holders).is_some());
                    let at = model.evicted(known.uid, overdue_ns).unwrap();
                    model.known.remove(at);
                }
                Step::Resize { grows } => {
                    for _ in 0..7 {
                        if grows {
                            let first = lives.by_key.grow();
                            lives.relink_keys(first);
                            let first = lives.by_cookie.grow();
                            lives.relink_cookies(first);
                        } else {
                            let first = lives.by_key.shrink(0);
                            lives.relink_keys(first);
                            let first = lives.by_cookie.shrink(0);
                            lives.relink_cookies(first);
                        }
                    }
                }
            }
            let of_list = |known: &Known| (known.key, known.cookie, known.opened_ns, known.closed_ns, known.uid);
            let mut expected: Vec<_> = model.known.iter().map(of_list).collect();
            let mut found: Vec<_> = (0..5)
                .flat_map(|key| lives.with_key(key).map(move |(_, life)| (key, life)))
                .map(|(key, life)| {
                    (key, life.cookie, life.opened_ns, life.closed_ns, holders.get(life.holder).owner.uid)
                })
                .collect();
            expected.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, expected, "after {step:?}");
            for cookie in 1..60 {
                let expected = model.current(cookie).map(|known| (known.opened_ns, known.closed_ns));
                assert_eq!(lives.get(cookie).map(|life| (life.opened_ns, life.closed_ns)), expected);
            }
            let of_users: usize = holders.groups().map(|group| lives.len_of(group)).sum();
            assert_eq!((lives.len(), of_users), (model.known.len(), model.known.len()));
        }
        let numbers: Vec<u32> = lives.slots.numbers().collect();
        for number in numbers {
            lives.forget(number, &mut holders);
        }
        assert!(lives.is_empty() && holders.bytes() == 0 && [&lives.by_key, &lives.by_cookie].iter().all(|index| index.0.iter().all(|first| *first == NO_SLOT)));
    }
}
