//! Whether the rows of a daemon know their processes, and whether these are the right ones: held against what the
//! programs themselves noted.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use arrow_array::cast::AsArray as _;
use arrow_array::types::Int32Type;
use arrow_array::{Array as _, Int32Array, RecordBatch, StringArray};
use flowlog_reader::layout::{FLOWS, GAPS};
use parquet::arrow::ProjectionMask;
use serde_json::{Value, json};

use crate::rows::{files_below, reader};

const COLUMNS: [&str; 6] =
    ["src_port", "dst_port", "src_attribution", "src_pid", "dst_attribution", "dst_pid"];

/// What `attribution` is if the process is not known, but some are possible.
const AMBIGUOUS: &str = "ambiguous";

/// Arguments of `load processes`.
#[derive(clap::Args)]
pub(crate) struct Processes {
    /// Output directory of `flowlog run`
    output: PathBuf,
    /// What a server logged: in each line its process, the port of the client, and its own
    #[arg(long)]
    log: Option<PathBuf>,
    /// A process that connected to a port of a server
    #[arg(long)]
    src: Vec<Witnessed>,
    /// A process that served a port
    #[arg(long)]
    dst: Vec<Witnessed>,
}

/// A process that is known to have had something to do with a port: `PORT:PID`.
#[derive(Clone, Copy)]
struct Witnessed {
    port: i32,
    pid: i32,
}

impl FromStr for Witnessed {
    type Err = anyhow::Error;

    fn from_str(string: &str) -> Result<Self> {
        let parse = || Some(string.split_once(':')?).map(|(port, pid)| (port.parse(), pid.parse()));
        match parse() {
            Some((Ok(port), Ok(pid))) => Ok(Self { port, pid }),
            _ => bail!("found `{string}`, expected PORT:PID"),
        }
    }
}

/// What is known of the processes.
#[derive(Default)]
struct Witness {
    /// By the ports of client and server. Several, if a port was used again.
    logged: HashMap<(i32, i32), BTreeSet<i32>>,
    src: HashMap<i32, BTreeSet<i32>>,
    dst: HashMap<i32, BTreeSet<i32>>,
}

/// One end of all rows.
#[derive(Default)]
struct End {
    known: u64,
    ambiguous: u64,
    /// A process that it was not.
    wrong: u64,
    /// The process that it was.
    confirmed: u64,
}

impl Processes {
    /// How many rows know the processes at their ends, and how many of these are wrong.
    pub(crate) fn run(&self) -> Result<Value> {
        let witness = self.witness()?;
        let (mut rows, mut bytes) = (0, 0);
        let (mut src, mut dst) = (End::default(), End::default());
        for path in files_below(&self.output.join(FLOWS))? {
            bytes += fs::metadata(&path)?.len();
            let builder = reader(&path)?;
            let columns = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
            for batch in builder.with_projection(columns).with_batch_size(8192).build()? {
                let batch = batch?;
                rows += batch.num_rows();
                add(&witness, &batch, &mut src, &mut dst)?;
            }
        }
        let mut gaps = 0;
        for path in files_below(&self.output.join(GAPS))? {
            gaps += reader(&path)?.metadata().file_metadata().num_rows();
        }
        Ok(json!({ "rows": rows, "bytes": bytes, "gaps": gaps, "src": src.to_json(), "dst": dst.to_json() }))
    }

    fn witness(&self) -> Result<Witness> {
        let mut witness = Witness::default();
        for Witnessed { port, pid } in &self.src {
            witness.src.entry(*port).or_default().insert(*pid);
        }
        for Witnessed { port, pid } in &self.dst {
            witness.dst.entry(*port).or_default().insert(*pid);
        }
        if let Some(log) = &self.log {
            let cannot_read = || format!("cannot read `{}`", log.display());
            for line in BufReader::new(File::open(log).with_context(cannot_read)?).lines() {
                let line = line.with_context(cannot_read)?;
                let numbers: Vec<i32> =
                    line.split(' ').map(str::parse).collect::<Result<_, _>>().unwrap_or_default();
                let [pid, client_port, port] = numbers[..] else {
                    bail!("found `{line}` in `{}`, expected a process and two ports", log.display());
                };
                witness.logged.entry((client_port, port)).or_default().insert(pid);
            }
        }
        Ok(witness)
    }
}

fn add(witness: &Witness, batch: &RecordBatch, src: &mut End, dst: &mut End) -> Result<()> {
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("no column `{name}`"));
    let numbers = |name: &str| anyhow::Ok(column(name)?.as_primitive::<Int32Type>());
    let strings = |name: &str| anyhow::Ok(column(name)?.as_string::<i32>());
    let (src_port, dst_port) = (numbers("src_port")?, numbers("dst_port")?);
    let (src_attribution, dst_attribution) = (strings("src_attribution")?, strings("dst_attribution")?);
    let (src_pid, dst_pid) = (numbers("src_pid")?, numbers("dst_pid")?);
    for row in 0..batch.num_rows() {
        let at = |column: &Int32Array| column.is_valid(row).then(|| column.value(row));
        let ports = (at(src_port).unwrap_or(0), at(dst_port).unwrap_or(0));
        src.add(string_at(src_attribution, row), at(src_pid), witness.src.get(&ports.1));
        let was = witness.logged.get(&ports).or_else(|| witness.dst.get(&ports.1));
        dst.add(string_at(dst_attribution, row), at(dst_pid), was);
    }
    Ok(())
}

fn string_at(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

impl End {
    fn add(&mut self, attribution: Option<&str>, pid: Option<i32>, was: Option<&BTreeSet<i32>>) {
        match attribution {
            None => {}
            Some(AMBIGUOUS) => self.ambiguous += 1,
            Some(_) => {
                self.known += 1;
                match (pid, was) {
                    (Some(pid), Some(was)) if was.contains(&pid) => self.confirmed += 1,
                    (Some(_), Some(_)) => self.wrong += 1,
                    // Several processes of one program have no number; nobody noted anything of others.
                    _ => {}
                }
            }
        }
    }

    fn to_json(&self) -> Value {
        let Self { known, ambiguous, wrong, confirmed } = self;
        json!({ "known": known, "ambiguous": ambiguous, "wrong": wrong, "confirmed": confirmed })
    }
}
