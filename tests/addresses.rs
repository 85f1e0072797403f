//! Addresses that come and go while flows last: a failover, a VPN and a lease take away what a server was asked by.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::{Dataset, Row};
use crate::harness::namespace::Namespace;
use crate::harness::program::{Program, Running};
use crate::harness::wait::wait_for;
use crate::processes::assert_process;

/// Of this file only: a daemon sees the sockets of all namespaces.
const PORT: u16 = 5354;

/// Addresses of the server that stay, and its networks.
const STAYS: [&str; 2] = ["10.78.0.2", "fd78::2"];

/// An address that comes and goes.
struct Guest {
    addr: &'static str,
    /// What ip(8) is told after `add` or `del`; `veth` is the interface to the client.
    object: &'static str,
    what: &'static [&'static str],
}

/// IPv4 and IPv6, and one of a whole network that is local: since a route says so, and since it is on loopback.
const GUESTS: [Guest; 4] = [
    Guest { addr: "10.78.0.9", object: "address", what: &["10.78.0.9/24", "dev", "veth"] },
    Guest { addr: "fd78::9", object: "address", what: &["fd78::9/64", "dev", "veth", "nodad"] },
    Guest { addr: "198.51.100.7", object: "route", what: &["local", "198.51.100.0/24", "dev", "lo"] },
    // All of the network of an address of loopback is local.
    Guest { addr: "203.0.113.9", object: "address", what: &["203.0.113.1/24", "dev", "lo"] },
];

/// A client and an observed server, with routes to all guests.
struct Net {
    client: Namespace,
    server: Namespace,
    interface: String,
}

impl Net {
    #[track_caller]
    fn new() -> Self {
        let [client, server] = [(); 2].map(|()| Namespace::tracked());
        let interface =
            client.link(&[("10.78.0.1", 24), ("fd78::1", 64)], &server, &[(STAYS[0], 24), (STAYS[1], 64)]);
        for network in ["198.51.100.0/24", "203.0.113.0/24"] {
            client.ip(&["route", "add", network, "via", STAYS[0]]);
        }
        // Entries are to end while the test waits, when their addresses have gone for longer than the daemon takes
        // to look at all of them.
        server.sysctl("net/netfilter/nf_conntrack_udp_timeout", "12");
        Self { client, server, interface }
    }

    #[track_caller]
    fn set(&self, action: &str, guest: &Guest) {
        let what = guest.what.iter().map(|word| if *word == "veth" { self.interface.as_str() } else { word });
        // Only what is added has no duplicates to look for.
        let what = what.filter(|word| action == "add" || *word != "nodad");
        self.server.ip(&[guest.object, action].into_iter().chain(what).collect::<Vec<_>>());
    }
}

/// Waits until the daemon has looked for changes again: what comes or goes later, has done so after that for sure.
#[track_caller]
fn wait_until_looked_again(namespace: &Namespace) {
    for action in ["add", "del"] {
        namespace.ip(&["address", action, "192.0.2.77/32", "dev", "lo"]);
        wait_until_told(namespace);
    }
}

/// Waits until the daemon has read all that the kernel told of addresses.
#[track_caller]
fn wait_until_told(namespace: &Namespace) {
    wait_for("changes of addresses to be read", || {
        let sockets = namespace.inside(|| fs::read_to_string("/proc/thread-self/net/netlink")).unwrap();
        let mut lines = sockets.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        // The columns are: socket, protocol, port id, groups, unread bytes. Protocol 0 is routing.
        lines.all(|words| words[1] != "0" || words[4] == "0").then_some(())
    });
}

fn destination(addr: &str) -> String {
    match addr.parse::<IpAddr>().unwrap() {
        IpAddr::V4(addr) => format!("{addr}:{PORT}"),
        IpAddr::V6(addr) => format!("[{addr}]:{PORT}"),
    }
}

/// The row of the flow to this address from this port.
#[track_caller]
fn row_of<'d>(dataset: &'d Dataset, addr: &str, port: u16) -> &'d Row {
    let mut rows = dataset.rows_to(PORT);
    rows.retain(|row| row.text("dst_ip") == Some(addr) && row.int("src_port") == Some(port.into()));
    assert_eq!(rows.len(), 1, "{addr} from {port}: {rows:#?}");
    rows[0]
}

#[track_caller]
fn programs(directory: &Path) -> [Program; 2] {
    ["fl-server", "fl-client"].map(|name| Program::new(directory, name))
}

/// Nobody sees the server send from the address: it only listens.
#[test]
fn who_was_asked_by_an_address_that_has_gone_is_named() {
    let net = Net::new();
    let [output, directory] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [server, client] = programs(directory.path());
    GUESTS.iter().for_each(|guest| net.set("add", guest));
    let daemon = Daemon::start(output.path(), &[&net.server], &[]);
    let running = server.start(&net.server, &format!("udp-listen [::]:{PORT}"));
    running.wait_for("listening");
    let ask = |addr: &str, port: u16| {
        client.run(&net.client, &format!("udp-send-from {port} {} 1", destination(addr)));
        running.wait_for(&format!("received {port}\n"));
    };
    let all: Vec<&str> = STAYS.into_iter().chain(GUESTS.map(|guest| guest.addr)).collect();
    let ports = |first: u16| all.clone().into_iter().zip(first..);
    // While they are there from the beginning, …
    ports(4000).for_each(|(addr, port)| ask(addr, port));
    wait_until_looked_again(&net.server);
    GUESTS.iter().for_each(|guest| net.set("del", guest));
    // … and for a moment.
    for (addr, port) in ports(5000) {
        let guest = GUESTS.iter().find(|guest| guest.addr == addr);
        if let Some(guest) = guest {
            net.set("add", guest);
            wait_until_told(&net.server);
        }
        ask(addr, port);
        if let Some(guest) = guest {
            wait_until_looked_again(&net.server);
            net.set("del", guest);
        }
    }
    let pid = running.pid();
    wait_for("the entries to expire", || {
        (!conntrack::list(&net.server).contains("dport=5354")).then_some(())
    });
    daemon.stop();
    let dataset = Dataset::read(output.path());
    for (addr, port) in ports(4000).chain(ports(5000)) {
        let row = row_of(&dataset, addr, port);
        assert_process(row, "dst", "endpoint", &server, pid, 0);
        assert_eq!(row.text("direction"), Some("local"), "{row:?}");
    }
}

/// The answer tells whose the address is, however late the daemon learns that it is there.
#[test]
fn who_answers_from_an_address_that_has_just_come_is_named() {
    let net = Net::new();
    let [output, directory] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [server, client] = programs(directory.path());
    let daemon = Daemon::start(output.path(), &[&net.server], &[]);
    let running = server.start(&net.server, &format!("udp-serve 0.0.0.0:{PORT}"));
    running.wait_for("listening");
    // The only one from which the server can answer a client of its network.
    net.client.ip(&["address", "add", "10.78.5.1/24", "dev", &net.interface]);
    let guest = &Guest { addr: "10.78.5.9", object: "address", what: &["10.78.5.9/24", "dev", "veth"] };
    let ports = 4000..4020;
    for port in ports.clone() {
        net.set("add", guest);
        client.run(&net.client, &format!("udp-send-from {port} {} 1", destination(guest.addr)));
        running.wait_for(&format!("answered {port}\n"));
        net.set("del", guest);
    }
    conntrack::flush(&net.server);
    let pid = running.pid();
    daemon.stop();
    let dataset = Dataset::read(output.path());
    for port in ports {
        assert_process(row_of(&dataset, guest.addr, port), "dst", "endpoint", &server, pid, 0);
    }
}

/// A router takes over the address that it has forwarded to: what it forwarded was not for its own server.
#[test]
fn an_address_counts_from_when_it_has_come() {
    let [client, router, other] = [(); 3].map(|()| Namespace::tracked());
    client.link(&[("10.77.0.1", 24)], &router, &[("10.77.0.2", 24)]);
    let behind = router.link(&[("10.77.1.2", 24)], &other, &[("10.77.1.3", 24), ("10.77.1.9", 24)]);
    client.ip(&["route", "add", "10.77.1.0/24", "via", "10.77.0.2"]);
    other.ip(&["route", "add", "10.77.0.0/24", "via", "10.77.1.2"]);
    router.sysctl("net/ipv4/ip_forward", "1");
    let [output, directory] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [server, asks] = programs(directory.path());
    let daemon = Daemon::start(output.path(), &[&router], &[]);
    let [behind_it, own] = [&other, &router].map(|namespace| {
        let running = server.start(namespace, &format!("udp-listen 0.0.0.0:{PORT}"));
        running.wait_for("listening");
        running
    });
    let ask = |running: &Running, port: u16| {
        asks.run(&client, &format!("udp-send-from {port} 10.77.1.9:{PORT} 1"));
        running.wait_for(&format!("received {port}\n"));
    };
    ask(&behind_it, 4000);
    wait_until_looked_again(&router);
    other.ip(&["address", "del", "10.77.1.9/24", "dev", &behind]);
    router.ip(&["address", "add", "10.77.1.9/24", "dev", &behind]);
    wait_until_told(&router);
    ask(&own, 4001);
    conntrack::flush(&router);
    let pid = own.pid();
    daemon.stop();
    let dataset = Dataset::read(output.path());
    let before = row_of(&dataset, "10.77.1.9", 4000);
    assert_eq!(before.of_process("dst"), [""; 0], "{before:?}");
    // The client is of this host, too.
    assert_eq!(before.text("direction"), Some("outbound"), "{before:?}");
    let after = row_of(&dataset, "10.77.1.9", 4001);
    assert_process(after, "dst", "endpoint", &server, pid, 0);
    assert_eq!(after.text("direction"), Some("local"), "{after:?}");
}
