//! Receives events of entries and expectations.
//!
//! It moves datagrams and says what was lost on the way; it does not look into them. Loss is an
//! outcome, not an error: the socket is as good after it as before.
//!
//! With [`Delivery::Reliable`] the kernel keeps an entry whose message did not fit into the receive
//! buffer, and sends the message again (`nf_ct_delete`, `nf_conntrack_ecache.c`): a pause costs entries of
//! its table, not messages. The price: whoever else listens gets messages again, too, and so do we where
//! another listener asks for the same.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::{array, fs, io};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{MsgFlags, MultiHeaders, NetlinkAddr, getsockopt, recvmmsg, setsockopt};
use socket2::{SockFilter, SockRef};
use tracing::warn;

use super::socket::{Error, open_socket};
use super::socket_filter::{self, Instruction, MAX_INSTRUCTIONS};
use super::uapi::*;
use crate::connections::filter::FlowFilter;

/// Datagrams of one [`Listener::recv`] at most: one system call. Enough that the call itself no longer counts
/// beside the microsecond that the kernel needs for each datagram: with 32, 64 and 256 the measured costs are
/// the same.
pub const DATAGRAMS: usize = 64;

/// Room for one datagram; one that is larger is lost. A DESTROY message has 140 to 330 bytes, alone in
/// its datagram, and no part of it has a variable length. So this leaves room for what newer kernels
/// add, while all slots together (256 KiB) stay in the cache of a core.
const DATAGRAM_BYTES: usize = 4096;

/// For errors: what failed.
const SUBSCRIBE: &str = "subscribe to conntrack events";

/// The largest receive buffer that the kernel takes (`__sock_set_rcvbuf` doubles it in an `int`).
const MAX_RECEIVE_BUFFER_BYTES: usize = 1 << 30;

/// What can be listened to: `enum nfnetlink_groups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Entries that are made.
    New,
    /// Entries that change.
    Update,
    /// Entries that end.
    Destroy,
    /// Expectations that are made.
    ExpectationNew,
    /// Expectations that change.
    ExpectationUpdate,
    /// Expectations that end.
    ExpectationDestroy,
    /// Rules of nftables, those of iptables-nft included, that are added or removed.
    Rules,
}

impl Group {
    fn number(self) -> u32 {
        match self {
            Self::New => NFNLGRP_CONNTRACK_NEW,
            Self::Update => NFNLGRP_CONNTRACK_UPDATE,
            Self::Destroy => NFNLGRP_CONNTRACK_DESTROY,
            Self::ExpectationNew => NFNLGRP_CONNTRACK_EXP_NEW,
            Self::ExpectationUpdate => NFNLGRP_CONNTRACK_EXP_UPDATE,
            Self::ExpectationDestroy => NFNLGRP_CONNTRACK_EXP_DESTROY,
            Self::Rules => NFNLGRP_NFTABLES,
        }
    }
}

/// A non-blocking socket that receives the messages of events.
///
/// The socket must be read as fast as entries end; its receive buffer is what bridges a pause.
#[derive(Debug)]
pub struct Listener {
    /// Never cloned: a clone would close the descriptor twice.
    socket: Socket,
    delivery: Delivery,
    is_filtered: bool,
    losses: ListenerLosses,
}

/// What the kernel does with a message that does not fit into the receive buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// It keeps the entry and sends the message again later: `NETLINK_BROADCAST_ERROR`.
    #[default]
    Reliable,
    /// It throws the message away.
    BestEffort,
}

impl Delivery {
    /// As it is configured.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reliable => "reliable",
            Self::BestEffort => "best-effort",
        }
    }
}

/// What a listener has lost since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerLosses {
    /// How often the receive buffer overran. With [`Delivery::Reliable`] nothing is lost by that.
    pub overruns: u64,
    /// Datagrams that were larger than the buffer for one.
    pub truncated: u64,
}

/// Result of [`Listener::recv`].
#[derive(Debug)]
pub enum Received<'b> {
    /// One or more datagrams.
    Datagrams(Datagrams<'b>),
    /// Nothing is there.
    WouldBlock,
    /// `ENOBUFS`: the receive buffer was full. What was queued before is still to be read. With
    /// [`Delivery::BestEffort`] messages were lost after it; [`Listener::dropped`] says how many.
    Overrun,
}

/// Where datagrams are received into; allocated once. One is enough for all listeners of a thread.
pub struct Buffers {
    bytes: Box<[u8]>,
    headers: Headers,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { bytes: vec![0; DATAGRAMS * DATAGRAM_BYTES].into_boxed_slice(), headers: Headers::default() }
    }
}

/// What is known of datagrams beside their bytes; allocated once, for receiving into other memory.
pub struct Headers {
    headers: MultiHeaders<NetlinkAddr>,
    /// Length of each datagram; zero for one that must not be read.
    lengths: Vec<usize>,
}

impl Default for Headers {
    fn default() -> Self {
        Self { headers: MultiHeaders::preallocate(DATAGRAMS, None), lengths: Vec::with_capacity(DATAGRAMS) }
    }
}

/// Memory for some datagrams, in slots of the same size.
#[derive(Debug)]
pub struct Slots<'b> {
    /// As large as slots, [`DATAGRAMS`] of them at most.
    pub bytes: &'b mut [u8],
    /// What a datagram takes.
    pub slot_bytes: usize,
}

/// The datagrams of one [`Listener::recv`].
#[derive(Clone, Copy, Debug)]
pub struct Datagrams<'b> {
    bytes: &'b [u8],
    slot_bytes: usize,
    lengths: &'b [usize],
    truncated: usize,
}

impl<'b> Datagrams<'b> {
    /// The whole ones, in the order in which the kernel sent them.
    pub fn iter(&self) -> impl Iterator<Item = &'b [u8]> {
        let slots = self.bytes.chunks_exact(self.slot_bytes).zip(self.lengths);
        slots.filter_map(|(slot, length)| slot.get(..*length)).filter(|datagram| !datagram.is_empty())
    }

    /// How many there were, those that are left out included.
    pub fn received(&self) -> u32 {
        u32::try_from(self.lengths.len()).unwrap_or(u32::MAX)
    }

    /// Whether there was no room for more of them.
    pub fn is_full(&self) -> bool {
        self.lengths.len() * self.slot_bytes == self.bytes.len()
    }

    /// How many datagrams were cut and are left out; each was one event at least.
    pub fn truncated(&self) -> usize {
        self.truncated
    }
}

impl<'b> Datagrams<'b> {
    /// Those that an earlier process received into the slots: each begins with a message, of which nothing else is in its
    /// datagram, as those of events are. The first slot that says that it has none ends them.
    pub fn left(slots: Slots<'b>, headers: &'b mut Headers) -> Self {
        let Slots { bytes, slot_bytes } = slots;
        let Headers { headers: _, lengths } = headers;
        lengths.clear();
        let mut truncated = 0;
        let messages = bytes.chunks_exact(slot_bytes).map_while(message_bytes);
        lengths.extend(messages.map(|length| {
            let is_whole = length <= slot_bytes;
            truncated += usize::from(!is_whole);
            if is_whole { length } else { 0 }
        }));
        Self { bytes, slot_bytes, lengths, truncated }
    }
}

/// How long the message says that it is at the beginning of a slot; `None` for zero: nothing was received.
fn message_bytes(slot: &[u8]) -> Option<usize> {
    let length = slot.first_chunk().map(|length| u32::from_ne_bytes(*length))?;
    usize::try_from(length).ok().filter(|&length| length > 0)
}

impl Listener {
    /// Subscribes to the entries that end, in the network namespace of the calling thread.
    ///
    /// The subscription succeeds also where the kernel has no ctnetlink (yet):
    /// [`Requests::count`](super::Requests::count) tells. Without `CAP_NET_ADMIN` the receive buffer
    /// is bounded by `net.core.rmem_max`; a warning says so.
    ///
    /// The kernel keeps back what `filter` does not record, if it can: the program for it has to fit into
    /// what the kernel takes. Where it does not, a warning says so, and all events come.
    pub fn open(receive_buffer_bytes: usize, delivery: Delivery, filter: &FlowFilter) -> Result<Self, Error> {
        let mut listener = Self::of(open_socket()?, Some(receive_buffer_bytes), delivery)?;
        listener.filter(filter);
        listener.join(&[Group::Destroy])
    }

    /// Goes on with a socket that [`Listener::open`] made in another process, of which events wait to be read. The rest is
    /// as there; what waits has passed the filter of that process.
    ///
    /// # Errors
    ///
    /// It is no such socket. And as there.
    pub fn adopt(
        socket: OwnedFd,
        receive_buffer_bytes: usize,
        delivery: Delivery,
        filter: &FlowFilter,
    ) -> Result<Self, Error> {
        let error = |source| Error::io("take over a netlink socket", source);
        let found = SockRef::from(&socket);
        let domain = i32::from(found.domain().map_err(error)?);
        let protocol = found.protocol().map_err(error)?.map(i32::from);
        let is_netfilter = protocol.and_then(|protocol| protocol.try_into().ok()) == Some(NETLINK_NETFILTER);
        if domain != nix::libc::AF_NETLINK || !is_netfilter {
            return Err(error(io::Error::other(format!(
                "found domain {domain} and protocol {protocol:?}, expected {} and {NETLINK_NETFILTER}",
                nix::libc::AF_NETLINK
            ))));
        }
        let mut listener =
            Self::of(flowlog_common::descriptors::into(socket), Some(receive_buffer_bytes), delivery)?;
        // Before another one is attached, so that all is recorded if that fails.
        SockRef::from(&listener.socket).detach_filter().ok();
        listener.filter(filter);
        // Nothing changes if it is a member.
        listener.join(&[Group::Destroy])
    }

    /// Lets the kernel keep back what is not recorded.
    fn filter(&mut self, filter: &FlowFilter) {
        if filter.is_empty() {
            return;
        }
        match attach(&self.socket, &socket_filter::compile(filter)) {
            Ok(()) => self.is_filtered = true,
            Err(error) => warn!(
                "the kernel does not accept the filter, so flowlog has to read and drop unwanted events; make its lists \
                 shorter, or raise the sysctl net.core.optmem_max: {error}"
            ),
        }
    }

    /// Subscribes to these groups, in the network namespace of the calling thread; without a size, the
    /// receive buffer has the one of the host (`net.core.rmem_default`). See [`Listener::open`].
    pub fn subscribe(
        groups: &[Group],
        receive_buffer_bytes: Option<usize>,
        delivery: Delivery,
    ) -> Result<Self, Error> {
        Self::of(open_socket()?, receive_buffer_bytes, delivery)?.join(groups)
    }

    fn of(socket: Socket, receive_buffer_bytes: Option<usize>, delivery: Delivery) -> Result<Self, Error> {
        if let Some(bytes) = receive_buffer_bytes {
            set_receive_buffer(&socket, bytes)?;
        }
        let reliable = socket.set_broadcast_error(delivery == Delivery::Reliable);
        reliable.map_err(|error| Error::io("ask for reliable delivery of conntrack events", error))?;
        socket.set_non_blocking(true).map_err(|error| Error::io(SUBSCRIBE, error))?;
        Ok(Self { socket, delivery, is_filtered: false, losses: ListenerLosses::default() })
    }

    fn join(self, groups: &[Group]) -> Result<Self, Error> {
        for group in groups {
            let joined = self.socket.add_membership(group.number());
            joined.map_err(|error| Error::io(SUBSCRIBE, error))?;
        }
        Ok(self)
    }

    /// What it was opened with.
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// Whether the kernel keeps back what is not recorded.
    pub fn is_filtered(&self) -> bool {
        self.is_filtered
    }

    /// How many messages did not fit into the receive buffer since the socket was opened. Each was one
    /// event; the kernel counts them in `sk_drops` (`netlink_overrun`).
    ///
    /// To be called by a thread in the network namespace of the socket.
    ///
    /// # Errors
    ///
    /// Where /proc does not show the socket.
    pub fn dropped(&self) -> io::Result<u64> {
        let inode = nix::sys::stat::fstat(&self.socket).map_err(io::Error::from)?.st_ino.to_string();
        let sockets = fs::read_to_string("/proc/thread-self/net/netlink")?;
        // The last columns are Drops and Inode.
        let dropped = sockets.lines().find_map(|line| {
            let mut columns = line.split_ascii_whitespace().rev();
            let is_this = columns.next()? == inode;
            is_this.then(|| columns.next()?.parse().ok())?
        });
        dropped
            .ok_or_else(|| io::Error::other("found no line of the socket in /proc/thread-self/net/netlink"))
    }

    /// Takes what is there, without waiting and without allocating.
    ///
    /// Datagrams of other processes are ignored. An error means that the socket is of no use.
    pub fn recv<'b>(&mut self, buffers: &'b mut Buffers) -> Result<Received<'b>, Error> {
        let Buffers { bytes, headers } = buffers;
        self.recv_into(Slots { bytes, slot_bytes: DATAGRAM_BYTES }, headers)
    }

    /// As [`Listener::recv`], into other memory. What must not be read is overwritten there.
    pub fn recv_into<'b>(
        &mut self,
        slots: Slots<'b>,
        headers: &'b mut Headers,
    ) -> Result<Received<'b>, Error> {
        let Slots { bytes, slot_bytes } = slots;
        let Headers { headers, lengths } = headers;
        lengths.clear();
        let (mut truncated, mut is_foreign) = (0, false);
        {
            let room = (bytes.len() / slot_bytes).min(DATAGRAMS);
            let mut slots = bytes.chunks_exact_mut(slot_bytes);
            let mut vectors: [_; DATAGRAMS] =
                array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())]);
            let fd = self.socket.as_raw_fd();
            let (vectors, _) = vectors.split_at_mut(room);
            match recvmmsg(fd, headers, vectors, MsgFlags::empty(), None) {
                Ok(received) => {
                    for datagram in received {
                        let from_kernel = datagram.address.is_some_and(|sender| sender.pid() == 0);
                        let cut = datagram.flags.contains(MsgFlags::MSG_TRUNC);
                        truncated += usize::from(from_kernel && cut);
                        is_foreign |= !from_kernel;
                        lengths.push(if from_kernel && !cut { datagram.bytes } else { 0 });
                    }
                }
                // No datagram, but there may be some: a debugger, for one, interrupts also what does not wait.
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::WouldBlock),
                Err(Errno::ENOBUFS) => {
                    self.losses.overruns += 1;
                    return Ok(Received::Overrun);
                }
                Err(errno) => {
                    return Err(Error::Io { request: "receive conntrack events", source: errno.into() });
                }
            }
        }
        self.losses.truncated += truncated as u64;
        if is_foreign {
            let slots = bytes.chunks_exact_mut(slot_bytes).zip(&*lengths);
            slots.filter(|(_, length)| **length == 0).for_each(|(slot, _)| overwrite(slot));
        }
        Ok(Received::Datagrams(Datagrams { bytes, slot_bytes, lengths, truncated }))
    }

    /// The size of the receive buffer, as the kernel reports it: twice what was asked for.
    pub fn receive_buffer_bytes(&self) -> Result<usize, Error> {
        getsockopt(&self.socket, RcvBuf)
            .map_err(|errno| Error::io("read the size of a receive buffer", errno.into()))
    }

    /// What was lost so far.
    pub fn losses(&self) -> ListenerLosses {
        self.losses
    }
}

/// Makes a message of the slot that means nothing.
fn overwrite(slot: &mut [u8]) {
    let Some(header) = slot.first_chunk_mut::<NLMSG_HDRLEN>() else { return };
    *header = [0; NLMSG_HDRLEN];
    let length = u32::try_from(NLMSG_HDRLEN).unwrap_or_default().to_ne_bytes();
    let fields = [&length[..], &NLMSG_NOOP.to_ne_bytes()].concat();
    header.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
}

/// Lets the kernel run this program on each message.
fn attach(socket: &Socket, program: &[Instruction]) -> io::Result<()> {
    if program.len() > MAX_INSTRUCTIONS {
        let found = program.len();
        return Err(io::Error::other(format!(
            "found {found} instructions, expected at most {MAX_INSTRUCTIONS}"
        )));
    }
    let program: Vec<SockFilter> = program
        .iter()
        .map(|Instruction { code, jump_true, jump_false, k }| {
            SockFilter::new(*code, *jump_true, *jump_false, *k)
        })
        .collect();
    SockRef::from(socket).attach_filter(&program)
}

/// Makes the receive buffer that large, past `net.core.rmem_max` where that is permitted.
fn set_receive_buffer(socket: &Socket, bytes: usize) -> Result<(), Error> {
    const REQUEST: &str = "set the receive buffer of a netlink socket";
    let error = |errno: Errno| Error::Io { request: REQUEST, source: io::Error::from(errno) };
    let bytes = bytes.min(MAX_RECEIVE_BUFFER_BYTES);
    match setsockopt(socket, RcvBufForce, &bytes) {
        Err(Errno::EPERM) => {}
        result => return result.map_err(error),
    }
    setsockopt(socket, RcvBuf, &bytes).map_err(error)?;
    // The kernel reports twice the size, the half of which is for its own structures.
    let found = getsockopt(socket, RcvBuf).map_err(error)? / 2;
    if found < bytes {
        warn!(
            "found a receive buffer of {found} bytes, expected {bytes}: it holds fewer events while flowlog is busy; \
             run with CAP_NET_ADMIN or raise the sysctl net.core.rmem_max"
        );
    }
    Ok(())
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
