//! A client and a server behind a router that translates both addresses, observed at two places.

use std::net::SocketAddr;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;
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
    let (pid, port) = calling.connect(&client, 0, "10.78.1.1:80".parse().unwrap());
    conntrack::flush_closed(&router);
    conntrack::flush_closed(&client);
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
