//! Dumps that ask for entries: what they tell is what lists tell.

use proptest::prelude::*;

use super::tests::{FIRST, S, audit, dump, flow, records};
use super::*;

/// The whole table has so many entries that nothing is too many to ask for.
const LARGE: usize = usize::MAX;

/// Asks of a table with these entries. Gives how many were asked for.
fn ask(dumps: &mut Dumps, at_s: u64, flows: &[Flow]) -> usize {
    assert!(dumps.can_ask(LARGE));
    let asked = dumps.begin_asking(at_s * S);
    for (orig, zone) in &asked {
        let found = flows.iter().find(|flow| flow.orig == *orig && flow.zone == *zone);
        found.into_iter().for_each(|flow| dumps.saw(flow.clone(), true, at_s * S));
    }
    dumps.end(at_s * S);
    asked.len()
}

#[test]
fn few_are_asked_for_and_many_are_listed() {
    let mut dumps = Dumps::new(None);
    assert!(!dumps.can_ask(LARGE), "nothing is known yet");
    let flows: Vec<_> = (1..=20).map(|port| flow(port, 1)).collect();
    dump(&mut dumps, 10, &flows);
    assert!(dumps.can_ask(20 * LISTED_PER_ASKED));
    assert!(!dumps.can_ask(20 * LISTED_PER_ASKED - 1));
    assert_eq!(ask(&mut dumps, 20, &flows), 20);
    assert_eq!(dumps.destroyed(&flow(1, 1)), FIRST);
    assert_eq!(ask(&mut dumps, 30, &flows), 19);
}

#[test]
fn what_is_asked_for_twice_in_vain_has_vanished_as_it_was_last() {
    let mut dumps = Dumps::new(None);
    dump(&mut dumps, 10, &[flow(1, 1), flow(2, 1)]);
    ask(&mut dumps, 70, &[flow(1, 7), flow(2, 8)]);
    ask(&mut dumps, 130, &[flow(1, 9)]);
    assert_eq!(dumps.complete_until_ns(), Some(70 * S));
    assert_eq!(records(&mut dumps), []);
    ask(&mut dumps, 190, &[flow(1, 10)]);
    let Some(Record { flow: last, sighting: Sighting::Vanished, at_ns }) = dumps.take_record() else {
        panic!("no record")
    };
    assert_eq!(
        (last.id, last.orig_counters, last.event_ns),
        (Some(2), flow(2, 8).orig_counters, Some(70 * S))
    );
    assert_eq!(at_ns, 190 * S);
    assert_eq!(dumps.destroyed(&flow(2, 9)), Destroyed::Again, "it came after all");
    assert_eq!(
        dumps.destroyed(&flow(1, 5)),
        Destroyed::First { counters_final: false },
        "somebody set it back"
    );
}

#[test]
fn a_tuple_that_never_found_its_entry_is_no_sign_of_its_end() {
    let mut dumps = Dumps::new(None);
    dump(&mut dumps, 10, &[flow(1, 1), flow(2, 1)]);
    ask(&mut dumps, 70, &[flow(1, 1)]);
    assert!(!dumps.can_ask(LARGE));
    dump(&mut dumps, 130, &[flow(1, 1), flow(2, 1)]);
    assert_eq!(records(&mut dumps), []);
    assert!(dumps.can_ask(LARGE), "it is there");
    ask(&mut dumps, 190, &[flow(1, 1)]);
    dump(&mut dumps, 250, &[flow(1, 1)]);
    assert_eq!(records(&mut dumps), [(Some(2), Sighting::Vanished, 250)]);
}

#[test]
fn what_an_audit_follows_is_not_asked_for() {
    let mut dumps = Dumps::new(None);
    dump(&mut dumps, 10, &[flow(1, 1)]);
    audit(&mut dumps, 600, Follow::All, &[flow(1, 1), flow(2, 1), flow(3, 1)]);
    for minute in 11..20 {
        assert_eq!(ask(&mut dumps, minute * 60, &[flow(1, 1)]), 1);
    }
    assert_eq!(records(&mut dumps), []);
    audit(&mut dumps, 1200, Follow::All, &[flow(1, 1), flow(3, 1)]);
    assert!(!dumps.can_ask(LARGE), "one is missing");
    dump(&mut dumps, 1260, &[flow(1, 1), flow(3, 1)]);
    assert_eq!(records(&mut dumps), [(Some(2), Sighting::Vanished, 1260)]);
    assert!(dumps.can_ask(LARGE));
}

#[test]
fn another_entry_with_the_tuple_is_not_the_one_that_is_asked_for() {
    let mut dumps = Dumps::new(None);
    dump(&mut dumps, 10, &[flow(1, 5)]);
    ask(&mut dumps, 70, &[flow(1, 5)]);
    let again = Flow { start_ns: Some(20 * S), ..flow(1, 1) };
    ask(&mut dumps, 130, std::slice::from_ref(&again));
    ask(&mut dumps, 190, std::slice::from_ref(&again));
    assert_eq!(records(&mut dumps), [(Some(1), Sighting::Vanished, 190)]);
    assert_eq!(dumps.destroyed(&again), FIRST);
    assert_eq!(dumps.zeroed(), 0);
}

#[test]
fn what_has_ended_is_forgotten_without_a_list() {
    let mut dumps = Dumps::new(None);
    dump(&mut dumps, 10, &[flow(1, 1)]);
    ask(&mut dumps, 20, &[flow(1, 1)]);
    for number in 0..MISSING_DUMPS + REMEMBERED_DUMPS {
        assert!(dumps.is_needed());
        assert_eq!(ask(&mut dumps, 30, &[]), usize::from(number < MISSING_DUMPS));
    }
    assert!(!dumps.is_needed());
}

#[test]
fn after_a_failure_the_table_is_listed() {
    let mut dumps = Dumps::new(None);
    dump(&mut dumps, 10, &[flow(1, 1)]);
    ask(&mut dumps, 20, &[flow(1, 1)]);
    dumps.begin_asking(30 * S);
    dumps.cancel();
    assert!(!dumps.can_ask(LARGE));
    dump(&mut dumps, 40, &[]);
    assert_eq!(records(&mut dumps), [], "it was not missing in the one that failed");
    assert!(dumps.can_ask(LARGE));
    ask(&mut dumps, 50, &[]);
    assert_eq!(records(&mut dumps).len(), 1);
}

#[test]
fn records_of_what_goes_on_need_lists() {
    let mut dumps = Dumps::new(Some(100 * S));
    dump(&mut dumps, 10, &[flow(1, 1)]);
    assert!(!dumps.can_ask(LARGE));
}

/// What happens between two dumps.
#[derive(Clone, Debug)]
enum Step {
    /// The entry of this port ends without a message.
    Vanish(u16),
    /// It ends with one.
    Destroy(u16),
    /// The same, and another one takes its tuple.
    Replace(u16),
    /// Its counters go up.
    Count(u16),
    /// The next dump fails.
    Fail,
    Nothing,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..8_u16).prop_map(Step::Vanish),
        (1..8_u16).prop_map(Step::Destroy),
        (1..8_u16).prop_map(Step::Replace),
        (1..8_u16).prop_map(Step::Count),
        Just(Step::Fail),
        Just(Step::Nothing),
    ]
}

proptest! {
    /// Whatever happens to entries that may end without a message: whoever asks where that is possible records the same,
    /// at the same time, as whoever lists the table each time.
    #[test]
    fn who_asks_knows_what_is_known_from_lists(steps in proptest::collection::vec(step(), 1..40)) {
        let [mut lists, mut asks] = [(); 2].map(|()| Dumps::new(None));
        let mut table: Vec<Flow> = (1..8).map(|port| flow(port, 1)).collect();
        dump(&mut lists, 1, &table);
        dump(&mut asks, 1, &table);
        let mut asked = 0;
        for (at_s, step) in (2..).zip(&steps) {
            match *step {
                Step::Vanish(port) => table.retain(|flow| flow.id != Some(port.into())),
                Step::Replace(port) => {
                    table.retain(|flow| flow.id != Some(port.into()));
                    table.push(Flow { start_ns: Some(at_s * S), ..flow(port, 1) });
                }
                Step::Destroy(port) => {
                    let gone = table.iter().position(|flow| flow.id == Some(port.into()));
                    if let Some(gone) = gone.map(|gone| table.remove(gone)) {
                        prop_assert_eq!(lists.destroyed(&gone), asks.destroyed(&gone));
                    }
                }
                Step::Count(port) => {
                    let counted = table.iter_mut().find(|flow| flow.id == Some(port.into()));
                    counted.into_iter().for_each(|counted| counted.orig_counters = flow(port, 9).orig_counters);
                }
                Step::Fail => {
                    lists.begin(at_s * S, Follow::Known);
                    lists.cancel();
                    if asks.can_ask(LARGE) {
                        asks.begin_asking(at_s * S);
                    } else {
                        asks.begin(at_s * S, Follow::Known);
                    }
                    asks.cancel();
                    continue;
                }
                Step::Nothing => {}
            }
            dump(&mut lists, at_s, &table);
            if asks.can_ask(LARGE) {
                ask(&mut asks, at_s, &table);
                asked += 1;
            } else {
                dump(&mut asks, at_s, &table);
            }
            prop_assert_eq!(lists.complete_until_ns(), asks.complete_until_ns());
            prop_assert_eq!(lists.is_needed(), asks.is_needed());
            loop {
                let record = lists.take_record();
                prop_assert_eq!(&record, &asks.take_record());
                if record.is_none() {
                    break;
                }
            }
        }
        prop_assume!(asked > 0);
    }
}
