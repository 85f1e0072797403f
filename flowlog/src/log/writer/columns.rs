//! The columns of a row group, one after the other: which way each of them is encoded.

use std::fs::File;
use std::hash::Hash;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, UInt32Array};
use arrow_schema::{DataType, Field};
use arrow_select::concat::concat;
use arrow_select::take::take;
use bytes::Bytes;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::column::writer::{ColumnCloseResult, get_column_writer, get_typed_column_writer};
use parquet::data_type::{
    BoolType, DataType as ParquetType, Int32Type as ParquetInt32, Int64Type as ParquetInt64,
};
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, ColumnPath};

use super::chunk::ChunkWriter;
use super::error::Fault;
use super::numbered::{Numbered, Numbers};
use super::value::Value;

/// Writes the columns of a row group.
pub(super) struct Columns<'a> {
    /// Where the rows stand.
    order: &'a UInt32Array,
    properties: WriterPropertiesPtr,
    chunks: ChunkWriter,
    is_small: bool,
    factory: &'a ArrowRowGroupWriterFactory,
    /// Writers of the crate for columns of texts, of which few are needed, if any.
    of_crate: Vec<Option<ArrowColumnWriter>>,
}

impl<'a> Columns<'a> {
    /// `is_small`: see [`ChunkWriter`].
    pub(super) fn new(
        order: &'a UInt32Array,
        properties: WriterPropertiesPtr,
        factory: &'a ArrowRowGroupWriterFactory,
        is_small: bool,
    ) -> Result<Self, Fault> {
        let compression = properties.compression(&ColumnPath::from(Vec::new()));
        let chunks = ChunkWriter::new(compression, is_small)?;
        Ok(Self { order, properties, chunks, is_small, factory, of_crate: Vec::new() })
    }

    /// Writes the parts of a column as the next one of the row group, which has this place among them.
    pub(super) fn write(
        &mut self,
        parts: Vec<ArrayRef>,
        place: usize,
        field: &Field,
        row_group: &mut SerializedRowGroupWriter<'_, File>,
        column: &ColumnDescPtr,
    ) -> Result<(), Fault> {
        let rows = self.order.len();
        let is_unknown = parts.iter().all(|part| part.null_count() == part.len());
        let data_type = parts.first().ok_or(Fault::Schema)?.data_type();
        match data_type {
            DataType::Dictionary(..) if is_unknown => self.write_unknown::<&str>(rows, row_group, column),
            DataType::Int32 if is_unknown => self.write_unknown::<i32>(rows, row_group, column),
            DataType::Int64 | DataType::Timestamp(..) if is_unknown => {
                self.write_unknown::<i64>(rows, row_group, column)
            }
            DataType::Dictionary(..) => self.write_texts(&parts, place, field, row_group, column),
            DataType::Int32 => self.write_numbers::<Int32Type, ParquetInt32>(parts, row_group, column),
            DataType::Int64 => self.write_numbers::<Int64Type, ParquetInt64>(parts, row_group, column),
            DataType::Timestamp(..) => {
                self.write_numbers::<TimestampMicrosecondType, ParquetInt64>(parts, row_group, column)
            }
            DataType::Boolean => self.write_truths(&parts, row_group, column),
            _ => Err(Fault::Schema),
        }
    }

    fn write_unknown<V: Value>(
        &mut self,
        rows: usize,
        row_group: &mut SerializedRowGroupWriter<'_, File>,
        column: &ColumnDescPtr,
    ) -> Result<(), Fault> {
        self.chunks.write(&Numbered::<V>::unknown(rows), row_group, column, &self.properties)
    }

    fn write_texts(
        &mut self,
        parts: &[ArrayRef],
        place: usize,
        field: &Field,
        row_group: &mut SerializedRowGroupWriter<'_, File>,
        column: &ColumnDescPtr,
    ) -> Result<(), Fault> {
        let limit = self.properties.column_dictionary_page_size_limit(column.path());
        if let Some(texts) = Numbered::of_texts(parts, self.order.values(), limit)? {
            return self.chunks.write(&texts, row_group, column, &self.properties);
        }
        // The crate writes what is in no dictionary.
        if self.of_crate.is_empty() {
            self.of_crate = self.factory.create_column_writers(0)?.into_iter().map(Some).collect();
        }
        let mut writer = self.of_crate.get_mut(place).and_then(Option::take).ok_or(Fault::Schema)?;
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        let texts = take(&concat(&parts)?, self.order, None)?;
        for leaf in compute_leaves(field, &texts)? {
            writer.write(&leaf)?;
        }
        Ok(writer.close()?.append_to_row_group(row_group)?)
    }

    fn write_numbers<T, P>(
        &mut self,
        parts: Vec<ArrayRef>,
        row_group: &mut SerializedRowGroupWriter<'_, File>,
        column: &ColumnDescPtr,
    ) -> Result<(), Fault>
    where
        T: ArrowPrimitiveType,
        T::Native: Value + Hash,
        P: ParquetType<T = T::Native>,
    {
        let numbers = Numbers::of::<T>(&parts)?;
        drop(parts);
        let order = self.order.values();
        if self.properties.dictionary_enabled(column.path()) {
            let limit = self.properties.column_dictionary_page_size_limit(column.path());
            if let Some(numbered) = Numbered::of_numbers(&numbers, order, limit)? {
                return self.chunks.write(&numbered, row_group, column, &self.properties);
            }
        }
        self.write_with_crate::<P>(numbers.sorted(order), row_group, column)
    }

    fn write_truths(
        &mut self,
        parts: &[ArrayRef],
        row_group: &mut SerializedRowGroupWriter<'_, File>,
        column: &ColumnDescPtr,
    ) -> Result<(), Fault> {
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        let truths = take(&concat(&parts)?, self.order, None)?;
        let truths = truths.as_boolean_opt().ok_or(Fault::Schema)?;
        self.write_with_crate::<BoolType>(truths.iter(), row_group, column)
    }

    /// Writes a column as the crate encodes it.
    fn write_with_crate<P: ParquetType>(
        &mut self,
        rows: impl Iterator<Item = Option<P::T>>,
        row_group: &mut SerializedRowGroupWriter<'_, File>,
        column: &ColumnDescPtr,
    ) -> Result<(), Fault> {
        let is_nullable = column.max_def_level() > 0;
        let mut values = Vec::with_capacity(self.order.len());
        let mut levels: Vec<i16> = Vec::with_capacity(if is_nullable { self.order.len() } else { 0 });
        for value in rows {
            if is_nullable {
                levels.push(value.is_some().into());
            } else if value.is_none() {
                return Err(Fault::Schema);
            }
            values.extend(value);
        }
        let mut sink = TrackedWrite::new(Vec::new());
        let pages = Box::new(SerializedPageWriter::new(&mut sink));
        let writer = get_column_writer(column.clone(), Arc::clone(&self.properties), pages);
        let mut writer = get_typed_column_writer::<P>(writer);
        writer.write_batch(&values, is_nullable.then_some(levels.as_slice()), None)?;
        let closed = trimmed(writer.close()?, self.is_small)?;
        Ok(row_group.append_column(&Bytes::from(sink.into_inner()?), closed)?)
    }
}

/// Without what the crate says twice or readers of a small file do not need: as [`ChunkWriter`] has it.
fn trimmed(mut closed: ColumnCloseResult, is_small: bool) -> Result<ColumnCloseResult, Fault> {
    let once = match closed.metadata.statistics() {
        Some(Statistics::Boolean(of)) => {
            Some(Statistics::Boolean(of.clone().with_backwards_compatible_min_max(false)))
        }
        Some(Statistics::Int32(of)) => {
            Some(Statistics::Int32(of.clone().with_backwards_compatible_min_max(false)))
        }
        Some(Statistics::Int64(of)) => {
            Some(Statistics::Int64(of.clone().with_backwards_compatible_min_max(false)))
        }
        _ => None,
    };
    let mut metadata = closed.metadata.into_builder();
    if let Some(once) = once {
        metadata = metadata.set_statistics(once);
    }
    if is_small {
        metadata = metadata.set_definition_level_histogram(None).clear_page_encoding_stats();
        (closed.column_index, closed.offset_index, closed.bloom_filter) = (None, None, None);
    }
    closed.metadata = metadata.build()?;
    Ok(closed)
}
