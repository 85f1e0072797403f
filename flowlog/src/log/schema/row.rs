//! What the columns of one flow hold: pure functions from the flow to plain values.

use std::net::IpAddr;

use crate::flow::{EndReason, Flow, L4, Protocol, Status, Tuple};
use crate::record::{FlowRecord, Sighting};
use crate::time::to_us;

/// Times of a flow in microseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) start_us: Option<i64>,
    pub(super) end_us: i64,
    /// Where `end_us` comes from.
    pub(super) source: &'static str,
    pub(super) duration_us: Option<i64>,
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
        let start_us = start_ns.map(to_us);
        let end_us = to_us(end_ns);
        // Of the microseconds, so that it always equals end_time - start_time. A clock that was set
        // back in between leaves no duration.
        let duration_us = match (start_us, stop_ns) {
            (Some(start_us), Some(_)) if start_us <= end_us => Some(end_us - start_us),
            _ => None,
        };
        Self { start_us, end_us, source, duration_us }
    }
}

/// A number of the kernel as the signed integer that all engines can read. Counters and cookies do
/// not get there: 2^63 bytes are 23 years at 100 Gbit/s. Corrupt ones stop at the maximum, where
/// they are visible, rather than become negative.
pub(super) fn saturate(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Why the flow ended; `None` where it has not.
pub(super) fn end_reason(record: &FlowRecord<'_>) -> Option<EndReason> {
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
pub(super) fn ports(tuple: &Tuple) -> Option<(u16, u16)> {
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

/// A task's name up to its first zero byte; `None` where it is empty.
pub(super) fn comm(raw: &[u8]) -> Option<&[u8]> {
    raw.split(|&byte| byte == 0).next().filter(|name| !name.is_empty())
}
