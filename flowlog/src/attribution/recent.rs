//! What came last, by key, in bounded memory. A pure data structure: no clock, no IO.

use std::collections::VecDeque;
use std::hash::Hash;

use hashbrown::HashMap;

/// A map that forgets the first that came where there are too many.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    values: HashMap<K, V, foldhash::fast::RandomState>,
    order: VecDeque<K>,
    max: usize,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(max: usize) -> Self {
        Self { values: HashMap::default(), order: VecDeque::new(), max }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.values.insert(key, value).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.max
            && let Some(first) = self.order.pop_front()
        {
            self.values.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_came_is_forgotten() {
        let mut recent = Recent::new(2);
        for key in [1, 2, 1, 3] {
            recent.insert(key, ());
        }
        assert!(recent.get(&1).is_none() && recent.get(&2).is_some() && recent.get(&3).is_some());
        assert_eq!(recent.values.len(), recent.order.len());
    }
}
