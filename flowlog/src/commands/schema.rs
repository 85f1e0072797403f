//! `flowlog schema`: the columns of the flow log.

use std::io::{self, Write};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::log::schema::render;

/// Arguments of `flowlog schema`.
#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    /// How to print it
    #[arg(long, value_enum, default_value_t = SchemaFormat::Table)]
    format: SchemaFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaFormat {
    /// For people
    Table,
    /// For programs
    Json,
    /// A CREATE TABLE statement
    Sql,
}

/// `flowlog schema`.
///
/// # Errors
///
/// Where it cannot be written to stdout.
pub fn run(args: &SchemaArgs) -> Result<()> {
    let text = match args.format {
        SchemaFormat::Table => render::table(),
        SchemaFormat::Json => render::json().context("cannot render the schema")?,
        SchemaFormat::Sql => render::sql(),
    };
    writeln!(io::stdout().lock(), "{}", text.trim_end())?;
    Ok(())
}
