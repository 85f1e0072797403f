//! `flowlog-lake`: what is too heavy for the daemon, or talks to a network. `flowlog lake` executes it.

#![forbid(unsafe_code)]

mod cli;
mod files;
mod time;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Args, Command};

fn main() -> ExitCode {
    // Wrong usage of the command line ends here, with a message and exit code 2.
    let Args { command } = Args::parse();
    let outcome = match command {
        Command::Files(args) => files::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if cli::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may read it.
            let _ = writeln!(io::stderr(), "flowlog lake: {error:#}");
            ExitCode::FAILURE
        }
    }
}
