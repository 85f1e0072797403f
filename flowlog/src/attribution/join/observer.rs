//! Who tracked a flow.

use std::net::IpAddr;

use crate::attribution::addresses::{Addresses, Presence};
use crate::attribution::clocks::{Clocks, Moment};
use crate::attribution::sockets::Span;
use crate::connections::timeouts::Timeouts;

/// Who tracked a flow, and what is known there.
#[derive(Clone, Copy, Debug)]
pub struct Observer<'a> {
    /// Inode of the network namespace.
    pub netns: u64,
    /// Its cookie, as sockets have it; `None` where it could not be learned.
    pub netns_cookie: Option<u64>,
    /// Its addresses, with those that it had.
    pub addresses: &'a Addresses,
    /// Its timeouts.
    pub timeouts: &'a Timeouts,
    /// No other namespace is watched that may have tracked the same packets.
    pub is_only: bool,
    /// How the times of flows become those of sockets.
    pub clocks: &'a Clocks,
}

impl Observer<'_> {
    /// Whether an end of a flow with this start, by `CLOCK_REALTIME`, was an address of the namespace.
    pub(super) fn was_local(&self, addr: IpAddr, start_ns: Option<u64>, span: Span) -> bool {
        let starts = start_ns.into_iter().flat_map(|start_ns| self.clocks.moments(start_ns));
        let presence = starts.map(|start| self.addresses.presence(addr, start)).max();
        presence.unwrap_or_else(|| self.presence(addr, span)) != Presence::No
    }

    /// Whether an address was one of the namespace when the flow began, since it may go before it ends; if the start is
    /// not known, at the last packet.
    pub(super) fn presence(&self, addr: IpAddr, span: Span) -> Presence {
        self.addresses.presence(addr, span.start.unwrap_or(Moment::exact(span.end_ns)))
    }
}
