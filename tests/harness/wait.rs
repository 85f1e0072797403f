//! Waiting for a condition, never for a fixed time.

use std::thread;
use std::time::{Duration, Instant};

/// After this long, what a test waits for does not happen any more. Generous: a machine under load
/// or an emulated one takes many times longer than a workstation.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// Asks until there is an answer. `what` completes the sentence "waited in vain for …".
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what} ({LIMIT:?})");
        thread::sleep(Duration::from_millis(20));
    }
}
