//! The chain, what a crash leaves, and what the next run is told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flowlog_reader::gaps::{Cause, Gap, Stage};
use flowlog_reader::ledger::{
    DeclaredGap, DeleteReason, Deleted, Event, Hash, Line, Lines, PublishedFile, Recovered, Started, Stopped,
    Table, Torn, lines,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::testing;

/// 2026-11-21 08:00:00.000001 UTC
fn eight() -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(1_795_248_000_000_001)
}

fn run(number: u128) -> Uuid {
    Uuid::from_u128(0x019a_a000_0000_7000_8000_0000_0000_0000 + number)
}

fn started() -> Started {
    Started { netns: vec![4_026_531_840], wal_sync: "1s".into(), ..testing::started() }
}

fn start() -> Event {
    Event::Start(started())
}

fn flows(path: &str) -> PublishedFile {
    PublishedFile {
        seq_first: Some(1),
        seq_last: Some(2),
        end_time_min_us: Some(1),
        end_time_max_us: Some(2),
        bytes: 7,
        sha256: Hash::of(b"file"),
        ..PublishedFile::new(Table::Flows, path, 2)
    }
}

fn gaps(gap_first: u64, gap_last: u64) -> PublishedFile {
    PublishedFile {
        gap_first: Some(gap_first),
        gap_last: Some(gap_last),
        bytes: 7,
        sha256: Hash::of(b"file"),
        ..PublishedFile::new(Table::Gaps, "gaps/v1/1.parquet", 2)
    }
}

fn loss() -> Gap {
    Gap { lost_flows: Some(3), ..Gap::new(Cause::Overrun, Stage::Receive, 1, 2) }
}

fn gap(gap: u64) -> Event {
    Event::Gap(DeclaredGap { gap, loss: loss() })
}

fn stop() -> Event {
    Event::Stop(Stopped { last_seq: 2, rows: 2, complete_until_us: 3 })
}

fn recover(of_run: Uuid) -> Event {
    Event::Recover(Recovered {
        of_run,
        rows: 1,
        already_published: 0,
        dropped_bytes: 0,
        dropped_reason: None,
    })
}

/// A directory in memory, where syncs cost nothing.
fn memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// A directory with a ledger of these lines, in which a microsecond lies between two.
fn ledger(lines: impl IntoIterator<Item = (Uuid, Event)>) -> (TempDir, PathBuf) {
    let dir = memory();
    let path = dir.path().join("ledger.jsonl");
    append(&path, lines);
    (dir, path)
}

fn append(path: &Path, lines: impl IntoIterator<Item = (Uuid, Event)>) -> History {
    let (mut ledger, history) = Ledger::open(path).unwrap();
    for (n, (run, event)) in lines.into_iter().enumerate() {
        ledger.append(run, eight() + Duration::from_micros(n as u64), event).unwrap();
    }
    history
}

fn open(path: &Path) -> History {
    append(path, [])
}

fn one_run() -> Vec<(Uuid, Event)> {
    let file = Event::File(flows("flows/v1/1.parquet"));
    let events = [start(), gap(1), file, Event::File(gaps(1, 1)), stop()];
    events.map(|event| (run(1), event)).to_vec()
}

#[test]
fn a_line_is_what_the_documentation_says() {
    let (_dir, path) = ledger([(run(1), start()), (run(1), gap(1))]);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let zeros = "0".repeat(64);
    assert_eq!(
        lines[0],
        format!(
            r#"{{"prev":"{zeros}","time":"2026-11-21T08:00:00.000001Z","run_id":"019aa000-0000-7000-8000-000000000001","event":"start","version":"0.1.0","host_id":"8f2c","host_name":"web-1","boot_id":null,"kernel":"6.18.5","delivery":"reliable","netns":[4026531840],"wal_sync":"1s","crc32c":"{}"}}"#,
            &lines[0][lines[0].len() - 10..lines[0].len() - 2]
        )
    );
    let prev = format!("{:x}", Sha256::digest(lines[0]));
    assert!(lines[1].starts_with(&format!(r#"{{"prev":"{prev}","#)), "{}", lines[1]);
    assert!(
        lines[1].contains(r#""event":"gap","gap":1,"from_us":1,"to_us":2,"cause":"overrun","stage":"receive","lost_flows":3,"lost_orig_bytes":null,"#),
        "{}",
        lines[1]
    );
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
}

#[test]
fn lines_come_back_as_they_were_given() {
    let mut given = one_run();
    given.push((run(2), start()));
    given.push((run(2), recover(run(1))));
    let deleted = Deleted {
        path: "flows/v1/1.parquet".into(),
        sha256: Hash::of(b"file"),
        bytes: 7,
        reason: DeleteReason::MinFree,
    };
    given.push((run(2), Event::Delete(deleted)));
    let (_dir, path) = ledger(given.clone());
    let mut prev = Hash::ZERO;
    let mut found = Vec::new();
    for (n, entry) in (1..).zip(lines(&path).unwrap()) {
        let entry = entry.unwrap();
        let line = entry.line.unwrap();
        assert_eq!((entry.number, line.prev), (n, prev));
        prev = entry.hash;
        found.push((line.run_id, line.event));
    }
    assert_eq!(found, given);
    assert_eq!(Ledger::open(&path).unwrap().0.tip(), prev);
}

#[test]
fn a_run_that_stopped_leaves_nothing_to_do() {
    let (_dir, path) = ledger(one_run());
    let history = open(&path);
    let time = Timestamp::try_from(eight() + Duration::from_micros(4)).unwrap();
    let last = Some(LastLine { run_id: run(1), time, is_stop: true, complete_until_us: Some(3) });
    assert_eq!(history, History { last, started: Some(started()), ..History::default() });
}

#[test]
fn a_run_that_did_not_stop_is_told_until_it_is_recovered() {
    let file = flows("flows/v1/1.parquet");
    let before = [start(), Event::File(file.clone()), gap(1), gap(2), Event::File(gaps(1, 1)), gap(3)];
    let (_dir, path) = ledger(before.map(|event| (run(1), event)));
    let history = open(&path);
    let last_time = history.last.unwrap().time;
    let Event::Start(started) = start() else { unreachable!() };
    let expected = UnfinishedRun {
        started: Some(started),
        last_time,
        files: vec![file, gaps(1, 1)],
        gaps: BTreeMap::from([(2, loss()), (3, loss())]),
        has_declared_down: false,
    };
    assert_eq!(history.unfinished, BTreeMap::from([(run(1), expected)]));
    assert!(!history.last.unwrap().is_stop);

    // A later run recovers a part, and is killed, too.
    let part = PublishedFile { of_run: Some(run(1)), ..gaps(2, 2) };
    append(&path, [(run(2), start()), (run(2), Event::File(part))]);
    let history = open(&path);
    assert_eq!(history.unfinished.keys().copied().collect::<Vec<_>>(), [run(1), run(2)]);
    assert_eq!(history.unfinished[&run(1)].gaps, BTreeMap::from([(3, loss())]));
    assert_eq!(history.unfinished[&run(1)].last_time, last_time);

    append(&path, [(run(3), start()), (run(3), recover(run(1))), (run(3), recover(run(2)))]);
    assert_eq!(open(&path).unfinished.into_keys().collect::<Vec<_>>(), [run(3)]);
}

#[test]
fn a_torn_end_is_cut_off_at_every_byte() {
    let (dir, path) = ledger(one_run());
    let whole = fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    let path = dir.path().join("torn.jsonl");
    for end in last..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        let history = open(&path);
        let bytes = (end - last) as u64;
        assert_eq!(history.torn, (bytes > 0).then_some(Torn { line: 5, bytes }));
        assert_eq!(history.damaged, None);
        assert!(history.unfinished.contains_key(&run(1)));
        assert_eq!(fs::read(&path).unwrap(), &whole[..last]);
        assert_eq!(append(&path, [(run(1), stop())]).torn, None);
        assert_eq!(open(&path).damaged, None);
    }
    // Blocks that were not written yet.
    for zeros in [&[0; 300][..], b"\0\0\0\0\"}\n"] {
        fs::write(&path, [&whole[..last], zeros].concat()).unwrap();
        assert!(open(&path).torn.is_some());
        assert_eq!(fs::read(&path).unwrap(), &whole[..last]);
    }
}

#[test]
fn damage_stays_and_is_told() {
    let (_dir, path) = ledger(one_run());
    let text = fs::read_to_string(&path).unwrap();
    for changed in [
        text.replace("web-1", "web-2"),
        text.replace(r#""event":"start""#, "garbage"),
        text.replace(r#""event":"start""#, r#""event":"started""#),
    ] {
        fs::write(&path, &changed).unwrap();
        let history = open(&path);
        assert_eq!(history.damaged.unwrap().first_line, 1, "{history:?}");
        assert_eq!(history.torn, None);
        append(&path, [(run(2), start())]);
        assert!(fs::read_to_string(&path).unwrap().starts_with(&changed));
        let last = lines(&path).unwrap().map(Result::unwrap).last().unwrap().line.unwrap();
        assert_eq!(last.prev, Hash::of(changed.lines().last().unwrap().as_bytes()));
    }
    // A last line that somebody changed is not what a crash leaves.
    fs::write(&path, text.replace(r#""last_seq":2"#, r#""last_seq":1"#)).unwrap();
    let history = open(&path);
    assert_eq!(history.damaged, Some(Damage { first_line: 5, lines: 1 }));
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 5);
}

#[test]
fn a_line_of_a_later_version_is_kept() {
    let (_dir, path) = ledger([(run(1), start())]);
    let mut bytes = Vec::new();
    let line = Line { prev: Hash::ZERO, time: Timestamp::UNIX_EPOCH, run_id: run(1), event: stop() };
    line.encode(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap().replace(r#""event":"stop""#, r#""event":"pause""#);
    let fields = &text.as_bytes()[..text.len() - 21];
    let text = format!(
        "{}\n",
        text.replace(&text[text.len() - 10..], &format!("{:08x}\"}}", crc32c::crc32c(fields)))
    );
    fs::write(&path, text).unwrap();
    let entry = lines(&path).unwrap().next().unwrap().unwrap();
    assert_eq!(entry.line.unwrap().event, Event::Unknown);
    assert_eq!(open(&path).damaged, None);

    let (mut ledger, _) = Ledger::open(&path).unwrap();
    let before = fs::read(&path).unwrap();
    ledger.append(run(1), eight(), Event::Unknown).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_line_that_fails_leaves_nothing() {
    let (_dir, path) = ledger([(run(1), start())]);
    let before = fs::read(&path).unwrap();
    let (mut ledger, _) = Ledger::open(&path).unwrap();
    let tip = ledger.tip();

    // Neither writing nor cutting back works, and half a line was written.
    let writable = std::mem::replace(&mut ledger.file, File::open(&path).unwrap());
    File::options().append(true).open(&path).unwrap().write_all(&[b'x'; 5000]).unwrap();
    ledger.append(run(1), eight(), stop()).unwrap_err();
    assert_eq!(ledger.tip(), tip);

    ledger.file = writable;
    ledger.append(run(1), eight(), gap(1)).unwrap();
    let text = fs::read(&path).unwrap();
    assert!(text.starts_with(&before));
    assert_eq!(text.iter().filter(|&&byte| byte == b'\n').count(), 2);
    let history = open(&path);
    assert_eq!((history.torn, history.damaged), (None, None));
}

#[test]
fn a_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    fs::write(&target, "").unwrap();
    let path = dir.path().join("ledger.jsonl");
    std::os::unix::fs::symlink(&target, &path).unwrap();
    Ledger::open(&path).unwrap_err();
}

proptest! {
    #[test]
    fn any_bytes_are_lines(bytes: Vec<u8>) {
        let entries: Vec<Entry> = Lines::new(&bytes[..]).map(Result::unwrap).collect();
        let sum: u64 = entries.iter().map(|entry| entry.bytes + u64::from(entry.is_ended)).sum();
        prop_assert_eq!(sum, bytes.len() as u64);
        let dir = memory();
        let path = dir.path().join("ledger.jsonl");
        fs::write(&path, &bytes).unwrap();
        open(&path);
        append(&path, [(run(1), start())]);
        prop_assert!(lines(&path).unwrap().map(Result::unwrap).last().unwrap().line.is_ok());
    }

    #[test]
    fn any_changed_byte_is_damage(position: prop::sample::Index, byte: u8) {
        let (_dir, path) = ledger(one_run());
        let mut bytes = fs::read(&path).unwrap();
        let position = position.index(bytes.len());
        prop_assume!(bytes[position] != byte);
        bytes[position] = byte;
        fs::write(&path, &bytes).unwrap();
        let history = open(&path);
        prop_assert!(history.damaged.is_some() || history.torn.is_some());
    }
}
