//! flowlog's eBPF programs.
//!
//! They say two things to user space, in one ordered stream: which process owns a socket, with the
//! tuple of that socket, and which program a process runs. Everything hangs on hooks whose context
//! is UAPI (cgroup sockets, `sock_ops`) or has kept its format for many years (tracepoints), since
//! programs written in Rust cannot be relocated to the structures of another kernel. One object
//! serves Linux 5.10 and later. The few fields of a task for which there is no such hook are read at places
//! that user space finds in the types of the running kernel.
//!
//! - [`socket`]: what is kept of a socket
//! - [`owner`]: who owns a socket, taken in the process's own context
//! - [`tcp`]: tuples of TCP sockets, when they open and close
//! - [`datagram`]: local ports and echo ids of all other sockets
//! - [`raw`]: packets that a process makes by hand
//! - [`process`]: fork, exec and exit
//! - [`cgroup`]: cgroups that are made and removed
//! - [`path`]: the path of the program that a process runs
//! - [`task`]: the current process, and what of it no context tells: arguments, parent, login user
//! - [`events`]: the ring buffer and the count of what did not fit
//! - [`log`]: lines for those who work on the programs
//!
//! Each program does a constant amount of work and lets the operation that it watches go on.

#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the kernel packs two numbers into one and has flags of either sign; a checked conversion would be code that never runs"
)]

#[macro_use]
mod log;

mod address;
mod cgroup;
mod datagram;
mod events;
mod owner;
mod path;
mod process;
mod raw;
mod socket;
mod task;
mod tcp;
mod words;

/// A licence that is compatible with the GPL, which several helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Nothing here panics; the compiler wants a handler all the same.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
