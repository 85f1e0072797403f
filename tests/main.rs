//! End-to-end tests: the real binary on the real kernel.
//!
//! Each case runs `flowlog` in network namespaces of its own and reads the files that it wrote. The
//! cases need root, are independent of each other, and leave nothing behind. They panic rather than
//! return an error, because a panic has the place and the backtrace; every wait has a deadline.
//!
//! `cargo xtask test` prepares what they need: the binary, nft(8), conntrack(8), ip(8), ping(8), and
//! a Python with DuckDB, Polars and pyarrow.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends with a panic, and clippy knows only the test functions themselves"
)]

/// Namespaces, traffic, the daemon and its files.
mod harness;

/// Everything that runs next to `flowlog` sees the same: conntrack(8) and each row agree.
mod cross_check;
/// What the kernel does not tell is NULL.
mod no_accounting;
/// No flow is lost and none comes twice.
mod ten_thousand;

/// The daemon is killed.
mod crash;
/// Connections that are older than flowlog, or go on.
mod dumps;
/// System calls fail, and clocks are set.
mod faults;
/// Only some flows are recorded.
mod filter;
/// There is no room on the disk.
mod full_disk;
/// All of it in random order.
mod model;
/// Somebody cannot keep up: the reader, the writer, another listener.
mod overload;
/// Restarts with a service manager that keeps what is in flight.
mod restart;

/// DuckDB, Polars and pyarrow read what was written.
mod readers;
/// When files are published, where, and what they say about themselves.
mod rotation;
/// `flowlog schema` describes the columns of the files.
mod schema;

/// Addresses that come and go while flows last.
mod addresses;
/// Clocks that are slow, and clocks that are set.
mod clocks;
/// Command lines, parents, starts and login users of processes.
mod commands;
/// Cgroups, containers, pods and users.
mod containers;
/// Sockets without a connection: UDP, ping, raw.
mod datagrams;
/// A user who opens sockets without end.
mod flood;
/// A server of Go.
mod go_server;
/// Sockets that one process makes and another uses.
mod handover;
/// Each kind of socket, older and newer.
mod kinds;
/// NAT and several observed namespaces.
mod nat;
/// Without eBPF, flows are logged without programs.
mod no_ebpf;
/// Sockets that are older than the daemon.
mod older;
/// Containers of Podman that live shortly.
mod podman;
/// Two programs that take turns on one source port.
mod port_reuse;
/// The programs at both ends of a connection.
mod processes;
/// The paths of programs.
mod programs;
/// Packets that a process makes by hand.
mod raw;
/// Connections without a socket at their far end.
mod refused;

/// Short processes, and process numbers that are used again.
mod short_lived;
/// Statistics, direction and the time of the last packet.
mod socket_facts;
/// A daemon that could not read for a while.
mod stalled;
/// Servers with workers.
mod workers;

/// `flowlog verify` names what was done to files and ledger.
mod verify;

/// Commands that are programs of their own.
mod external;
/// `flowlog lake files` knows what is there, and whether that is all.
mod lake;

/// Settings of the file, the environment and flags.
mod configuration;

/// What flowlog says about itself.
mod metrics;

/// `flowlog conntrack` does what conntrack(8) does.
mod conntrack_cli;

/// `flowlog import` makes rows of saved text.
mod import;

/// All requests of the library to connection tracking.
mod requests;

/// Others on the same host.
mod coexistence;
/// Others change the host while flowlog runs.
mod host_watch;
/// Hosts that lack something, or refuse it.
mod hosts;
/// Network namespaces that come and go.
mod namespaces;
/// What flowlog may do, and what it gives up.
mod rights;
/// The service of systemd.
mod service;

/// Long and steady load.
mod soak;

/// What cannot work fails with one line that says why.
mod bad_input;
/// `flowlog doctor` finds what is missing and sets it.
mod doctor;
