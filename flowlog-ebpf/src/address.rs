//! Addresses as four words in network order, IPv4 as v4-mapped (`::ffff:a.b.c.d`).
//!
//! The ABI has them as bytes. Here they are words until they are written: the compiler moves bytes one by
//! one.

use core::ptr;

use aya_ebpf::bindings::bpf_sock;

pub(crate) const AF_INET: u32 = 2;

/// Where an address stands for none.
pub(crate) const NO_ADDRESS: [u32; 4] = [0; 4];

/// The words of a v4-mapped address before the IPv4 address itself.
const V4_MAPPED: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

/// An IPv4 address in network order.
#[inline(always)]
pub(crate) fn v4_mapped(addr: u32) -> [u32; 4] {
    [V4_MAPPED[0], V4_MAPPED[1], V4_MAPPED[2], addr]
}

#[inline(always)]
pub(crate) fn is_v4_mapped(words: [u32; 4]) -> bool {
    words[0] == V4_MAPPED[0] && words[1] == V4_MAPPED[1] && words[2] == V4_MAPPED[2]
}

/// Writes an address where the ABI has one.
///
/// # Safety
///
/// `to` may be written and is aligned for words: in an event every address is.
#[inline(always)]
pub(crate) unsafe fn write(to: *mut [u8; 16], words: [u32; 4]) {
    // SAFETY: as for this function.
    unsafe { to.cast::<[u32; 4]>().write(words) };
}

/// Local and remote address of a socket.
///
/// # Safety
///
/// `sk` is a full socket of the context of the running program that was compared with null.
#[inline(always)]
pub(crate) unsafe fn of_socket(sk: *const bpf_sock) -> ([u32; 4], [u32; 4]) {
    // SAFETY: fields of the UAPI structure that the caller vouches for. All are read before it is known
    // which are of use: the compiler would join the last loads of two branches into one with a variable
    // offset, which the verifier refuses.
    let (family, local4, remote4, local6, remote6) = unsafe {
        (
            ptr::read_volatile(&raw const (*sk).family),
            ptr::read_volatile(&raw const (*sk).src_ip4),
            ptr::read_volatile(&raw const (*sk).dst_ip4),
            local_ip6(sk),
            remote_ip6(sk),
        )
    };
    if family == AF_INET { (v4_mapped(local4), v4_mapped(remote4)) } else { (local6, remote6) }
}

/// Local address of an IPv6 socket.
///
/// # Safety
///
/// As for [`of_socket`], or the context of a hook where that is a bound IPv6 socket.
#[inline(always)]
pub(crate) unsafe fn local_ip6(sk: *const bpf_sock) -> [u32; 4] {
    // SAFETY: as for this function.
    unsafe {
        [
            ptr::read_volatile(&raw const (*sk).src_ip6[0]),
            ptr::read_volatile(&raw const (*sk).src_ip6[1]),
            ptr::read_volatile(&raw const (*sk).src_ip6[2]),
            ptr::read_volatile(&raw const (*sk).src_ip6[3]),
        ]
    }
}

#[inline(always)]
unsafe fn remote_ip6(sk: *const bpf_sock) -> [u32; 4] {
    // SAFETY: as for `of_socket`.
    unsafe {
        [
            ptr::read_volatile(&raw const (*sk).dst_ip6[0]),
            ptr::read_volatile(&raw const (*sk).dst_ip6[1]),
            ptr::read_volatile(&raw const (*sk).dst_ip6[2]),
            ptr::read_volatile(&raw const (*sk).dst_ip6[3]),
        ]
    }
}
