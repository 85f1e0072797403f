//! What is kept of a socket, above all its owner: in the socket itself, so that it lives and dies with it.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
};
use aya_ebpf::helpers::bpf_get_current_uid_gid;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_netns_cookie, bpf_get_socket_cookie,
    bpf_sk_storage_get,
};
use aya_ebpf::macros::btf_map;
use flowlog_common::{COMM_LEN, Owner, SocketState};

use crate::task::current_tgid;
use crate::{events, words};

/// What a program of a hook of sockets returns to let the operation, the packet or the message go on.
pub(crate) const ALLOW: i32 = 1;

pub(crate) const IPPROTO_ICMP: u32 = 1;
pub(crate) const IPPROTO_TCP: u32 = 6;
pub(crate) const IPPROTO_ICMPV6: u32 = 58;

/// `SOCK_RAW` of `linux/net.h`.
pub(crate) const SOCK_RAW: u32 = 3;

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

/// The current process and user in one word, as in [`SocketState::user`].
#[inline(always)]
pub(crate) fn current_user() -> u64 {
    u64::from(current_tgid()) | bpf_get_current_uid_gid() << 32
}

/// The number of the socket of a context.
#[inline(always)]
pub(crate) fn cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the context is the one of the running program.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}
