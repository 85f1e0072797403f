//! Numbers of the kernel's interface, with the kernel's names.
//!
//! Each block is one enum or header of the kernel, in its order, so that it can be held against it.
//! Attributes that nothing here reads or writes are listed too: [`decode`](super::decode) tells what
//! it skips from what it does not know. Nothing here is logic.

// linux/socket.h

/// `AF_UNSPEC`
pub const AF_UNSPEC: u8 = 0;
/// `AF_INET`
pub const AF_INET: u8 = 2;
/// `AF_INET6`
pub const AF_INET6: u8 = 10;

// linux/netlink.h

/// Size of `struct nlmsghdr`: length, type, flags, sequence number, port id.
pub const NLMSG_HDRLEN: usize = 16;
/// `NLMSG_NOOP`: to be ignored.
pub const NLMSG_NOOP: u16 = 1;
/// `NLMSG_ERROR`: the answer to a request; an error number of zero is the acknowledgement.
pub const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub const NLMSG_DONE: u16 = 3;

/// `NLM_F_REQUEST`: to the kernel.
pub const NLM_F_REQUEST: u16 = 0x01;
/// `NLM_F_ACK`: answer also when there is no error.
pub const NLM_F_ACK: u16 = 0x04;
/// `NLM_F_DUMP_INTR`: what is listed has changed meanwhile.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
/// `NLM_F_DUMP`: all entries.
pub const NLM_F_DUMP: u16 = 0x100 | 0x200;
/// `NLM_F_EXCL`: fail where the entry exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: make the entry where it does not exist.
pub const NLM_F_CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: behind those that are there.
pub const NLM_F_APPEND: u16 = 0x800;

/// Size of `struct nlattr`: length, type.
pub const NLA_HDRLEN: usize = 4;
/// `NLA_F_NESTED`: the payload is a list of attributes.
pub const NLA_F_NESTED: u16 = 1 << 15;
/// `NLA_TYPE_MASK`: the type without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
pub const NLA_TYPE_MASK: u16 = 0x3fff;

// linux/netfilter/nfnetlink.h

/// Size of `struct nfgenmsg`: address family, version, resource id. It follows each `nlmsghdr`.
pub const NFGENMSG_LEN: usize = 4;
/// `NFNETLINK_V0`
pub const NFNETLINK_V0: u8 = 0;
/// `NFNL_MSG_BATCH_BEGIN`: what follows, up to the end, is one transaction of the subsystem in `nfgenmsg.res_id`.
pub const NFNL_MSG_BATCH_BEGIN: u8 = 0x10;
/// `NFNL_MSG_BATCH_END`
pub const NFNL_MSG_BATCH_END: u8 = 0x11;
/// `NFNL_SUBSYS_NONE`: of the two messages above.
pub const NFNL_SUBSYS_NONE: u8 = 0;
/// `NFNL_SUBSYS_CTNETLINK`: the upper byte of a message's type.
pub const NFNL_SUBSYS_CTNETLINK: u8 = 1;
/// `NFNL_SUBSYS_CTNETLINK_EXP`
pub const NFNL_SUBSYS_CTNETLINK_EXP: u8 = 2;
/// `NFNL_SUBSYS_NFTABLES`
pub const NFNL_SUBSYS_NFTABLES: u8 = 10;
/// `NFNL_SUBSYS_HOOK`, since Linux 5.14
pub const NFNL_SUBSYS_HOOK: u8 = 12;
/// `NFNLGRP_CONNTRACK_NEW` of `enum nfnetlink_groups`
pub const NFNLGRP_CONNTRACK_NEW: u32 = 1;
/// `NFNLGRP_CONNTRACK_UPDATE` of `enum nfnetlink_groups`
pub const NFNLGRP_CONNTRACK_UPDATE: u32 = 2;
/// `NFNLGRP_CONNTRACK_DESTROY` of `enum nfnetlink_groups`
pub const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;
/// `NFNLGRP_CONNTRACK_EXP_NEW` of `enum nfnetlink_groups`
pub const NFNLGRP_CONNTRACK_EXP_NEW: u32 = 4;
/// `NFNLGRP_CONNTRACK_EXP_UPDATE` of `enum nfnetlink_groups`
pub const NFNLGRP_CONNTRACK_EXP_UPDATE: u32 = 5;
/// `NFNLGRP_CONNTRACK_EXP_DESTROY` of `enum nfnetlink_groups`
pub const NFNLGRP_CONNTRACK_EXP_DESTROY: u32 = 6;
/// `NFNLGRP_NFTABLES` of `enum nfnetlink_groups`
pub const NFNLGRP_NFTABLES: u32 = 7;

// linux/netfilter.h

/// `NF_INET_PRE_ROUTING` of `enum nf_inet_hooks`
pub const NF_INET_PRE_ROUTING: u32 = 0;
/// `NF_INET_LOCAL_OUT`
pub const NF_INET_LOCAL_OUT: u32 = 3;
/// `NF_ACCEPT`: what becomes of a packet that no rule decides.
pub const NF_ACCEPT: u32 = 1;

// linux/netfilter/nf_tables.h

/// `NFT_MSG_NEWTABLE`
pub const NFT_MSG_NEWTABLE: u8 = 0;
/// `NFT_MSG_DELTABLE`
pub const NFT_MSG_DELTABLE: u8 = 2;
/// `NFT_MSG_NEWCHAIN`
pub const NFT_MSG_NEWCHAIN: u8 = 3;
/// `NFT_MSG_NEWRULE`: a rule that was added, or one of a list.
pub const NFT_MSG_NEWRULE: u8 = 6;
/// `NFT_MSG_GETRULE`
pub const NFT_MSG_GETRULE: u8 = 7;
/// `NFT_MSG_DELRULE`
pub const NFT_MSG_DELRULE: u8 = 8;
/// `NFT_MSG_NEWGEN`: the end of a transaction.
pub const NFT_MSG_NEWGEN: u8 = 15;
/// `NFT_MSG_GETGEN`
pub const NFT_MSG_GETGEN: u8 = 16;
/// `NFT_MSG_DESTROYRULE`, since Linux 6.3
pub const NFT_MSG_DESTROYRULE: u8 = 28;
/// `NFTA_LIST_ELEM` of `enum nft_list_attributes`
pub const NFTA_LIST_ELEM: u16 = 1;
/// `NFTA_TABLE_NAME` of `enum nft_table_attributes`
pub const NFTA_TABLE_NAME: u16 = 1;
/// `NFTA_TABLE_FLAGS` of `enum nft_table_attributes`
pub const NFTA_TABLE_FLAGS: u16 = 2;
/// `NFTA_TABLE_USERDATA` of `enum nft_table_attributes`, since Linux 5.10
pub const NFTA_TABLE_USERDATA: u16 = 6;
/// `NFTNL_UDATA_TABLE_COMMENT`: in there, of libnftnl.
pub const NFTNL_UDATA_TABLE_COMMENT: u8 = 0;
/// `NFTA_CHAIN_TABLE` of `enum nft_chain_attributes`
pub const NFTA_CHAIN_TABLE: u16 = 1;
/// `NFTA_CHAIN_NAME` of `enum nft_chain_attributes`
pub const NFTA_CHAIN_NAME: u16 = 3;
/// `NFTA_CHAIN_HOOK` of `enum nft_chain_attributes`
pub const NFTA_CHAIN_HOOK: u16 = 4;
/// `NFTA_CHAIN_POLICY` of `enum nft_chain_attributes`
pub const NFTA_CHAIN_POLICY: u16 = 5;
/// `NFTA_CHAIN_TYPE` of `enum nft_chain_attributes`
pub const NFTA_CHAIN_TYPE: u16 = 7;
/// `NFTA_HOOK_HOOKNUM` of `enum nft_hook_attributes`
pub const NFTA_HOOK_HOOKNUM: u16 = 1;
/// `NFTA_HOOK_PRIORITY` of `enum nft_hook_attributes`
pub const NFTA_HOOK_PRIORITY: u16 = 2;
/// `NFTA_RULE_TABLE` of `enum nft_rule_attributes`
pub const NFTA_RULE_TABLE: u16 = 1;
/// `NFTA_RULE_CHAIN` of `enum nft_rule_attributes`
pub const NFTA_RULE_CHAIN: u16 = 2;
/// `NFTA_RULE_HANDLE` of `enum nft_rule_attributes`
pub const NFTA_RULE_HANDLE: u16 = 3;
/// `NFTA_RULE_EXPRESSIONS` of `enum nft_rule_attributes`
pub const NFTA_RULE_EXPRESSIONS: u16 = 4;
/// `NFTA_GEN_ID` of `enum nft_gen_attributes`
pub const NFTA_GEN_ID: u16 = 1;
/// `NFTA_EXPR_NAME` of `enum nft_expr_attributes`
pub const NFTA_EXPR_NAME: u16 = 1;
/// `NFTA_EXPR_DATA` of `enum nft_expr_attributes`
pub const NFTA_EXPR_DATA: u16 = 2;
/// `NFT_REG_1` of `enum nft_registers`
pub const NFT_REG_1: u32 = 1;
/// `NFTA_DATA_VALUE` of `enum nft_data_attributes`
pub const NFTA_DATA_VALUE: u16 = 1;
/// `NFTA_CT_DREG` of `enum nft_ct_attributes`
pub const NFTA_CT_DREG: u16 = 1;
/// `NFTA_CT_KEY` of `enum nft_ct_attributes`
pub const NFTA_CT_KEY: u16 = 2;
/// `NFT_CT_STATE` of `enum nft_ct_keys`
pub const NFT_CT_STATE: u32 = 0;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`, linux/netfilter/nf_conntrack_common.h
pub const NF_CT_STATE_NEW: u32 = 1 << 3;
/// `NFTA_BITWISE_SREG` of `enum nft_bitwise_attributes`
pub const NFTA_BITWISE_SREG: u16 = 1;
/// `NFTA_BITWISE_DREG` of `enum nft_bitwise_attributes`
pub const NFTA_BITWISE_DREG: u16 = 2;
/// `NFTA_BITWISE_LEN` of `enum nft_bitwise_attributes`
pub const NFTA_BITWISE_LEN: u16 = 3;
/// `NFTA_BITWISE_MASK` of `enum nft_bitwise_attributes`
pub const NFTA_BITWISE_MASK: u16 = 4;
/// `NFTA_BITWISE_XOR` of `enum nft_bitwise_attributes`
pub const NFTA_BITWISE_XOR: u16 = 5;
/// `NFTA_CMP_SREG` of `enum nft_cmp_attributes`
pub const NFTA_CMP_SREG: u16 = 1;
/// `NFTA_CMP_OP` of `enum nft_cmp_attributes`
pub const NFTA_CMP_OP: u16 = 2;
/// `NFTA_CMP_DATA` of `enum nft_cmp_attributes`
pub const NFTA_CMP_DATA: u16 = 3;
/// `NFT_CMP_NEQ` of `enum nft_cmp_ops`
pub const NFT_CMP_NEQ: u32 = 1;
/// `NFTA_NAT_FAMILY` of `enum nft_nat_attributes`
pub const NFTA_NAT_FAMILY: u16 = 2;
/// `NFTA_MATCH_NAME` and `NFTA_TARGET_NAME`: what iptables calls a match or target.
pub const NFTA_COMPAT_NAME: u16 = 1;
/// `NFPROTO_INET`: both IP versions; the others are `AF_INET` and `AF_INET6`.
pub const NFPROTO_INET: u8 = 1;
/// `NFPROTO_BRIDGE`
pub const NFPROTO_BRIDGE: u8 = 7;

// linux/netfilter/nfnetlink_hook.h

/// `NFNL_MSG_HOOK_GET`
pub const NFNL_MSG_HOOK_GET: u8 = 0;
/// `NFNLA_HOOK_HOOKNUM`
pub const NFNLA_HOOK_HOOKNUM: u16 = 1;
/// `NFNLA_HOOK_FUNCTION_NAME`
pub const NFNLA_HOOK_FUNCTION_NAME: u16 = 4;

// enum cntl_msg_types, linux/netfilter/nfnetlink_conntrack.h: the lower byte of a message's type

/// `IPCTNL_MSG_CT_NEW`: makes or changes an entry; also the type of every answer that has an entry.
pub const IPCTNL_MSG_CT_NEW: u8 = 0;
/// `IPCTNL_MSG_CT_GET`
pub const IPCTNL_MSG_CT_GET: u8 = 1;
/// `IPCTNL_MSG_CT_DELETE`
pub const IPCTNL_MSG_CT_DELETE: u8 = 2;
/// `IPCTNL_MSG_CT_GET_CTRZERO`: a dump that sets the counters to zero.
pub const IPCTNL_MSG_CT_GET_CTRZERO: u8 = 3;
/// `IPCTNL_MSG_CT_GET_STATS_CPU`
pub const IPCTNL_MSG_CT_GET_STATS_CPU: u8 = 4;
/// `IPCTNL_MSG_CT_GET_STATS`: the number of entries.
pub const IPCTNL_MSG_CT_GET_STATS: u8 = 5;
/// `IPCTNL_MSG_CT_GET_DYING`: entries whose DESTROY could not be delivered yet.
pub const IPCTNL_MSG_CT_GET_DYING: u8 = 6;
/// `IPCTNL_MSG_CT_GET_UNCONFIRMED`: nothing since Linux 6.1.
pub const IPCTNL_MSG_CT_GET_UNCONFIRMED: u8 = 7;

// enum ctnl_exp_msg_types

/// `IPCTNL_MSG_EXP_NEW`
pub const IPCTNL_MSG_EXP_NEW: u8 = 0;
/// `IPCTNL_MSG_EXP_GET`
pub const IPCTNL_MSG_EXP_GET: u8 = 1;
/// `IPCTNL_MSG_EXP_DELETE`
pub const IPCTNL_MSG_EXP_DELETE: u8 = 2;
/// `IPCTNL_MSG_EXP_GET_STATS_CPU`
pub const IPCTNL_MSG_EXP_GET_STATS_CPU: u8 = 3;

/// Declares the attribute types of one kernel enum, in its order. Their documentation is their name.
macro_rules! attributes {
    ($kernel_enum:literal; $($constant:ident = $number:literal,)*) => {
        $(#[doc = concat!("`", stringify!($constant), "` of `", $kernel_enum, "`")]
        pub const $constant: u16 = $number;)*
    };
}

attributes! { "enum ctattr_type";
    CTA_TUPLE_ORIG = 1,
    CTA_TUPLE_REPLY = 2,
    CTA_STATUS = 3,
    CTA_PROTOINFO = 4,
    CTA_HELP = 5,
    CTA_NAT_SRC = 6,
    CTA_TIMEOUT = 7,
    CTA_MARK = 8,
    CTA_COUNTERS_ORIG = 9,
    CTA_COUNTERS_REPLY = 10,
    CTA_USE = 11,
    CTA_ID = 12,
    CTA_NAT_DST = 13,
    CTA_TUPLE_MASTER = 14,
    CTA_SEQ_ADJ_ORIG = 15,
    CTA_SEQ_ADJ_REPLY = 16,
    CTA_SECMARK = 17,
    CTA_ZONE = 18,
    CTA_SECCTX = 19,
    CTA_TIMESTAMP = 20,
    CTA_MARK_MASK = 21,
    CTA_LABELS = 22,
    CTA_LABELS_MASK = 23,
    CTA_SYNPROXY = 24,
    CTA_FILTER = 25,
    CTA_STATUS_MASK = 26,
    CTA_TIMESTAMP_EVENT = 27,
}

attributes! { "enum ctattr_tuple";
    CTA_TUPLE_IP = 1,
    CTA_TUPLE_PROTO = 2,
    CTA_TUPLE_ZONE = 3,
}

attributes! { "enum ctattr_ip";
    CTA_IP_V4_SRC = 1,
    CTA_IP_V4_DST = 2,
    CTA_IP_V6_SRC = 3,
    CTA_IP_V6_DST = 4,
}

attributes! { "enum ctattr_l4proto";
    CTA_PROTO_NUM = 1,
    CTA_PROTO_SRC_PORT = 2,
    CTA_PROTO_DST_PORT = 3,
    CTA_PROTO_ICMP_ID = 4,
    CTA_PROTO_ICMP_TYPE = 5,
    CTA_PROTO_ICMP_CODE = 6,
    CTA_PROTO_ICMPV6_ID = 7,
    CTA_PROTO_ICMPV6_TYPE = 8,
    CTA_PROTO_ICMPV6_CODE = 9,
}

attributes! { "enum ctattr_protoinfo";
    CTA_PROTOINFO_TCP = 1,
    CTA_PROTOINFO_DCCP = 2,
    CTA_PROTOINFO_SCTP = 3,
}

attributes! { "enum ctattr_protoinfo_tcp";
    CTA_PROTOINFO_TCP_STATE = 1,
    CTA_PROTOINFO_TCP_WSCALE_ORIGINAL = 2,
    CTA_PROTOINFO_TCP_WSCALE_REPLY = 3,
    CTA_PROTOINFO_TCP_FLAGS_ORIGINAL = 4,
    CTA_PROTOINFO_TCP_FLAGS_REPLY = 5,
}

attributes! { "enum ctattr_protoinfo_dccp";
    CTA_PROTOINFO_DCCP_STATE = 1,
    CTA_PROTOINFO_DCCP_ROLE = 2,
    CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ = 3,
    CTA_PROTOINFO_DCCP_PAD = 4,
}

attributes! { "enum ctattr_protoinfo_sctp";
    CTA_PROTOINFO_SCTP_STATE = 1,
    CTA_PROTOINFO_SCTP_VTAG_ORIGINAL = 2,
    CTA_PROTOINFO_SCTP_VTAG_REPLY = 3,
}

attributes! { "enum ctattr_counters";
    CTA_COUNTERS_PACKETS = 1,
    CTA_COUNTERS_BYTES = 2,
    CTA_COUNTERS32_PACKETS = 3,
    CTA_COUNTERS32_BYTES = 4,
    CTA_COUNTERS_PAD = 5,
}

attributes! { "enum ctattr_tstamp";
    CTA_TIMESTAMP_START = 1,
    CTA_TIMESTAMP_STOP = 2,
    CTA_TIMESTAMP_PAD = 3,
}

attributes! { "enum ctattr_nat";
    CTA_NAT_V4_MINIP = 1,
    CTA_NAT_V4_MAXIP = 2,
    CTA_NAT_PROTO = 3,
    CTA_NAT_V6_MINIP = 4,
    CTA_NAT_V6_MAXIP = 5,
}

attributes! { "enum ctattr_protonat";
    CTA_PROTONAT_PORT_MIN = 1,
    CTA_PROTONAT_PORT_MAX = 2,
}

attributes! { "enum ctattr_seqadj";
    CTA_SEQADJ_CORRECTION_POS = 1,
    CTA_SEQADJ_OFFSET_BEFORE = 2,
    CTA_SEQADJ_OFFSET_AFTER = 3,
}

attributes! { "enum ctattr_synproxy";
    CTA_SYNPROXY_ISN = 1,
    CTA_SYNPROXY_ITS = 2,
    CTA_SYNPROXY_TSOFF = 3,
}

attributes! { "enum ctattr_expect";
    CTA_EXPECT_MASTER = 1,
    CTA_EXPECT_TUPLE = 2,
    CTA_EXPECT_MASK = 3,
    CTA_EXPECT_TIMEOUT = 4,
    CTA_EXPECT_ID = 5,
    CTA_EXPECT_HELP_NAME = 6,
    CTA_EXPECT_ZONE = 7,
    CTA_EXPECT_FLAGS = 8,
    CTA_EXPECT_CLASS = 9,
    CTA_EXPECT_NAT = 10,
    CTA_EXPECT_FN = 11,
}

attributes! { "enum ctattr_expect_nat";
    CTA_EXPECT_NAT_DIR = 1,
    CTA_EXPECT_NAT_TUPLE = 2,
}

attributes! { "enum ctattr_help";
    CTA_HELP_NAME = 1,
    CTA_HELP_INFO = 2,
}

attributes! { "enum ctattr_secctx";
    CTA_SECCTX_NAME = 1,
}

attributes! { "enum ctattr_stats_cpu";
    CTA_STATS_SEARCHED = 1,
    CTA_STATS_FOUND = 2,
    CTA_STATS_NEW = 3,
    CTA_STATS_INVALID = 4,
    CTA_STATS_IGNORE = 5,
    CTA_STATS_DELETE = 6,
    CTA_STATS_DELETE_LIST = 7,
    CTA_STATS_INSERT = 8,
    CTA_STATS_INSERT_FAILED = 9,
    CTA_STATS_DROP = 10,
    CTA_STATS_EARLY_DROP = 11,
    CTA_STATS_ERROR = 12,
    CTA_STATS_SEARCH_RESTART = 13,
    CTA_STATS_CLASH_RESOLVE = 14,
    CTA_STATS_CHAIN_TOOLONG = 15,
}

attributes! { "enum ctattr_stats_global";
    CTA_STATS_GLOBAL_ENTRIES = 1,
    CTA_STATS_GLOBAL_MAX_ENTRIES = 2,
}

attributes! { "enum ctattr_expect_stats";
    CTA_STATS_EXP_NEW = 1,
    CTA_STATS_EXP_CREATE = 2,
    CTA_STATS_EXP_DELETE = 3,
}

attributes! { "enum ctattr_filter";
    CTA_FILTER_ORIG_FLAGS = 1,
    CTA_FILTER_REPLY_FLAGS = 2,
}

/// Declares bits with the kernel's names.
macro_rules! bits {
    ($kernel_enum:literal; $($constant:ident = $bit:literal,)*) => {
        $(#[doc = concat!("`", stringify!($constant), "` of `", $kernel_enum, "`")]
        pub const $constant: u32 = 1 << $bit;)*
    };
}

bits! { "the flags of CTA_FILTER_ORIG_FLAGS, net/netfilter/nf_internals.h";
    CTA_FILTER_F_CTA_IP_SRC = 0,
    CTA_FILTER_F_CTA_IP_DST = 1,
    CTA_FILTER_F_CTA_TUPLE_ZONE = 2,
    CTA_FILTER_F_CTA_PROTO_NUM = 3,
    CTA_FILTER_F_CTA_PROTO_SRC_PORT = 4,
    CTA_FILTER_F_CTA_PROTO_DST_PORT = 5,
    CTA_FILTER_F_CTA_PROTO_ICMP_TYPE = 6,
    CTA_FILTER_F_CTA_PROTO_ICMP_CODE = 7,
    CTA_FILTER_F_CTA_PROTO_ICMP_ID = 8,
    CTA_FILTER_F_CTA_PROTO_ICMPV6_TYPE = 9,
    CTA_FILTER_F_CTA_PROTO_ICMPV6_CODE = 10,
    CTA_FILTER_F_CTA_PROTO_ICMPV6_ID = 11,
}
