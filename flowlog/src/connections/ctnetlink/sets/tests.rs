//! Each attribute by its bytes.

use std::fmt::Debug;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::nla::{Attributes, attribute, nest};
use super::super::uapi::*;
use super::*;

fn nla(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::new();
    attribute(&mut buffer, kind, payload);
    buffer
}

fn nested(kind: u16, child: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::new();
    nest(&mut buffer, kind, |buffer| buffer.extend_from_slice(child));
    buffer
}

/// These bytes are this set, in both directions.
#[track_caller]
fn check<T: Set + PartialEq + Debug>(bytes: &[u8], expected: &T) {
    let found = T::decode_all(Attributes::new(bytes, "TEST"));
    assert_eq!(found.as_ref(), Ok(expected), "{bytes:02x?}");
    let mut again = Vec::new();
    expected.encode_all(&mut again);
    assert_eq!(again, bytes);
}

/// Checks the attributes of a set one by one, and that none is left out.
macro_rules! check_each {
    ($set:ident { $($constant:ident $bytes:expr => $field:ident: $value:expr,)* }) => {{
        $(check(&$bytes($constant), &$set { $field: Some($value), ..$set::default() });)*
        let checked = [$((stringify!($constant), $constant)),*];
        assert_eq!($set::ATTRIBUTES, checked);
    }};
}

/// A value by its bytes.
fn of<const N: usize>(payload: [u8; N]) -> impl Fn(u16) -> Vec<u8> {
    move |kind| nla(kind, &payload)
}

/// A nested set that holds one attribute by its bytes.
fn holding<const N: usize>(child: u16, payload: [u8; N]) -> impl Fn(u16) -> Vec<u8> {
    move |kind| nested(kind, &nla(child, &payload))
}

const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
const LABELS: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

fn zone_9() -> TupleAttributes {
    TupleAttributes { zone: Some(9), ..TupleAttributes::default() }
}

#[test]
fn tuples() {
    let ip = IpAttributes { v4_src: Some(V4), ..IpAttributes::default() };
    let proto = L4Attributes { number: Some(6), ..L4Attributes::default() };
    check_each!(TupleAttributes {
        CTA_TUPLE_IP holding(CTA_IP_V4_SRC, [192, 0, 2, 7]) => ip: ip,
        CTA_TUPLE_PROTO holding(CTA_PROTO_NUM, [6]) => proto: proto,
        CTA_TUPLE_ZONE of([0, 9]) => zone: 9,
    });
    check_each!(IpAttributes {
        CTA_IP_V4_SRC of(V4.octets()) => v4_src: V4,
        CTA_IP_V4_DST of(V4.octets()) => v4_dst: V4,
        CTA_IP_V6_SRC of(V6.octets()) => v6_src: V6,
        CTA_IP_V6_DST of(V6.octets()) => v6_dst: V6,
    });
    check_each!(L4Attributes {
        CTA_PROTO_NUM of([132]) => number: 132,
        CTA_PROTO_SRC_PORT of([1, 2]) => src_port: 0x102,
        CTA_PROTO_DST_PORT of([1, 2]) => dst_port: 0x102,
        CTA_PROTO_ICMP_ID of([1, 2]) => icmp_id: 0x102,
        CTA_PROTO_ICMP_TYPE of([8]) => icmp_type: 8,
        CTA_PROTO_ICMP_CODE of([3]) => icmp_code: 3,
        CTA_PROTO_ICMPV6_ID of([1, 2]) => icmpv6_id: 0x102,
        CTA_PROTO_ICMPV6_TYPE of([128]) => icmpv6_type: 128,
        CTA_PROTO_ICMPV6_CODE of([3]) => icmpv6_code: 3,
    });
}

#[test]
fn entries() {
    let sctp = SctpInfo { state: Some(4), ..SctpInfo::default() };
    check_each!(Entry {
        CTA_TUPLE_ORIG holding(CTA_TUPLE_ZONE, [0, 9]) => orig: zone_9(),
        CTA_TUPLE_REPLY holding(CTA_TUPLE_ZONE, [0, 9]) => reply: zone_9(),
        CTA_STATUS of([0, 0, 1, 0x8e]) => status: 0x18e,
        CTA_PROTOINFO |kind| nested(kind, &holding(CTA_PROTOINFO_SCTP_STATE, [4])(CTA_PROTOINFO_SCTP))
            => proto_info: ProtoInfo { sctp: Some(sctp), ..ProtoInfo::default() },
        CTA_HELP holding(CTA_HELP_INFO, [7]) => helper: Helper { info: Some(vec![7]), ..Helper::default() },
        CTA_NAT_SRC holding(CTA_NAT_V4_MINIP, V4.octets())
            => nat_src: NatRange { v4_min: Some(V4), ..NatRange::default() },
        CTA_TIMEOUT of([0, 0, 1, 44]) => timeout_s: 300,
        CTA_MARK of([1, 2, 3, 4]) => mark: 0x0102_0304,
        CTA_COUNTERS_ORIG holding(CTA_COUNTERS32_BYTES, [0, 0, 0, 5])
            => orig_counters: CounterAttributes { bytes32: Some(5), ..CounterAttributes::default() },
        CTA_COUNTERS_REPLY holding(CTA_COUNTERS32_BYTES, [0, 0, 0, 5])
            => reply_counters: CounterAttributes { bytes32: Some(5), ..CounterAttributes::default() },
        CTA_USE of([0, 0, 0, 2]) => use_count: 2,
        CTA_ID of([1, 2, 3, 4]) => id: 0x0102_0304,
        CTA_NAT_DST holding(CTA_NAT_V6_MAXIP, V6.octets())
            => nat_dst: NatRange { v6_max: Some(V6), ..NatRange::default() },
        CTA_TUPLE_MASTER holding(CTA_TUPLE_ZONE, [0, 9]) => master: zone_9(),
        CTA_SEQ_ADJ_ORIG holding(CTA_SEQADJ_OFFSET_AFTER, [0, 0, 0, 5])
            => orig_seq_adj: SeqAdj { offset_after: Some(5), ..SeqAdj::default() },
        CTA_SEQ_ADJ_REPLY holding(CTA_SEQADJ_OFFSET_AFTER, [0, 0, 0, 5])
            => reply_seq_adj: SeqAdj { offset_after: Some(5), ..SeqAdj::default() },
        CTA_SECMARK of([0, 0, 0, 6]) => secmark: 6,
        CTA_ZONE of([0, 9]) => zone: 9,
        CTA_SECCTX holding(CTA_SECCTX_NAME, *b"a:b\0")
            => security_context: SecurityContext { name: Some("a:b".into()), ..SecurityContext::default() },
        CTA_TIMESTAMP holding(CTA_TIMESTAMP_START, [0, 0, 0, 0, 0, 0, 0, 9])
            => timestamps: Timestamps { start_ns: Some(9), ..Timestamps::default() },
        CTA_MARK_MASK of([0, 0, 0, 255]) => mark_mask: 255,
        CTA_LABELS of(LABELS) => labels: LABELS,
        CTA_LABELS_MASK of(LABELS) => labels_mask: LABELS,
        CTA_SYNPROXY holding(CTA_SYNPROXY_ITS, [0, 0, 0, 5])
            => synproxy: SynProxy { its: Some(5), ..SynProxy::default() },
        CTA_FILTER holding(CTA_FILTER_ORIG_FLAGS, 3_u32.to_ne_bytes())
            => filter: FilterFlags { orig: Some(TupleFlags(3)), ..FilterFlags::default() },
        CTA_STATUS_MASK of([0, 0, 0, 2]) => status_mask: 2,
        CTA_TIMESTAMP_EVENT of([0, 0, 0, 0, 0, 0, 1, 0]) => event_ns: 256,
    });
}

#[test]
fn protocols() {
    let tcp = TcpInfo { state: Some(3), ..TcpInfo::default() };
    let dccp = DccpInfo { role: Some(1), ..DccpInfo::default() };
    let sctp = SctpInfo { state: Some(4), ..SctpInfo::default() };
    check_each!(ProtoInfo {
        CTA_PROTOINFO_TCP holding(CTA_PROTOINFO_TCP_STATE, [3]) => tcp: tcp,
        CTA_PROTOINFO_DCCP holding(CTA_PROTOINFO_DCCP_ROLE, [1]) => dccp: dccp,
        CTA_PROTOINFO_SCTP holding(CTA_PROTOINFO_SCTP_STATE, [4]) => sctp: sctp,
    });
    check_each!(TcpInfo {
        CTA_PROTOINFO_TCP_STATE of([3]) => state: 3,
        CTA_PROTOINFO_TCP_WSCALE_ORIGINAL of([7]) => orig_window_scale: 7,
        CTA_PROTOINFO_TCP_WSCALE_REPLY of([8]) => reply_window_scale: 8,
        CTA_PROTOINFO_TCP_FLAGS_ORIGINAL of([10, 15]) => orig_flags: TcpFlags { flags: 10, mask: 15 },
        CTA_PROTOINFO_TCP_FLAGS_REPLY of([1, 2]) => reply_flags: TcpFlags { flags: 1, mask: 2 },
    });
    check_each!(DccpInfo {
        CTA_PROTOINFO_DCCP_STATE of([4]) => state: 4,
        CTA_PROTOINFO_DCCP_ROLE of([1]) => role: 1,
        CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ of([0, 0, 1, 0, 0, 0, 0, 5]) => handshake_seq: (1 << 40) + 5,
        CTA_PROTOINFO_DCCP_PAD of([]) => pad: vec![],
    });
    check_each!(SctpInfo {
        CTA_PROTOINFO_SCTP_STATE of([4]) => state: 4,
        CTA_PROTOINFO_SCTP_VTAG_ORIGINAL of([0, 0, 1, 0]) => orig_vtag: 256,
        CTA_PROTOINFO_SCTP_VTAG_REPLY of([0, 0, 1, 1]) => reply_vtag: 257,
    });
}

#[test]
fn parts_of_entries() {
    check_each!(Helper {
        CTA_HELP_NAME of(*b"ftp\0") => name: "ftp".into(),
        CTA_HELP_INFO of([7]) => info: vec![7],
    });
    check_each!(NatRange {
        CTA_NAT_V4_MINIP of(V4.octets()) => v4_min: V4,
        CTA_NAT_V4_MAXIP of(V4.octets()) => v4_max: V4,
        CTA_NAT_PROTO holding(CTA_PROTONAT_PORT_MIN, [0, 80])
            => proto: NatProto { port_min: Some(80), ..NatProto::default() },
        CTA_NAT_V6_MINIP of(V6.octets()) => v6_min: V6,
        CTA_NAT_V6_MAXIP of(V6.octets()) => v6_max: V6,
    });
    check_each!(NatProto {
        CTA_PROTONAT_PORT_MIN of([0, 80]) => port_min: 80,
        CTA_PROTONAT_PORT_MAX of([0, 81]) => port_max: 81,
    });
    check_each!(SeqAdj {
        CTA_SEQADJ_CORRECTION_POS of([0, 0, 1, 0]) => correction_pos: 256,
        CTA_SEQADJ_OFFSET_BEFORE of([0, 0, 0, 4]) => offset_before: 4,
        CTA_SEQADJ_OFFSET_AFTER of([0, 0, 0, 5]) => offset_after: 5,
    });
    check_each!(SecurityContext { CTA_SECCTX_NAME of(*b"a:b\0") => name: "a:b".into(), });
    check_each!(CounterAttributes {
        CTA_COUNTERS_PACKETS of([0, 0, 0, 0, 0, 0, 1, 0]) => packets: 256,
        CTA_COUNTERS_BYTES of([0, 0, 0, 1, 0, 0, 0, 0]) => bytes: 1 << 32,
        CTA_COUNTERS32_PACKETS of([0, 0, 0, 4]) => packets32: 4,
        CTA_COUNTERS32_BYTES of([0, 0, 0, 5]) => bytes32: 5,
        CTA_COUNTERS_PAD of([]) => pad: vec![],
    });
    check_each!(Timestamps {
        CTA_TIMESTAMP_START of([0, 0, 0, 0, 0, 0, 0, 9]) => start_ns: 9,
        CTA_TIMESTAMP_STOP of([0, 0, 0, 0, 0, 0, 0, 8]) => stop_ns: 8,
        CTA_TIMESTAMP_PAD of([]) => pad: vec![],
    });
    check_each!(SynProxy {
        CTA_SYNPROXY_ISN of([0, 0, 0, 4]) => isn: 4,
        CTA_SYNPROXY_ITS of([0, 0, 0, 5]) => its: 5,
        CTA_SYNPROXY_TSOFF of([0, 0, 0, 6]) => tsoff: 6,
    });
    check_each!(FilterFlags {
        CTA_FILTER_ORIG_FLAGS of(3_u32.to_ne_bytes()) => orig: TupleFlags(3),
        CTA_FILTER_REPLY_FLAGS of(4_u32.to_ne_bytes()) => reply: TupleFlags(4),
    });
}

#[test]
fn expectations() {
    let nat = ExpectationNat { direction: Some(1), ..ExpectationNat::default() };
    check_each!(Expectation {
        CTA_EXPECT_MASTER holding(CTA_TUPLE_ZONE, [0, 9]) => master: zone_9(),
        CTA_EXPECT_TUPLE holding(CTA_TUPLE_ZONE, [0, 9]) => tuple: zone_9(),
        CTA_EXPECT_MASK holding(CTA_TUPLE_ZONE, [0, 9]) => mask: zone_9(),
        CTA_EXPECT_TIMEOUT of([0, 0, 0, 5]) => timeout_s: 5,
        CTA_EXPECT_ID of([0, 0, 0, 6]) => id: 6,
        CTA_EXPECT_HELP_NAME of(*b"ftp\0") => helper: "ftp".into(),
        CTA_EXPECT_ZONE of([0, 9]) => zone: 9,
        CTA_EXPECT_FLAGS of([0, 0, 0, 3]) => flags: 3,
        CTA_EXPECT_CLASS of([0, 0, 0, 1]) => class: 1,
        CTA_EXPECT_NAT holding(CTA_EXPECT_NAT_DIR, [0, 0, 0, 1]) => nat: nat,
        CTA_EXPECT_FN of(*b"nat-follow-master\0") => function: "nat-follow-master".into(),
    });
    check_each!(ExpectationNat {
        CTA_EXPECT_NAT_DIR of([0, 0, 0, 1]) => direction: 1,
        CTA_EXPECT_NAT_TUPLE holding(CTA_TUPLE_ZONE, [0, 9]) => tuple: zone_9(),
    });
    let flags = ExpectationFlags(5);
    assert!(flags.contains(ExpectationFlags::PERMANENT) && flags.contains(ExpectationFlags::USERSPACE));
    assert!(!flags.contains(ExpectationFlags::INACTIVE));
}

#[test]
fn statistics() {
    check_each!(GlobalStatistics {
        CTA_STATS_GLOBAL_ENTRIES of([0, 0, 1, 0]) => entries: 256,
        CTA_STATS_GLOBAL_MAX_ENTRIES of([0, 1, 0, 0]) => max_entries: 65536,
    });
    check_each!(CpuStatistics {
        CTA_STATS_SEARCHED of([0, 0, 1, 1]) => searched: 257,
        CTA_STATS_FOUND of([0, 0, 1, 2]) => found: 258,
        CTA_STATS_NEW of([0, 0, 1, 3]) => new: 259,
        CTA_STATS_INVALID of([0, 0, 1, 4]) => invalid: 260,
        CTA_STATS_IGNORE of([0, 0, 1, 5]) => ignore: 261,
        CTA_STATS_DELETE of([0, 0, 1, 6]) => delete: 262,
        CTA_STATS_DELETE_LIST of([0, 0, 1, 7]) => delete_list: 263,
        CTA_STATS_INSERT of([0, 0, 1, 8]) => insert: 264,
        CTA_STATS_INSERT_FAILED of([0, 0, 1, 9]) => insert_failed: 265,
        CTA_STATS_DROP of([0, 0, 1, 10]) => drop: 266,
        CTA_STATS_EARLY_DROP of([0, 0, 1, 11]) => early_drop: 267,
        CTA_STATS_ERROR of([0, 0, 1, 12]) => error: 268,
        CTA_STATS_SEARCH_RESTART of([0, 0, 1, 13]) => search_restart: 269,
        CTA_STATS_CLASH_RESOLVE of([0, 0, 1, 14]) => clash_resolve: 270,
        CTA_STATS_CHAIN_TOOLONG of([0, 0, 1, 15]) => chain_toolong: 271,
    });
    check_each!(ExpectationStatistics {
        CTA_STATS_EXP_NEW of([0, 0, 0, 1]) => new: 1,
        CTA_STATS_EXP_CREATE of([0, 0, 0, 2]) => create: 2,
        CTA_STATS_EXP_DELETE of([0, 0, 0, 3]) => delete: 3,
    });
}

#[test]
fn what_is_not_known_is_kept() {
    let inner = [nla(99, &[1, 2, 3]), nla(0x8000 | 98, &[])].concat();
    let bytes = [nested(CTA_PROTOINFO, &inner), nla(0x8000 | 97, &inner)].concat();
    let entry = Entry::decode_all(Attributes::new(&bytes, "TEST")).unwrap();
    check(&bytes, &entry);
    let kinds = |unknown: &Unknown| unknown.iter().map(|unknown| unknown.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&entry.unknown), [97]);
    assert_eq!(kinds(&entry.proto_info.unwrap().unknown), [99, 98]);
}

#[test]
fn a_value_of_another_size_is_an_error() {
    for (bytes, text) in [
        (nla(CTA_USE, &[1, 2, 3]), "CTA_USE: found 3 bytes, expected 4"),
        (nla(CTA_LABELS, &[0; 8]), "CTA_LABELS: found 8 bytes, expected 16"),
        (nested(CTA_SYNPROXY, &nla(CTA_SYNPROXY_ISN, &[])), "CTA_SYNPROXY_ISN: found 0 bytes, expected 4"),
    ] {
        let error = Entry::decode_all(Attributes::new(&bytes, "TEST")).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}
