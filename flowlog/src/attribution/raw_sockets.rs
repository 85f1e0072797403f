//! Which raw socket sent the packets of a flow that no other socket has. A pure data structure: no clock, no IO.
//!
//! A process that makes packets by hand, as scanners do, has no socket with their tuples. The programs note
//! each tuple that a raw socket sends ([`raw_sent`](flowlog_common::raw_sent)), with the socket and the times,
//! and tell once who made the socket. So a flow is of a raw socket only where that sent its packets: that it
//! could have done so is not enough, since the kernel has sockets of its own, and other hosts' flows pass by.

use flowlog_common::raw_sent::{RawSent, RawTuple, SHARED, Sent};

use crate::attribution::addresses::Presence;
use crate::attribution::clocks::Moment;
use crate::attribution::holders::{GroupId, HolderId, Holders};
use crate::attribution::lives::{Life, Lives};
use crate::attribution::sockets::{CLOCK_SLACK_NS, Span, is_loopback, mapped};
use crate::flow::{L4, Protocol, Tuple};

/// How long it takes from the start of a flow, when the kernel takes it in, to the note of its first packet.
const NOTED_WITHIN_NS: u64 = 1_000_000;

/// How long a packet may be on its way to the connection tracking of another namespace, see `endpoints`.
const TRANSIT_NS: u64 = 4_000_000_000;

/// In how many namespaces raw sockets are looked for. Beyond that only the own one counts.
const MAX_NAMESPACES: usize = 64;

/// One end of a flow that no other socket has, and what is known of the namespace that tracked it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What it sends, as this end sees it.
    pub own: &'a Tuple,
    /// What the other end sends, as that sees it.
    pub other: &'a Tuple,
    /// Cookie of the network namespace that tracked the flow.
    pub netns_cookie: Option<u64>,
    /// Whether the address of this end belonged to that namespace.
    pub presence: Presence,
    /// When the flow existed, and which end this is.
    pub span: Span,
}

/// Result of [`RawSockets::find`].
#[derive(Clone, Copy, Debug)]
pub enum FoundRaw {
    /// No raw socket.
    None,
    /// The one with this cookie, which this process made and sent with.
    One {
        /// Who made it.
        holder: HolderId,
        /// `SO_COOKIE`
        cookie: u64,
        /// When it sent last.
        sent_ns: u64,
        /// Whether its packet began the flow for sure: nothing was sent with this tuple long before.
        began: bool,
        /// Whether it has sent by the time when the flow was tracked.
        sent_before: bool,
    },
    /// Several sockets or processes sent with this tuple, or the times do not tell.
    Ambiguous,
}

/// All raw sockets that send packets of their own making, until some time after they closed. Times are
/// `CLOCK_MONOTONIC`.
#[derive(Debug, Default)]
pub struct RawSockets {
    /// By cookie; all have the same key.
    sockets: Lives<(), ()>,
    /// Cookies of the namespaces of those.
    namespaces: Vec<u64>,
    sent: Option<Box<dyn Sent>>,
    /// There was one, so what is sent is of interest.
    is_told: bool,
    /// Since when it is known what raw sockets send.
    since_ns: u64,
}

impl RawSockets {
    /// From here on it is known which tuples were sent since `since_ns`.
    pub fn watch(&mut self, sent: Box<dyn Sent>, since_ns: u64) {
        (self.sent, self.since_ns) = (Some(sent), since_ns);
    }

    /// The socket sends packets of its own making. The holder is used by it from here on.
    pub fn open(&mut self, cookie: u64, opened_ns: u64, holder: HolderId, holders: &mut Holders) {
        self.is_told = true;
        // It is told again now and then.
        if self.sockets.is_open_with(cookie, &()) {
            holders.release(holder);
            return;
        }
        note_namespace(&mut self.namespaces, holders.get(holder).owner.netns_cookie);
        let life = Life { opened_ns, closed_ns: None, cookie, holder, value: () };
        self.sockets.open((), life, holders);
    }

    /// The last descriptor of the socket was closed.
    pub fn close(&mut self, cookie: u64, at_ns: u64, holders: &Holders) {
        self.sockets.close(cookie, at_ns, holders);
    }

    /// Events were lost since `since_ns`: which sockets are still open is not known, and those that are will be
    /// told again.
    pub fn lost_events(&mut self, since_ns: u64, holders: &Holders) {
        self.sockets.lost_events(since_ns, holders);
    }

    /// Forgets what ended longer than `linger_ns` before `now_ns`.
    pub fn expire(&mut self, now_ns: u64, linger_ns: u64, holders: &mut Holders) {
        if self.sockets.expire(now_ns, linger_ns, |()| linger_ns, holders) > 0 {
            self.namespaces.clear();
            for life in self.sockets.all() {
                note_namespace(&mut self.namespaces, holders.get(life.holder).owner.netns_cookie);
            }
        }
    }

    /// As [`Lives::evict`].
    pub(crate) fn evict(&mut self, group: GroupId, holders: &mut Holders) -> bool {
        self.sockets.evict(group, 0, holders).is_some()
    }

    /// How many sockets this group has.
    pub(crate) fn len_of(&self, group: GroupId) -> usize {
        self.sockets.len_of(group)
    }

    /// What all of them take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.sockets.bytes()
    }

    /// Whether there are none, as on most hosts.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// How many were forgotten early, or not remembered, because there were too many.
    pub fn evicted(&self) -> u64 {
        self.sockets.evicted()
    }

    /// How many tuples of packets were forgotten early, because there were too many; about right.
    pub fn forgotten(&self) -> u64 {
        self.sent.as_ref().filter(|_| self.is_told).map_or(0, |sent| sent.forgotten())
    }

    /// The raw socket at one end of a flow: the one that sent what this end sends while the flow existed.
    ///
    /// One in the namespace that tracked the flow is preferred. One of another namespace counts where its packets
    /// can have come from there, and no other namespace has such a socket.
    ///
    /// An initiator with an address of another host counts only where its packet began the flow, and a responder
    /// with such an address never: some programs send packets into connections of others, to end or change them.
    pub fn find(&self, wanted: &Wanted<'_>, holders: &Holders) -> FoundRaw {
        let (Some(sent), Some(own_netns)) = (self.sent.as_deref(), wanted.netns_cookie) else {
            return FoundRaw::None;
        };
        // After NAT, as it was sent: what the other end answers to.
        let Some(on_the_way) = on_the_way(wanted, own_netns) else { return FoundRaw::None };
        // Of too many namespaces not all are remembered.
        if (self.namespaces.contains(&own_netns) || self.namespaces.len() > MAX_NAMESPACES)
            && let Some(sent) = sent.find(&on_the_way)
        {
            let found = self.judge(sent, wanted, 0, holders);
            let is_of_other_host = wanted.presence != Presence::Yes;
            match found {
                FoundRaw::None => {}
                FoundRaw::One { began: true, .. } if wanted.span.is_initiator => return found,
                // Somebody else began the flow, into which this one sends.
                FoundRaw::One { sent_before: false, .. } if wanted.span.is_initiator => {
                    return FoundRaw::None;
                }
                _ if is_of_other_host => return FoundRaw::None,
                _ => return found,
            }
        }
        // Before NAT here: as it came from there.
        let addrs = [mapped(wanted.own.src), mapped(wanted.own.dst)];
        if is_loopback(addrs) || wanted.presence != Presence::No || self.namespaces.len() > MAX_NAMESPACES {
            return FoundRaw::None;
        }
        let [src, dst] = addrs.map(words);
        let ports = keys(wanted.own, wanted.own);
        let foreign = self.namespaces.iter().filter(|netns| **netns != own_netns);
        let mut found = FoundRaw::None;
        for netns_cookie in foreign.copied() {
            let tuple = RawTuple { netns_cookie, src, dst, ports, ..on_the_way };
            let here = sent
                .find(&tuple)
                .map_or(FoundRaw::None, |sent| self.judge(sent, wanted, TRANSIT_NS, holders));
            // Who begins a flow has sent before it is tracked here.
            let is_late =
                matches!(here, FoundRaw::One { sent_before: false, .. }) && wanted.span.is_initiator;
            let here = if is_late { FoundRaw::None } else { here };
            found = match (found, here) {
                (found, FoundRaw::None) => found,
                (FoundRaw::None, here) => here,
                _ => return FoundRaw::Ambiguous,
            };
        }
        found
    }

    /// Whether what was sent with the tuple of an end is of this flow.
    fn judge(&self, sent: RawSent, wanted: &Wanted<'_>, transit_ns: u64, holders: &Holders) -> FoundRaw {
        let RawSent { seal: _, socket_cookie, first_ns, last_ns, others_ns } = sent;
        let Span { start, destroyed_ns, .. } = wanted.span;
        let Some(Moment { ns: start_ns, early_ns, late_ns }) = start else {
            // Nothing tells the flow from a later one with the same tuple.
            return if first_ns <= destroyed_ns { FoundRaw::Ambiguous } else { FoundRaw::None };
        };
        // Somebody sent its packets: if only one socket can have done so within the error of the clocks, it has.
        let from_ns = start_ns.saturating_sub(early_ns).saturating_sub(transit_ns);
        let slack = |time_ns: u64| time_ns.saturating_add(CLOCK_SLACK_NS);
        // What was sent before the programs ran is not known.
        if start_ns < self.since_ns || slack(last_ns) < from_ns || first_ns > slack(destroyed_ns) {
            return FoundRaw::None;
        }
        // What was sent before it and after it tells nothing of what was sent meanwhile.
        let is_certain =
            [first_ns, last_ns].into_iter().any(|sent_ns| (from_ns..=destroyed_ns).contains(&sent_ns));
        let is_of_others = others_ns != 0 && slack(others_ns) >= from_ns;
        if !is_certain || is_of_others || socket_cookie == SHARED {
            return FoundRaw::Ambiguous;
        }
        let sent_before = first_ns <= start_ns.saturating_add(late_ns + NOTED_WITHIN_NS);
        match self.sockets.get(socket_cookie) {
            Some(Life { holder, .. }) if holders.get(holder).owner.time_ns != 0 => FoundRaw::One {
                holder,
                cookie: socket_cookie,
                sent_ns: last_ns,
                began: first_ns >= from_ns && sent_before,
                sent_before,
            },
            // It was sent by hand, but nobody told by whom.
            _ => FoundRaw::Ambiguous,
        }
    }
}

/// Of too many not all are remembered.
fn note_namespace(namespaces: &mut Vec<u64>, netns_cookie: u64) {
    if namespaces.len() <= MAX_NAMESPACES && !namespaces.contains(&netns_cookie) {
        namespaces.push(netns_cookie);
    }
}

/// What this end sends as the egress hook sees it, after all NAT of this namespace: what the other end answers.
/// `None` where no raw socket is looked for.
fn on_the_way(wanted: &Wanted<'_>, netns_cookie: u64) -> Option<RawTuple> {
    let Wanted { own, other, span, .. } = *wanted;
    // The kernel answers requests of ICMP.
    if !span.is_initiator && matches!(own.l4, L4::Icmp { .. }) {
        return None;
    }
    Some(RawTuple {
        netns_cookie,
        src: words(mapped(other.dst)),
        dst: words(mapped(other.src)),
        protocol: own.proto.0,
        ports: keys(own, &mirrored(other)),
    })
}

fn mirrored(tuple: &Tuple) -> Tuple {
    let l4 = match tuple.l4 {
        L4::Ports { src, dst } => L4::Ports { src: dst, dst: src },
        other => other,
    };
    Tuple { src: tuple.dst, dst: tuple.src, l4, ..*tuple }
}

/// As in [`RawTuple::ports`]: of `tuple`, but the type of ICMP, which is that of `own`.
fn keys(own: &Tuple, tuple: &Tuple) -> u32 {
    match (own.l4, tuple.l4) {
        // Call ids, which are not in each packet.
        _ if own.proto == Protocol::GRE => 0,
        (_, L4::Ports { src, dst }) => u32::from(src) << 16 | u32::from(dst),
        (L4::Icmp { icmp_type, code, .. }, L4::Icmp { id, .. }) => {
            u32::from(id) << 16 | u32::from(icmp_type) << 8 | u32::from(code)
        }
        _ => 0,
    }
}

/// An address as the programs have it.
fn words(addr: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests;
