//! A tuple that may be incomplete: what a request asks for, or the mask of an expectation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::nla::{Attributes, DecodeError};
use super::super::uapi::*;
use super::value::{Value, set};

set! {
    /// `enum ctattr_tuple`
    TupleAttributes {
        CTA_TUPLE_IP => ip: IpAttributes,
        CTA_TUPLE_PROTO => proto: L4Attributes,
        CTA_TUPLE_ZONE => zone: u16,
    }

    /// `enum ctattr_ip`
    IpAttributes {
        CTA_IP_V4_SRC => v4_src: Ipv4Addr,
        CTA_IP_V4_DST => v4_dst: Ipv4Addr,
        CTA_IP_V6_SRC => v6_src: Ipv6Addr,
        CTA_IP_V6_DST => v6_dst: Ipv6Addr,
    }

    /// `enum ctattr_l4proto`
    L4Attributes {
        CTA_PROTO_NUM => number: u8,
        CTA_PROTO_SRC_PORT => src_port: u16,
        CTA_PROTO_DST_PORT => dst_port: u16,
        CTA_PROTO_ICMP_ID => icmp_id: u16,
        CTA_PROTO_ICMP_TYPE => icmp_type: u8,
        CTA_PROTO_ICMP_CODE => icmp_code: u8,
        CTA_PROTO_ICMPV6_ID => icmpv6_id: u16,
        CTA_PROTO_ICMPV6_TYPE => icmpv6_type: u8,
        CTA_PROTO_ICMPV6_CODE => icmpv6_code: u8,
    }
}

impl TupleAttributes {
    /// The source address, of whichever family.
    pub fn src(&self) -> Option<IpAddr> {
        let ip = self.ip.as_ref()?;
        ip.v4_src.map(IpAddr::V4).or(ip.v6_src.map(IpAddr::V6))
    }

    /// The destination address, of whichever family.
    pub fn dst(&self) -> Option<IpAddr> {
        let ip = self.ip.as_ref()?;
        ip.v4_dst.map(IpAddr::V4).or(ip.v6_dst.map(IpAddr::V6))
    }

    /// Sets the source address.
    pub fn set_src(&mut self, address: IpAddr) {
        let ip = self.ip.get_or_insert_default();
        match address {
            IpAddr::V4(address) => ip.v4_src = Some(address),
            IpAddr::V6(address) => ip.v6_src = Some(address),
        }
    }

    /// Sets the destination address.
    pub fn set_dst(&mut self, address: IpAddr) {
        let ip = self.ip.get_or_insert_default();
        match address {
            IpAddr::V4(address) => ip.v4_dst = Some(address),
            IpAddr::V6(address) => ip.v6_dst = Some(address),
        }
    }

    /// The address family (`AF_INET`, `AF_INET6`) of the addresses that are there.
    pub fn family(&self) -> Option<u8> {
        match self.src().or(self.dst())? {
            IpAddr::V4(_) => Some(AF_INET),
            IpAddr::V6(_) => Some(AF_INET6),
        }
    }
}

impl L4Attributes {
    /// ICMP or ICMPv6 type, code and id.
    pub fn icmp(&self) -> (Option<u8>, Option<u8>, Option<u16>) {
        (
            self.icmpv6_type.or(self.icmp_type),
            self.icmpv6_code.or(self.icmp_code),
            self.icmpv6_id.or(self.icmp_id),
        )
    }
}
