//! Where there is too much, whoever has most gives way. Pure: sizes are arguments.

use std::cmp::Reverse;

/// How much more than needed is forgotten at once, as a part of all: whoever has most is looked for each time.
pub(crate) const FORGOTTEN_PART: usize = 256;

/// Calls `lower` with those that have most, by their sizes, and with what the next has: they are to have no more than that.
/// Goes on with one more until it says that this is enough, or nobody has anything.
pub(crate) fn lower_largest<G>(
    mut all: Vec<(usize, G)>,
    mut lower: impl FnMut(&[(usize, G)], usize) -> bool,
) {
    all.sort_unstable_by_key(|(size, _)| Reverse(*size));
    for at in 0..all.len() {
        let level = all.get(at + 1).map_or(0, |(size, _)| *size);
        let Some((largest, _)) = all.split_at_checked(at + 1) else { return };
        if largest.last().is_some_and(|(size, _)| *size == level) {
            continue;
        }
        if lower(largest, level) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_have_most_come_down_to_the_next() {
        let mut calls = Vec::new();
        lower_largest(vec![(1, 'a'), (5, 'b'), (3, 'c'), (5, 'd')], |largest, level| {
            calls.push((largest.len(), level));
            level == 1
        });
        assert_eq!(calls, [(2, 3), (3, 1)]);
    }
}
