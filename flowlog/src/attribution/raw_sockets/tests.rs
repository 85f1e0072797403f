//! Single flows against what raw sockets sent.

use flowlog_common::Owner;
use flowlog_common::raw_sent::{BUCKETS, Noted, SLOTS};

use super::*;
use crate::record::{Holder, Origin};
use crate::testing;

const MS: u64 = 1_000_000;

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Src,
    Dst,
}

const HOST: u64 = 1;
const CONTAINER: u64 = 2;
const OWN: &str = "10.0.0.1";
const PEER: &str = "10.0.0.2";

fn tuple(src: &str, src_port: u16, dst: &str, dst_port: u16) -> Tuple {
    testing::tuple(src, dst, Protocol::TCP, L4::Ports { src: src_port, dst: dst_port })
}

/// What a packet with this tuple is on the way.
fn sent(netns_cookie: u64, tuple: &Tuple) -> RawTuple {
    let [src, dst] = [tuple.src, tuple.dst].map(|addr| words(mapped(addr)));
    RawTuple { netns_cookie, src, dst, protocol: tuple.proto.0, ports: keys(tuple, tuple) }
}

fn holder(tgid: u32, netns_cookie: u64) -> Holder {
    let owner = Owner { tgid, netns_cookie, time_ns: 1, ..Owner::UNKNOWN };
    Holder { owner, process: None, origin: Origin::default(), is_seeded: false }
}

/// A table with the holders of its sockets.
struct Table {
    sockets: RawSockets,
    holders: Holders,
}

/// Sockets 1 and 2 of the host, and 3 of a container, which sent these at times in milliseconds.
fn sockets(packets: &[(RawTuple, u64, u64)]) -> Table {
    let mut noted = Noted::default();
    for (tuple, cookie, at_ms) in packets {
        noted.note(tuple, *cookie, at_ms * MS);
    }
    let (mut sockets, mut holders) = (RawSockets::default(), Holders::default());
    sockets.watch(Box::new(noted), 10 * MS);
    for (cookie, netns_cookie) in [(1, HOST), (2, HOST), (3, CONTAINER)] {
        let holder = holders.intern(holder(u32::try_from(cookie).unwrap(), netns_cookie), 10 * MS);
        sockets.open(cookie, 10 * MS, holder, &mut holders);
    }
    Table { sockets, holders }
}

/// The process that is found at an end of a flow of 200 to 300 ms, -1 where it is ambiguous.
fn find(sockets: &Table, side: Side, own: &Tuple, other: &Tuple, is_local: bool) -> Option<i64> {
    find_from(sockets, 200, side, own, other, is_local)
}

fn find_from(
    sockets: &Table,
    start_ms: u64,
    side: Side,
    own: &Tuple,
    other: &Tuple,
    is_local: bool,
) -> Option<i64> {
    let [start_ns, destroyed_ns] = [start_ms, start_ms + 100].map(|ms| ms * MS);
    let span = Span {
        start: Some(Moment::exact(start_ns)),
        end_ns: destroyed_ns,
        destroyed_ns,
        is_answered: false,
        is_initiator: side == Side::Src,
    };
    let presence = if is_local { Presence::Yes } else { Presence::No };
    let wanted = Wanted { own, other, netns_cookie: Some(HOST), presence, span };
    match sockets.sockets.find(&wanted, &sockets.holders) {
        FoundRaw::None => None,
        FoundRaw::One { holder, .. } => Some(sockets.holders.get(holder).owner.tgid.into()),
        FoundRaw::Ambiguous => Some(-1),
    }
}

fn ends() -> (Tuple, Tuple) {
    (tuple(OWN, 40_000, PEER, 80), tuple(PEER, 80, OWN, 40_000))
}

#[test]
fn the_sender_is_told_by_the_time_of_its_packets() {
    let (own, other) = ends();
    let found = |packets: &[(u64, u64)]| {
        let packets: Vec<_> =
            packets.iter().map(|&(cookie, at_ms)| (sent(HOST, &own), cookie, at_ms)).collect();
        find(&sockets(&packets), Side::Src, &own, &other, true)
    };
    assert_eq!(found(&[]), None);
    assert_eq!(found(&[(1, 201)]), Some(1));
    assert_eq!(found(&[(1, 150), (1, 250)]), Some(1), "one flow after the other");
    assert_eq!(found(&[(1, 150), (1, 350)]), Some(-1), "between them it may have been of somebody else");
    assert_eq!(found(&[(1, 150)]), None, "before");
    assert_eq!(found(&[(1, 350)]), None, "after");
    assert_eq!(found(&[(2, 150), (1, 201)]), Some(1), "another one before");
    assert_eq!(found(&[(2, 201), (1, 202)]), Some(-1), "two of them");
    assert_eq!(found(&[(2, 201), (1, 350)]), None, "the other one later");
    assert_eq!(found(&[(SHARED, 201)]), Some(-1));
    assert_eq!(found(&[(9, 201)]), Some(-1), "nobody told of the socket");
}

#[test]
fn what_may_be_of_another_flow_is_ambiguous() {
    let (own, other) = ends();
    let found = |at_ns: u64| {
        let mut noted = Noted::default();
        noted.note(&sent(HOST, &own), 1, at_ns);
        let mut sockets = sockets(&[]);
        sockets.sockets.watch(Box::new(noted), 0);
        find(&sockets, Side::Src, &own, &other, true)
    };
    for (at_ns, expected) in [
        (200 * MS - CLOCK_SLACK_NS - 1, None),
        (200 * MS - CLOCK_SLACK_NS, Some(-1)),
        (200 * MS, Some(1)),
        (201 * MS, Some(1)),
        (201 * MS + 1, None),
        (300 * MS, None),
        (300 * MS + CLOCK_SLACK_NS, Some(-1)),
        (300 * MS + CLOCK_SLACK_NS + 1, None),
    ] {
        assert_eq!(found(at_ns), expected, "{at_ns}");
    }
}

#[test]
fn a_flow_that_began_before_the_programs_has_no_raw_socket() {
    let (own, other) = ends();
    let mut noted = Noted::default();
    noted.note(&sent(HOST, &own), 1, 250 * MS);
    let mut sockets = sockets(&[]);
    sockets.sockets.watch(Box::new(noted), 200 * MS + 1);
    assert_eq!(find(&sockets, Side::Src, &own, &other, true), None);
}

#[test]
fn packets_are_found_as_they_are_after_nat() {
    let (own, _) = ends();
    // From another address and port, and to another: as the peer sees it.
    let other = tuple("192.0.2.9", 8080, "192.0.2.1", 5555);
    let on_the_way = tuple("192.0.2.1", 5555, "192.0.2.9", 8080);
    let sockets = sockets(&[(sent(HOST, &on_the_way), 1, 201)]);
    assert_eq!(find(&sockets, Side::Src, &own, &other, true), Some(1));
    assert_eq!(find(&sockets, Side::Src, &own, &mirrored(&own), true), None);
}

/// Who breaks or changes connections of others sends packets with their tuples, too.
#[test]
fn of_addresses_of_other_hosts_only_who_began_the_flow_counts() {
    let (own, other) = ends();
    let packets = |at_ms| [(sent(HOST, &own), 1, at_ms)];
    assert_eq!(find(&sockets(&packets(200)), Side::Src, &own, &other, false), Some(1));
    assert_eq!(find(&sockets(&packets(203)), Side::Src, &own, &other, false), None);
    assert_eq!(find(&sockets(&packets(203)), Side::Dst, &own, &other, true), Some(1));
    assert_eq!(find(&sockets(&packets(200)), Side::Dst, &own, &other, false), None);
}

#[test]
fn a_container_is_found_by_what_it_sent_before_nat_here() {
    let (own, _) = ends();
    let other = tuple(PEER, 80, "192.0.2.1", 5555);
    let packets = [(sent(CONTAINER, &own), 3, 199)];
    assert_eq!(find(&sockets(&packets), Side::Src, &own, &other, false), Some(3));
    assert_eq!(find(&sockets(&packets), Side::Src, &own, &other, true), None, "an address of this namespace");
    let long_before = TRANSIT_NS / MS + 300;
    assert_eq!(find_from(&sockets(&packets), long_before, Side::Src, &own, &other, false), None);
}

#[test]
fn echo_requests_are_found_and_echo_replies_are_of_the_kernel() {
    let icmp = |src: &str, dst: &str, icmp_type| Tuple {
        proto: Protocol::ICMP,
        l4: L4::Icmp { icmp_type, code: 0, id: 7 },
        ..tuple(src, 0, dst, 0)
    };
    let (request, reply) = (icmp(OWN, PEER, 8), icmp(PEER, OWN, 0));
    let sockets = sockets(&[(sent(HOST, &request), 1, 201), (sent(HOST, &reply), 2, 201)]);
    assert_eq!(find(&sockets, Side::Src, &request, &reply, true), Some(1));
    assert_eq!(find(&sockets, Side::Dst, &reply, &request, true), None);
}

#[test]
fn where_the_table_is_full_the_oldest_tuples_are_forgotten() {
    let mut noted = Noted::default();
    let tuple_of = |number: u32| {
        let [high, low] = [number >> 16, number & 0xffff].map(|half| u16::try_from(half).unwrap());
        sent(HOST, &tuple(OWN, high, PEER, low))
    };
    let total = u32::try_from(BUCKETS * SLOTS).unwrap();
    for number in 0..2 * total {
        noted.note(&tuple_of(number), 1, u64::from(number) + 1);
    }
    let known = |numbers: std::ops::Range<u32>| {
        numbers.filter(|number| noted.find(&tuple_of(*number)).is_some()).count()
    };
    assert_eq!(noted.forgotten(), u64::from(2 * total) - u64::try_from(known(0..2 * total)).unwrap());
    // They are not spread quite evenly.
    assert!(known(2 * total - total / 4..2 * total) > usize::try_from(total / 4).unwrap() - 100);
    assert!(known(0..total / 4) < usize::try_from(total / 40).unwrap());
}

#[test]
fn sockets_that_closed_long_ago_are_forgotten_with_their_namespaces() {
    let (own, other) = ends();
    let mut table = sockets(&[(sent(HOST, &own), 1, 201)]);
    for cookie in [1, 2, 3] {
        table.sockets.close(cookie, 300 * MS, &table.holders);
    }
    assert_eq!(find(&table, Side::Src, &own, &other, true), Some(1));
    table.sockets.expire(301 * MS + 1000, 1000, &mut table.holders);
    assert_eq!((table.sockets.namespaces.len(), table.sockets.sockets.len()), (0, 0));
    assert_eq!(find(&table, Side::Src, &own, &other, true), None);
}
