//! A client and a server behind a router that translates both addresses, observed at two places.

use std::net::SocketAddr;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, no_starts};
use crate::harness::dataset::Dataset;
use crate::harness::entries;
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;
use crate::harness::wait::wait_for;
use crate::processes::assert_process;

const USER: u32 = 65_534;

#[test]
fn programs_behind_nat_are_named_at_each_observer() {
    let client = Namespace::tracked();
    let router = Namespace::tracked();
    let server = Namespace::bare();
    client.link(&[("10.78.1.2", 24)], &router, &[("10.78.1.1", 24)]);
    router.link(&[("10.78.2.1", 24)], &server, &[("10.78.2.2", 24)]);
    router.sysctl("net/ipv4/ip_forward", "1");
    router.nft(
        "table ip nat {
            chain pre { type nat hook prerouting priority dstnat;
                ip daddr 10.78.1.1 tcp dport 80 dnat to 10.78.2.2:5000; }
            chain post { type nat hook postrouting priority srcnat;
                ip daddr 10.78.2.2 snat to 10.78.2.1; }
        }",
    );

    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&router, &client], &[]);
    let serving = Program::new(programs.path(), "fl-server");
    let calling = Program::new(programs.path(), "fl-client");
    let at: SocketAddr = "10.78.2.2:5000".parse().unwrap();
    let running = serving.serve(&server, USER, at);
    let closing = no_starts();
    let (pid, port) = calling.connect(&client, 0, "10.78.1.1:80".parse().unwrap());
    conntrack::flush_closed(&router);
    conntrack::flush_closed(&client);
    drop(closing);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(80);
    assert_eq!(rows.len(), 2, "one row of each observer");
    for row in &rows {
        assert_eq!(row.text("src_ip"), Some("10.78.1.2"));
        assert_eq!(row.int("src_port"), Some(port.into()));
        assert_eq!(row.text("dst_ip"), Some("10.78.1.1"));
        assert_process(row, "src", "socket", &calling, pid, 0);
    }
    let of = |observer: &Namespace| {
        *rows.iter().find(|row| row.int("observer_netns") == Some(observer.inode())).unwrap()
    };

    // The router sees both tuples: the one that the client sends with and the one that the server gets.
    let at_router = of(&router);
    assert_eq!(at_router.text("nat_src_ip"), Some("10.78.2.1"));
    assert_eq!(at_router.text("nat_dst_ip"), Some("10.78.2.2"));
    assert_eq!(at_router.int("nat_dst_port"), Some(5000));
    assert_process(at_router, "dst", "closer", &serving, running.pid(), USER);

    // The client's own table knows nothing of what the router does.
    let at_client = of(&client);
    assert_eq!((at_client.text("nat_src_ip"), at_client.text("nat_dst_ip")), (None, None));
    assert_eq!(at_client.of_process("dst"), [""; 0], "no local socket has the router's address");
}

#[test]
fn datagrams_behind_nat_are_of_the_program_inside() {
    for (client_ip, gateway, outside, server_ip, prefix, family, dst) in [
        ("10.78.3.2", "10.78.3.1", "10.78.4.1", "10.78.4.2", 24, "ip", "10.78.4.2"),
        ("fd78:3::2", "fd78:3::1", "fd78:4::1", "fd78:4::2", 64, "ip6", "fd78:4::2"),
    ] {
        let client = Namespace::bare();
        let router = Namespace::tracked();
        let server = Namespace::bare();
        client.link(&[(client_ip, prefix)], &router, &[(gateway, prefix)]);
        router.link(&[(outside, prefix)], &server, &[(server_ip, prefix)]);
        router.sysctl("net/ipv4/ip_forward", "1");
        router.sysctl("net/ipv6/conf/all/forwarding", "1");
        client.ip(&["route", "add", "default", "via", gateway]);
        router.nft(&format!(
            "table {family} nat {{ chain post {{ type nat hook postrouting priority 100; \
                {family} daddr {dst} snat to {outside}; }}; }}"
        ));

        let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let daemon = Daemon::start(output.path(), &[&router], &[]);
        let asking = Program::new(programs.path(), "fl-client");
        let pinging = Program::new(programs.path(), "fl-ping");
        let at = SocketAddr::new(server_ip.parse().unwrap(), 53);
        let asked = asking.run(&client, &format!("udp-send {at}"));
        let pinged = pinging.run(&client, &format!("raw-echo {server_ip} 4711"));
        // The programs may be gone before their packets have found their way.
        wait_for("both entries at the router", || {
            let entries = conntrack::list(&router);
            (entries.contains("dport=53 ") && entries.contains("id=4711 ")).then_some(())
        });
        conntrack::flush(&router);
        daemon.stop();

        let dataset = Dataset::read(output.path());
        let row = dataset.row_to(53);
        assert_eq!(row.text("nat_src_ip"), Some(outside), "{row:?}");
        assert_process(row, "src", "endpoint", &asking, asked.pid, 0);
        assert_eq!(row.of_process("dst"), [""; 0], "{row:?}");
        assert_eq!(row.text("direction"), Some("outbound"), "{row:?}");
        let rows = dataset.rows();
        let row = *rows.iter().find(|row| row.int("icmp_id") == Some(4711)).unwrap();
        assert_process(row, "src", "endpoint", &pinging, pinged.pid, 0);
    }
}

/// Entries of hosts that do not exist stand for hosts that are not this one.
#[test]
fn a_flow_between_other_hosts_is_forwarded_and_has_no_process() {
    let router = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&router], &[]);
    let made = entries::make_and_flush(&router, 0..100);
    daemon.stop();
    let dataset = Dataset::read(output.path());
    assert_eq!(dataset.rows().len(), made.len());
    for row in dataset.rows() {
        assert_eq!(row.text("direction"), Some("forwarded"), "{row:?}");
        for end in ["src", "dst"] {
            assert_eq!(row.of_process(end), [""; 0], "{row:?}");
        }
    }
}
