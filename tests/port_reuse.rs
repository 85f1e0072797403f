//! Two programs that take turns on one source port: the old entry is destroyed only when the next
//! connection starts, and must still name the program that made it.

use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixDatagram;

use crate::harness::conntrack::{self, Conntrack, Destroyed};
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;

/// How often each program connects.
const ROUNDS: usize = 500;

/// What each program sends tells in the counters of the kernel which one it was, without a join.
const FEW_BYTES: usize = 10;
const MANY_BYTES: usize = 10_000;

/// Packets that the initiator of each connection sends, of which at most some are sent again. A kernel may take the
/// next connection for the same flow, as Linux 6.12 does at times after a reset: its entry then has the packets of both.
/// Or a connection has two entries: where the server still has the one before, its answer is refused, and all begins
/// again, as on Linux 5.10; or a packet is late. The counters then do not tell of which program the flow is.
const PACKETS_OF_ONE: RangeInclusive<i64> = 4..=6;

/// How many of the rows may be without a program because the times do not tell, how many not of one whole connection,
/// and how many too many or too few: one in a hundred.
const UNKNOWN_AT_MOST: usize = 2 * ROUNDS / 100;

/// Nobody listens at this port: the flow to it is the last one.
const LAST_PORT: u16 = 5999;

#[test]
fn programs_that_share_a_port_of_ipv4_are_never_mixed_up() {
    programs_that_share_a_port("127.0.0.1:4000".parse().unwrap(), "127.0.0.1:5000".parse().unwrap());
}

#[test]
fn programs_that_share_a_port_of_ipv6_are_never_mixed_up() {
    programs_that_share_a_port("[::1]:4000".parse().unwrap(), "[::1]:5000".parse().unwrap());
}

#[track_caller]
fn programs_that_share_a_port(from: SocketAddr, to: SocketAddr) {
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let witness = Conntrack::start(&namespace);
    let server = Program::new(programs.path(), "fl-server");
    let few = Program::new(programs.path(), "fl-few");
    let many = Program::new(programs.path(), "fl-many");

    let _serving = server.serve(&namespace, 0, to);
    let [of_few, of_many] = ["few", "many"].map(|name| programs.path().join(name).display().to_string());
    let take_turns = |program: &Program, bytes: usize, own: &str, other: &str| {
        let role = format!("take-turns {from} {to} {bytes} {ROUNDS} {own} {other}");
        let running = program.start(&namespace, &role);
        running.wait_for("waiting");
        running
    };
    let few_running = take_turns(&few, FEW_BYTES, &of_few, &of_many);
    let many_running = take_turns(&many, MANY_BYTES, &of_many, &of_few);
    UnixDatagram::unbound().unwrap().send_to(&[0], &of_few).unwrap();
    let [few_pid, many_pid] = [few_running, many_running].map(|running| running.finish().pid);
    conntrack::flush(&namespace);
    namespace.inside(|| TcpStream::connect((from.ip(), LAST_PORT))).unwrap_err();
    conntrack::flush(&namespace);
    let mut expected = ids_and_counters(witness.stop(LAST_PORT), to.port());
    let log = daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(to.port());
    let mut logged: Vec<_> =
        rows.iter().map(|row| ["ct_id", "orig_packets", "orig_bytes"].map(|name| row.int(name))).collect();
    expected.sort();
    logged.sort();
    assert_eq!(logged, expected, "left: rows of flowlog, right: lines of conntrack");

    let threshold = i64::try_from(MANY_BYTES).unwrap();
    // Of two connections in one flow the one is of each program: it has the bytes of both.
    let of_many = rows.iter().filter(|row| row.int("orig_bytes").unwrap() > threshold).count();
    assert_eq!(of_many, ROUNDS, "the counters tell the programs apart");
    assert!(rows.len().abs_diff(2 * ROUNDS) <= UNKNOWN_AT_MOST, "{} entries", rows.len());
    let (rows, others): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| PACKETS_OF_ONE.contains(&row.int("orig_packets").unwrap()));
    assert!(others.len() <= UNKNOWN_AT_MOST, "{} rows are not of one connection", others.len());
    for row in others {
        let of_either = |found| [few_pid, many_pid].map(i64::from).contains(&found);
        assert!(row.int("src_pid").is_none_or(of_either), "{row:?}");
        assert!(row.text("src_exe").is_none_or(|exe| exe == few.exe() || exe == many.exe()), "{row:?}");
        assert!(row.text("dst_exe").is_none_or(|exe| exe == server.exe()), "{row:?}");
    }

    let [mut unknown_src, mut unknown_dst] = [0, 0];
    for row in rows {
        let is_of_many = row.int("orig_bytes").unwrap() > threshold;
        let (program, pid) = if is_of_many { (&many, many_pid) } else { (&few, few_pid) };
        match row.text("src_exe") {
            Some(exe) => assert_eq!(exe, program.exe(), "{row:?}"),
            None => unknown_src += 1,
        }
        assert!(row.int("src_pid").is_none_or(|found| found == i64::from(pid)), "{row:?}");
        match row.text("dst_exe") {
            Some(exe) => assert_eq!(exe, server.exe(), "{row:?}"),
            None => unknown_dst += 1,
        }
    }
    let ambiguous = dataset
        .rows_to(to.port())
        .iter()
        .filter(|row| row.text("src_attribution") == Some("ambiguous"))
        .count();
    println!(
        "{unknown_src} initiators ({ambiguous} ambiguous) and {unknown_dst} responders are not known; {log}"
    );
    for unknown in [unknown_src, unknown_dst] {
        assert!(
            unknown <= UNKNOWN_AT_MOST,
            "{unknown_src} initiators and {unknown_dst} responders are not known, of {} rows",
            2 * ROUNDS
        );
    }
}

/// The entries whose responder has this port, as the rows have them.
fn ids_and_counters(destroyed: Vec<Destroyed>, dst_port: u16) -> Vec<[Option<i64>; 3]> {
    let destroyed = destroyed.into_iter().filter(|entry| entry.orig.dst_port == Some(i64::from(dst_port)));
    destroyed
        .map(|Destroyed { id, orig_counters: [packets, bytes], .. }| [Some(id), packets, bytes])
        .collect()
}
