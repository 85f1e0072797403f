//! `flowlog verify`.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table};
use flowlog_reader::ledger::{Hash, printable};
use jiff::Timestamp;

use crate::commands::terminal::{Bar, table};
use crate::log::verify::{self, Finding, GapTotal, Level, Progress, Report};

/// Arguments of `flowlog verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Output directory of `flowlog run`
    #[arg(value_name = "DIR")]
    output: PathBuf,

    /// The tip (hash of the last line) that an earlier `flowlog verify` printed: the ledger must still
    /// contain it
    #[arg(long, value_name = "HASH", value_parser = hash)]
    tip: Option<Hash>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

fn hash(text: &str) -> Result<Hash, String> {
    text.parse().map_err(|_| "expected a SHA-256 hash of 64 hex digits".to_owned())
}

/// `flowlog verify`: whether there is no fault.
///
/// # Errors
///
/// Where the directory cannot be read at all.
pub fn run(args: &VerifyArgs) -> Result<bool> {
    let VerifyArgs { output, tip, json } = args;
    // What decodes the files may fail by a panic, which is a finding: it needs no backtrace.
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        match panic.location() {
            Some(location) => tracing::error!("failed at {location}: {message}"),
            None => tracing::error!("failed: {message}"),
        }
    }));
    let mut bar = Bar::new();
    let report = verify::verify(output, *tip, &mut |Progress { done_bytes, total_bytes }| {
        bar.set(done_bytes, total_bytes);
    });
    bar.finish();
    let report = report?;
    let mut out = io::stdout().lock();
    if *json {
        let text = serde_json::to_string_pretty(&report).context("cannot render the report")?;
        writeln!(out, "{text}")?;
    } else {
        write_report(&mut out, &report)?;
    }
    Ok(report.ok)
}

fn write_report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let Report {
        ok: _,
        in_use,
        lines,
        runs,
        files,
        deleted_files,
        rows,
        bytes,
        gaps,
        findings,
        more_findings,
        faults,
        warnings,
        tip,
    } = report;
    if !findings.is_empty() {
        writeln!(out, "{}", findings_table(findings))?;
    }
    if *more_findings > 0 {
        writeln!(out, "and {more_findings} more")?;
    }
    if !gaps.is_empty() {
        writeln!(out, "declared losses:\n{}", gaps_table(gaps))?;
    }
    let bytes = ByteSize(*bytes).display().iec();
    writeln!(out, "checked: {lines} lines, {runs} runs, {files} files, {rows} rows, {bytes}")?;
    if *deleted_files > 0 {
        writeln!(out, "deleted by retention, as the ledger records: {deleted_files} files")?;
    }
    if *in_use {
        writeln!(out, "in use: a daemon writes to the directory, its last rows are not published yet")?;
    }
    match (*faults, *warnings) {
        (0, 0) => writeln!(out, "clean")?,
        (0, warnings) => writeln!(out, "clean, with warnings: {warnings}")?,
        (faults, warnings) => writeln!(out, "NOT CLEAN: faults: {faults}, warnings: {warnings}")?,
    }
    writeln!(out, "tip, to be noted elsewhere: {tip}")
}

fn findings_table(findings: &[Finding]) -> Table {
    let mut table = table();
    for Finding { level, check: _, line, path, found, expected } in findings {
        let level = match level {
            Level::Information => "info",
            Level::Warning => "warning",
            Level::Fault => "FAULT",
        };
        let line = line.map(|line| format!("line {line}")).unwrap_or_default();
        let path = path.as_deref().map(|path| format!("{}: ", printable(path))).unwrap_or_default();
        let found = printable(found);
        let expected =
            expected.as_deref().map(|text| format!("; expected {}", printable(text))).unwrap_or_default();
        table.add_row([level, &line, &format!("{path}{found}{expected}")]);
    }
    table
}

fn gaps_table(gaps: &[GapTotal]) -> Table {
    let mut table = table();
    table.set_header(["cause", "gaps", "lost flows", "of unknown size", "from", "to"]);
    for GapTotal { cause, gaps, lost_flows, unknown, from_us, to_us } in gaps {
        let time = |us: i64| Timestamp::from_microsecond(us).map_or(us.to_string(), |time| time.to_string());
        table.add_row([
            cause.name().to_owned(),
            gaps.to_string(),
            lost_flows.to_string(),
            unknown.to_string(),
            time(*from_us),
            time(*to_us),
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
