//! The ABI between flowlog's eBPF programs and its user side.
//!
//! Every type is `repr(C)` and made of integers and byte arrays only. Padding is written out as
//! named zero fields and sizes are asserted, so that no byte of an event or of a map value is ever
//! uninitialised. There is no logic here but what both sides must compute alike ([`raw_sent`]). Beside that
//! there are only `heap`, `descriptors` and `shared`: this crate has the unsafe code of user space.
//!
//! Both sides are built from the same commit and the object is embedded in the binary, so the
//! layout may change between versions of flowlog.

#![no_std]

#[cfg(feature = "user")]
extern crate std;

#[cfg(feature = "user")]
pub mod descriptors;
#[cfg(feature = "user")]
pub mod heap;
pub mod raw_sent;
#[cfg(feature = "user")]
pub mod shared;

/// Length of a task's name with its terminating zero byte: `TASK_COMM_LEN`.
pub const COMM_LEN: usize = 16;

/// How long the path of an executed file is at most: `PATH_MAX` of the kernel. Of a longer one the end travels with
/// [`ProcessExec`], which says so.
pub const PATH_LEN: usize = 4096;

/// How long a name in a path is at most, with its terminating zero byte.
pub const NAME_LEN: usize = 256;

/// How many bytes of the arguments travel with [`ProcessExec`]. Longer ones are cut and say so in
/// [`ProcessExec::args_len`], which keeps the full length.
pub const ARGS_LEN: usize = 4096;

/// How much of the path of a cgroup travels with [`CgroupMade`], with its terminating zero byte: what the kernel tells.
pub const CGROUP_PATH_LEN: usize = 1024;

/// What an event is: the first field of each, see [`EventHeader::kind`].
pub mod kind {
    /// A [`TcpOpen`](crate::TcpOpen).
    pub const TCP_OPEN: u32 = 1;
    /// A [`TcpClose`](crate::TcpClose).
    pub const TCP_CLOSE: u32 = 2;
    /// A [`ProcessFork`](crate::ProcessFork).
    pub const PROCESS_FORK: u32 = 3;
    /// A [`ProcessExec`](crate::ProcessExec).
    pub const PROCESS_EXEC: u32 = 4;
    /// A [`ProcessExit`](crate::ProcessExit).
    pub const PROCESS_EXIT: u32 = 5;
    /// An [`EndpointOpen`](crate::EndpointOpen).
    pub const ENDPOINT_OPEN: u32 = 6;
    /// A [`SocketRelease`](crate::SocketRelease).
    pub const SOCKET_RELEASE: u32 = 7;
    /// A [`TcpConnect`](crate::TcpConnect).
    pub const TCP_CONNECT: u32 = 8;
    /// A [`RawSend`](crate::RawSend).
    pub const RAW_SEND: u32 = 9;
    /// A [`CgroupMade`](crate::CgroupMade).
    pub const CGROUP_MADE: u32 = 10;
    /// A [`CgroupRemoved`](crate::CgroupRemoved).
    pub const CGROUP_REMOVED: u32 = 11;
}

/// What the path of a [`ProcessExec`] is: the values of its field `path`.
pub mod path {
    /// The path as it was given to `execve`; empty where that is not known either.
    pub const AS_GIVEN: u32 = 0;
    /// The names from the file up to the root, each ended by a zero byte.
    pub const RESOLVED: u32 = 1;
    /// The name of a file that has no directory, such as a memfd, ended by a zero byte.
    pub const NAMELESS: u32 = 2;
}

/// Bits of [`ProcessExec::path_flags`].
pub mod path_flags {
    /// The file has been removed from its directory.
    pub const DELETED: u32 = 1 << 0;
    /// There are more names above those that are there.
    pub const CUT: u32 = 1 << 1;
}

/// Bits of [`SocketState::flags`].
pub mod flags {
    /// User space was told the local port of this socket without a connection.
    pub const ANNOUNCED: u32 = 1 << 0;
    /// The socket was accepted: its owner is the one of the listener.
    pub const ACCEPTED: u32 = 1 << 1;
    /// User space was told that the owner uses this socket without a connection.
    pub const USED: u32 = 1 << 2;
    /// User space found this connection of TCP: `sock_ops` was not asked to tell of its end.
    pub const SEEDED: u32 = 1 << 3;
    /// User space was told that this raw socket sends packets of its own making.
    pub const RAW_SENDS: u32 = 1 << 5;
    /// From here on up: how many source addresses user space was told.
    pub const ADDRESSES: u32 = 1 << 16;
}

/// What an [`EndpointOpen`] tells: the values of its field `used`.
pub mod usage {
    /// The owner binds the socket.
    pub const BOUND: u8 = 0;
    /// The owner sends or receives with it.
    pub const USED: u8 = 1;
    /// Who uses it was told before, and the owner is all zero: this is about the source address.
    pub const ADDRESS: u8 = 2;
    /// Several processes use it in turn: of the owner only the namespace is told, and no user will be any
    /// more.
    pub const SHARED: u8 = 3;
}

/// The common start of all events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct EventHeader {
    /// One of the constants in [`kind`].
    pub kind: u32,
    /// Zero.
    pub pad: u32,
    /// `CLOCK_MONOTONIC` in nanoseconds (`bpf_ktime_get_ns`) when the hook ran.
    pub time_ns: u64,
}

/// What is kept in a socket: the value of the socket storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct SocketState {
    /// Who made, bound or connected it: written one after the other.
    pub owner: Owner,
    /// Who was seen to send or receive with an address: thread group id, and user id in the upper half. Zero:
    /// nobody. All ones: several in turn. Those who send and receive do so at the same time, so that it is
    /// written and read as one.
    pub user: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds when the user was told. Zero: never.
    pub user_since_ns: u64,
    /// How often the user was another than before.
    pub user_changes: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// The port or echo id that user space was told, where [`flags::ANNOUNCED`] is set.
    pub announced_id: u32,
    /// The source address that user space was told of a socket that is bound to none, as words in network
    /// order.
    pub announced_addr: [u32; 4],
    /// When user space was last told that this raw socket sends packets of its own making: `CLOCK_MONOTONIC` in
    /// units of 2^30 nanoseconds, about seconds, and one more. Zero: never.
    pub raw_told: u32,
}

/// Who owns a socket, taken in the process's own context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct Owner {
    /// `CLOCK_MONOTONIC` in nanoseconds when this was taken: with `tgid` it names one process, also
    /// where the number was used again since. Zero: the owner is not known.
    pub time_ns: u64,
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// User id of the task. All ones: not known, which only user space writes.
    pub uid: u32,
    /// Id of the cgroup v2 (the inode of its directory).
    pub cgroup_id: u64,
    /// Cookie of the network namespace of the socket (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
    /// Name of the task, padded with zero bytes.
    pub comm: [u8; COMM_LEN],
}

impl Owner {
    /// The owner of a socket that nobody was seen to make, for example one older than the daemon.
    pub const UNKNOWN: Self =
        Self { time_ns: 0, tgid: 0, uid: 0, cgroup_id: 0, netns_cookie: 0, comm: [0; COMM_LEN] };
}

/// A process connects a TCP socket. A [`TcpOpen`] follows, unless the kernel finds no way to the peer. Only told where
/// that cannot tell who it is: before Linux 5.15, and without the kernel's types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct TcpConnect {
    /// The kind is [`kind::TCP_CONNECT`].
    pub header: EventHeader,
    /// Cookie of the socket (`SO_COOKIE`), unique until the next boot.
    pub socket_cookie: u64,
    /// The process that connects it: the owner.
    pub owner: Owner,
}

/// A raw socket sends packets of its own making: whose tuples it made, and which [`raw_sent`] has. Told with
/// the first one, and again now and then while there are more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct RawSend {
    /// The kind is [`kind::RAW_SEND`].
    pub header: EventHeader,
    /// Cookie of the socket.
    pub socket_cookie: u64,
    /// The process that made the socket.
    pub owner: Owner,
}

/// A TCP socket has its tuple: it sends the first SYN, or has finished the handshake as a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct TcpOpen {
    /// The kind is [`kind::TCP_OPEN`].
    pub header: EventHeader,
    /// Cookie of the socket, as in [`TcpConnect`].
    pub socket_cookie: u64,
    /// The process that connects it, unless [`TcpConnect`] tells; of a server's socket the owner of the listener, from
    /// which it inherits it.
    pub owner: Owner,
    /// Local address as 16 bytes in network order; IPv4 as v4-mapped (`::ffff:0:0/96`).
    pub local_addr: [u8; 16],
    /// Remote address, in the same form.
    pub remote_addr: [u8; 16],
    /// Local port, host order.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// 1: the socket was accepted by a listener. 0: it connects.
    pub passive: u32,
}

/// A TCP socket went to the state CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct TcpClose {
    /// The kind is [`kind::TCP_CLOSE`].
    pub header: EventHeader,
    /// Cookie of the socket, as in [`TcpOpen`].
    pub socket_cookie: u64,
    /// `bytes_acked` of `struct bpf_sock_ops`: what the peer acknowledged, SYN and FIN included.
    pub bytes_acked: u64,
    /// `bytes_received` of `struct bpf_sock_ops`: what the peer sent, its FIN included.
    pub bytes_received: u64,
    /// `srtt_us`: smoothed round trip time in eighths of a microsecond. Zero: never measured.
    pub srtt_eighth_us: u32,
    /// `rtt_min`: microseconds. All ones: never measured.
    pub rtt_min_us: u32,
    /// `total_retrans`: segments that were sent again.
    pub total_retrans: u32,
    /// The state that it left, as `BPF_TCP_*`.
    pub old_state: u32,
}

/// A socket that is not of TCP is known to send from, or to be bound to, a local port. May come again
/// for a socket: each replaces the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct EndpointOpen {
    /// The kind is [`kind::ENDPOINT_OPEN`].
    pub header: EventHeader,
    /// Cookie of the socket.
    pub socket_cookie: u64,
    /// The owner.
    pub owner: Owner,
    /// Local address as in [`TcpOpen`]; zero or `::ffff:0.0.0.0` where it is bound to none.
    pub local_addr: [u8; 16],
    /// Remote address where the socket is connected, else zero or `::ffff:0.0.0.0`.
    pub remote_addr: [u8; 16],
    /// Source address of the packet that it sends now; zero where it is not about a packet.
    pub packet_addr: [u8; 16],
    /// Local port in host order; the echo id for ICMP and ICMPv6; zero for protocols without.
    pub local_port: u16,
    /// Remote port where the socket is connected, else zero.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of the constants in [`usage`].
    pub used: u8,
    /// Zero.
    pub pad: u16,
}

/// The last descriptor of a socket was closed: an accepted one, one of [`EndpointOpen`] or [`RawSend`], or one with
/// [`flags::SEEDED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct SocketRelease {
    /// The kind is [`kind::SOCKET_RELEASE`].
    pub header: EventHeader,
    /// Cookie of the socket.
    pub socket_cookie: u64,
    /// The process that closed it.
    pub closer: Owner,
    /// Number of the system call in which it did so, [`SYSCALL_UNKNOWN`] where that is not known.
    pub syscall: u32,
    /// Not zero where the process was ending: the kernel closes what it leaves open.
    pub exiting: u32,
}

/// No system call, or it is not known which one.
pub const SYSCALL_UNKNOWN: u32 = u32::MAX;

/// A new process (not a thread) exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct ProcessFork {
    /// The kind is [`kind::PROCESS_FORK`].
    pub header: EventHeader,
    /// Thread group id of the new process.
    pub tgid: u32,
    /// Thread group id of the process that called `fork` or `clone`.
    pub maker_tgid: u32,
    /// Thread group id of the parent: the maker, or with `CLONE_PARENT` the parent of that. Zero: not
    /// known.
    pub ppid: u32,
    /// As in [`ProcessExec`].
    pub login_uid: u32,
    /// Id of the cgroup v2 of the maker.
    pub cgroup_id: u64,
    /// User id of the maker.
    pub uid: u32,
    /// Zero.
    pub pad: u32,
}

/// A process runs another program. The path of that follows in the same event, and then as much of the arguments
/// as fits into [`ARGS_LEN`], each ended by a zero byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct ProcessExec {
    /// The kind is [`kind::PROCESS_EXEC`].
    pub header: EventHeader,
    /// Thread group id.
    pub tgid: u32,
    /// Audit login uid. All ones: it is not set, or not known.
    pub login_uid: u32,
    /// Length of all arguments in bytes, with their zero bytes. Zero: not known.
    pub args_len: u32,
    /// Length of the path in bytes.
    pub path_len: u32,
    /// One of the constants in [`path`].
    pub path: u32,
    /// Bits of [`path_flags`].
    pub path_flags: u32,
    /// Id of its cgroup v2.
    pub cgroup_id: u64,
    /// User id.
    pub uid: u32,
    /// Zero.
    pub pad: u32,
}

/// The thread group leader of a process has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct ProcessExit {
    /// The kind is [`kind::PROCESS_EXIT`].
    pub header: EventHeader,
    /// Thread group id.
    pub tgid: u32,
    /// Zero.
    pub pad: u32,
}

/// A cgroup of version 2 was made. Its path in the hierarchy follows in the same event, ended by a zero byte; what does
/// not fit into [`CGROUP_PATH_LEN`] is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct CgroupMade {
    /// The kind is [`kind::CGROUP_MADE`].
    pub header: EventHeader,
    /// Its id (the inode of its directory).
    pub id: u64,
    /// How many names its path has.
    pub level: u32,
    /// Zero.
    pub pad: u32,
}

/// A cgroup of version 2 was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::AnyBitPattern))]
#[repr(C)]
pub struct CgroupRemoved {
    /// The kind is [`kind::CGROUP_REMOVED`].
    pub header: EventHeader,
    /// Its id.
    pub id: u64,
}

/// Where the fields of a task are in the running kernel, in bytes: user space finds them in the kernel's
/// own type information. All zero: not known, and then what they hold is not known either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TaskLayout {
    /// `mm` in `struct task_struct`.
    pub mm: u32,
    /// `arg_start` in `struct mm_struct`; zero where arguments are not to be read.
    pub arg_start: u32,
    /// `arg_end` in `struct mm_struct`.
    pub arg_end: u32,
    /// `real_parent` in `struct task_struct`.
    pub real_parent: u32,
    /// `tgid` in `struct task_struct`.
    pub tgid: u32,
    /// `loginuid` in `struct task_struct`; zero in kernels without `CONFIG_AUDIT`.
    pub loginuid: u32,
    /// `flags` in `struct task_struct`.
    pub flags: u32,
    /// The number of the system call in `struct pt_regs`; zero where that cannot be read.
    pub syscall: u32,
}

/// Where the fields are that say who the current task is, in bytes, as [`TaskLayout`]: for programs that no helper tells.
/// All zero: not known, or not to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OwnerLayout {
    /// `cred` in `struct task_struct`.
    pub cred: u32,
    /// `uid` in `struct cred`.
    pub uid: u32,
    /// `cgroups` in `struct task_struct`.
    pub cgroups: u32,
    /// `dfl_cgrp` in `struct css_set`: the cgroup of version 2.
    pub cgroup: u32,
    /// `kn` in `struct cgroup`.
    pub node: u32,
    /// `id` in `struct kernfs_node`.
    pub id: u32,
    /// `comm` in `struct task_struct`.
    pub comm: u32,
}

/// Where the fields are that lead from a process to the path of its program, in bytes, as [`TaskLayout`]. All
/// zero: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PathLayout {
    /// `exe_file` in `struct mm_struct`.
    pub exe_file: u32,
    /// `f_path.mnt` in `struct file`.
    pub file_mnt: u32,
    /// `f_path.dentry` in `struct file`.
    pub file_dentry: u32,
    /// `mnt` in `struct mount`: what `f_path.mnt` points to.
    pub mount_mnt: u32,
    /// `mnt.mnt_root` in `struct mount`.
    pub mount_root: u32,
    /// `mnt_parent` in `struct mount`.
    pub mount_parent: u32,
    /// `mnt_mountpoint` in `struct mount`.
    pub mount_point: u32,
    /// `d_seq` in `struct dentry`.
    pub dentry_seq: u32,
    /// `d_parent` in `struct dentry`.
    pub dentry_parent: u32,
    /// `d_name.name` in `struct dentry`.
    pub dentry_name: u32,
    /// `d_name.len` in `struct dentry`.
    pub dentry_name_len: u32,
    /// `d_hash.pprev` in `struct dentry`.
    pub dentry_hashed: u32,
    /// `filename` in `struct linux_binprm`.
    pub given: u32,
}

/// Where the fields are in the context of the tracepoints of cgroups, in bytes: user space reads that from the format
/// that the kernel tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupLayout {
    /// `root`: the number of the hierarchy.
    pub root: u32,
    /// `level`
    pub level: u32,
    /// `id`
    pub id: u32,
    /// The size of `id`, 4 or 8.
    pub id_bytes: u32,
    /// `path`: the place of the text and its length.
    pub path: u32,
}

// SAFETY: integers and byte arrays without padding, all bit patterns are valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SocketState {}

// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for TaskLayout {}

// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for OwnerLayout {}

// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for PathLayout {}

// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for CgroupLayout {}

const _: () = {
    assert!(size_of::<EventHeader>() == 16);
    assert!(size_of::<Owner>() == 48);
    assert!(size_of::<TcpConnect>() == 16 + 8 + 48);
    assert!(size_of::<RawSend>() == 16 + 8 + 48);
    assert!(size_of::<TcpOpen>() == 16 + 8 + 48 + 32 + 8);
    assert!(size_of::<SocketState>() == 48 + 16 + 12 + 16 + 4);
    assert!(size_of::<TcpClose>() == 16 + 8 + 16 + 16);
    assert!(size_of::<EndpointOpen>() == 16 + 8 + 48 + 48 + 8);
    assert!(size_of::<SocketRelease>() == 16 + 8 + 48 + 8);
    assert!(size_of::<ProcessFork>() == 16 + 32);
    assert!(size_of::<ProcessExec>() == 16 + 40);
    assert!(size_of::<ProcessExit>() == 16 + 8);
    assert!(size_of::<CgroupMade>() == 16 + 16);
    assert!(size_of::<CgroupRemoved>() == 16 + 8);
    assert!(size_of::<CgroupLayout>() == 5 * 4);
    assert!(size_of::<TaskLayout>() == 8 * 4);
    assert!(size_of::<PathLayout>() == 13 * 4);
};
