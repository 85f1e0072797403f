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
}

impl Cause {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Overrun,
        Self::Overload,
        Self::RingbufFull,
        Self::TableFull,
        Self::WalError,
        Self::DiskFull,
        Self::DaemonDown,
        Self::DecodeError,
        Self::ClockSet,
    ];

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
        }
    }
}

/// Where the loss happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
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
        self.detail = detail.or_else(|| self.detail.take());
    }
}

/// How much was declared of one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Number of gaps.
    pub gaps: u64,
    /// Flows in those whose number is known.
    pub lost_flows: u64,
}

/// Losses that are not declared yet: at most one of each cause, stage and knowledge of the number.
#[derive(Debug, Default)]
pub struct Pending(Vec<Gap>);

impl Pending {
    /// Notes a loss.
    pub fn add(&mut self, gap: Gap) {
        let same = |pending: &&mut Gap| {
            pending.cause == gap.cause
                && pending.stage == gap.stage
                && pending.lost_flows.is_some() == gap.lost_flows.is_some()
        };
        match self.0.iter_mut().find(same) {
            Some(pending) => pending.merge(gap),
            None => self.0.push(gap),
        }
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
        for stage in [Stage::Receive, Stage::Attribute, Stage::Write, Stage::Recover] {
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.name());
        }
    }

    #[test]
    fn an_unknown_number_does_not_hide_a_known_one() {
        let mut pending = Pending::default();
        pending.add(lost(Cause::DecodeError, 1, Some(3)));
        pending.add(lost(Cause::DecodeError, 2, None));
        assert_eq!(pending.take().len(), 2);
    }
}
