//! What `flowlog run` was told: [`Settings`] as they were given, [`Config`] as it is used.
//!
//! ```text
//! file        --+
//! environment --+--> Settings, later ones win --> Config
//! flags       --+
//! ```
//!
//! Each value is checked while it is read, where its file, line and column or its variable is still known.
//! So making a [`Config`] cannot fail. What takes more than one value to check comes later: `conflicts` looks at all
//! settings together, and the daemon refuses a filter that is too large for the metadata of files. A stage that has
//! options defines them itself, with their defaults.

mod conflicts;
mod settings;
mod sources;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use settings::{
    Attribution, Conditions, Filter, Hold, Host, Parquet, Process, Retention, Rotate, Settings, Wal,
};
pub use sources::ConfigError;
pub use values::{Address, Every, Expected, Interval, Network, Percent, ReceiveBuffer, RingBuffer, Size};

use crate::attribution::cmdline;
use crate::connections::ctnetlink::Delivery;
use crate::connections::filter::{self, FlowFilter};
use crate::host::namespace::{Namespace, Wanted};
use crate::log::retention::RetentionLimits;
use crate::log::wal::WalSync;
use crate::log::writer::{Compatibility, Rotation};

/// Where the flow log is.
pub const OUTPUT: &str = "/var/log/flowlog";

/// How often the connection tracking table is listed. A list of 262 144 entries takes the kernel a third
/// of a second; what has ended without an event is known after the second one.
const DUMP_INTERVAL: Duration = Duration::from_secs(60);

/// How often the connection tracking table is listed in any case, to find what ends without an event.
const AUDIT_INTERVAL: Duration = Duration::from_secs(600);

/// How many lists of the connection tracking table come on one record of a flow that goes on.
const ACTIVE_LISTS: u32 = 10;

/// They come not more often than this.
const SHORTEST_LISTS: Duration = Duration::from_millis(100);

/// The configuration of the daemon.
#[derive(Debug)]
pub struct Config {
    /// Directory of the flow log.
    pub output: PathBuf,
    /// The network namespaces to watch that are there.
    pub namespaces: Vec<Namespace>,
    /// Which there may be.
    pub wanted: Wanted,
    /// Whether to load the eBPF programs.
    pub ebpf: bool,
    /// What the kernel does with events that the receive buffer has no room for.
    pub delivery: Delivery,
    /// How often the connection tracking table is listed, where that can tell something: often enough that records of
    /// flows that go on are late by a tenth of their interval at most.
    pub dump_interval: Duration,
    /// How often the connection tracking table is listed in any case; `None` where it is not.
    pub audit_interval: Option<Duration>,
    /// How often flows that go on are recorded; `None` where they are not.
    pub active_interval: Option<Duration>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// When a file is finished.
    pub rotation: Rotation,
    /// Which readers the files are for.
    pub compatibility: Compatibility,
    /// When the write-ahead log is synced.
    pub wal_sync: WalSync,
    /// How many entries of its table connection tracking may hold for us before events are dropped, in
    /// percent.
    pub table_share_percent: u8,
    /// Socket buffer of each listener.
    pub receive_buffer_bytes: usize,
    /// Which files are deleted.
    pub retention: RetentionLimits,
    /// What is recorded of the arguments of programs.
    pub cmdline: cmdline::Mode,
    /// Size of the buffer for events of sockets and processes.
    pub ring_buffer_bytes: u32,
    /// How much memory is taken to remember sockets and processes.
    pub memory_bytes: usize,
    /// Which flows are recorded.
    pub filter: FlowFilter,
    /// Whether what others on the host take away is set right: sysctls, rules, programs.
    pub keep: bool,
}

impl Config {
    /// The settings, with the defaults for what they leave open. `namespaces` are those of
    /// [`Settings::netns`], as they are `wanted`, that are there.
    pub fn new(settings: Settings, wanted: Wanted, namespaces: Vec<Namespace>) -> Self {
        let Settings {
            output,
            netns: _,
            ebpf,
            delivery,
            dump_interval,
            audit_interval,
            active_interval,
            metrics,
            rotate,
            parquet,
            wal,
            hold,
            retention,
            process,
            attribution,
            filter,
            host,
        } = settings;
        let dump_interval = dump_interval.map_or(DUMP_INTERVAL, |interval| interval.0);
        let Host { keep } = host;
        let Rotate { interval, rows, bytes } = rotate;
        let rotation = Rotation::default();
        let rotation = Rotation {
            interval: interval.map_or(rotation.interval, |interval| interval.0),
            rows: rows.map_or(rotation.rows, u64::from),
            bytes: bytes.map_or(rotation.bytes, |bytes| bytes.0),
        };
        let Wal { sync } = wal;
        let Hold { table_share, receive_buffer } = hold;
        let Retention { age, bytes, min_free } = retention;
        let retention = RetentionLimits {
            age: age.map(|age| age.0),
            bytes: bytes.map(|bytes| bytes.0),
            min_free_bytes: min_free.map(|bytes| bytes.0),
        };
        let Process { cmdline } = process;
        let Attribution { ring_buffer, memory } = attribution;
        Self {
            output: output.unwrap_or_else(|| PathBuf::from(OUTPUT)),
            namespaces,
            wanted,
            ebpf: ebpf.unwrap_or(true),
            delivery: delivery.unwrap_or_default(),
            dump_interval: match active_interval {
                Some(Interval(active)) => dump_interval.min(active_lists(active)),
                None => dump_interval,
            },
            audit_interval: audit_interval.map_or(Some(AUDIT_INTERVAL), |Every(interval)| interval),
            active_interval: active_interval.map(|interval| interval.0),
            metrics: metrics.map(|address| address.0),
            rotation,
            compatibility: parquet.compatibility.unwrap_or_default(),
            wal_sync: sync.unwrap_or_default(),
            table_share_percent: table_share.unwrap_or_default().0,
            receive_buffer_bytes: receive_buffer.unwrap_or_default().0,
            retention,
            cmdline: cmdline.unwrap_or_default(),
            ring_buffer_bytes: ring_buffer.unwrap_or_default().0,
            memory_bytes: memory.unwrap_or_default().0,
            filter: FlowFilter { only: conditions(filter.only), except: conditions(filter.except) },
            keep: keep.unwrap_or(false),
        }
    }
}

/// How often the table is listed for records of flows that go on.
fn active_lists(active_interval: Duration) -> Duration {
    (active_interval / ACTIVE_LISTS).max(SHORTEST_LISTS)
}

/// A list that is not there says nothing, as an empty one.
fn conditions(conditions: Conditions) -> filter::Conditions {
    let Conditions { address, protocol, zone, mark } = conditions;
    filter::Conditions {
        address: address.unwrap_or_default().into_iter().map(|Network(network)| network).collect(),
        protocol: protocol.unwrap_or_default(),
        zone: zone.unwrap_or_default(),
        mark: mark.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
