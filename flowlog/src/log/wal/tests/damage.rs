//! Damaged segments: what was before the damage comes back as it was, and nothing else.

use std::fs;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, PrimitiveArray, RecordBatch, new_null_array};
use flowlog_reader::segments::{FrameError, HEAD_BYTES, Head, ROWS};
use proptest::prelude::*;

use super::super::columns::Columns;
use super::super::{DamageCause, DecodeError, Frame, Frames, WalSync};
use super::rows::Rows;
use super::{Bench, header};

/// A small segment: its bytes, and each frame with the byte behind it.
struct Whole {
    bytes: Vec<u8>,
    frames: Vec<(Frame, usize)>,
    header_bytes: usize,
}

impl Whole {
    fn new() -> Self {
        let mut bench = Bench::new(WalSync::Off);
        let mut frames = Vec::new();
        let mut push = |bench: &Bench, frame| {
            frames.push((frame, usize::try_from(bench.wal.current().unwrap().bytes).unwrap()));
        };
        let frame = bench.mark(1);
        push(&bench, frame);
        let frame = bench.append(1, 2);
        push(&bench, frame);
        let frame = bench.append(3, 3);
        push(&bench, frame);
        let frame = bench.mark(4);
        push(&bench, frame);
        let bytes = fs::read(&bench.wal.current().unwrap().path).unwrap();
        Self { bytes, frames, header_bytes: header().to_bytes().unwrap().len() }
    }

    /// How many frames end at this byte or before.
    fn frames_until(&self, offset: usize) -> usize {
        self.frames.iter().filter(|(_, end)| *end <= offset).count()
    }

    /// Holds `bytes`, which are damaged from `offset` on, against the whole segment.
    fn check(&self, bytes: &[u8], offset: usize) {
        let Some((found, damage)) = recover(bytes) else {
            assert!(offset < self.header_bytes, "no frames, damaged at {offset}");
            return;
        };
        assert!(offset >= self.header_bytes);
        let good = self.frames_until(offset);
        assert!(found.iter().eq(self.frames[..good].iter().map(|(frame, _)| frame)), "damaged at {offset}");
        let end = good.checked_sub(1).map_or(self.header_bytes, |last| self.frames[last].1);
        let expected = (end < bytes.len()).then(|| (end, bytes.len() - end));
        assert_eq!(damage.map(|(offset, bytes, _)| (offset, bytes)), expected, "damaged at {offset}");
    }
}

/// The frames; and where they ended early, how many bytes were dropped, and why.
type Recovered = (Vec<Frame>, Option<(usize, usize, DamageCause)>);

fn recover(bytes: &[u8]) -> Option<Recovered> {
    let (found, mut frames) = Frames::new(bytes, bytes.len() as u64).ok()?;
    assert_eq!(found, header());
    let mut good = Vec::new();
    let damage = loop {
        match frames.next() {
            Some(Ok(frame)) => good.push(frame),
            Some(Err(damage)) => break Some(damage),
            None => break None,
        }
    };
    assert!(frames.next().is_none(), "frames after the end");
    let place = |n: u64| usize::try_from(n).unwrap();
    Some((good, damage.map(|damage| (place(damage.offset), place(damage.bytes), damage.cause))))
}

fn cause_of(bytes: &[u8]) -> DamageCause {
    let (_, damage) = recover(bytes).unwrap();
    damage.unwrap().2
}

#[test]
fn a_segment_that_is_cut_anywhere_keeps_the_frames_before() {
    let whole = Whole::new();
    for len in 0..=whole.bytes.len() {
        whole.check(&whole.bytes[..len], len);
    }
}

#[test]
fn a_byte_that_is_changed_anywhere_costs_its_frame_and_those_behind() {
    let whole = Whole::new();
    for offset in 0..whole.bytes.len() {
        for bits in [0x01, 0x80, 0xff] {
            let mut bytes = whole.bytes.clone();
            bytes[offset] ^= bits;
            whole.check(&bytes, offset);
        }
    }
}

#[test]
fn what_is_left_after_a_power_failure_is_told() {
    let whole = Whole::new();
    let with = |tail: &[u8]| [&whole.bytes, tail].concat();
    assert!(matches!(cause_of(&with(&[0; 4096])), DamageCause::Frame(FrameError::Checksum)));
    assert!(matches!(cause_of(&with(&[0; 3])), DamageCause::Frame(FrameError::Torn)));
    assert!(matches!(cause_of(&with(&[0xff; 100])), DamageCause::Frame(FrameError::Torn)));

    let (frames, damage) = recover(&with(&[0; 4096])).unwrap();
    assert_eq!((frames.len(), damage.unwrap().1), (4, 4096));
}

#[test]
fn a_frame_of_an_unknown_kind_ends_the_segment() {
    let mut frame = vec![0; HEAD_BYTES];
    let head = Head { kind: 3, rows: 0, first_seq: 0, complete_until_us: 0, round: 0 };
    head.seal(&mut frame).unwrap();
    let bytes = [header().to_bytes().unwrap(), frame].concat();
    assert!(matches!(cause_of(&bytes), DamageCause::Kind { kind: 3 }));
}

/// A segment with one frame of rows whose checksum is good, whatever it says.
fn sealed(rows: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&[0; HEAD_BYTES], payload].concat();
    Head { kind: ROWS, rows, first_seq: 1, complete_until_us: 0, round: 0 }.seal(&mut frame).unwrap();
    [header().to_bytes().unwrap(), frame].concat()
}

#[test]
fn a_few_bytes_cannot_ask_for_much_memory() {
    let bomb = [&u32::MAX.to_le_bytes()[..], &[0; 100]].concat();
    let cause = cause_of(&sealed(1, &bomb));
    assert!(matches!(cause, DamageCause::Content(DecodeError::TooLarge { bytes: 0xffff_ffff })), "{cause}");
    let empty = [&0_u32.to_le_bytes()[..], &lz4_flex::block::compress(&[])].concat();
    let cause = cause_of(&sealed(u32::MAX, &empty));
    assert!(matches!(cause, DamageCause::Content(DecodeError::TooLong { .. })), "{cause}");
    // No columns at all: required ones are missing.
    let cause = cause_of(&sealed(3, &empty));
    assert!(matches!(cause, DamageCause::Content(DecodeError::Arrow(_))), "{cause}");
}

/// The columns of a batch, as they are in a frame before compression.
fn encoded(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert_eq!(Columns::new().encode(batch, &mut bytes).unwrap(), 1);
    bytes
}

#[test]
fn columns_are_found_by_their_ids() {
    let decode = |bytes: &[u8]| Columns::new().decode(9, 1, bytes);
    let batch = Rows::new(0).batch(9);
    let bytes = encoded(&batch);
    // A column with one number in all rows.
    let constant = |id: u16| [&id.to_le_bytes()[..], &[0, 0], &7_i64.to_le_bytes()].concat();
    // One of the future.
    let error = decode(&[&bytes[..], &constant(9999)].concat()).unwrap_err();
    assert!(matches!(error, DecodeError::Column { id: 9999 }), "{error}");
    let error = decode(&[&bytes[..], &constant(12), &constant(12)].concat()).unwrap_err();
    assert!(matches!(error, DecodeError::Twice { id: 12 }), "{error}");
    let error = decode(&[&constant(3), &bytes[..]].concat()).unwrap_err();
    assert!(matches!(error, DecodeError::Column { id: 3 }), "the numbers follow from the frame: {error}");
    // One that older versions wrote, `duration_us`, wherever it is.
    for bytes in [[&constant(9), &bytes[..]], [&bytes[..], &constant(9)]] {
        assert_eq!(decode(&bytes.concat()).unwrap(), batch);
    }
    let error = decode(&[&bytes[..], &constant(9), &constant(9)].concat()).unwrap_err();
    assert!(matches!(error, DecodeError::Twice { id: 9 }), "{error}");
    // A version with another order of its columns.
    let schema = batch.schema();
    let without = |wanted: &str| {
        let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| match field.name() {
            name if name == wanted => new_null_array(field.data_type(), 9),
            _ => Arc::clone(column),
        });
        columns.collect::<Vec<_>>()
    };
    let other = RecordBatch::try_new(Arc::clone(&schema), without("ct_mark")).unwrap();
    let bytes = [&constant(37), &encoded(&other)[..]].concat();
    let marks =
        decode(&bytes).unwrap().column_by_name("ct_mark").unwrap().as_primitive::<Int64Type>().clone();
    assert!(marks.iter().all(|mark| mark == Some(7)), "{marks:?}");
}

/// Numbers that need all widths, and the ends of the range.
fn numbers<T: Arbitrary + Copy + 'static>(ends: [T; 2]) -> impl Strategy<Value = Option<T>> {
    prop_oneof![2 => Just(None), 2 => any::<T>().prop_map(Some), 1 => Just(Some(ends[0])), 1 => Just(Some(ends[1]))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_rows_are_decoded_as_they_were(seed: u64, rows in 1_usize..200) {
        let batch = Rows::new(seed).batch(rows);
        let found = Columns::new().decode(rows, 1, &encoded(&batch)).unwrap();
        prop_assert_eq!(found, batch);
    }

    #[test]
    fn any_numbers_are_decoded_as_they_were(
        long in prop::collection::vec(numbers([i64::MIN, i64::MAX]), 1..40),
        narrow in prop_oneof![Just(1_i64), Just(255), Just(256), Just(65_536), Just(1 << 32)],
        short in prop::collection::vec(numbers([i32::MIN, i32::MAX]), 40),
    ) {
        let rows = long.len();
        let batch = Rows::new(0).batch(rows);
        let mut columns = batch.columns().to_vec();
        let mut put = |name: &str, column: ArrayRef| {
            columns[batch.schema().index_of(name).unwrap()] = column;
        };
        put("orig_bytes", Arc::new(PrimitiveArray::<Int64Type>::from_iter(long.iter().copied())));
        let near = long.iter().map(|number| number.map(|number| -7 + number.rem_euclid(narrow + 1)));
        put("reply_bytes", Arc::new(PrimitiveArray::<Int64Type>::from_iter(near)));
        put("src_ppid", Arc::new(PrimitiveArray::<Int32Type>::from_iter(short[..rows].iter().copied())));
        let batch = RecordBatch::try_new(batch.schema(), columns).unwrap();
        let found = Columns::new().decode(rows, 1, &encoded(&batch)).unwrap();
        prop_assert_eq!(found, batch);
    }

    #[test]
    fn any_bytes_are_no_segment(mut bytes: Vec<u8>, with_header: bool) {
        if with_header {
            bytes = [header().to_bytes().unwrap(), bytes].concat();
        }
        prop_assert!(recover(&bytes).is_none_or(|(frames, _)| frames.is_empty()));
    }

    /// Bytes that pass the checksum and are not columns are an error, or columns of as many rows.
    #[test]
    fn any_columns_are_decoded_or_refused(
        rows in prop_oneof![4 => 1_usize..20, 1 => any::<usize>()],
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = encoded(&Rows::new(0).batch(9));
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(batch) = Columns::new().decode(rows, 1, &bytes) {
            prop_assert_eq!(batch.num_rows(), rows);
            // Whatever it holds can be looked at.
            prop_assert!(batch.columns().iter().all(|column| column.to_data().validate_full().is_ok()));
        }
    }

    #[test]
    fn any_payload_is_decoded_or_refused(rows: u32, payload: Vec<u8>) {
        prop_assert!(recover(&sealed(rows, &payload)).unwrap().0.is_empty());
    }
}
