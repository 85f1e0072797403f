//! Descriptors that change hands.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::Vec;

/// Takes descriptors that another program left open for this one when it executed it, as a service manager does, by their
/// numbers. Gives none at the second call.
///
/// In place of numbers that are not open, and of those below 3, there is `None`. Nothing in this process may have opened descriptors in
/// their place yet: to be called before anything that does, with numbers of the manager.
pub fn inherited(numbers: impl IntoIterator<Item = RawFd>) -> Vec<Option<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let is_open = |number: RawFd| {
        // SAFETY: F_GETFD reads flags, whatever the number is.
        number > libc::STDERR_FILENO && unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0
    };
    numbers
        .into_iter()
        .map(|number| {
            // SAFETY: it is open, was open when the program began, and nothing in the process owns it, since they are taken
            // once.
            is_open(number).then(|| unsafe { OwnedFd::from_raw_fd(number) })
        })
        .collect()
}

/// The descriptor as another type that owns one, where that type cannot be made of an [`OwnedFd`].
pub fn into<T: FromRawFd>(descriptor: OwnedFd) -> T {
    // SAFETY: it is open, and its ownership passes on.
    unsafe { T::from_raw_fd(descriptor.into_raw_fd()) }
}
