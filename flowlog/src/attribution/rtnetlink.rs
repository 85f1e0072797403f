//! The kernel's addresses and local routes over netlink: all that there are, and each change.
//!
//! A socket belongs to the network namespace in which the calling thread is when it opens the socket.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::libc::{RT_TABLE_LOCAL, RTM_DELROUTE, RTM_NEWROUTE, RTN_ANYCAST, RTN_LOCAL};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockFilter, SockRef};
use tracing::{debug, warn};

use crate::attribution::addresses::{Holder, Prefix};

/// `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_ROUTE`.
const GROUPS: [u32; 4] = [5, 9, 7, 11];

/// Room for changes that come at once: some thousands.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Room for one datagram; the kernel sends at most 32 KiB at once (`netlink_dump`).
const DATAGRAM_BYTES: usize = 64 * 1024;

/// Datagrams of one [`Watcher::read`] at most, so that a storm of changes keeps nobody waiting.
const DATAGRAMS: usize = 256;

/// A list that changed while the kernel made it is asked for again, so many times.
const ATTEMPTS: usize = 3;

/// A change of what is local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It came, or something else of it changed.
    Came(Prefix, Holder),
    /// It has gone.
    Gone(Prefix, Holder),
}

/// What [`Watcher::read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// All changes are told.
    All,
    /// There may be more.
    More,
    /// Changes were lost: [`Watcher::list`] has what is there now.
    Overrun,
}

/// Two sockets: one receives changes, with the other one asks for all that is there.
#[derive(Debug)]
pub struct Watcher {
    changes: Socket,
    requests: Socket,
    buffer: Box<[u8]>,
}

impl Watcher {
    /// Subscribes in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses a socket.
    pub fn open() -> io::Result<Self> {
        let mut changes = Socket::new(NETLINK_ROUTE)?;
        changes.bind_auto()?;
        changes.set_non_blocking(true)?;
        // Without the right to it, changes are lost earlier, and the list is asked for then.
        if setsockopt(&changes, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            let _ = setsockopt(&changes, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES);
        }
        // A router may have a million routes that change all the time.
        if let Err(error) = SockRef::from(&changes).attach_filter(&filter()) {
            debug!("the kernel does not accept the filter, and reports all routes: {error}");
        }
        for group in GROUPS {
            match changes.add_membership(group) {
                // Without IPv6 there is no such group in some kernels.
                Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
                joined => joined?,
            }
        }
        let mut requests = Socket::new(NETLINK_ROUTE)?;
        requests.bind_auto()?;
        // Then the kernel lists the one table that is asked for, rather than all.
        requests.set_netlink_get_strict_chk(true)?;
        Ok(Self { changes, requests, buffer: vec![0; DATAGRAM_BYTES].into_boxed_slice() })
    }

    /// Calls `each` with the changes that are there, in their order, without waiting.
    ///
    /// # Errors
    ///
    /// Where the socket is of no use.
    pub fn read(&mut self, mut each: impl FnMut(Change)) -> io::Result<Read> {
        for _ in 0..DATAGRAMS {
            match self.changes.recv(&mut &mut self.buffer[..], 0) {
                Ok(length) => decode(self.buffer.get(..length).unwrap_or_default(), |_, payload| {
                    if let NetlinkPayload::InnerMessage(message) = payload
                        && let Some(change) = change(&message)
                    {
                        each(change);
                    }
                }),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Read::All),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    return Ok(Read::Overrun);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Read::More)
    }

    /// All addresses and local routes that are there now.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses the list.
    pub fn list(&mut self) -> io::Result<Vec<(Prefix, Holder)>> {
        let mut all = Vec::new();
        for attempt in 1..=ATTEMPTS {
            all.clear();
            let mut is_whole =
                self.list_once(RouteNetlinkMessage::GetAddress(AddressMessage::default()), &mut all)?;
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let mut request = RouteMessage::default();
                request.header.address_family = family;
                request.header.table = RT_TABLE_LOCAL;
                // IPv6 may be left out of the kernel.
                match self.list_once(RouteNetlinkMessage::GetRoute(request), &mut all) {
                    Ok(is_whole_too) => is_whole &= is_whole_too,
                    // There is no such table before there is an address.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) if family == AddressFamily::Inet6 => debug!("no list of IPv6 routes: {error}"),
                    Err(error) => return Err(error),
                }
            }
            if is_whole || attempt == ATTEMPTS {
                break;
            }
        }
        Ok(all)
    }

    /// Sends a request for a list, and adds what it has. Says whether nothing changed meanwhile.
    fn list_once(
        &mut self,
        request: RouteNetlinkMessage,
        all: &mut Vec<(Prefix, Holder)>,
    ) -> io::Result<bool> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.requests.send(&bytes, 0)?;
        let mut is_whole = true;
        let mut end = None;
        while end.is_none() {
            let length = match self.requests.recv(&mut &mut self.buffer[..], 0) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                length => length?,
            };
            decode(self.buffer.get(..length).unwrap_or_default(), |header, payload| {
                is_whole &= header.flags & NLM_F_DUMP_INTR == 0;
                match payload {
                    NetlinkPayload::InnerMessage(message) => {
                        if let Some(Change::Came(prefix, holder)) = change(&message) {
                            all.push((prefix, holder));
                        }
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        end = Some(Err(io::Error::from_raw_os_error(done.code.saturating_neg())));
                    }
                    NetlinkPayload::Done(_) => end = Some(Ok(())),
                    NetlinkPayload::Error(error) => end = Some(Err(error.to_io())),
                    _ => {}
                }
            });
        }
        end.unwrap_or(Ok(())).map(|()| is_whole)
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

/// Calls `each` with the messages of a datagram. What cannot be read costs that message.
fn decode(mut datagram: &[u8], mut each: impl FnMut(&NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>)) {
    while let Ok(buffer) = NetlinkBuffer::new_checked(&datagram) {
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        match NetlinkMessage::deserialize(datagram) {
            Ok(message) => {
                let (header, payload) = message.into_parts();
                each(&header, payload);
            }
            Err(error) => warn!(
                "cannot decode a message about addresses or routes, so flows may have the wrong direction: {error}"
            ),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// What a message says about what is local; nothing where it is about something else.
fn change(message: &RouteNetlinkMessage) -> Option<Change> {
    match message {
        // Somebody else on the link has it.
        RouteNetlinkMessage::NewAddress(message) if is_refused(message) => {
            address(message).map(|(prefix, holder)| Change::Gone(prefix, holder))
        }
        RouteNetlinkMessage::NewAddress(message) => {
            address(message).map(|(prefix, holder)| Change::Came(prefix, holder))
        }
        RouteNetlinkMessage::DelAddress(message) => {
            address(message).map(|(prefix, holder)| Change::Gone(prefix, holder))
        }
        RouteNetlinkMessage::NewRoute(message) => {
            local_route(message).map(|(prefix, holder)| Change::Came(prefix, holder))
        }
        RouteNetlinkMessage::DelRoute(message) => {
            local_route(message).map(|(prefix, holder)| Change::Gone(prefix, holder))
        }
        _ => None,
    }
}

/// Whether an IPv6 address was found to be another host's.
fn is_refused(message: &AddressMessage) -> bool {
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    flags.is_some_and(|flags| flags.contains(AddressFlags::Dadfailed))
}

fn address(message: &AddressMessage) -> Option<(Prefix, Holder)> {
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => other = Some(*addr),
            _ => {}
        }
    }
    // IPv6 has one of them only where the other end of the link has no address of its own.
    let (addr, peer) = (local.or(other)?, other.or(local)?);
    let AddressMessage { header, .. } = message;
    let holder = Holder::Interface { index: header.index, prefix_bits: header.prefix_len, peer };
    Some((Prefix::of(addr), holder))
}

/// A route that makes more local than the addresses of interfaces: somebody has added it (`ip route add local`), or the
/// kernel has, since a loopback interface has all addresses of its network, and a router the one of its subnets.
///
/// Other tables have such routes for packets with a mark, which says nothing of the host.
fn local_route(message: &RouteMessage) -> Option<(Prefix, Holder)> {
    let RouteMessage { header, attributes, .. } = message;
    if !matches!(header.kind, RouteType::Local | RouteType::Anycast) || header.table != RT_TABLE_LOCAL {
        return None;
    }
    let (mut addr, mut index, mut metric) = (None, 0, 0);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(destination)) => {
                addr = Some((*destination).into());
            }
            RouteAttribute::Destination(RouteAddress::Inet6(destination)) => {
                addr = Some((*destination).into());
            }
            RouteAttribute::Oif(number) => index = *number,
            RouteAttribute::Priority(number) => metric = *number,
            _ => {}
        }
    }
    let addr: IpAddr = addr?;
    let prefix = Prefix::new(addr, header.destination_prefix_length)?;
    // Those come and go with their address.
    let is_of_address = header.kind == RouteType::Local
        && header.protocol == RouteProtocol::Kernel
        && prefix == Prefix::of(addr);
    (!is_of_address).then_some((prefix, Holder::Route { index, metric }))
}

/// A program that keeps back routes that are not local, or of another table. A message begins with its length, its type,
/// which is in the order of this machine, …; after 16 bytes comes `struct rtmsg`.
fn filter() -> [SockFilter; 10] {
    const TYPE: u32 = if cfg!(target_endian = "little") { 4 } else { 5 };
    const TABLE: u32 = 16 + 4;
    const KIND: u32 = 16 + 7;
    // `BPF_LD | BPF_B | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_RET | BPF_K`.
    const LOAD_BYTE: u16 = 0x30;
    const IS_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let load = |at: u32| SockFilter::new(LOAD_BYTE, 0, 0, at);
    let is = |value: u32, then: u8, otherwise: u8| SockFilter::new(IS_EQUAL, then, otherwise, value);
    let take = |bytes: u32| SockFilter::new(RETURN, 0, 0, bytes);
    [
        load(TYPE),
        is(u32::from(RTM_NEWROUTE), 1, 0),
        is(u32::from(RTM_DELROUTE), 0, 5),
        load(TABLE),
        is(u32::from(RT_TABLE_LOCAL), 0, 4),
        load(KIND),
        is(u32::from(RTN_LOCAL), 1, 0),
        is(u32::from(RTN_ANYCAST), 0, 1),
        take(u32::MAX),
        take(0),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn route(
        addr: [u8; 4],
        bits: u8,
        table: u8,
        kind: RouteType,
        protocol: RouteProtocol,
    ) -> RouteNetlinkMessage {
        let mut message = RouteMessage::default();
        message.header.destination_prefix_length = bits;
        message.header.table = table;
        message.header.kind = kind;
        message.header.protocol = protocol;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(Ipv4Addr::from(addr))));
        message.attributes.push(RouteAttribute::Oif(1));
        RouteNetlinkMessage::NewRoute(message)
    }

    #[test]
    fn routes_that_make_addresses_local_are_told_apart() {
        let local = RouteType::Local;
        let (kernel, boot) = (RouteProtocol::Kernel, RouteProtocol::Boot);
        let came = |addr: [u8; 4], bits| {
            let prefix = Prefix::new(IpAddr::from(addr), bits).unwrap();
            Some(Change::Came(prefix, Holder::Route { index: 1, metric: 0 }))
        };
        for (addr, bits, table, kind, protocol, expected) in [
            ([192, 0, 2, 0], 24, RT_TABLE_LOCAL, local, boot, came([192, 0, 2, 0], 24)),
            ([192, 0, 2, 7], 32, RT_TABLE_LOCAL, local, boot, came([192, 0, 2, 7], 32)),
            ([10, 1, 0, 0], 16, RT_TABLE_LOCAL, local, kernel, came([10, 1, 0, 0], 16)),
            ([10, 1, 0, 1], 32, RT_TABLE_LOCAL, local, kernel, None),
            ([10, 1, 0, 1], 32, RT_TABLE_LOCAL, RouteType::Anycast, kernel, came([10, 1, 0, 1], 32)),
            ([0, 0, 0, 0], 0, RT_TABLE_LOCAL, local, boot, None),
            ([192, 0, 2, 0], 24, 100, local, boot, None),
            ([10, 1, 255, 255], 32, RT_TABLE_LOCAL, RouteType::Broadcast, kernel, None),
        ] {
            assert_eq!(
                change(&route(addr, bits, table, kind, protocol)),
                expected,
                "{addr:?}/{bits} {kind:?}"
            );
        }
    }

    /// The real kernel: loopback is everywhere.
    #[test]
    fn the_kernel_is_read() {
        let mut watcher = Watcher::open().unwrap();
        assert_ne!(watcher.read(|_| {}).unwrap(), Read::Overrun);
        let all = watcher.list().unwrap();
        let has = |prefix: Prefix| all.iter().any(|(known, _)| *known == prefix);
        assert!(has(Prefix::of(Ipv4Addr::LOCALHOST.into())), "{all:?}");
        assert!(has(Prefix::new(Ipv4Addr::LOCALHOST.into(), 8).unwrap()), "{all:?}");
    }
}
