//! The connection tracking table: what it holds, and who listens.

use std::fs;

use anyhow::Result;

use crate::namespace::Namespace;

/// `NETLINK_NETFILTER`, as `/proc/net/netlink` writes it.
const NETFILTER: &str = "12";

/// Bit of `NFNLGRP_CONNTRACK_DESTROY` among the groups of a socket.
const DESTROY_GROUP: u32 = 1 << 2;

/// The sockets of a namespace that receive DESTROY events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Listeners {
    pub(super) count: u32,
    /// What waits to be read.
    pub(super) queued_bytes: u64,
    /// Messages for which there was no room; to those that ask for it the kernel sends them again.
    pub(super) refused: u64,
}

impl Listeners {
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub(super) fn of(namespace: &Namespace) -> Result<Self> {
        let sockets = namespace.inside(|| Ok(fs::read_to_string("/proc/thread-self/net/netlink")?))?;
        Ok(sockets.lines().filter_map(listener).fold(Self::default(), |sum, (queued_bytes, refused)| Self {
            count: sum.count + 1,
            queued_bytes: sum.queued_bytes + queued_bytes,
            refused: sum.refused + refused,
        }))
    }
}

/// `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`: what waits, and what was dropped.
fn listener(line: &str) -> Option<(u64, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, NETFILTER, _, groups, queued_bytes, _, _, _, refused, ..] = fields.as_slice() else {
        return None;
    };
    let is_listener = u32::from_str_radix(groups, 16).ok()? & DESTROY_GROUP != 0;
    is_listener.then_some(())?;
    Some((queued_bytes.parse().ok()?, refused.parse().ok()?))
}

/// How many entries a namespace has, those that the kernel holds for a reader included.
///
/// # Errors
///
/// When the kernel does not tell.
pub(super) fn entries(namespace: &Namespace) -> Result<u32> {
    let count = namespace.inside(|| Ok(fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count")?))?;
    Ok(count.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_other_sockets() {
        let line = |protocol: &str, groups: &str| {
            format!("00000000d7e3ae11 {protocol} 3290127 {groups} 768 0 0 2 17 4321")
        };
        assert_eq!(listener(&line("12", "00000004")), Some((768, 17)));
        assert_eq!(listener(&line("12", "00000000")), None);
        assert_eq!(listener(&line("15", "00000004")), None);
        assert_eq!(listener("sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode"), None);
    }
}
