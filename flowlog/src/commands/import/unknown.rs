//! What lines had that is not known.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

/// How many different names are kept: text that is no list at all has others in each line.
const MAX_NAMES: usize = 1_000;

/// How many of them are told.
const MAX_SHOWN: usize = 30;

/// Fields and flags that were left out, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unknown {
    by_name: BTreeMap<String, u64>,
    /// Of names for which there was no room.
    others: u64,
}

impl Unknown {
    /// Counts names.
    pub(super) fn add(&mut self, names: Vec<String>) {
        for name in names {
            if let Some(count) = self.by_name.get_mut(&name) {
                *count += 1;
            } else if self.by_name.len() < MAX_NAMES {
                self.by_name.insert(name, 1);
            } else {
                self.others += 1;
            }
        }
    }

    /// Whether nothing was left out.
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// `3 [FASTNAT], 2 nmark`: the most frequent first.
impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<(&String, &u64)> = self.by_name.iter().collect();
        names.sort_by_key(|(_, count)| Reverse(**count));
        let (shown, rest) = names.split_at(names.len().min(MAX_SHOWN));
        let mut delimiter = "";
        for (name, count) in shown {
            write!(f, "{delimiter}{count} {name}")?;
            delimiter = ", ";
        }
        match self.others + rest.iter().map(|(_, count)| **count).sum::<u64>() {
            0 => Ok(()),
            others => write!(f, ", {others} others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_once_with_their_number() {
        let mut unknown = Unknown::default();
        assert!(unknown.is_empty());
        for names in [vec!["[FASTNAT]", "nmark"], vec![], vec!["[FASTNAT]"]] {
            unknown.add(names.into_iter().map(str::to_owned).collect());
        }
        assert_eq!(unknown.to_string(), "2 [FASTNAT], 1 nmark");
        unknown.add((0..2 * MAX_NAMES).map(|number| format!("x{number}")).collect());
        assert!(unknown.to_string().ends_with(", 1972 others"), "{unknown}");
    }
}
