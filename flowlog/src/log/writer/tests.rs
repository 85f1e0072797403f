//! Files as a reader finds them: names, rows, order, encodings, metadata; and what is left when
//! something fails.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use flowlog_reader::gaps::{Cause, Gap, Stage};
use flowlog_reader::run::{RunContext, RunFacts};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use super::{Compatibility, Directory, Fault, OutputError, Published, Rotation, Writer};
use crate::flow::{Counters, Flow, L4, ProtoState, Status, TcpState, Tuple};
use crate::log::schema::{FlowBatch, columns, file_schema};
use crate::testing::{self, files};

/// 2026-11-21 08:00:00 UTC
const EIGHT: u64 = 1_795_248_000;
const HOUR: u64 = 3600;
const RUN: &str = "019aa000-0000-7000-8000-000000000001";

const SEGMENT: &str = "1.wal";

/// Bounds that no test reaches.
const UNBOUND: Rotation =
    Rotation { interval: Duration::from_secs(u32::MAX as u64), rows: u64::MAX, bytes: u64::MAX };

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn run() -> RunContext {
    RunContext {
        host_name: "web_1.example/".into(),
        boot_id: Some("b00t".into()),
        ..testing::run(Uuid::parse_str(RUN).unwrap())
    }
}

fn facts() -> RunFacts {
    let facts = testing::facts(Uuid::nil());
    RunFacts { run: run(), timestamp: None, filter: Some(json!({"only":{"zone":[3]}})), ..facts }
}

/// An output directory with a writer, and the rows of one run.
struct Bench {
    dir: TempDir,
    writer: Writer,
    batch: FlowBatch,
}

impl Bench {
    fn new(rotation: Rotation) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::open(dir.path()).unwrap());
        let writer = Writer::new(directory, rotation, Compatibility::default(), &facts());
        Self { dir, writer, batch: FlowBatch::new(&run()) }
    }

    /// A batch with one row for each end_time in seconds.
    fn rows(&mut self, end_times: impl IntoIterator<Item = u64>) -> RecordBatch {
        for (n, end_time) in (0_u32..).zip(end_times) {
            let flow = flow(n, end_time * 1_000_000_000);
            self.batch.append(&testing::record(&flow));
        }
        self.batch.finish()
    }

    fn append(&mut self, end_times: impl IntoIterator<Item = u64>, now: SystemTime) {
        let rows = self.rows(end_times);
        self.writer.append(&rows, Path::new(SEGMENT), now).unwrap();
    }

    fn published(&self) -> Vec<PathBuf> {
        files(&self.dir.path().join("flows"))
    }

    fn staged(&self) -> Vec<PathBuf> {
        files(&self.dir.path().join("_flowlog/staging"))
    }
}

/// A flow that is like no other in many columns.
fn flow(n: u32, end_ns: u64) -> Flow {
    let client = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n));
    let server = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let port = u16::try_from(n % 28_000 + 32_768).unwrap();
    let Flow { orig, reply, .. } = testing::flow(port);
    let orig = Tuple { src: client, dst: server, l4: L4::Ports { src: port, dst: 443 }, ..orig };
    let reply = Tuple { src: server, dst: client, l4: L4::Ports { src: 443, dst: port }, ..reply };
    Flow {
        id: Some(n.wrapping_mul(2_654_435_761)),
        status: Some(Status::SEEN_REPLY),
        orig_counters: Some(Counters { packets: 5, bytes: 400 + u64::from(n) }),
        start_ns: Some(end_ns - 1_000_000_000),
        stop_ns: Some(end_ns),
        state: Some(ProtoState::Tcp(TcpState::TIME_WAIT)),
        ..Flow::new(orig, reply)
    }
}

fn metadata(path: &Path) -> ParquetMetaData {
    SerializedFileReader::new(File::open(path).unwrap()).unwrap().metadata().clone()
}

/// The rows of a file, as one batch for each row group.
fn read(path: &Path) -> Vec<RecordBatch> {
    let groups = metadata(path).num_row_groups();
    (0..groups)
        .map(|group| {
            let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
            let reader = builder.with_row_groups(vec![group]).with_batch_size(1 << 30).build().unwrap();
            let mut batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
            assert_eq!(batches.len(), 1);
            batches.pop().unwrap()
        })
        .collect()
}

fn int64s(batch: &RecordBatch, column: &str) -> Vec<i64> {
    batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

fn end_times(batch: &RecordBatch) -> Vec<i64> {
    batch.column_by_name("end_time").unwrap().as_primitive::<TimestampMicrosecondType>().values().to_vec()
}

fn row_counts(paths: &[PathBuf]) -> Vec<i64> {
    paths.iter().map(|path| metadata(path).file_metadata().num_rows()).collect()
}

#[test]
fn rows_are_read_back_as_they_were_given() {
    let mut bench = Bench::new(UNBOUND);
    // In reverse order of time, in batches of different sizes.
    let given: Vec<RecordBatch> =
        [7_u64, 5000, 1].iter().map(|&rows| bench.rows((0..rows).rev().map(|n| EIGHT + n % HOUR))).collect();
    for batch in &given {
        bench.writer.append(batch, Path::new(SEGMENT), at(EIGHT)).unwrap();
    }
    bench.writer.rotate_all().unwrap();

    let [path] = &bench.published()[..] else { panic!("one file") };
    let [found] = &read(path)[..] else { panic!("one row group") };
    assert_eq!(found.schema().fields(), file_schema().fields(), "text is plain text in the file");
    assert!(end_times(found).is_sorted());

    let (mut expected, mut rows) = (Vec::new(), Vec::new());
    for batch in &given {
        expected.extend((0..batch.num_rows()).map(|row| values(batch, row)));
    }
    rows.extend((0..found.num_rows()).map(|row| values(found, row)));
    expected.sort();
    rows.sort();
    assert_eq!(rows.len(), 5008);
    assert!(rows == expected, "every value of every row");
}

/// The values of a row as text, `seq` first.
fn values(batch: &RecordBatch, row: usize) -> Vec<String> {
    let value = |array: &dyn Array| {
        if array.is_null(row) {
            return "NULL".to_owned();
        }
        if let Some(texts) = array.as_dictionary_opt::<Int32Type>() {
            return texts.values().as_string::<i32>().value(texts.key(row).unwrap()).to_owned();
        }
        None.or(array.as_string_opt::<i32>().map(|a| a.value(row).to_owned()))
            .or(array.as_primitive_opt::<Int32Type>().map(|a| a.value(row).to_string()))
            .or(array.as_primitive_opt::<Int64Type>().map(|a| format!("{:020}", a.value(row))))
            .or(array.as_primitive_opt::<TimestampMicrosecondType>().map(|a| a.value(row).to_string()))
            .or(array.as_boolean_opt().map(|a| a.value(row).to_string()))
            .unwrap()
    };
    let mut values: Vec<String> = batch.columns().iter().map(|column| value(column)).collect();
    values.swap(0, 2);
    values
}

#[test]
fn files_are_partitioned_by_the_hour_of_end_time() {
    let mut bench = Bench::new(UNBOUND);
    bench.append([EIGHT - 1, EIGHT, EIGHT + HOUR - 1, EIGHT - 2], at(EIGHT + 900));
    bench.writer.rotate_all().unwrap();

    let names: Vec<String> = bench
        .published()
        .iter()
        .map(|path| path.strip_prefix(bench.dir.path()).unwrap().display().to_string())
        .collect();
    assert_eq!(
        names,
        [
            format!("flows/v1/date=2026-11-21/hour=07/web-1.example-_20261121T081500Z_{RUN}_1.parquet"),
            format!("flows/v1/date=2026-11-21/hour=08/web-1.example-_20261121T081500Z_{RUN}_2.parquet"),
        ]
    );
    let [seven, eight] = &bench.published()[..] else { panic!("two files") };
    assert_eq!(int64s(&read(seven)[0], "seq"), [4, 1]);
    assert_eq!(int64s(&read(eight)[0], "seq"), [2, 3]);
    assert_eq!(fs::metadata(seven).unwrap().permissions().mode() & 0o7777, 0o640);
}

#[test]
fn a_third_hour_closes_the_oldest() {
    let mut bench = Bench::new(UNBOUND);
    bench.append([EIGHT, EIGHT + HOUR], at(EIGHT));
    assert_eq!(bench.published().len(), 0);
    bench.append([EIGHT + 2 * HOUR], at(EIGHT));
    let [path] = &bench.published()[..] else { panic!("one file") };
    assert!(path.to_str().unwrap().contains("/hour=08/"), "{}", path.display());
}

#[test]
fn a_file_is_published_soon_after_its_hour() {
    let mut bench = Bench::new(UNBOUND);
    let end = EIGHT + HOUR;
    bench.append([EIGHT], at(end - 1));
    bench.writer.tick(at(end + 8)).unwrap();
    assert_eq!(bench.published().len(), 0, "late rows may come");
    bench.writer.tick(at(end + 9)).unwrap();
    assert_eq!(bench.published().len(), 1);
}

#[test]
fn a_file_is_published_after_the_interval() {
    let mut bench = Bench::new(Rotation { interval: Duration::from_secs(60), ..UNBOUND });
    bench.append([EIGHT], at(EIGHT));
    bench.append([EIGHT], at(EIGHT + 59));
    bench.writer.tick(at(EIGHT + 59)).unwrap();
    assert_eq!(bench.published().len(), 0);
    bench.writer.tick(at(EIGHT + 60)).unwrap();
    assert_eq!(row_counts(&bench.published()), [2]);
}

#[test]
fn a_clock_that_is_set_back_does_not_hold_a_file() {
    let mut bench = Bench::new(UNBOUND);
    bench.append([EIGHT], at(EIGHT));
    bench.writer.tick(at(EIGHT - 1)).unwrap();
    assert_eq!(bench.published().len(), 1);
}

#[test]
fn no_file_has_more_rows_than_asked_for() {
    let mut bench = Bench::new(Rotation { rows: 100, ..UNBOUND });
    bench.append((0..250).map(|n| EIGHT + n), at(EIGHT));
    assert_eq!(row_counts(&bench.published()), [100, 100], "a full file does not wait");
    bench.append((0..50).map(|n| EIGHT + n), at(EIGHT));
    assert_eq!(row_counts(&bench.published()), [100, 100, 100]);
    assert_eq!(bench.staged().len(), 0, "no file without rows");
    bench.writer.rotate_all().unwrap();
    let published = bench.writer.take_published();
    assert_eq!(published.iter().map(|file| file.rows).collect::<Vec<_>>(), [100, 100, 100]);
    let seqs: Vec<_> = published.iter().flat_map(|file| file.seqs.iter().cloned()).collect();
    assert_eq!(seqs, [1..=100, 101..=200, 201..=300]);
    assert!(bench.writer.take_published().is_empty());
}

#[test]
fn files_end_before_they_exceed_their_bytes() {
    let limit = 1_000_000;
    let mut bench = Bench::new(Rotation { bytes: limit, ..UNBOUND });
    for _ in 0..20 {
        bench.append((0..8192).map(|n| EIGHT + n % HOUR), at(EIGHT));
    }
    bench.writer.rotate_all().unwrap();
    let published = bench.published();
    assert_eq!(row_counts(&published).iter().sum::<i64>(), 20 * 8192);
    assert!(published.len() >= 2, "{} files", published.len());
    for path in published {
        let bytes = fs::metadata(&path).unwrap().len();
        assert!(bytes <= limit, "{bytes} bytes in {}", path.display());
    }
}

#[test]
fn bounds_of_nothing_still_let_rows_through() {
    let mut bench = Bench::new(Rotation { rows: 0, ..UNBOUND });
    bench.append([EIGHT, EIGHT], at(EIGHT));
    assert_eq!(row_counts(&bench.published()), [1, 1]);

    let mut bench = Bench::new(Rotation { bytes: 0, ..UNBOUND });
    bench.append((0..1500).map(|n| EIGHT + n), at(EIGHT));
    bench.writer.rotate_all().unwrap();
    assert_eq!(row_counts(&bench.published()), [1000, 500]);
}

#[test]
fn without_rows_there_is_no_file() {
    let mut bench = Bench::new(UNBOUND);
    bench.append([], at(EIGHT));
    bench.writer.tick(at(EIGHT + HOUR)).unwrap();
    bench.writer.rotate_all().unwrap();
    assert_eq!(bench.published().len() + bench.staged().len(), 0);
}

#[test]
fn row_groups_are_bounded_and_in_order_each() {
    let mut bench = Bench::new(UNBOUND);
    let rows = super::row_group::MAX_ROWS as u64 + 10;
    bench.append((0..rows).rev().map(|n| EIGHT + n % HOUR), at(EIGHT));
    bench.writer.rotate_all().unwrap();
    let [path] = &bench.published()[..] else { panic!("one file") };
    let groups = read(path);
    assert_eq!(
        groups.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(),
        [super::row_group::MAX_ROWS, 10]
    );
    assert!(groups.iter().all(|group| end_times(group).is_sorted()));
}

#[test]
fn many_small_batches_become_one_row_group() {
    let mut bench = Bench::new(UNBOUND);
    for n in 0..200 {
        bench.append([EIGHT + n, EIGHT], at(EIGHT));
    }
    bench.writer.rotate_all().unwrap();
    let [path] = &bench.published()[..] else { panic!("one file") };
    let [rows] = &read(path)[..] else { panic!("one row group") };
    let mut seqs = int64s(rows, "seq");
    seqs.sort();
    assert_eq!(seqs, (1..=400).collect::<Vec<_>>());
}

#[test]
fn files_for_old_readers_have_no_newer_encoding() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::open(dir.path()).unwrap());
    let writer = Writer::new(directory, UNBOUND, Compatibility::Old, &facts());
    let mut bench = Bench { dir, writer, batch: FlowBatch::new(&run()) };
    bench.append((0..3000).map(|n| EIGHT + n), at(EIGHT));
    bench.writer.rotate_all().unwrap();
    let metadata = metadata(&bench.published()[0]);
    for chunk in metadata.row_group(0).columns() {
        for encoding in chunk.encodings() {
            let is_old = matches!(encoding, Encoding::PLAIN | Encoding::RLE | Encoding::RLE_DICTIONARY);
            assert!(is_old, "{}: {encoding:?}", chunk.column_path());
        }
    }
}

#[test]
fn the_encoding_is_what_all_engines_read() {
    let mut bench = Bench::new(UNBOUND);
    bench.append((0..3000).map(|n| EIGHT + n), at(EIGHT));
    bench.writer.rotate_all().unwrap();
    let metadata = metadata(&bench.published()[0]);
    assert_eq!(metadata.file_metadata().created_by(), Some(concat!("flowlog ", env!("CARGO_PKG_VERSION"))));
    assert_eq!(metadata.file_metadata().version(), 1);

    let row_group = metadata.row_group(0);
    assert_eq!(row_group.num_columns(), columns().len());
    for (chunk, column) in row_group.columns().iter().zip(columns()) {
        let name = column.name.as_str();
        assert_eq!(chunk.column_path().string(), name);
        assert!(matches!(chunk.compression(), Compression::ZSTD(_)), "{name}");
        assert!(chunk.statistics().is_some() && chunk.column_index_offset().is_some(), "{name}");
        let encodings: Vec<Encoding> = chunk.encodings().collect();
        let delta = encodings.contains(&Encoding::DELTA_BINARY_PACKED);
        let dictionary = encodings.contains(&Encoding::RLE_DICTIONARY);
        let expected = match name {
            _ if chunk.statistics().unwrap().null_count_opt() == Some(3000) => (false, false),
            "seq" | "start_time" | "end_time" | "last_seen_time" | "src_port" | "nat_src_port" | "ct_id" => {
                (true, false)
            }
            _ if name.ends_with("_socket_cookie") || name.ends_with("rtt_us") => (true, false),
            "counters_final" | "seen_reply" | "assured" | "offloaded" => (false, false),
            _ => (false, true),
        };
        assert_eq!((delta, dictionary), expected, "{name}: {encodings:?}");
        let bloom = name.ends_with("_ip") || name.ends_with("_container_id");
        assert_eq!(chunk.bloom_filter_offset().is_some(), bloom, "{name}");
        // 3000 addresses take 4 KiB, where a filter for a whole row group takes 256.
        assert!(chunk.bloom_filter_length().unwrap_or(0) < 5000, "{name}");
    }
}

#[test]
fn a_file_describes_itself() {
    let mut bench = Bench::new(Rotation { rows: 2, ..UNBOUND });
    let lost = |at_s: u64, flows| {
        let at_us = i64::try_from(at_s * 1_000_000).unwrap();
        Gap { lost_flows: Some(flows), ..Gap::new(Cause::Overload, Stage::Write, at_us - 1, at_us) }
    };
    bench.writer.add_gap(lost(EIGHT, 7));
    bench.writer.add_gap(lost(EIGHT - 1, 4));
    bench.writer.set_ledger_tip("c0ffee");
    bench.append([EIGHT, EIGHT, EIGHT, EIGHT], at(EIGHT));
    let metadata = metadata(&bench.published()[1]);
    let pairs = metadata.file_metadata().key_value_metadata().unwrap();
    let mut ours: Vec<String> = pairs
        .iter()
        .filter(|pair| pair.key.starts_with("flowlog."))
        .map(|pair| format!("{}={}", pair.key, pair.value.as_deref().unwrap()))
        .collect();
    ours.sort();
    let run_id = format!("flowlog.run_id={RUN}");
    assert_eq!(
        ours,
        [
            "flowlog.acct=true",
            "flowlog.boot_id=b00t",
            r#"flowlog.filter={"only":{"zone":[3]}}"#,
            "flowlog.host_id=8f2c",
            "flowlog.kernel=6.18.5",
            "flowlog.ledger_tip=c0ffee",
            "flowlog.lost_flows=7",
            "flowlog.rows=2",
            &run_id,
            "flowlog.schema_version=2",
            "flowlog.seq_first=3",
            "flowlog.seq_last=4",
            concat!("flowlog.version=", env!("CARGO_PKG_VERSION")),
        ]
    );
    assert_eq!(
        pairs.len(),
        ours.len(),
        "the types of Parquet say all that a schema of Arrow would: {pairs:?}"
    );
}

/// An idle host writes such a file each quarter of an hour.
#[test]
fn a_file_of_one_row_is_small() {
    let mut bench = Bench::new(UNBOUND);
    bench.append([EIGHT], at(EIGHT));
    bench.writer.rotate_all().unwrap();
    let [path] = &bench.published()[..] else { panic!("one file") };
    let bytes = fs::metadata(path).unwrap().len();
    assert!(bytes < 11_000, "{bytes} bytes");
    let metadata = metadata(path);
    for chunk in metadata.row_group(0).columns() {
        assert!(chunk.statistics().is_some(), "{}", chunk.column_path());
        assert_eq!(chunk.bloom_filter_offset(), None, "{}", chunk.column_path());
        assert_eq!(chunk.offset_index_offset(), None, "{}", chunk.column_path());
    }
}

/// Readers take the index of a whole file, or none.
#[test]
fn a_small_row_group_of_a_large_file_has_all_that_the_others_have() {
    let mut bench = Bench::new(UNBOUND);
    let rows = super::row_group::MAX_ROWS as u64 + 10;
    bench.append((0..rows).map(|n| EIGHT + n % HOUR), at(EIGHT));
    bench.writer.rotate_all().unwrap();
    let metadata = metadata(&bench.published()[0]);
    assert_eq!(metadata.num_row_groups(), 2);
    for chunk in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        assert!(chunk.offset_index_offset().is_some(), "{}", chunk.column_path());
        assert!(chunk.column_index_offset().is_some(), "{}", chunk.column_path());
    }
}

#[test]
fn a_directory_has_one_writer() {
    let bench = Bench::new(UNBOUND);
    let error = Directory::open(bench.dir.path()).unwrap_err();
    assert!(matches!(&error, OutputError::InUse { path } if path == bench.dir.path()), "{error}");
    drop(bench.writer);
    Directory::open(bench.dir.path()).unwrap();
}

#[test]
fn unfinished_files_of_an_earlier_run_are_removed() {
    let bench = Bench::new(UNBOUND);
    let Bench { dir, writer, .. } = bench;
    drop(writer);
    let orphan = dir.path().join("_flowlog/staging/orphan.parquet");
    fs::write(&orphan, "PAR1").unwrap();
    Directory::open(dir.path()).unwrap();
    assert!(!orphan.exists());
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Directory::open(&file).unwrap_err();
    let OutputError::NotWritable { path, .. } = &error else { panic!("{error}") };
    assert!(path.starts_with(&file));

    // Staging is fine, but nothing can be renamed to `flows/v1`.
    let output = dir.path().join("output");
    fs::create_dir_all(output.join("flows/v1/_probe")).unwrap();
    let error = Directory::open(&output).unwrap_err();
    assert!(matches!(&error, OutputError::NotWritable { path, .. } if path.ends_with("flows/v1")), "{error}");
}

#[test]
fn an_error_counts_the_rows_it_costs_and_the_writer_goes_on() {
    let mut bench = Bench::new(UNBOUND);
    bench.append([EIGHT - 1], at(EIGHT));
    bench.writer.rotate_all().unwrap();
    let before = bench.published();

    // The partition cannot be made, since a file has its name.
    let partition = bench.dir.path().join("flows/v1/date=2026-11-21/hour=08");
    fs::write(&partition, "").unwrap();
    bench.append([EIGHT, EIGHT, EIGHT + HOUR], at(EIGHT));
    let error = bench.writer.rotate_all().unwrap_err();
    assert_eq!(error.rows, 2, "{error}");
    assert!(matches!(error.source, Fault::Io(_)), "{error}");
    assert_eq!(bench.staged().len(), 0, "the file of the error is gone");

    fs::remove_file(&partition).unwrap();
    bench.append([EIGHT], at(EIGHT));
    bench.writer.rotate_all().unwrap();
    let published = bench.published();
    assert_eq!(row_counts(&published), [1, 1, 1]);
    assert!(published.contains(&before[0]));
}

#[test]
fn rows_that_never_reach_a_file_are_counted() {
    let mut bench = Bench::new(UNBOUND);
    bench.append([EIGHT, EIGHT], at(EIGHT));
    let staging = bench.dir.path().join("_flowlog/staging");
    fs::remove_dir_all(&staging).unwrap();
    fs::write(&staging, "in the way").unwrap();
    let error = bench.writer.rotate_all().unwrap_err();
    assert_eq!(error.rows, 2, "{error}");
    let rows = bench.rows([EIGHT]);
    let error = bench.writer.append(&rows, Path::new(SEGMENT), at(EIGHT)).unwrap_err();
    assert_eq!((error.rows, error.path), (1, staging));
}

#[test]
fn a_directory_that_was_removed_is_made_again() {
    let mut bench = Bench::new(UNBOUND);
    fs::remove_dir_all(bench.dir.path().join("_flowlog/staging")).unwrap();
    bench.append([EIGHT], at(EIGHT));
    bench.writer.rotate_all().unwrap();
}

#[test]
fn a_full_disk_is_told_as_one() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let fault = Fault::from(parquet::errors::ParquetError::from(full));
    assert!(matches!(&fault, Fault::Io(error) if error.kind() == std::io::ErrorKind::StorageFull), "{fault}");
}

#[test]
fn a_batch_of_another_schema_is_refused() {
    let mut bench = Bench::new(UNBOUND);
    let rows = bench.rows([EIGHT]);
    let other = rows.project(&[2, 7]).unwrap();
    let error = bench.writer.append(&other, Path::new(SEGMENT), at(EIGHT)).unwrap_err();
    assert!(matches!(error.source, Fault::Schema), "{error}");
    assert_eq!(error.rows, 1);
}

#[test]
fn a_segment_is_needed_until_its_rows_are_published() {
    let mut bench = Bench::new(UNBOUND);
    let [first, second] = ["1.wal", "2.wal"].map(Path::new);
    let rows = bench.rows([EIGHT - 1, EIGHT]);
    bench.writer.append(&rows, first, at(EIGHT)).unwrap();
    let rows = bench.rows([EIGHT]);
    bench.writer.append(&rows, second, at(EIGHT)).unwrap();
    assert!(bench.writer.needs(first) && bench.writer.needs(second));
    // The file of the hour before.
    bench.writer.tick(at(EIGHT + 10)).unwrap();
    assert_eq!(bench.published().len(), 1);
    assert!(bench.writer.needs(first) && bench.writer.needs(second));
    bench.writer.rotate_all().unwrap();
    assert!(!bench.writer.needs(first) && !bench.writer.needs(second));
}

#[test]
fn a_published_file_is_read_as_it_was_published() {
    let mut bench = Bench::new(UNBOUND);
    bench.append([EIGHT + 5, EIGHT, EIGHT - 1, EIGHT + 3], at(EIGHT));
    bench.writer.rotate_all().unwrap();
    for published in bench.writer.take_published() {
        assert_eq!(Published::read(bench.dir.path(), published.path.clone()).unwrap(), published);
    }
}
