//! Who owns a socket: kept in the socket itself, so that it lives and dies with it.
//!
//! The owner is the process that created the socket, and from then on the one that connects or binds
//! it, since descriptors are passed on. Accepted sockets inherit the owner of their listener: the map
//! has the flag `BPF_F_CLONE`.
//!
//! To make the state of a socket costs more than all else that is done for a connection, so a TCP socket
//! has none until it is bound or listens. One that connects needs none: its owner is told at once.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_netns_cookie, bpf_get_socket_cookie,
    bpf_sk_storage_get,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use aya_ebpf::macros::{btf_map, cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use flowlog_common::{COMM_LEN, Owner, SocketRelease, SocketState, TcpConnect, flags, kind};

use crate::{datagram, events, task, words};

/// What a program of these hooks returns to let the operation go on.
const ALLOW: i32 = 1;

pub(crate) const IPPROTO_TCP: u32 = 6;

/// `SOCK_RAW` of `linux/net.h`.
pub(crate) const SOCK_RAW: u32 = 3;

/// Flags of sockets whose release is told.
const TOLD_AT_RELEASE: u32 = flags::ACCEPTED | flags::ANNOUNCED | flags::SEEDED | flags::RAW_SENDS;

/// A socket storage map. The one of aya-ebpf has no `BPF_F_CLONE`.
///
/// The fields are the BTF form of a map definition: the loader reads their types, nobody reads their
/// values.
#[repr(C)]
struct SkStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers are never followed, the static is only a name for the loader.
unsafe impl<T> Sync for SkStorage<T> {}

impl<T> SkStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The value of a socket, `None` where it has none and `flags` do not ask to create one.
    ///
    /// # Safety
    ///
    /// `sk` is what the hook's context holds as its socket: the verifier checks which.
    #[inline(always)]
    unsafe fn get(&self, sk: *mut c_void, flags: u32) -> Option<*mut T> {
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the map exists once the program is loaded; the caller vouches for `sk`.
        let value = unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), u64::from(flags)) };
        (!value.is_null()).then_some(value.cast())
    }
}

/// The state of each socket.
#[btf_map]
static SOCKETS: SkStorage<SocketState> = SkStorage::new();

/// The state of a socket, `None` where nobody was seen to make it.
///
/// Its owner is written under the lock of the socket or before anybody else knows it. All else may be
/// written on several CPUs at once: words of which each stands for itself.
///
/// # Safety
///
/// `sk` is a socket of the context of the running program that was compared with null, or the context
/// itself in hooks where that is the socket.
#[inline(always)]
pub(crate) unsafe fn state_of(sk: *mut c_void) -> Option<*mut SocketState> {
    // SAFETY: as for this function. The value lives as long as the socket, which outlives the program.
    unsafe { SOCKETS.get(sk, 0) }
}

/// The state of a socket, made where it has none.
///
/// # Safety
///
/// As for [`state_of`].
#[inline(always)]
pub(crate) unsafe fn make_state(sk: *mut c_void) -> Option<*mut SocketState> {
    // SAFETY: as for `state_of`. The kernel makes it all zero: no owner.
    let state = unsafe { SOCKETS.get(sk, BPF_SK_STORAGE_GET_F_CREATE) };
    if state.is_none() {
        debug!("no storage for a socket of process {}", current_tgid());
    }
    state
}

/// Makes the current process the owner of `sk`. User space is told again of what it may know.
///
/// # Safety
///
/// As for [`state_of`].
#[inline(always)]
pub(crate) unsafe fn own(ctx: &impl EbpfContext, sk: *mut c_void) -> Option<*mut SocketState> {
    // SAFETY: as for `state_of`.
    let state = unsafe { make_state(sk) }?;
    // SAFETY: the state may be written, see `state_of`.
    unsafe {
        words::clear(state);
        write_current(ctx, &raw mut (*state).owner, events::now_ns());
    }
    Some(state)
}

/// Writes the current process as the owner of a socket of the context, now.
///
/// # Safety
///
/// `owner` may be written.
#[inline(always)]
pub(crate) unsafe fn write_current(ctx: &impl EbpfContext, owner: *mut Owner, time_ns: u64) {
    // SAFETY: as for this function; the context is the one of the running program. Where there is no
    // name the helper writes zero bytes.
    unsafe {
        (*owner).time_ns = time_ns;
        (*owner).tgid = current_tgid();
        (*owner).uid = bpf_get_current_uid_gid() as u32;
        (*owner).cgroup_id = bpf_get_current_cgroup_id();
        (*owner).netns_cookie = bpf_get_netns_cookie(ctx.as_ptr());
        bpf_get_current_comm((&raw mut (*owner).comm).cast(), COMM_LEN as u32);
    }
}

/// Thread group id of the current process.
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The current process and user in one word, as in [`SocketState::user`].
#[inline(always)]
pub(crate) fn current_user() -> u64 {
    u64::from(current_tgid()) | bpf_get_current_uid_gid() << 32
}

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
        // SAFETY: all fields are written.
        unsafe {
            events::send(|event: *mut TcpConnect| {
                (*event).header = events::header(kind::TCP_CONNECT);
                (*event).socket_cookie = bpf_get_socket_cookie(ctx.as_ptr());
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
                (*event).socket_cookie = bpf_get_socket_cookie(ctx.as_ptr());
                write_current(&ctx, &raw mut (*event).closer, (*event).header.time_ns);
                (*event).syscall = task::syscall();
                (*event).exiting = task::exiting();
            });
        }
    }
    ALLOW
}
