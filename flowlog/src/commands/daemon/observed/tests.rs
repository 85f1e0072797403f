//! Messages and events in, records out: the receiving side without the kernel.

use std::net::IpAddr;

use flowlog_common::{EventHeader, Owner, TcpOpen};

use super::*;
use crate::attribution::addresses::Addresses;
use crate::attribution::clocks::Clocks;
use crate::attribution::cmdline::Mode;
use crate::attribution::ebpf::RingEvent;
use crate::attribution::processes::MEMORY_BYTES;
use crate::attribution::sockets::mapped;
use crate::connections::ctnetlink::sets::{CounterAttributes, Timestamps};
use crate::connections::ctnetlink::uapi::IPCTNL_MSG_CT_DELETE;
use crate::connections::ctnetlink::{Entry, encode};
use crate::connections::dumps::Follow;
use crate::connections::filter::Conditions;
use crate::connections::timeouts::Timeouts;
use crate::flow::{Counters, L4, Protocol};
use crate::record::{Direction, Method, Origin};
use crate::testing;

/// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`.
const OFFSET_NS: u64 = 1_795_000_000_000_000_000;

/// When messages are received, and the run subscribed, by `CLOCK_MONOTONIC`.
const NOW_NS: u64 = 100_000_000_000;
const SINCE_NS: u64 = 10_000_000_000;

const TGID: u32 = 7;
const NETNS: u64 = 4_026_531_840;
const NETNS_COOKIE: u64 = 9;

/// What a test sees of a record.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    flow: Flow,
    sighting: Sighting,
    counters_final: bool,
    direction: Option<Direction>,
    src: Option<(Method, String)>,
}

#[derive(Debug, Default)]
struct Rows {
    rows: Vec<Row>,
    gaps: Vec<Gap>,
}

impl Sink for Rows {
    fn record(&mut self, record: &FlowRecord<'_>) {
        assert_eq!((record.observer_netns, record.dst.is_some()), (NETNS, false));
        let program =
            |holder: &crate::record::Holder| holder.process.as_ref()?.exe.as_deref().map(str::to_owned);
        let src = record
            .src
            .map(|src| (src.method, src.end.and_then(|end| program(end.holder)).unwrap_or_default()));
        let FlowRecord { flow, sighting, counters_final, direction, .. } = *record;
        self.rows.push(Row { flow: flow.clone(), sighting, counters_final, direction, src });
    }

    fn lose(&mut self, gap: Gap) {
        self.gaps.push(gap);
    }
}

/// A namespace with a client at 10.0.0.1.
struct Bench {
    observed: Observed,
    tables: Tables,
    addresses: Addresses,
    clocks: Clocks,
    timeouts: Timeouts,
    rows: Rows,
    shedding: Option<Cause>,
}

impl Bench {
    fn new() -> Self {
        Self::with(FlowFilter::default())
    }

    fn with(filter: FlowFilter) -> Self {
        Self {
            observed: Observed::new(filter, Seen::new(0), Dumps::new(None)),
            tables: Tables::new(MEMORY_BYTES, Mode::Off),
            addresses: Addresses::always([client()]),
            clocks: Clocks::fixed(OFFSET_NS),
            timeouts: Timeouts::default(),
            rows: Rows::default(),
            shedding: None,
        }
    }

    /// Takes an event of the programs.
    fn event(&mut self, event: &RingEvent) {
        self.tables.apply(event, &self.clocks, |_| Origin::default());
    }

    /// The client's process begins, and connects from this port: its socket opens before the first packet.
    fn connect(&mut self, port: u16, socket_cookie: u64, at_ns: u64) {
        let owner = Owner { tgid: TGID, time_ns: at_ns, netns_cookie: NETNS_COOKIE, ..Owner::UNKNOWN };
        self.event(&testing::executes(TGID, "/bin/client", at_ns - 1000));
        self.event(&RingEvent::TcpOpen(TcpOpen {
            header: header(at_ns + 100_000),
            socket_cookie,
            owner,
            local_addr: mapped(client()),
            remote_addr: mapped("10.0.0.2".parse().unwrap()),
            local_port: port,
            remote_port: 80,
            passive: 0,
        }));
    }

    /// Takes datagrams as one read has them.
    fn take(&mut self, datagrams: &[Vec<u8>]) -> Tally {
        let known = Known {
            received_ns: OFFSET_NS + NOW_NS,
            since_ns: OFFSET_NS + SINCE_NS,
            observer: observer(&self.addresses, &self.timeouts, &self.clocks),
            seen_max: 64,
            shedding: self.shedding,
        };
        self.observed.take(datagrams.iter().map(Vec::as_slice), &known, &mut self.tables, &mut self.rows)
    }

    fn take_dumped(&mut self) -> bool {
        let observer = observer(&self.addresses, &self.timeouts, &self.clocks);
        self.observed.take_dumped(observer, &self.tables, &mut self.rows)
    }
}

fn observer<'a>(addresses: &'a Addresses, timeouts: &'a Timeouts, clocks: &'a Clocks) -> Observer<'a> {
    Observer { netns: NETNS, netns_cookie: Some(NETNS_COOKIE), is_only: true, addresses, timeouts, clocks }
}

fn client() -> IpAddr {
    "10.0.0.1".parse().unwrap()
}

fn header(time_ns: u64) -> EventHeader {
    EventHeader { kind: 0, pad: 0, time_ns }
}

/// A connection from this port of the client, for a second, which ended at this time of `CLOCK_MONOTONIC`.
fn flow(port: u16, end_ns: u64) -> Flow {
    let tuple = |src, dst, ports: (u16, u16)| {
        testing::tuple(src, dst, Protocol::TCP, L4::Ports { src: ports.0, dst: ports.1 })
    };
    let counters = Some(Counters { packets: 5, bytes: 500 });
    Flow {
        id: Some(port.into()),
        start_ns: Some(OFFSET_NS + end_ns - 1_000_000_000),
        stop_ns: Some(OFFSET_NS + end_ns),
        event_ns: Some(OFFSET_NS + end_ns),
        orig_counters: counters,
        reply_counters: counters,
        ..Flow::new(tuple("10.0.0.1", "10.0.0.2", (port, 80)), tuple("10.0.0.2", "10.0.0.1", (80, port)))
    }
}

/// The kernel's message of its end.
fn destroyed(flow: &Flow) -> Vec<u8> {
    let counters = |counters: Option<Counters>| {
        counters.map(|Counters { packets, bytes }| CounterAttributes {
            packets: Some(packets),
            bytes: Some(bytes),
            ..CounterAttributes::default()
        })
    };
    let (start_ns, stop_ns) = (flow.start_ns, flow.stop_ns);
    let entry = Entry {
        id: flow.id,
        orig_counters: counters(flow.orig_counters),
        reply_counters: counters(flow.reply_counters),
        timestamps: Some(Timestamps { start_ns, stop_ns, ..Timestamps::default() }),
        event_ns: flow.event_ns,
        ..Entry::from(flow)
    };
    let mut message = Vec::new();
    encode::entry(&mut message, IPCTNL_MSG_CT_DELETE, 0, 0, &entry);
    message
}

#[test]
fn an_ended_connection_is_a_record_with_its_process() {
    let mut bench = Bench::new();
    let flow = flow(2000, 50_000_000_000);
    bench.connect(2000, 1, 48_999_800_000);
    let tally = bench.take(&[destroyed(&flow)]);
    assert_eq!(tally, Tally { flows: 1, ..Tally::default() });
    let src = Some((Method::Socket, "/bin/client".to_owned()));
    let direction = Some(Direction::Outbound);
    let row = Row { flow, sighting: Sighting::Destroyed, counters_final: true, direction, src };
    assert_eq!((bench.rows.rows, bench.rows.gaps), (vec![row], vec![]));
}

#[test]
fn each_connection_is_one_record_however_often_it_is_told() {
    let mut bench = Bench::new();
    let (one, other) = (destroyed(&flow(2000, 50_000_000_000)), destroyed(&flow(2001, 50_000_000_000)));
    let tally = bench.take(&[one.clone(), other.clone(), one.clone()]);
    assert_eq!(tally, Tally { flows: 3, duplicates: 1, ..Tally::default() });
    assert_eq!(bench.take(&[[one, other].concat()]), Tally { flows: 2, duplicates: 2, ..Tally::default() });
    assert_eq!(bench.rows.rows.len(), 2);
}

#[test]
fn what_ended_before_the_run_is_of_another_one() {
    let mut bench = Bench::new();
    bench.take(&[destroyed(&flow(2000, SINCE_NS - 1)), destroyed(&flow(2001, SINCE_NS))]);
    let ports: Vec<u16> =
        bench.rows.rows.iter().map(|row| u16::try_from(row.flow.id.unwrap()).unwrap()).collect();
    assert_eq!(ports, [2001]);
}

#[test]
fn a_filter_leaves_out_what_it_names() {
    let except = Conditions { protocol: vec![Protocol::TCP], ..Conditions::default() };
    let mut bench = Bench::with(FlowFilter { except, ..FlowFilter::default() });
    assert_eq!(bench.take(&[destroyed(&flow(2000, 50_000_000_000))]), Tally::default());
    assert_eq!(bench.rows.rows, []);
}

#[test]
fn what_cannot_be_taken_is_declared() {
    let mut bench = Bench::new();
    let flow = flow(2000, 50_000_000_000);
    bench.shedding = Some(Cause::DiskFull);
    assert_eq!(bench.take(&[destroyed(&flow)]), Tally { flows: 1, lost: 1, ..Tally::default() });
    let end_us = to_us(OFFSET_NS + 50_000_000_000);
    let lost = Gap {
        lost_flows: Some(1),
        lost_orig_bytes: Some(500),
        lost_reply_bytes: Some(500),
        ..Gap::new(Cause::DiskFull, Stage::Write, end_us, end_us)
    };
    assert_eq!((bench.rows.rows, bench.rows.gaps), (vec![], vec![lost]));
}

#[test]
fn a_message_that_cannot_be_decoded_is_a_loss_and_no_end() {
    let mut bench = Bench::new();
    let mut cut = destroyed(&flow(2000, 50_000_000_000));
    let half = cut.len() / 2;
    cut.truncate(half);
    let tally = bench.take(&[cut, destroyed(&flow(2001, 50_000_000_000))]);
    assert_eq!(tally, Tally { flows: 1, undecodable: 1, lost: 1, ..Tally::default() });
    assert_eq!(bench.rows.rows.len(), 1);
    assert_eq!(bench.rows.gaps.len(), 1);
    assert_eq!((bench.rows.gaps[0].cause, bench.rows.gaps[0].lost_flows), (Cause::DecodeError, Some(1)));
}

#[test]
fn a_connection_that_is_gone_without_a_message_is_recorded_once() {
    let mut bench = Bench::new();
    let entry = Flow { stop_ns: None, ..flow(2000, 50_000_000_000) };
    bench.connect(2000, 1, 48_999_800_000);
    let dump = |bench: &mut Bench, at_ns: u64, has_it: bool| {
        let at_ns = OFFSET_NS + at_ns;
        bench.observed.dumps.begin(at_ns, Follow::All);
        if has_it {
            bench.observed.dumps.saw(entry.clone(), true, at_ns);
        }
        bench.observed.dumps.end(at_ns + 1);
    };
    dump(&mut bench, 51_000_000_000, true);
    assert!(!bench.take_dumped(), "it goes on");
    for at_ns in [52_000_000_000, 53_000_000_000, 54_000_000_000] {
        dump(&mut bench, at_ns, false);
    }
    assert!(bench.take_dumped());
    assert!(!bench.take_dumped());
    let row = &bench.rows.rows[0];
    assert_eq!((row.sighting, row.src.as_ref().map(|src| src.0)), (Sighting::Vanished, Some(Method::Socket)));
    // Its message comes very late.
    let late = Flow { stop_ns: Some(OFFSET_NS + 51_500_000_000), ..entry.clone() };
    let tally = bench.take(&[destroyed(&late)]);
    assert_eq!((tally.duplicates, bench.rows.rows.len()), (1, 1));
}
