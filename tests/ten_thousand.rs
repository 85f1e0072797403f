//! A burst: all entries of a table end at once, each becomes one row.

use std::collections::HashSet;
use std::net::IpAddr;

use flowlog::flow::{L4, Tuple};

use crate::harness::daemon::Daemon;
use crate::harness::dataset::{Dataset, Row};
use crate::harness::entries::make_and_flush;
use crate::harness::namespace::Namespace;

const FLOWS: u32 = 10_000;

#[test]
fn each_of_ten_thousand_flows_is_one_row() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let made = make_and_flush(&namespace, 0..FLOWS);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows();
    let numbers = rows.iter().map(|row| row.int("seq").unwrap());
    assert!(numbers.eq(1..=i64::from(FLOWS)), "seq has holes or duplicates");

    let made: HashSet<_> = made.iter().map(ends_of_tuple).collect();
    let logged: HashSet<_> = rows.iter().map(|row| ends_of_row(row)).collect();
    assert_eq!(made.len(), rows.len(), "as many rows as flows");
    assert!(logged == made, "{} of the flows are not logged", made.difference(&logged).count());
}

type Ends = (IpAddr, Option<i64>, IpAddr, Option<i64>);

fn ends_of_tuple(tuple: &Tuple) -> Ends {
    let L4::Ports { src, dst } = tuple.l4 else { panic!("{tuple:?} has no ports") };
    (tuple.src, Some(src.into()), tuple.dst, Some(dst.into()))
}

fn ends_of_row(row: &Row) -> Ends {
    let address = |column| row.text(column).unwrap().parse().unwrap();
    (address("src_ip"), row.int("src_port"), address("dst_ip"), row.int("dst_port"))
}
