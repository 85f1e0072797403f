//! The connection tracking table: how large it may be, what it holds, and who listens.

use std::fs;

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;

/// One limit for all namespaces, which only the initial one can set.
const MAX_ENTRIES: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// `NETLINK_NETFILTER`, as `/proc/net/netlink` writes it.
const NETFILTER: &str = "12";

/// Bit of `NFNLGRP_CONNTRACK_DESTROY` among the groups of a socket.
const DESTROY_GROUP: u32 = 1 << 2;

/// A table that may be larger, as long as this lives.
pub(super) struct Raised {
    /// What the limit was, where it was changed.
    before: Option<String>,
}

impl Raised {
    /// Makes room for `entries`, and for flowlog to let the kernel hold them: half of the table is for that.
    /// A burst is many times what usually is in a table; on the host that this stands for there is room. Flowlog
    /// remembers as many flows as there is room for, to tell repeated events: its memory is that of such a host.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub(super) fn to_hold(entries: u32) -> Result<Self> {
        let found =
            fs::read_to_string(MAX_ENTRIES).with_context(|| format!("cannot read `{MAX_ENTRIES}`"))?;
        let wanted = entries.saturating_mul(4);
        if found.trim().parse::<u32>()? >= wanted {
            return Ok(Self { before: None });
        }
        let write = fs::write(MAX_ENTRIES, wanted.to_string());
        write.with_context(|| {
            format!("cannot write `{MAX_ENTRIES}`: run it in the initial network namespace")
        })?;
        Ok(Self { before: Some(found) })
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = fs::write(MAX_ENTRIES, before)
        {
            eprintln!("bench: cannot write {} to `{MAX_ENTRIES}`: {error}", before.trim());
        }
    }
}

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
