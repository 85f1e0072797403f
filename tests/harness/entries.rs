//! Entries of the connection tracking table that no packet made: many, fast, and known in advance.

use std::net::{IpAddr, Ipv4Addr};

use flowlog::connections::ctnetlink::Requests;
use flowlog::flow::{Flow, L4, ProtoState, Protocol, Status, TcpState, Tuple};

use super::namespace::Namespace;
use super::wait::wait_for;

/// Source address of the entry with the number 0.
const FIRST_SRC: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);

/// Many at once: what the table has room for on hosts with little memory, where it has 65 536.
pub(crate) const AT_ONCE: u32 = 60_000;

/// Longer than any test, so that the entries do not expire by themselves.
const TIMEOUT_S: u32 = 3600;

/// Makes one entry for each of `numbers`, all different, and removes them; gives their original
/// tuples.
#[track_caller]
pub(crate) fn make_and_flush(namespace: &Namespace, numbers: std::ops::Range<u32>) -> Vec<Tuple> {
    let tuples = make(namespace, numbers);
    namespace.inside(Requests::open).unwrap().flush().unwrap();
    tuples
}

/// Makes one entry for each of `numbers`, all different; gives their original tuples.
#[track_caller]
pub(crate) fn make(namespace: &Namespace, numbers: std::ops::Range<u32>) -> Vec<Tuple> {
    make_for(namespace, numbers, TIMEOUT_S)
}

/// Makes one entry for each of `numbers`, which expire after so many seconds; gives their original tuples.
#[track_caller]
pub(crate) fn make_for(namespace: &Namespace, numbers: std::ops::Range<u32>, timeout_s: u32) -> Vec<Tuple> {
    let (count, max) = (numbers.end - numbers.start, table_max(namespace));
    assert!(count < max, "{count} entries are too many: raise nf_conntrack_max, which is {max}");
    // What the kernel holds for a listener takes room, too, until that has read it.
    wait_for("room in the table", || (self::count(namespace) + count < max).then_some(()));
    let flows: Vec<Flow> =
        numbers.map(|number| Flow { timeout_s: Some(timeout_s), ..established(number) }).collect();
    namespace.inside(Requests::open).unwrap().create(&flows).unwrap();
    flows.into_iter().map(|flow| flow.orig).collect()
}

/// How many entries the kernel has, those that it holds for a listener included.
#[track_caller]
pub(crate) fn count(namespace: &Namespace) -> u32 {
    namespace.inside(Requests::open).unwrap().count().unwrap()
}

/// How many entries the kernel allows each namespace.
#[track_caller]
pub(crate) fn table_max(namespace: &Namespace) -> u32 {
    namespace.read_sysctl("net/netfilter/nf_conntrack_max").parse().unwrap()
}

/// The number of the entry with this source address; `None` where it is of no such entry.
pub(crate) fn number_of(src: Ipv4Addr) -> Option<u32> {
    src.to_bits().checked_sub(FIRST_SRC.to_bits()).filter(|number| *number < 1 << 23)
}

/// An established TCP connection between addresses that exist nowhere.
fn established(number: u32) -> Flow {
    let src = IpAddr::V4(Ipv4Addr::from_bits(FIRST_SRC.to_bits() + number));
    let dst = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let port = u16::try_from(1024 + number % 60_000).unwrap();
    let tuple = |src, dst, l4| Tuple { src, dst, proto: Protocol::TCP, l4, zone: None };
    Flow {
        orig: tuple(src, dst, L4::Ports { src: port, dst: 443 }),
        reply: tuple(dst, src, L4::Ports { src: 443, dst: port }),
        id: None,
        status: Some(Status(Status::CONFIRMED.0 | Status::SEEN_REPLY.0 | Status::ASSURED.0)),
        timeout_s: Some(TIMEOUT_S),
        mark: None,
        zone: None,
        orig_counters: None,
        reply_counters: None,
        start_ns: None,
        stop_ns: None,
        event_ns: None,
        state: Some(ProtoState::Tcp(TcpState::ESTABLISHED)),
        labels: None,
    }
}
