//! The settings as they are given: each may be left out.

use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::Deserialize;

use super::values::{
    Address, Every, Interval, Memory, Network, Percent, ReceiveBuffer, RingBuffer, Size, path,
};
use crate::attribution::cmdline;
use crate::connections::ctnetlink::Delivery;
use crate::connections::filter::Mark;
use crate::flow::Protocol;
use crate::log::wal::WalSync;
use crate::log::writer::Compatibility;

/// Defines a section: what has no such name is an error, and what is left out may come from another source.
macro_rules! section {
    ($(#[$of_section:meta])* $Section:ident { $($(#[$of_key:meta])* $key:ident: $Type:ty,)* }) => {
        $(#[$of_section])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(default, deny_unknown_fields, expecting = "a section with keys")]
        pub struct $Section {
            $($(#[$of_key])* pub $key: $Type,)*
        }

        impl $Section {
            /// What is left out here is taken from `other`.
            pub fn or(self, other: Self) -> Self {
                // A key is an `Option`, a section within has this same function.
                Self { $($key: self.$key.or(other.$key),)* }
            }
        }
    };
}

section! {
    /// All that can be set.
    Settings {
        /// Directory of the flow log.
        #[serde(deserialize_with = "path")]
        output: Option<PathBuf>,
        /// Network namespaces, by name or path.
        netns: Option<Vec<String>>,
        /// Whether to load the eBPF programs.
        ebpf: Option<bool>,
        /// What the kernel does with events that the receive buffer has no room for.
        delivery: Option<Delivery>,
        /// How often the connection tracking table is listed.
        dump_interval: Option<Interval>,
        /// How often the connection tracking table is listed in any case.
        audit_interval: Option<Every>,
        /// How often flows that go on are recorded.
        active_interval: Option<Interval>,
        /// Where metrics are served.
        metrics: Option<Address>,
        /// When a file is finished.
        rotate: Rotate,
        /// How the files are encoded.
        parquet: Parquet,
        /// The write-ahead log.
        wal: Wal,
        /// How much the kernel may hold for us.
        hold: Hold,
        /// Which files are deleted.
        retention: Retention,
        /// What is recorded of processes.
        process: Process,
        /// What is needed to know processes.
        attribution: Attribution,
        /// Which flows are recorded.
        filter: Filter,
        /// What flowlog does to the host.
        host: Host,
    }
}

section! {
    /// When a file is finished.
    Rotate {
        /// Its age.
        interval: Option<Interval>,
        /// Its rows.
        rows: Option<NonZeroU64>,
        /// Its size.
        bytes: Option<Size>,
    }
}

section! {
    /// How the files are encoded.
    Parquet {
        /// For which readers.
        compatibility: Option<Compatibility>,
    }
}

section! {
    /// The write-ahead log.
    Wal {
        /// When it is synced.
        sync: Option<WalSync>,
    }
}

section! {
    /// How much the kernel may hold for us.
    Hold {
        /// Entries of the connection tracking table.
        table_share: Option<Percent>,
        /// Bytes of each netlink socket.
        receive_buffer: Option<ReceiveBuffer>,
    }
}

section! {
    /// Which files are deleted.
    Retention {
        /// Those that are older.
        age: Option<Interval>,
        /// The oldest, where all together are larger.
        bytes: Option<Size>,
        /// The oldest, where the file system has less room.
        min_free: Option<Size>,
    }
}

section! {
    /// What is recorded of processes.
    Process {
        /// Of their arguments.
        cmdline: Option<cmdline::Mode>,
    }
}

section! {
    /// What is needed to know processes.
    Attribution {
        /// Size of the buffer for events.
        ring_buffer: Option<RingBuffer>,
        /// What is remembered of sockets and processes takes so much.
        memory: Option<Memory>,
    }
}

section! {
    /// What flowlog does to the host.
    Host {
        /// Whether what others take away is set right.
        keep: Option<bool>,
    }
}

section! {
    /// Which flows are recorded.
    Filter {
        /// Those that meet all of these.
        only: Conditions,
        /// Of them, those that meet none of these.
        except: Conditions,
    }
}

section! {
    /// What a flow may have: for each key, one of the list.
    Conditions {
        /// An address in one of the networks.
        address: Option<Vec<Network>>,
        /// The layer 4 protocol.
        protocol: Option<Vec<Protocol>>,
        /// The zone.
        zone: Option<Vec<u16>>,
        /// The connection mark.
        mark: Option<Vec<Mark>>,
    }
}
