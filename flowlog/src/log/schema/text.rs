//! Text columns as dictionary keys. No text is formatted or copied twice in a batch, and none is
//! hashed byte by byte: the encoder gets numbers.
//!
//! A dictionary may hold a text twice (two copies of one path). That is allowed in Arrow, and the
//! Parquet encoder makes it one.

use std::fmt::Write as _;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, StringBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, StringArray};
use flowlog_common::COMM_LEN;
use flowlog_reader::schema::ColumnType;
use hashbrown::HashMap;

use super::column::Kind;
use super::sparse::{Int32, Unknown};
use crate::flow::ProtoState;

/// A text column of few values, such as the names of an enum. The dictionary stays from batch to
/// batch.
#[derive(Debug)]
pub(super) struct Names {
    keys: Int32,
    /// At most a few dozen, so that looking from the front is faster than hashing.
    names: Vec<Box<str>>,
    values: ArrayRef,
    /// The last name, which often comes again.
    last: Option<(&'static str, i32)>,
}

impl Default for Names {
    fn default() -> Self {
        Self { keys: Int32::default(), names: Vec::new(), values: text_array([]), last: None }
    }
}

impl Names {
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
    fn append_number(&mut self, number: u8) {
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
}

impl Kind for Names {
    const TYPE: ColumnType = ColumnType::Text;

    fn finish(&mut self, unknown: &Unknown) -> ArrayRef {
        let keys = self.keys.finish_known();
        keys.map_or_else(|| unknown.text(), |keys| dictionary(keys, Arc::clone(&self.values)))
    }
}

/// Kinds that differ from what they are made of in how a value becomes text, and in nothing else.
macro_rules! made_of_texts {
    ($($kind:ty),*) => { $(
        impl Kind for $kind {
            const TYPE: ColumnType = ColumnType::Text;

            fn finish(&mut self, unknown: &Unknown) -> ArrayRef {
                self.0.finish(unknown)
            }
        }
    )* };
}

made_of_texts!(State, Address, Labels, Task);

/// The state of a protocol: its name, or its number where it has none, of a kernel newer than this program; that is
/// worth the allocation.
#[derive(Debug, Default)]
pub(super) struct State(Names);

impl State {
    pub(super) fn append(&mut self, state: Option<ProtoState>) {
        match state.map(|state| (state.name(), state.number())) {
            Some((None, number)) => self.0.append_number(number),
            Some((name, _)) => self.0.append(name),
            None => self.0.append(None),
        }
    }
}

/// A text that is the same in all rows of a run.
#[derive(Debug, Default)]
pub(super) struct Same {
    values: Option<ArrayRef>,
}

impl Same {
    pub(super) fn append(&mut self, text: Option<&String>) {
        if self.values.is_none() {
            self.values = text.map(|text| text_array([text.as_str()]));
        }
    }
}

impl Kind for Same {
    const TYPE: ColumnType = ColumnType::Text;

    fn finish(&mut self, unknown: &Unknown) -> ArrayRef {
        let values = self.values.as_ref();
        values.map_or_else(|| unknown.text(), |values| dictionary(unknown.first_keys(), Arc::clone(values)))
    }
}

/// A text column whose values come from small keys: each distinct key becomes text once a batch.
#[derive(Debug)]
struct Keyed<K> {
    keys: Int32,
    seen: HashMap<K, i32, foldhash::fast::RandomState>,
    /// The key of the row before, which often repeats.
    last: Option<(K, i32)>,
    values: StringBuilder,
}

impl<K> Default for Keyed<K> {
    fn default() -> Self {
        Self {
            keys: Int32::default(),
            seen: HashMap::default(),
            last: None,
            values: StringBuilder::with_capacity(0, 0),
        }
    }
}

impl<K: Copy + Eq + Hash> Keyed<K> {
    fn append_null(&mut self) {
        self.keys.append(None);
    }

    /// Appends the text of `key`. `write` appends exactly one value; it is called where the batch has
    /// not seen the key.
    /// Returns its place among them.
    fn append(&mut self, key: K, write: impl FnOnce(&mut StringBuilder)) -> i32 {
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
        value
    }

    /// Appends a value that the batch has.
    fn append_known(&mut self, value: i32) {
        self.keys.append(Some(value));
    }

    fn finish(&mut self, unknown: &Unknown) -> ArrayRef {
        self.seen.clear();
        self.last = None;
        let keys = self.keys.finish_known();
        keys.map_or_else(|| unknown.text(), |keys| dictionary(keys, Arc::new(self.values.finish())))
    }
}

/// Addresses, as RFC 5952 and dotted quads.
#[derive(Debug, Default)]
pub(super) struct Address(Keyed<IpAddr>);

impl Address {
    pub(super) fn append(&mut self, addr: Option<IpAddr>) {
        match addr {
            Some(IpAddr::V4(v4)) => {
                self.0.append(v4.into(), |values| append_v4(values, v4));
            }
            Some(addr) => {
                self.0.append(addr, |values| append_formatted(values, format_args!("{addr}")));
            }
            None => self.0.append_null(),
        }
    }
}

/// Formats by itself: that of the standard library takes several times as long.
fn append_v4(values: &mut StringBuilder, addr: Ipv4Addr) {
    let mut text = itoa::Buffer::new();
    for (place, octet) in addr.octets().into_iter().enumerate() {
        // Writing to the builder never fails.
        let _ = if place > 0 { values.write_str(".") } else { Ok(()) };
        let _ = values.write_str(text.format(octet));
    }
    values.append_value("");
}

/// Formats in place. The builder's `write_fmt` never fails and makes the text of the next value.
fn append_formatted(values: &mut StringBuilder, text: std::fmt::Arguments<'_>) {
    let _ = values.write_fmt(text);
    values.append_value("");
}

/// Labels, as hexadecimal digits.
#[derive(Debug, Default)]
pub(super) struct Labels(Keyed<[u8; 16]>);

impl Labels {
    pub(super) fn append(&mut self, labels: Option<[u8; 16]>) {
        match labels {
            Some(labels) => {
                let number = u128::from_be_bytes(labels);
                self.0.append(labels, |values| append_formatted(values, format_args!("{number:032x}")));
            }
            None => self.0.append_null(),
        }
    }
}

/// Names of threads, as the kernel has them.
#[derive(Debug, Default)]
pub(super) struct Task(Keyed<[u8; COMM_LEN]>);

impl Task {
    pub(super) fn append(&mut self, task: Option<[u8; COMM_LEN]>) {
        match task.as_ref().and_then(|task| Some((task, comm(task)?))) {
            Some((task, name)) => {
                self.0.append(*task, |values| values.append_value(String::from_utf8_lossy(name)));
            }
            None => self.0.append_null(),
        }
    }
}

/// A task's name up to its first zero byte; `None` where it is empty.
fn comm(raw: &[u8; COMM_LEN]) -> Option<&[u8]> {
    raw.split(|&byte| byte == 0).next().filter(|name| !name.is_empty())
}

/// How many texts of a column are found without hashing, if no other is in their place.
const RECENT: usize = 64;

/// A text column of shared texts, known by the identity of their allocation.
#[derive(Debug)]
pub(super) struct Shared {
    column: Keyed<usize>,
    /// Keeps the allocations of the batch, so that no address is used for another text.
    alive: Vec<Arc<str>>,
    /// Addresses that the batch has, and their values. No text is at 0.
    recent: [(usize, i32); RECENT],
}

impl Default for Shared {
    fn default() -> Self {
        Self { column: Keyed::default(), alive: Vec::new(), recent: [(0, 0); RECENT] }
    }
}

impl Shared {
    pub(super) fn append(&mut self, text: Option<&Arc<str>>) {
        let Some(text) = text else { return self.column.append_null() };
        let address = Arc::as_ptr(text).cast::<u8>().addr();
        let mut unplaced = (0, 0);
        let recent = self.recent.get_mut(place(address)).unwrap_or(&mut unplaced);
        if recent.0 == address {
            return self.column.append_known(recent.1);
        }
        let value = self.column.append(address, |values| {
            values.append_value(text);
            self.alive.push(Arc::clone(text));
        });
        *recent = (address, value);
    }
}

/// Where the address would be among [`RECENT`] ones: its bits, mixed by a multiplication (Fibonacci hashing).
fn place(address: usize) -> usize {
    address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (usize::BITS - RECENT.ilog2())
}

impl Kind for Shared {
    const TYPE: ColumnType = ColumnType::Text;

    fn finish(&mut self, unknown: &Unknown) -> ArrayRef {
        self.alive.clear();
        self.recent = [(0, 0); RECENT];
        self.column.finish(unknown)
    }
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
