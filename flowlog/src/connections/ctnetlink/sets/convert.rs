//! Between the whole of a message and what the log takes from it: [`Flow`] and [`Tuple`].

use std::net::IpAddr;

use super::super::nla::DecodeError;
use super::entry::{CounterAttributes, DccpInfo, Entry, ProtoInfo, SctpInfo, TcpInfo};
use super::expectation::Expectation;
use super::tuple::{L4Attributes, TupleAttributes};
use crate::flow::{Counters, DccpState, Flow, L4, ProtoState, Protocol, SctpState, Status, TcpState, Tuple};

impl From<&Tuple> for TupleAttributes {
    fn from(tuple: &Tuple) -> Self {
        let Tuple { src, dst, proto, l4, zone } = *tuple;
        let mut attributes = Self { zone, ..Self::default() };
        attributes.set_src(src);
        attributes.set_dst(dst);
        let number = Some(proto.0);
        attributes.proto = Some(match l4 {
            L4::Ports { src, dst } => {
                L4Attributes { number, src_port: Some(src), dst_port: Some(dst), ..L4Attributes::default() }
            }
            L4::Icmp { icmp_type, code, id } if proto == Protocol::ICMPV6 => L4Attributes {
                number,
                icmpv6_id: Some(id),
                icmpv6_type: Some(icmp_type),
                icmpv6_code: Some(code),
                ..L4Attributes::default()
            },
            L4::Icmp { icmp_type, code, id } => L4Attributes {
                number,
                icmp_id: Some(id),
                icmp_type: Some(icmp_type),
                icmp_code: Some(code),
                ..L4Attributes::default()
            },
            L4::None => L4Attributes { number, ..L4Attributes::default() },
        });
        attributes
    }
}

/// An error names what is missing for a complete tuple.
impl TryFrom<&TupleAttributes> for Tuple {
    type Error = DecodeError;

    fn try_from(attributes: &TupleAttributes) -> Result<Self, DecodeError> {
        let missing = |attribute, parent| DecodeError::Missing { attribute, parent };
        let ip = attributes.ip.as_ref().ok_or(missing("CTA_TUPLE_IP", "a tuple"))?;
        let (src, dst): (IpAddr, IpAddr) = match (ip.v4_src, ip.v4_dst, ip.v6_src, ip.v6_dst) {
            (Some(src), Some(dst), _, _) => (src.into(), dst.into()),
            (_, _, Some(src), Some(dst)) => (src.into(), dst.into()),
            _ => return Err(missing("source or destination", "CTA_TUPLE_IP")),
        };
        let proto = attributes.proto.as_ref().ok_or(missing("CTA_TUPLE_PROTO", "a tuple"))?;
        let number = proto.number.ok_or(missing("CTA_PROTO_NUM", "CTA_TUPLE_PROTO"))?;
        let l4 = match (proto.src_port, proto.dst_port, proto.icmp()) {
            (Some(src), Some(dst), _) => L4::Ports { src, dst },
            (_, _, (Some(icmp_type), Some(code), Some(id))) => L4::Icmp { icmp_type, code, id },
            _ => L4::None,
        };
        Ok(Self { src, dst, proto: Protocol(number), l4, zone: attributes.zone })
    }
}

/// What [`encode::create`](super::super::encode::create) sends: without what the kernel fills in.
impl From<&Flow> for Entry {
    fn from(flow: &Flow) -> Self {
        Self {
            orig: Some((&flow.orig).into()),
            reply: Some((&flow.reply).into()),
            status: flow.status.map(|status| status.0),
            timeout_s: flow.timeout_s,
            mark: flow.mark,
            zone: flow.zone,
            proto_info: flow.state.map(ProtoInfo::from),
            labels: flow.labels,
            ..Self::default()
        }
    }
}

/// The state, with what the kernel refuses to be without (`nlattr_to_sctp`, `nlattr_to_dccp`).
impl From<ProtoState> for ProtoInfo {
    fn from(state: ProtoState) -> Self {
        match state {
            ProtoState::Tcp(TcpState(state)) => {
                Self { tcp: Some(TcpInfo { state: Some(state), ..TcpInfo::default() }), ..Self::default() }
            }
            ProtoState::Sctp(SctpState(state)) => Self {
                sctp: Some(SctpInfo {
                    state: Some(state),
                    orig_vtag: Some(0),
                    reply_vtag: Some(0),
                    ..SctpInfo::default()
                }),
                ..Self::default()
            },
            ProtoState::Dccp(DccpState(state)) => Self {
                dccp: Some(DccpInfo { state: Some(state), role: Some(0), ..DccpInfo::default() }),
                ..Self::default()
            },
        }
    }
}

/// What [`decode::flow`](super::super::decode::flow) makes of the same message. An error names what is
/// missing for complete tuples.
impl TryFrom<&Entry> for Flow {
    type Error = DecodeError;

    fn try_from(entry: &Entry) -> Result<Self, DecodeError> {
        let missing = |attribute| DecodeError::Missing { attribute, parent: "the conntrack message" };
        let counters = |counters: &Option<CounterAttributes>| {
            let counters = counters.as_ref()?;
            let packets = counters.packets32.map(u64::from).or(counters.packets)?;
            let bytes = counters.bytes32.map(u64::from).or(counters.bytes)?;
            Some(Counters { packets, bytes })
        };
        Ok(Self {
            orig: entry.orig.as_ref().ok_or(missing("CTA_TUPLE_ORIG"))?.try_into()?,
            reply: entry.reply.as_ref().ok_or(missing("CTA_TUPLE_REPLY"))?.try_into()?,
            id: entry.id,
            status: entry.status.map(Status),
            timeout_s: entry.timeout_s,
            mark: entry.mark,
            zone: entry.zone,
            orig_counters: counters(&entry.orig_counters),
            reply_counters: counters(&entry.reply_counters),
            start_ns: entry.timestamps.as_ref().and_then(|timestamps| timestamps.start_ns),
            stop_ns: entry.timestamps.as_ref().and_then(|timestamps| timestamps.stop_ns),
            event_ns: entry.event_ns,
            state: entry.state(),
            labels: entry.labels,
        })
    }
}

impl Expectation {
    /// The address family of its tuples (`AF_INET`, `AF_INET6`).
    pub fn family(&self) -> Option<u8> {
        [&self.master, &self.tuple].into_iter().flatten().find_map(TupleAttributes::family)
    }
}

impl Entry {
    /// The address family of its tuples (`AF_INET`, `AF_INET6`).
    pub fn family(&self) -> Option<u8> {
        [&self.orig, &self.reply].into_iter().flatten().find_map(TupleAttributes::family)
    }

    /// The state of the protocol.
    pub fn state(&self) -> Option<ProtoState> {
        let info = self.proto_info.as_ref()?;
        let tcp = || info.tcp.as_ref()?.state.map(TcpState).map(ProtoState::Tcp);
        let sctp = || info.sctp.as_ref()?.state.map(SctpState).map(ProtoState::Sctp);
        let dccp = || info.dccp.as_ref()?.state.map(DccpState).map(ProtoState::Dccp);
        tcp().or_else(sctp).or_else(dccp)
    }

    /// The protocol of the original direction.
    pub fn protocol(&self) -> Option<Protocol> {
        self.orig.as_ref()?.proto.as_ref()?.number.map(Protocol)
    }
}
