//! Joins a flow with the local sockets at its ends. Pure: tables, times and offsets are arguments.

mod by_hand;
mod memory;
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
use crate::attribution::holders::{HolderId, Holders};
use crate::attribution::listeners::{Listener, Listeners};
use crate::attribution::lives::{Life, Number};
use crate::attribution::processes::{Exec, Fork, Group, ProcessTable, executed};
use crate::attribution::raw_sockets::{FoundRaw, RawSockets};
use crate::attribution::seed::{Older, Role, Waiting};
use crate::attribution::sockets::{Connecting, Ends, Found, Socket, SocketTable, Span, holder_of, mapped};
use crate::flow::{Flow, L4, Protocol, Status, Tuple};
use crate::record::{
    Attribution, CommandLine, Direction, End, FlowRecord, Holder, Method, Origin, Process, Sighting,
};
use crate::time::NS_PER_S;

pub use self::memory::Linger;
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
    /// Who has all these sockets.
    pub holders: Holders,
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
    /// How much memory all of this may take.
    memory_bytes: usize,
    linger: Linger,
}

impl Tables {
    /// Nothing is known yet, and all that will be takes about so much memory.
    pub fn new(memory_bytes: usize, cmdline: cmdline::Mode) -> Self {
        Self {
            sockets: SocketTable::default(),
            endpoints: EndpointTable::default(),
            raw: RawSockets::default(),
            holders: Holders::default(),
            processes: ProcessTable::new(memory_bytes),
            cmdline,
            connecting: Connecting::default(),
            listeners: Listeners::default(),
            unseen_ns: None,
            blind_until_ns: 0,
            memory_bytes,
            linger: Linger::default(),
        }
    }

    /// Takes in an event. `clocks` tell when a process began; `origin` is asked for the names of a user and a
    /// cgroup.
    pub fn apply(&mut self, event: &RingEvent, clocks: &Clocks, origin: impl FnOnce(&Owner) -> Origin) {
        self.take_in(event, clocks, origin);
        self.make_room(event.time_ns());
    }

    // Long, since each kind of event is a few lines.
    fn take_in(&mut self, event: &RingEvent, clocks: &Clocks, origin: impl FnOnce(&Owner) -> Origin) {
        match event {
            RingEvent::TcpConnect(TcpConnect { header: _, socket_cookie, owner }) => {
                self.connecting.insert(*socket_cookie, *owner);
            }
            RingEvent::TcpOpen(open) => {
                let TcpOpen { header, socket_cookie: cookie, .. } = *open;
                // After a loss, a later attempt may be what is missing: of somebody who was handed the socket.
                let is_its_own = |connecting: &Owner| connecting.time_ns > self.blind_until_ns;
                let owner = self.connecting.remove(cookie).filter(is_its_own).unwrap_or(open.owner);
                let ends = ends(open);
                let listener = || self.listeners.find(owner.netns_cookie, ends.local_addr, ends.local_port);
                let holder = match owner.time_ns {
                    0 if open.passive != 0 => listener().cloned(),
                    _ => None,
                };
                let (holder, owned_ns) = match holder {
                    Some(holder) => {
                        let owned_ns = holder.owner.time_ns;
                        (self.holders.intern(holder, header.time_ns), owned_ns)
                    }
                    None => (self.holder(owner, false, header.time_ns, origin), owner.time_ns),
                };
                let holder = self.going_on(holder, header.time_ns);
                let value = Socket::new(open.passive != 0);
                let life = Life { opened_ns: header.time_ns, closed_ns: None, cookie, holder, value };
                self.sockets.open(ends, owned_ns, life, &mut self.holders);
            }
            RingEvent::TcpClose(close) => {
                let stats = |is_passive| stats::of(close, is_passive);
                self.sockets.close_measured(close.socket_cookie, close.header.time_ns, &self.holders, stats);
            }
            RingEvent::EndpointOpen(open) => {
                let EndpointOpen { header, socket_cookie, owner, protocol, used, .. } = *open;
                let port = Port { protocol: Protocol(protocol), number: open.local_port };
                if used == usage::ADDRESS {
                    self.endpoints.see(socket_cookie, port, open.packet_addr, &mut self.holders);
                    return;
                }
                let seen = IpAddr::from(open.packet_addr);
                let is_connected = !IpAddr::from(open.remote_addr).to_canonical().is_unspecified();
                let endpoint = Endpoint {
                    cookie: socket_cookie,
                    port,
                    holder: self.holder(owner, false, header.time_ns, origin),
                    is_used: used != usage::BOUND,
                    is_shared: used == usage::SHARED,
                    bound_addr: open.local_addr,
                    seen_addr: (!seen.is_unspecified()).then_some(open.packet_addr),
                    peer: is_connected.then_some((open.remote_addr, open.remote_port)),
                };
                // A packet leaves before its event: the socket had its owner since the latter took it.
                // A raw socket has another echo id only since the packet.
                let is_renumbered = self.endpoints.port(socket_cookie).is_some_and(|known| known != port);
                let opened_ns =
                    if is_renumbered || owner.time_ns == 0 { header.time_ns } else { owner.time_ns };
                self.endpoints.open(opened_ns, endpoint, &mut self.holders);
            }
            RingEvent::RawSend(RawSend { header, socket_cookie, owner }) => {
                let holder = self.holder(*owner, false, header.time_ns, origin);
                self.raw.open(*socket_cookie, header.time_ns, holder, &mut self.holders);
            }
            RingEvent::SocketRelease(release) => self.release(release, origin),
            RingEvent::ProcessFork(ProcessFork { header, .. })
            | RingEvent::ProcessExec(ProcessExec { header, .. }, _)
            | RingEvent::ProcessExit(ProcessExit { header, .. })
                if header.time_ns <= self.blind_until_ns => {}
            RingEvent::ProcessFork(fork) => {
                let ProcessFork { header, tgid, maker_tgid, ppid, login_uid, cgroup_id, uid, .. } = *fork;
                let fork = Fork {
                    tgid,
                    maker_tgid,
                    ppid: (ppid != 0).then_some(ppid),
                    login_uid: known_uid(login_uid),
                    start_ns: clocks.realtime_ns(header.time_ns),
                    group: Group { cgroup_id, uid },
                };
                self.processes.fork(fork, header.time_ns);
            }
            RingEvent::ProcessExec(exec, texts) => {
                let ProcessExec {
                    header,
                    tgid,
                    login_uid,
                    args_len,
                    path_len,
                    path,
                    path_flags,
                    cgroup_id,
                    uid,
                    ..
                } = *exec;
                let split_at = usize::try_from(path_len).unwrap_or(usize::MAX);
                let (path_text, args) = texts.split_at_checked(split_at).unwrap_or_default();
                let is_cut = usize::try_from(args_len).is_ok_and(|args_len| args_len > args.len());
                let exec = Exec {
                    tgid,
                    exe: executed(path_text, path, path_flags),
                    cmdline: cmdline::text(args, is_cut, self.cmdline).map(CommandLine::from),
                    login_uid: known_uid(login_uid),
                    group: Group { cgroup_id, uid },
                };
                self.processes.exec(exec, header.time_ns);
            }
            RingEvent::ProcessExit(exit) => self.processes.exit(exit.tgid, exit.header.time_ns),
            // They are of names, not of sockets.
            RingEvent::CgroupMade(..) | RingEvent::CgroupRemoved(_) => {}
        }
    }

    /// The last descriptor of a socket is closed.
    fn release(&mut self, release: &SocketRelease, origin: impl FnOnce(&Owner) -> Origin) {
        let SocketRelease { header, socket_cookie: cookie, closer, .. } = *release;
        if let Some(mut life) = self.sockets.get(cookie) {
            let process = self.processes.acting(closer.tgid, closer.time_ns);
            let (closer, process) = acting(closer, process);
            let is_process = process.is_some();
            let netns_cookie = closer.netns_cookie;
            let closer = self.holders.of(closer, process, false, header.time_ns, origin);
            let Holder { owner, process, origin, is_seeded } = self.holders.get(life.holder);
            let is_seeded = *is_seeded;
            if owner.time_ns == 0 {
                // Nobody was seen to make its listener: only now it is known where it is.
                let owner = Owner { netns_cookie, ..*owner };
                let holder = Holder { owner, process: process.clone(), origin: origin.clone(), is_seeded };
                let holder = self.holders.intern(holder, header.time_ns);
                if holder == life.holder {
                    self.holders.release(holder);
                }
                life.holder = holder;
            }
            let Self { sockets, holders, .. } = self;
            let is_known =
                is_process && release::used_it(release, holders.get(closer), holders.get(life.holder));
            if !is_known {
                holders.release(closer);
            }
            sockets.set_closer(life, is_known.then_some(closer), holders);
            if is_seeded {
                // Nothing else tells of its end.
                sockets.close(cookie, header.time_ns, holders);
            }
        }
        self.endpoints.close(cookie, header.time_ns, &self.holders);
        self.listeners.remove(cookie);
        self.raw.close(cookie, header.time_ns, &self.holders);
    }

    /// Takes in a socket that is older than the programs. Names as for [`Tables::apply`].
    ///
    /// It is called before the events since then are taken in, of which one may tell that the socket is
    /// closed, and again after: then it is known which program its owner ran.
    pub fn seed(&mut self, older: &Older, origin: impl FnOnce(&Owner) -> Origin) {
        let Older { cookie, owner, role } = *older;
        let opened_ns = owner.time_ns;
        let holder = self.holder(owner, true, opened_ns, origin);
        let Self { sockets, endpoints, listeners, holders, .. } = self;
        let is_unclaimed = |known: HolderId| {
            let known = &holders.get(known).owner;
            known.time_ns == 0 || *known == owner
        };
        match role {
            Role::Connection(ends) => match sockets.get(cookie) {
                Some(known) if known.holder != holder && is_unclaimed(known.holder) => {
                    sockets.replace(Life { holder, ..known }, holders);
                }
                Some(_) => holders.release(holder),
                None => {
                    let life = Life { opened_ns, closed_ns: None, cookie, holder, value: Socket::new(false) };
                    sockets.open(ends, opened_ns, life, holders);
                }
            },
            Role::Endpoint { port, bound_addr, peer } => match endpoints.get(cookie) {
                Some(known) if known.holder != holder && is_unclaimed(known.holder) => {
                    endpoints.replace(Life { holder, ..known }, holders);
                }
                Some(_) => holders.release(holder),
                None => {
                    let endpoint = Endpoint::unused(cookie, port, holder, bound_addr, peer);
                    endpoints.open(opened_ns, endpoint, holders);
                }
            },
            Role::Listener { bound_addr, port, takes_v4 } => {
                // What it accepts is newer than the programs.
                let known = Holder { is_seeded: false, ..holders.get(holder).clone() };
                holders.release(holder);
                listeners.insert(Listener { cookie, holder: known, bound_addr, port, takes_v4 });
            }
            Role::Other => holders.release(holder),
        }
    }

    /// Takes in a socket without a connection, or a listener, that was told of before events were lost, and was found to be
    /// open at `found_ns` (`CLOCK_MONOTONIC`). Names as for [`Tables::apply`].
    pub fn seed_again(&mut self, older: &Older, found_ns: u64, origin: impl FnOnce(&Owner) -> Origin) {
        match older.role {
            Role::Endpoint { port, bound_addr, peer } => {
                if self.endpoints.get(older.cookie).is_some_and(|life| life.closed_ns.is_none()) {
                    return;
                }
                let holder = self.holder(older.owner, true, found_ns, origin);
                let endpoint = Endpoint::unused(older.cookie, port, holder, bound_addr, peer);
                self.endpoints.open_again(found_ns, endpoint, &mut self.holders);
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
        if self.sockets.get(cookie).is_none() {
            let holder = Holder { is_seeded: true, ..holder.clone() };
            let owned_ns = holder.owner.time_ns;
            let holder = self.holders.intern(holder, found_ns);
            let life =
                Life { opened_ns: found_ns, closed_ns: None, cookie, holder, value: Socket::new(true) };
            self.sockets.open(ends, owned_ns, life, &mut self.holders);
        }
    }

    /// The owner with what is known of it at the time when it was taken, for one use more.
    fn holder(
        &mut self,
        owner: Owner,
        is_seeded: bool,
        at_ns: u64,
        origin: impl FnOnce(&Owner) -> Origin,
    ) -> HolderId {
        let (owner, process) = acting(owner, self.processes.owner(owner.tgid, owner.time_ns));
        self.holders.of(owner, process, is_seeded, at_ns, origin)
    }

    /// The holder at the time `at_ns`, later than it took the socket: where it runs another program now, or
    /// may do so, what its thread is called and which user it is are not known.
    fn going_on(&mut self, id: HolderId, at_ns: u64) -> HolderId {
        let Holder { owner, process, origin, is_seeded } = self.holders.get(id);
        let Some(before) = process else { return id };
        let process = self.processes.going_on(before, at_ns);
        if process.is_some_and(|process| Arc::ptr_eq(process, before)) {
            return id;
        }
        let owner = Owner { uid: u32::MAX, comm: [0; COMM_LEN], ..*owner };
        let origin = Origin { user: None, ..origin.clone() };
        let other = Holder { owner, process: process.cloned(), origin, is_seeded: *is_seeded };
        let other = self.holders.intern(other, at_ns);
        self.holders.release(id);
        other
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
        self.sockets.lost_events(since_ns, &self.holders);
        self.endpoints.lost_events(since_ns, &self.holders);
        self.raw.lost_events(since_ns, &self.holders);
        self.listeners.clear();
    }
}

/// The ends of a socket that has its tuple.
fn ends(open: &TcpOpen) -> Ends {
    let TcpOpen { local_addr, remote_addr, local_port, remote_port, .. } = *open;
    Ends { local_addr, remote_addr, local_port, remote_port }
}

/// The owner with its process. A thread of the kernel acts for somebody else, of whom nothing is known: a
/// worker opens a subflow of MPTCP, or closes what a process left to io_uring.
fn acting(owner: Owner, process: Option<&Arc<Process>>) -> (Owner, Option<&Arc<Process>>) {
    if process.is_some_and(|process| process.is_kernel) {
        (Owner { netns_cookie: owner.netns_cookie, ..Owner::UNKNOWN }, None)
    } else {
        (owner, process)
    }
}

/// Sockets that only one flow asks for: they opened about when it began, and had closed when it was destroyed.
#[derive(Clone, Copy, Debug)]
pub enum Spent {
    /// Of TCP.
    Socket(Number),
    /// Those without a connection that are connected to the other end of the flow.
    Endpoints(Wanted),
}

/// A record, and what is of no use any more when it was taken.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'a> {
    /// The record.
    pub record: FlowRecord<'a>,
    /// What may be forgotten, at either end.
    pub spent: [Option<Spent>; 2],
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
) -> Joined<'a> {
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
    let (src, spent_src) = end(orig, flow.start_ns, span, &observer, tables);
    let (dst, spent_dst) = end(reply, flow.start_ns, Span { is_initiator: false, ..span }, &observer, tables);
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
    // A zone has an entry of its own for the same packets, and so has another namespace.
    let is_last = sighting == Sighting::Destroyed
        && observer.is_only
        && [flow.zone, flow.orig.zone, flow.reply.zone].iter().all(Option::is_none);
    Joined {
        record: FlowRecord {
            flow,
            sighting,
            received_ns,
            counters_final: sighting == Sighting::Destroyed,
            observer_netns: observer.netns,
            observer_netns_name: None,
            last_seen_ns,
            direction: Some(direction),
            src,
            dst,
        },
        spent: if is_last { [spent_src, spent_dst] } else { [None, None] },
    }
}

/// The local process that sends packets with the first of these tuples, where the other end sends with the second, of a
/// flow that started at a time of `CLOCK_REALTIME`. Also the sockets that only this flow asks for.
fn end<'a>(
    tuples: (&Tuple, &Tuple),
    start_ns: Option<u64>,
    span: Span,
    observer: &Observer<'_>,
    tables: &'a Tables,
) -> (Option<Attribution<'a>>, Option<Spent>) {
    let starts = start_ns.into_iter().flat_map(|start_ns| observer.clocks.moments(start_ns));
    // If the clock was set back there are several times at which the flow may have started.
    let found = starts.map(|start| end_at(tuples, Span { start: Some(start), ..span }, observer, tables));
    let found = found.reduce(|(one, _), (other, _)| match (one, other) {
        (Some(one), Some(other)) if one.is_same(&other) => (Some(one.or_other_socket(&other)), None),
        (Some(_), Some(_)) => (Some(Attribution::AMBIGUOUS), None),
        (one, other) => (one.or(other), None),
    });
    let (found, spent) = found.unwrap_or_else(|| end_at(tuples, span, observer, tables));
    (found.filter(Attribution::is_known), spent)
}

/// The same, for one time at which the flow may have started. The owner may not be known.
fn end_at<'a>(
    (own, other): (&Tuple, &Tuple),
    span: Span,
    observer: &Observer<'_>,
    tables: &'a Tables,
) -> (Option<Attribution<'a>>, Option<Spent>) {
    let raw = || by_hand::find((own, other), span, observer, tables);
    let (number, peer_port) = match (own.proto, own.l4) {
        // Call ids, which sockets do not know.
        (Protocol::GRE, _) | (_, L4::None) => (0, 0),
        (_, L4::Ports { src, dst }) => (src, dst),
        // Who asks has a socket; the answer is the kernel's own.
        (_, L4::Icmp { icmp_type: 8 | 128, id, .. }) => (id, 0),
        (_, L4::Icmp { .. }) => return (by_hand::attribution(raw(), tables), None),
    };
    if own.proto == Protocol::TCP {
        let ends = Ends::new(own.src, number, own.dst, peer_port);
        return match tables.sockets.find(&ends, observer.netns_cookie, span, &tables.holders) {
            Found::None => (by_hand::attribution(raw(), tables), None),
            Found::Ambiguous => (Some(Attribution::AMBIGUOUS), None),
            Found::One(life, number) => {
                (Some(of_socket(&life, tables)), span.spends(&life).then_some(Spent::Socket(number)))
            }
            Found::Process(life) => (Some(of_socket(&life, tables).without_socket()), None),
            Found::Program(life) => {
                let (_, holder) = holder_of(&life, &tables.holders);
                (Some(of_program(holder, tables)), None)
            }
        };
    }
    let wanted = Wanted {
        port: Port { protocol: own.proto, number },
        addr: mapped(own.src),
        peer: (mapped(own.dst), peer_port),
        netns_cookie: observer.netns_cookie,
        presence: observer.presence(own.src, span),
        span,
    };
    // Without ports there may be several flows between two hosts.
    let has_ports = number != 0 || peer_port != 0;
    let spent = has_ports.then_some(Spent::Endpoints(wanted));
    let found = match tables.endpoints.find(wanted, &tables.holders) {
        FoundEndpoint::None => return (by_hand::attribution(raw(), tables), None),
        FoundEndpoint::Ambiguous => return (Some(Attribution::AMBIGUOUS), spent),
        found @ (FoundEndpoint::One(holder, _) | FoundEndpoint::Program(holder)) => (found, holder),
    };
    let (found, id) = found;
    let holder = tables.holders.get(id);
    // The port alone does not tell its owner from who sends from this port by hand.
    let is_of_another = || match raw() {
        FoundRaw::One { holder: sender, began: true, .. } => {
            !tables.holders.get(sender).is_same_process(holder)
        }
        FoundRaw::Ambiguous => true,
        FoundRaw::One { .. } | FoundRaw::None => false,
    };
    if span.is_initiator && is_of_another() {
        return (Some(Attribution::AMBIGUOUS), spent);
    }
    let attribution = match found {
        FoundEndpoint::One(_, cookie) => {
            let end = End { holder, cookie, stats: None, closed_ns: None };
            let method = if holder.is_seeded { Method::Seed } else { Method::Endpoint };
            Attribution { method, end: Some(end) }
        }
        _ => of_program(id, tables),
    };
    (Some(attribution), spent)
}

/// Several processes of one program, of which this is one.
fn of_program(holder: HolderId, tables: &Tables) -> Attribution<'_> {
    let end = End { holder: tables.holders.get(holder), cookie: None, stats: None, closed_ns: None };
    Attribution { method: Method::Program, end: Some(end) }
}

/// Whose connection it is.
fn of_socket<'a>(life: &Life<Socket>, tables: &'a Tables) -> Attribution<'a> {
    let (method, holder) = holder_of(life, &tables.holders);
    let is_seeded = tables.holders.get(life.holder).is_seeded;
    // Its descriptor closed then; packets may have followed.
    let closed_ns = life.closed_ns.filter(|_| !is_seeded);
    let holder = tables.holders.get(holder);
    let end = End { holder, cookie: Some(life.cookie), stats: life.value.stats(), closed_ns };
    Attribution { method, end: Some(end) }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests;
