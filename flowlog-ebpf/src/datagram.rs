//! Sockets that `sock_ops` does not see: UDP, UDP-Lite, ICMP, raw, and whatever else speaks IP.
//!
//! User space is told once which local port (or echo id, or only protocol) such a socket has. Three
//! hooks can be the first to know: a bind to a port, a message to or from an address, and, for
//! connected and raw sockets, the first packet. A flag in the socket's state makes every later call a
//! cheap return.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_fullsock};
use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext};
use flowlog_common::{EndpointOpen, Owner, SocketState, flags, kind, usage};

use crate::address::{self, NO_ADDRESS, local_ip6, of_socket, v4_mapped};
use crate::socket::{self, ALLOW, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, SOCK_RAW, cookie};
use crate::{events, process, raw, task, words};

/// The local port of a raw socket is its protocol, of which there are so many.
const PROTOCOLS: u32 = 256;

/// An echo request: its type of ICMP and of ICMPv6.
const ECHO_REQUEST: [u8; 2] = [8, 128];

/// No echo id. An `Option` here leaves a register without a value, which the verifier refuses.
const NO_ID: u32 = u32::MAX;

/// How many source addresses are told of a socket: one that alternates between many would fill the ring.
const MAX_ADDRESSES: u32 = 16;

/// How often the user of a socket may be another than before. Workers that take turns would fill the ring,
/// and of the next datagram nobody can say whose it is.
const MAX_USER_CHANGES: u32 = 16;

/// Stands for a user where there are several.
const SHARED: u64 = u64::MAX;

/// Tells of a socket that is bound to an IPv4 address and port.
#[inline(always)]
pub(crate) fn bound4(ctx: &SockContext, state: *mut SocketState) {
    // SAFETY: `src_ip4` may be read in this hook, of which the context is the socket.
    let local = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock).src_ip4) };
    bound(ctx, state, v4_mapped(local));
}

/// Tells of a socket that is bound to an IPv6 address and port.
#[inline(always)]
pub(crate) fn bound6(ctx: &SockContext, state: *mut SocketState) {
    // SAFETY: `src_ip6` may be read in this hook, of which the context is the socket.
    let local = unsafe { local_ip6(ctx.sock) };
    bound(ctx, state, local);
}

#[inline(always)]
fn bound(ctx: &SockContext, state: *mut SocketState, local_addr: [u32; 4]) {
    // SAFETY: fields that may be read in this hook, of which the context is the socket.
    let (protocol, port) = unsafe { ((*ctx.sock).protocol, (*ctx.sock).src_port) };
    if protocol == IPPROTO_TCP {
        return;
    }
    // SAFETY: the state may be written, see `socket::state_of`; all fields of the event are.
    unsafe {
        (*state).flags |= flags::ANNOUNCED;
        (*state).announced_id = port;
        events::send(|event: *mut EndpointOpen| {
            (*event).header = events::header(kind::ENDPOINT_OPEN);
            (*event).socket_cookie = cookie(ctx);
            words::copy(&raw mut (*event).owner, &raw const (*state).owner);
            address::write(&raw mut (*event).local_addr, local_addr);
            words::clear(&raw mut (*event).remote_addr);
            words::clear(&raw mut (*event).packet_addr);
            (*event).local_port = port as u16;
            (*event).remote_port = 0;
            (*event).protocol = protocol as u8;
            (*event).used = usage::BOUND;
            (*event).pad = 0;
        });
    }
}

/// `BPF_CGROUP_UDP4_SENDMSG`: a message to an address that was given with it.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn datagram_send4(ctx: SockAddrContext) -> i32 {
    message(&ctx)
}

/// `BPF_CGROUP_UDP6_SENDMSG`
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn datagram_send6(ctx: SockAddrContext) -> i32 {
    message(&ctx)
}

/// `BPF_CGROUP_UDP4_RECVMSG`: a message whose sender is asked for.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn datagram_receive4(ctx: SockAddrContext) -> i32 {
    message(&ctx)
}

/// `BPF_CGROUP_UDP6_RECVMSG`
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn datagram_receive6(ctx: SockAddrContext) -> i32 {
    message(&ctx)
}

/// The process that sends or receives has the socket: descriptors are passed on, and inherited. It is told
/// again where it goes on as another user or program.
#[inline(always)]
fn message(ctx: &SockAddrContext) -> i32 {
    // SAFETY: `sk` is a field of `struct bpf_sock_addr`, which the context points to.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return ALLOW;
    }
    // SAFETY: it is the socket of this context.
    let Some(state) = (unsafe { socket::make_state(sk.cast()) }) else { return ALLOW };
    let current = socket::current_user();
    // SAFETY: words that may be read, see `socket::state_of`.
    let (user, since_ns) = unsafe {
        ((&raw const (*state).user).read_volatile(), (&raw const (*state).user_since_ns).read_volatile())
    };
    if user == SHARED || (user == current && !process::has_executed_since(task::current_tgid(), since_ns)) {
        return ALLOW;
    }
    // SAFETY: as above, and the kernel gives a full socket here. The time is written first: who finds
    // itself as the user finds a time in which it was.
    unsafe {
        let is_shared = (*state).user_changes >= MAX_USER_CHANGES;
        (*state).user_changes += 1;
        (&raw mut (*state).user_since_ns).write_volatile(events::now_ns());
        (&raw mut (*state).user).write_volatile(if is_shared { SHARED } else { current });
        let used = if is_shared { usage::SHARED } else { usage::USED };
        announce(ctx, sk, state, NO_ID, NO_ADDRESS, used, |owner, time_ns| {
            if is_shared {
                words::clear(owner);
                (*owner).netns_cookie = bpf_get_netns_cookie(ctx.as_ptr());
            } else {
                socket::write_current(ctx, owner, time_ns);
            }
        });
    }
    ALLOW
}

/// `BPF_CGROUP_INET_EGRESS`: every packet of every socket. TCP is told by `sock_ops`, unless it is made by hand.
#[cgroup_skb(egress)]
pub(crate) fn datagram_egress(ctx: SkBuffContext) -> i32 {
    let carries_tcp = carries_tcp(&ctx);
    // SAFETY: the field of `struct __sk_buff`, which the context points to.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return ALLOW;
    }
    // SAFETY: it was compared with null, and sockets of all states have this field.
    if carries_tcp && unsafe { (*sk).src_port } >= PROTOCOLS {
        return ALLOW;
    }
    // SAFETY: as above.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return ALLOW;
    }
    // SAFETY: a full socket that was compared with null.
    let (protocol, socket_type) = unsafe { ((*sk).protocol, (*sk).type_) };
    if socket_type != SOCK_RAW && (carries_tcp || protocol == IPPROTO_TCP) {
        return ALLOW;
    }
    // SAFETY: as above. The raw sockets with which the kernel itself answers have none.
    let Some(state) = (unsafe { socket::state_of(sk.cast()) }) else { return ALLOW };
    // SAFETY: as above.
    if socket_type == SOCK_RAW && unsafe { raw::send(&ctx, protocol, state) } {
        return ALLOW;
    }
    let is_echo = protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
    // A raw socket may use a new id for each packet; any other socket has one port for its life.
    let echo_id = if is_echo && socket_type == SOCK_RAW {
        match echo_id(&ctx, protocol) {
            Some(id) => id,
            None => return ALLOW,
        }
    } else {
        NO_ID
    };
    // SAFETY: the state may be read, see `socket::state_of`, and the socket as above.
    let (told, told_id, told_addr, user_since_ns, is_bound_to_none) = unsafe {
        (
            (*state).flags,
            (*state).announced_id,
            (*state).announced_addr,
            (&raw const (*state).user_since_ns).read_volatile(),
            is_bound_to_none(sk),
        )
    };
    let packet_addr = if is_bound_to_none && told < MAX_ADDRESSES * flags::ADDRESSES {
        source(&ctx).unwrap_or(NO_ADDRESS)
    } else {
        NO_ADDRESS
    };
    let is_news = told & flags::USED == 0
        || (packet_addr != NO_ADDRESS && packet_addr != told_addr)
        || (echo_id != NO_ID && echo_id != told_id);
    if is_news {
        // The current process may be any, where a packet had to wait.
        let is_as_told = user_since_ns != 0;
        let used = if is_as_told { usage::ADDRESS } else { usage::USED };
        // SAFETY: as above.
        unsafe {
            announce(&ctx, sk, state, echo_id, packet_addr, used, |owner, _| {
                if is_as_told {
                    words::clear(owner);
                } else {
                    words::copy(owner, &raw const (*state).owner);
                }
            });
        }
    }
    ALLOW
}

/// Whether a packet is one of TCP, where its header tells at once: most are, and this costs less than to
/// ask the socket.
#[inline(always)]
fn carries_tcp(ctx: &SkBuffContext) -> bool {
    /// Up to the protocol of IPv4, which is behind the one of IPv6.
    const NEEDED_BYTES: usize = 10;
    // SAFETY: the fields of `struct __sk_buff`, which the kernel turns into pointers.
    let (start, end) = unsafe { ((*ctx.skb.skb).data as usize, (*ctx.skb.skb).data_end as usize) };
    if start + NEEDED_BYTES > end {
        return false;
    }
    let packet = start as *const u8;
    // SAFETY: bytes before the end. All are read before it is known which are of use, as in
    // `address::of_socket`.
    let (version_and_length, v6_protocol, v4_protocol) =
        unsafe { (packet.read_volatile(), packet.add(6).read_volatile(), packet.add(9).read_volatile()) };
    let protocol = if version_and_length >> 4 == 4 { v4_protocol } else { v6_protocol };
    u32::from(protocol) == IPPROTO_TCP
}

/// Whether the socket has no local address of its own: that of its packets is chosen for each.
///
/// # Safety
///
/// `sk` is a full socket of the context of the running program that was compared with null.
#[inline(always)]
unsafe fn is_bound_to_none(sk: *const bpf_sock) -> bool {
    // SAFETY: as for this function.
    unsafe { (*sk).src_ip4 == 0 && local_ip6(sk) == NO_ADDRESS }
}

/// The source address of a packet.
#[inline(always)]
fn source(ctx: &SkBuffContext) -> Option<[u32; 4]> {
    let version: u8 = ctx.load(0).ok()?;
    if version >> 4 == 4 { ctx.load::<u32>(12).ok().map(v4_mapped) } else { ctx.load(8).ok() }
}

/// The id of an echo request that is sent now.
#[inline(always)]
fn echo_id(ctx: &SkBuffContext, protocol: u32) -> Option<u32> {
    let header_bytes = if protocol == IPPROTO_ICMP {
        let version_and_length: u8 = ctx.load(0).ok()?;
        usize::from(version_and_length & 0x0f) * 4
    } else {
        // Without extension headers, which an echo request does not have.
        40
    };
    let echo_type: u8 = ctx.load(header_bytes).ok()?;
    let id: u16 = ctx.load(header_bytes + 4).ok()?;
    ECHO_REQUEST.contains(&echo_type).then_some(u32::from(u16::from_be(id)))
}

/// Tells user space of a socket.
///
/// # Safety
///
/// `sk` is a full socket of the context of the running program that was compared with null, and `write_owner`
/// writes all of the owner.
#[inline(always)]
unsafe fn announce(
    ctx: &impl EbpfContext,
    sk: *const bpf_sock,
    state: *mut SocketState,
    id: u32,
    packet_addr: [u32; 4],
    used: u8,
    write_owner: impl FnOnce(*mut Owner, u64),
) {
    // SAFETY: as for this function.
    let (local_addr, remote_addr) = unsafe { of_socket(sk) };
    // SAFETY: as for this function. `dst_port` is in network order.
    let (protocol, socket_type, port, remote_port) =
        unsafe { ((*sk).protocol, (*sk).type_, (*sk).src_port, u16::from_be((*sk).dst_port)) };
    // What a raw socket has for a port is its protocol.
    let local_port = match id {
        NO_ID if socket_type == SOCK_RAW => 0,
        NO_ID => port,
        id => id,
    };
    // SAFETY: the state may be written, see `socket::state_of`; all fields of the event are.
    unsafe {
        if packet_addr != NO_ADDRESS && packet_addr != (*state).announced_addr {
            (*state).flags += flags::ADDRESSES;
            (*state).announced_addr = packet_addr;
        }
        (*state).flags |= flags::ANNOUNCED | flags::USED;
        (*state).announced_id = local_port;
        events::send(|event: *mut EndpointOpen| {
            (*event).header = events::header(kind::ENDPOINT_OPEN);
            (*event).socket_cookie = cookie(ctx);
            write_owner(&raw mut (*event).owner, (*event).header.time_ns);
            address::write(&raw mut (*event).local_addr, local_addr);
            address::write(&raw mut (*event).remote_addr, remote_addr);
            address::write(&raw mut (*event).packet_addr, packet_addr);
            (*event).local_port = local_port as u16;
            (*event).remote_port = remote_port;
            (*event).protocol = protocol as u8;
            (*event).used = used;
            (*event).pad = 0;
        });
    }
}
