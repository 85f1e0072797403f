//! Daemons that are killed at any moment: what the write-ahead log had is there after the next start, each
//! row once.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use flowlog::connections::ctnetlink::{Filter, Requests};
use flowlog::log::wal;
use flowlog::log::writer::Published;
use nix::sys::signal::Signal;

use crate::full_disk::logged_rows;
use crate::harness::daemon::{Daemon, flowlog, run_command};
use crate::harness::dataset::files_below;
use crate::harness::entries::{AT_ONCE, make, make_and_flush, make_for};
use crate::harness::namespace::Namespace;
use crate::harness::tally::{Tally, now_us};
use crate::harness::wait::wait_for;

/// How often the daemon is killed; `FLOWLOG_KILLS` sets another number.
const KILLS: u32 = 200;

/// Numbers of the rows that are on the disk, by their run.
pub(crate) type Rows = BTreeMap<String, BTreeSet<i64>>;

fn command(output: &Path, namespace: &Namespace, rotate_rows: &str) -> Command {
    let mut command = run_command(output, &[namespace]);
    command.args(["--no-ebpf", "--rotate-rows", rotate_rows]).env("FLOWLOG__WAL__SYNC", "batch");
    command
}

#[test]
fn a_killed_daemon_loses_nothing_that_the_write_ahead_log_had() {
    let kills = env::var("FLOWLOG_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let (made, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let (mut files, mut seen) = (BTreeSet::new(), Rows::new());
    // From when nobody watched, and until when at least.
    let mut unwatched = Vec::new();
    // Numbers that look random and are the same in each run of the test.
    let mut random: u64 = 0x5eed;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let first = made.fetch_add(5000, Ordering::Relaxed);
                make_and_flush(&namespace, first..first + 5000);
                // Some of the processor is for the daemon.
                thread::sleep(Duration::from_millis(20));
            }
        });
        for _ in 0..kills {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Small files, so that many moments are those of a publication.
            let daemon = Daemon::spawn(command(output.path(), &namespace, "2000"));
            // About each second one has published something, however slow the machine is.
            if random >> 63 == 0 {
                let log = daemon.log();
                let (run_id, _) = log.split_once("ready: run ").unwrap().1.split_once(',').unwrap();
                wait_for("the run to publish a file", || {
                    let files = files_below(&output.path().join("flows/v1"));
                    files.iter().any(|file| file.to_str().unwrap().contains(run_id)).then_some(())
                });
            }
            thread::sleep(Duration::from_millis((random >> 33) % 400));
            daemon.kill();
            let killed_us = now_us();
            note_rows_on_disk(output.path(), &mut files, &mut seen);
            unwatched.push((killed_us, now_us()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    Daemon::spawn(command(output.path(), &namespace, "2000")).stop();

    let tally = Tally::read(output.path());
    tally.check_each_once();
    check_published(&tally, &seen);
    let rows: usize = seen.values().map(BTreeSet::len).sum();
    assert!(rows > 10 * usize::try_from(kills).unwrap(), "the case is too small: {rows} rows");
    let down: Vec<_> = tally.gaps.iter().filter(|gap| gap.cause == "daemon_down").collect();
    for (from_us, to_us) in unwatched {
        let is_declared = down.iter().any(|gap| gap.from_us <= from_us && to_us <= gap.to_us);
        assert!(is_declared, "nobody watched from {from_us} to {to_us}: {down:?}");
    }
    // One that was killed before it declared the time before it leaves that to the next, which declares one for both.
    // It has written no rows yet.
    let with_rows = seen.values().filter(|rows| !rows.is_empty()).count();
    let (least, most) = (with_rows - 1, usize::try_from(kills).unwrap());
    assert!((least..=most).contains(&down.len()), "{} of {least} to {most} times are declared", down.len());
    let verified = flowlog(&["verify", output.path().to_str().unwrap()]);
    assert!(verified.status.success(), "{verified}");
}

/// All rows that were on the disk are published.
#[track_caller]
pub(crate) fn check_published(tally: &Tally, seen: &Rows) {
    for (run, rows) in seen {
        let published: BTreeSet<i64> = tally.seqs.get(run).into_iter().flatten().copied().collect();
        let missing: Vec<_> = rows.difference(&published).take(10).collect();
        assert!(missing.is_empty(), "rows of run {run} are missing: {missing:?}");
    }
}

/// Notes what is in published files, those of `files` left out, and in the write-ahead log. Gives until when all that
/// ended is there, as the log says it, in microseconds since 1970.
#[track_caller]
pub(crate) fn note_rows_on_disk(
    output: &Path,
    files: &mut BTreeSet<PathBuf>,
    found: &mut Rows,
) -> Option<i64> {
    let mut complete_until_us = None;
    for path in files_below(&output.join("flows/v1")) {
        if !files.insert(path.clone()) {
            continue;
        }
        let run = path.file_stem().unwrap().to_str().unwrap().split('_').nth(2).unwrap().to_owned();
        let below = path.strip_prefix(output).unwrap().to_owned();
        let seqs = Published::read(output, below).unwrap().seqs;
        found.entry(run).or_default().extend(seqs.iter().cloned().flatten());
    }
    for segment in flowlog_reader::segments::list(&output.join("_flowlog/wal")).unwrap().segments {
        // One that was killed while it was made has no rows.
        let Ok((header, frames)) = wal::read(&segment.path) else { continue };
        let rows = found.entry(header.run_id.to_string()).or_default();
        for frame in frames.map_while(Result::ok) {
            complete_until_us = complete_until_us.max(Some(frame.complete_until_us));
            if let Some(batch) = frame.batch {
                let seqs = batch.column_by_name("seq").unwrap().as_primitive::<Int64Type>().values();
                rows.extend(seqs.iter().copied());
            }
        }
    }
    complete_until_us
}

/// A second signal asks for a stop at once: the rows stay in the write-ahead log.
#[test]
fn a_second_signal_loses_nothing() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::spawn(command(output.path(), &namespace, "4000000"));
    make_and_flush(&namespace, 0..AT_ONCE);
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGINT);
    let log = daemon.stop();
    Daemon::spawn(command(output.path(), &namespace, "4000000")).stop();
    let tally = Tally::read(output.path());
    tally.check_each_once();
    if log.contains("an unknown number of flows is lost") {
        assert!(tally.causes().contains(&"overload"), "{log}");
    } else {
        assert_eq!(tally.rows.len(), usize::try_from(AT_ONCE).unwrap(), "{log}");
    }
}

/// Of what expires, the kernel tells later: the daemon that was there then did not know, and no other was told.
#[test]
fn what_expired_before_a_kill_and_was_noticed_after_it_is_declared() {
    // Where somebody on the host lists the connections of any namespace just then, the kernel notices at once.
    let kill = |_| {
        let (tally, has_lost) = end_after_expiry(Daemon::kill);
        assert_eq!(tally.causes(), ["daemon_down"]);
        has_lost
    };
    if !(0..20).any(kill) {
        println!("left out: twenty times the kernel noticed before the kill what had expired");
    }
}

/// A stop that may not take its time makes no dump, on which occasion the kernel would notice.
#[test]
fn what_expired_before_a_hurried_stop_and_was_noticed_after_it_is_declared() {
    let hurry = |daemon: Daemon| {
        daemon.signal(Signal::SIGTERM);
        daemon.signal(Signal::SIGINT);
        daemon.stop();
    };
    let stop = |_| {
        let (tally, has_lost) = end_after_expiry(hurry);
        assert!(!has_lost || tally.causes().contains(&"overload"), "{:?}", tally.gaps);
        has_lost
    };
    if !(0..20).any(stop) {
        println!("left out: twenty times the stop came to its dump, or the kernel noticed before");
    }
}

/// Ends a daemon after entries have expired. Says what it recorded, and whether some of them are no rows.
#[track_caller]
fn end_after_expiry(end: impl FnOnce(Daemon)) -> (Tally, bool) {
    const EXPIRING: u32 = 50;
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::spawn(command(output.path(), &namespace, "2000"));
    let others = make(&namespace, EXPIRING..2 * EXPIRING);
    make_for(&namespace, 0..EXPIRING, 1);
    let expired_us = now_us() + 1_000_000;
    wait_for("entries to expire", || (now_us() > expired_us + 50_000).then_some(()));
    // So that the write-ahead log says that what ended until now is there.
    let mut requests = namespace.inside(Requests::open).unwrap();
    assert!(others.iter().all(|other| requests.delete(other, None).unwrap()));
    wait_for("the rows to be logged", || (logged_rows(output.path()) >= EXPIRING).then_some(()));
    end(daemon);
    // The kernel removes what has expired on this occasion.
    requests.list(&Filter::default(), |_| {}).unwrap();
    Daemon::spawn(command(output.path(), &namespace, "2000")).stop();

    let tally = Tally::read(output.path());
    tally.check_each_once();
    let has_lost = (0..EXPIRING).any(|number| !tally.rows.contains_key(&number));
    assert!(
        !has_lost || tally.gaps.iter().all(|gap| gap.from_us <= expired_us),
        "{:?}, {expired_us}",
        tally.gaps
    );
    (tally, has_lost)
}

#[test]
fn the_time_without_a_daemon_is_a_gap() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        Daemon::spawn(command(output.path(), &namespace, "2000")).stop();
    }
    let mut daemon = Daemon::spawn(command(output.path(), &namespace, "2000"));
    wait_for("both gaps to be published", || {
        daemon.rotate();
        (Tally::read(output.path()).causes() == ["daemon_down", "daemon_down"]).then_some(())
    });
    let gaps = Tally::read(output.path()).gaps;
    assert!(gaps.iter().all(|gap| gap.lost_flows.is_none()), "nobody knows how many: {gaps:?}");
    daemon.stop();
}
