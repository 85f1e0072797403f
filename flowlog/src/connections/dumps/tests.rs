use super::*;
use crate::testing;

pub(super) const S: u64 = 1_000_000_000;

pub(super) fn flow(port: u16, packets: u64) -> Flow {
    Flow {
        id: Some(u32::from(port)),
        start_ns: Some(S),
        orig_counters: Some(Counters { packets, bytes: packets * 60 }),
        ..testing::flow(port)
    }
}

pub(super) fn dump(dumps: &mut Dumps, at_s: u64, flows: &[Flow]) {
    dumps.begin(at_s * S, Follow::Known);
    for flow in flows {
        dumps.saw(flow.clone(), true, at_s * S);
    }
    dumps.end(at_s * S);
}

pub(super) fn audit(dumps: &mut Dumps, at_s: u64, follow: Follow, flows: &[Flow]) {
    dumps.begin(at_s * S, follow);
    for flow in flows {
        dumps.saw(flow.clone(), true, at_s * S);
    }
    dumps.end(at_s * S);
}

pub(super) fn records(dumps: &mut Dumps) -> Vec<(Option<u32>, Sighting, u64)> {
    std::iter::from_fn(|| dumps.take_record())
        .map(|Record { flow, sighting, at_ns }| (flow.id, sighting, at_ns / S))
        .collect()
}

pub(super) const FIRST: Destroyed = Destroyed::First { counters_final: true };

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
