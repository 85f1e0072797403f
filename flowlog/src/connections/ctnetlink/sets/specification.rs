//! The sets against the kernel's specification of the family, and against the documentation.

use super::*;
use crate::flow::{DccpState, SctpState, Status, TcpState};

/// One attribute set: its name in the specification, each attribute's name there and in the kernel's
/// header, and what is decoded here.
type SpecifiedSet = (&'static str, &'static [(&'static str, &'static str)], &'static [(&'static str, u16)]);

/// Documentation/netlink/specs/conntrack.yaml, and the sets of nfnetlink_conntrack.h that it leaves out.
const SPECIFICATION: &[SpecifiedSet] = &[
    (
        "counter-attrs",
        &[
            ("packets", "CTA_COUNTERS_PACKETS"),
            ("bytes", "CTA_COUNTERS_BYTES"),
            ("packets-old", "CTA_COUNTERS32_PACKETS"),
            ("bytes-old", "CTA_COUNTERS32_BYTES"),
            ("pad", "CTA_COUNTERS_PAD"),
        ],
        CounterAttributes::ATTRIBUTES,
    ),
    (
        "tuple-proto-attrs",
        &[
            ("proto-num", "CTA_PROTO_NUM"),
            ("proto-src-port", "CTA_PROTO_SRC_PORT"),
            ("proto-dst-port", "CTA_PROTO_DST_PORT"),
            ("proto-icmp-id", "CTA_PROTO_ICMP_ID"),
            ("proto-icmp-type", "CTA_PROTO_ICMP_TYPE"),
            ("proto-icmp-code", "CTA_PROTO_ICMP_CODE"),
            ("proto-icmpv6-id", "CTA_PROTO_ICMPV6_ID"),
            ("proto-icmpv6-type", "CTA_PROTO_ICMPV6_TYPE"),
            ("proto-icmpv6-code", "CTA_PROTO_ICMPV6_CODE"),
        ],
        L4Attributes::ATTRIBUTES,
    ),
    (
        "tuple-ip-attrs",
        &[
            ("ip-v4-src", "CTA_IP_V4_SRC"),
            ("ip-v4-dst", "CTA_IP_V4_DST"),
            ("ip-v6-src", "CTA_IP_V6_SRC"),
            ("ip-v6-dst", "CTA_IP_V6_DST"),
        ],
        IpAttributes::ATTRIBUTES,
    ),
    (
        "tuple-attrs",
        &[("tuple-ip", "CTA_TUPLE_IP"), ("tuple-proto", "CTA_TUPLE_PROTO"), ("tuple-zone", "CTA_TUPLE_ZONE")],
        TupleAttributes::ATTRIBUTES,
    ),
    (
        "protoinfo-tcp-attrs",
        &[
            ("tcp-state", "CTA_PROTOINFO_TCP_STATE"),
            ("tcp-wscale-original", "CTA_PROTOINFO_TCP_WSCALE_ORIGINAL"),
            ("tcp-wscale-reply", "CTA_PROTOINFO_TCP_WSCALE_REPLY"),
            ("tcp-flags-original", "CTA_PROTOINFO_TCP_FLAGS_ORIGINAL"),
            ("tcp-flags-reply", "CTA_PROTOINFO_TCP_FLAGS_REPLY"),
        ],
        TcpInfo::ATTRIBUTES,
    ),
    (
        "protoinfo-dccp-attrs",
        &[
            ("dccp-state", "CTA_PROTOINFO_DCCP_STATE"),
            ("dccp-role", "CTA_PROTOINFO_DCCP_ROLE"),
            ("dccp-handshake-seq", "CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ"),
            ("dccp-pad", "CTA_PROTOINFO_DCCP_PAD"),
        ],
        DccpInfo::ATTRIBUTES,
    ),
    (
        "protoinfo-sctp-attrs",
        &[
            ("sctp-state", "CTA_PROTOINFO_SCTP_STATE"),
            ("vtag-original", "CTA_PROTOINFO_SCTP_VTAG_ORIGINAL"),
            ("vtag-reply", "CTA_PROTOINFO_SCTP_VTAG_REPLY"),
        ],
        SctpInfo::ATTRIBUTES,
    ),
    (
        "protoinfo-attrs",
        &[
            ("protoinfo-tcp", "CTA_PROTOINFO_TCP"),
            ("protoinfo-dccp", "CTA_PROTOINFO_DCCP"),
            ("protoinfo-sctp", "CTA_PROTOINFO_SCTP"),
        ],
        ProtoInfo::ATTRIBUTES,
    ),
    ("help-attrs", &[("help-name", "CTA_HELP_NAME"), ("help-info", "CTA_HELP_INFO")], Helper::ATTRIBUTES),
    (
        "nat-proto-attrs",
        &[("nat-port-min", "CTA_PROTONAT_PORT_MIN"), ("nat-port-max", "CTA_PROTONAT_PORT_MAX")],
        NatProto::ATTRIBUTES,
    ),
    (
        "nat-attrs",
        &[
            ("nat-v4-minip", "CTA_NAT_V4_MINIP"),
            ("nat-v4-maxip", "CTA_NAT_V4_MAXIP"),
            ("nat-v6-minip", "CTA_NAT_V6_MINIP"),
            ("nat-v6-maxip", "CTA_NAT_V6_MAXIP"),
            ("nat-proto", "CTA_NAT_PROTO"),
        ],
        NatRange::ATTRIBUTES,
    ),
    (
        "seqadj-attrs",
        &[
            ("correction-pos", "CTA_SEQADJ_CORRECTION_POS"),
            ("offset-before", "CTA_SEQADJ_OFFSET_BEFORE"),
            ("offset-after", "CTA_SEQADJ_OFFSET_AFTER"),
        ],
        SeqAdj::ATTRIBUTES,
    ),
    ("secctx-attrs", &[("secctx-name", "CTA_SECCTX_NAME")], SecurityContext::ATTRIBUTES),
    (
        "synproxy-attrs",
        &[("isn", "CTA_SYNPROXY_ISN"), ("its", "CTA_SYNPROXY_ITS"), ("tsoff", "CTA_SYNPROXY_TSOFF")],
        SynProxy::ATTRIBUTES,
    ),
    (
        "conntrack-attrs",
        &[
            ("tuple-orig", "CTA_TUPLE_ORIG"),
            ("tuple-reply", "CTA_TUPLE_REPLY"),
            ("status", "CTA_STATUS"),
            ("protoinfo", "CTA_PROTOINFO"),
            ("help", "CTA_HELP"),
            ("nat-src", "CTA_NAT_SRC"),
            ("timeout", "CTA_TIMEOUT"),
            ("mark", "CTA_MARK"),
            ("counters-orig", "CTA_COUNTERS_ORIG"),
            ("counters-reply", "CTA_COUNTERS_REPLY"),
            ("use", "CTA_USE"),
            ("id", "CTA_ID"),
            ("nat-dst", "CTA_NAT_DST"),
            ("tuple-master", "CTA_TUPLE_MASTER"),
            ("seq-adj-orig", "CTA_SEQ_ADJ_ORIG"),
            ("seq-adj-reply", "CTA_SEQ_ADJ_REPLY"),
            ("secmark", "CTA_SECMARK"),
            ("zone", "CTA_ZONE"),
            ("secctx", "CTA_SECCTX"),
            ("timestamp", "CTA_TIMESTAMP"),
            ("mark-mask", "CTA_MARK_MASK"),
            ("labels", "CTA_LABELS"),
            ("labels mask", "CTA_LABELS_MASK"),
            ("synproxy", "CTA_SYNPROXY"),
            ("filter", "CTA_FILTER"),
            ("status-mask", "CTA_STATUS_MASK"),
            ("timestamp-event", "CTA_TIMESTAMP_EVENT"),
        ],
        Entry::ATTRIBUTES,
    ),
    (
        "conntrack-stats-attrs",
        &[
            ("searched", "CTA_STATS_SEARCHED"),
            ("found", "CTA_STATS_FOUND"),
            ("new", "CTA_STATS_NEW"),
            ("invalid", "CTA_STATS_INVALID"),
            ("ignore", "CTA_STATS_IGNORE"),
            ("delete", "CTA_STATS_DELETE"),
            ("delete-list", "CTA_STATS_DELETE_LIST"),
            ("insert", "CTA_STATS_INSERT"),
            ("insert-failed", "CTA_STATS_INSERT_FAILED"),
            ("drop", "CTA_STATS_DROP"),
            ("early-drop", "CTA_STATS_EARLY_DROP"),
            ("error", "CTA_STATS_ERROR"),
            ("search-restart", "CTA_STATS_SEARCH_RESTART"),
            ("clash-resolve", "CTA_STATS_CLASH_RESOLVE"),
            ("chain-toolong", "CTA_STATS_CHAIN_TOOLONG"),
        ],
        CpuStatistics::ATTRIBUTES,
    ),
    (
        "enum ctattr_tstamp",
        &[("start", "CTA_TIMESTAMP_START"), ("stop", "CTA_TIMESTAMP_STOP"), ("pad", "CTA_TIMESTAMP_PAD")],
        Timestamps::ATTRIBUTES,
    ),
    (
        "enum ctattr_filter",
        &[("orig-flags", "CTA_FILTER_ORIG_FLAGS"), ("reply-flags", "CTA_FILTER_REPLY_FLAGS")],
        FilterFlags::ATTRIBUTES,
    ),
    (
        "enum ctattr_stats_global",
        &[("entries", "CTA_STATS_GLOBAL_ENTRIES"), ("max-entries", "CTA_STATS_GLOBAL_MAX_ENTRIES")],
        GlobalStatistics::ATTRIBUTES,
    ),
    (
        "enum ctattr_expect_stats",
        &[
            ("new", "CTA_STATS_EXP_NEW"),
            ("create", "CTA_STATS_EXP_CREATE"),
            ("delete", "CTA_STATS_EXP_DELETE"),
        ],
        ExpectationStatistics::ATTRIBUTES,
    ),
    (
        "enum ctattr_expect",
        &[
            ("master", "CTA_EXPECT_MASTER"),
            ("tuple", "CTA_EXPECT_TUPLE"),
            ("mask", "CTA_EXPECT_MASK"),
            ("timeout", "CTA_EXPECT_TIMEOUT"),
            ("id", "CTA_EXPECT_ID"),
            ("help-name", "CTA_EXPECT_HELP_NAME"),
            ("zone", "CTA_EXPECT_ZONE"),
            ("flags", "CTA_EXPECT_FLAGS"),
            ("class", "CTA_EXPECT_CLASS"),
            ("nat", "CTA_EXPECT_NAT"),
            ("fn", "CTA_EXPECT_FN"),
        ],
        Expectation::ATTRIBUTES,
    ),
    (
        "enum ctattr_expect_nat",
        &[("dir", "CTA_EXPECT_NAT_DIR"), ("tuple", "CTA_EXPECT_NAT_TUPLE")],
        ExpectationNat::ATTRIBUTES,
    ),
];

/// The test that has the bytes of a set's attributes; `check_each!` sees that none is missing.
fn test_of(set: &str) -> &'static str {
    match set {
        "tuple-attrs" | "tuple-ip-attrs" | "tuple-proto-attrs" => "tuples",
        "conntrack-attrs" => "entries",
        set if set.starts_with("protoinfo") => "protocols",
        set if set.contains("stats") => "statistics",
        set if set.contains("expect") => "expectations",
        _ => "parts_of_entries",
    }
}

#[test]
fn the_specification_is_complete_and_documented() {
    let mut expected = String::new();
    for (set, specified, decoded) in SPECIFICATION {
        assert_eq!(specified.len(), decoded.len(), "{set}");
        for (name, kernel_name) in *specified {
            assert!(decoded.iter().any(|(decoded, _)| decoded == kernel_name), "{set} lacks {kernel_name}");
            let test = test_of(set);
            expected.push_str(&format!("| {set} | {name} | `{kernel_name}` | `{test}` |\n"));
        }
    }
    let tests = include_str!("tests.rs");
    for (set, ..) in SPECIFICATION {
        assert!(tests.contains(&format!("#[test]\nfn {}() {{", test_of(set))), "{set}");
    }
    let documented = include_str!("../../../../docs/ctnetlink.md");
    assert!(documented.contains(&expected), "flowlog/docs/ctnetlink.md needs these rows:\n{expected}");
}

#[test]
fn numbers_have_the_names_of_the_specification() {
    let spelled = |name: Option<&str>| name.map(|name| name.replace('_', "-"));
    let tcp = "none syn-sent syn-recv established fin-wait close-wait last-ack time-wait close syn-sent2";
    for (number, name) in (0..).zip(tcp.split(' ')) {
        assert_eq!(spelled(TcpState(number).name()).as_deref(), Some(name));
    }
    // Here the specification has `cloned`, and longer names for two; the header decides.
    let sctp = "none closed cookie-wait cookie-echoed established shutdown-sent shutdown-recd \
                shutdown-ack-sent heartbeat-sent";
    for (number, name) in (0..).zip(sctp.split_whitespace()) {
        assert_eq!(spelled(SctpState(number).name()).as_deref(), Some(name));
    }
    let dccp = "none request respond partopen open closereq closing timewait ignore invalid";
    for (number, name) in (0..).zip(dccp.split(' ')) {
        assert_eq!(DccpState(number).name(), Some(name));
    }
    let status = "expected seen-reply assured confirmed src-nat dst-nat seq-adj src-nat-done dst-nat-done \
                  dying fixed-timeout template nat-clash helper offload hw-offload";
    assert!(Status(0xffff).names().eq(status.split_whitespace()));
    assert!(Status(0b100).names().eq(["assured"]));
    let tcp_flags =
        "window-scale sack-perm close-init be-liberal unacked maxack challenge-ack simultaneous-open";
    assert!(TcpFlags { flags: 0xff, mask: 0 }.names().eq(tcp_flags.split(' ')));
}
