//! Files of gaps.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use arrow_array::RecordBatch;
use flowlog_reader::gaps::Gap;
use flowlog_reader::layout;
use flowlog_reader::run::{RunContext, RunFacts};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::directory::Directory;
use super::error::Fault;
use super::open_file::FileNames;
use super::properties::gap_options;
use super::properties::pair;
use crate::log::schema::gap_batch;

/// Metadata: numbers of the first and last gap in the file, as the ledger has them.
const GAP_FIRST: &str = "flowlog.gap_first";
const GAP_LAST: &str = "flowlog.gap_last";

/// Writes the declared losses of one run to files.
#[derive(Debug)]
pub struct GapWriter {
    run: RunContext,
    names: FileNames,
}

impl GapWriter {
    /// For the gaps of this run.
    pub fn new(facts: &RunFacts) -> Self {
        Self { run: facts.run.clone(), names: FileNames::new(&facts.run) }
    }

    /// Publishes the gaps with these numbers as one file, in the partition of the day on which the first of
    /// them ended.
    /// Returns its path below the output directory.
    ///
    /// # Errors
    ///
    /// There is no file.
    pub fn publish(
        &mut self,
        directory: &Directory,
        numbers: RangeInclusive<u64>,
        gaps: &[Gap],
        now: SystemTime,
    ) -> Result<PathBuf, Fault> {
        let end_us = gaps.first().map_or(0, |gap| gap.to_us);
        let partition = layout::gap_directory(end_us)?;
        let name = self.names.next(&directory.root().join(&partition), now)?;
        // The first file of gaps and the first of flows have the same name.
        let (staged, file) = directory.stage(&format!("gaps_{name}"))?;
        let result = write(file, &gap_batch(&self.run, gaps), &self.run, &numbers)
            .and_then(|()| Ok(directory.publish(&staged, &partition.join(&name))?));
        if let Err(fault) = result {
            // What stays is removed at the next start.
            let _ = std::fs::remove_file(&staged);
            return Err(fault);
        }
        Ok(partition.join(name))
    }
}

/// The numbers of the gaps in a file, and how many they are.
///
/// # Errors
///
/// It is no file of gaps, or cannot be read.
pub fn read_gap_file(path: &Path) -> Result<(RangeInclusive<u64>, u64), Fault> {
    let reader = SerializedFileReader::new(File::open(path)?)?;
    let metadata = reader.metadata().file_metadata();
    let number = |key| {
        let pairs = metadata.key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.as_ref()?.parse().ok()
    };
    let numbers = number(GAP_FIRST).zip(number(GAP_LAST)).ok_or(Fault::Schema)?;
    Ok((numbers.0..=numbers.1, u64::try_from(metadata.num_rows()).unwrap_or_default()))
}

fn write(
    file: File,
    gaps: &RecordBatch,
    run: &RunContext,
    numbers: &RangeInclusive<u64>,
) -> Result<(), Fault> {
    let mut writer = ArrowWriter::try_new_with_options(file, gaps.schema(), gap_options())?;
    writer.write(gaps)?;
    writer.append_key_value_metadata(pair("run_id", run.run_id));
    writer.append_key_value_metadata(pair("host_id", &run.host_id));
    writer.append_key_value_metadata(pair("rows", gaps.num_rows()));
    writer.append_key_value_metadata(KeyValue::new(GAP_FIRST.to_owned(), numbers.start().to_string()));
    writer.append_key_value_metadata(KeyValue::new(GAP_LAST.to_owned(), numbers.end().to_string()));
    writer.finish()?;
    writer.inner().sync_all()?;
    Ok(())
}
