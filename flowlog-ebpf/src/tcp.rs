//! TCP: the tuple of a socket once it is complete, and the end of its life.
//!
//! `BPF_PROG_TYPE_SOCK_OPS` runs about eight times in a connection; everything but three calls
//! returns at once. The current task is not the owner here: callbacks of a server run wherever its
//! packets are received.

use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use flowlog_common::{Owner, TcpClose, TcpOpen, kind};

use crate::{events, owner};

/// The result that leaves the kernel's own choices (timeouts, windows) as they are.
const OK: u32 = 1;

/// The words of an IPv4 address in its v4-mapped form, `::ffff:a.b.c.d`, before the address itself.
const V4_MAPPED: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

/// `BPF_CGROUP_SOCK_OPS`
#[sock_ops]
pub(crate) fn tcp_events(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => open(&ctx, 0),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => open(&ctx, 1),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => {
            events::send(TcpClose { header: events::header(kind::TCP_CLOSE), socket_cookie: cookie(&ctx) });
        }
        _ => {}
    }
    OK
}

#[inline(always)]
fn open(ctx: &SockOpsContext, passive: u32) {
    // Programs of others may have asked for other callbacks.
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    // A kernel that refuses the flag sends no close; the entry then ends with its flow.
    let _ = ctx.set_cb_flags(flags as i32);

    // SAFETY: the field of the UAPI structure that the context points to.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    let owner = if sk.is_null() {
        Owner::UNKNOWN
    } else {
        // SAFETY: it is the socket of this context and was compared with null.
        unsafe { owner::owner_of(sk.cast()) }
    };
    let (local_addr, remote_addr) = addresses(ctx);
    events::send(TcpOpen {
        header: events::header(kind::TCP_OPEN),
        socket_cookie: cookie(ctx),
        owner,
        local_addr,
        remote_addr,
        // `local_port` is in host order, `remote_port` in network order in the upper half.
        local_port: ctx.local_port() as u16,
        remote_port: u32::from_be(ctx.remote_port()) as u16,
        passive,
    });
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is the one of the running program.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Local and remote address, IPv4 as v4-mapped.
#[inline(always)]
fn addresses(ctx: &SockOpsContext) -> ([u8; 16], [u8; 16]) {
    let remote = remote_ip6(ctx.ops);
    // An IPv6 socket that speaks IPv4 has its local IPv6 address only after this callback.
    let is_v4 = ctx.family() == AF_INET || (remote[0], remote[1], remote[2]) == V4_MAPPED.into();
    if is_v4 {
        (v4_mapped(ctx.local_ip4()), v4_mapped(ctx.remote_ip4()))
    } else {
        (bytes(local_ip6(ctx.ops)), bytes(remote))
    }
}

const AF_INET: u32 = 2;

#[inline(always)]
fn v4_mapped(addr: u32) -> [u8; 16] {
    bytes([V4_MAPPED[0], V4_MAPPED[1], V4_MAPPED[2], addr])
}

/// The bytes of words in network order.
#[inline(always)]
fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: any 16 bytes are a valid array of bytes.
    unsafe { core::mem::transmute(words) }
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
