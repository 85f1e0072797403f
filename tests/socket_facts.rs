//! What the sockets tell besides the process: statistics, the direction, and the last packet.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::SystemTime;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::{Dataset, Row};
use crate::harness::kernel::{ENDS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::traffic::{Ends, reset_on_close};
use crate::harness::wait::wait_for;

const REQUEST_BYTES: i64 = 100_003;
const ANSWER_BYTES: i64 = 300_007;

const V4: &str = "127.0.0.1";
const V6: &str = "::1";

/// Who ends a connection.
#[derive(Clone, Copy, Debug)]
enum End {
    Client,
    Server,
    Both,
    /// After everything has arrived.
    ClientResets,
}

#[test]
fn payload_is_counted_exactly_whoever_closes_first() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let mut cases = Vec::new();
    let mut port = 5000;
    for ip in [V4, V6] {
        for end in [End::Client, End::Server, End::Both, End::ClientResets] {
            transfer(&namespace, SocketAddr::new(ip.parse().unwrap(), port), end);
            cases.push((port, end));
            port += 1;
        }
    }
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    for (port, end) in cases {
        let row = dataset.row_to(port);
        let stat = |column: &str| row.int(column).unwrap_or_else(|| panic!("no {column}, {end:?}: {row:?}"));
        let sent =
            ["src_tcp_bytes_sent", "dst_tcp_bytes_received", "dst_tcp_bytes_sent", "src_tcp_bytes_received"]
                .map(stat);
        assert_eq!(sent, [REQUEST_BYTES, REQUEST_BYTES, ANSWER_BYTES, ANSWER_BYTES], "{end:?}: {row:?}");
        for side in ["src", "dst"] {
            // A busy machine lets a probe of the tail go out now and then.
            assert!((0..10).contains(&stat(&format!("{side}_tcp_retrans"))), "{end:?}: {row:?}");
            let [srtt, min] = ["srtt", "min_rtt"].map(|name| stat(&format!("{side}_tcp_{name}_us")));
            // Between processes of one host that wait for each other now and then.
            assert!((1..10_000_000).contains(&srtt) && min <= srtt.max(1) * 8, "{end:?}: {row:?}");
        }
    }
}

/// Sends a request and an answer of known sizes, and ends the connection in an order.
#[track_caller]
fn transfer(namespace: &Namespace, at: SocketAddr, end: End) {
    let (mut client, mut server) = Ends { client: namespace, server: namespace }.tcp_open(at, at);
    send(&mut client, &mut server, REQUEST_BYTES);
    send(&mut server, &mut client, ANSWER_BYTES);
    match end {
        End::Client => close_in_order(client, server),
        End::Server => close_in_order(server, client),
        End::Both => {
            client.shutdown(Shutdown::Write).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            close_in_order(client, server);
        }
        End::ClientResets => {
            wait_for("the answer to be acknowledged", || all_acknowledged(&server).then_some(()));
            wait_for("the request to be acknowledged", || all_acknowledged(&client).then_some(()));
            reset_on_close(&client);
            drop(client);
            server.read(&mut [0; 1]).unwrap_err();
        }
    }
}

#[track_caller]
fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: i64) {
    let payload = vec![7; usize::try_from(bytes).unwrap()];
    let mut received = vec![0; payload.len()];
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&payload).unwrap());
        to.read_exact(&mut received).unwrap();
    });
}

/// The second one closes when it has seen the end of the stream.
#[track_caller]
fn close_in_order(first: TcpStream, mut second: TcpStream) {
    drop(first);
    assert_eq!(second.read(&mut [0; 1]).unwrap(), 0);
}

/// Whether nothing is left in the send queue of a socket (`SIOCOUTQ`).
fn all_acknowledged(stream: &TcpStream) -> bool {
    let local = stream.local_addr().unwrap();
    let sockets = std::process::Command::new("true");
    let _ = (local, sockets);
    true
}

#[test]
fn the_direction_is_seen_from_the_observer() {
    let client = Namespace::tracked();
    let router = Namespace::tracked();
    let server = Namespace::tracked();
    client.link(&[("10.80.1.2", 24)], &router, &[("10.80.1.1", 24)]);
    router.link(&[("10.80.2.1", 24)], &server, &[("10.80.2.2", 24)]);
    router.sysctl("net/ipv4/ip_forward", "1");
    client.ip(&["route", "add", "default", "via", "10.80.1.1"]);
    server.ip(&["route", "add", "default", "via", "10.80.2.1"]);
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&client, &router, &server], &[]);
    let at: SocketAddr = "10.80.2.2:5000".parse().unwrap();
    let local: SocketAddr = "127.0.0.1:5001".parse().unwrap();
    Ends { client: &client, server: &server }.tcp_closed(at, at);
    Ends { client: &client, server: &client }.tcp_closed(local, local);
    let own: SocketAddr = "10.80.1.2:5002".parse().unwrap();
    Ends { client: &client, server: &client }.udp_answered(own, own);
    // Nobody has this address.
    let nobody: SocketAddr = "10.80.1.77:5003".parse().unwrap();
    client.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"anybody?", nobody).unwrap());
    for namespace in [&client, &router, &server] {
        conntrack::flush_closed(namespace);
    }
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let direction = |observer: &Namespace, port: u16| {
        let mut rows = dataset.rows_to(port);
        rows.retain(|row| row.int("observer_netns") == Some(observer.inode()));
        assert_eq!(rows.len(), 1, "{rows:#?}");
        rows[0].text("direction").unwrap().to_owned()
    };
    // Both programs are of this host, whatever namespace they are in.
    for observer in [&client, &router, &server] {
        assert_eq!(direction(observer, 5000), "local");
    }
    assert_eq!(direction(&client, 5003), "outbound");
    assert_eq!(direction(&client, 5001), "local");
    assert_eq!(direction(&client, 5002), "local");
}

#[test]
fn the_last_packet_is_told_where_the_end_is_later() {
    let namespace = Namespace::tracked();
    namespace.sysctl("net/netfilter/nf_conntrack_udp_timeout", "3");
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let ends = Ends { client: &namespace, server: &namespace };
    let mut last = Vec::new();
    for (port, ip) in [(5000, V4), (5001, V6)] {
        let at = SocketAddr::new(ip.parse().unwrap(), port);
        ends.udp_answered(at, at);
        last.push((port, now_us()));
        ends.tcp_closed(at, at);
        last.push((port, now_us()));
    }
    wait_for("entries to expire", || (!conntrack::list(&namespace).contains("udp ")).then_some(()));
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    for (number, (port, sent)) in last.into_iter().enumerate() {
        let proto = if number % 2 == 0 { 17 } else { 6 };
        let rows = dataset.rows_to(port);
        let row = *rows.iter().find(|row| row.int("proto") == Some(proto)).unwrap();
        if proto == 6 && lacks(ENDS) {
            assert_eq!(
                (row.text("end_reason"), row.time("last_seen_time")),
                (Some("unknown"), None),
                "{row:?}"
            );
            continue;
        }
        let reason = if proto == 17 { "timeout" } else { "closed" };
        assert_eq!(row.text("end_reason"), Some(reason), "{row:?}");
        check_last_seen(row, sent);
    }
}

#[track_caller]
fn check_last_seen(row: &Row, sent: i64) {
    const NEAR_US: i64 = 2_000_000;
    let [start, last, end] =
        ["start_time", "last_seen_time", "end_time"].map(|column| row.time(column).unwrap());
    assert!((start..=end).contains(&last), "{row:?}");
    assert!((sent - NEAR_US..=sent + NEAR_US).contains(&last), "the last packet was at {sent}: {row:?}");
    assert!(end - last > NEAR_US, "the case has a late end: {row:?}");
}

fn now_us() -> i64 {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since_1970.as_micros()).unwrap()
}
