//! Which connected socket had a tuple at a given time. A pure data structure: no clock, no IO.
//!
//! A tuple alone does not name a socket: it can be used again within a second, and the old entry of
//! the connection tracking table is destroyed only after the new socket sent its first packet. So
//! [`SocketTable::find`] joins by tuple and time, and says [`Found::Ambiguous`] rather than guess.

mod connecting;
mod ends;

pub use self::connecting::Connecting;
pub use self::ends::Ends;
use self::ends::{EndsOf, Key};
pub(crate) use self::ends::{is_loopback, mapped, v4};
use crate::attribution::clocks::Moment;
use crate::attribution::holders::{GroupId, HolderId, Holders};
use crate::attribution::lives::{Families, Life, LifeValue, Lives, Number};
use crate::attribution::slots::Packed;
use crate::record::{Holder, Method, TcpStats};

/// By how much the times of the two sources may disagree beside the error with which their clocks can be compared:
/// an event and a flow are not stamped at the same instruction. What fits only within this is ambiguous. Too large, and
/// quick reuse of a port is never told apart; too small, and a wrong process is named.
pub(crate) const CLOCK_SLACK_NS: u64 = 2_000;

/// By how much a socket may be older than a flow that began with it.
const BEGINS_WITHIN_NS: u64 = 10_000_000;

/// What is kept of a TCP socket of this host, beside its life.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// Who closed it, as the number of a holder, and the two bits below.
    closer: u32,
    /// All ones: not measured. As the two that follow, of no use before the socket has told them.
    srtt_us: u32,
    min_rtt_us: u32,
    retrans: u32,
    bytes_sent: Packed,
    bytes_received: Packed,
}

impl Socket {
    const PASSIVE: u32 = 1 << 31;
    const HAS_STATS: u32 = 1 << 30;
    const NOBODY: u32 = Self::HAS_STATS - 1;
    const NOT_MEASURED: u32 = u32::MAX;

    /// A socket that was accepted by a listener (`passive`), or connects.
    pub fn new(passive: bool) -> Self {
        let closer = Self::NOBODY | if passive { Self::PASSIVE } else { 0 };
        let (srtt_us, min_rtt_us, retrans) = (0, 0, 0);
        Self {
            closer,
            srtt_us,
            min_rtt_us,
            retrans,
            bytes_sent: Packed::new(0),
            bytes_received: Packed::new(0),
        }
    }

    /// Accepted by a listener.
    pub fn is_passive(&self) -> bool {
        self.closer & Self::PASSIVE != 0
    }

    /// Who closed its last descriptor, where it was accepted.
    pub fn closer(&self) -> Option<HolderId> {
        let number = self.closer & Self::NOBODY;
        (number != Self::NOBODY).then_some(HolderId(number))
    }

    fn set_closer(&mut self, closer: Option<HolderId>) {
        self.closer = self.closer & !Self::NOBODY | closer.map_or(Self::NOBODY, |closer| closer.0);
    }

    /// What it measured, from when it closed.
    pub fn stats(&self) -> Option<TcpStats> {
        let Self { closer, srtt_us, min_rtt_us, retrans, bytes_sent, bytes_received } = *self;
        let measured = |us: u32| (us != Self::NOT_MEASURED).then_some(us);
        (closer & Self::HAS_STATS != 0).then(|| TcpStats {
            srtt_us: measured(srtt_us),
            min_rtt_us: measured(min_rtt_us),
            retrans,
            bytes_sent: bytes_sent.get(),
            bytes_received: bytes_received.get(),
        })
    }

    fn set_stats(&mut self, stats: TcpStats) {
        let TcpStats { srtt_us, min_rtt_us, retrans, bytes_sent, bytes_received } = stats;
        *self = Self {
            closer: self.closer | Self::HAS_STATS,
            srtt_us: srtt_us.unwrap_or(Self::NOT_MEASURED),
            min_rtt_us: min_rtt_us.unwrap_or(Self::NOT_MEASURED),
            retrans,
            bytes_sent: Packed::new(bytes_sent),
            bytes_received: Packed::new(bytes_received),
        };
    }
}

impl LifeValue for Socket {
    fn other_holder(&self) -> Option<HolderId> {
        self.closer()
    }

    /// Who closed an accepted one may be told after it has closed.
    fn is_complete(&self) -> bool {
        self.closer & Self::HAS_STATS != 0 && (!self.is_passive() || self.closer().is_some())
    }
}

// What the documentation says that a connection takes, with at most 8 bytes of the two indexes.
const _: () = {
    assert!(Lives::<EndsOf<4>, Socket>::LIFE_BYTES == 92);
    assert!(Lives::<EndsOf<16>, Socket>::LIFE_BYTES == 116);
};

/// When a flow existed, by `CLOCK_MONOTONIC`, and which of its ends is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// When its first packet was seen, if the kernel said so.
    pub start: Option<Moment>,
    /// When it ended; at the latest the time of receipt.
    pub end_ns: u64,
    /// When its entry was destroyed; `end_ns` may be an estimate of its last packet.
    pub destroyed_ns: u64,
    /// Packets went both ways.
    pub is_answered: bool,
    /// The end is the one that sent the first packet: somebody had it when the flow began.
    pub is_initiator: bool,
}

impl Span {
    /// Whether a socket with this life was there for this flow alone: it opened about when the flow began, and had closed
    /// when the entry was destroyed. No other flow asks for it: the kernel has one entry for a tuple at a time.
    pub(crate) fn spends<T>(&self, life: &Life<T>) -> bool {
        let (Some(Moment { ns: start_ns, early_ns, late_ns }), Some(closed_ns)) =
            (self.start, life.closed_ns)
        else {
            return false;
        };
        let slack_ns = CLOCK_SLACK_NS.saturating_add(early_ns).saturating_add(late_ns);
        life.opened_ns.saturating_add(BEGINS_WITHIN_NS) >= start_ns
            && closed_ns.saturating_add(slack_ns) < self.destroyed_ns
    }
}

/// Result of [`SocketTable::find`].
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// No socket of this host.
    None,
    /// This one and no other, with its number.
    One(Life<Socket>, Number),
    /// Several could be it, of which this is one, and all are of one process.
    Process(Life<Socket>),
    /// Several could be it, of which this is one, and all are of one program, user and cgroup.
    Program(Life<Socket>),
    /// More than one could be it, or the times do not tell.
    Ambiguous,
}

/// All connected sockets that were seen, until some time after they closed.
#[derive(Debug, Default)]
pub struct SocketTable {
    lives: Families<EndsOf<4>, Socket, EndsOf<16>, Socket>,
}

impl SocketTable {
    /// The socket has its tuple. The holder is used by it from here on; its owner took the socket at `owned_ns`, 0 if that is
    /// not known.
    pub fn open(&mut self, ends: Ends, owned_ns: u64, life: Life<Socket>, holders: &mut Holders) {
        // A socket of IPv6 may connect over IPv4 first, and then not.
        match ends.key() {
            Key::V4(key) => {
                self.lives.v6.supersede(life.cookie, life.opened_ns, holders);
                open(&mut self.lives.v4, key, owned_ns, life, holders);
            }
            Key::V6(key) => {
                self.lives.v4.supersede(life.cookie, life.opened_ns, holders);
                open(&mut self.lives.v6, key, owned_ns, life, holders);
            }
        }
    }

    /// The life that the socket has now, or had last.
    pub fn get(&self, cookie: u64) -> Option<Life<Socket>> {
        self.lives.v4.get(cookie).or_else(|| self.lives.v6.get(cookie))
    }

    /// As [`Lives::look_ahead`].
    pub fn look_ahead(&self, ends: &Ends) -> u64 {
        match ends.key() {
            Key::V4(key) => self.lives.v4.look_ahead(&key),
            Key::V6(key) => self.lives.v6.look_ahead(&key),
        }
    }

    /// As [`Lives::replace`].
    pub fn replace(&mut self, life: Life<Socket>, holders: &mut Holders) {
        if !self.lives.v4.replace(life, holders) {
            self.lives.v6.replace(life, holders);
        }
    }

    /// Says who closed the socket. The holder is used by it from here on.
    pub fn set_closer(&mut self, life: Life<Socket>, closer: Option<HolderId>, holders: &mut Holders) {
        let mut value = life.value;
        if let Some(former) = value.closer() {
            holders.release(former);
        }
        value.set_closer(closer);
        self.replace(Life { value, ..life }, holders);
    }

    /// The life of the socket ends, where it has not yet.
    pub fn close(&mut self, cookie: u64, at_ns: u64, holders: &Holders) {
        self.lives.close(cookie, at_ns, holders);
    }

    /// The same, with what the socket measured: `stats` of one that was accepted, or connected.
    pub fn close_measured(
        &mut self,
        cookie: u64,
        at_ns: u64,
        holders: &Holders,
        stats: impl Fn(bool) -> TcpStats,
    ) {
        let tell = |socket: &mut Socket| socket.set_stats(stats(socket.is_passive()));
        if !self.lives.v4.close_with(cookie, at_ns, holders, tell) {
            self.lives.v6.close_with(cookie, at_ns, holders, tell);
        }
    }

    /// As [`Lives::lost_events`].
    pub fn lost_events(&mut self, since_ns: u64, holders: &Holders) {
        self.lives.lost_events(since_ns, holders);
    }

    /// As [`Lives::expire`], with one time for all.
    pub fn expire(&mut self, now_ns: u64, linger_ns: u64, holders: &mut Holders) {
        self.lives.v4.expire(now_ns, linger_ns, |_| linger_ns, holders);
        self.lives.v6.expire(now_ns, linger_ns, |_| linger_ns, holders);
    }

    /// Forgets a socket for which no flow will ask any more.
    pub fn forget(&mut self, number: Number, holders: &mut Holders) {
        self.lives.forget(number, holders);
    }

    /// As [`Lives::evict`], of the family of which the group has more.
    pub(crate) fn evict(&mut self, group: GroupId, overdue_ns: u64, holders: &mut Holders) -> bool {
        if self.lives.is_mostly_v4(group) {
            self.lives.v4.evict(group, overdue_ns, holders).is_some()
        } else {
            self.lives.v6.evict(group, overdue_ns, holders).is_some()
        }
    }

    /// How many sockets this group has.
    pub(crate) fn len_of(&self, group: GroupId) -> usize {
        self.lives.len_of(group)
    }

    /// How many sockets there are.
    pub fn len(&self) -> usize {
        self.lives.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lives.is_empty()
    }

    /// What all of them take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.lives.bytes()
    }

    /// How many were forgotten early, because there were too many.
    pub fn evicted(&self) -> u64 {
        self.lives.evicted()
    }

    /// The socket at one end of a flow: the one that had `ends` while the flow existed.
    ///
    /// `netns_cookie` is the network namespace of the connection tracking table. A socket there is
    /// preferred; one of another namespace counts where its packets can have come from there and it
    /// is the only one: a container behind the NAT of its host.
    pub fn find(&self, ends: &Ends, netns_cookie: Option<u64>, span: Span, holders: &Holders) -> Found {
        let wanted = Wanted {
            netns_cookie,
            span,
            is_loopback: is_loopback([ends.local_addr, ends.remote_addr]),
            holders,
        };
        match (ends.key(), ends.mirrored().key()) {
            (Key::V4(key), Key::V4(mirrored)) => wanted.find(&self.lives.v4, key, mirrored, Number::V4),
            (Key::V6(key), Key::V6(mirrored)) => wanted.find(&self.lives.v6, key, mirrored, Number::V6),
            _ => Found::None,
        }
    }
}

fn open<const BYTES: usize>(
    lives: &mut Lives<EndsOf<BYTES>, Socket>,
    key: EndsOf<BYTES>,
    owned_ns: u64,
    life: Life<Socket>,
    holders: &mut Holders,
) {
    // A socket that connects to itself opens twice, and is one.
    if lives.is_open_with(life.cookie, &key) {
        // Found in /proc before its event was read, which knows who had it first.
        let is_found_later = |known: &Life<Socket>| {
            holders.get(known.holder).is_seeded && owned_ns != 0 && owned_ns < known.opened_ns
        };
        if lives.get(life.cookie).is_some_and(|known| is_found_later(&known)) {
            lives.replace(life, holders);
        } else {
            holders.release(life.holder);
        }
        return;
    }
    let netns = |life: &Life<Socket>| holders.get(life.holder).owner.netns_cookie;
    let own = netns(&life);
    // The kernel gives a tuple to one socket at a time: the end of the one before was not seen.
    lives.close_with_key(&key, life.opened_ns, holders, |before| netns(before) == own);
    lives.open(key, life, holders);
}

/// One end of a flow.
#[derive(Clone, Copy)]
struct Wanted<'h> {
    netns_cookie: Option<u64>,
    span: Span,
    is_loopback: bool,
    holders: &'h Holders,
}

impl Wanted<'_> {
    fn netns(&self, life: &Life<Socket>) -> u64 {
        self.holders.get(life.holder).owner.netns_cookie
    }

    fn find<const BYTES: usize>(
        &self,
        table: &Lives<EndsOf<BYTES>, Socket>,
        key: EndsOf<BYTES>,
        mirrored: EndsOf<BYTES>,
        number: fn(u32) -> Number,
    ) -> Found {
        // Most flows of a router have no socket here.
        match table.count(&key) {
            None => return Found::Ambiguous,
            Some(0) => return Found::None,
            Some(_) => {}
        }
        let lives = || table.with_key(key);
        let own =
            self.find_in(number, || lives().filter(|(_, life)| Some(self.netns(life)) == self.netns_cookie));
        if !matches!(own, Found::None) || self.is_loopback {
            return own;
        }
        // Where both ends are in one other namespace their packets never left it.
        let is_inside = |cookie: u64| table.with_key(mirrored).any(|(_, life)| self.netns(&life) == cookie);
        let is_foreign = |cookie: &u64| Some(*cookie) != self.netns_cookie && !is_inside(*cookie);
        let mut namespaces = lives().map(|(_, life)| self.netns(&life)).filter(is_foreign);
        match namespaces.next() {
            None => Found::None,
            Some(first) if namespaces.any(|other| other != first) => Found::Ambiguous,
            Some(first) => self.find_in(number, || lives().filter(|(_, life)| self.netns(life) == first)),
        }
    }

    /// Looks among the sockets of one namespace, whose lives do not overlap.
    // Long, since each case of the times is a line, and the cases are told apart by all of them together.
    fn find_in<I: Iterator<Item = (u32, Life<Socket>)>>(
        &self,
        number: fn(u32) -> Number,
        lives: impl Fn() -> I,
    ) -> Found {
        let span = self.span;
        let Some(Moment { ns: start_ns, early_ns, late_ns }) = span.start else {
            // Nothing tells the flow from a later one with the same tuple, which may have no socket.
            return if lives().next().is_some() { Found::Ambiguous } else { Found::None };
        };
        let one = |(at, life): (u32, Life<Socket>)| Found::One(life, number(at));
        let slack = |time_ns: u64| time_ns.saturating_add(early_ns).saturating_add(CLOCK_SLACK_NS);
        let ended_ns = |life: &Life<Socket>| life.closed_ns.unwrap_or(u64::MAX);

        // Who sends the first packet opens before the flow starts. Lives follow one another, so of those
        // that opened before, only the last can have been alive.
        let opened_before = || lives().filter(|(_, life)| life.opened_ns <= start_ns);
        let before = opened_before().max_by_key(|(_, life)| life.opened_ns);
        // Unless the clocks are so slow that the flow may have started before it opened, when another had the tuple.
        let is_alone = opened_before().all(|(_, life)| {
            before.is_some_and(|(_, last)| last.opened_ns == life.opened_ns)
                || ended_ns(&life) < start_ns.saturating_sub(early_ns)
        });
        // An accepted socket opens after its flow started, unless connection tracking found that in the middle: then
        // there were answers. Without any, it is the one of the flow before, whose reset is not processed yet.
        let before = before.filter(|(_, life)| !life.value.is_passive() || span.is_answered);
        let before_fits = before.filter(|(_, life)| start_ns <= ended_ns(life));
        let before_may_fit = before.is_some_and(|(_, life)| start_ns <= slack(ended_ns(&life)));

        // Who answers has finished the handshake after the flow started. One that is older than the programs
        // opened before it was found: what was tracked then was its own. Who connects after the start
        // belongs to the successor of the flow.
        let latest_ns = |life: &Life<Socket>| match self.holders.get(life.holder) {
            Holder { is_seeded: true, .. } => Some(span.destroyed_ns),
            _ if life.value.is_passive() => Some(span.end_ns),
            _ => None,
        };
        let late = || {
            let late = lives().filter(|(_, life)| life.opened_ns > start_ns);
            late.filter_map(|(at, life)| Some(((at, life), latest_ns(&life)?)))
        };
        let mut after = late().filter(|((_, life), latest)| life.opened_ns <= *latest).map(|(life, _)| life);
        let (after, is_after_alone) = (after.next(), after.next().is_none());
        let after_may_fit = late().any(|((_, life), latest)| life.opened_ns <= slack(latest));
        let mut connecting = lives().filter(|(_, life)| {
            latest_ns(life).is_none()
                && life.opened_ns > start_ns
                && life.opened_ns <= start_ns.saturating_add(late_ns).saturating_add(CLOCK_SLACK_NS)
        });
        let (connecting, is_alone) = (connecting.next(), is_alone && connecting.next().is_none());

        let found = match (before_fits, after) {
            // Somebody sent the first packet. If only one socket can have done so, it has.
            (None, None) if span.is_initiator && !after_may_fit && is_alone => match (before, connecting) {
                (_, Some(life))
                    if !before_may_fit && life.1.opened_ns <= start_ns.saturating_add(late_ns) =>
                {
                    one(life)
                }
                (Some(life), None)
                    if !life.1.value.is_passive()
                        && start_ns <= ended_ns(&life.1).saturating_add(early_ns) =>
                {
                    one(life)
                }
                (_, None) if !before_may_fit => Found::None,
                _ => Found::Ambiguous,
            },
            _ if connecting.is_some() => Found::Ambiguous,
            (Some(life), None) if !after_may_fit && is_alone => one(life),
            (None, Some(life)) if is_after_alone => one(life),
            (None, None) if !before_may_fit && !after_may_fit => Found::None,
            _ => Found::Ambiguous,
        };
        if !matches!(found, Found::Ambiguous) {
            return found;
        }
        // Whichever it is: one is it for sure, or sent the first packet within the error of the clocks.
        let sent = |life: &Life<Socket>| {
            span.is_initiator
                && !life.value.is_passive()
                && life.opened_ns <= start_ns.saturating_add(late_ns)
                && start_ns <= ended_ns(life).saturating_add(early_ns)
        };
        let Some((_, certain)) = before_fits.or(after).or_else(|| lives().find(|(_, life)| sent(life)))
        else {
            return Found::Ambiguous;
        };
        let may_be = |life: &Life<Socket>| {
            let latest_ns = match latest_ns(life) {
                Some(latest_ns) if life.opened_ns > start_ns => slack(latest_ns),
                _ => start_ns.saturating_add(late_ns).saturating_add(CLOCK_SLACK_NS),
            };
            life.opened_ns <= latest_ns && start_ns <= slack(ended_ns(life))
        };
        let (how, known) = holder_of(&certain, self.holders);
        let others =
            || lives().filter(|(_, life)| may_be(life)).map(|(_, life)| holder_of(&life, self.holders));
        let [is_same, is_same_program] = [Holder::is_same, Holder::is_same_program].map(|is_same| {
            move |other: HolderId| known == other || is_same(self.holders.get(known), self.holders.get(other))
        });
        // Who owns a listener need not be who accepted; who closed is.
        let is_sure = |how: Method| matches!(how, Method::Socket | Method::Closer);
        if others().all(|(other_how, other)| other_how == how && is_same(other)) {
            Found::Process(certain)
        } else if others().all(|(how, other)| is_sure(how) && is_same_program(other)) {
            Found::Program(certain)
        } else {
            Found::Ambiguous
        }
    }
}

/// Whose connection it is, and how that is known. One that is older than the programs is of the process that was found when
/// it was seeded, and one that this end opened is of its owner. An accepted one is of the process that closed it,
/// otherwise of the owner of its listener.
pub(crate) fn holder_of(life: &Life<Socket>, holders: &Holders) -> (Method, HolderId) {
    let Life { holder, value: socket, .. } = life;
    match socket.closer() {
        _ if holders.get(*holder).is_seeded => (Method::Seed, *holder),
        _ if !socket.is_passive() => (Method::Socket, *holder),
        Some(closer) => (Method::Closer, closer),
        None => (Method::Inherited, *holder),
    }
}

#[cfg(test)]
mod tests;
