//! flowlog records every finished connection that the kernel's connection tracking saw, with the
//! kernel's final counters, NAT, and the local process at each end, in Parquet files.
//!
//! This is the library behind the `flowlog` command. Its modules, in the order in which data flows:
//!
//! | module | owns | IO |
//! |---|---|---|
//! | [`flow`] | a tracked connection as plain values | no |
//! | [`record`] | what one row says of a flow, before it is columns | no |
//! | [`flow_filter`] | which flows are recorded | no |
//! | [`ctnetlink`] | the kernel's connection tracking over netlink: bytes to values, events, requests | netlink |
//! | [`time_zone`] | the zone of local times | yes |
//! | [`proc_net`] | the text formats of connection tracking | no |
//! | [`namespace`] | network namespaces | yes |
//! | [`host`] | what identifies this host, boot and run | yes |
//! | [`duplicates`] | which flows ended before | no |
//! | [`clocks`] | times of one clock = times of another | only `read` |
//! | [`ebpf`] | the eBPF programs: load, attach, drain their events | BPF |
//! | [`cmdline`] | arguments of a program = text without secrets | no |
//! | [`processes`] | which program a process ran at a time | only `walk` |
//! | [`lives`] | what had a key for some time | no |
//! | [`sockets`] | which connected socket had a tuple at a time | no |
//! | [`addresses`] | which addresses a namespace had at a time | no |
//! | [`rtnetlink`] | the kernel's addresses and local routes over netlink | netlink |
//! | [`listeners`] | older listeners whose sockets do not inherit their owner | no |
//! | [`endpoints`] | which other socket had a port at a time | no |
//! | [`raw_sockets`] | which raw socket sent the packets of a flow | no |
//! | [`seed`] | sockets that are older than the programs | /proc |
//! | [`containers`] | cgroup path = unit, container, pod | no |
//! | [`origins`] | names for the user and the cgroup of an owner | yes |
//! | [`timeouts`] | when the last packet of a flow was | only `read` |
//! | [`attribute`] | flow + tables = record | no |
//! | [`gaps`] | declared losses | no |
//! | [`needs`] | what flowlog needs of its host, and what follows where it is not there | no |
//! | [`nft_rules`] | which rules of nftables make the kernel track connections | no |
//! | [`kernel_losses`] | what the kernel counted as lost | no |
//! | [`dumps`] | entries that end without an event, and those that go on | no |
//! | [`schema`] | record = row of a record batch; the only place that builds Arrow arrays | no |
//! | [`causes`] | errors as one line of the log | no |
//! | [`host_watch`] | looks at what the host has of what flowlog needs | yes |
//! | [`disk`] | rights, durability and full disks | disk |
//! | [`wal`] | rows on the disk before they are published: segments, recovery | disk |
//! | [`ledger`] | the chain of what was written, lost and deleted | disk |
//! | [`writer`] | record batches = Parquet files: staging, rotation, publishing | disk |
//! | [`verify`] | whether a ledger and its files are what was written | reads |
//! | [`retention`] | which files may be deleted | no |
//! | [`store`] | the order in which write-ahead log, files and ledger are written; recovery | disk |
//! | [`import`] | saved text = rows of the flow log | yes |
//! | [`doctor`] | checks and fixes of the host and of namespaces | yes |
//! | [`conntrack_cli`] | `flowlog conntrack`: conntrack(8) | yes |
//! | [`config`] | what `run` was told: file, environment, flags | yes |
//! | [`metrics`] | what flowlog says about itself to Prometheus | no |
//! | [`daemon`] | threads, channel, signals: wires all of the above | yes |
//! | [`cli`] | the command line | yes |
//!
//! Below them, and in tests and builds for fuzzing only, is `fuzzing`: what the fuzzer calls.
//!
//! A module uses only modules above it in this list. `flowlog/tests/architecture.rs` checks that, and
//! that the modules without IO have none.

#![forbid(unsafe_code)]

pub mod flow;

pub mod record;

pub mod flow_filter;

pub mod ctnetlink;

pub mod time_zone;

pub mod proc_net;

pub mod namespace;

pub mod host;

pub mod duplicates;

pub mod clocks;

pub mod ebpf;

pub mod cmdline;

pub mod processes;

pub mod lives;

pub mod sockets;

pub mod addresses;

pub mod rtnetlink;

pub mod listeners;

pub mod endpoints;

pub mod raw_sockets;

pub mod seed;

pub mod containers;

pub mod origins;

pub mod timeouts;

pub mod attribute;

pub mod gaps;

pub mod needs;

pub mod nft_rules;

pub mod kernel_losses;

pub mod dumps;

pub mod schema;

pub mod causes;

pub mod host_watch;

pub mod disk;

pub mod wal;

pub mod ledger;

pub mod writer;

pub mod verify;

pub mod retention;

pub mod store;

pub mod import;

pub mod doctor;

pub mod conntrack_cli;

pub mod config;

pub mod metrics;

pub mod daemon;

pub mod cli;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
