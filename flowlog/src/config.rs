//! What `flowlog run` was told, checked and opened: nothing downstream checks it again.

use std::path::PathBuf;

use crate::namespace::Namespace;
use crate::writer::Rotation;

/// The configuration of the daemon.
#[derive(Debug)]
pub struct Config {
    /// Directory of the flow log.
    pub output: PathBuf,
    /// The network namespaces to watch; at least one.
    pub namespaces: Vec<Namespace>,
    /// Whether to load the eBPF programs.
    pub ebpf: bool,
    /// When a file is finished.
    pub rotation: Rotation,
}
