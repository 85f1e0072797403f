use std::sync::Arc;

use arrow_array::{DictionaryArray, Int32Array, RecordBatch};
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
use crate::log::writer::properties::writer_properties;

/// A nullable column with a bloom filter, and one that always has a value.
const NULLABLE: &str = "src_ip";
const REQUIRED: &str = "host_name";

/// Rows of a page: few, so that a few rows have many pages.
const PAGE_ROWS: usize = 16;

fn properties() -> WriterProperties {
    let properties = WriterPropertiesBuilder::from(writer_properties(Compatibility::Current));
    properties.set_write_batch_size(PAGE_ROWS).set_data_page_row_count_limit(PAGE_ROWS).build()
}

fn schema(column: &str) -> Arc<Schema> {
    Arc::new(Schema::new(vec![Field::new(column, DataType::Utf8, column == NULLABLE)]))
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

/// The parts as this module writes them.
fn written(column: &str, parts: &[ArrayRef], order: &UInt32Array, properties: WriterProperties) -> File {
    let file = tempfile::tempfile().unwrap();
    let (mut writer, descriptor) = writer(column, &file, properties);
    let properties = Arc::clone(writer.properties());
    let mut row_group = writer.next_row_group().unwrap();
    let texts = TextColumn::new(parts, order, DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT).unwrap().unwrap();
    texts.write(&mut row_group, &descriptor, &properties).unwrap();
    row_group.close().unwrap();
    writer.close().unwrap();
    file
}

fn texts(parts: &[ArrayRef], order: &UInt32Array) -> StringArray {
    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    let column = take(&concat(&parts).unwrap(), order, None).unwrap();
    let column = column.as_dictionary::<Int32Type>().downcast_dict::<StringArray>().unwrap();
    column.into_iter().collect()
}

/// The same as the crate writes it.
fn of_crate(column: &str, texts: &StringArray, properties: WriterProperties) -> File {
    let file = tempfile::tempfile().unwrap();
    let mut writer = arrow_writer(column, &file, properties);
    let batch = RecordBatch::try_new(schema(column), vec![Arc::new(texts.clone())]).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file
}

/// The rows from this one on, by the index of the pages.
fn read(file: &File, first: usize) -> StringArray {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let reader =
        ParquetRecordBatchReaderBuilder::try_new_with_options(file.try_clone().unwrap(), options).unwrap();
    let batches: Vec<_> = reader.with_offset(first).build().unwrap().map(Result::unwrap).collect();
    batches.iter().flat_map(|batch| batch.column(0).as_string::<i32>()).collect()
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
    text += &format!("{:?}\n", chunk.statistics());
    let pages = metadata.page_index_for_row_group(0);
    let (index, offsets) = (pages.column_index(0).unwrap(), pages.offset_index(0).unwrap());
    let null_pages: Vec<_> =
        (0..offsets.page_locations().len()).map(|page| index.is_null_page(page)).collect();
    text += &format!("{:?} {null_pages:?}\n", index.null_counts());
    let bounds = bounds(index);
    let rows = offsets.page_locations().iter().map(|page| page.first_row_index).collect::<Vec<_>>();
    text + &format!("{bounds:?} {rows:?} {:?}", offsets.unencoded_byte_array_data_bytes)
}

/// Holds what this module writes against what the crate writes.
fn compare(column: &str, parts: &[ArrayRef], order: &UInt32Array, properties: &WriterProperties) {
    let expected = texts(parts, order);
    let found = written(column, parts, order, properties.clone());
    for first in [0, expected.len() / 2, expected.len() - 1] {
        assert_eq!(read(&found, first), expected.slice(first, expected.len() - first));
    }
    let of_crate = of_crate(column, &expected, properties.clone());
    assert_eq!(said(&metadata(&found)), said(&metadata(&of_crate)));
    if column == NULLABLE {
        let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
        let options = ReadOptionsBuilder::new().with_reader_properties(properties).build();
        let reader = SerializedFileReader::new_with_options(found, options).unwrap();
        let row_group = reader.get_row_group(0).unwrap();
        let filter = row_group.get_column_bloom_filter(0).unwrap();
        assert!(expected.iter().flatten().all(|text| filter.check(text.as_bytes())));
        let passed = (0..100).filter(|n| filter.check(format!("absent {n}").as_bytes())).count();
        assert!(passed < 20, "the filter lets {passed} of 100 pass that are not there");
    }
}

fn in_order(rows: usize) -> UInt32Array {
    (0..u32::try_from(rows).unwrap()).collect()
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
        assert_eq!(boundary_order(&written(NULLABLE, &parts, &order, properties())), expected);
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
fn texts_are_numbered_in_the_order_of_the_rows() {
    // An array may have a text twice, and texts that no row has.
    let values = StringArray::from(vec!["unused", "b", "a", "b"]);
    let keys = Int32Array::from(vec![Some(1), Some(2), None, Some(3)]);
    let parts: [ArrayRef; 1] = [Arc::new(DictionaryArray::new(keys, Arc::new(values)))];
    let order = UInt32Array::from(vec![2, 1, 3, 0]);
    let column = TextColumn::new(&parts, &order, 100).unwrap().unwrap();
    assert_eq!((column.texts, column.rows), (vec!["a", "b"], vec![NULL, 0, 1, 1]));
}

#[test]
fn null_is_refused_where_a_column_always_has_a_value() {
    let parts = [part(&[Some("a"), None])];
    let (mut writer, descriptor) = writer(REQUIRED, &tempfile::tempfile().unwrap(), properties());
    let properties = Arc::clone(writer.properties());
    let column = TextColumn::new(&parts, &in_order(2), 100).unwrap().unwrap();
    let written = column.write(&mut writer.next_row_group().unwrap(), &descriptor, &properties);
    assert!(matches!(written, Err(Fault::Schema)));
}

#[test]
fn a_text_that_no_row_has_is_not_written() {
    let texts = part(&[Some("a"), Some("b"), Some("c"), Some("b")]);
    let sliced = [texts.slice(1, 1), texts.slice(3, 1)];
    let column = TextColumn::new(&sliced, &in_order(2), 100).unwrap().unwrap();
    assert_eq!((column.texts, column.rows), (vec!["b"], vec![0, 0]));
}

#[test]
fn what_has_a_text_for_each_row_is_left_to_the_crate() {
    let texts: Vec<String> = (0..100).map(|n| format!("{n:060}")).collect();
    let texts: Vec<_> = texts.iter().map(|text| Some(text.as_str())).collect();
    let parts = [part(&texts)];
    let column = |limit| TextColumn::new(&parts, &in_order(texts.len()), limit).unwrap();
    assert!(column(texts.len() * 64).is_none());
    assert!(column(texts.len() * 64 + 1).is_some());
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
        let mut order: Vec<u32> = in_order(rows).values().to_vec();
        let hasher = foldhash::fast::FixedState::with_seed(seed);
        order.sort_by_key(|row| std::hash::BuildHasher::hash_one(&hasher, row));
        let order = order.into();
        compare(NULLABLE, &parts, &order, &properties());
        boundary_order(&written(NULLABLE, &parts, &order, properties()));
    }
}
