//! Which rules of nftables make the kernel track connections, as its messages tell.
//!
//! A network namespace tracks an IP version as long as something in it asks for that (`nf_ct_netns_get`): a rule that
//! uses `ct`, NAT and some others, also those that iptables-nft makes. [`Rules`] knows them by their handles. What it
//! does not know, as rules of iptables-legacy, may track as well: so rules prove that the kernel tracks, and their
//! absence proves nothing. Pure: messages are handed in.
//!
//! The kernel tells of each transaction after it was made, and ends it with `NFT_MSG_NEWGEN`. Within one, no moment is
//! without rules; between two, there is one.

use hashbrown::HashMap;

use crate::connections::ctnetlink::decode::{DecodeError, Message};
use crate::connections::ctnetlink::nla::Attributes;
use crate::connections::ctnetlink::uapi::*;

/// Expressions that call `nf_ct_netns_get`.
const TRACKING: [&[u8]; 5] = [b"ct", b"nat", b"masq", b"redir", b"connlimit"];

/// Matches and targets of iptables that do, by way of `nft_compat`.
const TRACKING_COMPAT: [&[u8]; 13] = [
    b"conntrack",
    b"state",
    b"connbytes",
    b"connlabel",
    b"connlimit",
    b"connmark",
    b"helper",
    b"CONNMARK",
    b"SNAT",
    b"DNAT",
    b"MASQUERADE",
    b"REDIRECT",
    b"NETMAP",
];

/// The two IP versions.
pub type Versions = [bool; 2];

/// What names a rule: family, table and handle.
type Key = (u8, Vec<u8>, u64);

/// The rules that make the kernel track.
#[derive(Debug, Default)]
pub struct Rules {
    rules: HashMap<Key, Versions, foldhash::fast::RandomState>,
    /// How many of them are of each IP version.
    counts: [usize; 2],
    /// At the end of a transaction there were none, and before there were.
    emptied: Versions,
    /// After that there were some again.
    returned: Versions,
    /// How many there were at the end of the last transaction.
    before: [usize; 2],
    /// The number of the last transaction.
    generation: Option<u32>,
}

impl Rules {
    /// Forgets all. What a list has follows, then [`Rules::listed`].
    pub fn clear(&mut self) {
        self.rules.clear();
        self.counts = [0; 2];
    }

    /// The list is complete: it was made after the transaction with this number.
    pub fn listed(&mut self, generation: Option<u32>) {
        self.generation = generation;
        self.before = self.counts;
        self.emptied = [false; 2];
        self.returned = [false; 2];
    }

    /// Takes in a message of nftables, of a list or of a change; others are left out.
    ///
    /// # Errors
    ///
    /// Where it cannot be read: then what is known here is not all.
    pub fn apply(&mut self, message: &Message<'_>) -> Result<(), DecodeError> {
        let [subsystem, kind] = message.message_type.to_be_bytes();
        if subsystem != NFNL_SUBSYS_NFTABLES {
            return Ok(());
        }
        match kind {
            NFT_MSG_NEWRULE => {
                let (key, versions) = rule(message.payload)?;
                self.remove(&key);
                if versions != [false; 2] {
                    self.count(versions, |count| *count += 1);
                    self.rules.insert(key, versions);
                }
            }
            NFT_MSG_DELRULE | NFT_MSG_DESTROYRULE => {
                let (key, _) = rule(message.payload)?;
                self.remove(&key);
            }
            NFT_MSG_NEWGEN => {
                self.generation = generation(message.payload)?;
                self.end_transaction();
            }
            _ => {}
        }
        Ok(())
    }

    /// The number of the last transaction that is known.
    pub fn generation(&self) -> Option<u32> {
        self.generation
    }

    fn remove(&mut self, key: &Key) {
        if let Some(versions) = self.rules.remove(key) {
            self.count(versions, |count| *count -= 1);
        }
    }

    fn count(&mut self, versions: Versions, change: impl Fn(&mut usize)) {
        self.counts.iter_mut().zip(versions).filter(|(_, is_of)| *is_of).for_each(|(count, _)| change(count));
    }

    fn end_transaction(&mut self) {
        let Self { counts, emptied, returned, before, .. } = self;
        let versions = counts.iter().zip(before).zip(emptied.iter_mut().zip(returned));
        for ((count, before), (emptied, returned)) in versions {
            *returned |= *emptied && *count > 0;
            *emptied |= *before > 0 && *count == 0;
            *before = *count;
        }
    }

    /// Whether a rule makes the kernel track the IP version.
    pub fn track(&self, is_ipv6: bool) -> bool {
        self.counts.get(usize::from(is_ipv6)).is_some_and(|count| *count > 0)
    }

    /// Whether the last of these rules went since [`Rules::settle`].
    pub fn were_emptied(&self, is_ipv6: bool) -> bool {
        self.emptied.get(usize::from(is_ipv6)).copied().unwrap_or_default()
    }

    /// Whether they went, and others came in a later transaction: between the two there were none.
    pub fn have_returned(&self, is_ipv6: bool) -> bool {
        self.returned.get(usize::from(is_ipv6)).copied().unwrap_or_default()
    }

    /// What followed from their going is known.
    pub fn settle(&mut self, is_ipv6: bool) {
        for flags in [&mut self.emptied, &mut self.returned] {
            if let Some(flag) = flags.get_mut(usize::from(is_ipv6)) {
                *flag = false;
            }
        }
    }
}

/// The number of a transaction, in a message or in an answer.
///
/// # Errors
///
/// Where it cannot be read.
pub fn generation(payload: &[u8]) -> Result<Option<u32>, DecodeError> {
    const PARENT: &str = "a generation of nftables";
    let mut generation = None;
    for attribute in Attributes::new(payload.get(NFGENMSG_LEN..).unwrap_or_default(), PARENT) {
        let attribute = attribute?;
        if attribute.kind == NFTA_GEN_ID {
            generation = Some(attribute.be32("NFTA_GEN_ID")?);
        }
    }
    Ok(generation)
}

/// The name of a rule, and of which IP versions it makes the kernel track connections.
fn rule(payload: &[u8]) -> Result<(Key, Versions), DecodeError> {
    const PARENT: &str = "a rule";
    let missing = |attribute| DecodeError::Missing { attribute, parent: PARENT };
    let (family, attributes) = match payload.split_at_checked(NFGENMSG_LEN) {
        Some((&[family, ..], attributes)) => (family, attributes),
        _ => return Err(missing("nfgenmsg")),
    };
    let (mut table, mut handle, mut versions) = (None, None, [false; 2]);
    for attribute in Attributes::new(attributes, PARENT) {
        let attribute = attribute?;
        match attribute.kind {
            NFTA_RULE_TABLE => table = Some(attribute.payload),
            NFTA_RULE_HANDLE => handle = Some(attribute.be64("NFTA_RULE_HANDLE")?),
            NFTA_RULE_EXPRESSIONS => {
                for expression in attribute.nested("NFTA_RULE_EXPRESSIONS") {
                    let tracked = tracked(family, expression?.nested("NFTA_LIST_ELEM"))?;
                    versions.iter_mut().zip(tracked).for_each(|(any, this)| *any |= this);
                }
            }
            _ => {}
        }
    }
    let table = table.ok_or(missing("NFTA_RULE_TABLE"))?.to_vec();
    let handle = handle.ok_or(missing("NFTA_RULE_HANDLE"))?;
    Ok(((family, table, handle), versions))
}

/// The IP versions of a family.
fn versions_of(family: u8) -> Versions {
    match family {
        AF_INET => [true, false],
        AF_INET6 => [false, true],
        NFPROTO_INET | NFPROTO_BRIDGE => [true; 2],
        _ => [false; 2],
    }
}

/// Of which IP versions an expression in a table of this family makes the kernel track connections.
fn tracked(family: u8, expression: Attributes<'_>) -> Result<Versions, DecodeError> {
    let (mut name, mut data) = (&[][..], None);
    for attribute in expression {
        let attribute = attribute?;
        match attribute.kind {
            NFTA_EXPR_NAME => name = text(attribute.payload),
            NFTA_EXPR_DATA => data = Some(attribute.nested("NFTA_EXPR_DATA")),
            _ => {}
        }
    }
    let all = |is_tracking: bool| if is_tracking { versions_of(family) } else { [false; 2] };
    match (name, data) {
        (b"match" | b"target", Some(data)) => {
            for attribute in data {
                let attribute = attribute?;
                if attribute.kind == NFTA_COMPAT_NAME {
                    return Ok(all(TRACKING_COMPAT.contains(&text(attribute.payload))));
                }
            }
            Ok([false; 2])
        }
        // In a table of both IP versions it is of one of them (`nft_nat_init`).
        (b"nat", Some(data)) => {
            for attribute in data {
                let attribute = attribute?;
                if attribute.kind == NFTA_NAT_FAMILY {
                    let family = attribute.be32("NFTA_NAT_FAMILY")?;
                    return Ok(u8::try_from(family).map_or([false; 2], versions_of));
                }
            }
            Ok(all(true))
        }
        _ => Ok(all(TRACKING.contains(&name))),
    }
}

/// A text without the zero at its end.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// An expression with its name, and the name of a match or target.
    fn expression(name: &[u8], compat: Option<&[u8]>) -> Vec<u8> {
        let data = compat.map(|compat| attribute(NFTA_EXPR_DATA, &attribute(NFTA_COMPAT_NAME, compat)));
        attribute(1, &[attribute(NFTA_EXPR_NAME, name), data.unwrap_or_default()].concat())
    }

    fn payload(family: u8, handle: u64, expressions: &[Vec<u8>]) -> Vec<u8> {
        [
            vec![family, 0, 0, 0],
            attribute(NFTA_RULE_TABLE, b"filter\0"),
            attribute(NFTA_RULE_HANDLE, &handle.to_be_bytes()),
            attribute(NFTA_RULE_EXPRESSIONS, &expressions.concat()),
        ]
        .concat()
    }

    fn apply(rules: &mut Rules, kind: u8, payload: &[u8]) {
        let message_type = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, kind]);
        let message = Message { message_type, flags: 0, sequence: 0, port_id: 0, payload };
        rules.apply(&message).unwrap();
    }

    fn add(rules: &mut Rules, family: u8, handle: u64) {
        apply(rules, NFT_MSG_NEWRULE, &payload(family, handle, &[expression(b"ct\0", None)]));
    }

    fn delete(rules: &mut Rules, family: u8, handle: u64) {
        apply(rules, NFT_MSG_DELRULE, &payload(family, handle, &[]));
    }

    fn end(rules: &mut Rules) {
        apply(rules, NFT_MSG_NEWGEN, &[]);
    }

    #[test]
    fn only_rules_that_use_connection_tracking_count() {
        let mut rules = Rules::default();
        for (handle, expressions) in [
            (1, vec![expression(b"counter\0", None)]),
            (2, vec![expression(b"notrack\0", None)]),
            (3, vec![expression(b"match\0", Some(b"tcp\0"))]),
            (4, vec![]),
        ] {
            apply(&mut rules, NFT_MSG_NEWRULE, &payload(NFPROTO_INET, handle, &expressions));
        }
        assert!(!rules.track(false) && !rules.track(true));
        for (name, compat) in [
            (&b"ct\0"[..], None),
            (b"masq\0", None),
            (b"match\0", Some(&b"conntrack\0"[..])),
            (b"target\0", Some(b"DNAT\0")),
        ] {
            let mut rules = Rules::default();
            let expressions = [expression(b"meta\0", None), expression(name, compat)];
            apply(&mut rules, NFT_MSG_NEWRULE, &payload(AF_INET, 9, &expressions));
            assert!(rules.track(false) && !rules.track(true), "{name:?} {compat:?}");
        }
    }

    #[test]
    fn nat_in_a_table_of_both_ip_versions_tracks_one_of_them() {
        for (family, expected) in [(AF_INET, [true, false]), (AF_INET6, [false, true])] {
            let data = attribute(NFTA_NAT_FAMILY, &u32::from(family).to_be_bytes());
            let nat = [attribute(NFTA_EXPR_NAME, b"nat\0"), attribute(NFTA_EXPR_DATA, &data)].concat();
            let mut rules = Rules::default();
            apply(&mut rules, NFT_MSG_NEWRULE, &payload(NFPROTO_INET, 9, &[attribute(1, &nat)]));
            assert_eq!([rules.track(false), rules.track(true)], expected);
        }
    }

    #[test]
    fn a_reload_in_one_transaction_is_no_moment_without_rules() {
        let mut rules = Rules::default();
        add(&mut rules, NFPROTO_INET, 1);
        rules.listed(Some(7));
        delete(&mut rules, NFPROTO_INET, 1);
        add(&mut rules, NFPROTO_INET, 2);
        end(&mut rules);
        assert!(rules.track(false) && rules.track(true));
        assert!(!rules.were_emptied(false) && !rules.have_returned(false));
    }

    #[test]
    fn a_reload_in_two_transactions_is() {
        let mut rules = Rules::default();
        add(&mut rules, NFPROTO_INET, 1);
        add(&mut rules, AF_INET6, 2);
        rules.listed(Some(7));
        delete(&mut rules, NFPROTO_INET, 1);
        end(&mut rules);
        assert!(rules.were_emptied(false) && !rules.were_emptied(true), "IPv6 has another rule");
        assert!(!rules.track(false) && rules.track(true));
        assert!(!rules.have_returned(false));
        add(&mut rules, NFPROTO_INET, 3);
        end(&mut rules);
        assert!(rules.have_returned(false) && !rules.have_returned(true));
        rules.settle(false);
        end(&mut rules);
        assert!(!rules.were_emptied(false) && !rules.have_returned(false));
    }

    #[test]
    fn a_rule_that_is_told_twice_counts_once() {
        let mut rules = Rules::default();
        add(&mut rules, AF_INET, 1);
        add(&mut rules, AF_INET, 1);
        delete(&mut rules, AF_INET, 1);
        delete(&mut rules, AF_INET, 1);
        assert!(!rules.track(false));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let mut rules = Rules::default();
        for payload in [&[][..], &[1, 0, 0, 0], &[1, 0, 0, 0, 9, 0, 1, 0]] {
            let message_type = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWRULE]);
            let message = Message { message_type, flags: 0, sequence: 0, port_id: 0, payload };
            assert!(rules.apply(&message).is_err());
        }
    }
}
