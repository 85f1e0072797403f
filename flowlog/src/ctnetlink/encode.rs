//! Requests to ctnetlink as bytes.
//!
//! No IO. Each function appends one message to the buffer of its caller, so that several can be sent
//! at once. `sequence` comes back in the answers; `flags` are added to the ones that the request needs
//! (`NLM_F_ACK` asks for an answer also where there is no error).

use std::net::IpAddr;

use super::nla::padding;
use super::uapi::*;
use crate::flow::{Flow, L4, ProtoState, Protocol, Tuple};

/// Makes an entry that does not exist yet.
///
/// What the kernel fills in itself is left out: id, counters, timestamps. It wants a timeout
/// (`EINVAL` else), and where there is a status, it must have `IPS_CONFIRMED` (`EBUSY` else).
pub fn create(buffer: &mut Vec<u8>, sequence: u32, flags: u16, flow: &Flow) {
    let flags = flags | NLM_F_CREATE | NLM_F_EXCL;
    message(buffer, IPCTNL_MSG_CT_NEW, sequence, flags, family(&flow.orig), |buffer| {
        tuple(buffer, CTA_TUPLE_ORIG, &flow.orig);
        tuple(buffer, CTA_TUPLE_REPLY, &flow.reply);
        if let Some(status) = flow.status {
            attribute(buffer, CTA_STATUS, &status.0.to_be_bytes());
        }
        if let Some(timeout_s) = flow.timeout_s {
            attribute(buffer, CTA_TIMEOUT, &timeout_s.to_be_bytes());
        }
        if let Some(mark) = flow.mark {
            attribute(buffer, CTA_MARK, &mark.to_be_bytes());
        }
        if let Some(zone) = flow.zone {
            attribute(buffer, CTA_ZONE, &zone.to_be_bytes());
        }
        if let Some(state) = flow.state {
            proto_state(buffer, state);
        }
        if let Some(labels) = flow.labels {
            attribute(buffer, CTA_LABELS, &labels);
        }
    });
}

/// Asks for the entry with this original tuple, in the zone of the entry (`CTA_ZONE`).
pub fn get(buffer: &mut Vec<u8>, sequence: u32, flags: u16, orig: &Tuple, zone: Option<u16>) {
    by_tuple(buffer, IPCTNL_MSG_CT_GET, sequence, flags, orig, zone);
}

/// Removes the entry with this original tuple, in the zone of the entry (`CTA_ZONE`).
pub fn delete(buffer: &mut Vec<u8>, sequence: u32, flags: u16, orig: &Tuple, zone: Option<u16>) {
    by_tuple(buffer, IPCTNL_MSG_CT_DELETE, sequence, flags, orig, zone);
}

/// Removes all entries of the network namespace.
pub fn flush(buffer: &mut Vec<u8>, sequence: u32, flags: u16) {
    message(buffer, IPCTNL_MSG_CT_DELETE, sequence, flags, AF_UNSPEC, |_| {});
}

/// Asks for all entries.
pub fn dump(buffer: &mut Vec<u8>, sequence: u32, flags: u16) {
    message(buffer, IPCTNL_MSG_CT_GET, sequence, flags | NLM_F_DUMP, AF_UNSPEC, |_| {});
}

/// Asks for the number of entries.
pub fn stats(buffer: &mut Vec<u8>, sequence: u32, flags: u16) {
    message(buffer, IPCTNL_MSG_CT_GET_STATS, sequence, flags, AF_UNSPEC, |_| {});
}

fn by_tuple(buffer: &mut Vec<u8>, operation: u8, sequence: u32, flags: u16, orig: &Tuple, zone: Option<u16>) {
    message(buffer, operation, sequence, flags, family(orig), |buffer| {
        tuple(buffer, CTA_TUPLE_ORIG, orig);
        if let Some(zone) = zone {
            attribute(buffer, CTA_ZONE, &zone.to_be_bytes());
        }
    });
}

fn family(tuple: &Tuple) -> u8 {
    match tuple.src {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// `enum ctattr_tuple`
fn tuple(buffer: &mut Vec<u8>, kind: u16, tuple: &Tuple) {
    let Tuple { src, dst, proto, l4, zone } = *tuple;
    nest(buffer, kind, |buffer| {
        nest(buffer, CTA_TUPLE_IP, |buffer| {
            address(buffer, src, CTA_IP_V4_SRC, CTA_IP_V6_SRC);
            address(buffer, dst, CTA_IP_V4_DST, CTA_IP_V6_DST);
        });
        nest(buffer, CTA_TUPLE_PROTO, |buffer| {
            attribute(buffer, CTA_PROTO_NUM, &[proto.0]);
            match l4 {
                L4::Ports { src, dst } => {
                    attribute(buffer, CTA_PROTO_SRC_PORT, &src.to_be_bytes());
                    attribute(buffer, CTA_PROTO_DST_PORT, &dst.to_be_bytes());
                }
                L4::Icmp { icmp_type, code, id } if proto == Protocol::ICMPV6 => {
                    attribute(buffer, CTA_PROTO_ICMPV6_ID, &id.to_be_bytes());
                    attribute(buffer, CTA_PROTO_ICMPV6_TYPE, &[icmp_type]);
                    attribute(buffer, CTA_PROTO_ICMPV6_CODE, &[code]);
                }
                L4::Icmp { icmp_type, code, id } => {
                    attribute(buffer, CTA_PROTO_ICMP_ID, &id.to_be_bytes());
                    attribute(buffer, CTA_PROTO_ICMP_TYPE, &[icmp_type]);
                    attribute(buffer, CTA_PROTO_ICMP_CODE, &[code]);
                }
                L4::None => {}
            }
        });
        if let Some(zone) = zone {
            attribute(buffer, CTA_TUPLE_ZONE, &zone.to_be_bytes());
        }
    });
}

fn address(buffer: &mut Vec<u8>, address: IpAddr, v4_kind: u16, v6_kind: u16) {
    match address {
        IpAddr::V4(address) => attribute(buffer, v4_kind, &address.octets()),
        IpAddr::V6(address) => attribute(buffer, v6_kind, &address.octets()),
    }
}

/// `enum ctattr_protoinfo`: the state, with what the kernel refuses to be without (`nlattr_to_sctp`,
/// `nlattr_to_dccp`).
fn proto_state(buffer: &mut Vec<u8>, state: ProtoState) {
    nest(buffer, CTA_PROTOINFO, |buffer| match state {
        ProtoState::Tcp(state) => nest(buffer, CTA_PROTOINFO_TCP, |buffer| {
            attribute(buffer, CTA_PROTOINFO_TCP_STATE, &[state.0]);
        }),
        ProtoState::Sctp(state) => nest(buffer, CTA_PROTOINFO_SCTP, |buffer| {
            attribute(buffer, CTA_PROTOINFO_SCTP_STATE, &[state.0]);
            attribute(buffer, CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, &[0; 4]);
            attribute(buffer, CTA_PROTOINFO_SCTP_VTAG_REPLY, &[0; 4]);
        }),
        ProtoState::Dccp(state) => nest(buffer, CTA_PROTOINFO_DCCP, |buffer| {
            attribute(buffer, CTA_PROTOINFO_DCCP_STATE, &[state.0]);
            attribute(buffer, CTA_PROTOINFO_DCCP_ROLE, &[0]);
        }),
    });
}

/// Appends `struct nlmsghdr`, `struct nfgenmsg` and what `fill` appends.
fn message(
    buffer: &mut Vec<u8>,
    operation: u8,
    sequence: u32,
    flags: u16,
    family: u8,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&u16::from_be_bytes([NFNL_SUBSYS_CTNETLINK, operation]).to_ne_bytes());
    buffer.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&[family, NFNETLINK_V0, 0, 0]);
    fill(buffer);
    write_length(buffer, start, u32::to_ne_bytes);
}

/// Appends an attribute that holds what `fill` appends.
fn nest(buffer: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 2]);
    buffer.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
    fill(buffer);
    write_length(buffer, start, u16::to_ne_bytes);
}

/// Appends an attribute with its padding.
fn attribute(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 2]);
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(value);
    write_length(buffer, start, u16::to_ne_bytes);
    buffer.resize(buffer.len() + padding(value.len()), 0);
}

/// Writes how much follows `start` into the first `N` bytes there.
fn write_length<T: TryFrom<usize>, const N: usize>(
    buffer: &mut [u8],
    start: usize,
    to_bytes: impl FnOnce(T) -> [u8; N],
) {
    let Some(element) = buffer.get_mut(start..) else { return };
    let len = element.len();
    if let (Some(field), Ok(len)) = (element.first_chunk_mut(), T::try_from(len)) {
        *field = to_bytes(len);
    }
}
