//! `flowlog conntrack`: what conntrack(8) of Debian 12 (1.4.7) does, with its options, output, messages
//! and exit codes. `flowlog/docs/conntrack.md` lists what is different on purpose.
//!
//! | module | what it does |
//! |---|---|
//! | `parse` | the command line to an `Invocation`, with `commands`, `options`, `protocols`, `values` |
//! | `execute` | runs it: entries, expectations; `events`, `statistics`, `help`, `load` (`-R`) |
//! | `matching` | which entries the options choose |
//! | `tuples` | what is sent to the kernel |
//! | `printer` | what is printed, with [`proc_net`](crate::connections::proc_net) and `save` |
//! | `requester`, `files` | names from /proc and /etc |
//! | `failure`, `refusal` | why a command fails, and what the kernel refuses |

mod commands;
mod events;
mod execute;
mod failure;
mod files;
mod help;
mod load;
mod matching;
mod options;
mod parse;
mod printer;
mod protocols;
mod refusal;
mod requester;
mod save;
mod statistics;
mod tuples;
mod values;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use commands::Command;
use execute::{Session, execute};
use failure::{Failure, PREFIX, say};

/// Runs a command line, given without the name of the program.
pub fn run(args: Vec<OsString>) -> ExitCode {
    match main(args) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// What `-h` prints: all options. For the man page.
///
/// # Errors
///
/// When `out` fails.
pub fn write_help(out: &mut impl io::Write) -> io::Result<()> {
    help::write(out, None)
}

/// Whether a line of a file for `-R` makes sense. For the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) fn understands(line: &str) -> bool {
    parse::parse(load::words(line)).is_ok()
}

/// What `-o save` prints of an entry. For the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) fn saved(
    entry: &crate::connections::ctnetlink::Entry,
    event: crate::connections::ctnetlink::decode::EventKind,
) -> String {
    let mut out = Vec::new();
    save::entry(&mut out, entry, event);
    String::from_utf8_lossy(&out).into_owned()
}

fn main(args: Vec<OsString>) -> Result<ExitCode, Failure> {
    if let [option, path, ..] = &args[..]
        && (option == "-R" || option == "--load-file")
    {
        load::load(path)?;
        return Ok(ExitCode::SUCCESS);
    }
    let line = parse::parse(args)?;
    let count = execute(&line, &mut Session::default())?;
    let Some(command) = line.command else { return Ok(ExitCode::SUCCESS) };
    // Those told it when the signal came.
    let is_event = matches!(command, Command::Event | Command::ExpEvent);
    let Some(summary) = command.summary().filter(|_| !is_event) else { return Ok(ExitCode::SUCCESS) };
    say(&format!("{PREFIX}: {count} {summary}"));
    let may_be_none = matches!(command, Command::List | Command::ExpList | Command::Add);
    Ok(if count == 0 && !may_be_none { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
