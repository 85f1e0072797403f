//! Copies and clears in words of eight bytes.
//!
//! The compiler makes calls of what would be an assignment: `memcpy` and `memset`, which on this target go
//! byte by byte. Volatile accesses stay what they are.

use core::ptr;

/// Bytes of a word.
const WORD_BYTES: usize = size_of::<u64>();

/// Copies a value.
///
/// # Safety
///
/// `from` may be read and `to` written, and both are aligned for words.
#[inline(always)]
pub(crate) unsafe fn copy<T>(to: *mut T, from: *const T) {
    const { assert!(size_of::<T>().is_multiple_of(WORD_BYTES)) };
    let (to, from) = (to.cast::<u64>(), from.cast::<u64>());
    for word in 0..size_of::<T>() / WORD_BYTES {
        // SAFETY: as for this function, for each word of the value.
        unsafe { ptr::write_volatile(to.add(word), ptr::read_volatile(from.add(word))) };
    }
}

/// Makes all bytes of a value zero.
///
/// # Safety
///
/// `to` may be written, is aligned for words, and zero is a value of its type.
#[inline(always)]
pub(crate) unsafe fn clear<T>(to: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(WORD_BYTES)) };
    let to = to.cast::<u64>();
    for word in 0..size_of::<T>() / WORD_BYTES {
        // SAFETY: as for this function, for each word of the value.
        unsafe { ptr::write_volatile(to.add(word), 0) };
    }
}
