//! Memory that outlives the process: a file in memory (`memfd_create(2)`), of which others may keep a descriptor.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

pub use memmap2::MmapMut;
use memmap2::MmapOptions;

/// So the file cannot be truncated below its mapping, which would end the process that touches it.
const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;

/// Maps `bytes` of a file in memory from an `offset` on, for reading and writing.
///
/// # Errors
///
/// It is none, can change its size, or is too small. And where there is no memory.
pub fn map(file: &File, offset: u64, bytes: usize) -> io::Result<MmapMut> {
    // SAFETY: F_GET_SEALS reads flags.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 {
        return Err(io::Error::last_os_error());
    }
    let end = u64::try_from(bytes).ok().and_then(|bytes| offset.checked_add(bytes));
    let found = file.metadata()?.len();
    if seals & SEALS != SEALS || end.is_none_or(|end| found < end) {
        return Err(io::Error::other("found a file that may change its size, or is too small"));
    }
    // SAFETY: the size is sealed. Whoever else has a descriptor keeps it for a later start, and does not write to it while
    // this process runs; the part that this process itself writes by other means is not mapped.
    unsafe { MmapOptions::new().offset(offset).len(bytes).map_mut(file) }
}
