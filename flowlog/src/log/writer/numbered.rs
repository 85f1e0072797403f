//! Columns of a row group whose values are numbered: each is looked at once, and a row is a number.
//!
//! The encoder of the parquet crate looks at the value of each row: hashes it, finds it in its dictionary, compares it
//! with the least and the greatest of the page. Here a text is looked at where a batch has it first, and a number
//! where it differs from the one of the row before. Rows that follow each other with the same value are one run.

use std::collections::HashMap;
use std::hash::Hash;

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, StringArray};
use arrow_buffer::{ArrowNativeType, BooleanBuffer, BooleanBufferBuilder};
use foldhash::fast::RandomState;

use super::error::Fault;

/// Stands for NULL among the numbers.
pub(super) const NULL: u32 = u32::MAX;

/// A column in the order of its rows.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Numbered<V> {
    /// All values that are there, each once, in the order in which the rows have them first.
    pub(super) values: Vec<V>,
    pub(super) runs: Vec<Run>,
}

/// Rows that follow each other and have the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The number of the value, or [`NULL`].
    pub(super) number: u32,
    pub(super) rows: usize,
}

impl<V> Numbered<V> {
    /// A column without any value.
    pub(super) fn unknown(rows: usize) -> Self {
        Self { values: Vec::new(), runs: vec![Run { number: NULL, rows }] }
    }

    fn push(&mut self, number: u32) {
        match self.runs.last_mut() {
            Some(run) if run.number == number => run.rows += 1,
            _ => self.runs.push(Run { number, rows: 1 }),
        }
    }
}

impl<'a> Numbered<&'a str> {
    /// Takes the rows of all parts, in this order. `None` where the dictionary would be larger than this column may
    /// have one.
    pub(super) fn of_texts(
        parts: &'a [ArrayRef],
        order: &[u32],
        max_dictionary_bytes: usize,
    ) -> Result<Option<Self>, Fault> {
        let (texts, rows) = number_texts(parts)?;
        if let [text] = texts.as_slice()
            && !rows.contains(&NULL)
        {
            return Ok(Some(Self { values: vec![text], runs: vec![Run { number: 0, rows: rows.len() }] }));
        }
        let mut column = Self::default();
        let mut dictionary_bytes = 0;
        // Numbers them anew: those of neighbours become neighbours.
        let mut numbers = vec![NULL; texts.len()];
        let mut last = (NULL, NULL);
        for &row in order {
            let known = *rows.get(index(row)).ok_or(Fault::Schema)?;
            if known == NULL {
                last = (NULL, NULL);
            } else if known != last.0 {
                let number = numbers.get_mut(index(known)).ok_or(Fault::Schema)?;
                if *number == NULL {
                    let text = *texts.get(index(known)).ok_or(Fault::Schema)?;
                    *number = count(column.values.len())?;
                    column.values.push(text);
                    dictionary_bytes += size_of::<u32>() + text.len();
                }
                last = (known, *number);
            }
            column.push(last.1);
        }
        Ok((dictionary_bytes < max_dictionary_bytes).then_some(column))
    }
}

/// The texts of all parts, and the number of each row's text. A text that no row has may be among them.
fn number_texts(parts: &[ArrayRef]) -> Result<(Vec<&str>, Vec<u32>), Fault> {
    let mut numbers: HashMap<&str, u32, RandomState> = HashMap::default();
    let mut texts = Vec::new();
    let mut rows = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    // The number of each key of a part.
    let mut of_keys = Vec::new();
    for part in parts {
        let part = part.as_dictionary_opt::<Int32Type>().ok_or(Fault::Schema)?;
        let values: &StringArray = part.values().as_string_opt().ok_or(Fault::Schema)?;
        if values.null_count() > 0 {
            return Err(Fault::Schema);
        }
        let mut number = |text| {
            let next = count(texts.len())?;
            Ok::<u32, Fault>(*numbers.entry(text).or_insert_with(|| {
                texts.push(text);
                next
            }))
        };
        let keys = part.keys().values();
        let first = rows.len();
        of_keys.clear();
        if part.null_count() == part.len() {
            rows.resize(first + part.len(), NULL);
        } else if values.len() <= part.len() {
            for text in values.iter().flatten() {
                of_keys.push(number(text)?);
            }
            // Most have one text, and so have most columns.
            if let [only] = of_keys.as_slice() {
                rows.resize(first + part.len(), *only);
            } else {
                let of_key = |&key| of_keys.get(usize::try_from(key).ok()?).copied();
                rows.extend(keys.iter().map(|key| of_key(key).unwrap_or(NULL)));
            }
            mark_nulls(part.nulls().map(|nulls| nulls.inner()), rows.split_at_mut(first).1);
        } else {
            // A part of a batch may have few of its texts.
            of_keys.resize(values.len(), NULL);
            for key in part.keys() {
                let Some(key) = key.map(usize::try_from) else {
                    rows.push(NULL);
                    continue;
                };
                let key = key.map_err(|_| Fault::Schema)?;
                let of_key = of_keys.get_mut(key).ok_or(Fault::Schema)?;
                if *of_key == NULL {
                    *of_key = number(values.value(key))?;
                }
                rows.push(*of_key);
            }
        }
    }
    Ok((texts, rows))
}

fn mark_nulls(valid: Option<&BooleanBuffer>, rows: &mut [u32]) {
    for (row, is_valid) in rows.iter_mut().zip(valid.into_iter().flatten()) {
        *row = if is_valid { *row } else { NULL };
    }
}

/// The numbers of all parts one after the other, as the batches had them.
pub(super) struct Numbers<V> {
    values: Vec<V>,
    /// Which of them are no NULL, where some are.
    valid: Option<BooleanBuffer>,
}

impl<V: ArrowNativeType> Numbers<V> {
    pub(super) fn of<T: ArrowPrimitiveType<Native = V>>(parts: &[ArrayRef]) -> Result<Self, Fault> {
        let mut values = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            values.extend_from_slice(part.as_primitive_opt::<T>().ok_or(Fault::Schema)?.values());
        }
        Ok(Self { values, valid: validity(parts) })
    }

    /// In this order; NULL has no value.
    pub(super) fn sorted(&self, order: &[u32]) -> impl Iterator<Item = Option<V>> {
        order.iter().map(|&row| {
            let is_valid = self.valid.as_ref().is_none_or(|valid| valid.value(index(row)));
            self.values.get(index(row)).filter(|_| is_valid).copied()
        })
    }
}

/// Which rows are no NULL, if some are.
fn validity(parts: &[ArrayRef]) -> Option<BooleanBuffer> {
    if parts.iter().all(|part| part.null_count() == 0) {
        return None;
    }
    let mut valid = BooleanBufferBuilder::new(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        match part.nulls() {
            Some(nulls) => valid.append_buffer(nulls.inner()),
            None => valid.append_n(part.len(), true),
        }
    }
    Some(valid.finish())
}

impl<V: ArrowNativeType + Eq + Hash> Numbered<V> {
    /// Takes the rows in this order. `None` where the dictionary would be larger than this column may have one.
    pub(super) fn of_numbers(
        numbers: &Numbers<V>,
        order: &[u32],
        max_dictionary_bytes: usize,
    ) -> Result<Option<Self>, Fault> {
        let max_values = max_dictionary_bytes / size_of::<V>();
        let mut known: HashMap<V, u32, RandomState> = HashMap::default();
        let mut column = Self { values: Vec::new(), runs: Vec::new() };
        let mut last = None;
        for value in numbers.sorted(order) {
            let Some(value) = value else {
                last = None;
                column.push(NULL);
                continue;
            };
            // The same as that of the row before?
            if last == Some(value)
                && let Some(run) = column.runs.last_mut()
            {
                run.rows += 1;
                continue;
            }
            last = Some(value);
            let next = count(column.values.len())?;
            let number = *known.entry(value).or_insert_with(|| {
                column.values.push(value);
                next
            });
            if column.values.len() >= max_values {
                return Ok(None);
            }
            column.runs.push(Run { number, rows: 1 });
        }
        Ok(Some(column))
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(super) fn count(length: usize) -> Result<u32, Fault> {
    u32::try_from(length).map_err(|_| Fault::Schema)
}

#[cfg(test)]
mod tests;
