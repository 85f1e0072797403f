//! What is written here is held against what the crate writes.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, DictionaryArray, Int64Array, PrimitiveArray, RecordBatch,
    StringArray, UInt32Array,
};
use arrow_schema::{DataType, Field, Schema};
use arrow_select::concat::concat;
use arrow_select::take::take;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::{
    DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT, ReaderProperties, WriterPropertiesBuilder,
};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;

use super::*;
use crate::log::writer::Compatibility;
use crate::log::writer::numbered::Numbers;
use crate::log::writer::properties::writer_properties;

/// A nullable column with a bloom filter, and one that always has a value.
const NULLABLE: &str = "src_ip";
const REQUIRED: &str = "host_name";

/// Columns of numbers that have dictionaries.
const NUMBER: &str = "orig_bytes";
const SMALL_NUMBER: &str = "proto";

/// Rows of a page: few, so that a few rows have many pages.
const PAGE_ROWS: usize = 16;

fn properties() -> WriterProperties {
    let properties = WriterPropertiesBuilder::from(writer_properties(Compatibility::Current));
    properties.set_write_batch_size(PAGE_ROWS).set_data_page_row_count_limit(PAGE_ROWS).build()
}

fn schema(column: &str) -> Arc<Schema> {
    let data_type = match column {
        NUMBER => DataType::Int64,
        SMALL_NUMBER => DataType::Int32,
        _ => DataType::Utf8,
    };
    Arc::new(Schema::new(vec![Field::new(column, data_type, column != REQUIRED)]))
}

fn part(texts: &[Option<&str>]) -> ArrayRef {
    Arc::new(texts.iter().copied().collect::<DictionaryArray<Int32Type>>())
}

fn arrow_writer(column: &str, file: &File, properties: WriterProperties) -> ArrowWriter<File> {
    ArrowWriter::try_new(file.try_clone().unwrap(), schema(column), Some(properties)).unwrap()
}

/// A writer into the file, and its only column.
fn writer(
    column: &str,
    file: &File,
    properties: WriterProperties,
) -> (SerializedFileWriter<File>, ColumnDescPtr) {
    let (writer, _) = arrow_writer(column, file, properties).into_serialized_writer().unwrap();
    let descriptor = writer.schema_descr().column(0);
    (writer, descriptor)
}

/// The column as this module writes it.
fn written<V: Value>(
    column: &str,
    numbered: &Numbered<V>,
    properties: WriterProperties,
    is_small: bool,
) -> Result<File, Fault> {
    let file = tempfile::tempfile().unwrap();
    let (mut writer, descriptor) = writer(column, &file, properties);
    let properties = Arc::clone(writer.properties());
    let mut row_group = writer.next_row_group().unwrap();
    let mut chunks = ChunkWriter::new(properties.compression(descriptor.path()), is_small).unwrap();
    chunks.write(numbered, &mut row_group, &descriptor, &properties)?;
    row_group.close().unwrap();
    writer.close().unwrap();
    Ok(file)
}

fn numbered<'a>(parts: &'a [ArrayRef], order: &UInt32Array) -> Numbered<&'a str> {
    Numbered::of_texts(parts, order.values(), DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT).unwrap().unwrap()
}

fn texts(parts: &[ArrayRef], order: &UInt32Array) -> StringArray {
    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    let column = take(&concat(&parts).unwrap(), order, None).unwrap();
    let column = column.as_dictionary::<Int32Type>().downcast_dict::<StringArray>().unwrap();
    column.into_iter().collect()
}

/// The same as the crate writes it.
fn of_crate(column: &str, values: &ArrayRef, properties: WriterProperties) -> File {
    let file = tempfile::tempfile().unwrap();
    let mut writer = arrow_writer(column, &file, properties);
    let batch = RecordBatch::try_new(schema(column), vec![Arc::clone(values)]).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file
}

/// The rows from this one on, by the index of the pages if there is one.
fn read(file: &File, first: usize) -> ArrayRef {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let reader =
        ParquetRecordBatchReaderBuilder::try_new_with_options(file.try_clone().unwrap(), options).unwrap();
    let batches: Vec<_> = reader.with_offset(first).build().unwrap().map(Result::unwrap).collect();
    let columns: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(0).as_ref()).collect();
    concat(&columns).unwrap()
}

fn metadata(file: &File) -> ParquetMetaData {
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    reader.parse_and_finish(file).unwrap()
}

/// The least value of each page that has one, and the greatest ones.
fn bounds(index: &ColumnIndexMetaData) -> [Vec<&[u8]>; 2] {
    let ColumnIndexMetaData::BYTE_ARRAY(index) = index else {
        panic!("the index is one of texts: {index:?}")
    };
    [index.min_values_iter().flatten().collect(), index.max_values_iter().flatten().collect()]
}

/// What readers skip pages and chunks by.
fn said(metadata: &ParquetMetaData) -> String {
    let chunk = metadata.row_group(0).column(0);
    let mut encodings: Vec<_> = chunk.encodings().map(|encoding| encoding.to_string()).collect();
    encodings.sort();
    let (values, bytes) = (chunk.num_values(), chunk.unencoded_byte_array_data_bytes());
    let mut text = format!("{values} {bytes:?} {encodings:?} {:?}\n", chunk.compression_codec());
    let statistics = chunk.statistics().unwrap();
    let range = [statistics.min_bytes_opt(), statistics.max_bytes_opt()];
    let is_exact = [statistics.min_is_exact(), statistics.max_is_exact()];
    text += &format!("{range:?} {is_exact:?} {:?}\n", statistics.null_count_opt());
    let pages = metadata.page_index_for_row_group(0);
    let (index, offsets) = (pages.column_index(0).unwrap(), pages.offset_index(0).unwrap());
    let null_pages: Vec<_> =
        (0..offsets.page_locations().len()).map(|page| index.is_null_page(page)).collect();
    text += &format!("{:?} {null_pages:?}\n", index.null_counts());
    text += &match index {
        ColumnIndexMetaData::BYTE_ARRAY(_) => format!("{:?}", bounds(index)),
        ColumnIndexMetaData::INT32(index) => format!("{:?} {:?}", index.min_values(), index.max_values()),
        ColumnIndexMetaData::INT64(index) => format!("{:?} {:?}", index.min_values(), index.max_values()),
        other => panic!("the index is one of texts or numbers: {other:?}"),
    };
    let rows = offsets.page_locations().iter().map(|page| page.first_row_index).collect::<Vec<_>>();
    text + &format!("{rows:?} {:?}", offsets.unencoded_byte_array_data_bytes)
}

/// Holds what this module writes against the rows, and against what the crate writes.
fn compare_with<V: Value>(
    column: &str,
    numbered: &Numbered<V>,
    expected: &ArrayRef,
    properties: &WriterProperties,
) -> File {
    let [found, small] =
        [false, true].map(|is_small| written(column, numbered, properties.clone(), is_small).unwrap());
    for file in [&found, &small] {
        for first in [0, expected.len() / 2, expected.len() - 1] {
            assert_eq!(&read(file, first), &expected.slice(first, expected.len() - first));
        }
    }
    let of_crate = of_crate(column, expected, properties.clone());
    let metadata = metadata(&found);
    // What has no value needs no dictionary.
    if expected.null_count() < expected.len() {
        assert_eq!(said(&metadata), said(&self::metadata(&of_crate)));
    }
    let statistics = metadata.row_group(0).column(0).statistics().unwrap();
    let is_twice = statistics.min_bytes_opt().is_some() && statistics.is_min_max_backwards_compatible();
    assert!(!is_twice, "bounds are there once");
    let small = ParquetMetaDataReader::new().parse_and_finish(&small).unwrap();
    let chunk = small.row_group(0).column(0);
    let offsets = [chunk.bloom_filter_offset(), chunk.column_index_offset(), chunk.offset_index_offset()];
    assert_eq!(offsets, [None; 3]);
    assert_eq!(chunk.statistics(), Some(statistics));
    found
}

/// Holds a column of texts against what the crate writes.
fn compare(column: &str, parts: &[ArrayRef], order: &UInt32Array, properties: &WriterProperties) {
    let texts = texts(parts, order);
    let expected: ArrayRef = Arc::new(texts.clone());
    let found = compare_with(column, &numbered(parts, order), &expected, properties);
    if column == NULLABLE {
        let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
        let options = ReadOptionsBuilder::new().with_reader_properties(properties).build();
        let reader = SerializedFileReader::new_with_options(found, options).unwrap();
        let row_group = reader.get_row_group(0).unwrap();
        let filter = row_group.get_column_bloom_filter(0).unwrap();
        assert!(texts.iter().flatten().all(|text| filter.check(text.as_bytes())));
        let passed = (0..100).filter(|n| filter.check(format!("absent {n}").as_bytes())).count();
        assert!(passed < 20, "the filter lets {passed} of 100 pass that are not there");
    }
}

/// Holds a column of numbers against what the crate writes.
fn compare_numbers<T>(column: &str, parts: &[Vec<Option<T::Native>>], order: &UInt32Array)
where
    T: ArrowPrimitiveType,
    T::Native: Value + std::hash::Hash,
{
    let array = |part: &Vec<_>| -> ArrayRef { Arc::new(part.iter().copied().collect::<PrimitiveArray<T>>()) };
    let parts: Vec<ArrayRef> = parts.iter().map(array).collect();
    let references: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    let expected = take(&concat(&references).unwrap(), order, None).unwrap();
    let numbers = Numbers::of::<T>(&parts).unwrap();
    let limit = DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT;
    let numbered = Numbered::of_numbers(&numbers, order.values(), limit).unwrap().unwrap();
    compare_with(column, &numbered, &expected, &properties());
}

fn in_order(rows: usize) -> UInt32Array {
    (0..u32::try_from(rows).unwrap()).collect()
}

fn shuffled(rows: usize, seed: u64) -> UInt32Array {
    let mut order: Vec<u32> = in_order(rows).values().to_vec();
    let hasher = foldhash::fast::FixedState::with_seed(seed);
    order.sort_by_key(|row| std::hash::BuildHasher::hash_one(&hasher, row));
    order.into()
}

/// The order in which the file says that the bounds of its pages are, which they have.
fn boundary_order(file: &File) -> BoundaryOrder {
    let metadata = metadata(file);
    let pages = metadata.page_index_for_row_group(0);
    let index = pages.column_index(0).unwrap();
    let bounds = bounds(index);
    let order = index.get_boundary_order().unwrap();
    match order {
        BoundaryOrder::ASCENDING => assert!(bounds.iter().all(|it| it.is_sorted())),
        BoundaryOrder::DESCENDING => assert!(bounds.iter().all(|it| it.iter().rev().is_sorted())),
        BoundaryOrder::UNORDERED => {}
    }
    order
}

#[test]
fn the_order_of_pages_is_told() {
    let numbers: Vec<String> = (0..100).map(|n| format!("{n:02}")).collect();
    let growing: Vec<_> = numbers.iter().map(|text| Some(text.as_str())).collect();
    let falling: Vec<_> = growing.iter().rev().copied().collect();
    let spread: Vec<_> = (0..100).map(|row| growing[row * 37 % 100]).collect();
    let with_nulls: Vec<_> = [vec![None; PAGE_ROWS], growing.clone(), vec![None; PAGE_ROWS]].concat();
    for (texts, expected) in [
        (&growing, BoundaryOrder::ASCENDING),
        (&falling, BoundaryOrder::DESCENDING),
        (&spread, BoundaryOrder::UNORDERED),
        (&with_nulls, BoundaryOrder::ASCENDING),
    ] {
        let (first, second) = texts.split_at(texts.len() / 3);
        let (parts, order) = ([part(first), part(second)], in_order(texts.len()));
        compare(NULLABLE, &parts, &order, &properties());
        let file = written(NULLABLE, &numbered(&parts, &order), properties(), false).unwrap();
        assert_eq!(boundary_order(&file), expected);
    }
    compare(REQUIRED, &[part(&spread)], &in_order(100), &properties());
    let one = [part(&[Some("one"); 50]), part(&[]), part(&[Some("one"); 50])];
    compare(REQUIRED, &one, &in_order(100), &properties());
    compare(NULLABLE, &one, &in_order(100), &properties());
}

/// Numbers of many bits, long runs, and dictionaries as large as those of real files.
#[test]
fn many_rows_are_those_of_the_crate() {
    let known: Vec<String> = (0..5000).map(|n| format!("text {}", n * 7919 % 5000)).collect();
    // Runs of one row to 600, which go across pages, NULL among them, and rows that all differ.
    let of_run = |run: usize| (!run.is_multiple_of(10)).then(|| known[run * 31 % known.len()].as_str());
    let runs = (1..400).flat_map(|run| std::iter::repeat_n(of_run(run), run * 13 % 600 + 1));
    let rows: Vec<_> = runs.chain((0..20_000).map(|row| Some(known[row % known.len()].as_str()))).collect();
    let parts: Vec<ArrayRef> = rows.chunks(8192).map(part).collect();
    compare(NULLABLE, &parts, &in_order(rows.len()), &writer_properties(Compatibility::Current));
}

#[test]
fn null_is_refused_where_a_column_always_has_a_value() {
    let parts = [part(&[Some("a"), None])];
    let found = written(REQUIRED, &numbered(&parts, &in_order(2)), properties(), false);
    assert!(matches!(found, Err(Fault::Schema)));
}

#[test]
fn what_has_no_value_takes_few_bytes() {
    for rows in [1, 300] {
        let expected: ArrayRef = Arc::new(Int64Array::new_null(rows));
        compare_with(NUMBER, &Numbered::<i64>::unknown(rows), &expected, &properties());
        let file = written(NUMBER, &Numbered::<i64>::unknown(1), properties(), true).unwrap();
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
        let chunk = metadata.row_group(0).column(0);
        assert!(chunk.compressed_size() < 32, "{} bytes", chunk.compressed_size());
    }
}

/// A small column has a dictionary, and is compressed, only if that makes it smaller.
#[test]
fn a_small_column_is_as_small_as_it_can_be() {
    let long = "long ".repeat(100);
    for (rows, has_dictionary, is_compressed) in [
        (vec![Some("one")], false, false),
        (vec![Some("one"); 10], true, false),
        (vec![Some(long.as_str())], false, true),
        (vec![Some(long.as_str()); 10], true, true),
    ] {
        let parts = [part(&rows)];
        let file = written(NULLABLE, &numbered(&parts, &in_order(rows.len())), properties(), true).unwrap();
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
        let chunk = metadata.row_group(0).column(0);
        let is_zstd = matches!(chunk.compression(), Compression::ZSTD(_));
        let found = (chunk.dictionary_page_offset().is_some(), is_zstd);
        assert_eq!(found, (has_dictionary, is_compressed), "{} rows of {:?}", rows.len(), rows[0]);
    }
}

/// Texts around the length at which bounds are cut.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{0,2}", "[x\u{7f}é\u{d7ff}\u{10ffff}]{0,90}", "z{63,65}", "\u{10ffff}{15,18}"]
}

proptest! {
    #[test]
    fn rows_and_statistics_are_those_of_the_crate(
        known in vec(text(), 1..20),
        parts in vec(vec(weighted(0.9, any::<prop::sample::Index>()), 1..40), 1..4),
        seed in any::<u64>(),
    ) {
        let parts: Vec<ArrayRef> = parts
            .iter()
            .map(|rows| part(&rows.iter().map(|row| Some(row.as_ref()?.get(&known).as_str())).collect::<Vec<_>>()))
            .collect();
        let rows = parts.iter().map(|part| part.len()).sum();
        let order = shuffled(rows, seed);
        compare(NULLABLE, &parts, &order, &properties());
        boundary_order(&written(NULLABLE, &numbered(&parts, &order), properties(), false).unwrap());
    }

    #[test]
    fn numbers_and_statistics_are_those_of_the_crate(
        known in vec(any::<i64>(), 1..20),
        parts in vec(vec(weighted(0.9, any::<prop::sample::Index>()), 1..40), 1..4),
        seed in any::<u64>(),
    ) {
        let rows = parts.iter().map(Vec::len).sum();
        let order = shuffled(rows, seed);
        let of_known = |row: &Option<prop::sample::Index>| Some(*row.as_ref()?.get(&known));
        let parts: Vec<Vec<_>> = parts.iter().map(|part| part.iter().map(of_known).collect()).collect();
        compare_numbers::<Int64Type>(NUMBER, &parts, &order);
        let low = |part: &Vec<Option<i64>>| {
            part.iter().map(|value| value.map(|value| value.to_le_bytes()[0].into())).collect()
        };
        let parts: Vec<Vec<Option<i32>>> = parts.iter().map(low).collect();
        compare_numbers::<Int32Type>(SMALL_NUMBER, &parts, &order);
    }
}
