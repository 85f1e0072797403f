//! Network namespaces that come and go while flowlog runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use flowlog::connections::ctnetlink::Requests;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_xorshift::XorShiftRng;

use crate::harness::daemon::{Daemon, flowlog, run_command};
use crate::harness::dataset::Dataset;
use crate::harness::entries::{self, make};
use crate::harness::namespace::Namespace;
use crate::harness::tally::{GapRow, Tally};
use crate::harness::wait::wait_for;

/// How many namespaces; the long form has 300.
const NAMESPACES: u32 = 40;

/// How many are there at the same time, at most.
const AT_ONCE: usize = 8;

/// How soon one that appears is watched.
const SOON: Duration = Duration::from_secs(2);

fn start(output: &Path, pattern: &str) -> Daemon {
    let mut command = run_command(output, &[]);
    command.args(["--netns", pattern, "--no-ebpf"]);
    Daemon::spawn(command)
}

/// Waits until the log has this of a namespace.
#[track_caller]
fn wait_for_line(daemon: &Daemon, namespace: &str, what: &str) -> Duration {
    let begun = Instant::now();
    let line = format!("`{namespace}` {what}");
    wait_for(&line, || daemon.log().contains(&line).then_some(()));
    begun.elapsed()
}

/// Losses but for the time before a test had set up a namespace.
fn losses(tally: &mut Tally) {
    let is_set_up =
        |gap: &GapRow| !["not_tracked", "accounting_off", "timestamps_off"].contains(&&*gap.cause);
    tally.gaps.retain(is_set_up);
}

#[track_caller]
fn verify(output: &Path) {
    let verified = flowlog(&["verify", output.to_str().unwrap()]);
    assert_eq!(verified.status.code(), Some(0), "{verified}");
}

/// Whether the host end of the pair is there, which goes with the namespace that has the other end.
fn has_peer(hub: &Namespace, interface: &str) -> bool {
    hub.inside(|| {
        let names = nix::net::if_::if_nameindex().unwrap();
        names.into_iter().any(|one| one.name().to_bytes() == interface.as_bytes())
    })
}

/// A namespace of the test, with the number of its first flow.
struct Made {
    namespace: Namespace,
    interface: String,
    open: std::ops::Range<u32>,
}

#[test]
fn all_flows_of_namespaces_that_come_and_go_are_rows_and_none_is_kept_alive() {
    let count = std::env::var("FLOWLOG_NAMESPACES").map_or(NAMESPACES, |count| count.parse().unwrap());
    let output = tempfile::tempdir().unwrap();
    let hub = Namespace::bare();
    let prefix = format!("fc-{}-", std::process::id());
    let daemon = start(output.path(), &format!("{prefix}*"));
    let mut random = XorShiftRng::seed_from_u64(21);
    let (mut there, mut gone, mut flows): (Vec<Made>, Vec<String>, u32) = (Vec::new(), Vec::new(), 0);
    for number in 0..count {
        let namespace = Namespace::named(format!("{prefix}{number}"));
        namespace.track();
        let interface = hub.link(&[], &namespace, &[]);
        // Before it is watched or after, whatever comes first.
        let (first, ended, open) = (flows, random.random_range(0..200), random.random_range(0..200));
        flows += ended + open;
        let took = wait_for_line(&daemon, namespace.name(), "came, and is watched");
        assert!(took < SOON, "{took:?}");
        entries::make_and_flush(&namespace, first..first + ended);
        let open = first + ended..flows;
        make(&namespace, open.clone());
        there.push(Made { namespace, interface, open });
        there.shuffle(&mut random);
        while there.len() > random.random_range(0..AT_ONCE) {
            let Made { namespace, interface, open } = there.pop().unwrap();
            if random.random_bool(0.5) {
                // Their events are read before it is gone, or not.
                namespace.inside(Requests::open).unwrap().flush().unwrap();
            }
            drop((namespace, open));
            gone.push(interface);
        }
    }
    let names: Vec<_> = there.iter().map(|made| made.namespace.name().to_owned()).collect();
    gone.extend(there.into_iter().map(|Made { interface, .. }| interface));
    for name in names {
        wait_for_line(&daemon, &name, "is deleted, and is watched no more");
    }
    for interface in gone {
        wait_for("the namespace to be freed", || (!has_peer(&hub, &interface)).then_some(()));
    }
    daemon.stop();
    let mut tally = Tally::read(output.path());
    losses(&mut tally);
    tally.check_exact(flows);
    verify(output.path());
}

#[test]
fn a_namespace_that_is_in_use_is_watched_until_its_last_process_ends() {
    let output = tempfile::tempdir().unwrap();
    let hub = Namespace::bare();
    let name = format!("fu-{}", std::process::id());
    let namespace = Namespace::named(name.clone());
    namespace.track();
    let interface = hub.link(&[], &namespace, &[]);
    let daemon = start(output.path(), &name);
    let mut sleeping = namespace.inside(|| std::process::Command::new("sleep").arg("1000").spawn().unwrap());
    let requests = namespace.inside(Requests::open).unwrap();
    make(&namespace, 0..100);
    drop(namespace);
    wait_for_line(&daemon, &name, "has no name any more");
    let mut requests = requests;
    requests.flush().unwrap();
    drop(requests);
    assert!(has_peer(&hub, &interface));
    sleeping.kill().unwrap();
    sleeping.wait().unwrap();
    wait_for_line(&daemon, &name, "is deleted, and is watched no more: 0 connections were open");
    wait_for("the namespace to be freed", || (!has_peer(&hub, &interface)).then_some(()));
    // The name can come again.
    let namespace = Namespace::named(name.clone());
    namespace.track();
    wait_for_line(&daemon, &name, "came, and is watched");
    make(&namespace, 100..200);
    daemon.stop();
    let mut tally = Tally::read(output.path());
    losses(&mut tally);
    assert_eq!(tally.rows.len(), 100, "those of the second one go on");
    tally.check_exact(100);
    verify(output.path());
}

#[test]
fn many_namespaces_that_come_at_once_are_watched_soon_and_named() {
    let output = tempfile::tempdir().unwrap();
    let prefix = format!("fm-{}-", std::process::id());
    let daemon = start(output.path(), &format!("{prefix}*"));
    let namespaces: Vec<_> =
        (0..NAMESPACES).map(|number| Namespace::named(format!("{prefix}{number}"))).collect();
    let begun = Instant::now();
    for namespace in &namespaces {
        wait_for_line(&daemon, namespace.name(), "came, and is watched");
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    // Those that are read only when they have something are read.
    for (number, namespace) in (0..).zip(&namespaces) {
        namespace.track();
        entries::make_and_flush(namespace, number * 100..(number + 1) * 100);
    }
    let names: Vec<_> = namespaces.iter().map(|namespace| namespace.name().to_owned()).collect();
    drop(namespaces);
    for name in &names {
        wait_for_line(&daemon, name, "is deleted, and is watched no more: 0 connections were open");
    }
    daemon.stop();
    let dataset = Dataset::read(output.path());
    let mut of_name = BTreeMap::<_, u32>::new();
    for row in dataset.rows() {
        *of_name.entry(row.text("observer_netns_name").unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(of_name, names.into_iter().map(|name| (name, 100)).collect());
    verify(output.path());
}
