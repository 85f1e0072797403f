//! What the allocator of the C library keeps.

/// Gives memory that was freed back to the kernel.
///
/// glibc keeps what was freed below something that is still used, and once a large block was freed also what is
/// above it: after the start, which reads megabytes of types of the kernel, that is most of its memory. Takes
/// about a millisecond; does nothing with another C library.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` may be called at any time and by any thread; it changes nothing that is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}
