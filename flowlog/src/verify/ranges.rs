//! A set of row numbers, as ranges: a run of billions of rows is one.

use std::collections::BTreeMap;
use std::fmt::Write;

/// How many ranges a text lists.
const MAX_LISTED: usize = 5;

/// Numbers as ranges that neither touch nor overlap: first to last, both in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<i64, i64>);

impl Ranges {
    /// Adds `first..=last`, and puts into `doubles` what was in the set before. An empty range adds
    /// nothing.
    pub(super) fn insert(&mut self, first: i64, last: i64, doubles: &mut Ranges) {
        if first > last {
            return;
        }
        let (mut from, mut to) = (first, last);
        // From the back: at most one range begins before this one and reaches into it.
        while let Some((&start, &end)) = self.0.range(..=last.saturating_add(1)).next_back()
            && end >= first.saturating_sub(1)
        {
            self.0.remove(&start);
            if start <= last && end >= first {
                doubles.insert(start.max(first), end.min(last), &mut Ranges::default());
            }
            from = from.min(start);
            to = to.max(end);
        }
        self.0.insert(from, to);
    }

    /// Adds sorted numbers.
    pub(super) fn insert_sorted(&mut self, numbers: &[i64], doubles: &mut Ranges) {
        let mut rest = numbers.iter().copied();
        let Some(mut first) = rest.next() else { return };
        let mut last = first;
        for number in rest {
            if number != last.saturating_add(1) || number == last {
                self.insert(first, last, doubles);
                first = number;
            }
            last = number;
        }
        self.insert(first, last, doubles);
    }

    /// What of `1..=last` is in neither set.
    pub(super) fn missing(&self, last: i64, excused: &Ranges) -> Ranges {
        let mut present = self.clone();
        for (&first, &last) in &excused.0 {
            present.insert(first, last, &mut Ranges::default());
        }
        let mut missing = Ranges::default();
        let mut next = 1_i64;
        for (&start, &end) in present.0.iter().take_while(|&(&start, _)| start <= last) {
            if next < start {
                missing.0.insert(next, start.saturating_sub(1));
            }
            let Some(behind) = end.checked_add(1) else { return missing };
            next = next.max(behind);
        }
        if next <= last {
            missing.0.insert(next, last);
        }
        missing
    }

    /// The numbers above `limit`.
    pub(super) fn above(&self, limit: i64) -> Ranges {
        let above = self.0.iter().rev().take_while(|&(_, &end)| end > limit);
        Ranges(above.map(|(&start, &end)| (start.max(limit.saturating_add(1)), end)).collect())
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
        let count = |(&start, &end): (&i64, &i64)| end.abs_diff(start).saturating_add(1);
        self.0.iter().map(count).fold(0, u64::saturating_add)
    }

    /// The highest number.
    pub(super) fn last(&self) -> Option<i64> {
        self.0.last_key_value().map(|(_, &end)| end)
    }
}

/// Such as `1-5, 9`.
impl std::fmt::Display for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        for (n, (start, end)) in self.0.iter().take(MAX_LISTED).enumerate() {
            text.push_str(if n > 0 { ", " } else { "" });
            if start == end { write!(text, "{start}") } else { write!(text, "{start}-{end}") }?;
        }
        match self.0.len().saturating_sub(MAX_LISTED) {
            0 => f.write_str(&text),
            more => write!(f, "{text} and {more} more ranges"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn numbers(ranges: &Ranges) -> Vec<i64> {
        ranges.0.iter().flat_map(|(&start, &end)| start..=end).collect()
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
                prop_assert!(ranges.0.iter().zip(ranges.0.keys().skip(1)).all(|((_, end), next)| end + 1 < *next));
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
