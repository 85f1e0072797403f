//! Batches that use every column.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arrow_array::RecordBatch;
use flowlog_common::Owner;

use super::header;
use crate::flow::{Counters, Flow, L4, ProtoState, Protocol, Status, TcpState, Tuple};
use crate::log::schema::FlowBatch;
use crate::record::{
    Attribution, Cgroup, Direction, End, FlowRecord, Holder, Method, Origin, Process, Sighting, TcpStats,
};

/// Makes rows of one run: each unlike the others, with NULLs here and there.
pub(super) struct Rows {
    batch: FlowBatch,
    holders: Vec<Holder>,
    made: u32,
    seed: u64,
}

impl Rows {
    /// Rows that are the same in each run of the test.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            batch: FlowBatch::new(&header().facts().run),
            holders: (0..7).map(holder).collect(),
            made: 0,
            seed,
        }
    }

    pub(super) fn batch(&mut self, rows: usize) -> RecordBatch {
        for _ in 0..rows {
            self.append();
        }
        self.batch.finish()
    }

    fn append(&mut self) {
        self.made += 1;
        let Self { batch, holders, made, seed } = self;
        let noise = (u64::from(*made) ^ *seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let every = |n: u64| noise.is_multiple_of(n);
        let flow = flow(*made, noise);
        let holder = &holders[usize::try_from(noise % 7).unwrap()];
        let stats = TcpStats {
            srtt_us: (!every(3)).then_some(1500),
            min_rtt_us: Some(900),
            retrans: u32::from(every(4)),
            bytes_sent: noise % 70_000,
            bytes_received: noise,
        };
        let end =
            End { holder, cookie: Some(u64::from(*made)), stats: every(2).then_some(stats), closed_ns: None };
        let known = Attribution { method: Method::Socket, end: Some(end) };
        batch.append(&FlowRecord {
            flow: &flow,
            sighting: if every(6) { Sighting::Vanished } else { Sighting::Destroyed },
            received_ns: 1_795_248_000_000_000_000,
            counters_final: !every(6),
            observer_netns: 4_026_531_840,
            observer_netns_name: None,
            last_seen_ns: flow.stop_ns.map(|stop_ns| stop_ns - noise % 120_000_000_000),
            direction: every(2).then_some(Direction::Outbound),
            src: (!every(5)).then_some(known),
            dst: every(11).then_some(Attribution::AMBIGUOUS),
        });
    }
}

fn flow(n: u32, noise: u64) -> Flow {
    let every = |divisor: u64| noise.is_multiple_of(divisor);
    let client = if every(9) {
        IpAddr::V6(Ipv6Addr::from(u128::from(noise) << 64 | u128::from(n)))
    } else {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n % 300))
    };
    let server = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let port = u16::try_from(noise % 28_000 + 32_768).unwrap();
    let (proto, l4) = if every(8) {
        (Protocol::ICMP, L4::Icmp { icmp_type: 8, code: 0, id: port })
    } else {
        (Protocol::TCP, L4::Ports { src: port, dst: 443 })
    };
    let stop_ns = 1_795_248_000_000_000_000 + u64::from(n) * 1_234_567;
    let bytes = noise >> (noise % 64);
    Flow {
        orig: Tuple { src: client, dst: server, proto, l4, zone: None },
        reply: Tuple { src: server, dst: client, proto, l4, zone: None },
        id: Some(n.wrapping_mul(2_654_435_761)),
        status: (!every(10)).then_some(Status(0x18e)),
        timeout_s: None,
        mark: every(12).then_some(u32::MAX),
        zone: None,
        orig_counters: (!every(13)).then_some(Counters { packets: bytes % 1000, bytes }),
        reply_counters: None,
        start_ns: Some(stop_ns - noise % 400_000_000_000),
        stop_ns: (!every(14)).then_some(stop_ns),
        event_ns: None,
        state: (proto == Protocol::TCP).then_some(ProtoState::Tcp(TcpState::TIME_WAIT)),
        labels: every(15).then(|| u128::from(noise).to_be_bytes()),
    }
}

fn holder(n: u32) -> Holder {
    let mut owner = Owner { time_ns: 1, tgid: 1000 + n * 1000, uid: n, netns_cookie: 1, ..Owner::UNKNOWN };
    owner.comm[0] = b'a' + u8::try_from(n).unwrap();
    let process = Process {
        tgid: owner.tgid,
        exe: (n != 3).then(|| format!("/usr/bin/tool-{n}").into()),
        cmdline: Some(format!("tool-{n} --größe {}", "x".repeat(usize::try_from(n * 50).unwrap())).into()),
        ..Process::default()
    };
    let cgroup = Cgroup { path: Some(format!("/system.slice/{n}.service").into()), ..Cgroup::default() };
    Holder {
        owner,
        process: Some(Arc::new(process)),
        origin: Origin { user: Some("nobody".into()), cgroup: Some(Arc::new(cgroup)) },
        is_seeded: false,
    }
}
