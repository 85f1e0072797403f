//! Files of gaps.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use arrow_array::RecordBatch;
use parquet::arrow::ArrowWriter;

use super::directory::{Directory, GAPS};
use super::error::Fault;
use super::open_file::FileNames;
use super::properties::gap_options;
use super::properties::pair;
use crate::gaps::Gap;
use crate::schema::{RunContext, RunFacts, gap_batch};

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

    /// Publishes the gaps as one file, in the partition of the day on which the first of them ended.
    /// Returns its path below the output directory.
    ///
    /// # Errors
    ///
    /// There is no file.
    pub fn publish(
        &mut self,
        directory: &Directory,
        gaps: &[Gap],
        now: SystemTime,
    ) -> Result<PathBuf, Fault> {
        let end_us = gaps.first().map_or(0, |gap| gap.to_us);
        let day = jiff::Timestamp::from_microsecond(end_us)?.strftime("date=%Y-%m-%d").to_string();
        let partition = Path::new(GAPS).join(day);
        let name = self.names.next(&directory.root().join(&partition), now)?;
        // The first file of gaps and the first of flows have the same name.
        let (staged, file) = directory.stage(&format!("gaps_{name}"))?;
        let result = write(file, &gap_batch(&self.run, gaps), &self.run)
            .and_then(|()| Ok(directory.publish(&staged, &partition.join(&name))?));
        if let Err(fault) = result {
            // What stays is removed at the next start.
            let _ = std::fs::remove_file(&staged);
            return Err(fault);
        }
        Ok(partition.join(name))
    }
}

fn write(file: std::fs::File, gaps: &RecordBatch, run: &RunContext) -> Result<(), Fault> {
    let mut writer = ArrowWriter::try_new_with_options(file, gaps.schema(), gap_options())?;
    writer.write(gaps)?;
    writer.append_key_value_metadata(pair("run_id", run.run_id));
    writer.append_key_value_metadata(pair("host_id", &run.host_id));
    writer.append_key_value_metadata(pair("rows", gaps.num_rows()));
    writer.finish()?;
    writer.inner().sync_all()?;
    Ok(())
}
