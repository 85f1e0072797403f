//! Bytes of a ctnetlink datagram to [`Flow`].
//!
//! No IO, no allocation. Numbers become host order while they are read, here and in `nla`. What is read is what
//! `net/netfilter/nf_conntrack_netlink.c` writes (`ctnetlink_fill_info`, `ctnetlink_conntrack_event`).
//!
//! Invariant: what a newer kernel adds never costs a flow. An attribute that is not known, at the top
//! or nested, is counted and skipped; a number without a name is kept as the number. What is known
//! and has the wrong size is an error, and costs that one message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::nla::{Attributes, padding};
use super::sets::{Entry, Expectation, Set};
use super::uapi::*;
use crate::flow::{Counters, DccpState, Flow, L4, ProtoState, Protocol, SctpState, Status, TcpState, Tuple};

pub use super::nla::DecodeError;

/// The messages in one datagram. Ends after the first error, because the next start is not known.
pub fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages { rest: datagram }
}

/// Iterator made by [`messages`].
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.rest);
        if bytes.is_empty() {
            return None;
        }
        let &[l0, l1, l2, l3, t0, t1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3, ref after_header @ ..] = bytes
        else {
            return Some(Err(DecodeError::MessageHeader { found: bytes.len() }));
        };
        let claimed = u32::from_ne_bytes([l0, l1, l2, l3]);
        let split = usize::try_from(claimed)
            .ok()
            .and_then(|len| len.checked_sub(NLMSG_HDRLEN))
            .and_then(|payload_len| after_header.split_at_checked(payload_len));
        let Some((payload, after)) = split else {
            return Some(Err(DecodeError::MessageLength { claimed, left: bytes.len() }));
        };
        self.rest = after.get(padding(payload.len())..).unwrap_or_default();
        Some(Ok(Message {
            message_type: u16::from_ne_bytes([t0, t1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port_id: u32::from_ne_bytes([p0, p1, p2, p3]),
            payload,
        }))
    }
}

/// One netlink message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`
    pub message_type: u16,
    /// `nlmsg_flags`
    pub flags: u16,
    /// `nlmsg_seq`: the one of the request that is answered.
    pub sequence: u32,
    /// `nlmsg_pid`: the socket whose request caused it; zero where the kernel did by itself.
    pub port_id: u32,
    /// What follows the header, for [`flow`].
    pub payload: &'a [u8],
}

/// What a message says about a tracked connection, or about an expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was made.
    New,
    /// It was changed. Entries in the answer to a request look the same.
    Update,
    /// It is gone.
    Destroy,
    /// The message is about something else.
    Other,
}

impl Message<'_> {
    /// Which event this is. Only the flags tell NEW from UPDATE (`ctnetlink_conntrack_event`).
    pub fn event(&self) -> EventKind {
        self.event_of(NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_DELETE)
    }

    /// Which event of an expectation this is; [`EventKind::Other`] where it is not about one.
    pub fn expectation_event(&self) -> EventKind {
        self.event_of(NFNL_SUBSYS_CTNETLINK_EXP, IPCTNL_MSG_EXP_NEW, IPCTNL_MSG_EXP_DELETE)
    }

    fn event_of(&self, subsystem: u8, new: u8, delete: u8) -> EventKind {
        const CREATED: u16 = NLM_F_CREATE | NLM_F_EXCL;
        let [found, operation] = self.message_type.to_be_bytes();
        match operation {
            _ if found != subsystem => EventKind::Other,
            _ if operation == new && self.flags & CREATED == CREATED => EventKind::New,
            _ if operation == new => EventKind::Update,
            _ if operation == delete => EventKind::Destroy,
            _ => EventKind::Other,
        }
    }
}

/// A flow, and how much of its message was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The flow.
    pub flow: Flow,
    /// Attributes that this version does not know, nested ones included.
    pub unknown_attributes: u32,
}

/// Reads attributes: `name(value: how it is read) => what becomes of it`. The names are the kernel's, which errors have,
/// too. Those behind `known` have no place in a flow; all others are counted as unknown.
macro_rules! read {
    ($attributes:expr, $unknown:ident, {
        $($name:ident($value:ident: $read:ident) => $then:expr,)*
    } $(, known $known:pat)?) => {
        for attribute in $attributes {
            let attribute = attribute?;
            match attribute.kind {
                $($name => {
                    let $value = attribute.$read(stringify!($name));
                    $then;
                })*
                $($known => {})?
                _ => *$unknown += 1,
            }
        }
    };
}

/// Decodes the payload of a message whose [`event`](Message::event) is about a tracked connection.
///
/// An error means that the message cannot be trusted or lacks one of its tuples; it names the
/// attribute.
pub fn flow(payload: &[u8]) -> Result<Decoded, DecodeError> {
    const MESSAGE: &str = "the conntrack message";
    let (_, attributes) = nfgenmsg(payload)?;

    let unknown = &mut 0;
    let (mut orig, mut reply) = (None, None);
    let (mut id, mut status, mut timeout_s, mut mark, mut zone) = (None, None, None, None, None);
    let (mut orig_counters, mut reply_counters) = (None, None);
    let (mut start_ns, mut stop_ns, mut event_ns) = (None, None, None);
    let (mut state, mut labels) = (None, None);

    read!(Attributes::new(attributes, MESSAGE), unknown, {
        CTA_TUPLE_ORIG(children: nested) => orig = Some(tuple(children, unknown)?),
        CTA_TUPLE_REPLY(children: nested) => reply = Some(tuple(children, unknown)?),
        CTA_STATUS(bits: be32) => status = Some(Status(bits?)),
        CTA_PROTOINFO(children: nested) => state = proto_state(children, unknown)?,
        CTA_TIMEOUT(seconds: be32) => timeout_s = Some(seconds?),
        CTA_MARK(number: be32) => mark = Some(number?),
        CTA_COUNTERS_ORIG(children: nested) => orig_counters = counters(children, unknown)?,
        CTA_COUNTERS_REPLY(children: nested) => reply_counters = counters(children, unknown)?,
        CTA_ID(number: be32) => id = Some(number?),
        CTA_ZONE(number: be16) => zone = Some(number?),
        CTA_TIMESTAMP(children: nested) => (start_ns, stop_ns) = timestamps(children, unknown)?,
        CTA_LABELS(bits: array) => labels = Some(bits?),
        CTA_TIMESTAMP_EVENT(time_ns: be64) => event_ns = Some(time_ns?),
    // The masks and the filter occur in requests only.
    }, known CTA_HELP | CTA_NAT_SRC | CTA_USE | CTA_NAT_DST | CTA_TUPLE_MASTER | CTA_SEQ_ADJ_ORIG
        | CTA_SEQ_ADJ_REPLY | CTA_SECMARK | CTA_SECCTX | CTA_MARK_MASK | CTA_LABELS_MASK | CTA_SYNPROXY
        | CTA_FILTER | CTA_STATUS_MASK);

    let missing = |attribute| DecodeError::Missing { attribute, parent: MESSAGE };
    Ok(Decoded {
        flow: Flow {
            orig: orig.ok_or(missing("CTA_TUPLE_ORIG"))?,
            reply: reply.ok_or(missing("CTA_TUPLE_REPLY"))?,
            id,
            status,
            timeout_s,
            mark,
            zone,
            orig_counters,
            reply_counters,
            start_ns,
            stop_ns,
            event_ns,
            state,
            labels,
        },
        unknown_attributes: *unknown,
    })
}

/// Decodes all of a message about a tracked connection. Everything in it is optional.
pub fn entry(payload: &[u8]) -> Result<Entry, DecodeError> {
    let (_, attributes) = nfgenmsg(payload)?;
    Entry::decode_all(Attributes::new(attributes, "the conntrack message"))
}

/// Decodes all of a message about an expectation.
pub fn expectation(payload: &[u8]) -> Result<Expectation, DecodeError> {
    let (_, attributes) = nfgenmsg(payload)?;
    Expectation::decode_all(Attributes::new(attributes, "the expectation message"))
}

/// Decodes an answer with statistics, such as [`CpuStatistics`](super::sets::CpuStatistics): the
/// resource id, which is the number of the CPU, and the numbers.
pub(super) fn statistics<T: Set>(payload: &[u8]) -> Result<(u16, T), DecodeError> {
    let ([_, _, id @ ..], attributes) = nfgenmsg(payload)?;
    Ok((u16::from_be_bytes(id), T::decode_all(Attributes::new(attributes, "the statistics"))?))
}

/// What follows `struct nfgenmsg`: the attributes.
pub(super) fn attributes(payload: &[u8]) -> Result<&[u8], DecodeError> {
    nfgenmsg(payload).map(|(_, attributes)| attributes)
}

/// Splits `struct nfgenmsg` from the attributes.
fn nfgenmsg(payload: &[u8]) -> Result<([u8; NFGENMSG_LEN], &[u8]), DecodeError> {
    let (header, attributes) = payload.split_first_chunk().ok_or(DecodeError::Size {
        attribute: "struct nfgenmsg",
        expected: NFGENMSG_LEN,
        found: payload.len(),
    })?;
    Ok((*header, attributes))
}

/// `enum ctattr_tuple`
fn tuple(attributes: Attributes<'_>, unknown: &mut u32) -> Result<Tuple, DecodeError> {
    let (mut addresses, mut protocol, mut zone) = (None, None, None);
    read!(attributes, unknown, {
        CTA_TUPLE_IP(children: nested) => addresses = Some(ip(children, unknown)?),
        CTA_TUPLE_PROTO(children: nested) => protocol = Some(l4(children, unknown)?),
        CTA_TUPLE_ZONE(number: be16) => zone = Some(number?),
    });
    let missing = |attribute| DecodeError::Missing { attribute, parent: "a tuple" };
    let (src, dst) = addresses.ok_or(missing("CTA_TUPLE_IP"))?;
    let (proto, l4) = protocol.ok_or(missing("CTA_TUPLE_PROTO"))?;
    Ok(Tuple { src, dst, proto, l4, zone })
}

/// `enum ctattr_ip`: source and destination, of one family.
fn ip(attributes: Attributes<'_>, unknown: &mut u32) -> Result<(IpAddr, IpAddr), DecodeError> {
    let (mut v4_src, mut v4_dst, mut v6_src, mut v6_dst) = (None, None, None, None);
    read!(attributes, unknown, {
        CTA_IP_V4_SRC(octets: array) => v4_src = Some(Ipv4Addr::from_octets(octets?)),
        CTA_IP_V4_DST(octets: array) => v4_dst = Some(Ipv4Addr::from_octets(octets?)),
        CTA_IP_V6_SRC(octets: array) => v6_src = Some(Ipv6Addr::from_octets(octets?)),
        CTA_IP_V6_DST(octets: array) => v6_dst = Some(Ipv6Addr::from_octets(octets?)),
    });
    match (v4_src, v4_dst, v6_src, v6_dst) {
        (Some(src), Some(dst), _, _) => Ok((src.into(), dst.into())),
        (_, _, Some(src), Some(dst)) => Ok((src.into(), dst.into())),
        _ => Err(DecodeError::Missing {
            attribute: "source or destination (CTA_IP_V4_SRC and _DST, or CTA_IP_V6_SRC and _DST)",
            parent: "CTA_TUPLE_IP",
        }),
    }
}

/// `enum ctattr_l4proto`. The attributes decide what the keys are, not the number of the protocol: so
/// a protocol that a newer kernel tracks by ports has its ports. Keys that are not complete are
/// [`L4::None`], since a part of them would have to be made up.
fn l4(attributes: Attributes<'_>, unknown: &mut u32) -> Result<(Protocol, L4), DecodeError> {
    let (mut number, mut src, mut dst) = (None, None, None);
    let (mut icmp_type, mut code, mut id) = (None, None, None);
    read!(attributes, unknown, {
        CTA_PROTO_NUM(value: u8) => number = Some(value?),
        CTA_PROTO_SRC_PORT(value: be16) => src = Some(value?),
        CTA_PROTO_DST_PORT(value: be16) => dst = Some(value?),
        CTA_PROTO_ICMP_ID(value: be16) => id = Some(value?),
        CTA_PROTO_ICMP_TYPE(value: u8) => icmp_type = Some(value?),
        CTA_PROTO_ICMP_CODE(value: u8) => code = Some(value?),
        CTA_PROTO_ICMPV6_ID(value: be16) => id = Some(value?),
        CTA_PROTO_ICMPV6_TYPE(value: u8) => icmp_type = Some(value?),
        CTA_PROTO_ICMPV6_CODE(value: u8) => code = Some(value?),
    });
    let number =
        number.ok_or(DecodeError::Missing { attribute: "CTA_PROTO_NUM", parent: "CTA_TUPLE_PROTO" })?;
    let l4 = match (src, dst, icmp_type, code, id) {
        (Some(src), Some(dst), ..) => L4::Ports { src, dst },
        (_, _, Some(icmp_type), Some(code), Some(id)) => L4::Icmp { icmp_type, code, id },
        _ => L4::None,
    };
    Ok((Protocol(number), l4))
}

/// `enum ctattr_protoinfo`: the state; the rest has no place in a flow. Of several only the last counts.
fn proto_state(attributes: Attributes<'_>, unknown: &mut u32) -> Result<Option<ProtoState>, DecodeError> {
    let mut state = None;
    read!(attributes, unknown, {
        CTA_PROTOINFO_TCP(children: nested) => {
            state = None;
            read!(children, unknown, {
                CTA_PROTOINFO_TCP_STATE(number: u8) => state = Some(ProtoState::Tcp(TcpState(number?))),
            }, known CTA_PROTOINFO_TCP_WSCALE_ORIGINAL | CTA_PROTOINFO_TCP_WSCALE_REPLY
                | CTA_PROTOINFO_TCP_FLAGS_ORIGINAL | CTA_PROTOINFO_TCP_FLAGS_REPLY);
        },
        CTA_PROTOINFO_SCTP(children: nested) => {
            state = None;
            read!(children, unknown, {
                CTA_PROTOINFO_SCTP_STATE(number: u8) => state = Some(ProtoState::Sctp(SctpState(number?))),
            }, known CTA_PROTOINFO_SCTP_VTAG_ORIGINAL | CTA_PROTOINFO_SCTP_VTAG_REPLY);
        },
        CTA_PROTOINFO_DCCP(children: nested) => {
            state = None;
            read!(children, unknown, {
                CTA_PROTOINFO_DCCP_STATE(number: u8) => state = Some(ProtoState::Dccp(DccpState(number?))),
            }, known CTA_PROTOINFO_DCCP_ROLE | CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ | CTA_PROTOINFO_DCCP_PAD);
        },
    });
    Ok(state)
}

/// `enum ctattr_counters`: 64 bits, or the 32 bits of old kernels. Absent unless both are there.
fn counters(attributes: Attributes<'_>, unknown: &mut u32) -> Result<Option<Counters>, DecodeError> {
    let (mut packets, mut bytes) = (None, None);
    read!(attributes, unknown, {
        CTA_COUNTERS_PACKETS(number: be64) => packets = Some(number?),
        CTA_COUNTERS_BYTES(number: be64) => bytes = Some(number?),
        CTA_COUNTERS32_PACKETS(number: be32) => packets = Some(number?.into()),
        CTA_COUNTERS32_BYTES(number: be32) => bytes = Some(number?.into()),
    }, known CTA_COUNTERS_PAD);
    Ok(packets.zip(bytes).map(|(packets, bytes)| Counters { packets, bytes }))
}

/// `enum ctattr_tstamp`: start and stop in nanoseconds.
fn timestamps(
    attributes: Attributes<'_>,
    unknown: &mut u32,
) -> Result<(Option<u64>, Option<u64>), DecodeError> {
    let (mut start_ns, mut stop_ns) = (None, None);
    read!(attributes, unknown, {
        CTA_TIMESTAMP_START(time_ns: be64) => start_ns = Some(time_ns?),
        CTA_TIMESTAMP_STOP(time_ns: be64) => stop_ns = Some(time_ns?),
    }, known CTA_TIMESTAMP_PAD);
    Ok((start_ns, stop_ns))
}

#[cfg(test)]
mod captured;
#[cfg(test)]
mod tests;
