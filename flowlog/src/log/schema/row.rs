//! What the columns of one flow hold: pure functions from the flow to plain values.

use std::net::IpAddr;
use std::sync::Arc;

use flowlog_common::Owner;
use flowlog_reader::run::RunContext;

use crate::flow::{EndReason, Flow, L4, Protocol, Status, Tuple};
use crate::record::{
    Attribution, Cgroup, End, FlowRecord, Holder, Method, Origin, Process, Sighting, TcpStats,
};
use crate::time::to_us;

/// What is the same in all rows of a run, as text.
#[derive(Debug)]
pub(super) struct RunTexts {
    pub(super) run_id: String,
    pub(super) host_id: String,
    pub(super) host_name: String,
    pub(super) boot_id: Option<String>,
}

impl RunTexts {
    pub(super) fn new(run: &RunContext) -> Self {
        let RunContext { run_id, host_id, host_name, boot_id } = run.clone();
        Self { run_id: run_id.to_string(), host_id, host_name, boot_id }
    }
}

/// What the columns of the flow itself are taken from.
pub(super) struct FlowRow<'a> {
    pub(super) run: &'a RunTexts,
    pub(super) record: &'a FlowRecord<'a>,
    pub(super) flow: &'a Flow,
    pub(super) times: Times,
    pub(super) end_reason: Option<EndReason>,
    pub(super) status: StatusBits,
    /// Source and destination.
    pub(super) ports: Option<(u16, u16)>,
    pub(super) icmp: Option<Icmp>,
    pub(super) nat: Nat,
}

/// What ICMP has in the place of ports.
#[derive(Clone, Copy)]
pub(super) struct Icmp {
    pub(super) icmp_type: u8,
    pub(super) code: u8,
    pub(super) id: u16,
}

impl<'a> FlowRow<'a> {
    pub(super) fn new(record: &'a FlowRecord<'a>, run: &'a RunTexts) -> Self {
        let flow = record.flow;
        let icmp = match flow.orig.l4 {
            L4::Icmp { icmp_type, code, id } => Some(Icmp { icmp_type, code, id }),
            L4::Ports { .. } | L4::None => None,
        };
        Self {
            run,
            record,
            flow,
            times: Times::of(record),
            end_reason: end_reason(record),
            status: StatusBits::of(record),
            ports: ports(&flow.orig),
            icmp,
            nat: Nat::of(flow),
        }
    }
}

/// What the columns of one end are taken from.
#[derive(Default)]
pub(super) struct EndRow<'a> {
    pub(super) method: Option<Method>,
    /// The process and its owner, if it is one process.
    pub(super) owner: Option<&'a Owner>,
    pub(super) process: Option<&'a Process>,
    /// What several processes have in common.
    pub(super) uid: Option<i64>,
    pub(super) netns_cookie: Option<i64>,
    pub(super) exe: Option<&'a Arc<str>>,
    pub(super) origin: Option<&'a Origin>,
    pub(super) cgroup: Option<&'a Cgroup>,
    pub(super) socket_cookie: Option<u64>,
    pub(super) stats: Option<TcpStats>,
}

impl<'a> EndRow<'a> {
    pub(super) fn new(attribution: Option<Attribution<'a>>) -> Self {
        let Some(Attribution { method, end }) = attribution else { return Self::default() };
        let Some(End { holder, cookie, stats, closed_ns: _ }) = end else {
            return Self { method: Some(method), ..Self::default() };
        };
        let Holder { owner, process, origin, is_seeded: _ } = holder;
        let is_one = method != Method::Program;
        Self {
            method: Some(method),
            owner: Some(owner).filter(|_| is_one),
            process: process.as_deref().filter(|_| is_one),
            uid: known_uid(owner),
            netns_cookie: known_cookie(owner.netns_cookie),
            exe: process.as_ref().and_then(|process| process.exe.as_ref()),
            origin: Some(origin),
            cgroup: origin.cgroup.as_deref(),
            socket_cookie: cookie,
            stats,
        }
    }
}

/// Times of a flow in microseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) start_us: Option<i64>,
    pub(super) end_us: i64,
    /// Where `end_us` comes from.
    pub(super) source: &'static str,
}

impl Times {
    pub(super) fn of(record: &FlowRecord<'_>) -> Self {
        let Flow { start_ns, stop_ns, event_ns, .. } = *record.flow;
        let (end_ns, source) = match (record.sighting, stop_ns, event_ns) {
            (Sighting::Vanished | Sighting::Alive, _, _) => (record.received_ns, "dump"),
            (Sighting::ImportedEntry { listed_ns: Some(listed_ns) }, _, _) => (listed_ns, "dump"),
            (Sighting::ImportedEntry { listed_ns: None }, _, _) => (record.received_ns, "receive"),
            (Sighting::Destroyed | Sighting::ImportedEnd { .. }, Some(stop_ns), _) => (stop_ns, "kernel"),
            (Sighting::Destroyed | Sighting::ImportedEnd { .. }, None, Some(event_ns)) => (event_ns, "event"),
            (Sighting::Destroyed | Sighting::ImportedEnd { .. }, None, None) => {
                (record.received_ns, "receive")
            }
        };
        Self { start_us: start_ns.map(to_us), end_us: to_us(end_ns), source }
    }
}

/// A number of the kernel as the signed integer that all engines can read. Counters and cookies do
/// not get there: 2^63 bytes are 23 years at 100 Gbit/s. Corrupt ones stop at the maximum, where
/// they are visible, rather than become negative.
pub(super) fn saturate(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Why the flow ended; `None` where it has not.
fn end_reason(record: &FlowRecord<'_>) -> Option<EndReason> {
    match record.sighting {
        Sighting::ImportedEnd { by_program: true } => Some(match record.flow.end_of_protocol() {
            EndReason::Unknown => EndReason::Deleted,
            reason => reason,
        }),
        Sighting::Destroyed | Sighting::ImportedEnd { by_program: false } => Some(record.flow.end_reason()),
        Sighting::Vanished | Sighting::ImportedEntry { .. } => Some(record.flow.end_of_protocol()),
        Sighting::Alive => None,
    }
}

/// What is known of the status of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StatusBits {
    /// All bits.
    pub(super) all: Option<u32>,
    pub(super) seen_reply: Option<bool>,
    pub(super) assured: Option<bool>,
    pub(super) offloaded: Option<bool>,
}

impl StatusBits {
    /// Text has no other bits than these three, and not the second beside the third.
    pub(super) fn of(record: &FlowRecord<'_>) -> Self {
        let Some(status) = record.flow.status else { return Self::default() };
        let is_imported = record.sighting.is_imported();
        let offloaded = status.contains(Status::OFFLOAD) || status.contains(Status::HW_OFFLOAD);
        Self {
            all: (!is_imported).then_some(status.0),
            seen_reply: Some(status.contains(Status::SEEN_REPLY)),
            assured: (!is_imported || !offloaded).then_some(status.contains(Status::ASSURED)),
            offloaded: Some(offloaded),
        }
    }
}

/// The keys of a tuple that are ports; `None` for ICMP, for protocols without ports, and for GRE,
/// whose call ids the kernel carries in the attributes of ports.
fn ports(tuple: &Tuple) -> Option<(u16, u16)> {
    match tuple.l4 {
        L4::Ports { src, dst } if tuple.proto != Protocol::GRE => Some((src, dst)),
        L4::Ports { .. } | L4::Icmp { .. } | L4::None => None,
    }
}

/// What NAT made of the two ends; `None` where it left them as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nat {
    pub(super) src_ip: Option<IpAddr>,
    pub(super) src_port: Option<u16>,
    pub(super) dst_ip: Option<IpAddr>,
    pub(super) dst_port: Option<u16>,
}

impl Nat {
    /// Replies go to what the source was made into, and come from what the destination was made into.
    /// An ICMP id that NAT changed has no column.
    pub(super) fn of(flow: &Flow) -> Self {
        let Flow { orig, reply, .. } = flow;
        let (src_port, dst_port) = match (ports(orig), ports(reply)) {
            (Some((src, dst)), Some((reply_src, reply_dst))) => {
                (changed(src, reply_dst), changed(dst, reply_src))
            }
            _ => (None, None),
        };
        Self {
            src_ip: changed(orig.src, reply.dst),
            src_port,
            dst_ip: changed(orig.dst, reply.src),
            dst_port,
        }
    }
}

fn changed<T: PartialEq>(before: T, after: T) -> Option<T> {
    (before != after).then_some(after)
}

/// All ones are a uid that is not known.
pub(super) fn known_uid(owner: &Owner) -> Option<i64> {
    (owner.uid != u32::MAX).then_some(owner.uid.into())
}

/// Cookies count from 1; 0 is a kernel that could not tell.
pub(super) fn known_cookie(cookie: u64) -> Option<i64> {
    (cookie != 0).then(|| saturate(cookie))
}
