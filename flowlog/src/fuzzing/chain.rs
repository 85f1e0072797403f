//! The ledger: it can be read, judged and continued whatever is in it, and what was in it stays.

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use flowlog_reader::layout;
use flowlog_reader::ledger::{Event, Hash, Line, Stopped, lines};
use uuid::Uuid;

use crate::log::ledger::Ledger;
use crate::log::verify::verify;
use crate::testing::directory;

/// What each line begins with; 64 digits follow.
const PREV: &[u8] = br#"{"prev":""#;
const HASH_DIGITS: usize = 64;

/// What each line ends with, with 8 digits between.
const CHECKSUM: &[u8] = br#","crc32c":""#;
const CHECKSUM_END: &[u8] = br#""}"#;

/// A ledger as it is, and with the hashes and checksums that it would have.
pub fn ledger(bytes: &[u8]) {
    check(bytes);
    check(&chained(bytes));
}

fn check(bytes: &[u8]) {
    let dir = directory();
    let path = dir.path().join(layout::LEDGER);
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    let (readable, readable_before_end) = readable(&path);
    verify(dir.path(), None, &mut |_| {}).unwrap();

    let (mut open, history) = Ledger::open(&path).unwrap();
    let kept = fs::read(&path).unwrap();
    match history.torn {
        None => assert_eq!(kept, bytes),
        Some(torn) => {
            assert!(bytes.starts_with(&kept) && kept.last().is_none_or(|last| *last == b'\n'));
            assert!(bytes.len() - kept.len() >= usize::try_from(torn.bytes).unwrap());
        }
    }
    let stopped = Event::Stop(Stopped { last_seq: 0, rows: 0, complete_until_us: 0 });
    let now = UNIX_EPOCH + Duration::from_secs(1_795_248_000);
    open.append(Uuid::from_u128(1), now, stopped.clone()).unwrap();
    let continued = fs::read(&path).unwrap();
    assert!(continued.starts_with(&kept));
    let last = lines(&path).unwrap().last().unwrap().unwrap();
    assert_eq!((last.hash, last.line.unwrap().event), (open.tip(), stopped));
    // Whoever cut the ledger cut no line that could be read.
    let expected = if history.torn.is_some() { readable_before_end } else { readable };
    assert_eq!(self::readable(&path).0, expected + 1);
    let (_, history) = Ledger::open(&path).unwrap();
    assert_eq!(history.torn, None);
    verify(dir.path(), None, &mut |_| {}).unwrap();
}

/// How many lines can be read, and how many of those are ended by a newline. Each says the same when it is
/// written again.
fn readable(path: &Path) -> (usize, usize) {
    let (mut all, mut ended) = (0, 0);
    for entry in lines(path).unwrap() {
        let entry = entry.unwrap();
        let Ok(line) = entry.line else { continue };
        (all, ended) = (all + 1, ended + usize::from(entry.is_ended));
        if line.event != Event::Unknown {
            let mut again = Vec::new();
            line.encode(&mut again).unwrap();
            // A line has times in microseconds.
            let micros = |line: &Line| line.time.as_microsecond();
            let found = Line::decode(&again).unwrap();
            assert_eq!((micros(&found), &found.event), (micros(&line), &line.event));
        }
    }
    (all, ended)
}

/// The ledger with the hashes and checksums that its lines have.
fn chained(bytes: &[u8]) -> Vec<u8> {
    let mut chained = Vec::new();
    let mut prev = Hash::ZERO;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let (line, end) = line.strip_suffix(b"\n").map_or((line, &b""[..]), |line| (line, b"\n"));
        let mut line = line.to_vec();
        if line.starts_with(PREV)
            && let Some(digits) = line.get_mut(PREV.len()..PREV.len() + HASH_DIGITS)
        {
            digits.copy_from_slice(prev.to_string().as_bytes());
        }
        if let Some(fields) = line.len().checked_sub(CHECKSUM.len() + 8 + CHECKSUM_END.len())
            && line[fields..].starts_with(CHECKSUM)
        {
            let checksum = format!("{:08x}", crc32c::crc32c(&line[..fields]));
            let at = fields + CHECKSUM.len();
            line[at..at + 8].copy_from_slice(checksum.as_bytes());
        }
        prev = Hash::of(&line);
        chained.extend_from_slice(&line);
        chained.extend_from_slice(end);
    }
    chained
}
