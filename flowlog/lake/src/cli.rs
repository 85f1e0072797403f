//! The command line.

use std::io;

use clap::{Parser, Subcommand};

use crate::files::FilesArgs;

/// Look at flow logs as data: which files have the flows of a time range, and whether any flow is missing.
#[derive(Debug, Parser)]
#[command(name = "flowlog lake", bin_name = "flowlog lake", version, max_term_width = 100)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the files of a time range, and report whether it is complete
    Files(FilesArgs),
}

/// Whether the reader of our output has gone, as `head` does: no failure of ours.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io_errors.into_iter().any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
