//! Whether an entry is one that the options ask for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::commands::Command;
use super::failure::Failure;
use super::options::Opt;
use super::parse::{Invocation, NatEnd};
use crate::connections::ctnetlink::sets::{L4Attributes, ProtoInfo, TupleAttributes};
use crate::connections::ctnetlink::{Entry, Filter};
use crate::flow::Status;

/// The options that choose entries.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    family: Option<u8>,
    /// With an original tuple that lacks the addresses that have a mask.
    wanted: Entry,
    src: Option<(IpAddr, IpAddr)>,
    dst: Option<(IpAddr, IpAddr)>,
    mark: Option<(u32, u32)>,
    status: Option<(u32, u32)>,
    labels: Option<[u8; 16]>,
    src_nat: Option<NatEnd>,
    dst_nat: Option<NatEnd>,
    any_nat: bool,
}

impl Matcher {
    pub(super) fn new(line: &Invocation) -> Result<Self, Failure> {
        check_masks(line)?;
        let mut wanted = line.entry.clone();
        let network =
            |given: bool, address: Option<IpAddr>, mask: Option<IpAddr>| address.zip(mask).filter(|_| given);
        let orig = wanted.orig.get_or_insert_default();
        let src = network(line.has(Opt::MaskSrc), orig.src(), line.mask.src());
        let dst = network(line.has(Opt::MaskDst), orig.dst(), line.mask.dst());
        if let Some(ip) = &mut orig.ip {
            if src.is_some() {
                (ip.v4_src, ip.v6_src) = (None, None);
            }
            if dst.is_some() {
                (ip.v4_dst, ip.v6_dst) = (None, None);
            }
        }
        let mut matcher = Self {
            family: line.family,
            wanted,
            src,
            dst,
            mark: line.mark,
            status: line.status,
            labels: line.labels,
            src_nat: line.src_nat,
            dst_nat: line.dst_nat,
            any_nat: line.any_nat,
        };
        if line.command == Some(Command::Update) {
            // What is to be set, not what is to be found.
            matcher.mark = None;
            matcher.status = None;
            matcher.wanted.timeout_s = None;
            matcher.wanted.proto_info = None;
        }
        Ok(matcher)
    }

    /// What of this the kernel can look at.
    pub(super) fn kernel_filter(&self) -> Filter {
        Filter {
            family: self.family,
            mark: self.mark,
            status: self.status.filter(|(_, mask)| *mask != 0),
            // Zero stands for all zones there.
            zone: self.wanted.zone.filter(|zone| *zone != 0),
            ..Filter::default()
        }
    }

    /// Whether an entry fits. What the kernel was asked to look at is looked at again: old kernels do
    /// not know all of it.
    pub(super) fn fits(&self, entry: &Entry) -> bool {
        let Self { family, wanted, src, dst, mark, status, labels, .. } = self;
        let masked =
            |(value, mask): (u32, u32), found: Option<u32>| found.is_some_and(|found| found & mask == value);
        let orig = entry.orig.as_ref();
        family.is_none_or(|family| entry.family() == Some(family))
            && mark.is_none_or(|mark| masked(mark, entry.mark))
            && status.is_none_or(|status| masked(status, entry.status))
            && labels.is_none_or(|wanted| has_labels(entry, &wanted))
            && src.is_none_or(|src| in_network(src, orig.and_then(TupleAttributes::src)))
            && dst.is_none_or(|dst| in_network(dst, orig.and_then(TupleAttributes::dst)))
            && same(wanted.id, entry.id)
            && same(wanted.timeout_s, entry.timeout_s)
            // The kernel leaves out the zone zero.
            && same(wanted.zone, Some(entry.zone.unwrap_or(0)))
            && same_tuple(wanted.orig.as_ref(), orig)
            && same_tuple(wanted.reply.as_ref(), entry.reply.as_ref())
            && same_state(wanted.proto_info.as_ref(), entry.proto_info.as_ref())
            && self.has_nat(entry)
    }

    fn has_nat(&self, entry: &Entry) -> bool {
        let has = |end: Option<NatEnd>, is_src| end.map(|end| leads_to(entry, end, is_src));
        match (has(self.src_nat, true), has(self.dst_nat, false)) {
            (Some(src), Some(dst)) if self.any_nat => src || dst,
            (src, dst) => src.unwrap_or(true) && dst.unwrap_or(true),
        }
    }
}

/// A mask says which part of an address counts, and so needs the address.
fn check_masks(line: &Invocation) -> Result<(), Failure> {
    if line.has(Opt::MaskSrc) && !line.has(Opt::Src) {
        return Err(Failure::usage("Can't use --mask-src without --src"));
    }
    if line.has(Opt::MaskDst) && !line.has(Opt::Dst) {
        return Err(Failure::usage("Can't use --mask-dst without --dst"));
    }
    Ok(())
}

/// Where nothing is wanted, all is well.
fn same<T: PartialEq>(wanted: Option<T>, found: Option<T>) -> bool {
    wanted.is_none() || wanted == found
}

fn has_labels(entry: &Entry, wanted: &[u8; 16]) -> bool {
    let found = entry.labels.unwrap_or_default();
    wanted.iter().zip(found).all(|(wanted, found)| wanted & found == *wanted)
}

fn in_network((address, mask): (IpAddr, IpAddr), found: Option<IpAddr>) -> bool {
    match (address, mask, found) {
        (IpAddr::V4(address), IpAddr::V4(mask), Some(IpAddr::V4(found))) => {
            Ipv4Addr::from_bits((address.to_bits() ^ found.to_bits()) & mask.to_bits()).is_unspecified()
        }
        (IpAddr::V6(address), IpAddr::V6(mask), Some(IpAddr::V6(found))) => {
            Ipv6Addr::from_bits((address.to_bits() ^ found.to_bits()) & mask.to_bits()).is_unspecified()
        }
        _ => false,
    }
}

fn same_tuple(wanted: Option<&TupleAttributes>, found: Option<&TupleAttributes>) -> bool {
    let Some(wanted) = wanted else { return true };
    let Some(found) = found else { return false };
    let proto = match (&wanted.proto, &found.proto) {
        (Some(wanted), Some(found)) => same_keys(wanted, found),
        (wanted, _) => wanted.is_none(),
    };
    proto
        && same(wanted.src(), found.src())
        && same(wanted.dst(), found.dst())
        && same(wanted.zone, Some(found.zone.unwrap_or(0)))
}

fn same_keys(wanted: &L4Attributes, found: &L4Attributes) -> bool {
    let (wanted_icmp, found_icmp) = (wanted.icmp(), found.icmp());
    same(wanted.number, found.number)
        && same(wanted.src_port, found.src_port)
        && same(wanted.dst_port, found.dst_port)
        && same(wanted_icmp.0, found_icmp.0)
        && same(wanted_icmp.1, found_icmp.1)
        && same(wanted_icmp.2, found_icmp.2)
}

fn same_state(wanted: Option<&ProtoInfo>, found: Option<&ProtoInfo>) -> bool {
    let number = |info: Option<&ProtoInfo>| {
        let info = info?;
        let tcp = || info.tcp.as_ref()?.state;
        let sctp = || info.sctp.as_ref()?.state;
        let dccp = || info.dccp.as_ref()?.state;
        tcp().or_else(sctp).or_else(dccp)
    };
    same(number(wanted), number(found))
}

/// Whether an entry has NAT of its source or destination, to this address and port.
fn leads_to(entry: &Entry, end: NatEnd, is_src: bool) -> bool {
    let nat = Nat::of(entry, is_src);
    match (end.address, end.port) {
        (None, None) => nat.address.is_some() || nat.port.is_some(),
        (address, port) => same(address, nat.address) && same(port, nat.port),
    }
}

/// What NAT made of one end, where it changed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nat {
    pub(super) address: Option<IpAddr>,
    pub(super) port: Option<u16>,
}

impl Nat {
    pub(super) fn of(entry: &Entry, is_src: bool) -> Self {
        let none = Self { address: None, port: None };
        let done = if is_src { Status::SRC_NAT_DONE } else { Status::DST_NAT_DONE };
        let (Some(orig), Some(reply)) = (&entry.orig, &entry.reply) else { return none };
        if entry.status.is_some_and(|status| !Status(status).contains(done)) {
            return none;
        }
        let keys = |tuple: &TupleAttributes| {
            let proto = tuple.proto.as_ref();
            (proto.and_then(|proto| proto.src_port), proto.and_then(|proto| proto.dst_port))
        };
        let ((orig_src, orig_dst), (reply_src, reply_dst)) = (keys(orig), keys(reply));
        let (before, after, port_before, port_after) = match is_src {
            true => (orig.src(), reply.dst(), orig_src, reply_dst),
            false => (orig.dst(), reply.src(), orig_dst, reply_src),
        };
        Self {
            address: after.filter(|_| before != after),
            port: port_after.filter(|_| port_before != port_after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::connections::ctnetlink::sets::TcpInfo;
    use crate::flow::{Flow, L4, Protocol};
    use crate::testing::tuple;

    /// A connection to 10.0.0.2:80 that source NAT sends from 9.9.9.9:7000.
    fn entry() -> Entry {
        let tuple = |src_ip: &str, dst_ip: &str, src, dst| {
            tuple(src_ip, dst_ip, Protocol::TCP, L4::Ports { src, dst })
        };
        let flow = Flow::new(tuple("10.0.0.1", "10.0.0.2", 1000, 80), tuple("10.0.0.2", "9.9.9.9", 80, 7000));
        let tcp = TcpInfo { state: Some(3), ..TcpInfo::default() };
        Entry {
            status: Some(Status::SRC_NAT_DONE.0 | Status::SEEN_REPLY.0),
            mark: Some(0x15),
            timeout_s: Some(100),
            labels: Some([0b101, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            proto_info: Some(ProtoInfo { tcp: Some(tcp), ..ProtoInfo::default() }),
            ..(&flow).into()
        }
    }

    #[test]
    fn entries() {
        for (options, expected) in [
            ("", true),
            ("-s 10.0.0.1 -p tcp", true),
            ("-s 10.0.0.0/24 -d 10.0.0.0/31", false),
            ("-s 10.0.0.77/24", true),
            ("-d 10.0.0.2 --mask-dst 255.0.0.0", true),
            ("-r 10.0.0.2 -q 9.9.9.9", true),
            ("-q 10.0.0.1", false),
            ("-p udp", false),
            ("-p tcp --sport 1000 --reply-port-dst 7000", true),
            ("-p tcp --dport 81", false),
            ("-p tcp --state ESTABLISHED", true),
            ("-p tcp --state CLOSE", false),
            ("-f ipv6", false),
            ("-m 5/0xf", true),
            ("-m 5", false),
            ("-u SEEN_REPLY", true),
            ("-u SEEN_REPLY,ASSURED", false),
            ("-u !SEEN_REPLY", false),
            ("-u !ASSURED", true),
            ("-w 0", true),
            ("-w 1", false),
            ("--orig-zone 1", false),
            ("-n", true),
            ("-n 9.9.9.9", true),
            ("-n 9.9.9.9:7000", true),
            ("-n 9.9.9.9:7001", false),
            ("-n 9.9.9.8", false),
            ("-g", false),
            ("-j", true),
            ("-j 9.9.9.9", true),
            ("-n -g", false),
        ] {
            let args = format!("-L {options}");
            let line = parse::parse(args.split_whitespace().map(Into::into).collect()).unwrap();
            assert_eq!(Matcher::new(&line).unwrap().fits(&entry()), expected, "{options}");
        }
    }

    #[test]
    fn labels_and_what_an_update_sets() {
        let mut line = Invocation::default();
        let mut wanted = [0; 16];
        wanted[0] = 0b100;
        line.labels = Some(wanted);
        assert!(Matcher::new(&line).unwrap().fits(&entry()));
        wanted[15] = 1;
        line.labels = Some(wanted);
        assert!(!Matcher::new(&line).unwrap().fits(&entry()));

        let args = "-U -m 7 -t 9 -u ASSURED -p tcp --state CLOSE".split_whitespace();
        let line = parse::parse(args.map(Into::into).collect()).unwrap();
        assert!(Matcher::new(&line).unwrap().fits(&entry()));
    }
}
