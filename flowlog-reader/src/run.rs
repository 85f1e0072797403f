//! A run of the daemon, or of an import: what its rows, files and segments say of it.

use serde_json::Value;
use uuid::Uuid;

/// What is the same in all rows of one run of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunContext {
    /// UUIDv7 of the run.
    pub run_id: Uuid,
    /// Application-specific hash of the machine id.
    pub host_id: String,
    /// Name of the host.
    pub host_name: String,
    /// Boot id of the kernel, where known.
    pub boot_id: Option<String>,
}

/// What the files of a run say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFacts {
    /// The run, for names and metadata of files.
    pub run: RunContext,
    /// Release of the kernel, for the metadata.
    pub kernel: String,
    /// Whether the kernel counts packets and bytes (`nf_conntrack_acct`), where known.
    pub acct: Option<bool>,
    /// Whether the kernel takes start and stop times (`nf_conntrack_timestamp`), where known.
    pub timestamp: Option<bool>,
    /// Which flows are recorded, as JSON; `None` for all.
    pub filter: Option<Value>,
}
