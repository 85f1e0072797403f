//! `flowlog import`: saved text of connection tracking becomes files of the flow log.

mod lines;
mod rows;
mod unknown;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use bytesize::ByteSize;

use self::lines::Progress;
use self::rows::{Format, Import, Imported};
use crate::commands::terminal::Bar;
use crate::connections::proc_net::LabelNames;
use crate::host::identity::Host;
use crate::host::time_zone;
use crate::log::store::Summary;

/// Arguments of `flowlog import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Times in the text are local: set TZ if they are of another time zone. flowlog/docs/import.md
lists what becomes of the fields of a line.")]
pub struct ImportArgs {
    /// Files to read; - is the standard input
    #[arg(value_name = "FILE", required = true)]
    inputs: Vec<PathBuf>,

    /// Format of the lines
    #[arg(long, value_enum)]
    format: Format,

    /// Directory of the flow log; no `flowlog run` may write to it meanwhile
    #[arg(long, value_name = "DIR")]
    output: PathBuf,

    /// Leave out bad lines, print the first 20 and how many there are, and fail at the end; without this,
    /// the first one is an error, and nothing is imported
    #[arg(long)]
    keep_going: bool,

    /// Leave out fields and flags that flowlog does not know, such as those of patched router kernels, and
    /// print which there were, and how often
    #[arg(long)]
    ignore_unknown: bool,

    /// Name of the host that the text comes from [default: this host]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Names of the labels, as in /etc/xtables/connlabel.conf [default: labels are left out]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

/// `flowlog import`: whether all lines were good.
///
/// # Errors
///
/// Where nothing, or not all, could be imported.
pub fn run(args: ImportArgs) -> Result<bool> {
    let ImportArgs { inputs, format, output, keep_going, ignore_unknown, host, labels } = args;
    let labels = match labels {
        Some(path) => {
            let text = fs::read_to_string(&path);
            let text = text.with_context(|| format!("cannot read `{}`", path.display()))?;
            Some(LabelNames::parse(&text))
        }
        None => None,
    };
    let host = host.map_or_else(Host::this, Host::named);
    let time_zone = time_zone::local()?;
    let mut bar = Bar::new();
    let imported = rows::import(
        &Import { format, inputs, output, keep_going, ignore_unknown, host, labels, time_zone },
        &mut |Progress { done_bytes, total_bytes }| bar.set(done_bytes, total_bytes),
    );
    bar.finish();
    let Imported { published, lines, other_events, bad_lines, first_bad_lines, notes, lost, unknown } =
        imported?;
    let mut err = io::stderr().lock();
    for bad in &first_bad_lines {
        writeln!(err, "{bad}")?;
    }
    if let Some(place) = lost {
        writeln!(err, "{place}: conntrack says that it lost events: their flows are in no row")?;
    }
    let Summary { files, rows, bytes } = published;
    let bytes = ByteSize(bytes).display().iec();
    let mut out = io::stdout().lock();
    writeln!(out, "imported: {lines} lines, {rows} rows, {files} files, {bytes}")?;
    if other_events > 0 {
        writeln!(out, "no rows: {other_events} events of connections that went on")?;
    }
    if notes > 0 {
        writeln!(
            out,
            "left out: {notes} lines that are no entries (messages of conntrack, expectations, byte order marks)"
        )?;
    }
    if !unknown.is_empty() {
        writeln!(out, "left out: fields and flags that are not known: {unknown}")?;
    }
    if bad_lines > 0 {
        writeln!(out, "LEFT OUT: {bad_lines} bad lines")?;
    }
    Ok(bad_lines == 0)
}
