//! Numbered columns as column chunks: pages, statistics, index, bloom filter, and what the footer says of them.

use std::fs::File;

use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, PageType};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::AsBytes as _;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{
    ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats,
};
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use zstd::bulk::Compressor;

use super::error::Fault;
use super::hybrid;
use super::numbered::{NULL, Numbered, Run, count};
use super::value::Value;

/// What a dictionary takes beside its values: the header of its page, and what the footer says of it.
const DICTIONARY_OVERHEAD: usize = 32;

/// What the chunks of a row group have in common.
pub(super) struct ChunkWriter {
    compressor: Compressor<'static>,
    /// Whether the row group is small, and the only one of its file. Then each column has one page, and what readers
    /// skip pages by is left out: the footer says of a column what an index would say of its page, and a filter would
    /// have to be read, too. A page is compressed, and has a dictionary, only if that makes it smaller.
    is_small: bool,
}

impl ChunkWriter {
    /// Takes the compression that all columns have.
    pub(super) fn new(compression: Compression, is_small: bool) -> Result<Self, Fault> {
        let Compression::ZSTD(level) = compression else {
            let unknown = format!("found {compression}, expected ZSTD for all columns");
            return Err(ParquetError::NYI(unknown).into());
        };
        Ok(Self { compressor: Compressor::new(level.compression_level())?, is_small })
    }

    /// Writes the column as the next one of the row group.
    pub(super) fn write<V: Value>(
        &mut self,
        numbered: &Numbered<V>,
        row_group: &mut SerializedRowGroupWriter<'_, File>,
        column: &ColumnDescPtr,
        properties: &WriterProperties,
    ) -> Result<(), Fault> {
        let values = &numbered.values;
        let is_plain = values.is_empty() || self.is_small && is_smaller_plain(numbered);
        let nullable = column.max_def_level() > 0;
        let mut pages = Vec::new();
        if !is_plain {
            pages.push(RawPage::dictionary(values)?);
        }
        let page_rows = properties.data_page_row_count_limit();
        let of_pages = pages_of(numbered, page_rows)?;
        for (runs, facts) in &of_pages {
            pages.push(RawPage::rows(runs, facts, nullable, values, is_plain)?);
        }
        let compression = self.compress(&mut pages, properties.compression(column.path()))?;

        let mut sink = TrackedWrite::new(Vec::new());
        let mut writer = SerializedPageWriter::new(&mut sink);
        let mut specs = Vec::with_capacity(pages.len());
        for page in pages {
            specs.push(writer.write_page(page.into_page(is_plain))?);
        }
        let compressed = specs.iter().map(|spec| spec.compressed_size).sum();
        let uncompressed: usize = specs.iter().map(|spec| spec.uncompressed_size).sum();
        let of_dictionary = if is_plain { 0 } else { specs.remove(0).compressed_size };

        let mut of_chunk = Facts::default();
        of_pages.iter().for_each(|(_, facts)| of_chunk.add(facts));
        let mut metadata = ColumnChunkMetaData::builder(column.clone())
            .set_compression(compression)
            .set_encodings(encodings(is_plain))
            .set_num_values(signed(of_chunk.rows)?)
            .set_total_compressed_size(signed(compressed)?)
            .set_total_uncompressed_size(signed(uncompressed)?)
            .set_dictionary_page_offset((!is_plain).then_some(0))
            .set_data_page_offset(signed(of_dictionary)?)
            .set_statistics(of_chunk.statistics());
        if !self.is_small {
            metadata = metadata
                .set_unencoded_byte_array_data_bytes(V::IS_TEXT.then_some(of_chunk.text_bytes))
                .set_page_encoding_stats(page_encodings(is_plain, specs.len())?);
        }
        let mut closed = ColumnCloseResult {
            bytes_written: u64::try_from(compressed).map_err(|_| Fault::Schema)?,
            rows_written: u64::try_from(of_chunk.rows).map_err(|_| Fault::Schema)?,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        if !self.is_small {
            let filter = properties.bloom_filter_properties(column.path());
            closed.bloom_filter = filter.map(|filter| bloom_filter(values, filter.fpp())).transpose()?;
            index(&mut closed, &of_pages, &specs)?;
        }
        Ok(row_group.append_column(&Bytes::from(sink.into_inner()?), closed)?)
    }

    /// Compresses the pages of a chunk, unless they are small and it makes them larger.
    fn compress(&mut self, pages: &mut [RawPage], wanted: Compression) -> Result<Compression, Fault> {
        let mut compressed = Vec::with_capacity(pages.len());
        for page in &*pages {
            compressed.push(self.compressor.compress(&page.body)?);
        }
        let len = |bodies: &[Vec<u8>]| bodies.iter().map(Vec::len).sum::<usize>();
        if self.is_small && len(&compressed) >= pages.iter().map(|page| page.body.len()).sum() {
            return Ok(Compression::UNCOMPRESSED);
        }
        pages.iter_mut().zip(compressed).for_each(|(page, body)| page.body = body);
        Ok(wanted)
    }
}

/// Whether the values of the rows take less than a dictionary and its numbers.
fn is_smaller_plain<V: Value>(numbered: &Numbered<V>) -> bool {
    let Numbered { values, runs } = numbered;
    let of_run = |run: &Run| {
        let value = usize::try_from(run.number).ok().and_then(|number| values.get(number));
        value.map_or(0, |value| value.plain_len() * run.rows)
    };
    let of_values: usize = values.iter().map(|value| value.plain_len()).sum();
    runs.iter().map(of_run).sum::<usize>() <= of_values + DICTIONARY_OVERHEAD
}

/// The rows of a page, and what is said of them.
type PageRows<V> = (Vec<Run>, Facts<V>);

/// The rows as pages of so many.
fn pages_of<V: Value>(numbered: &Numbered<V>, page_rows: usize) -> Result<Vec<PageRows<V>>, Fault> {
    let Numbered { values, runs } = numbered;
    let mut pages = Vec::new();
    let mut page = Vec::new();
    let mut room = page_rows;
    for run in runs {
        let mut rest = run.rows;
        while rest > 0 {
            let rows = rest.min(room);
            page.push(Run { rows, ..*run });
            (rest, room) = (rest - rows, room - rows);
            if room == 0 {
                pages.push(std::mem::take(&mut page));
                room = page_rows;
            }
        }
    }
    if !page.is_empty() {
        pages.push(page);
    }
    // The last page that has the value, counted from 1.
    let mut last_pages = vec![0; values.len()];
    let facts = |(number, runs): (u32, Vec<Run>)| {
        let facts = Facts::of_page(&runs, values, number, &mut last_pages)?;
        Ok((runs, facts))
    };
    (1..).zip(pages).map(facts).collect()
}

/// A page, before it is compressed or after.
struct RawPage {
    body: Vec<u8>,
    raw_len: usize,
    num_values: u32,
    is_dictionary: bool,
}

impl RawPage {
    fn new(body: Vec<u8>, num_values: usize, is_dictionary: bool) -> Result<Self, Fault> {
        Ok(Self { raw_len: body.len(), body, num_values: count(num_values)?, is_dictionary })
    }

    /// The values in the order of their numbers.
    fn dictionary<V: Value>(values: &[V]) -> Result<Self, Fault> {
        let mut body = Vec::with_capacity(values.iter().map(|value| value.plain_len()).sum());
        values.iter().for_each(|value| value.put(&mut body));
        Self::new(body, values.len(), true)
    }

    /// A page of rows.
    fn rows<V: Value>(
        runs: &[Run],
        facts: &Facts<V>,
        nullable: bool,
        values: &[V],
        is_plain: bool,
    ) -> Result<Self, Fault> {
        if !nullable && facts.nulls > 0 {
            return Err(Fault::Schema);
        }
        let mut body = Vec::new();
        if nullable {
            let levels = runs.iter().map(|run| (u32::from(run.number != NULL), run.rows));
            let mut encoded = Vec::new();
            hybrid::encode(levels, 1, &mut encoded);
            body.extend(count(encoded.len())?.to_le_bytes());
            body.append(&mut encoded);
        }
        let known = runs.iter().filter(|run| run.number != NULL);
        if is_plain {
            for run in known {
                let value = usize::try_from(run.number).ok().and_then(|number| values.get(number));
                let value = value.ok_or(Fault::Schema)?;
                (0..run.rows).for_each(|_| value.put(&mut body));
            }
        } else {
            let below = known.clone().map(|run| run.number + 1).max().unwrap_or_default();
            let width = hybrid::width(below);
            body.extend(u8::try_from(width));
            hybrid::encode(known.map(|run| (run.number, run.rows)), width, &mut body);
        }
        Self::new(body, facts.rows, false)
    }

    fn into_page(self, is_plain: bool) -> CompressedPage {
        let Self { body, raw_len, num_values, is_dictionary } = self;
        let buf = body.into();
        let page = if is_dictionary {
            Page::DictionaryPage { buf, num_values, encoding: Encoding::PLAIN, is_sorted: false }
        } else {
            Page::DataPage {
                buf,
                num_values,
                encoding: if is_plain { Encoding::PLAIN } else { Encoding::RLE_DICTIONARY },
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            }
        };
        CompressedPage::new(page, raw_len)
    }
}

/// What the statistics say about some rows.
struct Facts<V> {
    rows: usize,
    nulls: u64,
    /// Bytes of the texts, each as often as it stands.
    text_bytes: i64,
    /// The least and the greatest value.
    range: Option<(V, V)>,
}

impl<V> Default for Facts<V> {
    fn default() -> Self {
        Self { rows: 0, nulls: 0, text_bytes: 0, range: None }
    }
}

impl<V: Value> Facts<V> {
    /// Of the rows of this page. A value is compared where the page has it first.
    fn of_page(runs: &[Run], values: &[V], page: u32, last_pages: &mut [u32]) -> Result<Self, Fault> {
        let mut facts = Self::default();
        for &Run { number, rows } in runs {
            facts.rows += rows;
            if number == NULL {
                facts.nulls += u64::try_from(rows).map_err(|_| Fault::Schema)?;
                continue;
            }
            let place = usize::try_from(number).map_err(|_| Fault::Schema)?;
            let value = *values.get(place).ok_or(Fault::Schema)?;
            facts.text_bytes += signed(rows * value.text_len())?;
            let last_page = last_pages.get_mut(place).ok_or(Fault::Schema)?;
            if *last_page != page {
                *last_page = page;
                facts.widen((value, value));
            }
        }
        Ok(facts)
    }

    fn add(&mut self, other: &Self) {
        let Self { rows, nulls, text_bytes, range } = other;
        self.rows += rows;
        self.nulls += nulls;
        self.text_bytes += text_bytes;
        if let Some(range) = *range {
            self.widen(range);
        }
    }

    fn widen(&mut self, (least, greatest): (V, V)) {
        let (known_least, known_greatest) = self.range.unwrap_or((least, greatest));
        self.range = Some((known_least.min(least), known_greatest.max(greatest)));
    }

    fn statistics(&self) -> Statistics {
        V::statistics(self.range, self.nulls)
    }
}

fn encodings(is_plain: bool) -> Vec<Encoding> {
    if is_plain {
        vec![Encoding::RLE, Encoding::PLAIN]
    } else {
        vec![Encoding::RLE, Encoding::PLAIN, Encoding::RLE_DICTIONARY]
    }
}

fn page_encodings(is_plain: bool, data_pages: usize) -> Result<Vec<PageEncodingStats>, Fault> {
    let data_pages = i32::try_from(data_pages).map_err(|_| Fault::Schema)?;
    let of = |page_type, encoding, count| PageEncodingStats { page_type, encoding, count };
    if is_plain {
        return Ok(vec![of(PageType::DATA_PAGE, Encoding::PLAIN, data_pages)]);
    }
    Ok(vec![
        of(PageType::DICTIONARY_PAGE, Encoding::PLAIN, 1),
        of(PageType::DATA_PAGE, Encoding::RLE_DICTIONARY, data_pages),
    ])
}

/// Adds what readers skip pages by.
fn index<V: Value>(
    closed: &mut ColumnCloseResult,
    pages: &[PageRows<V>],
    specs: &[PageWriteSpec],
) -> Result<(), Fault> {
    let mut column_index = ColumnIndexBuilder::new(V::TYPE);
    let mut offset_index = OffsetIndexBuilder::new();
    let mut bounds = Vec::new();
    for ((_, facts), spec) in pages.iter().zip(specs) {
        let page = facts.range.map(|(least, greatest)| (least.lower_bound(), greatest.upper_bound()));
        let bytes =
            |bound: Option<&V::Bound>| bound.map(|bound| bound.as_bytes().to_vec()).unwrap_or_default();
        let (lower, upper) = page.as_ref().map(|(lower, upper)| (lower, upper)).unzip();
        let nulls = i64::try_from(facts.nulls).map_err(|_| Fault::Schema)?;
        column_index.append(page.is_none(), bytes(lower), bytes(upper), nulls, None);
        bounds.extend(page);
        offset_index.append_row_count(signed(facts.rows)?);
        offset_index.append_offset_and_size(
            i64::try_from(spec.offset).map_err(|_| Fault::Schema)?,
            i32::try_from(spec.compressed_size).map_err(|_| Fault::Schema)?,
        );
        offset_index.append_unencoded_byte_array_data_bytes(V::IS_TEXT.then_some(facts.text_bytes));
    }
    column_index.set_boundary_order(order_of(&bounds));
    closed.column_index = Some(column_index.build()?);
    closed.offset_index = Some(offset_index.build());
    Ok(())
}

/// In which order the pages stand.
fn order_of<B: Ord>(bounds: &[(B, B)]) -> BoundaryOrder {
    if bounds.is_sorted_by(|one, next| one.0 <= next.0 && one.1 <= next.1) {
        BoundaryOrder::ASCENDING
    } else if bounds.is_sorted_by(|one, next| one.0 >= next.0 && one.1 >= next.1) {
        BoundaryOrder::DESCENDING
    } else {
        BoundaryOrder::UNORDERED
    }
}

fn bloom_filter<V: Value>(values: &[V], fpp: f64) -> ParquetResult<Sbbf> {
    let mut filter = Sbbf::new_with_ndv_fpp(values.len() as u64, fpp)?;
    values.iter().for_each(|value| filter.insert(value));
    Ok(filter)
}

fn signed(length: usize) -> Result<i64, Fault> {
    i64::try_from(length).map_err(|_| Fault::Schema)
}

#[cfg(test)]
mod tests;
