//! The `flowlog` command: parse, log to stderr, dispatch, exit code.

#![forbid(unsafe_code)]

use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use flowlog::commands::cli::{self, Command};
use flowlog::commands::config::ConfigError;
use flowlog::commands::external::UnknownCommand;
use flowlog::commands::{conntrack, doctor, external, import, run, schema, verify};
use flowlog::host::time_zone::UnusableTimeZone;

fn main() -> ExitCode {
    // A link with that name stands in for conntrack(8).
    let mut args = env::args_os();
    if args.next().is_some_and(|program| Path::new(&program).file_name() == Some("conntrack".as_ref())) {
        return conntrack::run(args.collect());
    }
    let command = cli::Args::read().command;
    cli::log_to_stderr();
    let outcome = match command {
        Command::Run(args) => run::run(args).map(|()| true),
        Command::Doctor(args) => doctor::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Import(args) => import::run(args),
        Command::Schema(args) => schema::run(&args).map(|()| true),
        Command::Conntrack { args } => return conntrack::run(args),
        Command::External(args) => external::run(&args).map(|never| match never {}),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if cli::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may read it.
            let _ = writeln!(io::stderr(), "flowlog: {error:#}");
            if error.is::<ConfigError>() || error.is::<UnusableTimeZone>() || error.is::<UnknownCommand>() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
