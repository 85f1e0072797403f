//! The one ring buffer: its order is the order of events for user space.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::btf_maps::{PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_output};
use aya_ebpf::macros::btf_map;
use flowlog_common::EventHeader;

/// Bytes of the ring buffer: a power of two. User space may choose another size when it loads.
const RING_BYTES: usize = 8 << 20;

/// Events, each of a type of `flowlog_common` that begins with its kind.
#[btf_map]
static EVENTS: RingBuf<EventHeader, RING_BYTES> = RingBuf::new();

/// How many events did not fit, for each CPU.
#[btf_map]
static LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The header of an event that happens now.
#[inline(always)]
pub(crate) fn header(kind: u32) -> EventHeader {
    EventHeader { kind, pad: 0, time_ns: now_ns() }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments and only reads the clock.
    unsafe { bpf_ktime_get_ns() }
}

/// Sends an event, or counts it as lost. The reader polls: waking it up for each event would cost
/// more than all the rest of a program.
///
/// The event is filled where it stays: one that is made on the stack first is copied byte by byte.
///
/// # Safety
///
/// `fill` initialises all of the event, including its padding.
#[inline(always)]
pub(crate) unsafe fn send<T: 'static>(fill: impl FnOnce(*mut T)) {
    match EVENTS.reserve_untyped::<T>(0) {
        Some(mut slot) => {
            fill(slot.as_mut_ptr());
            slot.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => {
            debug!("an event of {} bytes does not fit into the ring buffer", size_of::<T>());
            count_lost();
        }
    }
}

/// Sends the first `len` bytes of an event that is too large for the stack and varies in length, or counts
/// it as lost.
///
/// # Safety
///
/// `event` points to at least `len` initialised bytes of a map.
#[inline(always)]
pub(crate) unsafe fn send_bytes(event: *const u8, len: usize) {
    let ring = core::ptr::from_ref(&EVENTS).cast_mut().cast();
    // SAFETY: the map exists once the program is loaded; the caller vouches for the bytes.
    let sent =
        unsafe { bpf_ringbuf_output(ring, event.cast_mut().cast(), len as u64, u64::from(BPF_RB_NO_WAKEUP)) };
    if sent < 0 {
        debug!("an event of {} bytes does not fit into the ring buffer", len);
        count_lost();
    }
}

/// The target has no atomic addition. A program that interrupts this one on the same CPU may have its
/// count overwritten: user space takes any change as a loss, and the number as about right.
#[inline(always)]
fn count_lost() {
    if let Some(lost) = LOST.get_ptr_mut(0) {
        // SAFETY: the slot is aligned and lives as long as the map; of an interrupted update one value
        // or the other stays, as said above.
        unsafe { lost.write_volatile(lost.read_volatile() + 1) };
    }
}
