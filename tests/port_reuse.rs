//! Two programs that take turns on one source port: the old entry is destroyed only when the next
//! connection starts, and must still name the program that made it.

use std::net::SocketAddrV4;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;

/// How often each program connects.
const ROUNDS: usize = 40;

/// What each program sends tells in the counters of the kernel which one it was, without a join.
const FEW_BYTES: usize = 10;
const MANY_BYTES: usize = 10_000;

/// How many of the rows may be without a program because the times do not tell: a tenth.
const UNKNOWN_AT_MOST: usize = 2 * ROUNDS / 10;

#[test]
fn programs_that_share_a_port_are_never_mixed_up() {
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let server = Program::new(programs.path(), "fl-server");
    let few = Program::new(programs.path(), "fl-few");
    let many = Program::new(programs.path(), "fl-many");

    let from: SocketAddrV4 = "127.0.0.1:4000".parse().unwrap();
    let to: SocketAddrV4 = "127.0.0.1:5000".parse().unwrap();
    let _serving = server.serve(&namespace, 0, to.into());
    let mut few_running = few.caller(&namespace, from, to, FEW_BYTES);
    let mut many_running = many.caller(&namespace, from, to, MANY_BYTES);
    for round in 1..=ROUNDS {
        few_running.call(round);
        many_running.call(round);
    }
    conntrack::flush(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), 2 * ROUNDS);
    let threshold = i64::try_from(MANY_BYTES).unwrap();
    let of_many = rows.iter().filter(|row| row.int("orig_bytes").unwrap() > threshold).count();
    assert_eq!(of_many, ROUNDS, "the counters tell the programs apart");

    let mut unknown = 0;
    for row in rows {
        let is_of_many = row.int("orig_bytes").unwrap() > threshold;
        let (program, running) = if is_of_many { (&many, &many_running) } else { (&few, &few_running) };
        match row.text("src_exe") {
            Some(exe) => assert_eq!(exe, program.exe(), "{row:?}"),
            None => unknown += 1,
        }
        let pid = row.int("src_pid");
        assert!(pid.is_none_or(|pid| pid == i64::from(running.pid())), "{row:?}");
        assert!(row.text("dst_exe").is_none_or(|exe| exe == server.exe()), "{row:?}");
    }
    assert!(unknown <= UNKNOWN_AT_MOST, "{unknown} of {} rows have no program", 2 * ROUNDS);
}
