//! One file between its first row and its name under `flows/`.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use flowlog_reader::layout::{self, Hour};
use flowlog_reader::run::RunContext;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowRowGroupWriterFactory;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use rangemap::RangeInclusiveSet;
use uuid::Uuid;

use super::directory::Directory;
use super::error::Fault;
use super::partition::{end_times, seqs};
use super::properties::Properties;
use super::published::{Published, insert_all};
use super::row_group::{Buffer, split_off};

/// Makes the names of the files of a run.
#[derive(Debug)]
pub(super) struct FileNames {
    host: String,
    run_id: Uuid,
    made: u64,
}

impl FileNames {
    pub(super) fn new(run: &RunContext) -> Self {
        let RunContext { run_id, host_id: _, host_name, boot_id: _ } = run;
        Self { host: layout::host_in_name(host_name), run_id: *run_id, made: 0 }
    }

    /// A name that no file in this directory has. Another process of the same run may have made some.
    pub(super) fn next(&mut self, directory: &Path, now: SystemTime) -> Result<String, Fault> {
        let Self { host, run_id, made } = self;
        let start = jiff::Timestamp::try_from(now)?;
        loop {
            *made += 1;
            let name = layout::file_name(host, start, *run_id, *made);
            if directory.join(&name).symlink_metadata().is_err() {
                return Ok(name);
            }
        }
    }
}

/// A file in staging that takes rows.
pub(super) struct OpenFile {
    path: PathBuf,
    /// Where it will be published, below the output directory.
    target: PathBuf,
    /// Segments of the write-ahead log that have its rows.
    segments: BTreeSet<PathBuf>,
    schema: SchemaRef,
    writer: SerializedFileWriter<File>,
    factory: ArrowRowGroupWriterFactory,
    buffer: Buffer,
    rows: u64,
    seqs: RangeInclusiveSet<i64>,
    end_first_us: i64,
    end_last_us: i64,
    opened: SystemTime,
    last_append: SystemTime,
}

impl OpenFile {
    /// Creates the file in staging.
    pub(super) fn create(
        directory: &Directory,
        names: &mut FileNames,
        properties: &Properties,
        hour: Hour,
        now: SystemTime,
    ) -> Result<Self, Fault> {
        let partition = hour.directory()?;
        let name = names.next(&directory.root().join(&partition), now)?;
        let (path, file) = directory.stage(&name)?;
        let schema = properties.schema();
        let (writer, factory) =
            ArrowWriter::try_new_with_options(file, SchemaRef::clone(&schema), properties.options())?
                .into_serialized_writer()?;
        Ok(Self {
            path,
            target: partition.join(name),
            segments: BTreeSet::new(),
            schema,
            writer,
            factory,
            buffer: Buffer::default(),
            rows: 0,
            seqs: RangeInclusiveSet::new(),
            end_first_us: i64::MAX,
            end_last_us: i64::MIN,
            opened: now,
            last_append: now,
        })
    }

    /// Rows taken so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows of them that are not encoded yet.
    pub(super) fn buffered_rows(&self) -> u64 {
        u64::try_from(self.buffer.rows()).unwrap_or(u64::MAX)
    }

    /// Bytes of the row groups that are written.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.writer.bytes_written()).unwrap_or(u64::MAX)
    }

    pub(super) fn opened(&self) -> SystemTime {
        self.opened
    }

    pub(super) fn last_append(&self) -> SystemTime {
        self.last_append
    }

    /// The file in staging.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has rows of this segment of the write-ahead log.
    pub(super) fn is_of(&self, segment: &Path) -> bool {
        self.segments.contains(segment)
    }

    /// Takes rows, and writes row groups as they become full. Returns the bytes that a row took in
    /// the last of them. After an error the file can only be discarded; [`Self::rows`] counts the
    /// rows of this call, too.
    pub(super) fn append(
        &mut self,
        rows: RecordBatch,
        segment: &Path,
        now: SystemTime,
    ) -> Result<Option<u64>, Fault> {
        if !self.segments.contains(segment) {
            self.segments.insert(segment.to_owned());
        }
        self.rows += u64::try_from(rows.num_rows()).unwrap_or(u64::MAX);
        self.last_append = now;
        insert_all(&mut self.seqs, seqs(&rows)?.values());
        for &end_us in end_times(&rows)?.values() {
            self.end_first_us = self.end_first_us.min(end_us);
            self.end_last_us = self.end_last_us.max(end_us);
        }
        let mut bytes_per_row = None;
        let mut rest = rows;
        while rest.num_rows() > 0 {
            let count = rest.num_rows().min(self.buffer.room());
            self.buffer.push(split_off(&mut rest, count))?;
            if self.buffer.is_full() {
                bytes_per_row = Some(self.write_row_group(false)?);
            }
        }
        Ok(bytes_per_row)
    }

    /// Writes the rest and the footer, proves that the file can be read, and gives it its name. After an
    /// error the file can only be discarded.
    pub(super) fn publish(
        &mut self,
        directory: &Directory,
        properties: &Properties,
    ) -> Result<Published, Fault> {
        if self.buffer.rows() > 0 {
            self.write_row_group(self.writer.flushed_row_groups().is_empty())?;
        }
        let published = |bytes| Published {
            path: self.target.clone(),
            rows: self.rows,
            bytes,
            seqs: self.seqs.clone(),
            end_first_us: self.end_first_us,
            end_last_us: self.end_last_us,
        };
        for pair in properties.metadata(&published(0)) {
            self.writer.append_key_value_metadata(pair);
        }
        self.writer.finish()?;
        self.writer.inner().sync_all()?;

        let file = File::open(&self.path)?;
        let bytes = file.metadata()?.len();
        let found = SerializedFileReader::new(file)?.metadata().file_metadata().num_rows();
        if u64::try_from(found) != Ok(self.rows) {
            return Err(Fault::RowCount { expected: self.rows, found });
        }
        directory.publish(&self.path, &self.target)?;
        Ok(published(bytes))
    }

    /// Removes the file.
    pub(super) fn discard(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished file; the next start does");
        }
    }

    /// `is_only`: no other comes before or after it.
    fn write_row_group(&mut self, is_only: bool) -> Result<u64, Fault> {
        let rows = self.buffered_rows();
        let bytes = self.buffer.write(&mut self.writer, &self.factory, &self.schema, is_only)?;
        Ok(u64::try_from(bytes).unwrap_or(u64::MAX).div_ceil(rows.max(1)).max(1))
    }
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFile").field("path", &self.path).field("rows", &self.rows).finish_non_exhaustive()
    }
}
