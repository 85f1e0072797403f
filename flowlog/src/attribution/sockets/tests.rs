//! Single lives and flows.

use std::sync::Arc;

use flowlog_common::Owner;

use super::*;
use crate::record::{Origin, Process};

const MS: u64 = 1_000_000;
const HOST: u64 = 1;
const CONTAINER: u64 = 2;

fn ends() -> Ends {
    Ends::new("10.0.0.1".parse().unwrap(), 40_000, "10.0.0.2".parse().unwrap(), 80)
}

/// A socket that is told of.
struct Told {
    cookie: u64,
    holder: Holder,
    passive: bool,
}

fn socket(cookie: u64, netns_cookie: u64, passive: bool) -> Told {
    let tgid = u32::try_from(cookie).unwrap();
    let owner = Owner { netns_cookie, tgid, time_ns: 1, ..Owner::UNKNOWN };
    let holder = Holder { owner, process: None, origin: Origin::default(), is_seeded: false };
    Told { cookie, holder, passive }
}

/// A table with the holders of its sockets.
#[derive(Default)]
struct Table {
    sockets: SocketTable,
    holders: Holders,
}

impl Table {
    fn open(&mut self, ends: Ends, opened_ns: u64, told: Told) {
        let Told { cookie, holder, passive } = told;
        let owned_ns = holder.owner.time_ns;
        let holder = self.holders.intern(holder, opened_ns);
        let life = Life { opened_ns, closed_ns: None, cookie, holder, value: Socket::new(passive) };
        self.sockets.open(ends, owned_ns, life, &mut self.holders);
    }

    fn close(&mut self, cookie: u64, at_ns: u64) {
        self.sockets.close(cookie, at_ns, &self.holders);
    }

    fn find(&self, ends: &Ends, netns_cookie: Option<u64>, span: Span) -> Found {
        self.sockets.find(ends, netns_cookie, span, &self.holders)
    }
}

fn open(table: &mut Table, socket: Told, opened_ms: u64) {
    table.open(ends(), opened_ms * MS, socket);
}

/// The cookie that is found, 0 where it is ambiguous.
fn find(table: &Table, start_ms: Option<u64>, end_ms: u64) -> Option<u64> {
    let span = Span {
        start: start_ms.map(|ms| Moment::exact(ms * MS)),
        end_ns: end_ms * MS,
        destroyed_ns: end_ms * MS,
        is_answered: true,
        is_initiator: false,
    };
    match table.find(&ends(), Some(HOST), span) {
        Found::None => None,
        Found::One(life, _) => Some(life.cookie),
        Found::Process(_) | Found::Program(_) | Found::Ambiguous => Some(0),
    }
}

/// The new socket opens before the DESTROY of the old flow is read: each keeps its own.
#[test]
fn a_port_that_is_used_again_is_told_apart_by_time() {
    let mut table = Table::default();
    open(&mut table, socket(1, HOST, false), 100);
    table.close(1, 150 * MS);
    open(&mut table, socket(2, HOST, false), 200);
    assert_eq!(find(&table, Some(100), 200), Some(1));
    assert_eq!(find(&table, Some(200), 300), Some(2));
    assert_eq!(find(&table, Some(50), 90), None, "before either");
    assert_eq!(find(&table, Some(170), 190), None, "between both");
}

#[test]
fn a_server_finishes_the_handshake_after_the_flow_started() {
    let mut table = Table::default();
    open(&mut table, socket(1, HOST, true), 101);
    table.close(1, 150 * MS);
    open(&mut table, socket(2, HOST, true), 201);
    assert_eq!(find(&table, Some(100), 200), Some(1));
    assert_eq!(find(&table, Some(200), 300), Some(2));
    assert_eq!(find(&table, Some(100), 300), Some(0), "one flow over two connections");
}

/// The reset of the connection before waits to be processed while the next one is refused.
#[test]
fn who_accepted_before_a_flow_began_is_only_named_where_it_was_answered() {
    let mut table = Table::default();
    open(&mut table, socket(1, HOST, true), 100);
    table.close(1, 102 * MS);
    for (is_answered, cookie) in [(false, None), (true, Some(1))] {
        let span = Span {
            start: Some(Moment::exact(101 * MS)),
            end_ns: 101 * MS,
            destroyed_ns: 101 * MS,
            is_answered,
            is_initiator: false,
        };
        let found = match table.find(&ends(), Some(HOST), span) {
            Found::One(life, _) => Some(life.cookie),
            _ => None,
        };
        assert_eq!(found, cookie);
    }
}

/// A refused connection has no socket at its far end, and the one before it has just closed.
#[test]
fn what_fits_only_within_the_slack_of_the_clocks_is_ambiguous() {
    let find = |table: &Table, start_us: u64| find_us(table, start_us, 0, false).0;
    let mut table = Table::default();
    table.open(ends(), us(100), socket(1, HOST, true));
    table.close(1, us(500));
    assert_eq!(find(&table, 499), "one");
    assert_eq!(find(&table, 501), "ambiguous");
    assert_eq!(find(&table, 502), "ambiguous");
    assert_eq!(find(&table, 503), "none");
    table.open(ends(), us(530), socket(2, HOST, false));
    assert_eq!(find(&table, 528), "ambiguous", "the socket that opens now may have sent it");
    assert_eq!(find(&table, 531), "one");
}

fn us(us: u64) -> u64 {
    us * 1000
}

/// What is found for a flow of 5 us, and the cookie of the socket.
fn find_us(table: &Table, start_us: u64, error_us: u64, is_initiator: bool) -> (&'static str, u64) {
    let span = Span {
        start: Some(Moment::about(us(start_us), us(error_us))),
        end_ns: us(start_us + 5),
        destroyed_ns: us(start_us + 5),
        is_answered: true,
        is_initiator,
    };
    match table.find(&ends(), Some(HOST), span) {
        Found::None => ("none", 0),
        Found::One(life, _) => ("one", life.cookie),
        Found::Process(life) => ("process", life.cookie),
        Found::Program(_) => ("program", 0),
        Found::Ambiguous => ("ambiguous", 0),
    }
}

/// Clocks that are slow to read cannot be compared better than this: the start of a flow may seem to be before its
/// socket opened, or after it closed.
#[test]
fn slow_clocks_name_the_only_socket_that_can_have_sent_the_first_packet() {
    let mut table = Table::default();
    table.open(ends(), us(1000), socket(1, HOST, false));
    assert_eq!(find_us(&table, 960, 50, true), ("one", 1));
    assert_eq!(find_us(&table, 960, 50, false).0, "ambiguous", "the end that was asked may have no socket");
    assert_eq!(find_us(&table, 949, 50, true).0, "ambiguous", "not within the error of the clocks alone");
    assert_eq!(find_us(&table, 900, 50, true).0, "none");
    table.close(1, us(1100));
    assert_eq!(find_us(&table, 1140, 50, true), ("one", 1));
    assert_eq!(find_us(&table, 1140, 50, false).0, "ambiguous");
    assert_eq!(find_us(&table, 1300, 50, true).0, "none");
    // Another process uses the port again at once.
    table.open(ends(), us(1120), socket(2, HOST, false));
    assert_eq!(find_us(&table, 1090, 50, true).0, "ambiguous");
    assert_eq!(
        find_us(&table, 1130, 50, true).0,
        "ambiguous",
        "the flow may have started when 1 had the port"
    );
    assert_eq!(find_us(&table, 1130, 5, true), ("one", 2));
    assert_eq!(find_us(&table, 1160, 50, true), ("one", 2));
}

#[test]
fn without_a_start_nothing_is_proof() {
    let mut table = Table::default();
    assert_eq!(find(&table, None, 200), None);
    open(&mut table, socket(1, HOST, false), 100);
    assert_eq!(find(&table, None, 200), Some(0));
    table.close(1, 150 * MS);
    assert_eq!(find(&table, None, 200), Some(0), "the flow may be a later one without a socket");
}

#[test]
fn the_end_of_a_life_that_was_not_seen_is_the_begin_of_the_next() {
    let mut table = Table::default();
    open(&mut table, socket(1, HOST, false), 100);
    open(&mut table, socket(2, HOST, false), 200);
    assert_eq!(find(&table, Some(150), 200), Some(1));
    assert_eq!(find(&table, Some(201), 300), Some(2));
}

#[test]
fn a_socket_that_connects_to_itself_is_one() {
    let mut table = Table::default();
    open(&mut table, socket(1, HOST, false), 100);
    open(&mut table, socket(1, HOST, true), 100);
    assert_eq!(find(&table, Some(101), 300), Some(1));
}

/// Its event was still to be read when it was found.
#[test]
fn a_socket_that_is_found_before_its_event_is_read_is_of_who_opened_it() {
    let by = |time_ns: u64, is_seeded: bool| {
        let mut socket = socket(1, HOST, false);
        socket.holder.owner.time_ns = time_ns;
        socket.holder.is_seeded = is_seeded;
        socket
    };
    let known_after = |event_of_ns: u64| {
        let mut table = Table::default();
        open(&mut table, by(200, true), 200);
        open(&mut table, by(event_of_ns, false), 100);
        let life = table.sockets.get(1).unwrap();
        let holder = table.holders.get(life.holder);
        (holder.is_seeded, holder.owner.time_ns, life.opened_ns / MS)
    };
    assert_eq!(known_after(100), (false, 100, 100));
    assert_eq!(known_after(0), (true, 200, 200), "its listener is older, too");
}

/// A flow of the watched namespace has the tuple of a connection inside of another.
#[test]
fn a_connection_within_another_namespace_is_no_end_of_a_flow_here() {
    let mut table = Table::default();
    open(&mut table, socket(1, CONTAINER, false), 100);
    table.open(ends().mirrored(), 101 * MS, socket(2, CONTAINER, true));
    assert_eq!(find(&table, Some(101), 200), None);
}

#[test]
fn the_own_namespace_comes_first_and_another_must_be_alone() {
    let mut table = Table::default();
    open(&mut table, socket(1, CONTAINER, false), 100);
    assert_eq!(find(&table, Some(101), 200), Some(1), "behind the host's NAT");
    open(&mut table, socket(2, 3, false), 100);
    assert_eq!(find(&table, Some(101), 200), Some(0), "two containers");
    open(&mut table, socket(3, HOST, false), 100);
    assert_eq!(find(&table, Some(101), 200), Some(3));
}

#[test]
fn loopback_does_not_cross_namespaces() {
    let ends = Ends::new("::1".parse().unwrap(), 1, "::1".parse().unwrap(), 2);
    let mut table = Table::default();
    table.open(ends, 100 * MS, socket(1, CONTAINER, false));
    let span = Span {
        start: Some(Moment::exact(101 * MS)),
        end_ns: 200 * MS,
        destroyed_ns: 200 * MS,
        is_answered: true,
        is_initiator: false,
    };
    assert!(matches!(table.find(&ends, Some(HOST), span), Found::None));
    assert!(matches!(table.find(&ends, Some(CONTAINER), span), Found::One(..)));
}

#[test]
fn after_a_loss_an_open_socket_counts_for_older_flows_only() {
    let mut table = Table::default();
    open(&mut table, socket(1, HOST, false), 100);
    table.sockets.lost_events(200 * MS, &table.holders);
    assert_eq!(find(&table, Some(101), 300), Some(1));
    assert_eq!(find(&table, Some(250), 300), None);
}

/// A program that was started as often as there are numbers here.
fn by(cookie: u64, tgid: u32, exe: &str, passive: bool) -> Told {
    let mut told = socket(cookie, HOST, passive);
    told.holder.owner.tgid = tgid;
    let exe = Some(exe.into());
    told.holder.process = Some(Arc::new(Process { tgid, start_ns: Some(1), exe, ..Process::default() }));
    told
}

/// A flow that two connections with the same tuple may have been, one of them for sure.
#[test]
fn what_may_be_several_sockets_is_of_their_process_or_program_if_they_have_one() {
    let found = |first: Told, second: Told, is_initiator: bool| {
        let mut table = Table::default();
        table.open(ends(), us(1000), first);
        table.close(1, us(1100));
        table.open(ends(), us(1120), second);
        [find_us(&table, 1090, 50, is_initiator).0, find_us(&table, 1130, 50, is_initiator).0]
    };
    let client = |cookie, tgid, exe| by(cookie, tgid, exe, false);
    assert_eq!(found(client(1, 7, "/bin/a"), client(2, 7, "/bin/a"), true), ["process"; 2]);
    assert_eq!(found(client(1, 7, "/bin/a"), client(2, 8, "/bin/a"), true), ["program"; 2]);
    assert_eq!(found(client(1, 7, "/bin/a"), client(2, 7, "/bin/b"), true), ["ambiguous"; 2]);
    assert_eq!(
        found(client(1, 7, "/bin/a (as given)"), client(2, 8, "/bin/a (as given)"), true),
        ["ambiguous"; 2]
    );
    let mut other = client(2, 8, "/bin/a");
    other.holder.owner.cgroup_id = 5;
    assert_eq!(found(client(1, 7, "/bin/a"), other, true), ["ambiguous"; 2], "in another cgroup");
    let mut renamed = client(2, 7, "/bin/a");
    renamed.holder.owner.uid = 5;
    assert_eq!(found(client(1, 7, "/bin/a"), renamed, true), ["ambiguous"; 2], "as another user");
}

#[test]
fn a_flow_over_two_connections_is_of_the_process_that_accepted_both() {
    let found = |second: Told| {
        let mut table = Table::default();
        table.open(ends(), us(1000), by(1, 7, "/bin/a", true));
        table.close(1, us(1001));
        table.open(ends(), us(1003), second);
        find_us(&table, 999, 0, false).0
    };
    assert_eq!(found(by(2, 7, "/bin/a", true)), "process");
    assert_eq!(found(by(2, 8, "/bin/a", true)), "ambiguous", "others may have accepted from a listener");
}

/// Only what one flow asks for is forgotten with it.
#[test]
fn a_socket_is_spent_when_it_had_closed_and_began_with_the_flow() {
    let mut table = Table::default();
    open(&mut table, socket(1, HOST, false), 100);
    let spends = |table: &Table, start_ms: u64, destroyed_ms: u64, error_ms: u64| {
        let span = Span {
            start: Some(Moment::about(start_ms * MS, error_ms * MS)),
            end_ns: destroyed_ms * MS,
            destroyed_ns: destroyed_ms * MS,
            is_answered: true,
            is_initiator: true,
        };
        span.spends(&table.sockets.get(1).unwrap())
    };
    assert!(!spends(&table, 101, 900, 0), "it is open");
    table.close(1, 200 * MS);
    assert!(spends(&table, 101, 300, 0));
    assert!(!spends(&table, 101, 200, 0), "its packets may begin another entry");
    assert!(!spends(&table, 101, 201, 1), "by clocks that are slow to read");
    assert!(!spends(&table, 150, 300, 0), "an earlier entry may still be told of");
}

/// A socket of IPv6 is refused over IPv4, and handed on.
#[test]
fn a_socket_that_connects_over_the_other_family_begins_another_life() {
    let mut table = Table::default();
    open(&mut table, socket(1, HOST, false), 100);
    let v6 = Ends::new("2001:db8::1".parse().unwrap(), 1, "2001:db8::2".parse().unwrap(), 2);
    let mut other = socket(1, HOST, false);
    other.holder.owner.tgid = 77;
    table.open(v6, 200 * MS, other);
    table.close(1, 300 * MS);
    let life = table.sockets.get(1).unwrap();
    assert_eq!((life.opened_ns, life.closed_ns), (200 * MS, Some(300 * MS)));
    assert_eq!(table.holders.get(life.holder).owner.tgid, 77);
    assert_eq!(find(&table, Some(150), 400), Some(1), "the former life has ended");
    assert_eq!(find(&table, Some(250), 400), None);
}
