//! Sockets that were forgotten early: what else has their port need not be alone.

use hashbrown::HashMap;

use super::{Details, Port, TRANSIT_NS};
use crate::attribution::lives::Life;
use crate::attribution::recent::Recent;
use crate::attribution::sockets::Span;

/// How many cookies are remembered. A packet that waits may leave after its socket is closed.
const MAX_COOKIES: usize = 1 << 16;

/// How many ports are told apart: those of UDP and of another protocol. They take 6 MiB.
const MAX_PORTS: usize = 1 << 17;

/// The sockets with one port that were forgotten early.
#[derive(Clone, Copy, Debug)]
struct OfPort {
    /// When the first of them opened, and the last closed.
    opened_ns: u64,
    closed_ns: u64,
    /// With whom all of them were connected.
    peer: Option<([u8; 16], u16)>,
}

/// What was forgotten early.
#[derive(Debug)]
pub(super) struct Forgotten {
    by_port: HashMap<Port, OfPort, foldhash::fast::RandomState>,
    /// Of all ports beyond those.
    others: Option<OfPort>,
    /// Their cookies.
    cookies: Recent<u64, ()>,
}

impl Default for Forgotten {
    fn default() -> Self {
        Self { by_port: HashMap::default(), others: None, cookies: Recent::new(MAX_COOKIES) }
    }
}

impl Forgotten {
    /// A socket is forgotten early.
    pub(super) fn add(&mut self, port: Port, life: &Life<Details>) {
        let Life { opened_ns, closed_ns, cookie, value, .. } = life;
        let (closed_ns, peer) = (closed_ns.unwrap_or(u64::MAX), value.peer());
        let first = OfPort { opened_ns: *opened_ns, closed_ns, peer };
        let is_full = self.by_port.len() >= MAX_PORTS && !self.by_port.contains_key(&port);
        let known = if is_full {
            self.others.get_or_insert(first)
        } else {
            self.by_port.entry(port).or_insert(first)
        };
        known.opened_ns = known.opened_ns.min(*opened_ns);
        known.closed_ns = known.closed_ns.max(closed_ns);
        known.peer = known.peer.filter(|known| Some(*known) == peer);
        self.cookies.insert(*cookie, ());
    }

    /// Whether this socket was forgotten, not long ago.
    pub(super) fn has(&self, cookie: u64) -> bool {
        self.cookies.get(&cookie).is_some()
    }

    /// Whether one that was forgotten may be the end of a flow with this peer.
    pub(super) fn may_be(&self, port: Port, peer: ([u8; 16], u16), span: &Span, transit_ns: u64) -> bool {
        let Some(known) = self.by_port.get(&port).or(self.others.as_ref()) else { return false };
        let OfPort { opened_ns, closed_ns, peer: of_all } = known;
        let start_ns = span.start.map_or(0, |start| start.ns.saturating_sub(start.early_ns));
        of_all.is_none_or(|of_all| of_all == peer)
            && *opened_ns <= span.end_ns
            && closed_ns.saturating_add(transit_ns) >= start_ns
    }

    /// Forgets them altogether, when no flow asks for them any more.
    pub(super) fn expire(&mut self, before_ns: u64) {
        let is_of_use = |known: &OfPort| known.closed_ns.saturating_add(TRANSIT_NS) >= before_ns;
        self.by_port.retain(|_, known| is_of_use(known));
        self.others = self.others.filter(is_of_use);
    }
}
