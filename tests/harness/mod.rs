//! What the cases share. It knows how to make things happen and how to read what came of it; what
//! must have come of it is said by the cases.

/// conntrack(8) as a second witness.
pub(crate) mod conntrack;
/// The command under test.
pub(crate) mod daemon;
/// The files that it wrote.
pub(crate) mod dataset;
/// What the kernel has of eBPF programs, and programs of others.
pub(crate) mod ebpf;
/// Entries of the connection tracking table without traffic.
pub(crate) mod entries;
/// System calls that fail.
pub(crate) mod fault;
/// Hosts with other file systems mounted, and with fewer rights.
pub(crate) mod host;
/// What older kernels do not have.
pub(crate) mod kernel;
/// A service manager that keeps descriptors.
pub(crate) mod manager;
/// Throw-away network namespaces.
pub(crate) mod namespace;
/// Child processes that do not outlive their test.
pub(crate) mod process;
/// Programs with a known name that make connections.
pub(crate) mod program;
/// What those programs do.
pub(crate) mod roles;
/// Hosts that refuse a system call.
pub(crate) mod seccomp;
/// The service manager systemd.
pub(crate) mod systemd;
/// Which flows became rows, and which are declared lost.
pub(crate) mod tally;
/// Threads for what a thread cannot take back.
pub(crate) mod thread;
/// Connections of every kind.
pub(crate) mod traffic;
/// File systems that vanish with their test.
pub(crate) mod volume;
/// Waiting with a deadline.
pub(crate) mod wait;
