//! A tracked connection as plain values, in the words of the kernel's connection tracking.
//!
//! No IO, no netlink, no Arrow. Numbers are in host order. What the kernel did not say is `None`,
//! never zero: counters, for example, are absent while `nf_conntrack_acct` is off.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

/// One entry of the connection tracking table, as a message or a dump described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Tuple of the first packet: `CTA_TUPLE_ORIG`.
    pub orig: Tuple,
    /// Tuple that replies are expected with, after NAT: `CTA_TUPLE_REPLY`.
    pub reply: Tuple,
    /// `CTA_ID`.
    pub id: Option<u32>,
    /// `CTA_STATUS`.
    pub status: Option<Status>,
    /// Seconds until the entry would have expired: `CTA_TIMEOUT`. In a DESTROY message it is absent
    /// where the entry expired, and present where it was removed early.
    pub timeout_s: Option<u32>,
    /// `CTA_MARK`; events leave out a mark of zero, answers to requests do not.
    pub mark: Option<u32>,
    /// `CTA_ZONE`; the kernel leaves out the zone zero.
    pub zone: Option<u16>,
    /// `CTA_COUNTERS_ORIG`.
    pub orig_counters: Option<Counters>,
    /// `CTA_COUNTERS_REPLY`.
    pub reply_counters: Option<Counters>,
    /// `CTA_TIMESTAMP_START`: `CLOCK_REALTIME` in nanoseconds.
    pub start_ns: Option<u64>,
    /// `CTA_TIMESTAMP_STOP`: `CLOCK_REALTIME` in nanoseconds when the entry expired or was removed.
    pub stop_ns: Option<u64>,
    /// `CTA_TIMESTAMP_EVENT`: `CLOCK_REALTIME` in nanoseconds when the message was made.
    pub event_ns: Option<u64>,
    /// State of the protocol: `CTA_PROTOINFO`.
    pub state: Option<ProtoState>,
    /// `CTA_LABELS`, 128 bits as the kernel sends them.
    pub labels: Option<[u8; 16]>,
}

/// Addresses and protocol keys of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// `CTA_IP_V4_SRC` or `CTA_IP_V6_SRC`.
    pub src: IpAddr,
    /// `CTA_IP_V4_DST` or `CTA_IP_V6_DST`.
    pub dst: IpAddr,
    /// `CTA_PROTO_NUM`.
    pub proto: Protocol,
    /// What the protocol adds to the addresses.
    pub l4: L4,
    /// `CTA_TUPLE_ZONE`: the zone of this direction only, where the rules set just one.
    pub zone: Option<u16>,
}

/// In few large pieces, which takes half the time of the fields one by one: it is done for each flow.
impl Hash for Tuple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { src, dst, proto, l4, zone } = self;
        let bits = |addr: &IpAddr| match addr {
            IpAddr::V4(addr) => u128::from(addr.to_bits()),
            IpAddr::V6(addr) => addr.to_bits(),
        };
        let (kind, keys) = match *l4 {
            L4::None => (0, 0),
            L4::Ports { src, dst } => (1, u32::from(src) << 16 | u32::from(dst)),
            L4::Icmp { icmp_type, code, id } => {
                (2, u32::from(icmp_type) << 24 | u32::from(code) << 16 | u32::from(id))
            }
        };
        let zone = zone.map_or(0, |zone| 1 << 16 | u32::from(zone));
        state.write_u128(bits(src));
        state.write_u128(bits(dst));
        state.write_u64(u64::from(keys) << 32 | u64::from(zone));
        state.write_u32(u32::from(proto.0) << 16 | kind << 8 | u32::from(src.is_ipv4()));
    }
}

/// The part of a tuple that depends on the layer 4 protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum L4 {
    /// TCP, UDP, UDP-Lite, SCTP and DCCP ports; for GRE the keys (PPTP call ids), which the kernel
    /// carries in the same attributes.
    Ports {
        /// `CTA_PROTO_SRC_PORT`.
        src: u16,
        /// `CTA_PROTO_DST_PORT`.
        dst: u16,
    },
    /// ICMP and ICMPv6.
    Icmp {
        /// `CTA_PROTO_ICMP_TYPE` or `CTA_PROTO_ICMPV6_TYPE`.
        icmp_type: u8,
        /// `CTA_PROTO_ICMP_CODE` or `CTA_PROTO_ICMPV6_CODE`.
        code: u8,
        /// `CTA_PROTO_ICMP_ID` or `CTA_PROTO_ICMPV6_ID`.
        id: u16,
    },
    /// A protocol that is tracked by its addresses and number alone.
    None,
}

/// Packets and bytes of one direction. Bytes are layer 3 bytes, counted once per socket buffer: a
/// packet that GRO merged or GSO has yet to split counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// `CTA_COUNTERS_PACKETS`.
    pub packets: u64,
    /// `CTA_COUNTERS_BYTES`.
    pub bytes: u64,
}

/// An IANA protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// `IPPROTO_ICMP`
    pub const ICMP: Self = Self(1);
    /// `IPPROTO_IGMP`
    pub const IGMP: Self = Self(2);
    /// `IPPROTO_IPIP`
    pub const IPIP: Self = Self(4);
    /// `IPPROTO_TCP`
    pub const TCP: Self = Self(6);
    /// `IPPROTO_UDP`
    pub const UDP: Self = Self(17);
    /// `IPPROTO_DCCP`
    pub const DCCP: Self = Self(33);
    /// `IPPROTO_IPV6`
    pub const IPV6: Self = Self(41);
    /// `IPPROTO_GRE`
    pub const GRE: Self = Self(47);
    /// `IPPROTO_ESP`
    pub const ESP: Self = Self(50);
    /// `IPPROTO_AH`
    pub const AH: Self = Self(51);
    /// `IPPROTO_ICMPV6`
    pub const ICMPV6: Self = Self(58);
    /// OSPF
    pub const OSPF: Self = Self(89);
    /// `IPPROTO_PIM`
    pub const PIM: Self = Self(103);
    /// VRRP
    pub const VRRP: Self = Self(112);
    /// `IPPROTO_L2TP`
    pub const L2TP: Self = Self(115);
    /// `IPPROTO_SCTP`
    pub const SCTP: Self = Self(132);
    /// `IPPROTO_UDPLITE`
    pub const UDPLITE: Self = Self(136);

    /// The name in lower case, as `/etc/protocols` and conntrack(8) write it; `None` for the numbers
    /// that have no constant here.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::ICMP => "icmp",
            Self::IGMP => "igmp",
            Self::IPIP => "ipip",
            Self::TCP => "tcp",
            Self::UDP => "udp",
            Self::DCCP => "dccp",
            Self::IPV6 => "ipv6",
            Self::GRE => "gre",
            Self::ESP => "esp",
            Self::AH => "ah",
            Self::ICMPV6 => "icmpv6",
            Self::OSPF => "ospf",
            Self::PIM => "pim",
            Self::VRRP => "vrrp",
            Self::L2TP => "l2tp",
            Self::SCTP => "sctp",
            Self::UDPLITE => "udplite",
            _ => return None,
        })
    }
}

/// Bits of `CTA_STATUS`: `enum ip_conntrack_status`. Bits without a constant here are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// `IPS_EXPECTED`: an expectation made this entry.
    pub const EXPECTED: Self = Self(1 << 0);
    /// `IPS_SEEN_REPLY`: packets went both ways.
    pub const SEEN_REPLY: Self = Self(1 << 1);
    /// `IPS_ASSURED`: not evicted early when the table is full.
    pub const ASSURED: Self = Self(1 << 2);
    /// `IPS_CONFIRMED`: the first packet left the host, the entry is in the table.
    pub const CONFIRMED: Self = Self(1 << 3);
    /// `IPS_SRC_NAT`: source NAT in the original direction.
    pub const SRC_NAT: Self = Self(1 << 4);
    /// `IPS_DST_NAT`: destination NAT in the original direction.
    pub const DST_NAT: Self = Self(1 << 5);
    /// `IPS_SEQ_ADJUST`: TCP needs its sequence numbers adjusted.
    pub const SEQ_ADJUST: Self = Self(1 << 6);
    /// `IPS_SRC_NAT_DONE`
    pub const SRC_NAT_DONE: Self = Self(1 << 7);
    /// `IPS_DST_NAT_DONE`
    pub const DST_NAT_DONE: Self = Self(1 << 8);
    /// `IPS_DYING`: removed from the table.
    pub const DYING: Self = Self(1 << 9);
    /// `IPS_FIXED_TIMEOUT`: packets do not renew the timeout.
    pub const FIXED_TIMEOUT: Self = Self(1 << 10);
    /// `IPS_TEMPLATE`
    pub const TEMPLATE: Self = Self(1 << 11);
    /// `IPS_NAT_CLASH` (was `IPS_UNTRACKED`)
    pub const NAT_CLASH: Self = Self(1 << 12);
    /// `IPS_HELPER`: a rule gave it its helper.
    pub const HELPER: Self = Self(1 << 13);
    /// `IPS_OFFLOAD`: handled by a flow table; its counters may lag.
    pub const OFFLOAD: Self = Self(1 << 14);
    /// `IPS_HW_OFFLOAD`: handled by hardware.
    pub const HW_OFFLOAD: Self = Self(1 << 15);

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Names of the bits that are set, as in the kernel's specification of the family.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(Status, &str); 16] = [
            (Status::EXPECTED, "expected"),
            (Status::SEEN_REPLY, "seen-reply"),
            (Status::ASSURED, "assured"),
            (Status::CONFIRMED, "confirmed"),
            (Status::SRC_NAT, "src-nat"),
            (Status::DST_NAT, "dst-nat"),
            (Status::SEQ_ADJUST, "seq-adj"),
            (Status::SRC_NAT_DONE, "src-nat-done"),
            (Status::DST_NAT_DONE, "dst-nat-done"),
            (Status::DYING, "dying"),
            (Status::FIXED_TIMEOUT, "fixed-timeout"),
            (Status::TEMPLATE, "template"),
            (Status::NAT_CLASH, "nat-clash"),
            (Status::HELPER, "helper"),
            (Status::OFFLOAD, "offload"),
            (Status::HW_OFFLOAD, "hw-offload"),
        ];
        NAMES.into_iter().filter(move |(bit, _)| self.contains(*bit)).map(|(_, name)| name)
    }
}

/// The state of a protocol that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtoState {
    /// `CTA_PROTOINFO_TCP_STATE`
    Tcp(TcpState),
    /// `CTA_PROTOINFO_SCTP_STATE`
    Sctp(SctpState),
    /// `CTA_PROTOINFO_DCCP_STATE`
    Dccp(DccpState),
}

impl ProtoState {
    /// The kernel's name in lower case; `None` for a number that has none.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Tcp(state) => state.name(),
            Self::Sctp(state) => state.name(),
            Self::Dccp(state) => state.name(),
        }
    }

    /// The number as it was received.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp(TcpState(n)) | Self::Sctp(SctpState(n)) | Self::Dccp(DccpState(n)) => n,
        }
    }
}

/// Makes a newtype over the kernel's number with a constant and a name for each known value.
/// Unknown numbers are ordinary values without a name.
macro_rules! state {
    ($(#[$doc:meta])* $type:ident { $($constant:ident = $number:literal, $name:literal, $uapi:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $type(pub u8);

        impl $type {
            $(#[doc = concat!("`", $uapi, "`")] pub const $constant: Self = Self($number);)*

            /// The kernel's name in lower case; `None` for a number that has none.
            pub fn name(self) -> Option<&'static str> {
                Some(match self {
                    $(Self::$constant => $name,)*
                    _ => return None,
                })
            }
        }
    };
}

state! {
    /// `enum tcp_conntrack` of `linux/netfilter/nf_conntrack_tcp.h`.
    TcpState {
        NONE = 0, "none", "TCP_CONNTRACK_NONE";
        SYN_SENT = 1, "syn_sent", "TCP_CONNTRACK_SYN_SENT";
        SYN_RECV = 2, "syn_recv", "TCP_CONNTRACK_SYN_RECV";
        ESTABLISHED = 3, "established", "TCP_CONNTRACK_ESTABLISHED";
        FIN_WAIT = 4, "fin_wait", "TCP_CONNTRACK_FIN_WAIT";
        CLOSE_WAIT = 5, "close_wait", "TCP_CONNTRACK_CLOSE_WAIT";
        LAST_ACK = 6, "last_ack", "TCP_CONNTRACK_LAST_ACK";
        TIME_WAIT = 7, "time_wait", "TCP_CONNTRACK_TIME_WAIT";
        CLOSE = 8, "close", "TCP_CONNTRACK_CLOSE";
        SYN_SENT2 = 9, "syn_sent2", "TCP_CONNTRACK_SYN_SENT2 (was TCP_CONNTRACK_LISTEN)";
    }
}

state! {
    /// `enum sctp_conntrack` of `linux/netfilter/nf_conntrack_sctp.h`.
    SctpState {
        NONE = 0, "none", "SCTP_CONNTRACK_NONE";
        CLOSED = 1, "closed", "SCTP_CONNTRACK_CLOSED";
        COOKIE_WAIT = 2, "cookie_wait", "SCTP_CONNTRACK_COOKIE_WAIT";
        COOKIE_ECHOED = 3, "cookie_echoed", "SCTP_CONNTRACK_COOKIE_ECHOED";
        ESTABLISHED = 4, "established", "SCTP_CONNTRACK_ESTABLISHED";
        SHUTDOWN_SENT = 5, "shutdown_sent", "SCTP_CONNTRACK_SHUTDOWN_SENT";
        SHUTDOWN_RECD = 6, "shutdown_recd", "SCTP_CONNTRACK_SHUTDOWN_RECD";
        SHUTDOWN_ACK_SENT = 7, "shutdown_ack_sent", "SCTP_CONNTRACK_SHUTDOWN_ACK_SENT";
        HEARTBEAT_SENT = 8, "heartbeat_sent", "SCTP_CONNTRACK_HEARTBEAT_SENT";
        HEARTBEAT_ACKED = 9, "heartbeat_acked", "SCTP_CONNTRACK_HEARTBEAT_ACKED (not sent since 6.1)";
    }
}

state! {
    /// `enum ct_dccp_states` of `linux/netfilter/nf_conntrack_dccp.h`; Linux 6.16 has no DCCP.
    DccpState {
        NONE = 0, "none", "CT_DCCP_NONE";
        REQUEST = 1, "request", "CT_DCCP_REQUEST";
        RESPOND = 2, "respond", "CT_DCCP_RESPOND";
        PARTOPEN = 3, "partopen", "CT_DCCP_PARTOPEN";
        OPEN = 4, "open", "CT_DCCP_OPEN";
        CLOSEREQ = 5, "closereq", "CT_DCCP_CLOSEREQ";
        CLOSING = 6, "closing", "CT_DCCP_CLOSING";
        TIMEWAIT = 7, "timewait", "CT_DCCP_TIMEWAIT";
        IGNORE = 8, "ignore", "CT_DCCP_IGNORE";
        INVALID = 9, "invalid", "CT_DCCP_INVALID";
    }
}

/// Why a flow ended, as far as its last message tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// Both ends closed it in order.
    Closed,
    /// A reset or an abort ended it.
    Reset,
    /// Nothing was seen for as long as the timeout of its state.
    Timeout,
    /// The entry was removed while the connection was still open: by somebody, or by the kernel because
    /// its table was full, which the message does not tell apart.
    Deleted,
    /// Nobody saw how.
    Unknown,
}

impl EndReason {
    /// The text of the column `end_reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Deleted => "deleted",
            Self::Unknown => "unknown",
        }
    }
}

impl Flow {
    /// An entry of which only the tuples are known.
    pub fn new(orig: Tuple, reply: Tuple) -> Self {
        Self {
            orig,
            reply,
            id: None,
            status: None,
            timeout_s: None,
            mark: None,
            zone: None,
            orig_counters: None,
            reply_counters: None,
            start_ns: None,
            stop_ns: None,
            event_ns: None,
            state: None,
            labels: None,
        }
    }

    /// Why this flow ended, where `self` is its DESTROY message.
    ///
    /// The protocol's own end wins: a connection that was closed or reset has ended so, no matter
    /// whether its entry then expired or a new connection with the same tuple displaced it. Else the
    /// absence of `CTA_TIMEOUT` tells an entry that expired from one that was removed
    /// (`ctnetlink_dump_timeout` with `skip_zero`). Linux 5.10 sends neither that nor the state.
    pub fn end_reason(&self) -> EndReason {
        let has_states = matches!(self.orig.proto, Protocol::TCP | Protocol::SCTP | Protocol::DCCP);
        match self.end_of_protocol() {
            EndReason::Unknown if self.timeout_s.is_some() => EndReason::Deleted,
            EndReason::Unknown if has_states && self.state.is_none() => EndReason::Unknown,
            EndReason::Unknown => EndReason::Timeout,
            reason => reason,
        }
    }

    /// How the protocol itself ended the connection, where it has.
    pub fn end_of_protocol(&self) -> EndReason {
        match self.state {
            Some(
                ProtoState::Tcp(TcpState::TIME_WAIT)
                | ProtoState::Sctp(SctpState::CLOSED)
                | ProtoState::Dccp(DccpState::TIMEWAIT),
            ) => EndReason::Closed,
            Some(ProtoState::Tcp(TcpState::CLOSE)) => EndReason::Reset,
            _ => EndReason::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tuple;

    #[test]
    fn the_last_message_tells_how_a_flow_ended_or_not() {
        let check = |proto, state: Option<TcpState>, timeout_s, expected| {
            let tuple = tuple("10.0.0.1", "10.0.0.1", proto, L4::None);
            let flow = Flow { timeout_s, state: state.map(ProtoState::Tcp), ..Flow::new(tuple, tuple) };
            assert_eq!(flow.end_reason(), expected, "{flow:?}");
        };
        check(Protocol::TCP, Some(TcpState::TIME_WAIT), Some(5), EndReason::Closed);
        check(Protocol::TCP, Some(TcpState::CLOSE), None, EndReason::Reset);
        check(Protocol::TCP, Some(TcpState::ESTABLISHED), Some(5), EndReason::Deleted);
        check(Protocol::TCP, Some(TcpState::SYN_SENT), None, EndReason::Timeout);
        // As Linux 5.10 sends it, whatever happened.
        check(Protocol::TCP, None, None, EndReason::Unknown);
        check(Protocol::UDP, None, Some(5), EndReason::Deleted);
        check(Protocol::UDP, None, None, EndReason::Timeout);
    }
}
