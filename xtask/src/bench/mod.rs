//! `cargo xtask bench`: measures flowlog as it is used: a release build, real traffic, the real kernel.
//!
//! It gives figures and ratios, and never judges them: how long something takes depends on the machine and
//! on what else runs there. What is compared is measured in the same run, in turns.

mod ebpf;
mod figures;
mod loopback;
mod programs;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};

use crate::build::Profile;
use crate::interrupt::Interrupt;
use crate::{build, setup, workspace};

const USAGE: &str = "\
usage: cargo xtask bench NAME [OPTIONS]

  ebpf  time of each eBPF program per connection, and the rate of connections with and without them

  --count N      connections of each measurement (default 20000)
  --rounds N     rounds with and without, in turns (default 10)
  --json FILE    write the figures to FILE, too
  --binary FILE  measure this flowlog instead of building one
";

/// What a measurement is told.
struct Options {
    count: u32,
    rounds: u32,
    json: Option<PathBuf>,
    binary: Option<PathBuf>,
}

/// Runs the measurement that `arguments` name, and prints its tables.
///
/// # Errors
///
/// When something is missing that cannot be installed, when a part of the measurement fails, and when
/// it is interrupted.
pub(crate) fn run(arguments: &[&str]) -> Result<ExitCode> {
    let (measure, arguments) = match arguments {
        [] | ["help" | "-h" | "--help", ..] => {
            print!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        ["ebpf", arguments @ ..] => (ebpf::measure, arguments),
        [name, ..] => {
            eprint!("xtask: unknown measurement `{name}`\n\n{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(error) => {
            eprint!("xtask: {error:#}\n\n{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    ensure!(
        workspace::is_root(),
        "the measurements make network namespaces and load eBPF programs: run them as root"
    );
    setup::for_network()?;
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => {
            build::run(Profile::Release)?;
            workspace::flowlog(Profile::Release)
        }
    };

    let interrupt = Interrupt::catch()?;
    let measured = measure(&binary, &options, &interrupt);
    // The same signal may have ended the program that was running: its failure is not the cause.
    ensure!(!interrupt.is_set(), "interrupted");
    let report = measured?;
    report.print();
    if let Some(file) = &options.json {
        let json = serde_json::to_string_pretty(&report.to_json())? + "\n";
        fs::write(file, json).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(mut arguments: &[&str]) -> Result<Options> {
    let number = |name: &str, value: &str| match value.parse() {
        Ok(0) | Err(_) => bail!("`{name} {value}`: expected a number greater than zero"),
        Ok(number) => Ok(number),
    };
    let mut options = Options { count: 20_000, rounds: 10, json: None, binary: None };
    while let [name, rest @ ..] = arguments {
        let [value, rest @ ..] = rest else { bail!("`{name}` is unknown, or has no value") };
        match *name {
            "--count" => options.count = number(name, value)?,
            "--rounds" => options.rounds = number(name, value)?,
            "--json" => options.json = Some(value.into()),
            "--binary" => options.binary = Some(value.into()),
            _ => bail!("unknown option `{name}`"),
        }
        arguments = rest;
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_and_mistakes_are_named() {
        let options = parse(&["--rounds", "3", "--json", "out.json"]).unwrap();
        assert_eq!((options.count, options.rounds, options.json), (20_000, 3, Some("out.json".into())));
        for (arguments, mistake) in [
            (vec!["--count"], "`--count` is unknown, or has no value"),
            (vec!["--count", "0"], "`--count 0`: expected a number greater than zero"),
            (vec!["--rounds", "many"], "`--rounds many`: expected a number greater than zero"),
            (vec!["--round", "1"], "unknown option `--round`"),
        ] {
            assert_eq!(parse(&arguments).err().unwrap().to_string(), mistake);
        }
    }
}
