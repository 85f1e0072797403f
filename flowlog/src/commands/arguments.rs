//! Arguments that several commands have.

use std::path::PathBuf;

/// Which connection tracking tables, and where the files go.
#[derive(Debug, clap::Args)]
pub struct Where {
    /// Directory of the flow log [default: /var/log/flowlog]
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,

    /// Network namespace to watch or check, by its name in `ip netns` or by path, a pattern such as `qrouter-*`, or `all`;
    /// may be repeated [default: the one that flowlog runs in]
    #[arg(long, value_name = "NAME|PATH|PATTERN")]
    pub(crate) netns: Vec<String>,

    /// Turn on accounting, timestamps and events, and add the nftables table `inet flowlog` if no rule
    /// makes the kernel track connections; prints how to undo it. `run` keeps them on while it runs
    #[arg(long)]
    pub(crate) fix: bool,
}
