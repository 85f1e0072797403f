//! Record batches as bytes: each column by itself, without what it repeats.
//!
//! ```text
//! column   id u16 | nulls u8 (0: none, 1: a bitmap follows) | bitmap | values
//! values   integers, times   distances
//!          booleans          a bit each
//!          texts             distances of the keys | texts u32 | distances of their lengths | their bytes
//! distances   width u8 (0, 1, 2, 4 or 8) | smallest i64 | a number of `width` bytes each
//! ```
//!
//! The ids are those of [`columns`], in any order, each once. A column without any value is left out, and so is `seq`,
//! which follows from the frame. Columns that only older versions had are passed over. A number is the distance from the
//! smallest one of the column, so a constant takes no bytes, and most keys take one or two. A NULL has distance 0. Bits
//! are filled from the lowest, numbers are little-endian.
//!
//! Decoding takes nothing for granted: each length is checked against what is there, each array is
//! validated, and [`MAX_ROWS`] bounds the memory whatever the bytes say.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, DictionaryArray, Int32Array, Int64Array,
    PrimitiveArray, RecordBatch, new_null_array,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow_schema::{ArrowError, DataType, FieldRef, SchemaRef};
use flowlog_reader::segments::Bytes;

use crate::log::schema::{Column, batch_schema, columns, retired};

/// How many rows a frame has at most. It bounds what a few bytes can make recovery allocate; batches
/// of the daemon have 8192.
pub(super) const MAX_ROWS: usize = 65_536;

/// How many bytes the columns of a frame have at most before compression: a batch of the daemon has
/// about half a megabyte. The texts of a column must stay below 2 GiB.
pub(super) const MAX_BYTES: usize = 1 << 30;

/// Name of the column that follows from the frame.
const SEQ: &str = "seq";

const NO_NULLS: u8 = 0;
const SOME_NULLS: u8 = 1;

/// A batch is not one that the log can hold.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The batch has other columns.
    #[error("the batch does not have the columns of the flow record, expected those of `flowlog schema`")]
    Schema,
    /// The batch is too large for one frame.
    #[error("the batch has {rows} rows or strings in a column, expected at most {MAX_ROWS}")]
    TooLong {
        /// What it has.
        rows: usize,
    },
    /// The batch is too large for one frame.
    #[error("the batch has {bytes} bytes, expected at most {MAX_BYTES}")]
    TooLarge {
        /// What it has.
        bytes: usize,
    },
    /// The rows are not numbered one after the other.
    #[error("found holes in the row numbers, expected consecutive numbers from {first_seq}")]
    Holes {
        /// Number of the first row.
        first_seq: i64,
    },
    /// Compression failed.
    #[error(transparent)]
    Compress(#[from] lz4_flex::block::CompressError),
}

/// Bytes that passed the checksum are not a batch: another version of flowlog wrote them.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The compressed bytes are not what the compressor makes.
    #[error(transparent)]
    Compressed(#[from] lz4_flex::block::DecompressError),
    /// Something is longer than what is there.
    #[error("the columns are cut off")]
    Cut,
    /// More bytes than a frame has, or than the compressed ones can become.
    #[error("found {bytes} bytes of columns, expected fewer")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// More rows or texts than a frame has.
    #[error("found {rows} rows or strings in a column, expected at most {MAX_ROWS}")]
    TooLong {
        /// How many.
        rows: usize,
    },
    /// A column that this flowlog does not know: a newer one wrote it.
    #[error(
        "found a column with the id {id}, expected one of `flowlog schema --format json`; a newer flowlog wrote it"
    )]
    Column {
        /// Its id.
        id: u16,
    },
    /// A column that is there twice.
    #[error("found column {id} twice")]
    Twice {
        /// Its id.
        id: u16,
    },
    /// A byte that says how something is stored has an unknown value.
    #[error("found {found} for {what}, expected {expected}")]
    Tag {
        /// Of what.
        what: &'static str,
        /// The value.
        found: u8,
        /// What it can be.
        expected: &'static str,
    },
    /// A number that does not fit its column.
    #[error("the number {0} does not fit its column")]
    Number(i64),
    /// A text is not UTF-8.
    #[error(transparent)]
    Text(#[from] std::str::Utf8Error),
    /// The arrays do not make a batch.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// The codec: what it needs for each batch, made once.
#[derive(Debug)]
pub(super) struct Columns(SchemaRef);

impl Columns {
    pub(super) fn new() -> Self {
        Self(batch_schema())
    }

    /// Appends the columns to `out` and returns the number of the first row.
    pub(super) fn encode(&self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<i64, EncodeError> {
        let Self(schema) = self;
        if batch.schema_ref() != schema {
            return Err(EncodeError::Schema);
        }
        let rows = batch.num_rows();
        if rows > MAX_ROWS {
            return Err(EncodeError::TooLong { rows });
        }
        let mut first_seq = 0;
        for (Column { id, name, .. }, column) in columns().iter().zip(batch.columns()) {
            if name == SEQ {
                first_seq = without_holes(column.as_primitive::<Int64Type>().values())?;
                continue;
            }
            if column.null_count() == rows {
                continue;
            }
            out.extend_from_slice(&id.to_le_bytes());
            let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
            match nulls {
                None => out.push(NO_NULLS),
                Some(nulls) => {
                    out.push(SOME_NULLS);
                    out.extend_from_slice(nulls.inner().sliced().as_slice());
                }
            }
            match column.data_type() {
                DataType::Int32 => {
                    write_distances(column.as_primitive::<Int32Type>().values(), nulls, out);
                }
                DataType::Int64 => {
                    write_distances(column.as_primitive::<Int64Type>().values(), nulls, out);
                }
                DataType::Timestamp(..) => {
                    write_distances(column.as_primitive::<TimestampMicrosecondType>().values(), nulls, out);
                }
                DataType::Boolean => out.extend_from_slice(column.as_boolean().values().sliced().as_slice()),
                DataType::Dictionary(..) => {
                    let dictionary = column.as_dictionary::<Int32Type>();
                    let texts = dictionary.values();
                    write_keys(dictionary.keys().values(), nulls, texts.len(), out);
                    write_texts(texts, out)?;
                }
                _ => return Err(EncodeError::Schema),
            }
        }
        Ok(first_seq)
    }

    /// The batch of these rows.
    pub(super) fn decode(
        &self,
        rows: usize,
        first_seq: i64,
        bytes: &[u8],
    ) -> Result<RecordBatch, DecodeError> {
        let Self(schema) = self;
        if rows > MAX_ROWS {
            return Err(DecodeError::TooLong { rows });
        }
        let end_seq = i64::try_from(rows).ok().and_then(|rows| first_seq.checked_add(rows));
        let end_seq = end_seq.ok_or(DecodeError::Number(first_seq))?;

        let mut found: Vec<Option<ArrayRef>> = vec![None; schema.fields().len()];
        let mut passed_over = Vec::new();
        let mut input = Input(Bytes(bytes));
        while let Some(id) = input.column_id()? {
            let Some(place) = columns().iter().position(|column| column.id == id && column.name != SEQ)
            else {
                let data_type = retired(id).ok_or(DecodeError::Column { id })?;
                // A few bytes can say many rows: as often as they like, they would take hours.
                if passed_over.contains(&id) {
                    return Err(DecodeError::Twice { id });
                }
                passed_over.push(id);
                input.column(rows, &data_type)?;
                continue;
            };
            let column = input.column(rows, schema.field(place).data_type())?;
            if found.get_mut(place).and_then(|place| place.replace(column)).is_some() {
                return Err(DecodeError::Twice { id });
            }
        }
        let column = |(array, field): (Option<ArrayRef>, &FieldRef)| {
            if field.name() == SEQ {
                return Arc::new(Int64Array::from_iter_values(first_seq..end_seq)) as ArrayRef;
            }
            array.unwrap_or_else(|| new_null_array(field.data_type(), rows))
        };
        let columns = found.into_iter().zip(schema.fields()).map(column).collect();
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}

/// The first number, where the others follow it one after the other.
fn without_holes(seqs: &[i64]) -> Result<i64, EncodeError> {
    let first_seq = seqs.first().copied().unwrap_or_default();
    if (first_seq..).zip(seqs).all(|(expected, seq)| expected == *seq) {
        Ok(first_seq)
    } else {
        Err(EncodeError::Holes { first_seq })
    }
}

fn write_distances<T: Copy + Into<i64>>(values: &[T], nulls: Option<&NullBuffer>, out: &mut Vec<u8>) {
    let bounds = |(min, max): (i64, i64), value: i64| (min.min(value), max.max(value));
    let all = values.iter().map(|value| (*value).into());
    let range = match nulls {
        None => all.fold((i64::MAX, i64::MIN), bounds),
        Some(nulls) => {
            let of_known = nulls.valid_indices().filter_map(|row| values.get(row));
            of_known.map(|value| (*value).into()).fold((i64::MAX, i64::MIN), bounds)
        }
    };
    write_distances_within(range, values, nulls, out);
}

/// The keys of a dictionary with so many texts, which say what the keys can be.
fn write_keys(keys: &[i32], nulls: Option<&NullBuffer>, texts: usize, out: &mut Vec<u8>) {
    let max = i64::try_from(texts).unwrap_or(i64::MAX).saturating_sub(1);
    write_distances_within((0, max), keys, nulls, out);
}

/// `min` and `max` are what the known values lie between.
fn write_distances_within<T: Copy + Into<i64>>(
    (min, max): (i64, i64),
    values: &[T],
    nulls: Option<&NullBuffer>,
    out: &mut Vec<u8>,
) {
    // The distance of two i64 fits a u64, and so does what is left of it after wrapping around.
    let distance = |value: i64| value.wrapping_sub(min).cast_unsigned();
    let width = match distance(max) {
        _ if values.is_empty() => 0,
        0 => 0,
        1..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    };
    out.push(width);
    out.extend_from_slice(&min.to_le_bytes());
    let distances = values.iter().map(|value| distance((*value).into()));
    match nulls {
        None => write_numbers(width, distances, values.len(), out),
        Some(nulls) => {
            let known = distances.zip(nulls).map(|(distance, is_known)| distance * u64::from(is_known));
            write_numbers(width, known, values.len(), out);
        }
    }
}

fn write_numbers(width: u8, numbers: impl Iterator<Item = u64>, count: usize, out: &mut Vec<u8>) {
    match width {
        1 => write_low_bytes::<1>(numbers, count, out),
        2 => write_low_bytes::<2>(numbers, count, out),
        4 => write_low_bytes::<4>(numbers, count, out),
        8 => write_low_bytes::<8>(numbers, count, out),
        _ => {}
    }
}

fn write_low_bytes<const WIDTH: usize>(numbers: impl Iterator<Item = u64>, count: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + count * WIDTH, 0);
    let (_, added) = out.split_at_mut(start);
    for (place, number) in added.as_chunks_mut::<WIDTH>().0.iter_mut().zip(numbers) {
        if let Some(low) = number.to_le_bytes().first_chunk::<WIDTH>() {
            *place = *low;
        }
    }
}

fn write_texts(texts: &ArrayRef, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let texts = texts.as_string_opt::<i32>().filter(|texts| texts.null_count() == 0);
    let texts = texts.ok_or(EncodeError::Schema)?;
    let rows = texts.len();
    let count = u32::try_from(rows).ok().filter(|_| rows <= MAX_ROWS);
    out.extend_from_slice(&count.ok_or(EncodeError::TooLong { rows })?.to_le_bytes());
    let lengths: Vec<i32> = (0..rows).map(|row| texts.value_length(row)).collect();
    write_distances(&lengths, None, out);
    for text in texts.iter().flatten() {
        out.extend_from_slice(text.as_bytes());
    }
    Ok(())
}

/// The decoder of columns.
struct Input<'a>(Bytes<'a>);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        self.0.take(len).ok_or(DecodeError::Cut)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], DecodeError> {
        self.0.array().ok_or(DecodeError::Cut)
    }

    /// The id of the next column, if there is one.
    fn column_id(&mut self) -> Result<Option<u16>, DecodeError> {
        if self.0.0.is_empty() {
            return Ok(None);
        }
        Ok(Some(u16::from_le_bytes(self.array()?)))
    }

    fn column(&mut self, rows: usize, data_type: &DataType) -> Result<ArrayRef, DecodeError> {
        let [tag] = self.array()?;
        let nulls = match tag {
            NO_NULLS => None,
            SOME_NULLS => Some(NullBuffer::new(self.bits(rows)?)),
            found => {
                return Err(DecodeError::Tag { what: "the NULLs of a column", found, expected: "0 or 1" });
            }
        };
        Ok(match data_type {
            DataType::Int32 => Arc::new(self.primitive::<Int32Type>(rows, nulls)?),
            DataType::Int64 => Arc::new(self.primitive::<Int64Type>(rows, nulls)?),
            DataType::Timestamp(..) => {
                let times = self.primitive::<TimestampMicrosecondType>(rows, nulls)?;
                Arc::new(times.with_data_type(data_type.clone()))
            }
            DataType::Boolean => Arc::new(BooleanArray::new(self.bits(rows)?, nulls)),
            _ => {
                let keys: Int32Array = self.primitive(rows, nulls)?;
                Arc::new(DictionaryArray::try_new(keys, self.texts()?)?)
            }
        })
    }

    fn bits(&mut self, count: usize) -> Result<BooleanBuffer, DecodeError> {
        let bytes = self.take(count.div_ceil(8))?;
        Ok(BooleanBuffer::new(Buffer::from(bytes), 0, count))
    }

    fn primitive<T>(
        &mut self,
        rows: usize,
        nulls: Option<NullBuffer>,
    ) -> Result<PrimitiveArray<T>, DecodeError>
    where
        T: ArrowPrimitiveType,
        T::Native: TryFrom<i64>,
    {
        let narrow = |number: i64| T::Native::try_from(number).map_err(|_| DecodeError::Number(number));
        let values: Vec<T::Native> = self.numbers(rows)?.into_iter().map(narrow).collect::<Result<_, _>>()?;
        Ok(PrimitiveArray::try_new(values.into(), nulls)?)
    }

    /// So many numbers that are stored as distances.
    fn numbers(&mut self, count: usize) -> Result<Vec<i64>, DecodeError> {
        let [width] = self.array()?;
        let min = i64::from_le_bytes(self.array()?);
        match width {
            0 => Ok(vec![min; count]),
            1 => self.low_bytes::<1>(min, count),
            2 => self.low_bytes::<2>(min, count),
            4 => self.low_bytes::<4>(min, count),
            8 => self.low_bytes::<8>(min, count),
            found => Err(DecodeError::Tag { what: "a width", found, expected: "0, 1, 2, 4 or 8" }),
        }
    }

    fn low_bytes<const WIDTH: usize>(&mut self, min: i64, count: usize) -> Result<Vec<i64>, DecodeError> {
        let number = |low: &[u8; WIDTH]| {
            let mut distance = [0; 8];
            if let Some(place) = distance.first_chunk_mut::<WIDTH>() {
                *place = *low;
            }
            min.wrapping_add(i64::from_le_bytes(distance))
        };
        let (distances, _) = self.take(count * WIDTH)?.as_chunks::<WIDTH>();
        Ok(distances.iter().map(number).collect())
    }

    fn texts(&mut self) -> Result<ArrayRef, DecodeError> {
        let count = u32::from_le_bytes(self.array()?);
        let rows = usize::try_from(count).unwrap_or(usize::MAX);
        if rows > MAX_ROWS {
            return Err(DecodeError::TooLong { rows });
        }
        let lengths = self.numbers(rows)?;
        let mut texts = StringBuilder::with_capacity(rows, 0);
        for length in lengths {
            let length = usize::try_from(length).map_err(|_| DecodeError::Number(length))?;
            texts.append_value(std::str::from_utf8(self.take(length)?)?);
        }
        Ok(Arc::new(texts.finish()))
    }
}
