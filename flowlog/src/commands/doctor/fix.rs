//! Sysctls and rules that make a network namespace track connections with counters and times.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::tracking::{read_sysctl, write_sysctl};

/// What each sysctl is set to.
const SYSCTLS: [(&str, u8); 3] =
    [("nf_conntrack_acct", 1), ("nf_conntrack_timestamp", 1), ("nf_conntrack_events", 1)];

/// A rule that reads `ct` anywhere makes the kernel track everything in the namespace. Adding the
/// table first lets the deletion succeed where there was none, so that this can be repeated.
const RULES: &str = "\
add table inet flowlog
delete table inet flowlog
table inet flowlog {
    comment \"flowlog: connection tracking for all traffic\"
    chain prerouting {
        type filter hook prerouting priority -300; policy accept;
        ct state new counter
    }
    chain output {
        type filter hook output priority -300; policy accept;
        ct state new counter
    }
}
";

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
/// Where a sysctl cannot be written, or nft(8) is missing or refuses.
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
        each(add_rules()?);
    }
    Ok(())
}

/// Adds the table `inet flowlog`, whose rules make the kernel track all connections in the namespace of the calling
/// thread. Where it is there already, it is made anew.
///
/// # Errors
///
/// Where nft(8) is missing or refuses.
pub fn add_rules() -> Result<Fixed> {
    nft(RULES)?;
    Ok(Fixed {
        done: "added the nftables table `inet flowlog`, which makes the kernel track connections".to_owned(),
        undo: "nft delete table inet flowlog".to_owned(),
    })
}

/// Runs nft(8) in the namespace of this thread, which children inherit.
fn nft(rules: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft; install the package nftables, or add a rule with `ct state` yourself")?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(rules.as_bytes()));
    let output = child.wait_with_output().context("cannot wait for nft")?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!(
            "nft refused the table `inet flowlog`: {}",
            message.lines().next().unwrap_or("no message").trim()
        );
    }
    written.transpose().context("cannot write to nft")?;
    Ok(())
}
