//! Joins a flow with the local sockets at its ends. Pure: tables, times and offsets are arguments.

mod by_hand;
mod observer;
mod release;
mod stats;

use std::net::IpAddr;
use std::sync::Arc;

use flowlog_common::{
    COMM_LEN, EndpointOpen, Owner, ProcessExec, ProcessExit, ProcessFork, RawSend, SocketRelease, TcpConnect,
    TcpOpen, usage,
};

use crate::attribution::clocks::Clocks;
use crate::attribution::cmdline;
use crate::attribution::ebpf::RingEvent;
use crate::attribution::endpoints::{Endpoint, EndpointTable, FoundEndpoint, Port, Wanted};
use crate::attribution::listeners::{Listener, Listeners};
use crate::attribution::lives::{Life, Limits};
use crate::attribution::processes::{Exec, Fork, ProcessTable, executed};
use crate::attribution::raw_sockets::{FoundRaw, RawSockets};
use crate::attribution::seed::{Older, Role, Waiting};
use crate::attribution::sockets::{Connecting, Ends, Found, Socket, SocketTable, Span, mapped};
use crate::flow::{Flow, L4, Protocol, Status, Tuple};
use crate::record::{
    Attribution, CommandLine, Direction, End, FlowRecord, Holder, Method, Origin, Process, Sighting,
};
use crate::time::NS_PER_S;

pub use self::observer::Observer;

/// What is known of the sockets and processes of this host.
#[derive(Debug)]
pub struct Tables {
    /// Connected sockets; in `CLOCK_MONOTONIC`, as events are.
    pub sockets: SocketTable,
    /// Sockets without a connection; in `CLOCK_MONOTONIC`.
    pub endpoints: EndpointTable,
    /// Raw sockets that send packets of their own making; in `CLOCK_MONOTONIC`.
    pub raw: RawSockets,
    /// Which program a process ran; in `CLOCK_MONOTONIC`.
    pub processes: ProcessTable,
    /// What is recorded of arguments.
    cmdline: cmdline::Mode,
    /// Owners of TCP sockets that have no tuple yet.
    connecting: Connecting,
    /// Older listeners whose sockets do not inherit their owner.
    listeners: Listeners,
    /// From when to when sockets may have been opened of which nobody told; in `CLOCK_MONOTONIC`.
    unseen_ns: Option<(u64, u64)>,
    /// Until when events of processes are of no use, since others are missing between them; in
    /// `CLOCK_MONOTONIC`.
    blind_until_ns: u64,
}

impl Tables {
    /// Nothing is known yet. The limits are those of each of the two tables of sockets.
    pub fn new(limits: Limits, cmdline: cmdline::Mode) -> Self {
        Self {
            sockets: SocketTable::new(limits),
            endpoints: EndpointTable::new(limits),
            raw: RawSockets::new(limits),
            processes: ProcessTable::default(),
            cmdline,
            connecting: Connecting::default(),
            listeners: Listeners::default(),
            unseen_ns: None,
            blind_until_ns: 0,
        }
    }

    /// Takes in an event. `clocks` tell when a process began; `origin` is asked for the names of a user and a
    /// cgroup.
    // Long, since each kind of event is a few lines.
    pub fn apply(&mut self, event: &RingEvent, clocks: &Clocks, origin: impl FnOnce(&Owner) -> Origin) {
        match event {
            RingEvent::TcpConnect(TcpConnect { header: _, socket_cookie, owner }) => {
                self.connecting.insert(*socket_cookie, *owner);
            }
            RingEvent::TcpOpen(open) => {
                let TcpOpen { header, socket_cookie: cookie, .. } = *open;
                // After a loss, a later attempt may be what is missing: of somebody who was handed the socket.
                let is_its_own = |connecting: &Owner| connecting.time_ns > self.blind_until_ns;
                let owner = self.connecting.remove(cookie).filter(is_its_own).unwrap_or(open.owner);
                let ends = Ends {
                    local_addr: open.local_addr,
                    remote_addr: open.remote_addr,
                    local_port: open.local_port,
                    remote_port: open.remote_port,
                };
                let listener = || self.listeners.find(owner.netns_cookie, ends.local_addr, ends.local_port);
                let holder = match owner.time_ns {
                    0 if open.passive != 0 => listener().cloned(),
                    _ => None,
                };
                let holder = holder.unwrap_or_else(|| self.holder(owner, origin));
                let holder = self.going_on(holder, header.time_ns);
                let socket = Socket { cookie, holder, closer: None, passive: open.passive != 0, stats: None };
                self.sockets.open(ends, header.time_ns, socket);
            }
            RingEvent::TcpClose(close) => {
                if let Some(life) = self.sockets.0.get_mut(close.socket_cookie) {
                    life.value.stats = Some(stats::of(close, life.value.passive));
                }
                self.sockets.0.close(close.socket_cookie, close.header.time_ns);
            }
            RingEvent::EndpointOpen(open) => {
                let EndpointOpen { header, socket_cookie, owner, protocol, used, .. } = *open;
                let port = Port { protocol: Protocol(protocol), number: open.local_port };
                if used == usage::ADDRESS {
                    self.endpoints.see(socket_cookie, port, open.packet_addr);
                    return;
                }
                let seen = IpAddr::from(open.packet_addr);
                let is_connected = !IpAddr::from(open.remote_addr).to_canonical().is_unspecified();
                let endpoint = Endpoint {
                    cookie: socket_cookie,
                    port,
                    holder: self.holder(owner, origin),
                    is_used: used != usage::BOUND,
                    is_shared: used == usage::SHARED,
                    bound_addr: open.local_addr,
                    seen_addrs: if seen.is_unspecified() { Vec::new() } else { vec![open.packet_addr] },
                    peer: is_connected.then_some((open.remote_addr, open.remote_port)),
                };
                // A packet leaves before its event: the socket had its owner since the latter took it.
                // A raw socket has another echo id only since the packet.
                let is_renumbered = self
                    .endpoints
                    .0
                    .get_mut(socket_cookie)
                    .is_some_and(|known| known.value.port != endpoint.port);
                let opened_ns =
                    if is_renumbered || owner.time_ns == 0 { header.time_ns } else { owner.time_ns };
                self.endpoints.open(opened_ns, endpoint);
            }
            RingEvent::RawSend(RawSend { header, socket_cookie, owner }) => {
                let holder = self.holder(*owner, origin);
                self.raw.open(*socket_cookie, header.time_ns, holder);
            }
            RingEvent::SocketRelease(release) => {
                let SocketRelease { header, socket_cookie, closer, .. } = *release;
                let process = self.processes.acting(closer.tgid, closer.time_ns).cloned();
                let closer = holder(closer, process, origin);
                if let Some(life) = self.sockets.0.get_mut(socket_cookie) {
                    if life.value.holder.owner.time_ns == 0 {
                        // Nobody was seen to make its listener: only now it is known where it is.
                        life.value.holder.owner.netns_cookie = closer.owner.netns_cookie;
                    }
                    let is_known =
                        closer.process.is_some() && release::used_it(release, &closer, &life.value.holder);
                    life.value.closer = is_known.then_some(closer);
                    if life.value.holder.is_seeded {
                        // Nothing else tells of its end.
                        self.sockets.0.close(socket_cookie, header.time_ns);
                    }
                }
                self.endpoints.0.close(socket_cookie, header.time_ns);
                self.listeners.remove(socket_cookie);
                self.raw.close(socket_cookie, header.time_ns);
            }
            RingEvent::ProcessFork(ProcessFork { header, .. })
            | RingEvent::ProcessExec(ProcessExec { header, .. }, _)
            | RingEvent::ProcessExit(ProcessExit { header, .. })
                if header.time_ns <= self.blind_until_ns => {}
            RingEvent::ProcessFork(fork) => {
                let ProcessFork { header, tgid, maker_tgid, ppid, login_uid } = *fork;
                let fork = Fork {
                    tgid,
                    maker_tgid,
                    ppid: (ppid != 0).then_some(ppid),
                    login_uid: known_uid(login_uid),
                    start_ns: clocks.realtime_ns(header.time_ns),
                };
                self.processes.fork(fork, header.time_ns);
            }
            RingEvent::ProcessExec(exec, texts) => {
                let ProcessExec { header, tgid, login_uid, args_len, path_len, path, path_flags } = *exec;
                let split_at = usize::try_from(path_len).unwrap_or(usize::MAX);
                let (path_text, args) = texts.split_at_checked(split_at).unwrap_or_default();
                let is_cut = usize::try_from(args_len).is_ok_and(|args_len| args_len > args.len());
                let exec = Exec {
                    tgid,
                    exe: executed(path_text, path, path_flags),
                    cmdline: cmdline::text(args, is_cut, self.cmdline).map(CommandLine::from),
                    login_uid: known_uid(login_uid),
                };
                self.processes.exec(exec, header.time_ns);
            }
            RingEvent::ProcessExit(exit) => self.processes.exit(exit.tgid, exit.header.time_ns),
            // They are of names, not of sockets.
            RingEvent::CgroupMade(..) | RingEvent::CgroupRemoved(_) => {}
        }
    }

    /// Takes in a socket that is older than the programs. Names as for [`Tables::apply`].
    ///
    /// It is called before the events since then are taken in, of which one may tell that the socket is
    /// closed, and again after: then it is known which program its owner ran.
    pub fn seed(&mut self, older: &Older, origin: impl FnOnce(&Owner) -> Origin) {
        let Older { cookie, owner, role } = *older;
        let holder = Holder { is_seeded: true, ..self.holder(owner, origin) };
        let opened_ns = owner.time_ns;
        let is_unclaimed = |known: &Owner| known.time_ns == 0 || *known == owner;
        match role {
            Role::Connection(ends) => match self.sockets.0.get_mut(cookie) {
                Some(Life { value: known, .. }) if is_unclaimed(&known.holder.owner) => known.holder = holder,
                Some(_) => {}
                None => {
                    let value = Socket { cookie, holder, closer: None, passive: false, stats: None };
                    self.sockets.open(ends, opened_ns, value);
                }
            },
            Role::Endpoint { port, bound_addr, peer } => match self.endpoints.0.get_mut(cookie) {
                Some(Life { value: known, .. }) if is_unclaimed(&known.holder.owner) => known.holder = holder,
                Some(_) => {}
                None => {
                    self.endpoints.open(opened_ns, Endpoint::unused(cookie, port, holder, bound_addr, peer));
                }
            },
            Role::Listener { bound_addr, port, takes_v4 } => {
                // What it accepts is newer than the programs.
                let holder = Holder { is_seeded: false, ..holder };
                self.listeners.insert(Listener { cookie, holder, bound_addr, port, takes_v4 });
            }
            Role::Other => {}
        }
    }

    /// Takes in a socket without a connection, or a listener, that was told of before events were lost, and was found to be
    /// open at `found_ns` (`CLOCK_MONOTONIC`). Names as for [`Tables::apply`].
    pub fn seed_again(&mut self, older: &Older, found_ns: u64, origin: impl FnOnce(&Owner) -> Origin) {
        match older.role {
            Role::Endpoint { port, bound_addr, peer } => {
                let known = self.endpoints.0.get_mut(older.cookie);
                if known.as_ref().is_some_and(|life| life.closed_ns.is_none()) {
                    return;
                }
                let seen_addrs = known.map_or_else(Vec::new, |life| life.value.seen_addrs.clone());
                let holder = Holder { is_seeded: true, ..self.holder(older.owner, origin) };
                let endpoint = Endpoint::unused(older.cookie, port, holder, bound_addr, peer);
                let value = Endpoint { seen_addrs, ..endpoint };
                let life = Life { opened_ns: found_ns, closed_ns: None, value };
                self.endpoints.0.open(older.cookie, port, life);
            }
            Role::Listener { .. } => self.seed(older, origin),
            Role::Connection(_) | Role::Other => {}
        }
    }

    /// Takes in a connection that waits to be accepted and is older than the programs, after the listeners. It was found
    /// at `found_ns` (`CLOCK_MONOTONIC`) in a network namespace.
    pub fn seed_waiting(&mut self, waiting: Waiting, netns_cookie: u64, found_ns: u64) {
        let Waiting { cookie, ends } = waiting;
        let Some(holder) = self.listeners.find(netns_cookie, ends.local_addr, ends.local_port) else {
            return;
        };
        // One that is newer has told of itself.
        if self.sockets.0.get_mut(cookie).is_none() {
            let holder = Holder { is_seeded: true, ..holder.clone() };
            let socket = Socket { cookie, holder, closer: None, passive: true, stats: None };
            self.sockets.open(ends, found_ns, socket);
        }
    }

    /// The owner with what is known of it at the time when it was taken.
    fn holder(&self, owner: Owner, origin: impl FnOnce(&Owner) -> Origin) -> Holder {
        holder(owner, self.processes.at(owner.tgid, owner.time_ns).cloned(), origin)
    }

    /// The holder at the time `at_ns`, later than it took the socket: where it runs another program now, or
    /// may do so, what its thread is called and which user it is are not known.
    fn going_on(&self, holder: Holder, at_ns: u64) -> Holder {
        let Some(before) = &holder.process else { return holder };
        let process = self.processes.going_on(before, at_ns).cloned();
        if process.as_ref().is_some_and(|process| Arc::ptr_eq(process, before)) {
            return holder;
        }
        let Holder { owner, origin, is_seeded, process: _ } = holder;
        let owner = Owner { uid: u32::MAX, comm: [0; COMM_LEN], ..owner };
        Holder { owner, process, origin: Origin { user: None, ..origin }, is_seeded }
    }

    /// Forgets what ended long before `now_ns` (`CLOCK_MONOTONIC`).
    pub fn expire(&mut self, now_ns: u64) {
        let Self { sockets, endpoints, raw, .. } = self;
        sockets.0.expire(now_ns);
        endpoints.0.expire(now_ns);
        raw.expire(now_ns);
    }

    /// Whether an end of a flow may have a socket that is not known: one that was opened while events were lost, or that
    /// was forgotten.
    fn may_be_unseen(&self, is_tcp: bool, span: Span) -> bool {
        let Some(start) = span.start else { return true };
        let is_lost = |(from_ns, until_ns): (u64, u64)| {
            // A socket of TCP opens when its flow starts; others may have been there for long.
            start.ns.saturating_add(start.late_ns) >= from_ns && (!is_tcp || start.ns <= until_ns)
        };
        self.evicted() > 0 || self.unseen_ns.is_some_and(is_lost)
    }

    /// How many sockets were forgotten early, because there were too many.
    pub fn evicted(&self) -> u64 {
        let Self { sockets, endpoints, raw, .. } = self;
        sockets.0.evicted() + endpoints.0.evicted() + raw.evicted()
    }

    /// Events were lost between `since_ns` and `until_ns` (`CLOCK_MONOTONIC`): the programs of that time are
    /// not known, whatever the other events say that are still to be taken in. The caller seeds again.
    pub fn processes_are_unknown(&mut self, since_ns: u64, until_ns: u64) {
        self.processes.lost_events(since_ns);
        self.blind_until_ns = until_ns;
    }

    /// Events were lost between `since_ns` and `until_ns` (`CLOCK_MONOTONIC`), and all others are taken in: which
    /// sockets are still open is not known, nor which others there are.
    pub fn sockets_are_unknown(&mut self, since_ns: u64, until_ns: u64) {
        let from_ns = self.unseen_ns.map_or(since_ns, |(from_ns, _)| from_ns.min(since_ns));
        self.unseen_ns = Some((from_ns, until_ns));
        self.sockets.0.lost_events(since_ns);
        self.endpoints.0.lost_events(since_ns);
        self.raw.lost_events(since_ns);
        self.listeners.clear();
    }
}

/// The owner with its process. A thread of the kernel acts for somebody else, of whom nothing is known: a
/// worker opens a subflow of MPTCP, or closes what a process left to io_uring.
fn holder(owner: Owner, process: Option<Arc<Process>>, origin: impl FnOnce(&Owner) -> Origin) -> Holder {
    let is_kernel = process.as_ref().is_some_and(|process| process.is_kernel);
    let (owner, process) = if is_kernel {
        (Owner { netns_cookie: owner.netns_cookie, ..Owner::UNKNOWN }, None)
    } else {
        (owner, process)
    };
    let origin = if owner.time_ns == 0 { Origin::default() } else { origin(&owner) };
    Holder { owner, process, origin, is_seeded: false }
}

/// All ones are a uid that is not set, or not known.
fn known_uid(uid: u32) -> Option<u32> {
    (uid != u32::MAX).then_some(uid)
}

/// Makes the record of a flow whose message was received at `received_ns`.
pub fn attribute<'a>(
    flow: &'a Flow,
    sighting: Sighting,
    received_ns: u64,
    observer: Observer<'_>,
    tables: &'a Tables,
) -> FlowRecord<'a> {
    let estimate_ns = observer.timeouts.last_seen_ns(flow);
    let destroyed_ns = flow.stop_ns.or(flow.event_ns).unwrap_or(received_ns);
    // The last packet was up to a second later than the estimate, which rests on whole seconds.
    let latest_ns = estimate_ns.map(|estimate| estimate.saturating_add(NS_PER_S));
    let end_ns = latest_ns.unwrap_or(destroyed_ns).min(destroyed_ns);
    let is_answered = flow.status.is_some_and(|status| status.contains(Status::SEEN_REPLY));
    let clocks = observer.clocks;
    let monotonic_ns =
        |realtime_ns: u64| clocks.latest_ns(realtime_ns).or_else(|| clocks.latest_ns(received_ns));
    let span = Span {
        start: None,
        // An end that no clock showed may be any time.
        end_ns: monotonic_ns(end_ns).unwrap_or(u64::MAX),
        destroyed_ns: monotonic_ns(destroyed_ns).unwrap_or(u64::MAX),
        is_answered,
        is_initiator: true,
    };
    // Each end sees its own tuple: the initiator the one before NAT, the responder the one after.
    let [orig, reply] = [(&flow.orig, &flow.reply), (&flow.reply, &flow.orig)];
    let src = end(orig, flow.start_ns, span, &observer, tables);
    let dst = end(reply, flow.start_ns, Span { is_initiator: false, ..span }, &observer, tables);
    let (src, dst) = by_hand::without_inner([src, dst], &observer);
    let is_local = |addr: IpAddr| observer.was_local(addr, flow.start_ns, span);
    let is_src_local = src.is_some() || is_local(flow.orig.src);
    let is_dst_local = dst.is_some() || is_local(flow.reply.src);
    let direction = match (is_src_local, is_dst_local) {
        (true, true) => Direction::Local,
        (true, false) => Direction::Outbound,
        (false, true) => Direction::Inbound,
        (false, false) => Direction::Forwarded,
    };
    // A socket that closed sends nothing more, whatever renewed the timeout of its entry.
    let closed_ns = [src, dst].into_iter().flatten().filter_map(|known| known.end?.closed_ns).max();
    let closed_ns = closed_ns.map(|closed_ns| clocks.realtime_ns(closed_ns));
    let last_seen_ns = estimate_ns.map(|estimate| closed_ns.map_or(estimate, |closed| closed.min(estimate)));
    FlowRecord {
        flow,
        sighting,
        received_ns,
        counters_final: sighting == Sighting::Destroyed,
        observer_netns: observer.netns,
        last_seen_ns,
        direction: Some(direction),
        src,
        dst,
    }
}

/// The local process that sends packets with the first of these tuples, where the other end sends with the second, of a
/// flow that started at a time of `CLOCK_REALTIME`.
fn end<'a>(
    tuples: (&Tuple, &Tuple),
    start_ns: Option<u64>,
    span: Span,
    observer: &Observer<'_>,
    tables: &'a Tables,
) -> Option<Attribution<'a>> {
    let starts = start_ns.into_iter().flat_map(|start_ns| observer.clocks.moments(start_ns));
    // If the clock was set back there are several times at which the flow may have started.
    let found = starts.map(|start| end_at(tuples, Span { start: Some(start), ..span }, observer, tables));
    let found = found.reduce(|one, other| match (one, other) {
        (Some(one), Some(other)) if one.is_same(&other) => Some(one),
        (Some(_), Some(_)) => Some(Attribution::AMBIGUOUS),
        (one, other) => one.or(other),
    });
    found.unwrap_or_else(|| end_at(tuples, span, observer, tables)).filter(Attribution::is_known)
}

/// The same, for one time at which the flow may have started. The owner may not be known.
fn end_at<'a>(
    (own, other): (&Tuple, &Tuple),
    span: Span,
    observer: &Observer<'_>,
    tables: &'a Tables,
) -> Option<Attribution<'a>> {
    let netns_cookie = observer.netns_cookie;
    let raw = || by_hand::find((own, other), span, observer, tables);
    let (number, peer_port) = match (own.proto, own.l4) {
        // Call ids, which sockets do not know.
        (Protocol::GRE, _) | (_, L4::None) => (0, 0),
        (_, L4::Ports { src, dst }) => (src, dst),
        // Who asks has a socket; the answer is the kernel's own.
        (_, L4::Icmp { icmp_type: 8 | 128, id, .. }) => (id, 0),
        (_, L4::Icmp { .. }) => return by_hand::attribution(raw()),
    };
    if own.proto == Protocol::TCP {
        let ends = Ends::new(own.src, number, own.dst, peer_port);
        return match tables.sockets.find(&ends, netns_cookie, span) {
            Found::None => by_hand::attribution(raw()),
            Found::Ambiguous => Some(Attribution::AMBIGUOUS),
            Found::One(socket) => Some(of_socket(socket)),
        };
    }
    let wanted = Wanted {
        port: Port { protocol: own.proto, number },
        addr: mapped(own.src),
        peer: (mapped(own.dst), peer_port),
        netns_cookie,
        presence: observer.presence(own.src, span),
        span,
    };
    match tables.endpoints.find(wanted) {
        FoundEndpoint::None => by_hand::attribution(raw()),
        FoundEndpoint::Ambiguous => Some(Attribution::AMBIGUOUS),
        FoundEndpoint::One(holder, cookie) => {
            // The port alone does not tell its owner from who sends from this port by hand.
            let is_of_another = || match raw() {
                FoundRaw::One { holder: sender, began: true, .. } => !sender.is_same_process(holder),
                FoundRaw::Ambiguous => true,
                FoundRaw::One { .. } | FoundRaw::None => false,
            };
            if span.is_initiator && is_of_another() {
                return Some(Attribution::AMBIGUOUS);
            }
            let end = End { holder, cookie, stats: None, closed_ns: None };
            let method = if holder.is_seeded { Method::Seed } else { Method::Endpoint };
            Some(Attribution { method, end: Some(end) })
        }
    }
}

/// Whose connection it is. One that is older than the programs is of the process that was found when it was seeded, and
/// one that this end opened is of its owner. An accepted one is of the process that closed it, otherwise of the owner of
/// its listener.
fn of_socket(life: &Life<Socket>) -> Attribution<'_> {
    let Life { closed_ns, value: socket, .. } = life;
    let (method, holder) = match socket {
        Socket { holder, .. } if holder.is_seeded => (Method::Seed, holder),
        Socket { passive: false, holder, .. } => (Method::Socket, holder),
        Socket { closer: Some(closer), .. } => (Method::Closer, closer),
        Socket { holder, .. } => (Method::Inherited, holder),
    };
    // Its descriptor closed then; packets may have followed.
    let closed_ns = closed_ns.filter(|_| !holder.is_seeded);
    let end = End { holder, cookie: Some(socket.cookie), stats: socket.stats, closed_ns };
    Attribution { method, end: Some(end) }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests;
