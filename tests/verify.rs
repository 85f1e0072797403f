//! `flowlog verify` finds what somebody did to the files and to the ledger of a daemon.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flowlog::log::ledger::Ledger;
use flowlog_reader::ledger::{Event, Stopped};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use crate::harness::daemon::{Daemon, flowlog};
use crate::harness::dataset::files_below;
use crate::harness::entries::make_and_flush;
use crate::harness::namespace::Namespace;
use crate::harness::process::Finished;
use crate::harness::wait::wait_for;

/// What two runs wrote: several files, and a ledger.
struct Written {
    output: TempDir,
    /// The ledger as it was written.
    ledger: Vec<u8>,
}

impl Written {
    fn new() -> Self {
        let namespace = Namespace::tracked();
        let output = tempfile::tempdir().unwrap();
        for run in 0..2 {
            let daemon = Daemon::start(output.path(), &[&namespace], &["--no-ebpf", "--rotate-rows", "10"]);
            make_and_flush(&namespace, run * 25..(run + 1) * 25);
            daemon.stop();
        }
        let ledger = fs::read(output.path().join("_flowlog/ledger.jsonl")).unwrap();
        Self { output, ledger }
    }

    fn lines(&self) -> Vec<&str> {
        std::str::from_utf8(&self.ledger).unwrap().lines().collect()
    }

    fn write_ledger(&self, ledger: impl AsRef<[u8]>) {
        fs::write(self.output.path().join("_flowlog/ledger.jsonl"), ledger).unwrap();
    }

    fn write_lines(&self, lines: &[&str]) {
        self.write_ledger(lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    }

    /// A file of flows, and its line in the ledger.
    fn file(&self) -> (PathBuf, String, usize) {
        let lines = self.lines();
        let position = lines.iter().position(|line| line.contains(r#""table":"flows""#)).unwrap();
        let line: Value = serde_json::from_str(lines[position]).unwrap();
        let name = line["path"].as_str().unwrap().to_owned();
        (self.output.path().join(&name), name, position + 1)
    }

    /// Fails, and names the place and the text.
    #[track_caller]
    fn assert_fault(&self, place: &str, text: &str) {
        let finished = verify(self.output.path(), &[]);
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        let is_named = finished.stdout.lines().any(|line| {
            line.trim_start().starts_with("FAULT") && line.contains(place) && line.contains(text)
        });
        assert!(is_named, "no fault with `{place}` and `{text}`: {finished}");
    }

    #[track_caller]
    fn assert_clean(&self) {
        let finished = verify(self.output.path(), &[]);
        assert_eq!(finished.status.code(), Some(0), "{finished}");
        assert!(finished.stdout.lines().any(|line| line == "clean"), "{finished}");
        assert_eq!(finished.stderr, "", "{finished}");
    }
}

#[track_caller]
fn verify(output: &Path, args: &[&str]) -> Finished {
    let output = output.to_str().unwrap();
    flowlog(&[&["verify", output], args].concat())
}

#[track_caller]
fn report(output: &Path) -> Value {
    let finished = verify(output, &["--json"]);
    serde_json::from_str(&finished.stdout).unwrap_or_else(|err| panic!("not JSON: {err}: {finished}"))
}

#[test]
fn what_is_done_to_files_is_named() {
    let written = Written::new();
    written.assert_clean();
    let (path, name, line) = written.file();
    let place = format!("line {line}");
    let whole = fs::read(&path).unwrap();

    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs::write(&path, changed).unwrap();
    written.assert_fault(&place, &format!("{name}: was changed"));

    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    written.assert_fault(&place, &format!("{name}: was changed"));

    fs::remove_file(&path).unwrap();
    written.assert_fault(&place, &format!("{name}: is missing"));

    fs::write(&path, &whole).unwrap();
    let more = path.with_file_name("more.parquet");
    fs::write(&more, &whole).unwrap();
    written.assert_fault("more.parquet", "is in no line of the ledger");

    fs::remove_file(&more).unwrap();
    written.assert_clean();
}

#[test]
fn what_is_done_to_the_ledger_is_named() {
    let written = Written::new();
    let lines = written.lines();
    let tip = report(written.output.path())["tip"].as_str().unwrap().to_owned();

    for cut in 1..lines.len() {
        // After the first run it has an end, but the files of the second have no lines.
        let text = if lines[cut - 1].contains(r#""event":"stop""#) { "is in no line" } else { "was cut" };
        written.write_lines(&lines[..cut]);
        written.assert_fault("", text);
    }
    written.write_ledger(&written.ledger[..written.ledger.len() - 20]);
    written.assert_fault(&format!("line {}", lines.len()), "is not JSON");

    let (_, _, line) = written.file();
    let mut changed = lines.clone();
    let forged = lines[line - 1].replacen(r#""rows":"#, r#""rows":9"#, 1);
    changed[line - 1] = &forged;
    written.write_lines(&changed);
    written.assert_fault(&format!("line {line}"), "it was changed");

    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    written.write_lines(&swapped);
    written.assert_fault("line 2", "follows a line with the hash");

    let mut removed = lines.clone();
    removed.remove(1);
    written.write_lines(&removed);
    written.assert_fault("line 2", "follows a line with the hash");

    written.write_ledger(&written.ledger);
    written.assert_clean();
    let finished = verify(written.output.path(), &["--tip", &tip]);
    assert_eq!(finished.status.code(), Some(0), "{finished}");
    let finished = verify(written.output.path(), &["--tip", &tip.replace(|c: char| c != '0', "0")]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    let finished = verify(written.output.path(), &["--tip", "f00"]);
    assert_eq!(finished.status.code(), Some(2), "{finished}");
}

#[test]
fn the_report_counts_what_was_written() {
    let written = Written::new();
    let report = report(written.output.path());
    let files = files_below(&written.output.path().join("flows/v1"));
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(report["runs"], 2);
    assert_eq!(report["rows"], 50);
    assert!(report["files"].as_u64().unwrap() >= files.len() as u64);
    assert_eq!(report["lines"], written.lines().len());
}

#[test]
fn a_daemon_that_runs_is_clean_and_a_killed_one_is_not() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &["--no-ebpf", "--rotate-rows", "10"]);
    make_and_flush(&namespace, 0..25);
    wait_for("two files", || (files_below(&output.path().join("flows/v1")).len() >= 2).then_some(()));
    let live = report(output.path());
    assert_eq!((&live["ok"], &live["in_use"]), (&Value::Bool(true), &Value::Bool(true)), "{live:#}");

    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    let killed = verify(output.path(), &[]);
    assert_eq!(killed.status.code(), Some(1), "{killed}");
    assert!(killed.stdout.contains("was killed and not recovered yet"), "{killed}");
    assert!(killed.stdout.contains("_flowlog/wal"), "{killed}");

    Daemon::start(output.path(), &[&namespace], &["--no-ebpf"]).stop();
    let recovered = report(output.path());
    assert_eq!(recovered["ok"], true, "{recovered:#}");
    assert_eq!(recovered["gaps"][0]["cause"], "daemon_down");
}

#[test]
fn what_cannot_be_verified_says_why() {
    let output = tempfile::tempdir().unwrap();
    let finished = verify(output.path(), &[]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(finished.stdout.contains("there is no ledger"), "{finished}");
    let finished = verify(&output.path().join("missing"), &[]);
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(finished.stderr.contains("expected the output directory"), "{finished}");
}

/// On a file system of its own, in a mount namespace of its own.
#[test]
fn a_full_disk_leaves_no_part_of_a_line_in_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().to_owned();
    let tested = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let nothing: Option<&str> = None;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        let path = disk.join("ledger.jsonl");
        let (mut ledger, _) = Ledger::open(&path).unwrap();
        let run = Uuid::from_u128(1);
        let mut append = |seq| {
            ledger.append(
                run,
                SystemTime::now(),
                Event::Stop(Stopped { last_seq: seq, rows: 1, complete_until_us: 0 }),
            )
        };
        append(0).unwrap();
        let filler = disk.join("filler");
        let full = fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);

        // The rest of its block has room for some lines, and for a part of the next.
        let refused = (1..100).find(|seq| append(*seq).is_err()).expect("the disk is full");
        assert!(refused > 2, "line {refused} was refused");
        let before = fs::read_to_string(&path).unwrap();
        assert_eq!(before.lines().count(), usize::try_from(refused).unwrap());
        assert!(before.ends_with("}\n"), "{before}");

        fs::remove_file(filler).unwrap();
        append(refused).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with(&before));
        let (_, history) = Ledger::open(&path).unwrap();
        assert_eq!((history.torn, history.damaged), (None, None));
    });
    tested.join().unwrap();
}
