//! Declared losses: what the flow log does not have, from when to when, why, and how much.
//!
//! Every loss is a [`Gap`]: a line of the ledger, a row of the table `gaps`, a sum in the metadata of
//! the files of its time. Losses of the same kind that come one after the other are one gap
//! ([`Pending`]), so that a storm makes one line and not a million. Pure: times are arguments.

use serde::{Deserialize, Serialize};

/// Why flows, or what is known of them, are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The receive buffer of the netlink socket was full (`ENOBUFS`), with best-effort delivery.
    Overrun,
    /// The writing side could not keep up, and the kernel could not hold more.
    Overload,
    /// Events of sockets and processes did not fit into the ring buffer: flows of this time may have no
    /// process. No flows are missing.
    RingbufFull,
    /// The table of sockets was full: flows of forgotten sockets have no process. No flows are missing.
    TableFull,
    /// The write-ahead log could not be written or read.
    WalError,
    /// The disk was full.
    DiskFull,
    /// No daemon was watching.
    DaemonDown,
    /// Messages of the kernel could not be decoded.
    DecodeError,
    /// Somebody set the clock: flows of this moment may have an ambiguous process. No flows are missing.
    ClockSet,
    /// No rule of a network namespace made the kernel track connections.
    NotTracked,
    /// `nf_conntrack_events` was 0: entries made meanwhile end without an event.
    EventsOff,
    /// `nf_conntrack_acct` was 0: connections made meanwhile have no counters. No flows are missing.
    AccountingOff,
    /// `nf_conntrack_timestamp` was 0: connections made meanwhile have no start. No flows are missing.
    TimestampsOff,
    /// Somebody detached eBPF programs: flows of this time may have no process. No flows are missing.
    ProgramsDetached,
    /// The kernel dropped packets of new connections: it could make no entry for them, as its table was full.
    ConntrackFull,
    /// The kernel dropped packets of new connections: their entry could not be put into its table.
    InsertFailed,
}

impl Cause {
    /// All there are.
    pub const ALL: [Self; 16] = [
        Self::Overrun,
        Self::Overload,
        Self::RingbufFull,
        Self::TableFull,
        Self::WalError,
        Self::DiskFull,
        Self::DaemonDown,
        Self::DecodeError,
        Self::ClockSet,
        Self::NotTracked,
        Self::EventsOff,
        Self::AccountingOff,
        Self::TimestampsOff,
        Self::ProgramsDetached,
        Self::ConntrackFull,
        Self::InsertFailed,
    ];

    /// Whether flows are missing, and not just something that is known of them.
    pub fn loses_flows(self) -> bool {
        match self {
            Self::Overrun
            | Self::Overload
            | Self::WalError
            | Self::DiskFull
            | Self::DaemonDown
            | Self::DecodeError
            | Self::NotTracked
            | Self::EventsOff
            | Self::ConntrackFull
            | Self::InsertFailed => true,
            Self::RingbufFull
            | Self::TableFull
            | Self::ClockSet
            | Self::AccountingOff
            | Self::TimestampsOff
            | Self::ProgramsDetached => false,
        }
    }

    /// The text of the column `cause`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overrun => "overrun",
            Self::Overload => "overload",
            Self::RingbufFull => "ringbuf_full",
            Self::TableFull => "table_full",
            Self::WalError => "wal_error",
            Self::DiskFull => "disk_full",
            Self::DaemonDown => "daemon_down",
            Self::DecodeError => "decode_error",
            Self::ClockSet => "clock_set",
            Self::NotTracked => "not_tracked",
            Self::EventsOff => "events_off",
            Self::AccountingOff => "accounting_off",
            Self::TimestampsOff => "timestamps_off",
            Self::ProgramsDetached => "programs_detached",
            Self::ConntrackFull => "conntrack_full",
            Self::InsertFailed => "insert_failed",
        }
    }
}

/// Where the loss happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// In the kernel, before there was anything to read.
    Kernel,
    /// Between the kernel and the reader.
    Receive,
    /// In what is known of sockets and processes.
    Attribute,
    /// Between the reader and the write-ahead log.
    Write,
    /// In the conversion of an earlier run's write-ahead log.
    Recover,
}

impl Stage {
    /// The text of the column `stage`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Receive => "receive",
            Self::Attribute => "attribute",
            Self::Write => "write",
            Self::Recover => "recover",
        }
    }
}

/// One loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Begin of the time that is affected, in `end_time` of flows: microseconds since 1970.
    pub from_us: i64,
    /// End of that time, inclusive.
    pub to_us: i64,
    /// Why.
    pub cause: Cause,
    /// Where.
    pub stage: Stage,
    /// How many flows are missing; `None` where that cannot be known.
    pub lost_flows: Option<u64>,
    /// Bytes of the original direction in them, where known.
    pub lost_orig_bytes: Option<u64>,
    /// Bytes of the reply direction in them, where known.
    pub lost_reply_bytes: Option<u64>,
    /// What else is known, for people.
    pub detail: Option<String>,
}

impl Gap {
    /// A loss that is known to be of no flow yet; to be filled in.
    pub fn new(cause: Cause, stage: Stage, from_us: i64, to_us: i64) -> Self {
        Self {
            from_us,
            to_us,
            cause,
            stage,
            lost_flows: Some(0),
            lost_orig_bytes: None,
            lost_reply_bytes: None,
            detail: None,
        }
    }

    /// Whether flows are missing, as far as is known.
    pub fn misses_flows(&self) -> bool {
        self.cause.loses_flows() && self.lost_flows != Some(0)
    }

    /// Takes another loss of the same kind into this one. Unknown and known are unknown.
    fn merge(&mut self, other: Self) {
        let Self {
            from_us,
            to_us,
            cause: _,
            stage: _,
            lost_flows,
            lost_orig_bytes,
            lost_reply_bytes,
            detail,
        } = other;
        self.from_us = self.from_us.min(from_us);
        self.to_us = self.to_us.max(to_us);
        self.lost_flows = self.lost_flows.zip(lost_flows).map(|(one, other)| one.saturating_add(other));
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
        self.lost_orig_bytes = sum(self.lost_orig_bytes, lost_orig_bytes);
        self.lost_reply_bytes = sum(self.lost_reply_bytes, lost_reply_bytes);
        self.detail = match (self.detail.take(), detail) {
            (Some(one), Some(other)) => Some(joined(one, &other)),
            (one, other) => one.or(other),
        };
    }
}

/// What separates details of losses that became one.
const BETWEEN_DETAILS: &str = "; ";

/// Two details as one, each part once. Beyond [`MAX_DETAIL_BYTES`] nothing is added but that there is more.
fn joined(one: String, other: &str) -> String {
    const MORE: &str = "...";
    if one.split(BETWEEN_DETAILS).any(|part| part == other || part == MORE) {
        return one;
    }
    let other = if one.len() + other.len() > MAX_DETAIL_BYTES { MORE } else { other };
    one + BETWEEN_DETAILS + other
}

/// How long a detail may become by merging.
const MAX_DETAIL_BYTES: usize = 512;

/// How much was declared of one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Number of gaps.
    pub gaps: u64,
    /// Flows in those whose number is known.
    pub lost_flows: u64,
}

/// Losses that are not declared yet: at most one of each cause, stage and knowledge of the number. In the kernel,
/// where each is of one network namespace, also of each detail.
#[derive(Debug, Default)]
pub struct Pending(Vec<Gap>);

impl Pending {
    /// Notes a loss.
    pub fn add(&mut self, gap: Gap) {
        let same = |pending: &&mut Gap| {
            pending.cause == gap.cause
                && pending.stage == gap.stage
                && pending.lost_flows.is_some() == gap.lost_flows.is_some()
                && (gap.stage != Stage::Kernel || pending.detail == gap.detail)
        };
        match self.0.iter_mut().find(same) {
            Some(pending) => pending.merge(gap),
            None => self.0.push(gap),
        }
    }

    /// The earliest time of what is to be declared, in microseconds since 1970.
    pub fn since_us(&self) -> Option<i64> {
        self.0.iter().map(|gap| gap.from_us).min()
    }

    /// Whether flows are missing because of it.
    pub fn loses_flows(&self) -> bool {
        self.0.iter().any(|gap| gap.lost_flows != Some(0))
    }

    /// Whether nothing is to be declared.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what is to be declared.
    pub fn take(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.0)
    }
}

/// How long the kernel may take to notice that an entry has expired: it looks through its table once in two minutes
/// (`GC_SCAN_INTERVAL`, since Linux 5.18 in one or less), a part at a time. A dump makes it notice at once.
const UNNOTICED_US: i64 = 150 * 1_000_000;

/// Since when the kernel may not have told what expired, where all that it told until `complete_until_us` was read
/// and no dump came after; microseconds since 1970. What had expired before the run began, its first dump showed.
pub fn unnoticed_since_us(complete_until_us: i64, began_us: i64) -> i64 {
    complete_until_us.min(complete_until_us.saturating_sub(UNNOTICED_US).max(began_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(cause: Cause, at_us: i64, flows: Option<u64>) -> Gap {
        Gap { lost_flows: flows, ..Gap::new(cause, Stage::Receive, at_us, at_us) }
    }

    #[test]
    fn losses_of_the_same_kind_are_one_gap() {
        let mut pending = Pending::default();
        pending.add(lost(Cause::Overload, 20, Some(3)));
        pending.add(Gap { lost_orig_bytes: Some(7), ..lost(Cause::Overload, 10, Some(4)) });
        pending.add(lost(Cause::Overrun, 30, Some(1)));
        let gaps = pending.take();
        let overload = Gap { lost_orig_bytes: Some(7), to_us: 20, ..lost(Cause::Overload, 10, Some(7)) };
        assert_eq!(gaps, [overload, lost(Cause::Overrun, 30, Some(1))]);
        assert!(pending.is_empty());
    }

    #[test]
    fn the_ledger_and_the_table_use_the_same_words() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.name());
        }
        for stage in [Stage::Kernel, Stage::Receive, Stage::Attribute, Stage::Write, Stage::Recover] {
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.name());
        }
    }

    #[test]
    fn details_are_kept() {
        let mut pending = Pending::default();
        let detailed = |detail: &str, stage| Gap {
            detail: Some(detail.to_owned()),
            ..Gap::new(Cause::DecodeError, stage, 1, 1)
        };
        for detail in ["one", "other", "one"] {
            pending.add(detailed(detail, Stage::Receive));
        }
        pending.add(lost(Cause::DecodeError, 1, Some(1)));
        assert_eq!(pending.take()[0].detail.as_deref(), Some("one; other"));
        for number in 0..1000 {
            pending.add(detailed(&format!("number {number}"), Stage::Receive));
        }
        let detail = pending.take().remove(0).detail.unwrap();
        assert!(detail.len() < MAX_DETAIL_BYTES + 10 && detail.ends_with("; ..."), "{detail}");
        for detail in ["in blue", "in red", "in blue"] {
            pending.add(detailed(detail, Stage::Kernel));
        }
        assert_eq!(pending.take().len(), 2, "each namespace has its own");
    }

    #[test]
    fn an_unknown_number_does_not_hide_a_known_one() {
        let mut pending = Pending::default();
        pending.add(lost(Cause::DecodeError, 1, Some(3)));
        pending.add(lost(Cause::DecodeError, 2, None));
        assert_eq!(pending.take().len(), 2);
    }
}
