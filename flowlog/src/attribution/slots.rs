//! Small values by number, in pieces of fixed size: a table of millions grows without being copied, and gives memory back
//! when it shrinks. A pure data structure: no clock, no IO.

use std::collections::BTreeSet;

/// No slot.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// How many slots a chunk has: at 92 bytes a chunk is beyond the size from which the C library gives memory back at once.
const CHUNK: usize = if cfg!(test) { 128 } else { 2048 };

const WORD_BITS: usize = 64;

/// A number of 64 bits that asks for no room before it: a slot has no holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed([u8; 8]);

impl Packed {
    pub(crate) const fn new(number: u64) -> Self {
        Self(number.to_ne_bytes())
    }

    pub(crate) const fn get(self) -> u64 {
        u64::from_ne_bytes(self.0)
    }
}

/// A part of the slots.
#[derive(Debug)]
struct Chunk<S> {
    slots: Vec<S>,
    /// A bit for each slot that is used.
    used: [u64; CHUNK / WORD_BITS],
    len: usize,
}

impl<S> Chunk<S> {
    fn new() -> Self {
        Self { slots: Vec::with_capacity(CHUNK), used: [0; CHUNK / WORD_BITS], len: 0 }
    }

    fn is_used(&self, at: usize) -> bool {
        self.used.get(at / WORD_BITS).is_some_and(|word| word & (1 << (at % WORD_BITS)) != 0)
    }

    /// Takes the first slot that is free; `None` if there is none.
    fn insert(&mut self, slot: S) -> Option<usize> {
        let word = self.used.iter().position(|word| *word != u64::MAX)?;
        let bits = self.used.get_mut(word)?;
        let bit = bits.trailing_ones() as usize;
        *bits |= 1 << bit;
        self.len += 1;
        let at = word * WORD_BITS + bit;
        // The first that is free is at most one behind those that were ever used.
        match self.slots.get_mut(at) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        Some(at)
    }

    fn remove(&mut self, at: usize) {
        if let Some(word) = self.used.get_mut(at / WORD_BITS) {
            *word &= !(1 << (at % WORD_BITS));
            self.len -= 1;
        }
    }
}

/// Values by number.
#[derive(Debug)]
pub(crate) struct Slots<S> {
    chunks: Vec<Option<Chunk<S>>>,
    /// Numbers of chunks that are not full. The first is filled first, so that later ones become empty.
    roomy: BTreeSet<usize>,
    len: usize,
}

impl<S> Default for Slots<S> {
    fn default() -> Self {
        Self { chunks: Vec::new(), roomy: BTreeSet::new(), len: 0 }
    }
}

impl<S> Slots<S> {
    /// How many are used.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Keeps a value, and says its number. `None` beyond 2 billion.
    pub(crate) fn insert(&mut self, slot: S) -> Option<u32> {
        let number = match self.roomy.first() {
            Some(number) => *number,
            None => {
                self.chunks.push(None);
                self.roomy.insert(self.chunks.len() - 1);
                self.chunks.len() - 1
            }
        };
        let base = u32::try_from(number * CHUNK).ok().filter(|base| *base < NO_SLOT / 2)?;
        let chunk = self.chunks.get_mut(number)?.get_or_insert_with(Chunk::new);
        let at = chunk.insert(slot)?;
        if chunk.len == CHUNK {
            self.roomy.remove(&number);
        }
        self.len += 1;
        Some(base + u32::try_from(at).ok()?)
    }

    /// The value with this number. Of a number that is not used any more it may be the former value, which costs less than to
    /// look whether it is.
    pub(crate) fn get(&self, number: u32) -> Option<&S> {
        let (chunk, at) = place(number);
        self.chunks.get(chunk)?.as_ref()?.slots.get(at)
    }

    /// Whether this number is used.
    pub(crate) fn is_used(&self, number: u32) -> bool {
        let (chunk, at) = place(number);
        self.chunks.get(chunk).and_then(Option::as_ref).is_some_and(|chunk| chunk.is_used(at))
    }

    /// As [`Slots::get`].
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut S> {
        let (chunk, at) = place(number);
        self.chunks.get_mut(chunk)?.as_mut()?.slots.get_mut(at)
    }

    /// The numbers of all values.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        let chunks =
            self.chunks.iter().enumerate().filter_map(|(number, chunk)| Some((number, chunk.as_ref()?)));
        chunks.flat_map(|(number, chunk)| {
            let used = (0..chunk.slots.len()).filter(|at| chunk.is_used(*at));
            used.filter_map(move |at| u32::try_from(number * CHUNK + at).ok())
        })
    }
}

impl<S: Copy> Slots<S> {
    /// Takes a value out.
    pub(crate) fn remove(&mut self, number: u32) -> Option<S> {
        let (number, at) = place(number);
        let place = self.chunks.get_mut(number)?;
        let chunk = place.as_mut().filter(|chunk| chunk.is_used(at))?;
        let removed = *chunk.slots.get(at)?;
        if chunk.len == CHUNK {
            self.roomy.insert(number);
        }
        chunk.remove(at);
        if chunk.len == 0 {
            *place = None;
        }
        self.len -= 1;
        Some(removed)
    }
}

/// The chunk and the place in it.
fn place(number: u32) -> (usize, usize) {
    let number = number as usize;
    (number / CHUNK, number % CHUNK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_that_are_empty_are_given_back() {
        let mut slots = Slots::default();
        let numbers: Vec<u32> = (0..3 * CHUNK).map(|value| slots.insert(value).unwrap()).collect();
        let there = |slots: &Slots<usize>| slots.chunks.iter().filter(|chunk| chunk.is_some()).count();
        assert_eq!((slots.len(), there(&slots)), (3 * CHUNK, 3));
        for number in &numbers[CHUNK..2 * CHUNK] {
            slots.remove(*number);
        }
        assert_eq!((slots.len(), there(&slots)), (2 * CHUNK, 2));
        // A place that is free is taken before a new one.
        assert_eq!(slots.insert(7), u32::try_from(CHUNK).ok());
        assert_eq!((slots.chunks.len(), there(&slots)), (3, 3));
    }

    proptest! {
        #[test]
        fn it_has_what_a_map_has(steps in proptest::collection::vec((any::<bool>(), any::<usize>()), 0..600)) {
            let (mut slots, mut expected) = (Slots::default(), std::collections::BTreeMap::new());
            for (inserts, value) in steps {
                if inserts || expected.is_empty() {
                    expected.insert(slots.insert(value).unwrap(), value);
                } else {
                    let number = *expected.keys().nth(value % expected.len()).unwrap();
                    assert_eq!(slots.remove(number), expected.remove(&number));
                    assert_eq!(slots.remove(number), None);
                }
            }
            assert_eq!(slots.len(), expected.len());
            let found: Vec<_> = slots.numbers().map(|number| (number, *slots.get(number).unwrap())).collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
