//! The table `inet flowlog`, whose rules make the kernel track connections, as one transaction of nftables.
//!
//! No IO. A rule that reads `ct` anywhere makes the kernel track everything in the network namespace. nft(8) writes the
//! table like this:
//!
//! ```text
//! table inet flowlog {
//!     comment "flowlog: connection tracking for all traffic"
//!     chain prerouting {
//!         type filter hook prerouting priority -300; policy accept;
//!         ct state new counter
//!     }
//!     chain output {
//!         type filter hook output priority -300; policy accept;
//!         ct state new counter
//!     }
//! }
//! ```

use super::encode::{Request, request};
use super::nla::{attribute, nest};
use super::uapi::*;

const NAME: &[u8] = b"flowlog\0";

/// What `nft list ruleset` shows of it.
const COMMENT: &[u8] = b"flowlog: connection tracking for all traffic\0";

/// Before connection tracking itself (-200), as rules are that exempt packets from it.
const PRIORITY: i32 = -300;

/// Its chains: each packet passes one of them first.
const CHAINS: [(&[u8], u32); 2] = [(b"prerouting\0", NF_INET_PRE_ROUTING), (b"output\0", NF_INET_LOCAL_OUT)];

/// Appends the transaction that makes the table, also where there is one already: adding it first lets the deletion
/// succeed.
///
/// All messages have one sequence number, and success of the last one is answered: whatever fails, be it a message, the
/// transaction or the right to make one, the first answer says so.
pub(super) fn add(buffer: &mut Vec<u8>, sequence: u32) {
    limit(buffer, NFNL_MSG_BATCH_BEGIN, sequence);
    message(buffer, NFT_MSG_NEWTABLE, sequence, NLM_F_CREATE, table);
    message(buffer, NFT_MSG_DELTABLE, sequence, 0, table);
    message(buffer, NFT_MSG_NEWTABLE, sequence, NLM_F_CREATE, |buffer| {
        table(buffer);
        attribute(buffer, NFTA_TABLE_USERDATA, &comment());
    });
    for chain in CHAINS {
        message(buffer, NFT_MSG_NEWCHAIN, sequence, NLM_F_CREATE, |buffer| hook(buffer, chain));
    }
    let [first, last] = CHAINS;
    for ((chain, _), flags) in [(first, 0), (last, NLM_F_ACK)] {
        let flags = flags | NLM_F_CREATE | NLM_F_APPEND;
        message(buffer, NFT_MSG_NEWRULE, sequence, flags, |buffer| rule(buffer, chain));
    }
    limit(buffer, NFNL_MSG_BATCH_END, sequence);
}

/// The begin or the end of a transaction.
fn limit(buffer: &mut Vec<u8>, operation: u8, sequence: u32) {
    let resource = u16::from(NFNL_SUBSYS_NFTABLES);
    let header = Request { subsystem: NFNL_SUBSYS_NONE, operation, sequence, resource, ..Request::default() };
    request(buffer, header, |_| {});
}

fn message(buffer: &mut Vec<u8>, operation: u8, sequence: u32, flags: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let header = Request {
        subsystem: NFNL_SUBSYS_NFTABLES,
        operation,
        sequence,
        flags,
        family: NFPROTO_INET,
        ..Request::default()
    };
    request(buffer, header, fill);
}

fn table(buffer: &mut Vec<u8>) {
    attribute(buffer, NFTA_TABLE_NAME, NAME);
    be32(buffer, NFTA_TABLE_FLAGS, 0);
}

/// The comment, as libnftnl keeps it where the kernel does not look: type, length, value.
fn comment() -> Vec<u8> {
    let length = u8::try_from(COMMENT.len()).unwrap_or(u8::MAX);
    [&[NFTNL_UDATA_TABLE_COMMENT, length], COMMENT].concat()
}

fn hook(buffer: &mut Vec<u8>, (chain, hook): (&[u8], u32)) {
    attribute(buffer, NFTA_CHAIN_TABLE, NAME);
    attribute(buffer, NFTA_CHAIN_NAME, chain);
    attribute(buffer, NFTA_CHAIN_TYPE, b"filter\0");
    be32(buffer, NFTA_CHAIN_POLICY, NF_ACCEPT);
    nest(buffer, NFTA_CHAIN_HOOK, |buffer| {
        be32(buffer, NFTA_HOOK_HOOKNUM, hook);
        attribute(buffer, NFTA_HOOK_PRIORITY, &PRIORITY.to_be_bytes());
    });
}

/// `ct state new counter`: loads the state of the connection, keeps the bit, compares it with 0, counts.
fn rule(buffer: &mut Vec<u8>, chain: &[u8]) {
    attribute(buffer, NFTA_RULE_TABLE, NAME);
    attribute(buffer, NFTA_RULE_CHAIN, chain);
    nest(buffer, NFTA_RULE_EXPRESSIONS, |buffer| {
        expression(buffer, b"ct\0", |buffer| {
            be32(buffer, NFTA_CT_KEY, NFT_CT_STATE);
            be32(buffer, NFTA_CT_DREG, NFT_REG_1);
        });
        expression(buffer, b"bitwise\0", |buffer| {
            be32(buffer, NFTA_BITWISE_SREG, NFT_REG_1);
            be32(buffer, NFTA_BITWISE_DREG, NFT_REG_1);
            be32(buffer, NFTA_BITWISE_LEN, 4);
            value(buffer, NFTA_BITWISE_MASK, NF_CT_STATE_NEW);
            value(buffer, NFTA_BITWISE_XOR, 0);
        });
        expression(buffer, b"cmp\0", |buffer| {
            be32(buffer, NFTA_CMP_SREG, NFT_REG_1);
            be32(buffer, NFTA_CMP_OP, NFT_CMP_NEQ);
            value(buffer, NFTA_CMP_DATA, 0);
        });
        expression(buffer, b"counter\0", |_| {});
    });
}

fn expression(buffer: &mut Vec<u8>, name: &[u8], fill: impl FnOnce(&mut Vec<u8>)) {
    nest(buffer, NFTA_LIST_ELEM, |buffer| {
        attribute(buffer, NFTA_EXPR_NAME, name);
        nest(buffer, NFTA_EXPR_DATA, fill);
    });
}

fn be32(buffer: &mut Vec<u8>, kind: u16, number: u32) {
    attribute(buffer, kind, &number.to_be_bytes());
}

/// What is compared with a register: the kernel has the state in host order there.
fn value(buffer: &mut Vec<u8>, kind: u16, number: u32) {
    nest(buffer, kind, |buffer| attribute(buffer, NFTA_DATA_VALUE, &number.to_ne_bytes()));
}
