//! Random histories of a host against what its flows are joined with.
//!
//! A model host has few process numbers and few ports, so that both are used again all the time. Its events
//! reach the tables late, and some never. Each flow is joined when it has ended, as the daemon does: the
//! process that is named must be the one that had the socket, or none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use flowlog_common::raw_sent::{Noted, RawSent, RawTuple, SHARED, Sent};
use flowlog_common::{EventHeader, TcpClose, usage};
use nix::libc;
use proptest::prelude::*;

use super::*;
use crate::attribution::addresses::Addresses;
use crate::attribution::processes::MEMORY_BYTES;
use crate::attribution::sockets::CLOCK_SLACK_NS;
use crate::connections::timeouts::Timeouts;
use crate::record::{Process, START_NS};
use crate::testing::executes;

/// Of processes. The second one is of the kernel.
const NUMBERS: [u32; 4] = [1, 3, 4, 5];
const PORTS: u16 = 3;
const NETNS_COOKIE: u64 = 1;
const OFFSET_NS: u64 = 1_000_000_000_000;
const US: u64 = 1_000;

/// Room for a few sockets.
const FEW_BYTES: usize = 4096;

/// What happens next on the host. Where the process, socket or flow does not exist, nothing does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fork {
        maker: u32,
        child: u32,
    },
    Exec(u32),
    Exit(u32),
    /// A process opens the listener from which connections are accepted.
    Listen(u32),
    Open {
        tgid: u32,
        kind: Kind,
        port: u16,
    },
    /// A process closes one of the open sockets: its own, or one that it was given.
    Close {
        socket: usize,
        by: u32,
    },
    /// A process opens a raw socket.
    OpenRaw(u32),
    /// A process sends a packet by hand, with one of the raw sockets: its own, or one that it was given.
    SendRaw {
        socket: usize,
        by: u32,
        kind: Kind,
        port: u16,
    },
    CloseRaw(usize),
    /// A flow with the tuple of a socket that is closed: from another host, or without a socket.
    Foreign {
        kind: Kind,
        port: u16,
    },
    /// The entry of a flow is destroyed.
    Destroy(usize),
    /// The daemon reads all events, then all flows that have ended.
    Read,
    /// The buffer of events was full: only so many of those that wait are there.
    Lose(usize),
    /// The clock goes on; else what follows happens at the same time.
    Tick {
        us: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Client,
    Accepted,
    Datagram,
}

impl Kind {
    /// Its tuple: the first end is the initiator, of which the port is `port`.
    fn flow(self, port: u16) -> Flow {
        let [local, remote] = ["10.0.0.1", "10.0.0.2"].map(|addr| addr.parse().unwrap());
        let (src, dst, proto) = match self {
            Self::Client => (local, remote, Protocol::TCP),
            Self::Accepted => (remote, local, Protocol::TCP),
            Self::Datagram => (local, remote, Protocol::UDP),
        };
        let orig = Tuple { src, dst, proto, l4: L4::Ports { src: port, dst: 80 }, zone: None };
        let reply = Tuple { src: dst, dst: src, l4: L4::Ports { src: 80, dst: port }, ..orig };
        Flow::new(orig, reply)
    }

    fn ends(self, port: u16) -> Ends {
        let Tuple { src, dst, .. } = self.flow(port).orig;
        match self {
            Self::Accepted => Ends::new(dst, 80, src, port),
            _ => Ends::new(src, port, dst, 80),
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let number = || proptest::sample::select(NUMBERS.as_slice());
    let port = || 1..=PORTS;
    let kind = || prop_oneof![Just(Kind::Client), Just(Kind::Accepted), Just(Kind::Datagram)];
    prop_oneof![
        3 => (number(), number()).prop_map(|(maker, child)| Step::Fork { maker, child }),
        3 => number().prop_map(Step::Exec),
        2 => number().prop_map(Step::Exit),
        1 => number().prop_map(Step::Listen),
        8 => (number(), kind(), port()).prop_map(|(tgid, kind, port)| Step::Open { tgid, kind, port }),
        6 => (any::<usize>(), number()).prop_map(|(socket, by)| Step::Close { socket, by }),
        1 => number().prop_map(Step::OpenRaw),
        4 => (any::<usize>(), number(), kind(), port())
            .prop_map(|(socket, by, kind, port)| Step::SendRaw { socket, by, kind, port }),
        1 => any::<usize>().prop_map(Step::CloseRaw),
        2 => (kind(), port()).prop_map(|(kind, port)| Step::Foreign { kind, port }),
        4 => any::<usize>().prop_map(Step::Destroy),
        4 => Just(Step::Read),
        1 => any::<usize>().prop_map(Step::Lose),
        8 => prop_oneof![Just(1), Just(15), Just(50), Just(5_000_000)].prop_map(|us| Step::Tick { us }),
    ]
}

struct OpenSocket {
    cookie: u64,
    kind: Kind,
    port: u16,
}

/// What raw sockets sent, as the kernel has it.
#[derive(Clone, Debug, Default)]
struct InKernel(Arc<Mutex<Noted>>);

impl Sent for InKernel {
    fn find(&self, tuple: &RawTuple) -> Option<RawSent> {
        self.0.lock().unwrap().find(tuple)
    }

    fn forgotten(&self) -> u64 {
        0
    }
}

struct RawSocket {
    cookie: u64,
    owner: Owner,
    is_told: bool,
}

/// A flow, and the processes that had its socket: none where it has none.
struct Tracked {
    start_ns: u64,
    cookie: Option<u64>,
    had_it: Vec<Process>,
}

struct Host {
    now_ns: u64,
    programs: u32,
    cookies: u64,
    running: BTreeMap<u32, Process>,
    /// When a number was given to a process last.
    forked: BTreeMap<u32, u64>,
    /// Who bound the listener, with the program that it runs, or ran last.
    listener: Option<(Owner, Process)>,
    open: Vec<OpenSocket>,
    raw: Vec<RawSocket>,
    sent: InKernel,
    /// When a process ran another program last.
    executed: BTreeMap<u32, u64>,
    tracked: BTreeMap<(Kind, u16), Tracked>,
    /// Events and flows that are not read yet.
    events: Vec<RingEvent>,
    flows: Vec<(Flow, Tracked)>,
    /// Who closed accepted sockets, by cookie.
    closers: BTreeMap<u64, Process>,
    has_lost: bool,
    complete_ns: u64,
    memory_bytes: usize,
    tables: Tables,
    named: usize,
}

impl Host {
    fn new(memory_bytes: usize) -> Self {
        let init =
            Process { tgid: 1, start_ns: Some(0), exe: Some("/sbin/init".into()), ..Process::default() };
        let mut tables = Tables::new(memory_bytes, cmdline::Mode::Off);
        tables.processes.seed(init.clone(), 1);
        let sent = InKernel::default();
        tables.raw.watch(Box::new(sent.clone()), 1);
        Self {
            now_ns: 1000 * US,
            programs: 0,
            cookies: 0,
            running: BTreeMap::from([(1, init)]),
            forked: BTreeMap::new(),
            listener: None,
            open: Vec::new(),
            raw: Vec::new(),
            sent,
            executed: BTreeMap::new(),
            tracked: BTreeMap::new(),
            events: Vec::new(),
            flows: Vec::new(),
            closers: BTreeMap::new(),
            has_lost: false,
            complete_ns: 1,
            memory_bytes,
            tables,
            named: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Tick { us } => self.now_ns += us * US,
            Step::Fork { maker, child } => self.fork(maker, child),
            Step::Exec(tgid) => self.exec(tgid),
            Step::Exit(tgid) => {
                if self.running.remove(&tgid).is_some() {
                    self.events.push(RingEvent::ProcessExit(ProcessExit {
                        header: self.header(),
                        tgid,
                        pad: 0,
                    }));
                }
            }
            Step::Listen(tgid) => {
                self.listener = self.running.get(&tgid).map(|process| (self.owner(tgid), process.clone()));
            }
            Step::Open { tgid, kind, port } => self.open(tgid, kind, port),
            Step::Close { socket, by } => self.close(socket, by),
            Step::OpenRaw(tgid) => {
                if self.running.contains_key(&tgid) {
                    self.cookies += 1;
                    let raw = RawSocket { cookie: self.cookies, owner: self.owner(tgid), is_told: false };
                    self.raw.push(raw);
                }
            }
            Step::SendRaw { socket, by, kind, port } => self.send_raw(socket, by, kind, port),
            Step::CloseRaw(socket) => {
                if !self.raw.is_empty() {
                    let RawSocket { cookie, owner, .. } = self.raw.swap_remove(socket % self.raw.len());
                    self.release(cookie, owner);
                }
            }
            Step::Foreign { kind, port } => {
                if !self.is_open(kind, port) {
                    self.now_ns += US;
                    self.track(kind, port, OFFSET_NS + self.now_ns, None, Vec::new());
                    // What is less is within the error of the clocks: nobody can tell the two apart.
                    self.now_ns += CLOCK_SLACK_NS + US;
                }
            }
            Step::Destroy(number) => {
                let keys: Vec<_> = self.tracked.keys().copied().collect();
                if let Some(key) = keys.get(number % keys.len().max(1)) {
                    self.now_ns += US;
                    self.destroy(*key, OFFSET_NS + self.now_ns);
                    self.now_ns += US;
                }
            }
            Step::Read => self.read(),
            Step::Lose(kept) => {
                self.events.truncate(kept % (self.events.len() + 1));
                self.has_lost = true;
            }
        }
    }

    fn header(&self) -> EventHeader {
        EventHeader { kind: 0, pad: 0, time_ns: self.now_ns }
    }

    fn owner(&self, tgid: u32) -> Owner {
        Owner { tgid, time_ns: self.now_ns, netns_cookie: NETNS_COOKIE, ..Owner::UNKNOWN }
    }

    fn is_open(&self, kind: Kind, port: u16) -> bool {
        self.open.iter().any(|socket| (socket.kind, socket.port) == (kind, port))
    }

    fn fork(&mut self, maker: u32, child: u32) {
        let Some(process) = self.running.get(&maker).cloned() else { return };
        if self.running.contains_key(&child) {
            return;
        }
        // The number may have been free since now: no process ends, is forgotten and made in no time. And the kernel gives
        // all other numbers first.
        self.now_ns += US;
        if let Some(before_ns) = self.forked.get(&child) {
            self.now_ns = self.now_ns.max(before_ns + START_NS);
        }
        self.forked.insert(child, self.now_ns);
        let start_ns = Some(OFFSET_NS + self.now_ns);
        let parent_exe = process.exe.clone();
        self.running
            .insert(child, Process { tgid: child, start_ns, ppid: Some(maker), parent_exe, ..process });
        self.events.push(RingEvent::ProcessFork(ProcessFork {
            header: self.header(),
            tgid: child,
            maker_tgid: maker,
            ppid: maker,
            login_uid: u32::MAX,
            cgroup_id: 0,
            uid: child % 2,
            pad: 0,
        }));
    }

    fn exec(&mut self, tgid: u32) {
        // It takes longer than the clock needs to tell it from what the process did before.
        self.now_ns += US;
        let header = self.header();
        let Some(process) = self.running.get_mut(&tgid) else { return };
        self.programs += 1;
        let name = self.programs.to_string();
        process.exe = Some(format!("/{name}").into());
        self.executed.insert(tgid, header.time_ns);
        if let Some((_, listener)) = &mut self.listener
            && (listener.tgid, listener.start_ns) == (tgid, process.start_ns)
        {
            listener.exe.clone_from(&process.exe);
        }
        self.events.push(executes(tgid, &name, header.time_ns));
    }

    fn open(&mut self, tgid: u32, kind: Kind, port: u16) {
        let (owner, had_it) = match (kind, &self.listener) {
            (Kind::Accepted, Some((owner, process))) => (*owner, process.clone()),
            (Kind::Accepted, None) => return,
            _ => match self.running.get(&tgid) {
                Some(process) => (self.owner(tgid), process.clone()),
                None => return,
            },
        };
        if self.is_open(kind, port) {
            return;
        }
        self.cookies += 1;
        let cookie = self.cookies;
        let Ends { local_addr, remote_addr, local_port, remote_port } = kind.ends(port);
        let mut start_ns = OFFSET_NS + self.now_ns + US;
        if kind == Kind::Accepted {
            // The handshake takes its time, in which the tuple is not of another socket.
            start_ns += 20 * US;
            self.now_ns += 50 * US;
        }
        let header = self.header();
        self.events.push(match kind {
            Kind::Datagram => RingEvent::EndpointOpen(EndpointOpen {
                header,
                socket_cookie: cookie,
                owner,
                local_addr,
                remote_addr: [0; 16],
                packet_addr: local_addr,
                local_port,
                remote_port: 0,
                protocol: Protocol::UDP.0,
                used: usage::USED,
                pad: 0,
            }),
            _ => RingEvent::TcpOpen(TcpOpen {
                header,
                socket_cookie: cookie,
                owner,
                local_addr,
                remote_addr,
                local_port,
                remote_port,
                passive: u32::from(kind == Kind::Accepted),
            }),
        });
        self.open.push(OpenSocket { cookie, kind, port });
        self.track(kind, port, start_ns, Some(cookie), vec![had_it]);
        self.now_ns += 2 * US;
    }

    fn close(&mut self, socket: usize, by: u32) {
        let (Some(closer), false) = (self.running.get(&by).cloned(), self.open.is_empty()) else { return };
        let OpenSocket { cookie, kind, .. } = self.open.swap_remove(socket % self.open.len());
        if kind != Kind::Client {
            self.release(cookie, self.owner(by));
        }
        if kind != Kind::Datagram {
            self.events.push(RingEvent::TcpClose(TcpClose {
                header: self.header(),
                socket_cookie: cookie,
                bytes_acked: 0,
                bytes_received: 0,
                srtt_eighth_us: 0,
                rtt_min_us: 0,
                total_retrans: 0,
                old_state: 0,
            }));
        }
        if kind == Kind::Accepted {
            self.closers.insert(cookie, closer);
        }
    }

    fn release(&mut self, socket_cookie: u64, closer: Owner) {
        let header = self.header();
        let (syscall, exiting) = (u32::try_from(libc::SYS_close).unwrap(), 0);
        let release = SocketRelease { header, socket_cookie, closer, syscall, exiting };
        self.events.push(RingEvent::SocketRelease(release));
    }

    /// The end that is here sends: it begins a flow, or another one goes on. Connection tracking takes the packet
    /// in, and then the program notes it.
    fn send_raw(&mut self, socket: usize, by: u32, kind: Kind, port: u16) {
        let (Some(sender), false) = (self.running.get(&by).cloned(), self.raw.is_empty()) else { return };
        let at = socket % self.raw.len();
        // As for flows from elsewhere.
        self.now_ns += US;
        let start_ns = OFFSET_NS + self.now_ns;
        // What answers goes on with the flow that is there.
        let had_it = vec![sender];
        let is_open = self.is_open(kind, port);
        match self.tracked.get_mut(&(kind, port)) {
            Some(tracked) if kind == Kind::Accepted => tracked.had_it.extend(had_it),
            None if kind == Kind::Accepted => {}
            _ if is_open => {}
            _ => self.track(kind, port, start_ns, None, had_it),
        }
        self.now_ns += US;
        let raw = &mut self.raw[at];
        let has_executed = self.executed.get(&by).is_some_and(|at_ns| *at_ns >= raw.owner.time_ns);
        let cookie = if by == raw.owner.tgid && !has_executed { raw.cookie } else { SHARED };
        let Ends { local_addr, remote_addr, local_port, remote_port } = kind.ends(port);
        let words = |addr: [u8; 16]| {
            std::array::from_fn(|word| u32::from_ne_bytes(addr[word * 4..][..4].try_into().unwrap()))
        };
        let tuple = RawTuple {
            netns_cookie: NETNS_COOKIE,
            src: words(local_addr),
            dst: words(remote_addr),
            protocol: kind.flow(port).orig.proto.0,
            ports: u32::from(local_port) << 16 | u32::from(remote_port),
        };
        self.sent.0.lock().unwrap().note(&tuple, cookie, self.now_ns);
        if !std::mem::replace(&mut raw.is_told, true) {
            let (socket_cookie, owner) = (raw.cookie, raw.owner);
            self.events.push(RingEvent::RawSend(RawSend { header: self.header(), socket_cookie, owner }));
        }
        self.now_ns += CLOCK_SLACK_NS + US;
    }

    /// The kernel has one entry for a tuple: a new connection ends the one before, a datagram goes on with it.
    fn track(&mut self, kind: Kind, port: u16, start_ns: u64, cookie: Option<u64>, had_it: Vec<Process>) {
        match self.tracked.get_mut(&(kind, port)) {
            Some(tracked) if kind == Kind::Datagram => tracked.had_it.extend(had_it),
            _ => {
                self.destroy((kind, port), start_ns);
                self.tracked.insert((kind, port), Tracked { start_ns, cookie, had_it });
            }
        }
    }

    fn destroy(&mut self, (kind, port): (Kind, u16), stop_ns: u64) {
        let Some(tracked) = self.tracked.remove(&(kind, port)) else { return };
        let start_ns = tracked.start_ns;
        let stop_ns = Some(stop_ns.max(start_ns));
        self.flows.push((Flow { start_ns: Some(start_ns), stop_ns, ..kind.flow(port) }, tracked));
    }

    fn read(&mut self) {
        self.now_ns += US;
        let since_ns = std::mem::replace(&mut self.complete_ns, self.now_ns);
        let has_lost = std::mem::take(&mut self.has_lost);
        if has_lost {
            self.tables.processes_are_unknown(since_ns, self.now_ns);
        }
        let clocks = Clocks::fixed(OFFSET_NS);
        for event in std::mem::take(&mut self.events) {
            self.tables.apply(&event, &clocks, |_| Origin::default());
        }
        if has_lost {
            self.tables.sockets_are_unknown(since_ns, self.now_ns);
            self.now_ns += US;
            for process in self.running.values() {
                self.tables.processes.seed(process.clone(), self.now_ns);
            }
        }
        let addresses = Addresses::always(["10.0.0.1".parse().unwrap()]);
        let timeouts = &Timeouts::default();
        let observer = Observer {
            netns: 1,
            netns_cookie: Some(NETNS_COOKIE),
            is_only: true,
            addresses: &addresses,
            timeouts,
            clocks: &clocks,
        };
        for (flow, Tracked { cookie, had_it, .. }) in std::mem::take(&mut self.flows) {
            let closer = cookie.and_then(|cookie| self.closers.get(&cookie));
            let received_ns = OFFSET_NS + self.now_ns;
            let Joined { record, spent } =
                attribute(&flow, Sighting::Destroyed, received_ns, observer, &self.tables);
            let ends = [record.src, record.dst].into_iter().flatten();
            for (method, holder) in ends.filter_map(|known| Some((known.method, known.end?.holder))) {
                self.named += 1;
                let is_it = |process: &Process| match method {
                    Method::Program => is_of_program(holder, process),
                    _ => is_named(holder, process),
                };
                assert!(
                    had_it.iter().chain(closer).any(is_it),
                    "named {holder:?}, but the socket of {flow:?} was of {had_it:?} and {closer:?}"
                );
            }
            self.tables.forget(spent);
        }
        self.assert_bounded();
    }

    fn assert_bounded(&self) {
        assert!(self.tables.bytes() <= self.memory_bytes, "{}", self.tables.bytes());
    }
}

/// Whether this is the process, as far as it is known.
fn is_named(holder: &Holder, process: &Process) -> bool {
    let Holder { owner, process: named, .. } = holder;
    owner.tgid == process.tgid
        && named.as_ref().is_none_or(|named| {
            named.start_ns.is_none_or(|start_ns| Some(start_ns) == process.start_ns)
                && named.exe.as_ref().is_none_or(|exe| Some(exe) == process.exe.as_ref())
        })
}

/// Whether this is a process of the program that is named.
fn is_of_program(holder: &Holder, process: &Process) -> bool {
    holder.process.as_ref().is_some_and(|named| named.exe == process.exe)
}

fn run(memory_bytes: usize, steps: &[Step]) -> Host {
    let mut host = Host::new(memory_bytes);
    for step in steps {
        host.step(*step);
    }
    for _ in 0..host.tracked.len() {
        host.step(Step::Destroy(0));
    }
    host.read();
    host
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_process_is_named_that_did_not_have_the_socket(steps in proptest::collection::vec(step(), 0..150)) {
        run(MEMORY_BYTES, &steps);
    }

    #[test]
    fn full_tables_name_no_other_process(steps in proptest::collection::vec(step(), 0..150)) {
        run(FEW_BYTES, &steps);
    }
}

/// The tests above would also pass if nothing was ever named.
#[test]
fn processes_are_named() {
    let mut steps = vec![Step::Fork { maker: 1, child: 3 }, Step::Exec(3), Step::Listen(3)];
    for (socket, kind) in [Kind::Client, Kind::Accepted, Kind::Datagram].into_iter().enumerate() {
        let open = Step::Open { tgid: 3, kind, port: 1 };
        let tick = Step::Tick { us: 5_000_000 };
        steps.extend([open, tick, Step::Close { socket, by: 1 }, tick, open, tick]);
    }
    // The datagrams are one flow.
    assert_eq!(run(MEMORY_BYTES, &steps).named, 5);

    let send = |kind, port| Step::SendRaw { socket: 0, by: 3, kind, port };
    let by_hand = [
        Step::Tick { us: 1 },
        Step::OpenRaw(3),
        send(Kind::Client, 2),
        send(Kind::Datagram, 2),
        Step::Foreign { kind: Kind::Accepted, port: 2 },
        send(Kind::Accepted, 2),
        Step::CloseRaw(0),
    ];
    assert_eq!(run(MEMORY_BYTES, &[&steps[..2], &by_hand].concat()).named, 3);
}
