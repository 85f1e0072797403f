//! What requests send: tuples completed from what was given.

use super::options::Opt;
use super::parse::{Invocation, LabelChange};
use crate::connections::ctnetlink::sets::{L4Attributes, TcpFlags, TcpInfo, TupleAttributes};
use crate::connections::ctnetlink::{Entry, Expectation};
use crate::flow::{Protocol, Status, TcpState};

/// The entry that `-I` and `-A` make.
pub(super) fn to_make(line: &Invocation) -> Entry {
    let mut entry = to_find(line);
    let zone = |tuple: &Option<TupleAttributes>| tuple.as_ref().and_then(|tuple| tuple.zone);
    match (line.has(Opt::Src) || line.has(Opt::Dst), line.has(Opt::ReplySrc) || line.has(Opt::ReplyDst)) {
        (true, false) => {
            let zone = zone(&entry.reply);
            entry.reply = entry.orig.as_ref().map(|orig| TupleAttributes { zone, ..inverse(orig) });
        }
        (false, true) => {
            let zone = zone(&entry.orig);
            entry.orig = entry.reply.as_ref().map(|reply| TupleAttributes { zone, ..inverse(reply) });
        }
        _ => {}
    }
    // A saved entry with NAT has one address of the replies, NAT gives the other.
    if let (Some(orig), Some(reply)) = (&entry.orig, &mut entry.reply) {
        if let Some(src) = orig.dst().filter(|_| reply.src().is_none()) {
            reply.set_src(src);
        }
        if let Some(dst) = orig.src().filter(|_| reply.dst().is_none()) {
            reply.set_dst(dst);
        }
    }
    entry.mark = line.mark.map(|(mark, _)| mark);
    entry.status = line.status.map(|(status, _)| status | Status::CONFIRMED.0);
    if let Some(LabelChange::Add(labels)) = line.change_labels {
        entry.labels = Some(labels);
    }
    if line.known_protocol.is_some_and(|known| known.protocol == Protocol::TCP) {
        let info = entry.proto_info.get_or_insert_default();
        liberal(info.tcp.get_or_insert_default());
    }
    entry
}

/// The kernel has not seen the windows of a connection that is made by hand, so it must not judge by
/// them. One that has ended may begin anew at once (RFC 1122), as by the end that closed it first.
fn liberal(tcp: &mut TcpInfo) {
    let mut flags = TcpFlags::BE_LIBERAL | TcpFlags::SACK_PERM;
    if tcp.state.is_some_and(|state| state >= TcpState::TIME_WAIT.0) {
        flags |= TcpFlags::CLOSE_INIT;
    }
    tcp.orig_flags = Some(TcpFlags { flags, mask: flags });
    tcp.reply_flags = Some(TcpFlags { flags, mask: flags });
}

/// The entry that `-G` asks for: what was given, with what the kernel refuses to be without.
pub(super) fn to_find(line: &Invocation) -> Entry {
    let mut entry = line.entry.clone();
    let protocol = entry.protocol();
    let known = line.known_protocol.is_some();
    if let Some(reply) = &mut entry.reply {
        let proto = reply.proto.get_or_insert_default();
        match protocol {
            // Options of the reply direction say it for the others.
            Some(protocol) if !known => proto.number = Some(protocol.0),
            _ => {}
        }
    }
    if let Some(orig) = &mut entry.orig
        && let Some(proto) = &mut orig.proto
    {
        match protocol {
            Some(Protocol::ICMP) => proto.icmp_id = Some(proto.icmp_id.unwrap_or(0)),
            Some(Protocol::ICMPV6) => proto.icmpv6_id = Some(proto.icmpv6_id.unwrap_or(0)),
            _ => {}
        }
        if let Some(reply) = &mut entry.reply
            && matches!(protocol, Some(Protocol::ICMP | Protocol::ICMPV6))
        {
            reply.proto = Some(inverse_keys(proto));
        }
    }
    entry
}

/// What `-U` makes of an entry; none where it is so already. Bits of the status are only added, as the
/// kernel takes none away.
pub(super) fn to_change(line: &Invocation, entry: &Entry) -> Option<Entry> {
    let (labels, labels_mask) = match (line.change_labels, entry.labels) {
        (Some(LabelChange::Add(bits)), found) => (Some(bits), found.map(|_| bits)),
        (Some(LabelChange::Remove(bits)), Some(_)) => (Some([0; 16]), Some(bits)),
        (Some(LabelChange::RemoveAll), Some(found)) if found != [0; 16] => (Some([0; 16]), None),
        _ => (None, None),
    };
    let wanted = Entry {
        orig: entry.orig.clone(),
        zone: entry.zone,
        status: line.status.map(|(value, _)| entry.status.unwrap_or(0) | value | Status::CONFIRMED.0),
        mark: line.mark.map(|(value, mask)| (entry.mark.unwrap_or(0) & !mask) ^ value),
        timeout_s: line.entry.timeout_s,
        proto_info: line.entry.proto_info.clone(),
        labels,
        labels_mask,
        ..Entry::default()
    };
    let is_so = (wanted.status.is_none() || wanted.status == entry.status)
        && (wanted.mark.is_none() || wanted.mark == entry.mark)
        && (wanted.timeout_s.is_none() || wanted.timeout_s == entry.timeout_s)
        && (wanted.proto_info.is_none() || wanted.state() == entry.state())
        && wanted.labels.is_none();
    (!is_so).then_some(wanted)
}

/// The expectation that `-I expect` makes.
pub(super) fn expectation(line: &Invocation) -> Expectation {
    Expectation {
        master: line.entry.orig.clone(),
        tuple: Some(line.expected.clone()),
        mask: Some(line.mask.clone()),
        timeout_s: line.entry.timeout_s,
        ..Expectation::default()
    }
}

/// The tuple of the other direction, without NAT.
fn inverse(tuple: &TupleAttributes) -> TupleAttributes {
    let mut inverse = TupleAttributes::default();
    if let Some(src) = tuple.src() {
        inverse.set_dst(src);
    }
    if let Some(dst) = tuple.dst() {
        inverse.set_src(dst);
    }
    inverse.proto = tuple.proto.as_ref().map(inverse_keys);
    inverse
}

fn inverse_keys(proto: &L4Attributes) -> L4Attributes {
    L4Attributes {
        src_port: proto.dst_port,
        dst_port: proto.src_port,
        icmp_type: proto.icmp_type.map(|icmp_type| match icmp_type {
            // Echo, timestamp, information and address mask, request and reply.
            8 => 0,
            0 => 8,
            13 => 14,
            14 => 13,
            15 => 16,
            16 => 15,
            17 => 18,
            18 => 17,
            // The kernel refuses it: these have no answer.
            _ => 255,
        }),
        icmpv6_type: proto.icmpv6_type.map(|icmp_type| match icmp_type {
            // Echo and node information.
            128 => 129,
            129 => 128,
            139 => 140,
            140 => 139,
            _ => 255,
        }),
        ..proto.clone()
    }
}
