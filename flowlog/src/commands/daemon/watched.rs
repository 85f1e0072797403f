//! A network namespace that is watched: its listener, and what has to be known of it.

use std::collections::HashSet;
use std::fs;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flowlog_reader::gaps::{Cause, Gap, Pending, Stage};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::time::ClockId;
use tracing::{debug, warn};

use super::addresses::LocalAddresses;
use super::clock::{now_ns, now_us};
use super::in_flight::Subscription;
use super::local::Local;
use super::needed::{Counts, Needed};
use super::observed::Observed;
use super::pace::Room;
use super::said::Doubling;
use super::waiting::Sockets;
use crate::attribution::clocks::Clocks;
use crate::attribution::join::{Linger, Observer};
use crate::attribution::seed;
use crate::causes::one_line;
use crate::commands::doctor::{Settings, read_settings};
use crate::connections::ctnetlink::{self, Buffers, Delivery, Listener, Requests};
use crate::connections::dumps::{Dumps, Follow};
use crate::connections::duplicates::Seen;
use crate::connections::filter::FlowFilter;
use crate::connections::timeouts::Timeouts;
use crate::host::namespace::Namespace;
use crate::host::needs::Need;
use crate::time::to_us;

/// How often timeouts and the sizes of tables are read, and addresses listed, of which each change is told in between.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// How large the table may become. /proc shows the value of the namespace of the thread that opens it.
const TABLE_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Bounds of what is remembered to recognise duplicates, whatever the size of the table: a small table is
/// filled many times in a second, a huge one would take all memory.
const SEEN_MIN: usize = 1 << 16;
const SEEN_MAX: usize = 1 << 20;

/// Below this part of its limit the table has room again.
const ROOM_AGAIN_PERCENT: u64 = 90;

/// Why the table is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dump {
    /// Entries that are followed may have ended.
    Due,
    /// To find what ends without an event, for whatever reason.
    Audit,
    /// The namespace ends: nobody will tell of what is in the table.
    Deleted,
    /// The run ends.
    Last,
}

/// How a namespace is watched.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) delivery: Delivery,
    pub(super) receive_buffer_bytes: usize,
    pub(super) active_interval: Option<Duration>,
    pub(super) filter: FlowFilter,
    /// Whether what others take away is set right.
    pub(super) keep: bool,
    /// No other namespace is watched.
    pub(super) is_only: bool,
}

/// A socket that an earlier process subscribed with, and what it knew of that.
pub(super) struct Taken {
    pub(super) socket: OwnedFd,
    pub(super) subscription: Subscription,
}

/// One network namespace.
pub(super) struct Watched {
    pub(super) namespace: Namespace,
    pub(super) place: Place,
    pub(super) listener: Listener,
    /// How much of it may come between two reads.
    pub(super) room: Room,
    /// Messages that came since the last nap.
    pub(super) came: u32,
    pub(super) requests: Requests,
    pub(super) observed: Observed,
    /// Entries of the table that the kernel allows.
    pub(super) table_max: u32,
    /// Entries of the table, as of the last time they were counted.
    pub(super) entries: u32,
    /// What it has of what flowlog needs.
    pub(super) needed: Needed,
    /// Entries were made that end without an event, and are not listed yet.
    pub(super) has_silent: bool,
    /// How often the whole table was listed.
    pub(super) lists: u64,
    /// How many entries were asked for in place of a list.
    pub(super) asked: u64,
    has_said_left_out: bool,
    said_zeroed: Doubling,
    /// The kernel holds too many entries: flows are counted and dropped.
    pub(super) is_shedding: bool,
    /// When nothing was left to be read the last time.
    pub(super) read_until_us: i64,
    /// Its socket is the one of an earlier process.
    pub(super) is_taken: bool,
    /// What a later process will know of it.
    pub(super) kept: Subscription,
    /// Connections that may have ended without an event since an earlier process looked: a dump, and what is read, will tell.
    pub(super) unsure: Vec<u64>,
    /// The dump after which its silent connections were noted.
    pub(super) noted_dump: u32,
    /// When something came the last time.
    pub(super) received: Instant,
    /// When it subscribed, by the clock that does not jump and by the other one.
    since_monotonic_ns: u64,
    since_ns: u64,
    /// The socket had no room since it was quiet: the kernel may hold messages.
    pub(super) is_held: bool,
    /// Messages were dropped that are not declared yet.
    pub(super) has_dropped: bool,
    /// Messages that were dropped and declared.
    dropped: u64,
    /// It came, and nobody has looked what it lacks yet.
    pub(super) is_new: bool,
    /// Where it is named no more.
    pub(super) leaving: Option<Leaving>,
}

/// A network namespace that is named no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// Since when.
    pub(super) since: Instant,
    /// How many connections were open at its end; `None` before their rows are made.
    pub(super) open_flows: Option<u64>,
}

/// What the join has to know of a network namespace.
pub(super) struct Place {
    /// Its inode.
    netns: u64,
    /// Its cookie, as sockets have it.
    pub(super) netns_cookie: Option<u64>,
    is_only: bool,
    addresses: LocalAddresses,
    timeouts: Timeouts,
}

impl Place {
    /// How long sockets are remembered whose flows are tracked here.
    pub(super) fn linger(&self) -> Linger {
        Linger::of(&self.timeouts)
    }

    pub(super) fn observer<'a>(&'a self, clocks: &'a Clocks) -> Observer<'a> {
        Observer {
            netns: self.netns,
            netns_cookie: self.netns_cookie,
            is_only: self.is_only,
            addresses: self.addresses.known(),
            timeouts: &self.timeouts,
            clocks,
        }
    }
}

impl Watched {
    /// Subscribes in the namespace, or goes on with the socket of an earlier process, and adds the socket to those that are
    /// waited for.
    pub(super) fn open(
        namespace: Namespace,
        taken: Option<Taken>,
        watch: &Watch,
        local: &Local,
        sockets: &Sockets,
    ) -> Result<(Self, Settings)> {
        let Watch { delivery, receive_buffer_bytes, active_interval, ref filter, keep, is_only } = *watch;
        let name = namespace.label();
        let (opened, probe, settings) = namespace.run(|| {
            let opened = Requests::open().and_then(|mut requests| {
                // Subscribing succeeds also where nothing will ever come.
                requests.count()?;
                let taken = taken.and_then(|Taken { socket, subscription }| {
                    match Listener::adopt(socket, receive_buffer_bytes, delivery, filter) {
                        Ok(listener) => Some((listener, Some(subscription))),
                        Err(error) => {
                            warn!(
                                "the service manager kept a socket of the network namespace `{name}` that is of no use: {}",
                                one_line(&error)
                            );
                            None
                        }
                    }
                });
                let (listener, subscription) = match taken {
                    Some(taken) => taken,
                    None => (Listener::open(receive_buffer_bytes, delivery, filter)?, None),
                };
                let earlier = subscription.map(|subscription: Subscription| Counts {
                    sums: subscription.counted,
                    read_us: subscription.counted_us,
                });
                Ok((requests, listener, subscription, Needed::open(name, keep, earlier)?))
            });
            // After the start a socket of IP is refused.
            (opened, UdpSocket::bind("0.0.0.0:0").map_err(|_| seed::netns_cookie()), read_settings())
        })?;
        let (requests, listener, subscription, needed) = opened?;
        let Sockets { readable, changes } = sockets;
        readable
            .add(listener.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, namespace.inode()))
            .context("cannot watch the netlink socket")?;
        let netns_cookie = local.ebpf.as_ref().and_then(|ebpf| match probe {
            Ok(probe) => ebpf.netns_cookie(&probe),
            Err(cookie) => cookie,
        });
        let active_interval_ns =
            active_interval.map(|interval| u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX));
        let dumps = Dumps::new(active_interval_ns);
        let place = Place {
            netns: namespace.inode(),
            netns_cookie,
            is_only,
            addresses: LocalAddresses::default(),
            timeouts: Timeouts::default(),
        };
        let is_taken = subscription.is_some();
        let subscription = subscription.unwrap_or_else(|| Subscription {
            netns: namespace.inode(),
            since_monotonic_ns: now_ns(ClockId::CLOCK_MONOTONIC),
            since_ns: now_ns(ClockId::CLOCK_REALTIME),
            ..Subscription::default()
        });
        let Subscription { since_monotonic_ns, since_ns, dropped, .. } = subscription;
        let mut watched = Self {
            namespace,
            place,
            room: Room::of_receive_buffer(listener.receive_buffer_bytes()?),
            came: 0,
            listener,
            requests,
            observed: Observed::new(filter.clone(), Seen::new(now_ns(ClockId::CLOCK_MONOTONIC)), dumps),
            table_max: 0,
            entries: 0,
            needed,
            has_silent: false,
            lists: 0,
            asked: 0,
            has_said_left_out: false,
            said_zeroed: Doubling::default(),
            is_shedding: false,
            read_until_us: now_us(),
            is_taken,
            kept: subscription,
            unsure: Vec::new(),
            noted_dump: 0,
            received: Instant::now(),
            since_monotonic_ns,
            since_ns,
            is_held: false,
            // What was dropped meanwhile is declared with the next events that are.
            has_dropped: is_taken && subscription.is_reliable == 0,
            dropped,
            is_new: false,
            leaving: None,
        };
        if is_taken && subscription.is_reliable != 0 && delivery == Delivery::BestEffort {
            // What had no room until now is sent again.
            let dropped = watched.namespace.run(|| watched.listener.dropped());
            watched.dropped = dropped.ok().and_then(Result::ok).unwrap_or(watched.dropped);
        }
        // The kernel may hold what the earlier process had no room for.
        watched.is_held = is_taken && delivery == Delivery::Reliable && watched.has_undelivered();
        if local.ebpf.is_some() && netns_cookie.is_none() {
            warn!(
                "the eBPF programs do not see sockets of the network namespace `{}`: its flows may have no process",
                watched.name()
            );
        }
        watched.observed.netns_name = watched.namespace.name().map(Arc::from);
        watched.place.addresses = LocalAddresses::open(&watched.namespace, changes);
        watched.refresh();
        if !is_taken {
            watched.read_losses(&mut Pending::default());
        }
        Ok((watched, settings))
    }

    /// What a later process has to know of it.
    pub(super) fn subscription(&self) -> Subscription {
        let Self { since_monotonic_ns, since_ns, dropped, .. } = *self;
        let Counts { sums: counted, read_us: counted_us } = self.needed.counts();
        let netns = self.namespace.inode();
        let is_reliable = u32::from(self.listener.delivery() == Delivery::Reliable);
        Subscription { netns, since_monotonic_ns, since_ns, dropped, counted, is_reliable, counted_us }
    }

    /// How many connections ended without an event while an earlier process had ended and this one had not begun; `None` as long
    /// as that is not known. They have no rows.
    pub(super) fn ended_unseen(&mut self) -> Option<u64> {
        let Self { observed: Observed { dumps, seen, .. }, unsure, .. } = self;
        // What has sent an event is known when all that was sent before the dump is read.
        let has_read_dumped = to_us(dumps.began_ns()) < self.read_until_us;
        if unsure.is_empty() || dumps.dumps() == 0 || self.is_held || !has_read_dumped {
            return None;
        }
        let open: HashSet<u64> = dumps.open().collect();
        let unsure = std::mem::take(unsure);
        let is_missing = |identity: &&u64| !open.contains(*identity) && !seen.has(**identity);
        u64::try_from(unsure.iter().filter(is_missing).count()).ok()
    }

    /// Its name for messages.
    pub(super) fn name(&self) -> &str {
        self.namespace.label()
    }

    /// How many flows have to be remembered to recognise duplicates.
    pub(super) fn seen_max(&self) -> usize {
        usize::try_from(self.table_max).unwrap_or(SEEN_MAX).clamp(SEEN_MIN, SEEN_MAX)
    }

    /// Reads addresses, timeouts and the size of the table again. Where that fails the old ones are kept.
    pub(super) fn refresh(&mut self) {
        self.observed.seen.expire(now_ns(ClockId::CLOCK_MONOTONIC));
        match self.namespace.run(|| (Timeouts::read(), table_max())) {
            Ok((timeouts, table_max)) => {
                self.place.timeouts = timeouts;
                self.table_max = table_max.unwrap_or(self.table_max);
            }
            Err(error) => warn!("{}", one_line(&error)),
        }
        self.place.addresses.refresh(&self.namespace);
        self.count();
    }

    /// Nothing has changed of its addresses until this time of `CLOCK_MONOTONIC`.
    pub(super) fn has_no_new_addresses(&mut self, at_ns: u64) {
        self.place.addresses.are_complete(at_ns);
    }

    /// Takes in what changed of its addresses.
    pub(super) fn read_addresses(&mut self) {
        self.place.addresses.read(self.namespace.name());
    }

    /// Looks at what it has of what flowlog needs.
    pub(super) fn look(&mut self, buffers: &mut Buffers, gaps: &mut Pending) {
        let Self { needed, namespace, requests, entries, table_max, has_silent, .. } = self;
        *has_silent |= needed.look(namespace, requests, buffers, gaps);
        needed.look_at_room(*entries, *table_max, namespace, gaps);
    }

    /// The first look at one that nobody has checked before. What is set right at once (`keep`) has cost nothing that was
    /// promised.
    pub(super) fn look_first(&mut self, keep: bool, buffers: &mut Buffers, gaps: &mut Pending) {
        if keep {
            // The first one sets it right, the next one sees that.
            self.look(buffers, &mut Pending::default());
            self.look(buffers, &mut Pending::default());
        }
        self.look(buffers, gaps);
        self.is_new = false;
    }

    /// Reads what the kernel has lost, and declares it.
    pub(super) fn read_losses(&mut self, gaps: &mut Pending) {
        let Self { needed, namespace, requests, table_max, .. } = self;
        needed.read_losses(requests, *table_max, namespace, gaps);
    }

    /// Counts the entries of the table. Says whether that could be done.
    fn count(&mut self) -> bool {
        match self.requests.count() {
            Ok(entries) => self.entries = entries,
            Err(error) => {
                warn!(
                    "cannot count the entries of the connection tracking table of the network namespace `{}`, so flowlog \
                     may not notice that it fills up: {}",
                    self.name(),
                    one_line(&error)
                );
                return false;
            }
        }
        true
    }

    /// When it subscribed, by the wall clock as it is at `now_ns`. What ended before was either taken by an
    /// earlier run, or lies in the time in which nobody watched; the kernel sends it again where another
    /// listener had no room for it.
    pub(super) fn since_ns(&self, now_ns: u64) -> u64 {
        let elapsed_ns =
            super::clock::now_ns(ClockId::CLOCK_MONOTONIC).saturating_sub(self.since_monotonic_ns);
        // The clock may have been set back or forth since.
        self.since_ns.min(now_ns.saturating_sub(elapsed_ns))
    }

    /// Finds out which entries are there, where that can tell something: lists the table, or asks for the few entries that
    /// it is about. The ring buffer is read meanwhile. What the last dump tells is for the caller to say:
    /// [`Dumps::end_last`]. It is always made: on this occasion the kernel removes what has expired, and tells of it,
    /// which it does by itself only minutes later.
    pub(super) fn dump(&mut self, local: &mut Local, why: Dump) -> Result<()> {
        let follow = match why {
            _ if self.has_silent => Follow::Silent,
            // A mark may be another at the end, which the kernel tells of those only that are recorded.
            Dump::Audit if !self.observed.filter.has_marks() => Follow::All,
            Dump::Audit => Follow::Known,
            Dump::Deleted => Follow::All,
            Dump::Due | Dump::Last => Follow::Known,
        };
        let is_last = matches!(why, Dump::Last | Dump::Deleted);
        // What the kernel could not deliver yet is in no list any more.
        if self.is_held && !is_last {
            return Ok(());
        }
        let dumps = &self.observed.dumps;
        if !(is_last || follow != Follow::Known || dumps.is_needed()) || dumps.has_records() {
            return Ok(());
        }
        // The last one removes what has expired. Without a number of entries there is nothing to compare with.
        let may_ask = why == Dump::Due && follow == Follow::Known && self.count();
        let entries = usize::try_from(self.entries).unwrap_or(usize::MAX);
        let asks = may_ask && self.observed.dumps.can_ask(entries);
        let mut drained = Instant::now();
        let mut result = Ok(());
        let mut meanwhile = || {
            if result.is_ok() {
                result = local.drain_now_and_then(&mut drained);
            }
        };
        let dumped = if asks { self.ask(&mut meanwhile) } else { self.list(follow, &mut meanwhile) };
        match dumped {
            Ok(()) => {
                if !is_last {
                    self.observed.dumps.end(now_ns(ClockId::CLOCK_REALTIME));
                }
                let did = if asks { "asked for entries of" } else { "listed" };
                debug!("{did} the table of `{}`: {why:?}, {follow:?}", self.name());
                self.say_zeroed();
                self.say_left_out();
            }
            Err(error) => {
                self.observed.dumps.cancel();
                self.has_silent |= follow == Follow::Silent;
                warn!(
                    "connections of the network namespace `{}` that end without an event are recorded late, or not \
                     at all: {}",
                    self.name(),
                    one_line(&error)
                );
            }
        }
        result
    }

    /// Lists the table, and does something else `meanwhile`.
    fn list(&mut self, follow: Follow, meanwhile: &mut impl FnMut()) -> Result<(), ctnetlink::Error> {
        // Where events are still off, more of them are made.
        self.has_silent = !self.needed.is_met(Need::Events);
        self.lists += 1;
        let Self { requests, observed: Observed { dumps, filter, .. }, .. } = self;
        // Before the kernel looks: what it lists may end while it is read here, and the row of the end is later.
        let at_ns = now_ns(ClockId::CLOCK_REALTIME);
        dumps.begin(at_ns, follow);
        requests.dump(|decoded| {
            match decoded {
                Ok(decoded) => {
                    let is_recorded = filter.records(&decoded.flow);
                    dumps.saw(decoded.flow, is_recorded, at_ns);
                }
                Err(error) => warn!(
                    "cannot decode an entry of the connection tracking table, so it is not recorded if it ends \
                     without an event: {error}"
                ),
            }
            meanwhile();
        })
    }

    /// Asks for the entries that [`Dumps`] waits for, by their tuples, and does something else `meanwhile`.
    fn ask(&mut self, meanwhile: &mut impl FnMut()) -> Result<(), ctnetlink::Error> {
        let Self { requests, observed: Observed { dumps, filter, .. }, asked, .. } = self;
        for (orig, zone) in dumps.begin_asking(now_ns(ClockId::CLOCK_REALTIME)) {
            let at_ns = now_ns(ClockId::CLOCK_REALTIME);
            *asked += 1;
            // Another entry may have the tuple by now: `Dumps` tells them apart.
            if let Some(flow) = requests.get(&orig, zone)? {
                let is_recorded = filter.records(&flow);
                dumps.saw(flow, is_recorded, at_ns);
            }
            meanwhile();
        }
        Ok(())
    }

    /// Says that counters were set back.
    fn say_zeroed(&mut self) {
        let zeroed = self.observed.dumps.zeroed();
        if self.said_zeroed.is_due(zeroed) {
            warn!(
                "somebody reset the counters of {zeroed} connections of the network namespace `{}`, as `conntrack -L -z` \
                 does: rows of those that flowlog had listed before have `counters_final = false`",
                self.name()
            );
        }
    }

    /// Says once that there are more entries than can be followed.
    fn say_left_out(&mut self) {
        if self.observed.dumps.left_out() > 0 && !self.has_said_left_out {
            self.has_said_left_out = true;
            warn!(
                "the connection tracking table of the network namespace `{}` has more entries than flowlog follows: if one \
                 of the others ends without an event, it is not recorded",
                self.name()
            );
        }
    }

    /// Whether the kernel holds more entries for us than it should, while they cannot be taken.
    pub(super) fn check_hold(&mut self, table_share_percent: u8) {
        let limit = u64::from(self.table_max) * u64::from(table_share_percent) / 100;
        let limit = if self.is_shedding { limit * ROOM_AGAIN_PERCENT / 100 } else { limit };
        // What cannot be measured is not held: the host comes first.
        let is_over = !self.count() || u64::from(self.entries) > limit;
        self.is_shedding = is_over && self.listener.delivery() == Delivery::Reliable;
    }

    /// Declares the messages that were dropped since the last call.
    pub(super) fn declare_dropped(&mut self, gaps: &mut Pending) {
        if !self.has_dropped {
            return;
        }
        // What is declared lost must not be found to have vanished.
        self.observed.dumps.forget_announced();
        let gap = Gap::new(Cause::Overrun, Stage::Receive, self.read_until_us, now_us());
        // Where the kernel did not take the filter, it also counts what would not have been recorded.
        let is_exact = self.observed.filter.is_empty() || self.listener.is_filtered();
        match self.namespace.run(|| self.listener.dropped()) {
            // The socket drops until its queue was empty once: the next call looks again.
            Ok(Ok(total)) if total > self.dropped => {
                gaps.add(Gap { lost_flows: is_exact.then_some(total - self.dropped), ..gap });
                self.dropped = total;
            }
            Ok(Ok(_)) => self.has_dropped = false,
            Ok(Err(error)) => {
                self.has_dropped = false;
                gaps.add(Gap { lost_flows: None, detail: Some(error.to_string()), ..gap });
            }
            Err(error) => {
                self.has_dropped = false;
                gaps.add(Gap { lost_flows: None, detail: Some(one_line(&error)), ..gap });
            }
        }
    }
}

/// Entries that the table of the namespace of this thread may have; `None` where the kernel does not tell.
fn table_max() -> Option<u32> {
    fs::read_to_string(TABLE_MAX).ok()?.trim().parse().ok()
}
