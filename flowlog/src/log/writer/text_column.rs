//! A column of texts as a dictionary-encoded chunk.
//!
//! The encoder of the parquet crate looks at the text of each row: hashes it, finds it in its dictionary, compares it
//! with the least and the greatest of the page. A tenth of what a flow costs went there, most of it for columns with
//! one text. Here a text is looked at where a batch and a page have it first, and rows are numbers.

use std::collections::HashMap;
use std::fs::File;

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, ArrayRef, StringArray, UInt32Array};
use bytes::Bytes;
use foldhash::fast::RandomState;
use parquet::basic::{BoundaryOrder, Compression, Encoding, PageType, Type};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{
    ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats,
};
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use zstd::bulk::Compressor;

use super::error::Fault;
use super::hybrid;

/// Bytes of a text that go into statistics, as in those of other columns.
const MAX_BOUND_LEN: usize = 64;

/// Stands for NULL among the numbers.
const NULL: u32 = u32::MAX;

/// A column of a row group whose texts are numbered.
pub(super) struct TextColumn<'a> {
    /// All that are there, each once, in the order in which the rows have them first.
    texts: Vec<&'a str>,
    /// The number of each row's text, or [`NULL`].
    rows: Vec<u32>,
}

impl<'a> TextColumn<'a> {
    /// Takes the rows of all parts, in this order. `None` where the dictionary would be larger than this column may
    /// have one: the crate writes what does not fit as plain texts.
    pub(super) fn new(
        parts: &'a [ArrayRef],
        order: &UInt32Array,
        max_dictionary_bytes: usize,
    ) -> Result<Option<Self>, Fault> {
        Self::number(parts, max_dictionary_bytes)?.map(|column| column.sorted(order)).transpose()
    }

    /// Numbers the texts as they come.
    fn number(parts: &'a [ArrayRef], max_dictionary_bytes: usize) -> Result<Option<Self>, Fault> {
        let mut numbers: HashMap<&str, u32, RandomState> = HashMap::default();
        let mut texts = Vec::new();
        let mut dictionary_bytes = 0;
        let mut rows = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            let part = part.as_dictionary_opt::<Int32Type>().ok_or(Fault::Schema)?;
            let values: &StringArray = part.values().as_string_opt().ok_or(Fault::Schema)?;
            if values.null_count() > 0 {
                return Err(Fault::Schema);
            }
            // Most have one text, and so have most columns.
            let is_uniform = values.len() == 1 && part.null_count() == 0;
            let looked_at = if is_uniform { part.len().min(1) } else { part.len() };
            // A part may have texts that no row has, so that each is numbered where a row has it first.
            let mut of_keys = vec![NULL; values.len()];
            for key in part.keys().iter().take(looked_at) {
                let Some(key) = key.map(usize::try_from) else {
                    rows.push(NULL);
                    continue;
                };
                let key = key.map_err(|_| Fault::Schema)?;
                let number = of_keys.get_mut(key).ok_or(Fault::Schema)?;
                if *number == NULL {
                    let text = values.value(key);
                    let next = count(texts.len())?;
                    *number = *numbers.entry(text).or_insert_with(|| {
                        texts.push(text);
                        dictionary_bytes += size_of::<u32>() + text.len();
                        next
                    });
                }
                rows.push(*number);
            }
            let of_first = rows.last().copied().unwrap_or(NULL);
            rows.resize(rows.len() + part.len() - looked_at, of_first);
            if dictionary_bytes >= max_dictionary_bytes {
                return Ok(None);
            }
        }
        Ok(Some(Self { texts, rows }))
    }

    /// Puts the rows in this order, and numbers the texts anew: those of neighbours become neighbours.
    fn sorted(self, order: &UInt32Array) -> Result<Self, Fault> {
        let Self { texts: known, rows: unordered } = self;
        if known.len() == 1 && !unordered.contains(&NULL) {
            return Ok(Self { texts: known, rows: unordered });
        }
        let mut texts = Vec::with_capacity(known.len());
        let mut rows = Vec::with_capacity(order.len());
        let mut numbers = vec![NULL; known.len()];
        for &row in order.values() {
            let number = usize::try_from(row).ok().and_then(|row| unordered.get(row)).ok_or(Fault::Schema)?;
            let known = usize::try_from(*number)
                .ok()
                .and_then(|number| Some((*known.get(number)?, numbers.get_mut(number)?)));
            let Some((text, number)) = known else {
                rows.push(NULL);
                continue;
            };
            if *number == NULL {
                *number = count(texts.len())?;
                texts.push(text);
            }
            rows.push(*number);
        }
        Ok(Self { texts, rows })
    }

    /// Writes the column as the next one of the row group.
    pub(super) fn write(
        &self,
        row_group: &mut SerializedRowGroupWriter<'_, File>,
        column: &ColumnDescPtr,
        properties: &WriterProperties,
    ) -> Result<(), Fault> {
        let Self { texts, rows } = self;
        let mut sink = TrackedWrite::new(Vec::new());
        let compression = properties.compression(column.path());
        let mut pages = Pages::new(&mut sink, compression)?;
        pages.write_dictionary(texts)?;
        let data_page_offset = pages.compressed;

        let nullable = column.max_def_level() > 0;
        let mut column_index = ColumnIndexBuilder::new(Type::BYTE_ARRAY);
        let mut offset_index = OffsetIndexBuilder::new();
        let mut bounds = Vec::new();
        let mut of_chunk = Facts::default();
        // The last page that has the text, counted from 1.
        let mut last_pages = vec![0; texts.len()];
        for (page, rows) in (1_u32..).zip(rows.chunks(properties.data_page_row_count_limit())) {
            let facts = Facts::of_page(rows, texts, page, &mut last_pages)?;
            let spec = pages.write_rows(rows, &facts, nullable)?;
            let page_bounds =
                facts.range.map(|(least, greatest)| (lower_bound(least).to_owned(), upper_bound(greatest)));
            let (lower, upper) = page_bounds.clone().unwrap_or_default();
            column_index.append(page_bounds.is_none(), lower.into(), upper.into(), facts.nulls, None);
            bounds.extend(page_bounds);
            offset_index.append_row_count(signed(rows.len())?);
            offset_index.append_offset_and_size(
                i64::try_from(spec.offset).map_err(|_| Fault::Schema)?,
                i32::try_from(spec.compressed_size).map_err(|_| Fault::Schema)?,
            );
            offset_index.append_unencoded_byte_array_data_bytes(Some(facts.bytes));
            of_chunk.add(&facts);
        }
        column_index.set_boundary_order(order_of(&bounds));
        let Pages { compressed, uncompressed, data_pages, .. } = pages;

        let metadata = ColumnChunkMetaData::builder(column.clone())
            .set_compression(compression)
            .set_encodings(vec![Encoding::RLE, Encoding::PLAIN, Encoding::RLE_DICTIONARY])
            .set_page_encoding_stats(vec![
                PageEncodingStats {
                    page_type: PageType::DICTIONARY_PAGE,
                    encoding: Encoding::PLAIN,
                    count: 1,
                },
                PageEncodingStats {
                    page_type: PageType::DATA_PAGE,
                    encoding: Encoding::RLE_DICTIONARY,
                    count: data_pages,
                },
            ])
            .set_num_values(signed(rows.len())?)
            .set_total_compressed_size(signed(compressed)?)
            .set_total_uncompressed_size(signed(uncompressed)?)
            .set_dictionary_page_offset(Some(0))
            .set_data_page_offset(signed(data_page_offset)?)
            .set_unencoded_byte_array_data_bytes(Some(of_chunk.bytes))
            .set_statistics(of_chunk.statistics())
            .build()?;
        let bloom_filter = match properties.bloom_filter_properties(column.path()) {
            Some(filter) => Some(bloom_filter(texts, filter.fpp())?),
            None => None,
        };
        let closed = ColumnCloseResult {
            bytes_written: u64::try_from(compressed).map_err(|_| Fault::Schema)?,
            rows_written: u64::try_from(rows.len()).map_err(|_| Fault::Schema)?,
            metadata,
            bloom_filter,
            column_index: Some(column_index.build()?),
            offset_index: Some(offset_index.build()),
        };
        Ok(row_group.append_column(&Bytes::from(sink.into_inner()?), closed)?)
    }
}

/// The pages of a chunk, compressed and one after the other.
struct Pages<'a> {
    writer: SerializedPageWriter<'a, Vec<u8>>,
    compressor: Compressor<'static>,
    /// Bytes so far, with the headers of the pages.
    compressed: usize,
    /// As many without compression.
    uncompressed: usize,
    data_pages: i32,
}

impl<'a> Pages<'a> {
    fn new(sink: &'a mut TrackedWrite<Vec<u8>>, compression: Compression) -> Result<Self, Fault> {
        let Compression::ZSTD(level) = compression else {
            let unknown = format!("found {compression}, expected ZSTD for the columns of texts");
            return Err(ParquetError::NYI(unknown).into());
        };
        let compressor = Compressor::new(level.compression_level())?;
        Ok(Self {
            writer: SerializedPageWriter::new(sink),
            compressor,
            compressed: 0,
            uncompressed: 0,
            data_pages: 0,
        })
    }

    /// Writes the texts in the order of their numbers.
    fn write_dictionary(&mut self, texts: &[&str]) -> Result<(), Fault> {
        let mut body = Vec::new();
        for text in texts {
            body.extend(count(text.len())?.to_le_bytes());
            body.extend(text.as_bytes());
        }
        let num_values = count(texts.len())?;
        self.write(&body, |buf| Page::DictionaryPage {
            buf,
            num_values,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        })?;
        Ok(())
    }

    /// Writes a page of rows.
    fn write_rows(
        &mut self,
        rows: &[u32],
        facts: &Facts<'_>,
        nullable: bool,
    ) -> Result<PageWriteSpec, Fault> {
        let mut body = Vec::new();
        if !nullable && facts.nulls > 0 {
            return Err(Fault::Schema);
        }
        if nullable {
            let levels: Vec<u32> = rows.iter().map(|&number| u32::from(number != NULL)).collect();
            let mut encoded = Vec::new();
            hybrid::encode(&levels, 1, &mut encoded);
            body.extend(count(encoded.len())?.to_le_bytes());
            body.append(&mut encoded);
        }
        let below = rows.iter().filter(|&&number| number != NULL).max().map_or(0, |number| number + 1);
        let width = hybrid::width(below);
        body.extend(u8::try_from(width));
        if facts.nulls == 0 {
            hybrid::encode(rows, width, &mut body);
        } else {
            let numbers: Vec<u32> = rows.iter().copied().filter(|&number| number != NULL).collect();
            hybrid::encode(&numbers, width, &mut body);
        }
        self.data_pages += 1;
        let num_values = count(rows.len())?;
        self.write(&body, |buf| Page::DataPage {
            buf,
            num_values,
            encoding: Encoding::RLE_DICTIONARY,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        })
    }

    fn write(&mut self, body: &[u8], page: impl FnOnce(Bytes) -> Page) -> Result<PageWriteSpec, Fault> {
        let page = page(self.compressor.compress(body)?.into());
        let spec = self.writer.write_page(CompressedPage::new(page, body.len()))?;
        self.compressed += spec.compressed_size;
        self.uncompressed += spec.uncompressed_size;
        Ok(spec)
    }
}

/// What the statistics say about some rows.
#[derive(Default)]
struct Facts<'a> {
    nulls: i64,
    /// Bytes of the texts, each as often as it stands.
    bytes: i64,
    /// The least and the greatest text.
    range: Option<(&'a str, &'a str)>,
}

impl<'a> Facts<'a> {
    /// Of the rows of this page. A text is compared where the page has it first.
    fn of_page(rows: &[u32], texts: &[&'a str], page: u32, last_pages: &mut [u32]) -> Result<Self, Fault> {
        let mut facts = Self::default();
        for run in rows.chunk_by(PartialEq::eq) {
            let text = run.first().and_then(|&number| {
                let number = usize::try_from(number).ok()?;
                Some((*texts.get(number)?, last_pages.get_mut(number)?))
            });
            let Some((text, last_page)) = text else {
                facts.nulls += signed(run.len())?;
                continue;
            };
            facts.bytes += signed(run.len() * text.len())?;
            if *last_page != page {
                *last_page = page;
                facts.widen((text, text));
            }
        }
        Ok(facts)
    }

    fn add(&mut self, other: &Self) {
        let Self { nulls, bytes, range } = other;
        self.nulls += nulls;
        self.bytes += bytes;
        if let Some(range) = *range {
            self.widen(range);
        }
    }

    fn widen(&mut self, (least, greatest): (&'a str, &'a str)) {
        let (known_least, known_greatest) = self.range.unwrap_or((least, greatest));
        self.range = Some((known_least.min(least), known_greatest.max(greatest)));
    }

    fn statistics(&self) -> Statistics {
        let (least, greatest) = self.range.unzip();
        let (lower, upper) = (least.map(lower_bound), greatest.map(upper_bound));
        let min_is_exact = least == lower;
        let max_is_exact = greatest == upper.as_deref();
        let (lower, upper) = (lower.map(ByteArray::from), upper.as_deref().map(ByteArray::from));
        Statistics::ByteArray(
            ValueStatistics::new(lower, upper, None, u64::try_from(self.nulls).ok(), false)
                .with_min_is_exact(min_is_exact)
                .with_max_is_exact(max_is_exact),
        )
    }
}

/// The start of a long text, which is not greater than it.
fn lower_bound(text: &str) -> &str {
    text.split_at(text.floor_char_boundary(MAX_BOUND_LEN)).0
}

/// A short text that is not less than this one: of a long text the start, with the next character in the last place
/// that has one.
fn upper_bound(text: &str) -> String {
    let mut bound = lower_bound(text).to_owned();
    if bound == text {
        return bound;
    }
    while let Some(last) = bound.pop() {
        let next = char::from_u32(u32::from(last) + 1).filter(|next| next.len_utf8() == last.len_utf8());
        if let Some(next) = next {
            bound.push(next);
            return bound;
        }
    }
    text.to_owned()
}

/// In which order the pages stand.
fn order_of(bounds: &[(String, String)]) -> BoundaryOrder {
    if bounds.is_sorted_by(|one, next| one.0 <= next.0 && one.1 <= next.1) {
        BoundaryOrder::ASCENDING
    } else if bounds.is_sorted_by(|one, next| one.0 >= next.0 && one.1 >= next.1) {
        BoundaryOrder::DESCENDING
    } else {
        BoundaryOrder::UNORDERED
    }
}

fn bloom_filter(texts: &[&str], fpp: f64) -> ParquetResult<Sbbf> {
    let mut filter = Sbbf::new_with_ndv_fpp(texts.len() as u64, fpp)?;
    for text in texts {
        filter.insert(text.as_bytes());
    }
    Ok(filter)
}

fn count(length: usize) -> Result<u32, Fault> {
    u32::try_from(length).map_err(|_| Fault::Schema)
}

fn signed(length: usize) -> Result<i64, Fault> {
    i64::try_from(length).map_err(|_| Fault::Schema)
}

#[cfg(test)]
mod tests;
