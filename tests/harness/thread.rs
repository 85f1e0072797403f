//! Threads for what a thread cannot take back: another namespace, a filter, fewer rights.

use std::panic::resume_unwind;
use std::thread;

/// Runs `work` on a thread of its own; its panic is the caller's.
pub(crate) fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match thread::scope(|scope| scope.spawn(work).join()) {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    }
}
