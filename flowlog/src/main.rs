//! The `flowlog` command: parse, log to stderr, dispatch, exit code.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use flowlog::cli::{self, Command};
use flowlog::config::ConfigError;
use flowlog::daemon;

fn main() -> ExitCode {
    // Wrong usage of the command line ends here, with a message and exit code 2.
    let command = cli::Args::parse().command;
    cli::log_to_stderr();
    let outcome = match command {
        Command::Run(args) => cli::prepare(args).and_then(daemon::run).map(|()| true),
        Command::Doctor(args) => cli::doctor(&args),
        Command::Verify(args) => cli::verify(&args),
        Command::Schema(args) => cli::schema(&args).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if cli::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may read it.
            let _ = writeln!(io::stderr(), "flowlog: {error:#}");
            if error.is::<ConfigError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
