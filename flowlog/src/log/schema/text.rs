//! Text columns as dictionary keys. No text is formatted or copied twice in a batch, and none is
//! hashed byte by byte: the encoder gets numbers.
//!
//! A dictionary may hold a text twice (two copies of one path). That is allowed in Arrow, and the
//! Parquet encoder makes it one.

use std::hash::Hash;
use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, StringBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, StringArray};
use hashbrown::HashMap;

use super::sparse::Sparse;

/// A text column of few values, such as the names of an enum. The dictionary stays from batch to
/// batch.
#[derive(Debug)]
pub(super) struct Names {
    keys: Sparse<Int32Type>,
    /// At most a few dozen, so that looking from the front is faster than hashing.
    names: Vec<Box<str>>,
    values: ArrayRef,
    /// The last name, which often comes again.
    last: Option<(&'static str, i32)>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { keys: Sparse::new(), names: Vec::new(), values: text_array([]), last: None }
    }

    pub(super) fn append(&mut self, name: Option<&'static str>) {
        let key = name.map(|name| match self.last {
            Some((last, key)) if std::ptr::eq(last, name) => key,
            _ => {
                let key = self.key(name);
                self.last = Some((name, key));
                key
            }
        });
        self.keys.append(key);
    }

    /// Appends what has no name of its own.
    pub(super) fn append_number(&mut self, number: u8) {
        let key = self.key(&number.to_string());
        self.keys.append(Some(key));
    }

    fn key(&mut self, name: &str) -> i32 {
        let known = self.names.iter().position(|known| **known == *name);
        to_key(known.unwrap_or_else(|| {
            self.names.push(name.into());
            self.values = text_array(self.names.iter().map(AsRef::as_ref));
            self.names.len() - 1
        }))
    }

    /// The column, which is `unknown` where it has no value at all; so in the other types.
    pub(super) fn finish_or(&mut self, unknown: ArrayRef) -> ArrayRef {
        self.keys.finish().map_or(unknown, |keys| dictionary(keys, Arc::clone(&self.values)))
    }
}

/// A text column whose values come from small keys: each distinct key becomes text once a batch.
#[derive(Debug)]
pub(super) struct Keyed<K> {
    keys: Sparse<Int32Type>,
    seen: HashMap<K, i32, foldhash::fast::RandomState>,
    /// The key of the row before, which often repeats.
    last: Option<(K, i32)>,
    values: StringBuilder,
}

impl<K: Copy + Eq + Hash> Keyed<K> {
    pub(super) fn new() -> Self {
        Self {
            keys: Sparse::new(),
            seen: HashMap::default(),
            last: None,
            values: StringBuilder::with_capacity(0, 0),
        }
    }

    pub(super) fn append_null(&mut self) {
        self.keys.append(None);
    }

    /// Appends the text of `key`. `write` appends exactly one value; it is called where the batch has
    /// not seen the key.
    pub(super) fn append(&mut self, key: K, write: impl FnOnce(&mut StringBuilder)) {
        let value = match self.last {
            Some((last, value)) if last == key => value,
            _ => *self.seen.entry(key).or_insert_with(|| {
                let value = to_key(self.values.len());
                write(&mut self.values);
                value
            }),
        };
        self.last = Some((key, value));
        self.keys.append(Some(value));
    }

    pub(super) fn finish_or(&mut self, unknown: ArrayRef) -> ArrayRef {
        self.seen.clear();
        self.last = None;
        self.keys.finish().map_or(unknown, |keys| dictionary(keys, Arc::new(self.values.finish())))
    }
}

/// A text column of shared texts, known by the identity of their allocation.
#[derive(Debug)]
pub(super) struct Shared {
    column: Keyed<usize>,
    /// Keeps the allocations of the batch, so that no address is used for another text.
    alive: Vec<Arc<str>>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self { column: Keyed::new(), alive: Vec::new() }
    }

    pub(super) fn append(&mut self, text: Option<&Arc<str>>) {
        let Some(text) = text else { return self.column.append_null() };
        self.column.append(Arc::as_ptr(text).cast::<u8>().addr(), |values| {
            values.append_value(text);
            self.alive.push(Arc::clone(text));
        });
    }

    pub(super) fn finish_or(&mut self, unknown: ArrayRef) -> ArrayRef {
        self.alive.clear();
        self.column.finish_or(unknown)
    }
}

/// The dictionary of a column that has one value in all rows.
pub(super) fn constant(text: &str) -> ArrayRef {
    text_array([text])
}

/// A dictionary array of these keys.
pub(super) fn dictionary(keys: Int32Array, values: ArrayRef) -> ArrayRef {
    Arc::new(DictionaryArray::<Int32Type>::new(keys, values))
}

fn text_array<'a>(texts: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(texts))
}

fn to_key(index: usize) -> i32 {
    i32::try_from(index).expect("a batch has fewer rows than an i32 can count")
}
