//! Shows what was recorded, with DuckDB, and says how to go on.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{python, sh};

/// The columns that are shown; `{files}` stands for the pattern of the files.
const FLOWS: &str = include_str!("flows.sql");

/// Runs the query of its first argument, and shows its table in as many columns as its second one says.
const SHOW: &str =
    "import duckdb, sys; duckdb.sql(sys.argv[1]).show(max_width=int(sys.argv[2]), max_rows=1000)";

/// How wide a table may be: terminals break longer lines, and DuckDB leaves out columns in the middle.
const MAX_WIDTH: usize = 110;

/// Prints a table for each of the `observers`, whose datasets are below `directory`.
///
/// # Errors
///
/// When a dataset cannot be read: it has no files, or not the columns of the schema.
pub(super) fn print(directory: &Path, observers: &[&str]) -> Result<()> {
    for observer in observers {
        println!("\n== as the {observer} saw it");
        let mut show = Command::new(python::interpreter());
        show.args([
            "-c",
            SHOW,
            &FLOWS.replace("{files}", &files(directory, observer)),
            &MAX_WIDTH.to_string(),
        ]);
        let table = sh::output(&mut show).with_context(|| format!("cannot read what the {observer} saw"))?;
        print!("{table}");
        let is_whole = table.lines().all(|line| line.chars().count() <= MAX_WIDTH && !line.contains('…'));
        ensure!(is_whole, "the table is wider than {MAX_WIDTH} columns, or has not all of them");
    }
    let query = format!("from read_parquet('{}', hive_partitioning = true)", files(directory, "*"));
    println!(
        "\nThe files stay in {}. All columns, NAT, processes and containers among them:\n",
        directory.display()
    );
    println!(
        "  {} -c \"import duckdb; duckdb.sql(\\\"{query}\\\").show(max_width=10000, max_rows=1000)\" | less -S",
        python::interpreter().display()
    );
    println!("  duckdb -line -c \"{query}\" | less");
    Ok(())
}

/// The pattern of the data files of an observer.
fn files(directory: &Path, observer: &str) -> String {
    // A quote in a path is doubled, as SQL wants it.
    let directory = directory.display().to_string().replace('\'', "''");
    format!("{directory}/{observer}/flows/v1/**/*.parquet")
}
