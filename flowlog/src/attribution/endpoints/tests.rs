//! Single lives and flows.

use std::sync::Arc;

use flowlog_common::Owner;

use super::*;
use crate::attribution::sockets::mapped;
use crate::record::{Origin, Process};
const HOST: u64 = 1;
const CONTAINER: u64 = 2;
const DNS: Port = Port { protocol: Protocol::UDP, number: 53 };

fn addr(text: &str) -> [u8; 16] {
    mapped(text.parse().unwrap())
}

/// A socket that is told of.
#[derive(Clone)]
struct Told {
    cookie: u64,
    holder: Holder,
    is_used: bool,
    is_shared: bool,
    bound_addr: [u8; 16],
    seen_addrs: Vec<[u8; 16]>,
    peer: Option<([u8; 16], u16)>,
}

fn endpoint(cookie: u64, tgid: u32, netns_cookie: u64, bound: &str) -> Told {
    let owner = Owner { netns_cookie, tgid, time_ns: 1, ..Owner::UNKNOWN };
    let process = Some(Arc::new(Process { tgid, ..Process::default() }));
    Told {
        cookie,
        holder: Holder { owner, process, origin: Origin::default(), is_seeded: false },
        is_used: true,
        is_shared: false,
        bound_addr: addr(bound),
        seen_addrs: Vec::new(),
        peer: None,
    }
}

/// A table with the holders of its sockets.
#[derive(Default)]
struct Table {
    endpoints: EndpointTable,
    holders: Holders,
}

impl Table {
    fn open(&mut self, opened_ns: u64, told: Told) {
        let Self { endpoints, holders } = self;
        let Told { cookie, holder, is_used, is_shared, bound_addr, seen_addrs, peer } = told;
        let holder = holders.intern(holder, opened_ns);
        let endpoint = Endpoint {
            is_used,
            is_shared,
            seen_addr: seen_addrs.first().copied(),
            ..Endpoint::unused(cookie, DNS, holder, bound_addr, peer)
        };
        endpoints.open(opened_ns, endpoint, holders);
        for addr in seen_addrs {
            endpoints.see(cookie, DNS, addr, holders);
        }
    }

    fn close(&mut self, cookie: u64, at_ns: u64) {
        self.endpoints.close(cookie, at_ns, &self.holders);
    }

    /// Users of the sockets with the port.
    fn uids(&self) -> Vec<u32> {
        let lives = self.endpoints.lives.with_key(DNS);
        lives.map(|(_, life)| self.holders.get(life.holder).owner.uid).collect()
    }
}

fn wanted(local: &str) -> Wanted {
    Wanted {
        port: DNS,
        addr: addr(local),
        peer: (addr("192.0.2.7"), 4000),
        netns_cookie: Some(HOST),
        presence: Presence::Yes,
        span: Span {
            start: Some(Moment::exact(200_000_000)),
            end_ns: 300_000_000,
            destroyed_ns: 300_000_000,
            is_answered: true,
            is_initiator: false,
        },
    }
}

fn table(endpoints: impl IntoIterator<Item = Told>) -> Table {
    let mut table = Table::default();
    for endpoint in endpoints {
        table.open(100_000_000, endpoint);
    }
    table
}

/// The process and socket that are found, -1 where it is ambiguous, -2 where it is only the program.
fn find(table: &Table, wanted: &Wanted) -> Option<(i64, Option<u64>)> {
    match table.endpoints.find(*wanted, &table.holders) {
        FoundEndpoint::None => None,
        FoundEndpoint::One(holder, cookie) => Some((i64::from(table.holders.get(holder).owner.tgid), cookie)),
        FoundEndpoint::Program(_) => Some((-2, None)),
        FoundEndpoint::Ambiguous => Some((-1, None)),
    }
}

#[test]
fn the_most_specific_socket_gets_the_packets() {
    let connected = Told { peer: Some(wanted("10.0.0.1").peer), ..endpoint(4, 40, HOST, "10.0.0.1") };
    let mut all = vec![
        endpoint(1, 10, HOST, "::"),
        endpoint(2, 20, HOST, "0.0.0.0"),
        endpoint(3, 30, HOST, "10.0.0.1"),
        connected,
    ];
    for expected in [(40, Some(4)), (30, Some(3)), (20, Some(2)), (10, Some(1))] {
        assert_eq!(find(&table(all.clone()), &wanted("10.0.0.1")), Some(expected));
        all.pop();
    }
}

#[test]
fn a_socket_that_is_connected_elsewhere_is_none() {
    let elsewhere = Told { peer: Some((addr("192.0.2.8"), 4000)), ..endpoint(1, 10, HOST, "10.0.0.1") };
    assert_eq!(find(&table([elsewhere]), &wanted("10.0.0.1")), None);
}

/// A local server on all addresses is not the server that a local client asks elsewhere.
#[test]
fn any_address_is_any_local_address() {
    let table = table([endpoint(1, 10, HOST, "0.0.0.0")]);
    assert_eq!(find(&table, &Wanted { presence: Presence::No, ..wanted("8.8.8.8") }), None);
    assert_eq!(find(&table, &wanted("10.0.0.1")), Some((10, Some(1))));
}

#[test]
fn of_another_namespace_the_address_must_have_been_seen() {
    let server = endpoint(1, 10, CONTAINER, "0.0.0.0");
    let seen = Told { seen_addrs: vec![addr("172.17.0.2")], ..server.clone() };
    let wanted = Wanted { presence: Presence::No, ..wanted("172.17.0.2") };
    assert_eq!(find(&table([server]), &wanted), None);
    assert_eq!(find(&table([seen.clone()]), &wanted), Some((10, Some(1))));
    let mut twin = Told { seen_addrs: seen.seen_addrs.clone(), ..endpoint(2, 20, 3, "0.0.0.0") };
    assert_eq!(find(&table([seen.clone(), twin.clone()]), &wanted), Some((-1, None)));
    twin.holder.owner.netns_cookie = HOST;
    assert_eq!(find(&table([seen, twin]), &wanted), Some((20, Some(2))), "the own namespace first");
}

#[test]
fn a_packet_may_be_on_its_way_when_its_socket_is_closed() {
    let seen_addrs = vec![addr("172.17.0.2")];
    let mut table = table([Told { seen_addrs, ..endpoint(1, 10, CONTAINER, "0.0.0.0") }]);
    table.close(1, 190_000_000);
    // Told late: not another life.
    table.open(100_000_000, Told { is_used: true, ..endpoint(1, 10, CONTAINER, "0.0.0.0") });
    let there = Wanted { presence: Presence::No, ..wanted("172.17.0.2") };
    assert_eq!(find(&table, &there), Some((10, Some(1))));
    let here = Wanted { netns_cookie: Some(CONTAINER), ..there };
    assert_eq!(find(&table, &Wanted { presence: Presence::Yes, ..here }), None, "tracked where it was sent");
    let later = Span { start: Some(Moment::exact(5_000_000_000)), ..wanted("10.0.0.1").span };
    assert_eq!(find(&table, &Wanted { span: later, ..there }), None);
}

#[test]
fn without_a_start_nothing_is_proof() {
    let table = table([endpoint(1, 10, HOST, "0.0.0.0")]);
    let span = Span { start: None, ..wanted("10.0.0.1").span };
    assert_eq!(find(&table, &Wanted { span, ..wanted("10.0.0.1") }), Some((-1, None)));
}

#[test]
fn a_group_of_sockets_is_named_where_it_is_one_process() {
    let first = endpoint(1, 10, HOST, "0.0.0.0");
    let second = Told { cookie: 2, ..first.clone() };
    assert_eq!(find(&table([first.clone(), second]), &wanted("10.0.0.1")), Some((10, None)));
    let other = endpoint(3, 20, HOST, "0.0.0.0");
    assert_eq!(find(&table([first, other]), &wanted("10.0.0.1")), Some((-1, None)));
}

#[test]
fn who_uses_a_socket_has_it_and_not_who_bound_it() {
    let parent = Told { is_used: false, ..endpoint(1, 10, HOST, "0.0.0.0") };
    let child = endpoint(1, 20, HOST, "0.0.0.0");
    let mut table = table([parent]);
    assert_eq!(find(&table, &wanted("10.0.0.1")), Some((10, Some(1))));
    table.open(210_000_000, child);
    assert_eq!(find(&table, &wanted("10.0.0.1")), Some((20, Some(1))));
    table.open(220_000_000, endpoint(1, 30, HOST, "0.0.0.0"));
    assert_eq!(find(&table, &wanted("10.0.0.1")), Some((-1, None)), "two children used it");
}

#[test]
fn of_a_socket_that_several_use_in_turn_none_is_named() {
    let seen = Told { seen_addrs: vec![addr("10.0.0.1")], ..endpoint(1, 10, HOST, "0.0.0.0") };
    let mut table = table([seen]);
    let owner = Owner { netns_cookie: HOST, ..Owner::UNKNOWN };
    let holder = Holder { owner, process: None, origin: Origin::default(), is_seeded: false };
    table.open(150_000_000, Told { holder, is_shared: true, ..endpoint(1, 0, HOST, "0.0.0.0") });
    assert_eq!(find(&table, &wanted("10.0.0.1")), Some((-1, None)));
    let elsewhere = Wanted { netns_cookie: Some(CONTAINER), presence: Presence::No, ..wanted("10.0.0.1") };
    assert_eq!(find(&table, &elsewhere), Some((-1, None)), "its address stays known");
}

/// A process that goes on as another user has another row; one that only uses what it bound has not.
#[test]
fn a_user_is_told_apart_from_who_bound_it() {
    let bound = Told { is_used: false, ..endpoint(1, 10, HOST, "0.0.0.0") };
    let mut used = Told { is_used: true, ..bound.clone() };
    used.holder.owner.time_ns = 2;
    let mut table = table([bound]);
    table.open(210_000_000, used.clone());
    assert_eq!(table.uids().len(), 1);
    used.holder.owner.uid = 65_534;
    table.open(220_000_000, used);
    let uids = table.uids();
    assert_eq!((uids.len(), uids.contains(&65_534)), (2, true));
}

#[test]
fn an_address_that_came_about_then_is_of_the_socket_that_sent_from_it() {
    let about_then = Wanted { presence: Presence::Maybe, ..wanted("10.0.0.1") };
    let wildcard = endpoint(1, 10, HOST, "0.0.0.0");
    let seen = Told { seen_addrs: vec![addr("10.0.0.1")], ..wildcard.clone() };
    assert_eq!(find(&table([wildcard]), &about_then), Some((-1, None)));
    assert_eq!(find(&table([seen]), &about_then), Some((10, Some(1))));
    assert_eq!(find(&table([endpoint(1, 10, HOST, "10.0.0.1")]), &about_then), Some((10, Some(1))));
}

#[test]
fn a_port_that_is_used_again_is_told_apart_by_time() {
    let mut table = table([endpoint(1, 10, HOST, "0.0.0.0")]);
    table.close(1, 150_000_000);
    assert_eq!(find(&table, &wanted("10.0.0.1")), None);
    table.open(190_000_000, endpoint(2, 20, HOST, "0.0.0.0"));
    assert_eq!(find(&table, &wanted("10.0.0.1")), Some((20, Some(2))));
}

/// Two programs share a port; of one no more is known, since the tables were full.
#[test]
fn what_was_forgotten_early_may_have_been_it() {
    let local = Told { is_used: true, ..endpoint(1, 10, HOST, "0.0.0.0") };
    let mut other = endpoint(2, 20, HOST, "10.0.0.1");
    other.peer = Some(wanted("10.0.0.1").peer);
    let mut table = table([local, other]);
    table.close(2, 250_000_000);
    assert_eq!(find(&table, &wanted("10.0.0.1")), Some((20, Some(2))));
    let group = table.holders.group(table.endpoints.get(2).unwrap().holder);
    assert!(table.endpoints.evict(group, &mut table.holders));
    assert_eq!(find(&table, &wanted("10.0.0.1")), Some((-1, None)));
    let elsewhere = Wanted { peer: (addr("192.0.2.9"), 4000), ..wanted("10.0.0.1") };
    assert_eq!(find(&table, &elsewhere), Some((10, Some(1))), "it was connected to another peer");
    let later = Span { start: Some(Moment::exact(260_000_000)), ..wanted("10.0.0.1").span };
    assert_eq!(find(&table, &Wanted { span: later, ..wanted("10.0.0.1") }), Some((10, Some(1))));
    // A packet that had to wait leaves now.
    table.open(300_000_000, endpoint(2, 20, HOST, "10.0.0.1"));
    assert!(table.endpoints.get(2).is_none());
}
