//! Who owns a socket.
//!
//! The owner is the process that created the socket, and from then on the one that connects or binds
//! it, since descriptors are passed on. Accepted sockets inherit the owner of their listener: the map
//! has the flag `BPF_F_CLONE`.
//!
//! To make the state of a socket costs more than all else that is done for a connection, so a TCP socket
//! has none until it is bound or listens. One that connects needs none: its owner is told with its tuple, or
//! before, where `sock_ops` cannot tell it.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use flowlog_common::{SocketRelease, TcpConnect, flags, kind};

use crate::socket::{ALLOW, IPPROTO_TCP, SOCK_RAW, cookie, own, state_of, write_current};
use crate::{datagram, events, task};

/// Flags of sockets whose release is told.
const TOLD_AT_RELEASE: u32 = flags::ACCEPTED | flags::ANNOUNCED | flags::SEEDED | flags::RAW_SENDS;

/// `BPF_CGROUP_INET_SOCK_CREATE`: `socket(2)`, not for the kernel's own sockets.
#[cgroup_sock(sock_create)]
pub(crate) fn owner_create(ctx: SockContext) -> i32 {
    // SAFETY: fields that may be read in this hook, of which the context is the socket.
    let (protocol, socket_type) = unsafe { ((*ctx.sock).protocol, (*ctx.sock).type_) };
    // A raw socket is what it is from the start: no other hook tells of it.
    if protocol != IPPROTO_TCP || socket_type == SOCK_RAW {
        // SAFETY: as above.
        unsafe { own(&ctx, ctx.as_ptr()) };
    }
    ALLOW
}

/// `BPF_CGROUP_INET4_POST_BIND`: after `bind(2)` to a port.
#[cgroup_sock(post_bind4)]
pub(crate) fn owner_bind4(ctx: SockContext) -> i32 {
    // SAFETY: in this hook the context itself is the socket.
    if let Some(state) = unsafe { own(&ctx, ctx.as_ptr()) } {
        datagram::bound4(&ctx, state);
    }
    ALLOW
}

/// `BPF_CGROUP_INET6_POST_BIND`
#[cgroup_sock(post_bind6)]
pub(crate) fn owner_bind6(ctx: SockContext) -> i32 {
    // SAFETY: in this hook the context itself is the socket.
    if let Some(state) = unsafe { own(&ctx, ctx.as_ptr()) } {
        datagram::bound6(&ctx, state);
    }
    ALLOW
}

/// `BPF_CGROUP_INET4_CONNECT`: before `connect(2)`.
#[cgroup_sock_addr(connect4)]
pub(crate) fn owner_connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx)
}

/// `BPF_CGROUP_INET6_CONNECT`
#[cgroup_sock_addr(connect6)]
pub(crate) fn owner_connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext) -> i32 {
    // SAFETY: `sk` is a field of `struct bpf_sock_addr`, which the context points to.
    let (protocol, sk) = unsafe { ((*ctx.sock_addr).protocol, (*ctx.sock_addr).__bindgen_anon_1.sk) };
    if protocol == IPPROTO_TCP {
        if task::tells_owner() {
            // It is told with the tuple.
            return ALLOW;
        }
        // SAFETY: all fields are written.
        unsafe {
            events::send(|event: *mut TcpConnect| {
                (*event).header = events::header(kind::TCP_CONNECT);
                (*event).socket_cookie = cookie(ctx);
                write_current(ctx, &raw mut (*event).owner, (*event).header.time_ns);
            });
        }
    } else if !sk.is_null() {
        // SAFETY: it is the socket of this context.
        unsafe { own(ctx, sk.cast()) };
    }
    ALLOW
}

/// `BPF_CGROUP_INET_SOCK_RELEASE`: the last descriptor is closed. Of accepted sockets this tells more
/// than the owner of their listener: in a server with workers it is the worker.
#[cgroup_sock(sock_release)]
pub(crate) fn owner_release(ctx: SockContext) -> i32 {
    // SAFETY: in this hook the context itself is the socket.
    let state = unsafe { state_of(ctx.as_ptr()) };
    // SAFETY: the state may be read, see `state_of`.
    if state.is_some_and(|state| unsafe { (*state).flags } & TOLD_AT_RELEASE != 0) {
        // SAFETY: all fields are written; the context is the one of the running program.
        unsafe {
            events::send(|event: *mut SocketRelease| {
                (*event).header = events::header(kind::SOCKET_RELEASE);
                (*event).socket_cookie = cookie(&ctx);
                write_current(&ctx, &raw mut (*event).closer, (*event).header.time_ns);
                (*event).syscall = task::syscall();
                (*event).exiting = task::exiting();
            });
        }
    }
    ALLOW
}
