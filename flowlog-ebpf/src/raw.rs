//! Packets that a process makes by hand: of TCP, UDP or another protocol, by a raw socket.
//!
//! No socket has their tuples, and a scanner makes 100 000 a second. So user space is told once of each socket
//! that makes such packets, and the tuples are noted in a table that user space reads by itself.
//!
//! What a raw socket sends in its own protocol, where that has no ports, is of `datagram`.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkBuffContext;
use flowlog_common::raw_sent::{BUCKETS, Bucket, RawTuple, SHARED, bucket_of, note};
use flowlog_common::{RawSend, SocketState, flags, kind};

use crate::address::v4_mapped;
use crate::socket::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, cookie};
use crate::{events, process, task, words};

const IPPROTO_UDP: u32 = 17;
const IPPROTO_DCCP: u32 = 33;
const IPPROTO_SCTP: u32 = 132;
const IPPROTO_UDPLITE: u32 = 136;

/// `RST` among the flags of TCP, which are in this byte of its header.
const RST: u8 = 4;
const FLAGS_AT: usize = 13;

/// Where the fragment is in its packet, of the field of IPv4 that has flags, too.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A socket is told again after so many units of [`SocketState::raw_told`]: the event before may have been lost.
const TOLD_AGAIN: u64 = 60;

/// The tuples that raw sockets sent. The first word of the last bucket counts what was forgotten.
#[btf_map]
static RAW_SENT: Array<Bucket, { BUCKETS + 1 }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Written by user space before the programs are loaded.
#[unsafe(no_mangle)]
static RAW_SEED: u64 = 0;

/// Notes the packet that a raw socket of this protocol sends now. Says `false` where it is not one of these.
///
/// # Safety
///
/// `state` is that of the socket.
#[inline(always)]
pub(crate) unsafe fn send(ctx: &SkBuffContext, socket_protocol: u32, state: *mut SocketState) -> bool {
    let Some(packet) = parse(ctx) else { return false };
    let has_ports =
        matches!(packet.protocol, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_DCCP | IPPROTO_SCTP | IPPROTO_UDPLITE);
    if packet.protocol == socket_protocol && !has_ports {
        return false;
    }
    let Some(ports) = ports(ctx, &packet, has_ports) else { return true };
    // SAFETY: the state may be read, see `socket::state_of`.
    let (owner_tgid, owned_since_ns, netns_cookie, told) = unsafe {
        ((*state).owner.tgid, (*state).owner.time_ns, (*state).owner.netns_cookie, (*state).raw_told)
    };
    if owned_since_ns == 0 {
        return true;
    }
    // Whoever else sends with it, or handles the packet where that had to wait, need not be who made it.
    let sender = task::tgid();
    let is_of_owner = sender == owner_tgid && !process::has_executed_since(sender, owned_since_ns);
    let socket_cookie = if is_of_owner { cookie(ctx) } else { SHARED };
    let now_ns = events::now_ns();
    let tuple =
        RawTuple { netns_cookie, src: packet.src, dst: packet.dst, protocol: packet.protocol as u8, ports };
    // SAFETY: a static of this program. Volatile: the compiler knows only the zero above.
    let hash = tuple.hash(unsafe { (&raw const RAW_SEED).read_volatile() });
    if let Some(bucket) = RAW_SENT.get_ptr_mut(bucket_of(hash)) {
        // SAFETY: the slots of the bucket.
        let has_forgotten = unsafe { note(bucket.cast(), hash, socket_cookie, now_ns) };
        if has_forgotten && let Some(count) = RAW_SENT.get_ptr_mut(BUCKETS as u32) {
            let count = count.cast::<u64>();
            // SAFETY: a word of the last bucket. Of two CPUs that count at once one may win: any change is a loss.
            unsafe { count.write_volatile(count.read_volatile() + 1) };
        }
    }
    let now = (now_ns >> 30) + 1;
    if told == 0 || now >= u64::from(told) + TOLD_AGAIN {
        // SAFETY: the state may be written, see `socket::state_of`; all fields of the event are.
        unsafe {
            (*state).raw_told = now as u32;
            (*state).flags |= flags::RAW_SENDS;
            events::send(|event: *mut RawSend| {
                (*event).header = events::header(kind::RAW_SEND);
                (*event).socket_cookie = cookie(ctx);
                words::copy(&raw mut (*event).owner, &raw const (*state).owner);
            });
        }
    }
    true
}

/// The IP header.
struct Packet {
    src: [u32; 4],
    dst: [u32; 4],
    protocol: u32,
    header_bytes: usize,
}

/// `None` where there are no ports: a fragment but the first.
#[inline(always)]
fn parse(ctx: &SkBuffContext) -> Option<Packet> {
    let first: u8 = ctx.load(0).ok()?;
    if first >> 4 == 4 {
        let fragment: u16 = ctx.load(6).ok()?;
        if u16::from_be(fragment) & FRAGMENT_OFFSET != 0 {
            return None;
        }
        Some(Packet {
            src: v4_mapped(ctx.load(12).ok()?),
            dst: v4_mapped(ctx.load(16).ok()?),
            protocol: u32::from(ctx.load::<u8>(9).ok()?),
            header_bytes: usize::from(first & 0x0f) * 4,
        })
    } else {
        Some(Packet {
            src: ctx.load(8).ok()?,
            dst: ctx.load(24).ok()?,
            protocol: u32::from(ctx.load::<u8>(6).ok()?),
            header_bytes: 40,
        })
    }
}

/// As in [`RawTuple::ports`]. `None` where the packet can neither begin a flow nor answer in one that the kernel
/// would not answer itself: a reset.
#[inline(always)]
fn ports(ctx: &SkBuffContext, packet: &Packet, has_ports: bool) -> Option<u32> {
    let Packet { protocol, header_bytes, .. } = *packet;
    if protocol == IPPROTO_TCP && ctx.load::<u8>(header_bytes + FLAGS_AT).ok()? & RST != 0 {
        return None;
    }
    if has_ports {
        return ctx.load::<u32>(header_bytes).ok().map(u32::from_be);
    }
    if protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6 {
        let type_and_code: u16 = ctx.load(header_bytes).ok()?;
        let id: u16 = ctx.load(header_bytes + 4).ok()?;
        return Some(u32::from(u16::from_be(id)) << 16 | u32::from(u16::from_be(type_and_code)));
    }
    Some(0)
}
