//! Who closed a socket, and who only looked at it.
//!
//! Whoever lists the descriptors of a process, as `lsof` and `ss -p` do, has a reference to each socket for a
//! moment. Where the process closes one in this moment, the last reference is the lister's, and the kernel tells
//! of the close in its context.

use flowlog_common::{SYSCALL_UNKNOWN, SocketRelease};
use nix::libc;

use crate::record::Holder;

/// System calls by which a process closes what it used. `execve` and `close_range` also close what a new process
/// has of its parent and never looked at.
const CLOSING: [libc::c_long; 2] = [libc::SYS_close, libc::SYS_io_uring_enter];

/// Whether the process that is said to have closed the socket of `holder` had and used it.
pub(super) fn used_it(release: &SocketRelease, closer: &Holder, holder: &Holder) -> bool {
    let owner_tgid = holder.owner.tgid;
    match release.syscall {
        // The kernel closes what an ending process leaves open, whatever it was doing.
        _ if release.exiting != 0 => true,
        // Itself, or a worker.
        SYSCALL_UNKNOWN => {
            let parent = closer.process.as_ref().and_then(|process| process.ppid);
            closer.owner.tgid == owner_tgid || parent == Some(owner_tgid)
        }
        number => CLOSING.contains(&libc::c_long::from(number)),
    }
}
