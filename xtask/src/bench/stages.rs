//! What runs without a kernel: the stages of a flow by themselves, and the bytes of the files.
//!
//! The measurements are programs of `flowlog/benches`, which print or leave JSON.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Options;
use super::figures::{Cell, Report, Section};
use crate::interrupt::Interrupt;
use crate::{build, sh, workspace};

/// In the order of the data.
const STAGES: [&str; 6] = ["decode", "duplicates", "attribute", "batch", "wal", "parquet"];

/// As many as a host of 280 flows a second has in one file.
const DEFAULT_ROWS: u32 = 500_000;

/// Measures each stage with criterion, which also tells what changed since the last time.
///
/// # Errors
///
/// When the build or the measurement fails.
pub(super) fn encode(_: &Options, _: &Interrupt) -> Result<Report> {
    let program = build::bench("encode")?;
    let results = workspace::target_dir().join("criterion");
    sh::run(Command::new(program).arg("--bench").env("CRITERION_HOME", &results))?;
    let row = |stage: &str| {
        let directory = results.join("flow").join(stage).join("new");
        let (estimates, benchmark) =
            (json(&directory.join("estimates.json"))?, json(&directory.join("benchmark.json"))?);
        let flows = figure(&benchmark, "/throughput/Elements")?;
        let per_flow = |name: &str| anyhow::Ok(Cell::Figure(figure(&estimates, name)? / flows, 1));
        anyhow::Ok(vec![
            Cell::Text(stage.to_owned()),
            per_flow("/median/point_estimate")?,
            per_flow("/median/confidence_interval/lower_bound")?,
            per_flow("/median/confidence_interval/upper_bound")?,
        ])
    };
    Ok(Report {
        name: "encode",
        sections: vec![Section {
            title: "Stages of a flow: median and its 95 % confidence interval".to_owned(),
            key: "stages".into(),
            columns: &["stage", "ns_per_flow", "lower_bound", "upper_bound"],
            rows: STAGES.into_iter().map(row).collect::<Result<_>>()?,
        }],
    })
}

/// Measures the bytes of a flow, of each column, and of files of few rows.
///
/// # Errors
///
/// When the build or the measurement fails.
pub(super) fn size(options: &Options, _: &Interrupt) -> Result<Report> {
    let count = options.count.unwrap_or(DEFAULT_ROWS).to_string();
    let said = sh::output(Command::new(build::bench("size")?).args(["--count", &count]))?;
    let said: Value =
        serde_json::from_str(&said).with_context(|| format!("found `{said}`, expected JSON"))?;
    let (rows, bytes) = (figure(&said, "/rows")?, figure(&said, "/bytes")?);
    let columns = said.get("columns").and_then(Value::as_object).context("found no `columns`")?;
    let mut parts: Vec<(&str, f64)> =
        columns.iter().map(|(name, bytes)| (name.as_str(), bytes.as_f64().unwrap_or(f64::NAN))).collect();
    let of_columns: f64 = parts.iter().map(|(_, bytes)| bytes).sum();
    parts.push(("footer, indexes, bloom filters", bytes - of_columns));
    parts.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    parts.push(("sum", bytes));
    let row = |(name, part): (&str, f64)| {
        vec![Cell::Text(name.to_owned()), Cell::Figure(part / rows, 3), Cell::Figure(part / bytes * 100.0, 1)]
    };
    let of_few = |file: &Value| {
        let (rows, bytes) = (figure(file, "/rows")?, figure(file, "/bytes")?);
        anyhow::Ok(vec![Cell::Figure(rows, 0), Cell::Figure(bytes, 0), Cell::Figure(bytes / rows, 1)])
    };
    let few_rows = said.get("few_rows").and_then(Value::as_array).context("found no `few_rows`")?;
    let with_process = figure(&said, "/with_process")? / rows * 100.0;
    Ok(Report {
        name: "size",
        sections: vec![
            Section {
                title: format!("{rows} flows of the realistic mix, {with_process:.0} % with a local process"),
                key: "columns".into(),
                columns: &["column", "bytes_per_flow", "percent"],
                rows: parts.into_iter().map(row).collect(),
            },
            Section {
                title: "Files of few rows, as hosts have where little happens".to_owned(),
                key: "few_rows".into(),
                columns: &["rows", "bytes", "bytes_per_flow"],
                rows: few_rows.iter().map(of_few).collect::<Result<_>>()?,
            },
        ],
    })
}

fn json(path: &Path) -> Result<Value> {
    let read = || anyhow::Ok(serde_json::from_str(&fs::read_to_string(path)?)?);
    read().with_context(|| format!("cannot read `{}`", path.display()))
}

fn figure(value: &Value, pointer: &str) -> Result<f64> {
    value.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("found no `{pointer}` in {value}"))
}
