//! Which process was at each end of a flow.
//!
//! Events of sockets and processes come from the eBPF programs ([`ebpf`]), what is older from /proc ([`seed`]). Tables
//! keep them by key and time, and [`join`] asks these for a flow.
//!
//! | module | owns | IO |
//! |---|---|---|
//! | [`clocks`] | times of one clock = times of another | only `read` |
//! | [`ebpf`] | the eBPF programs: load, attach, drain their events | BPF |
//! | [`cmdline`] | arguments of a program = text without secrets | no |
//! | [`largest`] | who gives way where there is too much | no |
//! | [`processes`] | which program a process ran at a time | only `walk` |
//! | [`slots`] | small values by number | no |
//! | [`recent`] | what came last, in bounded memory | no |
//! | [`holders`] | who held sockets, each once | no |
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
//! | [`join`] | flow + tables = record: what else is known of a flow from outside joins here | no |

pub mod clocks;

pub mod ebpf;

pub mod cmdline;

pub mod largest;

pub mod processes;

pub mod slots;

pub mod recent;

pub mod holders;

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

pub mod join;
