//! The flows of the mix with the processes at their ends, as the daemon records them.
//!
//! The 24 web servers are containers of this host, each a pod of Kubernetes with four workers that answer and a
//! program that calls services. A resolver is a service of systemd. One of the clients is the host itself, on
//! which scripts run short programs: a new process for every third flow.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use flowlog::attribution::addresses::Addresses;
use flowlog::attribution::clocks::Clocks;
use flowlog::attribution::cmdline::Mode;
use flowlog::attribution::endpoints::{Endpoint, Port};
use flowlog::attribution::holders::HolderId;
use flowlog::attribution::join::{Observer, Tables, attribute};
use flowlog::attribution::lives::Life;
use flowlog::attribution::sockets::{Ends, Socket};
use flowlog::connections::timeouts::Timeouts;
use flowlog::flow::{Flow, L4, Protocol, Tuple};
use flowlog::record::{Cgroup, FlowRecord, Holder, Origin, Process, Sighting, TcpStats};
use flowlog_common::Owner;
use flowlog_reader::run::{RunContext, RunFacts};
use uuid::Uuid;

use crate::mix::{Mix, Network, WEB_SERVERS, index};

/// The cookie of the network namespace of the host, and of the first container.
const HOST_COOKIE: u64 = 1;
const FIRST_CONTAINER_COOKIE: u64 = 4000;

/// The client that is this host.
const HOST: usize = 4;

const WORKERS: u64 = 4;

/// Room for all sockets.
const MEMORY_BYTES: usize = 1 << 30;

/// How many flows a short process of the host has.
const FLOWS_PER_PROCESS: u64 = 3;

/// Flows, and the sockets that had them.
pub(crate) struct Rows {
    mix: Mix,
    tables: Tables,
    timeouts: Timeouts,
    clocks: Clocks,
    addresses: Addresses,
    containers: HashMap<IpAddr, Container>,
    resolver: Holder,
    resolver_addrs: [IpAddr; 2],
    host_addrs: [IpAddr; 2],
    script: Holder,
    cookie: u64,
}

/// One pod.
struct Container {
    workers: Vec<Holder>,
    caller: Holder,
}

impl Rows {
    /// # Errors
    ///
    /// Where the mix has none.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let both = |network: Network, number| [false, true].map(|is_v6| network.address(number, is_v6));
        let containers: HashMap<IpAddr, Container> = (0..WEB_SERVERS)
            .flat_map(|number| both(Network::Servers, index(number)).map(|addr| (addr, container(number))))
            .collect();
        let (resolver_addrs, host_addrs) = (both(Network::Resolvers, 0), both(Network::Clients, HOST));
        let addresses = Addresses::always(resolver_addrs.into_iter().chain(host_addrs));
        let mut rows = Self {
            mix: Mix::new()?,
            tables: Tables::new(MEMORY_BYTES, Mode::default()),
            timeouts: Timeouts::read(),
            clocks: Clocks::fixed(0),
            addresses,
            containers,
            resolver: service(812, "unbound", "/usr/sbin/unbound -d -p", "unbound"),
            resolver_addrs,
            host_addrs,
            script: service(0, "curl", "", "cron"),
            cookie: 1,
        };
        let port = Port { protocol: Protocol::UDP, number: 53 };
        let holder = rows.tables.holders.intern(rows.resolver.clone(), 1);
        rows.tables.endpoints.open(1, endpoint(1, port, holder, None, None), &mut rows.tables.holders);
        Ok(rows)
    }

    /// The next flow. Its sockets are in the tables.
    pub(crate) fn flow(&mut self) -> Flow {
        let flow = self.mix.flow();
        self.open(&flow, flow.orig, false);
        self.open(&flow, flow.reply, true);
        flow
    }

    /// Its record.
    pub(crate) fn record<'a>(&'a self, flow: &'a Flow) -> FlowRecord<'a> {
        let Self { timeouts, clocks, addresses, tables, .. } = self;
        let netns_cookie = Some(HOST_COOKIE);
        let observer =
            Observer { netns: 4_026_531_840, netns_cookie, is_only: true, addresses, timeouts, clocks };
        let received_ns = flow.stop_ns.unwrap_or_default() + 100_000;
        attribute(flow, Sighting::Destroyed, received_ns, observer, tables).record
    }

    /// Opens and closes the socket that sends packets with this tuple, where it is one of this host.
    fn open(&mut self, flow: &Flow, tuple: Tuple, passive: bool) {
        let (Some(start_ns), Some(stop_ns)) = (flow.start_ns, flow.stop_ns) else { return };
        let Some(holder) = self.holder(tuple.src, passive) else { return };
        self.cookie += 1;
        let cookie = self.cookie;
        let Tables { sockets, endpoints, holders, .. } = &mut self.tables;
        let holder = holders.intern(holder, start_ns);
        let (number, peer_port) = match tuple.l4 {
            L4::Ports { src, dst } => (src, dst),
            L4::Icmp { id, .. } => (id, 0),
            L4::None => (0, 0),
        };
        if tuple.proto == Protocol::TCP {
            let bytes =
                |counters: Option<flowlog::flow::Counters>| counters.map_or(0, |counters| counters.bytes);
            let (sent, received) = (bytes(flow.orig_counters), bytes(flow.reply_counters));
            let (sent, received) = if passive { (received, sent) } else { (sent, received) };
            let rtt_us = u32::try_from(start_ns % 40_000).unwrap_or_default() + 90;
            let stats = TcpStats {
                srtt_us: Some(rtt_us + rtt_us / 7),
                min_rtt_us: Some(rtt_us),
                retrans: u32::from(start_ns.is_multiple_of(50)),
                bytes_sent: sent * 9 / 10,
                bytes_received: received * 9 / 10,
            };
            let opened_ns = if passive { start_ns + 30_000 } else { start_ns - 20_000 };
            let life = Life { opened_ns, closed_ns: None, cookie, holder, value: Socket::new(passive) };
            sockets.open(Ends::new(tuple.src, number, tuple.dst, peer_port), opened_ns, life, holders);
            if let Some(life) = sockets.get(cookie).filter(|_| passive) {
                let closer = holders.intern(holders.get(holder).clone(), start_ns);
                sockets.set_closer(life, Some(closer), holders);
            }
            let closed_ns = self.timeouts.last_seen_ns(flow).unwrap_or(stop_ns);
            sockets.close_measured(cookie, closed_ns, holders, |_| stats);
        } else if !passive {
            let port = Port { protocol: tuple.proto, number };
            let peer = Some((mapped(tuple.dst), peer_port));
            let endpoint = endpoint(cookie, port, holder, Some(mapped(tuple.src)), peer);
            endpoints.open(start_ns - 20_000, endpoint, holders);
            endpoints.close(cookie, stop_ns, holders);
        } else {
            holders.release(holder);
        }
    }

    /// Who has this address, and this end of a connection.
    fn holder(&mut self, addr: IpAddr, passive: bool) -> Option<Holder> {
        if let Some(container) = self.containers.get(&addr) {
            let Container { workers, caller } = container;
            let worker = workers.get(usize::try_from(self.cookie % WORKERS).unwrap_or_default());
            return if passive { worker.cloned() } else { Some(caller.clone()) };
        }
        if self.host_addrs.contains(&addr) && !passive {
            if self.cookie.is_multiple_of(FLOWS_PER_PROCESS) {
                let number = u32::try_from(self.cookie).unwrap_or_default();
                let command = format!("curl -sS --max-time 10 https://api.example.net/v1/items/{number}");
                self.script = service(10_000 + number % 4_000_000, "curl", &command, "cron");
            }
            return Some(self.script.clone());
        }
        self.resolver_addrs.contains(&addr).then(|| self.resolver.clone())
    }
}

fn endpoint(
    cookie: u64,
    port: Port,
    holder: HolderId,
    seen_addr: Option<[u8; 16]>,
    peer: Option<([u8; 16], u16)>,
) -> Endpoint {
    let bound_addr = mapped(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    Endpoint { cookie, port, holder, is_used: true, is_shared: false, bound_addr, seen_addr, peer }
}

/// A pod with a web server and an application in one container.
fn container(number: u32) -> Container {
    // Texts of the usual form that are the same in each run, and different from each other.
    let noise =
        |salt: u128| u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835 ^ salt);
    let id = format!("{:032x}{:032x}", noise(1), noise(2));
    let pod = Uuid::from_u128(noise(3)).to_string();
    let slice = format!("kubepods-burstable-pod{}.slice", pod.replace('-', "_"));
    let unit = format!("cri-containerd-{id}.scope");
    let cgroup = Arc::new(Cgroup {
        path: Some(format!("/kubepods.slice/kubepods-burstable.slice/{slice}/{unit}").into()),
        unit: Some(unit.into()),
        container_id: Some(id.into()),
        pod_uid: Some(pod.into()),
    });
    let cookie = FIRST_CONTAINER_COOKIE + u64::from(number);
    let holder = |tgid: u32, uid: u32, [comm, exe, cmdline, parent]: [&str; 4]| {
        let origin = Origin { user: None, cgroup: Some(Arc::clone(&cgroup)) };
        holder(process(tgid, exe, cmdline, parent), uid, comm, cookie, origin)
    };
    let first = 20_000 + number * 100;
    let worker = |offset: u32| {
        holder(first + offset, 101, ["nginx", "/usr/sbin/nginx", "nginx: worker process", "/usr/sbin/nginx"])
    };
    let command = format!("java -Xmx2g -jar /srv/app/service-{number}.jar --config /etc/app/config.yaml");
    let caller = ["java", "/usr/lib/jvm/java-21/bin/java", &command, "/usr/bin/tini"];
    Container { workers: (1..=4).map(worker).collect(), caller: holder(first + 10, 1000, caller) }
}

/// A process of the host, of a service of systemd.
fn service(tgid: u32, comm: &str, cmdline: &str, unit: &str) -> Holder {
    let unit = format!("{unit}.service");
    let cgroup = Cgroup {
        path: Some(format!("/system.slice/{unit}").into()),
        unit: Some(unit.into()),
        ..Cgroup::default()
    };
    let origin = Origin { user: Some("root".into()), cgroup: Some(Arc::new(cgroup)) };
    let process = process(tgid, &format!("/usr/bin/{comm}"), cmdline, "/usr/bin/dash");
    holder(process, 0, comm, HOST_COOKIE, origin)
}

fn process(tgid: u32, exe: &str, cmdline: &str, parent_exe: &str) -> Process {
    Process {
        tgid,
        start_ns: Some(1_789_990_000_000_000_000 + u64::from(tgid) * 1_000_000),
        ppid: Some(tgid - tgid % 100),
        login_uid: None,
        exe: Some(exe.into()),
        cmdline: Some(cmdline.to_owned().into()),
        parent_exe: Some(parent_exe.into()),
        ..Process::default()
    }
}

fn holder(process: Process, uid: u32, comm: &str, netns_cookie: u64, origin: Origin) -> Holder {
    let mut owner = Owner { time_ns: 1, tgid: process.tgid, uid, netns_cookie, ..Owner::UNKNOWN };
    owner.comm.iter_mut().zip(comm.bytes()).for_each(|(to, from)| *to = from);
    Holder { owner, process: Some(Arc::new(process)), origin, is_seeded: false }
}

fn mapped(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => Ipv6Addr::octets(&addr),
    }
}

/// The run that has these rows.
pub(crate) fn facts() -> RunFacts {
    RunFacts {
        run: RunContext {
            run_id: Uuid::from_u128(0x0199_7d2c_5c00_7000_8000_0000_0000_0001),
            host_id: "7d0a2a4b8fd14f0c9e3d5b6a1c2e4f60".to_owned(),
            host_name: "gateway-1".to_owned(),
            boot_id: Some("1b4e28ba-2fa1-41d2-883f-0016d3cca427".to_owned()),
        },
        kernel: "6.18.0".to_owned(),
        acct: Some(true),
        timestamp: Some(true),
        filter: None,
    }
}
