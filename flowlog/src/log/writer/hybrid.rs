//! The RLE and bit-packing hybrid encoding of Parquet, which definition levels and dictionary indices have
//! (<https://parquet.apache.org/docs/file-format/data-pages/encodings/>).

use std::iter;

/// Numbers are bit-packed in groups of this many, and an RLE run is worth its header from this length on.
const GROUP: usize = 8;

/// How many groups a bit-packed run has at most: its header has one byte then, which is all that other writers make.
const MAX_GROUPS: usize = 63;

/// How many bits the numbers below this one need.
pub(super) fn width(below: u32) -> u32 {
    u32::BITS - below.saturating_sub(1).leading_zeros()
}

/// Appends the numbers, each of which has at most so many bits. They come as runs: a number, and how often it stands.
/// Two runs may have the same number.
pub(super) fn encode(runs: impl IntoIterator<Item = (u32, usize)>, width: u32, out: &mut Vec<u8>) {
    // What stands before the run and is to be packed.
    let mut packed: Vec<u32> = Vec::new();
    let mut runs = merged(runs).peekable();
    while let Some((number, count)) = runs.next() {
        // A bit-packed section has whole groups where something follows.
        let fill = packed.len().next_multiple_of(GROUP) - packed.len();
        let repeats = count.saturating_sub(fill);
        let is_all_that_is_left = packed.is_empty() && runs.peek().is_none();
        if repeats >= GROUP || is_all_that_is_left {
            packed.extend(iter::repeat_n(number, fill));
            pack(&packed, width, out);
            packed.clear();
            repeat(number, repeats, width, out);
        } else {
            packed.extend(iter::repeat_n(number, count));
        }
    }
    pack(&packed, width, out);
}

/// The same numbers, with neighbours of one number as one run.
fn merged(runs: impl IntoIterator<Item = (u32, usize)>) -> impl Iterator<Item = (u32, usize)> {
    let mut runs = runs.into_iter().peekable();
    iter::from_fn(move || {
        let (number, mut count) = runs.next()?;
        while let Some((_, more)) = runs.next_if(|(next, _)| *next == number) {
            count += more;
        }
        Some((number, count))
    })
}

/// Appends a number that stands many times.
fn repeat(number: u32, count: usize, width: u32, out: &mut Vec<u8>) {
    put_header(count << 1, out);
    out.extend(number.to_le_bytes().iter().zip((0..width).step_by(8)).map(|(byte, _)| byte));
}

/// Appends numbers bit by bit, the least significant first. The last group is filled with zeros.
fn pack(numbers: &[u32], width: u32, out: &mut Vec<u8>) {
    for run in numbers.chunks(GROUP * MAX_GROUPS) {
        let groups = run.len().div_ceil(GROUP);
        put_header(groups << 1 | 1, out);
        let mut bits: u64 = 0;
        let mut count = 0;
        for number in run.iter().copied().chain(iter::repeat(0)).take(groups * GROUP) {
            bits |= u64::from(number) << count;
            count += width;
            while count >= u8::BITS {
                let [byte, ..] = bits.to_le_bytes();
                out.push(byte);
                bits >>= u8::BITS;
                count -= u8::BITS;
            }
        }
    }
}

/// Appends a number as ULEB128.
fn put_header(mut header: usize, out: &mut Vec<u8>) {
    loop {
        let [byte, ..] = header.to_le_bytes();
        header >>= 7;
        if header == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(numbers: &[u32], width: u32) -> Vec<u8> {
        let mut out = Vec::new();
        // One by one, or as the runs that they are.
        encode(numbers.iter().map(|&number| (number, 1)), width, &mut out);
        let mut of_runs = Vec::new();
        let runs = numbers.chunk_by(PartialEq::eq).map(|run| (run[0], run.len()));
        encode(runs, width, &mut of_runs);
        assert_eq!(out, of_runs);
        out
    }

    #[test]
    fn the_example_of_the_specification_is_packed_as_it_says() {
        assert_eq!(encoded(&[0, 1, 2, 3, 4, 5, 6, 7], 3), [0b11, 0b1000_1000, 0b1100_0110, 0b1111_1010]);
    }

    #[test]
    fn a_run_has_its_number_in_whole_bytes() {
        assert_eq!(encoded(&[300; 100], 9), [200, 1, 44, 1]);
        assert_eq!(encoded(&[0; 3], 0), [6], "also a short one that is all there is");
        assert!(encoded(&[], 5).is_empty());
    }

    #[test]
    fn a_run_fills_the_group_before_it() {
        let numbers: Vec<u32> = [1, 0, 1].into_iter().chain([1; 13]).collect();
        assert_eq!(encoded(&numbers, 1), [0b11, 0b1111_1101, 16, 1]);
        let one_less = numbers.split_last().unwrap().1;
        assert_eq!(encoded(one_less, 1), [0b101, 0b1111_1101, 0b0111_1111]);
    }

    #[test]
    fn a_packed_section_has_a_header_of_one_byte() {
        let numbers: Vec<u32> = (0..505).map(|n| n % 2).collect();
        let found = encoded(&numbers, 1);
        assert_eq!(found.len(), 1 + 63 + 2);
        assert_eq!((found[0], found[64]), (127, 0b11));
    }

    #[test]
    fn width_is_that_of_the_largest_number() {
        let found = [0, 1, 2, 3, 4, 5, 256, 257, u32::MAX].map(width);
        assert_eq!(found, [0, 0, 1, 2, 2, 3, 8, 9, 32]);
    }
}
