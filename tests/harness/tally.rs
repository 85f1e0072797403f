//! Accounts of large datasets: which of the made flows are rows, and what is declared lost. Reads few
//! columns, where [`Dataset`](super::dataset::Dataset) would take gigabytes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::dataset::files_below;
use super::entries::number_of;

/// What became of flows from [`make_and_flush`](super::entries::make_and_flush).
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How many rows each made flow has, by its number.
    pub(crate) rows: HashMap<u32, u32>,
    /// Rows of other flows.
    pub(crate) others: u32,
    /// `seq` of all rows, by the run.
    pub(crate) seqs: BTreeMap<String, Vec<i64>>,
    /// Declared losses.
    pub(crate) gaps: Vec<GapRow>,
}

/// A row of the table of gaps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GapRow {
    /// Microseconds since 1970.
    pub(crate) from_us: i64,
    /// Inclusive.
    pub(crate) to_us: i64,
    pub(crate) cause: String,
    pub(crate) stage: String,
    pub(crate) lost_flows: Option<i64>,
    /// Empty where there is none.
    pub(crate) detail: String,
}

impl Tally {
    /// Reads all that is published.
    #[track_caller]
    pub(crate) fn read(output: &Path) -> Self {
        let mut tally = Self::default();
        for path in files_below(&output.join("flows/v1")) {
            for batch in read(&path, &["run_id", "seq", "src_ip"]) {
                let [run_ids, src_ips] =
                    ["run_id", "src_ip"].map(|name| column(&batch, name).as_string::<i32>());
                let seqs = column(&batch, "seq").as_primitive::<Int64Type>();
                for row in 0..batch.num_rows() {
                    let address: IpAddr = src_ips.value(row).parse().unwrap();
                    let number = match address {
                        IpAddr::V4(address) => number_of(address),
                        IpAddr::V6(_) => None,
                    };
                    match number {
                        Some(number) => *tally.rows.entry(number).or_default() += 1,
                        None => tally.others += 1,
                    }
                    let of_run = tally.seqs.entry(run_ids.value(row).to_owned()).or_default();
                    of_run.push(seqs.value(row));
                }
            }
        }
        tally.gaps = gaps(output);
        tally.seqs.values_mut().for_each(|seqs| seqs.sort_unstable());
        tally
    }

    /// No flow is there twice, and the rows of each run have the numbers from 1 on without holes.
    #[track_caller]
    pub(crate) fn check_each_once(&self) {
        let twice: Vec<_> = self.rows.iter().filter(|(_, rows)| **rows != 1).take(10).collect();
        assert!(twice.is_empty(), "flows with more than one row: {twice:?}");
        for (run, seqs) in &self.seqs {
            let last = i64::try_from(seqs.len()).unwrap();
            assert!(seqs.iter().copied().eq(1..=last), "seq of run {run} has holes or duplicates");
        }
    }

    /// All flows are rows, each once, or declared lost, with their exact number. Gives the number lost.
    #[track_caller]
    pub(crate) fn check_exact(&self, made: u32) -> i64 {
        self.check_each_once();
        let unknown: Vec<_> = self.gaps.iter().filter(|gap| gap.lost_flows.is_none()).collect();
        assert!(unknown.is_empty(), "losses of unknown number: {unknown:?}");
        let lost: i64 = self.gaps.iter().filter_map(|gap| gap.lost_flows).sum();
        let rows = i64::try_from(self.rows.len()).unwrap() + i64::from(self.others);
        assert_eq!(rows + lost, i64::from(made), "{rows} rows, {lost} lost: {:?}", self.gaps);
        lost
    }

    /// The causes of the declared losses.
    pub(crate) fn causes(&self) -> Vec<&str> {
        self.gaps.iter().map(|gap| gap.cause.as_str()).collect()
    }
}

/// The rows of the table of gaps.
#[track_caller]
pub(crate) fn gaps(output: &Path) -> Vec<GapRow> {
    let mut gaps = Vec::new();
    for path in files_below(&output.join("gaps/v1")) {
        for batch in read(&path, &["from_time", "to_time", "cause", "stage", "lost_flows", "detail"]) {
            let [from, to] = ["from_time", "to_time"]
                .map(|name| column(&batch, name).as_primitive::<TimestampMicrosecondType>());
            let text = |name, row| column(&batch, name).as_string::<i32>().value(row).to_owned();
            let lost = column(&batch, "lost_flows").as_primitive::<Int64Type>();
            gaps.extend((0..batch.num_rows()).map(|row| GapRow {
                from_us: from.value(row),
                to_us: to.value(row),
                cause: text("cause", row),
                stage: text("stage", row),
                lost_flows: lost.is_valid(row).then(|| lost.value(row)),
                detail: text("detail", row),
            }));
        }
    }
    gaps
}

/// The time in microseconds since 1970, as rows have it.
pub(crate) fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_micros()).unwrap()
}

#[track_caller]
fn read(path: &Path, columns: &[&str]) -> Vec<RecordBatch> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let columns = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    builder.with_projection(columns).build().unwrap().map(Result::unwrap).collect()
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> &'a dyn Array {
    batch.column_by_name(name).unwrap()
}
