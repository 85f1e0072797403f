//! What somebody does to the files, and files that are not what their lines say.

use super::*;

#[test]
fn what_daemons_wrote_is_clean() {
    let bench = two_runs();
    let report = bench.assert_clean();
    let Report { lines, runs, files, deleted_files, rows, gaps, tip, in_use, .. } = &report;
    assert_eq!((lines, runs, files, deleted_files, rows, in_use), (&11, &2, &3, &1, &3, &false));
    assert_eq!(*tip, bench.ledger.tip());
    let total = GapTotal { cause: Cause::Overload, gaps: 2, lost_flows: 3, unknown: 1, from_us: 5, to_us: 9 };
    assert_eq!(gaps, &[total]);
}

#[test]
fn a_changed_file_is_named() {
    let mut bench = Bench::new();
    let path = bench.flows(&[1, 2]);
    bench.stop(2, 2);
    let whole = fs::read(bench.path(&path)).unwrap();
    for position in [0, whole.len() / 2, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        fs::write(bench.path(&path), changed).unwrap();
        let report = bench.verify();
        assert_fault(&report, Check::File, Some(2), &path);
        assert_eq!(report.faults, 1, "{report:#?}");
    }
    fs::write(bench.path(&path), &whole[1..]).unwrap();
    assert_fault(&bench.verify(), Check::File, Some(2), &format!("has {} bytes", whole.len() - 1));
    fs::write(bench.path(&path), whole).unwrap();
    bench.assert_clean();
}

#[test]
fn a_missing_file_is_named() {
    let mut bench = two_runs();
    bench.start(3);
    let path = bench.flows(&[1]);
    bench.stop(1, 1);
    fs::remove_file(bench.path(&path)).unwrap();
    let report = bench.verify();
    assert_fault(&report, Check::File, Some(13), &path);
    assert_eq!(report.faults, 1, "{report:#?}");
}

#[test]
fn what_the_ledger_does_not_name_is_foreign() {
    let bench = two_runs();
    let too_many = "flows/v1/date=2026-11-21/hour=08/more.parquet";
    fs::copy(bench.path("flows/v1/date=2026-11-21/hour=08/2.parquet"), bench.path(too_many)).unwrap();
    fs::write(bench.path("gaps/notes.txt"), "").unwrap();
    fs::write(bench.path("flows/_SUCCESS"), "").unwrap();
    std::os::unix::fs::symlink("/etc", bench.path("flows/link")).unwrap();
    nix::unistd::mkfifo(&bench.path("gaps/pipe"), Mode::S_IRWXU).unwrap();
    let report = bench.verify();
    for path in [too_many, "gaps/notes.txt", "flows/link", "gaps/pipe"] {
        assert_fault(&report, Check::Foreign, None, path);
    }
    assert_eq!(report.faults, 4, "{report:#?}");
}

#[test]
fn a_ledger_that_points_elsewhere_is_not_followed() {
    let bench = Bench::new();
    let outside = bench.path("outside");
    nix::unistd::mkfifo(&outside, Mode::S_IRWXU).unwrap();
    fs::create_dir_all(bench.path("flows")).unwrap();
    std::os::unix::fs::symlink(&outside, bench.path("flows/link")).unwrap();
    nix::unistd::mkfifo(&bench.path("flows/pipe"), Mode::S_IRWXU).unwrap();
    let mut bench = bench;
    let paths = [
        "../x",
        "/etc/passwd",
        "flows/../../x",
        "gaps/1",
        "",
        "flows",
        "flows/link",
        "flows/pipe",
        "flows\0",
    ];
    for path in paths {
        let file = bench.flows_file(None, &[1]);
        fs::remove_file(bench.path(&file.path)).unwrap();
        bench.append(Event::File(PublishedFile { path: path.into(), ..file }));
    }
    let report = bench.verify();
    let lines: HashSet<_> =
        report.findings.iter().filter(|finding| finding.check == Check::File).map(|f| f.line).collect();
    assert_eq!(lines.len(), paths.len(), "{:#?}", report.findings);
}

#[test]
fn rows_are_there_each_once() {
    let mut bench = Bench::new();
    bench.flows(&[1, 2, 5]);
    bench.flows(&[5, 8]);
    bench.stop(9, 5);
    let report = bench.verify();
    assert_fault(&report, Check::Rows, Some(3), "repeats the rows 5 of run");
    assert_fault(&report, Check::Rows, Some(4), "no file has the rows 3-4, 6-7, 9 of run");
    assert_eq!(report.faults, 2, "{report:#?}");

    let mut bench = Bench::new();
    bench.flows(&[1, 2, 3]);
    bench.stop(2, 2);
    let report = bench.verify();
    assert_fault(&report, Check::Rows, Some(3), "files have the rows 3 of run");
    assert_fault(&report, Check::Rows, Some(3), "says that run");
}

#[test]
fn rows_that_are_declared_as_lost_are_no_fault() {
    for (lost, ok) in [(Some(1), false), (Some(2), true), (None, true)] {
        let mut bench = Bench::new();
        bench.flows(&[1, 2, 5]);
        bench.gap(1, loss(lost, Stage::Write));
        bench.gaps(1, 1, &[loss(lost, Stage::Write)]);
        bench.stop(5, 3);
        let report = bench.verify();
        assert_eq!((report.ok, report.faults + report.warnings), (ok, 1), "{report:#?}");
    }
}

#[test]
fn a_file_that_is_not_what_the_ledger_says_is_named() {
    let mut bench = Bench::new();
    let mut file = bench.flows_file(Some(run(7)), &[1, 2]);
    (file.rows, file.seq_last, file.of_run, file.end_time_max_us) = (3, Some(3), None, Some(1));
    bench.append(Event::File(file));
    bench.stop(2, 3);
    let report = bench.verify();
    for (check, text) in [
        (Check::File, "its footer says 2 rows"),
        (Check::File, "flowlog.run_id is 00000000-0000-0000-0000-000000000007"),
        (Check::File, "flowlog.rows is 2"),
        (Check::File, "flowlog.seq_last is 2"),
        (Check::File, "has end_time from 1001 to 1002 us"),
        (Check::Rows, "has 2 rows from 1 to 2"),
    ] {
        assert_fault(&report, check, Some(2), text);
    }
}

#[test]
fn gaps_and_their_files_agree() {
    let mut bench = Bench::new();
    bench.gap(1, loss(Some(1), Stage::Receive));
    bench.gap(3, loss(Some(2), Stage::Receive));
    bench.gaps(1, 1, &[loss(Some(7), Stage::Receive)]);
    bench.stop(0, 0);
    let report = bench.verify();
    assert_fault(&report, Check::Gaps, Some(3), "is gap 3 of run");
    assert_fault(&report, Check::Gaps, Some(3), "no file has gap 3");
    assert_fault(
        &report,
        Check::Gaps,
        Some(4),
        "1 of its gaps are not in the ledger, and 1 of the ledger's are not in it",
    );
    assert_eq!(report.faults, 3, "{report:#?}");
}

#[test]
fn deletions_are_of_files_that_were_there() {
    let mut bench = Bench::new();
    let path = bench.flows(&[1]);
    bench.delete(&path, false);
    bench.append(Event::Delete(Deleted {
        path: "flows/other.parquet".into(),
        sha256: Hash::ZERO,
        bytes: 1,
        reason: DeleteReason::Bytes,
    }));
    bench.stop(1, 1);
    let report = bench.verify();
    assert_fault(&report, Check::File, Some(4), "no line before names it");
    assert_eq!((report.faults, report.warnings), (1, 1), "{report:#?}");
    fs::remove_file(bench.path(&path)).unwrap();
    assert_eq!(bench.verify().warnings, 0);
}

#[test]
fn a_directory_that_is_none_is_an_error() {
    let error = verify(Path::new("/nonexistent"), None, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("cannot read `/nonexistent`"), "{error}");
}

#[test]
fn a_daemon_can_start_while_it_is_looked_for() {
    let output = tempfile::tempdir().unwrap();
    drop(Directory::open(output.path()).unwrap());
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                is_in_use(output.path());
            }
        });
        let opened = (0..100).try_for_each(|_| Directory::open(output.path()).map(drop));
        is_done.store(true, Ordering::Relaxed);
        opened.unwrap();
    });
}
