//! What a daemon wrote: whether it is what was made.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use arrow_array::cast::AsArray as _;
use arrow_array::types::Int32Type;
use arrow_array::{Array as _, RecordBatch};
use flowlog_reader::layout::{FLOWS, GAPS};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::fingerprint::Fingerprint;

const COLUMNS: [&str; 6] = ["proto", "src_ip", "dst_ip", "src_port", "dst_port", "icmp_id"];

/// The flows in the files of `output`, the bytes of these, and the declared losses.
pub(crate) fn read(output: &Path) -> Result<Value> {
    let mut fingerprint = Fingerprint::default();
    let mut bytes = 0;
    for path in files_below(&output.join(FLOWS))? {
        bytes += fs::metadata(&path)?.len();
        let builder = reader(&path)?;
        let columns = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
        for batch in builder.with_projection(columns).with_batch_size(8192).build()? {
            add(&mut fingerprint, &batch?)?;
        }
    }
    let mut gaps = 0;
    for path in files_below(&output.join(GAPS))? {
        gaps += reader(&path)?.metadata().file_metadata().num_rows();
    }
    Ok(json!({ "rows": fingerprint.count, "fingerprint": fingerprint.hex(), "bytes": bytes, "gaps": gaps }))
}

fn add(fingerprint: &mut Fingerprint, batch: &RecordBatch) -> Result<()> {
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("no column `{name}`"));
    let number = |name: &str| anyhow::Ok(column(name)?.as_primitive::<Int32Type>());
    let (proto, src_port, dst_port, icmp_id) =
        (number("proto")?, number("src_port")?, number("dst_port")?, number("icmp_id")?);
    let (src_ip, dst_ip) = (column("src_ip")?.as_string::<i32>(), column("dst_ip")?.as_string::<i32>());
    for row in 0..batch.num_rows() {
        let either = if icmp_id.is_valid(row) { icmp_id } else { src_port };
        let port = |column: &arrow_array::Int32Array| {
            if column.is_valid(row) { u16::try_from(column.value(row)) } else { Ok(0) }
        };
        let ends = [src_ip.value(row).parse()?, dst_ip.value(row).parse()?];
        fingerprint.add(u8::try_from(proto.value(row))?, ends, [port(either)?, port(dst_port)?]);
    }
    Ok(())
}

pub(crate) fn reader(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let open = || anyhow::Ok(ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?);
    open().with_context(|| format!("cannot read `{}`", path.display()))
}

/// All files below a directory, which need not exist.
pub(crate) fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        if !directory.exists() {
            continue;
        }
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    Ok(files)
}
