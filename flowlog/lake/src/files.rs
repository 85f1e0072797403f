//! `flowlog lake files`: the files of a time, and whether the time is complete.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use bytesize::ByteSize;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, ValueEnum};
use comfy_table::{CellAlignment, Table};
use flowlog_reader::ledger::{self, Hash, printable};
use flowlog_reader::read::{self, Completeness, Contents, LoggedFile, LoggedGap, Window};
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::Args;
use crate::time;

/// Exit code of `--require-complete`.
const NOT_COMPLETE: u8 = 3;

/// How much of a hash people see: enough to compare.
const HASH_DIGITS: usize = 12;

/// Arguments of `flowlog lake files`.
#[derive(Debug, clap::Args)]
pub(crate) struct FilesArgs {
    /// Directory of the flow log
    #[arg(long, value_name = "DIR", default_value = "/var/log/flowlog")]
    output: PathBuf,

    /// Only files with flows that ended at this time or later: a time, a date, or how long ago, such
    /// as 2h [default: all files]
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    since: Option<Timestamp>,

    /// Only files with flows that ended before this time [default: all files]
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    until: Option<Timestamp>,

    /// How to print the files
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// End with exit code 3 if the time range is not complete
    #[arg(long)]
    require_complete: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs: an object on each line, the last one is `completeness`
    Jsonl,
}

/// `flowlog lake files`.
///
/// # Errors
///
/// Where the directory cannot be read.
pub(crate) fn run(args: &FilesArgs) -> Result<ExitCode> {
    let FilesArgs { output, since, until, format, require_complete } = args;
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        let found =
            format!("`--since` is {since}, and `--until` is {until}: expected an earlier and a later time");
        Args::command().error(ErrorKind::ArgumentConflict, found).exit();
    }
    let window = Window {
        from_us: since.map(|time| time.as_microsecond()),
        until_us: until.map(|time| time.as_microsecond()),
    };
    let contents = read::read(output, window)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    match format {
        Format::Table => write_table(&mut out, &contents)?,
        Format::Jsonl => write_lines(&mut out, &contents)?,
    }
    out.flush().context("cannot write to stdout")?;
    let is_enough = contents.completeness.is_complete() || !require_complete;
    Ok(if is_enough { ExitCode::SUCCESS } else { ExitCode::from(NOT_COMPLETE) })
}

/// A file, as a line of JSON.
#[derive(Serialize)]
struct FileLine<'a> {
    table: ledger::Table,
    path: &'a str,
    run_id: String,
    rows: u64,
    bytes: u64,
    sha256: Hash,
    end_time_min: Option<String>,
    end_time_max: Option<String>,
}

impl<'a> FileLine<'a> {
    fn of(file: &'a LoggedFile) -> Self {
        let LoggedFile { run_id, file } = file;
        Self {
            table: file.table,
            path: &file.path,
            run_id: run_id.to_string(),
            rows: file.rows,
            bytes: file.bytes,
            sha256: file.sha256,
            end_time_min: file.end_time_min_us.map(time::render),
            end_time_max: file.end_time_max_us.map(time::render),
        }
    }
}

/// The last line of JSON.
#[derive(Serialize)]
struct LastLine {
    completeness: CompletenessLine,
}

#[derive(Serialize)]
struct CompletenessLine {
    complete: bool,
    from: Option<String>,
    to: Option<String>,
    runs: u64,
    filtered: bool,
    gaps: Vec<GapLine>,
    unpublished_since: Option<String>,
    unwatched_until: Option<String>,
    deleted_files: u64,
    deleted_rows: u64,
    missing: Vec<String>,
    unread_lines: u64,
}

#[derive(Serialize)]
struct GapLine {
    cause: &'static str,
    from: String,
    to: String,
    lost_flows: Option<u64>,
    detail: Option<String>,
}

impl CompletenessLine {
    fn of(completeness: &Completeness) -> Self {
        let complete = completeness.is_complete();
        let Completeness {
            from_us,
            until_us,
            runs,
            is_filtered,
            gaps,
            unpublished_since_us,
            unwatched_until_us,
            deleted,
            missing,
            unread_lines,
        } = completeness.clone();
        let gap = |LoggedGap { run_id: _, number: _, loss }| GapLine {
            cause: loss.cause.name(),
            from: time::render(loss.from_us),
            to: time::render(loss.to_us),
            lost_flows: if loss.cause.loses_flows() { loss.lost_flows } else { Some(0) },
            detail: loss.detail,
        };
        Self {
            complete,
            from: from_us.map(time::render),
            to: until_us.map(time::render),
            runs,
            filtered: is_filtered,
            gaps: gaps.into_iter().map(gap).collect(),
            unpublished_since: unpublished_since_us.map(time::render),
            unwatched_until: unwatched_until_us.map(time::render),
            deleted_files: deleted.files,
            deleted_rows: deleted.rows,
            missing,
            unread_lines,
        }
    }
}

fn write_lines(out: &mut impl Write, contents: &Contents) -> Result<()> {
    for file in &contents.files {
        serde_json::to_writer(&mut *out, &FileLine::of(file))?;
        writeln!(out)?;
    }
    let completeness = CompletenessLine::of(&contents.completeness);
    serde_json::to_writer(&mut *out, &LastLine { completeness })?;
    writeln!(out)?;
    Ok(())
}

fn write_table(out: &mut impl Write, contents: &Contents) -> io::Result<()> {
    let Contents { files, completeness } = contents;
    if !files.is_empty() {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header(["file", "rows", "size", "SHA-256"]);
        for LoggedFile { run_id: _, file } in files {
            let size = ByteSize(file.bytes).display().iec().to_string();
            let sha256: String = file.sha256.to_string().chars().take(HASH_DIGITS).collect();
            table.add_row([printable(&file.path), file.rows.to_string(), size, format!("{sha256}...")]);
        }
        for column in table.column_iter_mut().skip(1).take(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(out, "{table}")?;
    }
    let rows = flows(files).fold(0_u64, |rows, file| rows.saturating_add(file.file.rows));
    writeln!(out, "files with flows: {}, rows in them: {rows}", flows(files).count())?;
    sentences(completeness).iter().try_for_each(|sentence| writeln!(out, "{sentence}"))
}

fn flows(files: &[LoggedFile]) -> impl Iterator<Item = &LoggedFile> {
    files.iter().filter(|file| file.file.table == ledger::Table::Flows)
}

/// How complete the time is, in sentences.
fn sentences(completeness: &Completeness) -> Vec<String> {
    let Completeness {
        from_us,
        until_us,
        runs,
        is_filtered,
        gaps,
        unpublished_since_us,
        unwatched_until_us,
        deleted,
        missing,
        unread_lines,
    } = completeness;
    let verdict = if completeness.is_complete() { "complete" } else { "NOT COMPLETE" };
    let from = from_us.map(|us| format!(", from {}", time::render(us))).unwrap_or_default();
    let until = until_us.map(|us| format!(" to {}", time::render(us))).unwrap_or_default();
    let mut sentences = vec![format!("{verdict}{from}{until}")];
    if *runs == 0 {
        sentences.push("no daemon watched in this time".to_owned());
    }
    if let Some(until_us) = unwatched_until_us {
        sentences.push(format!("before {}: no daemon watched", time::render(*until_us)));
    }
    for LoggedGap { run_id: _, number: _, loss } in gaps {
        let (from, to, cause) = (time::render(loss.from_us), time::render(loss.to_us), loss.cause.name());
        let lost = match loss.lost_flows {
            _ if !loss.cause.loses_flows() => "flows may lack their process, counters or start".to_owned(),
            None => "an unknown number of flows is lost".to_owned(),
            Some(lost) => format!("{lost} flows are lost"),
        };
        let detail =
            loss.detail.as_ref().map(|detail| format!(" ({})", printable(detail))).unwrap_or_default();
        sentences.push(format!("from {from} to {to}: {cause}: {lost}{detail}"));
    }
    if let Some(since_us) = unpublished_since_us {
        let since = time::render(*since_us);
        sentences.push(format!("since {since}: not published yet, or no daemon watches"));
    }
    if deleted.files > 0 {
        sentences.push(format!("retention deleted {} files with {} flows", deleted.files, deleted.rows));
    }
    if !missing.is_empty() {
        let missing: Vec<String> = missing.iter().map(|path| printable(path)).collect();
        sentences.push(format!(
            "missing or of another size, though the ledger names them: {}; run `flowlog verify`",
            missing.join(", ")
        ));
    }
    if *unread_lines > 0 {
        sentences.push(format!(
            "{unread_lines} lines of the ledger are damaged or of a later version of flowlog: files and losses may be \
             missing here; run `flowlog verify`"
        ));
    }
    if *is_filtered {
        sentences.push("a filter was set: only the flows that it lets through were recorded".to_owned());
    }
    sentences
}
