//! Lines for those who work on the programs: what they could not do.
//!
//! Only with the feature `log`, which flowlog's feature `ebpf-log` sets: then there is one more ring buffer,
//! which user space reads with the events. Without it nothing of this is in the object.

/// A line of the level debug, as for `format!`.
macro_rules! debug {
    ($($line:tt)*) => {{
        // The first argument is the context of the program, which is not used.
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!((), $($line)*);
    }};
}
