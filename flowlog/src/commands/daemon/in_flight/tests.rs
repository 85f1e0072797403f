use std::collections::BTreeMap;
use std::os::fd::AsFd;

use proptest::prelude::*;

use super::*;
use crate::connections::ctnetlink::{Datagrams, Headers};

/// As a process does that takes it over: the other one may be killed at any time.
fn adopted(in_flight: &InFlight) -> (InFlight, Left) {
    InFlight::adopt(in_flight.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

/// A datagram with a number, as the kernel would write it.
fn write(slot: &mut [u8], number: u32) {
    slot[..4].copy_from_slice(&20_u32.to_ne_bytes());
    slot[16..20].copy_from_slice(&number.to_ne_bytes());
}

fn number(datagram: &[u8]) -> u32 {
    u32::from_ne_bytes(datagram[16..20].try_into().unwrap())
}

/// Receives datagrams of a namespace, as far as there is room at once.
fn receive(in_flight: &mut InFlight, netns: u64, round: u64, numbers: &[u32]) -> usize {
    let room = in_flight.room(netns, round, 0).unwrap();
    let slots = in_flight.slots(room);
    let slots = slots.bytes.chunks_exact_mut(slots.slot_bytes);
    slots.zip(numbers).map(|(slot, number)| write(slot, *number)).count()
}

/// What is left in chunks, by their namespaces.
fn left(in_flight: &mut InFlight) -> BTreeMap<u64, Vec<u32>> {
    let mut headers = Headers::default();
    let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (round, chunks) in in_flight.left() {
        for (chunk, netns) in chunks {
            let datagrams = Datagrams::left(in_flight.again(chunk, round), &mut headers);
            found.entry(netns).or_default().extend(datagrams.iter().map(number));
        }
    }
    found
}

#[test]
fn what_was_received_is_left_even_if_it_was_not_counted() {
    let mut in_flight = InFlight::create().unwrap();
    let received = receive(&mut in_flight, 7, 1, &[1, 2, 3]);
    in_flight.received(7, received);
    // The process is killed when the system call has returned.
    receive(&mut in_flight, 7, 1, &[4]);
    // In another round another one comes.
    receive(&mut in_flight, 7, 2, &[5]);
    let (mut next, _) = adopted(&in_flight);
    assert!(next.settle(0).is_empty());
    assert_eq!(left(&mut next), [(7, vec![1, 2, 3, 4, 5])].into());
    // It is killed, too, before it has written a row.
    let (mut third, _) = adopted(&next);
    third.settle(0);
    assert_eq!(left(&mut third), [(7, vec![1, 2, 3, 4, 5])].into());
    // And this one after it has written those of one round.
    let (mut fourth, _) = adopted(&third);
    fourth.settle(1);
    assert_eq!(left(&mut fourth), [(7, vec![5])].into());
}

#[test]
fn what_is_in_the_write_ahead_log_is_not_left() {
    let mut in_flight = InFlight::create().unwrap();
    for round in 1..=3 {
        let received = receive(&mut in_flight, round, round, &[1]);
        in_flight.received(round, received);
    }
    in_flight.durable().set(2);
    let (mut next, _) = adopted(&in_flight);
    let durable = next.durable_round(0).unwrap();
    assert_eq!(durable, 2);
    next.settle(durable);
    assert_eq!(left(&mut next), [(3, vec![1])].into());
}

#[test]
fn what_is_dropped_is_not_left() {
    let mut in_flight = InFlight::create().unwrap();
    let received = receive(&mut in_flight, 7, 1, &[1, 2]);
    in_flight.dropped(7, received);
    let (mut next, _) = adopted(&in_flight);
    next.settle(0);
    assert_eq!(left(&mut next), [(7, vec![])].into());
}

#[test]
fn all_of_the_memory_can_be_in_flight_and_is_used_again() {
    let mut in_flight = InFlight::create().unwrap();
    let mut numbers = 0_u32;
    while in_flight.room(7, 1, 0).is_some() {
        let received = receive(&mut in_flight, 7, 1, &[numbers; DATAGRAMS]);
        in_flight.received(7, received);
        numbers += 1;
    }
    assert!(in_flight.room(7, 2, 0).is_none());
    assert!(in_flight.room(7, 2, 1).is_some(), "the first round has its rows");
}

#[test]
fn runs_are_noted_until_one_is_known_to_have_begun() {
    let [first, second, third] = [1, 2, 3].map(Uuid::from_u128);
    let mut in_flight = InFlight::create().unwrap();
    in_flight.begin_run(first);
    in_flight.has_begun();
    in_flight.begin_run(second);
    let (mut next, left) = adopted(&in_flight);
    assert_eq!(left.runs, [second, first]);
    next.begin_run(third);
    assert_eq!(adopted(&next).1.runs, [third, second, first]);
    next.has_begun();
    assert_eq!(adopted(&next).1.runs, [third]);
}

#[test]
fn subscriptions_are_kept() {
    let mut in_flight = InFlight::create().unwrap();
    let of = |netns, dropped| Subscription { netns, dropped, ..Subscription::default() };
    for subscription in [of(1, 1), of(2, 2), of(1, 3)] {
        in_flight.keep(subscription);
    }
    in_flight.set_undeclared(true);
    let (mut next, left) = adopted(&in_flight);
    assert!(left.has_undeclared);
    assert_eq!(left.subscription(1).unwrap().dropped, 3);
    assert_eq!(left.subscription(2).unwrap().dropped, 2);
    next.keep_only(&[2]);
    assert!(adopted(&next).1.subscription(1).is_none());
}

#[test]
fn other_memory_is_refused() {
    let refused = |descriptor: OwnedFd| InFlight::adopt(descriptor).err().unwrap().to_string();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[1; 8192], 0).unwrap();
    assert_eq!(refused(file.into()), "found something else");

    let in_flight = InFlight::create().unwrap();
    in_flight.memory.file().write_all_at(&99_u64.to_ne_bytes(), 8).unwrap();
    let descriptor = in_flight.as_fd().try_clone_to_owned().unwrap();
    assert_eq!(refused(descriptor), "found version 99, expected 1");
}

proptest! {
    /// However far the write-ahead log was, each flow that ended is either remembered, or it is left to be read again.
    #[test]
    fn ended_flows_are_remembered_as_far_as_they_have_rows(
        rounds in prop::collection::vec(0_u64..5, 1..20),
        durable in 0_u64..22,
        again in 0_u64..4,
        has_written: bool,
    ) {
        let mut in_flight = InFlight::create().unwrap();
        let (mut identity, mut of_rounds) = (0_u64, Vec::new());
        for (flows, round) in rounds.iter().zip(1..) {
            in_flight.room(7, round, 0).unwrap();
            in_flight.note(7, identity..identity + flows, 1 << 16);
            of_rounds.extend((identity..identity + flows).map(|identity| (round, identity)));
            identity += flows;
        }
        let durable = durable.min(rounds.len() as u64);
        let has_rows: Vec<(u64, u64)> =
            of_rounds.iter().filter(|(round, _)| *round <= durable).map(|(_, identity)| (7, *identity)).collect();
        let (mut next, _) = adopted(&in_flight);
        prop_assert_eq!(next.settle(durable), has_rows.clone());
        // The next one is killed, too, when it has read some again, and written their rows or not.
        let round = next.round();
        next.room(7, round, durable).unwrap();
        next.note(7, 1000..1000 + again, 1 << 16);
        let (mut third, _) = adopted(&next);
        let with_again = has_rows.iter().copied().chain((1000..1000 + again).map(|identity| (7, identity)));
        if has_written {
            prop_assert_eq!(third.settle(round), with_again.collect::<Vec<_>>());
        } else {
            prop_assert_eq!(third.settle(durable), has_rows);
        }
    }
}
