//! The command line: which commands there are, and what all of them do.

use std::ffi::OsString;
use std::io;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::commands::doctor::DoctorArgs;
use crate::commands::external;
use crate::commands::import::ImportArgs;
use crate::commands::run::RunArgs;
use crate::commands::schema::SchemaArgs;
use crate::commands::verify::VerifyArgs;

/// Logs every finished connection that the kernel tracked, with its counters, NAT and local process,
/// to Parquet files.
#[derive(Debug, Parser)]
#[command(name = "flowlog", version, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log finished connections until SIGTERM; SIGHUP finishes the current file
    Run(RunArgs),
    /// Check what keeps flows, counters or processes out of the log
    Doctor(DoctorArgs),
    /// Check that the flow log is complete and unchanged
    Verify(VerifyArgs),
    /// Make files of the flow log from saved lists and events of connection tracking
    Import(ImportArgs),
    /// Print the columns of the flow log
    Schema(SchemaArgs),
    /// List, change and watch connection tracking, as conntrack(8) does
    #[command(disable_help_flag = true)]
    Conntrack {
        /// The options of conntrack(8); `-h` explains them
        #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// A program of its own: `flowlog-NAME`
    #[command(external_subcommand)]
    External(Vec<OsString>),
}

impl Args {
    /// Reads the command line. Wrong usage ends the process, with a message and exit code 2.
    pub fn read() -> Self {
        Self::try_parse().unwrap_or_else(|error| match error.kind() {
            // What is installed is looked for only now.
            ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let matches = Self::command().after_help(external::help()).get_matches();
                Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
            }
            _ => error.exit(),
        })
    }
}

/// Diagnostics go to stderr, filtered by `FLOWLOG_LOG`.
pub fn log_to_stderr() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("FLOWLOG_LOG")
        .from_env_lossy();
    let is_terminal = io::IsTerminal::is_terminal(&io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(is_terminal)
        .with_target(false)
        // It would panic where nobody reads stderr any more; the flows matter more.
        .log_internal_errors(false)
        .init();
}

/// Whether the reader of our output has gone, as `head` does: no failure of ours.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
