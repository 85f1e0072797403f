//! The write-ahead log: what was read of a segment is all that is before the first bad frame, and becomes
//! rows of files once.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use arrow_array::Array as _;
use flowlog_reader::layout;
use flowlog_reader::segments::SegmentHeader;
use uuid::Uuid;

use super::faults;
use crate::log::wal::{self, Frame, Frames, Wal, WalSync};
use crate::log::writer::{Published, seqs};
use crate::testing::{self, directory, files};

/// Bytes of a segment before the length of its header.
const BEFORE_LENGTH_BYTES: usize = 12;

/// A segment as it is, and with the checksums that it would have: behind them are most of the faults.
pub fn wal(bytes: &[u8]) {
    check_segment(bytes);
    check_segment(&resealed(bytes));
}

/// The columns of a frame as they are before compression, after 16 bits with the number of rows.
pub fn columns(bytes: &[u8]) {
    let Some((rows, columns)) = bytes.split_first_chunk() else { return };
    check_segment(&segment_of(u16::from_le_bytes(*rows), columns));
}

fn check_segment(bytes: &[u8]) {
    let Ok((header, frames)) = Frames::new(bytes, length(bytes)) else { return };
    let dir = directory();
    let mut again = Wal::open(dir.path().to_owned(), &header, WalSync::Off).unwrap();
    let mut good_bytes = length(bytes);
    let mut good_frames = 0;
    for frame in frames {
        assert_eq!(good_bytes, length(bytes), "a frame after a bad one");
        match frame {
            Err(damage) => {
                assert_eq!(damage.offset + damage.bytes, length(bytes));
                good_bytes = damage.offset;
            }
            Ok(Frame { batch, complete_until_us, round }) => {
                good_frames += 1;
                match batch {
                    None => again.mark(complete_until_us).unwrap(),
                    Some(batch) => {
                        // Whatever it holds can be looked at.
                        for column in batch.columns() {
                            column.to_data().validate_full().unwrap();
                        }
                        again.append(&batch, complete_until_us, round).unwrap();
                    }
                }
            }
        }
    }
    // What is before the bad frame stands by itself, and is what it was before it was logged again.
    let good = &bytes[..usize::try_from(good_bytes).unwrap()];
    let (_, frames) = Frames::new(good, length(good)).unwrap();
    let frames = frames.map(Result::unwrap).inspect(|_| good_frames -= 1);
    let with_content = frames.filter(|frame| frame.batch.as_ref().is_none_or(|batch| batch.num_rows() > 0));
    let Some(segment) = again.current() else { return assert_eq!(with_content.count(), 0) };
    let (found, logged) = wal::read(&segment.path).unwrap();
    assert_eq!(found, header);
    assert!(with_content.eq(logged.map(Result::unwrap)), "logged again, the frames are others");
    assert_eq!(good_frames, 0);
}

/// A run left this segment: its rows are published once, by the next run or the one after.
pub fn recovery(bytes: &[u8]) {
    recover(bytes);
    let sealed = resealed(bytes);
    if sealed != bytes {
        recover(&sealed);
    }
}

fn recover(segment: &[u8]) {
    let dir = directory();
    let (run_id, logged) = logged(segment);
    let log = dir.path().join(layout::WAL);
    fs::create_dir_all(&log).unwrap();
    fs::write(log.join(format!("{run_id}_00000001.wal")), segment).unwrap();

    let is_complete = start_and_stop(dir.path(), 1);
    let published = published(dir.path());
    assert!(published.is_subset(&logged), "rows that nobody logged");
    if is_complete {
        assert_eq!(published, logged);
        assert_eq!(faults(dir.path()), [""; 0]);
    }
    start_and_stop(dir.path(), 2);
    assert_eq!(self::published(dir.path()), published, "rows that came with the second start");
}

/// The run that a segment is of, and the numbers of its rows.
fn logged(segment: &[u8]) -> (Uuid, BTreeSet<i64>) {
    let Ok((header, frames)) = Frames::new(segment, length(segment)) else {
        return (Uuid::from_u128(1), BTreeSet::new());
    };
    let batches = frames.map_while(Result::ok).filter_map(|frame| frame.batch);
    let numbers = batches.flat_map(|batch| seqs(&batch).unwrap().values().to_vec()).collect();
    (header.run_id, numbers)
}

/// The numbers of all rows in files. Each is there once.
fn published(output: &Path) -> BTreeSet<i64> {
    let mut numbers = BTreeSet::new();
    for path in files(&output.join(layout::FLOWS)) {
        let below = path.strip_prefix(output).unwrap().to_owned();
        let file = Published::read(output, below).unwrap();
        let rows = usize::try_from(file.rows).unwrap();
        let before = numbers.len();
        numbers.extend(file.seqs.into_iter().flatten());
        assert_eq!(numbers.len() - before, rows, "a row twice: {}", path.display());
    }
    numbers
}

/// A run that finds what the one before left, and stops. Says whether that is all published.
fn start_and_stop(output: &Path, number: u64) -> bool {
    let now = UNIX_EPOCH + Duration::from_secs(1_795_248_000 + number);
    let mut store = testing::store(output, testing::facts(Uuid::now_v7()), vec![1], now);
    store.recover(now);
    let (_, is_complete) = store.finish(true, now);
    is_complete
}

/// The segment with the checksums that its bytes have: header and frames have theirs after their length.
fn resealed(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    let mut rest = sealed.get_mut(BEFORE_LENGTH_BYTES..).unwrap_or_default();
    while let Some((prefix, after)) = rest.split_first_chunk_mut::<8>() {
        let [l0, l1, l2, l3, checksum @ ..] = prefix;
        let length = [*l0, *l1, *l2, *l3];
        let content_bytes = usize::try_from(u32::from_le_bytes(length)).unwrap();
        let Some((content, next)) = after.split_at_mut_checked(content_bytes) else { break };
        *checksum = crc32c::crc32c_append(crc32c::crc32c(&length), content).to_le_bytes();
        rest = next;
    }
    sealed
}

/// A segment with one frame.
fn segment_of(rows: u16, columns: &[u8]) -> Vec<u8> {
    const ROWS: u32 = 1;
    let header = SegmentHeader {
        run_id: Uuid::from_u128(1),
        host_id: "8f2c".into(),
        host_name: "web-1".into(),
        boot_id: None,
        kernel: "6.18.5".into(),
        acct: None,
        timestamp: None,
        filter: None,
        started_us: 0,
        in_flight: None,
    };
    let compressed = lz4_flex::block::compress(columns);
    let frame = [
        &ROWS.to_le_bytes()[..],
        &u32::from(rows).to_le_bytes(),
        &1_i64.to_le_bytes(),
        &0_i64.to_le_bytes(),
        &0_u64.to_le_bytes(),
        &u32::try_from(columns.len()).unwrap().to_le_bytes(),
        &compressed,
    ]
    .concat();
    let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
    resealed(&[&header.to_bytes().unwrap()[..], &length, &[0; 4], &frame].concat())
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap()
}
