//! What somebody does to the ledger, and what runs leave in it.

use flowlog_reader::layout;

use super::*;

#[test]
fn a_cut_ledger_is_found_wherever_it_is_cut() {
    let bench = two_runs();
    let whole = fs::read(bench.path(layout::LEDGER)).unwrap();
    for end in 0..whole.len() {
        fs::write(bench.path(layout::LEDGER), &whole[..end]).unwrap();
        assert!(!bench.verify().ok, "cut at {end} of {}", whole.len());
    }
    let lines = bench.ledger_lines();
    bench.write_ledger(&lines[..10]);
    assert_fault(&bench.verify(), Check::End, Some(8), "the end of the ledger was cut");
    fs::remove_file(bench.path(layout::LEDGER)).unwrap();
    assert_fault(&bench.verify(), Check::End, None, "there is no ledger");
}

#[test]
fn a_line_that_is_not_where_it_was_is_found() {
    let bench = two_runs();
    let lines = bench.ledger_lines();
    for one in 0..lines.len() {
        let mut removed = lines.clone();
        removed.remove(one);
        bench.write_ledger(&removed);
        assert!(!bench.verify().ok, "without line {}", one + 1);
        for other in one + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(one, other);
            bench.write_ledger(&swapped);
            let report = bench.verify();
            assert_fault(&report, Check::Chain, Some(one as u64 + 1), "");
        }
        let mut doubled = lines.clone();
        doubled.insert(one, lines[one].clone());
        bench.write_ledger(&doubled);
        assert_fault(&bench.verify(), Check::Chain, Some(one as u64 + 2), "");
    }
    bench.write_ledger(&lines);
    bench.assert_clean();
}

#[test]
fn a_changed_line_is_named_also_with_a_new_checksum() {
    let bench = two_runs();
    let mut lines = bench.ledger_lines();
    lines[3] = lines[3].replace(r#""lost_flows":3"#, r#""lost_flows":0"#);
    bench.write_ledger(&lines);
    assert_fault(&bench.verify(), Check::Line, Some(4), "it was changed");

    lines[3] = with_checksum(&lines[3]);
    bench.write_ledger(&lines);
    let report = bench.verify();
    assert_fault(&report, Check::Chain, Some(5), "line 4 was changed, or lines were removed");
    // The file of gaps has it as it was.
    assert_fault(&report, Check::Gaps, Some(6), "1 of its gaps are not in the ledger");
}

fn with_checksum(line: &str) -> String {
    let fields = &line[..line.len() - 21];
    format!(r#"{fields},"crc32c":"{:08x}"}}"#, crc32c::crc32c(fields.as_bytes()))
}

/// Somebody who may write all files makes a new chain; files that are there know the old one.
#[test]
fn a_ledger_that_was_written_anew_does_not_fit_its_files() {
    let mut bench = Bench::new();
    bench.gap(1, loss(None, Stage::Receive));
    let gaps = bench.gaps(1, 1, &[loss(None, Stage::Receive)]);
    let path = bench.flows(&[1]);
    bench.stop(1, 1);
    let lines = bench.ledger_lines();
    let noted = Hash::of(lines[4].as_bytes());
    let mut forged: Vec<String> = Vec::new();
    for line in [&lines[0], &lines[3], &lines[4]] {
        let prev = forged.last().map_or(Hash::ZERO, |line| Hash::of(line.as_bytes()));
        forged.push(with_checksum(&format!(r#"{{"prev":"{prev}"{}"#, &line[74..])));
    }
    assert!(bench.verify_with(Some(noted)).ok);
    bench.write_ledger(&forged);
    fs::remove_file(bench.path(&gaps)).unwrap();
    let report = bench.verify_with(Some(noted));
    assert_fault(&report, Check::Tip, Some(2), &path);
    assert_fault(&report, Check::Tip, None, &format!("no line has the noted hash {noted}"));
    assert_eq!(report.faults, 2, "{report:#?}");
}

#[test]
fn a_noted_tip_is_found_again() {
    let bench = two_runs();
    for line in bench.ledger_lines() {
        let report = bench.verify_with(Some(Hash::of(line.as_bytes())));
        assert!(
            report.ok && report.findings.iter().any(|finding| finding.check == Check::Tip),
            "{report:#?}"
        );
    }
}

#[test]
fn a_killed_run_is_told_until_it_is_recovered() {
    let mut bench = Bench::new();
    bench.flows(&[1, 2]);
    bench.gap(1, loss(None, Stage::Receive));
    fs::create_dir_all(bench.path("_flowlog/wal")).unwrap();
    fs::write(bench.path("_flowlog/wal/1.wal"), "rows").unwrap();
    let unnamed = bench.path(&format!("flows/v1/web-1_20261121T080000Z_{}_2.parquet", run(1)));
    fs::write(&unnamed, "").unwrap();
    let report = bench.verify();
    assert!(report.findings.iter().any(|finding| finding.check == Check::Foreign), "{report:#?}");
    assert_fault(&report, Check::End, Some(1), "was killed and not recovered yet, or the end");
    assert_eq!(report.faults, 1);
    let leftover = report.findings.last().unwrap();
    assert_eq!((leftover.level, leftover.path.as_deref()), (Level::Information, Some("_flowlog/wal")));
    fs::remove_file(bench.path("_flowlog/wal/1.wal")).unwrap();
    fs::remove_file(unnamed).unwrap();

    // The next run forgets it.
    bench.start(2);
    bench.stop(0, 0);
    assert_fault(&bench.verify(), Check::End, Some(1), "neither stopped nor was recovered");

    // The one after it does not.
    bench.start(3);
    bench.flows_of(Some(run(1)), &[3, 4]);
    let Gap { lost_flows, stage, .. } = loss(None, Stage::Receive);
    let path = {
        let of_run = bench.run;
        bench.run = run(1);
        let path = bench.gaps_unlisted(1, &[loss(lost_flows, stage)]);
        bench.run = of_run;
        path
    };
    bench.append(Event::File(PublishedFile { of_run: Some(run(1)), ..path }));
    bench.recover(run(1), 2, 0);
    bench.stop(0, 0);
    bench.assert_clean();
}

#[test]
fn a_recovery_says_what_it_could_not_read() {
    let mut bench = Bench::new();
    bench.flows(&[1, 2]);
    bench.start(2);
    bench.flows_of(Some(run(1)), &[5]);
    bench.recover(run(1), 1, 300);
    bench.stop(0, 0);
    let report = bench.verify();
    assert!(report.ok, "{report:#?}");
    assert_eq!(report.warnings, 2, "what was dropped, and the rows 3-4: {report:#?}");

    let mut bench = Bench::new();
    bench.flows(&[1, 2]);
    bench.start(2);
    bench.flows_of(Some(run(1)), &[5]);
    bench.recover(run(1), 2, 0);
    bench.stop(0, 0);
    let report = bench.verify();
    assert_fault(&report, Check::Rows, Some(5), "no file has the rows 3-4 of run");
    assert_fault(&report, Check::Rows, Some(5), "says that 2 rows of run");
}

#[test]
fn lines_belong_to_the_run_that_goes_on() {
    let mut bench = Bench::new();
    bench.stop(0, 0);
    bench.flows(&[1]);
    bench.start(1);
    let report = bench.verify();
    assert_fault(&report, Check::Run, Some(3), "is a line of run");
    assert_fault(&report, Check::Run, Some(4), "for the second time");
}

#[test]
fn a_run_that_could_not_write_is_recovered_all_the_same() {
    let mut bench = Bench::new();
    bench.flows_of(Some(run(7)), &[1]);
    bench.recover(run(7), 1, 0);
    bench.stop(0, 0);
    let report = bench.verify();
    assert_eq!((report.faults, report.warnings), (0, 1), "{report:#?}");
    assert_eq!(report.findings[0].check, Check::Run);
}

#[test]
fn a_daemon_that_runs_is_no_fault() {
    let mut bench = Bench::new();
    // The rows 2 and 3 are in the file of another hour, which is open yet.
    bench.flows(&[1, 4]);
    let lock = File::create(bench.path("_flowlog/lock")).unwrap();
    lock.lock().unwrap();
    fs::create_dir_all(bench.path("_flowlog/staging")).unwrap();
    fs::write(bench.path("_flowlog/staging/open.parquet"), "").unwrap();
    assert!(bench.assert_clean().in_use);

    // It publishes while it is verified.
    let file = bench.flows_file(None, &[2, 3]);
    let output = bench.dir.path().to_owned();
    let verifier = std::thread::spawn(move || verify(&output, None, &mut |_| ()).unwrap());
    bench.append(Event::File(file));
    let report = verifier.join().unwrap();
    assert!(report.ok, "{report:#?}");

    lock.unlock().unwrap();
    assert!(!bench.verify().ok);
    File::create(bench.path("_flowlog/lock")).unwrap().try_lock().unwrap();
}

#[test]
fn a_time_that_goes_back_is_a_warning() {
    let mut bench = Bench::new();
    let before = SystemTime::UNIX_EPOCH;
    bench
        .ledger
        .append(bench.run, before, Event::Stop(Stopped { last_seq: 0, rows: 0, complete_until_us: 0 }))
        .unwrap();
    let report = bench.verify();
    assert!(report.ok);
    assert_eq!(report.findings[0].check, Check::Time);
}

#[test]
fn many_findings_are_counted() {
    let bench = Bench::new();
    bench.write_ledger(&vec!["x".repeat(10); 5000]);
    let report = bench.verify();
    assert_eq!((report.faults, report.findings.len(), report.more_findings), (5000, 1000, 4000));
}
