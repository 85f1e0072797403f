//! A tracked connection with everything that the kernel says of it, or is asked to set.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::nla::{Attribute, Attributes, DecodeError, attribute as append};
use super::super::uapi::*;
use super::tuple::TupleAttributes;
use super::value::{Name, Value, set};

set! {
    /// `enum ctattr_type`
    Entry {
        CTA_TUPLE_ORIG => orig: TupleAttributes,
        CTA_TUPLE_REPLY => reply: TupleAttributes,
        CTA_STATUS => status: u32,
        CTA_PROTOINFO => proto_info: ProtoInfo,
        CTA_HELP => helper: Helper,
        CTA_NAT_SRC => nat_src: NatRange,
        CTA_TIMEOUT => timeout_s: u32,
        CTA_MARK => mark: u32,
        CTA_COUNTERS_ORIG => orig_counters: CounterAttributes,
        CTA_COUNTERS_REPLY => reply_counters: CounterAttributes,
        CTA_USE => use_count: u32,
        CTA_ID => id: u32,
        CTA_NAT_DST => nat_dst: NatRange,
        CTA_TUPLE_MASTER => master: TupleAttributes,
        CTA_SEQ_ADJ_ORIG => orig_seq_adj: SeqAdj,
        CTA_SEQ_ADJ_REPLY => reply_seq_adj: SeqAdj,
        CTA_SECMARK => secmark: u32,
        CTA_ZONE => zone: u16,
        CTA_SECCTX => security_context: SecurityContext,
        CTA_TIMESTAMP => timestamps: Timestamps,
        CTA_MARK_MASK => mark_mask: u32,
        CTA_LABELS => labels: [u8; 16],
        CTA_LABELS_MASK => labels_mask: [u8; 16],
        CTA_SYNPROXY => synproxy: SynProxy,
        CTA_FILTER => filter: FilterFlags,
        CTA_STATUS_MASK => status_mask: u32,
        CTA_TIMESTAMP_EVENT => event_ns: u64,
    }

    /// `enum ctattr_protoinfo`
    ProtoInfo {
        CTA_PROTOINFO_TCP => tcp: TcpInfo,
        CTA_PROTOINFO_DCCP => dccp: DccpInfo,
        CTA_PROTOINFO_SCTP => sctp: SctpInfo,
    }

    /// `enum ctattr_protoinfo_tcp`
    TcpInfo {
        CTA_PROTOINFO_TCP_STATE => state: u8,
        CTA_PROTOINFO_TCP_WSCALE_ORIGINAL => orig_window_scale: u8,
        CTA_PROTOINFO_TCP_WSCALE_REPLY => reply_window_scale: u8,
        CTA_PROTOINFO_TCP_FLAGS_ORIGINAL => orig_flags: TcpFlags,
        CTA_PROTOINFO_TCP_FLAGS_REPLY => reply_flags: TcpFlags,
    }

    /// `enum ctattr_protoinfo_dccp`
    DccpInfo {
        CTA_PROTOINFO_DCCP_STATE => state: u8,
        CTA_PROTOINFO_DCCP_ROLE => role: u8,
        CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ => handshake_seq: u64,
        CTA_PROTOINFO_DCCP_PAD => pad: Vec<u8>,
    }

    /// `enum ctattr_protoinfo_sctp`
    SctpInfo {
        CTA_PROTOINFO_SCTP_STATE => state: u8,
        CTA_PROTOINFO_SCTP_VTAG_ORIGINAL => orig_vtag: u32,
        CTA_PROTOINFO_SCTP_VTAG_REPLY => reply_vtag: u32,
    }

    /// `enum ctattr_help`
    Helper {
        CTA_HELP_NAME => name: Name,
        CTA_HELP_INFO => info: Vec<u8>,
    }

    /// `enum ctattr_nat`: the range that NAT may choose from. In requests only: what it chose is in the
    /// tuples.
    NatRange {
        CTA_NAT_V4_MINIP => v4_min: Ipv4Addr,
        CTA_NAT_V4_MAXIP => v4_max: Ipv4Addr,
        CTA_NAT_PROTO => proto: NatProto,
        CTA_NAT_V6_MINIP => v6_min: Ipv6Addr,
        CTA_NAT_V6_MAXIP => v6_max: Ipv6Addr,
    }

    /// `enum ctattr_protonat`
    NatProto {
        CTA_PROTONAT_PORT_MIN => port_min: u16,
        CTA_PROTONAT_PORT_MAX => port_max: u16,
    }

    /// `enum ctattr_seqadj`
    SeqAdj {
        CTA_SEQADJ_CORRECTION_POS => correction_pos: u32,
        CTA_SEQADJ_OFFSET_BEFORE => offset_before: u32,
        CTA_SEQADJ_OFFSET_AFTER => offset_after: u32,
    }

    /// `enum ctattr_secctx`
    SecurityContext {
        CTA_SECCTX_NAME => name: Name,
    }

    /// `enum ctattr_counters`
    CounterAttributes {
        CTA_COUNTERS_PACKETS => packets: u64,
        CTA_COUNTERS_BYTES => bytes: u64,
        CTA_COUNTERS32_PACKETS => packets32: u32,
        CTA_COUNTERS32_BYTES => bytes32: u32,
        CTA_COUNTERS_PAD => pad: Vec<u8>,
    }

    /// `enum ctattr_tstamp`, nanoseconds of `CLOCK_REALTIME`
    Timestamps {
        CTA_TIMESTAMP_START => start_ns: u64,
        CTA_TIMESTAMP_STOP => stop_ns: u64,
        CTA_TIMESTAMP_PAD => pad: Vec<u8>,
    }

    /// `enum ctattr_synproxy`
    SynProxy {
        CTA_SYNPROXY_ISN => isn: u32,
        CTA_SYNPROXY_ITS => its: u32,
        CTA_SYNPROXY_TSOFF => tsoff: u32,
    }

    /// `enum ctattr_filter`: which parts of the tuples of a dump request count, as
    /// `CTA_FILTER_F_CTA_*`.
    FilterFlags {
        CTA_FILTER_ORIG_FLAGS => orig: TupleFlags,
        CTA_FILTER_REPLY_FLAGS => reply: TupleFlags,
    }
}

/// `CTA_FILTER_F_CTA_*`. The only number that the kernel takes in the byte order of the host
/// (`ctnetlink_parse_filter`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TupleFlags(pub u32);

impl Value for TupleFlags {
    fn decode(attribute: &Attribute<'_>, name: &'static str) -> Result<Self, DecodeError> {
        attribute.array(name).map(u32::from_ne_bytes).map(Self)
    }

    fn encode(&self, buffer: &mut Vec<u8>, kind: u16) {
        append(buffer, kind, &self.0.to_ne_bytes());
    }

    #[cfg(test)]
    fn any(random: &mut super::properties::Random) -> Self {
        Self(u32::from_ne_bytes(random.array()))
    }
}

/// `struct nf_ct_tcp_flags`: bits, and in requests which of them to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags {
    /// The bits.
    pub flags: u8,
    /// Which bits count.
    pub mask: u8,
}

impl TcpFlags {
    /// `IP_CT_TCP_FLAG_WINDOW_SCALE`
    pub const WINDOW_SCALE: u8 = 1;
    /// `IP_CT_TCP_FLAG_SACK_PERM`
    pub const SACK_PERM: u8 = 1 << 1;
    /// `IP_CT_TCP_FLAG_CLOSE_INIT`: this end closed first.
    pub const CLOSE_INIT: u8 = 1 << 2;
    /// `IP_CT_TCP_FLAG_BE_LIBERAL`: packets outside of the window are let through.
    pub const BE_LIBERAL: u8 = 1 << 3;
    /// `IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED`
    pub const UNACKED: u8 = 1 << 4;
    /// `IP_CT_TCP_FLAG_MAXACK_SET`
    pub const MAXACK: u8 = 1 << 5;
    /// `IP_CT_EXP_CHALLENGE_ACK`
    pub const CHALLENGE_ACK: u8 = 1 << 6;
    /// `IP_CT_TCP_SIMULTANEOUS_OPEN`
    pub const SIMULTANEOUS_OPEN: u8 = 1 << 7;

    /// Names of the bits that are set, as in the kernel's specification of the family.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(u8, &str); 8] = [
            (TcpFlags::WINDOW_SCALE, "window-scale"),
            (TcpFlags::SACK_PERM, "sack-perm"),
            (TcpFlags::CLOSE_INIT, "close-init"),
            (TcpFlags::BE_LIBERAL, "be-liberal"),
            (TcpFlags::UNACKED, "unacked"),
            (TcpFlags::MAXACK, "maxack"),
            (TcpFlags::CHALLENGE_ACK, "challenge-ack"),
            (TcpFlags::SIMULTANEOUS_OPEN, "simultaneous-open"),
        ];
        NAMES.into_iter().filter(move |(bit, _)| self.flags & bit != 0).map(|(_, name)| name)
    }
}

impl Value for TcpFlags {
    fn decode(attribute: &Attribute<'_>, name: &'static str) -> Result<Self, DecodeError> {
        let [flags, mask] = attribute.array(name)?;
        Ok(Self { flags, mask })
    }

    fn encode(&self, buffer: &mut Vec<u8>, kind: u16) {
        append(buffer, kind, &[self.flags, self.mask]);
    }

    #[cfg(test)]
    fn any(random: &mut super::properties::Random) -> Self {
        let [flags, mask] = random.array();
        Self { flags, mask }
    }
}
