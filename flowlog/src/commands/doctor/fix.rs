//! Sysctls and rules that make a network namespace track connections with counters and times.

use anyhow::{Context, Result};

use super::tracking::{read_sysctl, write_sysctl};
use crate::connections::ctnetlink::Requests;

/// What each sysctl is set to.
const SYSCTLS: [(&str, u8); 3] =
    [("nf_conntrack_acct", 1), ("nf_conntrack_timestamp", 1), ("nf_conntrack_events", 1)];

/// One change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// What was done.
    pub done: String,
    /// The command that undoes it.
    pub undo: String,
}

/// Turns on accounting, timestamps and events, and tracking where `track` asks for it, in the
/// namespace of the calling thread, and calls `each` for every change that was made. Connections that
/// exist already get neither counters nor times.
///
/// # Errors
///
/// Where a sysctl cannot be written, or the kernel does not take the rules.
pub fn fix(track: bool, mut each: impl FnMut(Fixed)) -> Result<()> {
    for (name, wanted) in SYSCTLS {
        let before = read_sysctl(name)
            .with_context(|| format!("cannot read the sysctl `{name}`; load the module nf_conntrack"))?;
        if before == wanted {
            continue;
        }
        write_sysctl(name, wanted)
            .with_context(|| format!("cannot set the sysctl `{name}` to {wanted}; run as root"))?;
        each(Fixed {
            done: format!("set net.netfilter.{name} from {before} to {wanted}"),
            undo: format!("sysctl -w net.netfilter.{name}={before}"),
        });
    }
    if track {
        each(add_rules(&mut Requests::open()?)?);
    }
    Ok(())
}

/// Adds the table `inet flowlog`, whose rules make the kernel track all connections in the namespace of the socket.
/// Where it is there already, it is made anew.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn add_rules(requests: &mut Requests) -> Result<Fixed> {
    requests
        .add_table()
        .context("load the kernel modules nf_tables and nft_ct, or add a rule with `ct state` yourself")?;
    Ok(Fixed {
        done: "added the nftables table `inet flowlog`, which makes the kernel track connections".to_owned(),
        undo: "nft delete table inet flowlog".to_owned(),
    })
}
