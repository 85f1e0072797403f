//! Requests about whole entries and expectations: what the log does not need, and other programs do.

use super::super::decode;
use super::super::encode::{self, Request};
use super::super::sets::{
    CpuStatistics, Entry, Expectation, ExpectationStatistics, FilterFlags, GlobalStatistics, Set,
    TupleAttributes, TupleFlags,
};
use super::super::socket::Error;
use super::super::uapi::*;
use super::{Requests, absent};
use crate::flow::Tuple;

/// Which entries the kernel is to list; all of them by default.
///
/// Kernels that do not know a condition leave it out of account: those of the zone before 6.8, of the
/// status before 5.17, of tuples before 5.8. So whoever needs certainty compares again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `AF_INET` or `AF_INET6`.
    pub family: Option<u8>,
    /// The mark, and which of its bits count.
    pub mark: Option<(u32, u32)>,
    /// Bits of `CTA_STATUS`, and which of them count.
    pub status: Option<(u32, u32)>,
    /// The zone of the entry.
    pub zone: Option<u16>,
    /// What is set in it must be in the original tuple. Needs a family; ports and ICMP need the protocol.
    pub orig: Option<TupleAttributes>,
    /// What is set in it must be in the reply tuple.
    pub reply: Option<TupleAttributes>,
}

impl Filter {
    /// As attributes of a dump request.
    fn attributes(&self) -> Entry {
        let Self { family: _, mark, status, zone, orig, reply } = self;
        let flags = |tuple: &Option<TupleAttributes>| tuple.as_ref().map(filter_flags).map(TupleFlags);
        let filter = (orig.is_some() || reply.is_some()).then(|| FilterFlags {
            orig: flags(orig),
            reply: flags(reply),
            ..FilterFlags::default()
        });
        Entry {
            mark: mark.map(|(mark, _)| mark),
            mark_mask: mark.map(|(_, mask)| mask),
            status: status.map(|(status, _)| status),
            status_mask: status.map(|(_, mask)| mask),
            zone: *zone,
            orig: orig.clone(),
            reply: reply.clone(),
            filter,
            ..Entry::default()
        }
    }
}

/// `CTA_FILTER_F_CTA_*` for what is set in a tuple.
fn filter_flags(tuple: &TupleAttributes) -> u32 {
    let proto = tuple.proto.as_ref();
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let of_proto = proto.map_or(0, |proto| {
        flag(proto.number.is_some(), CTA_FILTER_F_CTA_PROTO_NUM)
            | flag(proto.src_port.is_some(), CTA_FILTER_F_CTA_PROTO_SRC_PORT)
            | flag(proto.dst_port.is_some(), CTA_FILTER_F_CTA_PROTO_DST_PORT)
            | flag(proto.icmp_type.is_some(), CTA_FILTER_F_CTA_PROTO_ICMP_TYPE)
            | flag(proto.icmp_code.is_some(), CTA_FILTER_F_CTA_PROTO_ICMP_CODE)
            | flag(proto.icmp_id.is_some(), CTA_FILTER_F_CTA_PROTO_ICMP_ID)
            | flag(proto.icmpv6_type.is_some(), CTA_FILTER_F_CTA_PROTO_ICMPV6_TYPE)
            | flag(proto.icmpv6_code.is_some(), CTA_FILTER_F_CTA_PROTO_ICMPV6_CODE)
            | flag(proto.icmpv6_id.is_some(), CTA_FILTER_F_CTA_PROTO_ICMPV6_ID)
    });
    of_proto
        | flag(tuple.src().is_some(), CTA_FILTER_F_CTA_IP_SRC)
        | flag(tuple.dst().is_some(), CTA_FILTER_F_CTA_IP_DST)
        | flag(tuple.zone.is_some(), CTA_FILTER_F_CTA_TUPLE_ZONE)
}

/// An entry of a list, or why it cannot be read.
pub type Listed = Result<Entry, decode::DecodeError>;

impl Requests {
    /// Calls `each` with the entries. What [`Requests::dump`] says of changes meanwhile holds here.
    pub fn list(&mut self, filter: &Filter, each: impl FnMut(Listed)) -> Result<(), Error> {
        self.list_by(IPCTNL_MSG_CT_GET, filter, "list the conntrack entries", each)
    }

    /// Calls `each` with the entries, and sets the counters of each to zero when it is read.
    pub fn list_and_zero(&mut self, filter: &Filter, each: impl FnMut(Listed)) -> Result<(), Error> {
        self.list_by(IPCTNL_MSG_CT_GET_CTRZERO, filter, "list and zero the conntrack entries", each)
    }

    /// Calls `each` with the entries that ended and wait until a reliable listener has room for their
    /// event.
    pub fn dying(&mut self, each: impl FnMut(Listed)) -> Result<(), Error> {
        self.list_by(IPCTNL_MSG_CT_GET_DYING, &Filter::default(), "list the dying entries", each)
    }

    /// Calls `each` with the entries of packets that have not passed all hooks yet. Since Linux 6.1
    /// the kernel does not know them.
    pub fn unconfirmed(&mut self, each: impl FnMut(Listed)) -> Result<(), Error> {
        let operation = IPCTNL_MSG_CT_GET_UNCONFIRMED;
        self.list_by(operation, &Filter::default(), "list the unconfirmed entries", each)
    }

    fn list_by(
        &mut self,
        operation: u8,
        filter: &Filter,
        request: &'static str,
        mut each: impl FnMut(Listed),
    ) -> Result<(), Error> {
        let header = Request {
            subsystem: NFNL_SUBSYS_CTNETLINK,
            operation,
            sequence: self.begin(),
            flags: NLM_F_DUMP,
            family: filter.family.unwrap_or(AF_UNSPEC),
            ..Request::default()
        };
        encode::request(&mut self.request, header, |buffer| filter.attributes().encode_all(buffer));
        self.exchange(request, header.sequence, |message| {
            each(decode::entry(message.payload));
            Ok(())
        })
    }

    /// The entry with this original or reply tuple, in its zone, if there is one.
    pub fn find(&mut self, entry: &Entry) -> Result<Option<Entry>, Error> {
        let sequence = self.begin();
        encode::entry(&mut self.request, IPCTNL_MSG_CT_GET, sequence, NLM_F_ACK, entry);
        self.found("find a conntrack entry", sequence, decode::entry)
    }

    /// Makes an entry; `EEXIST` where there is one with one of its tuples. The kernel needs both tuples
    /// and a timeout.
    pub fn make(&mut self, entry: &Entry) -> Result<(), Error> {
        let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
        self.one("make a conntrack entry", IPCTNL_MSG_CT_NEW, flags, entry)
    }

    /// Changes what is set in `entry` of the entry with its tuple: timeout, status, mark (with
    /// `mark_mask`), labels (with `labels_mask`), helper, state, sequence adjustment, SYN proxy.
    /// `ENOENT` where there is none.
    pub fn change(&mut self, entry: &Entry) -> Result<(), Error> {
        self.one("change a conntrack entry", IPCTNL_MSG_CT_NEW, NLM_F_ACK, entry)
    }

    /// Removes the entry with this tuple, and with this id where it is set. Whether there was one.
    pub fn remove(&mut self, entry: &Entry) -> Result<bool, Error> {
        let removed = self.one("remove a conntrack entry", IPCTNL_MSG_CT_DELETE, NLM_F_ACK, entry);
        Ok(absent(removed)?.is_some())
    }

    /// Changes the bits `mask` of the mark of an entry to those of `mark`. `ENOENT` where there is none.
    pub fn update_mark(
        &mut self,
        orig: &Tuple,
        zone: Option<u16>,
        (mark, mask): (u32, u32),
    ) -> Result<(), Error> {
        let entry = encode::by_tuple(orig, zone);
        self.change(&Entry { mark: Some(mark), mark_mask: Some(mask), ..entry })
    }

    /// Changes the labels `mask` of an entry to those of `labels`. `ENOENT` where there is none,
    /// `ENOSPC` where no rule of the namespace uses labels.
    pub fn update_labels(
        &mut self,
        orig: &Tuple,
        zone: Option<u16>,
        (labels, mask): ([u8; 16], [u8; 16]),
    ) -> Result<(), Error> {
        let entry = encode::by_tuple(orig, zone);
        self.change(&Entry { labels: Some(labels), labels_mask: Some(mask), ..entry })
    }

    /// Removes all entries of an address family (`AF_INET`, `AF_INET6`). Linux before 5.1 removes those
    /// of both.
    pub fn flush_family(&mut self, family: u8) -> Result<(), Error> {
        let header = Request {
            subsystem: NFNL_SUBSYS_CTNETLINK,
            operation: IPCTNL_MSG_CT_DELETE,
            flags: NLM_F_ACK,
            family,
            // Any but zero: else the kernel, for the sake of old programs, ignores the family.
            version: NFNETLINK_V0 + 1,
            ..Request::default()
        };
        let sequence = self.without_attributes(header);
        self.exchange("remove all conntrack entries of a family", sequence, |_| Ok(()))
    }

    /// How many entries there are and, since Linux 5.13, may be.
    pub fn statistics(&mut self) -> Result<GlobalStatistics, Error> {
        let sequence = self.begin();
        encode::stats(&mut self.request, sequence, NLM_F_ACK);
        let mut statistics = GlobalStatistics::default();
        self.exchange("count conntrack entries", sequence, |message| {
            (_, statistics) = decode::statistics(message.payload)?;
            Ok(())
        })?;
        Ok(statistics)
    }

    /// Calls `each` with the number of a CPU and its counters.
    pub fn cpu_statistics(&mut self, each: impl FnMut(u16, CpuStatistics)) -> Result<(), Error> {
        let header = Request {
            subsystem: NFNL_SUBSYS_CTNETLINK,
            operation: IPCTNL_MSG_CT_GET_STATS_CPU,
            flags: NLM_F_DUMP,
            ..Request::default()
        };
        let sequence = self.without_attributes(header);
        self.for_each_cpu("read the conntrack counters", sequence, each)
    }

    fn one(&mut self, request: &'static str, operation: u8, flags: u16, entry: &Entry) -> Result<(), Error> {
        let sequence = self.begin();
        encode::entry(&mut self.request, operation, sequence, flags, entry);
        self.exchange(request, sequence, |_| Ok(()))
    }

    /// Calls `each` with the expectations, of one address family where it is given.
    pub fn expectations(
        &mut self,
        family: Option<u8>,
        mut each: impl FnMut(Result<Expectation, decode::DecodeError>),
    ) -> Result<(), Error> {
        let sequence = self.whole_table(IPCTNL_MSG_EXP_GET, NLM_F_DUMP, family);
        self.exchange("list the expectations", sequence, |message| {
            each(decode::expectation(message.payload));
            Ok(())
        })
    }

    /// The expectation of this tuple, or of this master, if there is one.
    pub fn find_expectation(&mut self, expectation: &Expectation) -> Result<Option<Expectation>, Error> {
        let sequence = self.begin();
        encode::expectation(&mut self.request, IPCTNL_MSG_EXP_GET, sequence, NLM_F_ACK, expectation);
        self.found("find an expectation", sequence, decode::expectation)
    }

    /// Makes an expectation. The kernel needs tuple, mask, master and timeout; `ENOENT` where the
    /// master is not tracked.
    pub fn make_expectation(&mut self, expectation: &Expectation) -> Result<(), Error> {
        let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
        let sequence = self.begin();
        encode::expectation(&mut self.request, IPCTNL_MSG_EXP_NEW, sequence, flags, expectation);
        self.exchange("make an expectation", sequence, |_| Ok(()))
    }

    /// Removes the expectation of this tuple. Whether there was one.
    pub fn remove_expectation(&mut self, expectation: &Expectation) -> Result<bool, Error> {
        let sequence = self.begin();
        encode::expectation(&mut self.request, IPCTNL_MSG_EXP_DELETE, sequence, NLM_F_ACK, expectation);
        let removed = self.exchange("remove an expectation", sequence, |_| Ok(()));
        Ok(absent(removed)?.is_some())
    }

    /// Removes all expectations of the network namespace.
    pub fn flush_expectations(&mut self) -> Result<(), Error> {
        let sequence = self.whole_table(IPCTNL_MSG_EXP_DELETE, NLM_F_ACK, None);
        self.exchange("remove all expectations", sequence, |_| Ok(()))
    }

    /// Calls `each` with the number of a CPU and its counters.
    pub fn expectation_statistics(
        &mut self,
        each: impl FnMut(u16, ExpectationStatistics),
    ) -> Result<(), Error> {
        let sequence = self.whole_table(IPCTNL_MSG_EXP_GET_STATS_CPU, NLM_F_DUMP, None);
        self.for_each_cpu("read the counters of expectations", sequence, each)
    }

    /// Makes a request about all expectations; gives its sequence number.
    fn whole_table(&mut self, operation: u8, flags: u16, family: Option<u8>) -> u32 {
        let family = family.unwrap_or(AF_UNSPEC);
        let subsystem = NFNL_SUBSYS_CTNETLINK_EXP;
        self.without_attributes(Request { subsystem, operation, flags, family, ..Request::default() })
    }
}
