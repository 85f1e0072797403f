//! TCP: the tuple of a socket once it is complete, and the end of its life.
//!
//! `BPF_PROG_TYPE_SOCK_OPS` runs about eight times in a connection; everything but three calls
//! returns at once. The current task is the owner where it connects; callbacks of a server run wherever its packets are
//! received.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use flowlog_common::{Owner, SocketState, TcpClose, TcpOpen, flags, kind};

use crate::address::{self, AF_INET, is_v4_mapped, v4_mapped};
use crate::socket::{self, cookie};
use crate::{events, task, words};

/// The result that leaves the kernel's own choices (timeouts, windows) as they are.
const OK: u32 = 1;

/// `BPF_CGROUP_SOCK_OPS`
#[sock_ops]
pub(crate) fn tcp_events(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => open(&ctx, OpenedBy::WhoConnects),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => close(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listens(&ctx),
        _ => {}
    }
    OK
}

#[inline(always)]
fn listens(ctx: &SockOpsContext) {
    let sk = socket_of(ctx);
    if !sk.is_null() {
        // SAFETY: it is the socket of this context and was compared with null.
        unsafe { state_of_unknown(ctx, sk) };
    }
}

/// The state of a socket, made if it has none, since nobody was seen to bind it or its listener. Whose it is cannot be
/// known here, but where it is. Accepted sockets have a state then, too, so that their release is told.
///
/// # Safety
///
/// As for [`socket::state_of`].
#[inline(always)]
unsafe fn state_of_unknown(ctx: &SockOpsContext, sk: *mut c_void) -> Option<*mut SocketState> {
    // SAFETY: as for this function.
    let state = unsafe { socket::make_state(sk) }?;
    // SAFETY: nobody else knows the socket yet, or its lock is held. Kernels that tell system calls give this number to
    // programs of this kind, too (both since Linux 5.15); what is never reached need not be there.
    unsafe {
        if (*state).owner.time_ns == 0 && task::tells_syscalls() {
            (*state).owner.netns_cookie = bpf_get_netns_cookie(ctx.as_ptr());
        }
    }
    Some(state)
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let sk = socket_of(ctx);
    // A listener of MPTCP that is older than the programs has no state: user space cannot reach the socket of TCP in it.
    let state = if sk.is_null() {
        None
    } else {
        // SAFETY: it is the socket of this context and was compared with null.
        unsafe { socket::state_of(sk).or_else(|| state_of_unknown(ctx, sk)) }
    };
    if let Some(state) = state {
        // SAFETY: nobody else knows the socket yet.
        unsafe {
            (*state).flags |= flags::ACCEPTED;
            open(ctx, OpenedBy::Listener(&raw const (*state).owner));
        }
    } else {
        debug!("socket {} was accepted by one without storage", cookie(ctx));
        open(ctx, OpenedBy::Unknown);
    }
}

/// Whose socket it is that opens.
enum OpenedBy {
    /// The current process connects it: the kernel calls this in `connect`, or in the `sendmsg` that sends the SYN (TCP
    /// Fast Open).
    WhoConnects,
    /// It was accepted by a listener with this owner.
    Listener(*const Owner),
    /// It was accepted by a listener of which nothing is known.
    Unknown,
}

/// Tells of a socket that has its tuple.
#[inline(always)]
fn open(ctx: &SockOpsContext, by: OpenedBy) {
    // Programs of others may have asked for other callbacks.
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    // Without the flag there is no close: user space then ends the life of the socket when its tuple is
    // used again.
    let _ = ctx.set_cb_flags(flags as i32);

    let (local_addr, remote_addr) = addresses(ctx);
    // SAFETY: all fields are written.
    unsafe {
        events::send(|event: *mut TcpOpen| {
            (*event).header = events::header(kind::TCP_OPEN);
            (*event).socket_cookie = cookie(ctx);
            (*event).passive = u32::from(!matches!(by, OpenedBy::WhoConnects));
            match by {
                OpenedBy::WhoConnects if task::tells_owner() => {
                    task::write_owner(&raw mut (*event).owner, (*event).header.time_ns);
                    (*event).owner.netns_cookie = bpf_get_netns_cookie(ctx.as_ptr());
                }
                OpenedBy::Listener(owner) => words::copy(&raw mut (*event).owner, owner),
                // All zero: not known.
                OpenedBy::WhoConnects | OpenedBy::Unknown => words::clear(&raw mut (*event).owner),
            }
            address::write(&raw mut (*event).local_addr, local_addr);
            address::write(&raw mut (*event).remote_addr, remote_addr);
            // `local_port` is in host order, `remote_port` in network order in the upper half.
            (*event).local_port = ctx.local_port() as u16;
            (*event).remote_port = u32::from_be(ctx.remote_port()) as u16;
        });
    }
}

#[inline(always)]
fn close(ctx: &SockOpsContext) {
    // SAFETY: fields of the UAPI structure that the context points to.
    let ops = unsafe { &*ctx.ops };
    // SAFETY: all fields are written.
    unsafe {
        events::send(|event: *mut TcpClose| {
            (*event).header = events::header(kind::TCP_CLOSE);
            (*event).socket_cookie = cookie(ctx);
            (*event).bytes_acked = ops.bytes_acked;
            (*event).bytes_received = ops.bytes_received;
            (*event).srtt_eighth_us = ops.srtt_us;
            (*event).rtt_min_us = ops.rtt_min;
            (*event).total_retrans = ops.total_retrans;
            (*event).old_state = ctx.arg(0);
        });
    }
}

/// May be null.
#[inline(always)]
fn socket_of(ctx: &SockOpsContext) -> *mut c_void {
    // SAFETY: the field of the UAPI structure that the context points to.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk }.cast()
}

/// Local and remote address, IPv4 as v4-mapped.
#[inline(always)]
fn addresses(ctx: &SockOpsContext) -> ([u32; 4], [u32; 4]) {
    let remote = remote_ip6(ctx.ops);
    // An IPv6 socket that speaks IPv4 has its local IPv6 address only after this callback.
    let is_v4 = ctx.family() == AF_INET || is_v4_mapped(remote);
    if is_v4 {
        (v4_mapped(ctx.local_ip4()), v4_mapped(ctx.remote_ip4()))
    } else {
        (local_ip6(ctx.ops), remote)
    }
}

/// Reads word by word: the verifier refuses the wider loads that the compiler makes of a copy.
#[inline(always)]
fn local_ip6(ops: *mut bpf_sock_ops) -> [u32; 4] {
    // SAFETY: fields of the UAPI structure that the context points to.
    unsafe {
        [
            ptr::read_volatile(&raw const (*ops).local_ip6[0]),
            ptr::read_volatile(&raw const (*ops).local_ip6[1]),
            ptr::read_volatile(&raw const (*ops).local_ip6[2]),
            ptr::read_volatile(&raw const (*ops).local_ip6[3]),
        ]
    }
}

/// As [`local_ip6`].
#[inline(always)]
fn remote_ip6(ops: *mut bpf_sock_ops) -> [u32; 4] {
    // SAFETY: fields of the UAPI structure that the context points to.
    unsafe {
        [
            ptr::read_volatile(&raw const (*ops).remote_ip6[0]),
            ptr::read_volatile(&raw const (*ops).remote_ip6[1]),
            ptr::read_volatile(&raw const (*ops).remote_ip6[2]),
            ptr::read_volatile(&raw const (*ops).remote_ip6[3]),
        ]
    }
}
