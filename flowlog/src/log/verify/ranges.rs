//! A set of row numbers, as ranges: a run of billions of rows is one.

use rangemap::RangeInclusiveSet;

/// How many ranges a text lists.
const MAX_LISTED: usize = 5;

/// A set of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(RangeInclusiveSet<i64>);

impl Ranges {
    /// Adds `first..=last`, and puts into `doubles` what was in the set before. An empty range adds
    /// nothing.
    pub(super) fn insert(&mut self, first: i64, last: i64, doubles: &mut Ranges) {
        if first > last {
            return;
        }
        for known in self.0.overlapping(first..=last) {
            doubles.0.insert(*known.start().max(&first)..=*known.end().min(&last));
        }
        self.0.insert(first..=last);
    }

    /// Adds sorted numbers.
    pub(super) fn insert_sorted(&mut self, numbers: &[i64], doubles: &mut Ranges) {
        for range in numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
            if let (Some(first), Some(last)) = (range.first(), range.last()) {
                self.insert(*first, *last, doubles);
            }
        }
    }

    /// What of `1..=last` is in neither set.
    pub(super) fn missing(&self, last: i64, excused: &Ranges) -> Ranges {
        let mut present = self.0.clone();
        present.extend(excused.0.iter().cloned());
        Ranges(if last < 1 { RangeInclusiveSet::new() } else { present.gaps(&(1..=last)).collect() })
    }

    /// The numbers above `limit`.
    pub(super) fn above(&self, limit: i64) -> Ranges {
        let above = self.0.iter().filter(|range| *range.end() > limit);
        Ranges(above.map(|range| limit.saturating_add(1).max(*range.start())..=*range.end()).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many numbers.
    pub(super) fn count(&self) -> u64 {
        let count =
            |range: &std::ops::RangeInclusive<i64>| range.end().abs_diff(*range.start()).saturating_add(1);
        self.0.iter().map(count).fold(0, u64::saturating_add)
    }

    /// The highest number.
    pub(super) fn last(&self) -> Option<i64> {
        self.0.last().map(|range| *range.end())
    }
}

/// Such as `1-5, 9`.
impl std::fmt::Display for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, range) in self.0.iter().take(MAX_LISTED).enumerate() {
            f.write_str(if n > 0 { ", " } else { "" })?;
            match (range.start(), range.end()) {
                (start, end) if start == end => write!(f, "{start}")?,
                (start, end) => write!(f, "{start}-{end}")?,
            }
        }
        match self.0.len().saturating_sub(MAX_LISTED) {
            0 => Ok(()),
            more => write!(f, " and {more} more ranges"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn numbers(ranges: &Ranges) -> Vec<i64> {
        ranges.0.iter().cloned().flatten().collect()
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(given in prop::collection::vec((1..60_i64, 0..9_i64), 0..20), excused in 1..60_i64) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (first, len) in given {
                let mut doubles = Ranges::default();
                ranges.insert(first, first + len, &mut doubles);
                let known: Vec<i64> = (first..=first + len).filter(|number| set.contains(number)).collect();
                prop_assert_eq!(numbers(&doubles), known);
                set.extend(first..=first + len);
                prop_assert_eq!(numbers(&ranges), set.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(ranges.count(), set.len() as u64);
                prop_assert!(ranges.0.iter().zip(ranges.0.iter().skip(1)).all(|(one, next)| one.end() + 1 < *next.start()));
            }
            let mut known = Ranges::default();
            known.insert(excused, excused + 3, &mut Ranges::default());
            let missing = (1..=50).filter(|number| !set.contains(number) && !(excused..=excused + 3).contains(number));
            prop_assert_eq!(numbers(&ranges.missing(50, &known)), missing.collect::<Vec<_>>());
            prop_assert_eq!(numbers(&ranges.above(30)), set.range(31..).copied().collect::<Vec<_>>());
        }

        #[test]
        fn sorted_numbers_are_the_same_as_single_ones(mut given in prop::collection::vec(-5..30_i64, 0..40)) {
            given.sort();
            let (mut one, mut one_doubles) = (Ranges::default(), Ranges::default());
            one.insert_sorted(&given, &mut one_doubles);
            let (mut other, mut other_doubles) = (Ranges::default(), Ranges::default());
            for number in given {
                other.insert(number, number, &mut other_doubles);
            }
            prop_assert_eq!((one, one_doubles), (other, other_doubles));
        }
    }

    #[test]
    fn the_ends_of_the_numbers_are_numbers() {
        let mut ranges = Ranges::default();
        let mut doubles = Ranges::default();
        for number in [i64::MAX, i64::MIN, i64::MAX, i64::MIN] {
            ranges.insert(number, number, &mut doubles);
        }
        ranges.insert_sorted(&[i64::MIN, i64::MIN, i64::MAX, i64::MAX], &mut doubles);
        assert_eq!(ranges.len(), 2);
        assert_eq!(doubles, ranges);
        ranges.insert(i64::MIN, i64::MAX, &mut doubles);
        assert_eq!((ranges.len(), ranges.count()), (1, u64::MAX));
        assert!(ranges.missing(i64::MAX, &doubles).is_empty());
        ranges.insert(1, 0, &mut doubles);
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges.above(i64::MAX).len(), 0);
    }

    #[test]
    fn few_ranges_are_listed() {
        let mut ranges = Ranges::default();
        ranges.insert_sorted(&[1, 2, 3, 5, 7, 9, 11, 13, 15], &mut Ranges::default());
        assert_eq!(ranges.to_string(), "1-3, 5, 7, 9, 11 and 2 more ranges");
    }
}
