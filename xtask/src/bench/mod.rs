//! `cargo xtask bench`: measures flowlog as it is used: a release build, real traffic, the real kernel.
//!
//! It gives figures and ratios, and never judges them: how long something takes depends on the machine and
//! on what else runs there. What is compared is measured in the same run, in turns.

mod burst;
mod ebpf;
mod figures;
mod host;
mod idle;
mod load;
mod loopback;
mod output;
mod programs;
mod reader;
mod run;
mod stages;
mod steady;
mod table;
mod usage;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};

use self::figures::Report;
use self::host::{Mode, Scenario};
use self::reader::Reader;
use crate::build::Profile;
use crate::interrupt::Interrupt;
use crate::{build, setup, workspace};

const USAGE: &str = "\
usage: cargo xtask bench NAME [OPTIONS]

  burst   many flows that end at once: what flowlog, conntrack -E and ulogd2 keep of them, and what that costs,
          beside a reader that throws everything away
  steady  flows that end at a steady rate: whether all are kept, and the load
  idle    memory, load and wake-ups where nothing happens
  ebpf    time of each eBPF program per connection, and the rate of connections with and without them
  host [SCENARIO...]
          programs as hosts run them: what flowlog costs beside them, and what its rows know of their processes;
          scenarios: nginx, time-wait, udp, redis, redis-keepalive, iperf3, exec, open; without a name: all
  encode  time of each stage of a flow by itself: decode, duplicates, attribute, batch, wal, parquet
  size    bytes of a flow in a file, by column

  --count N      flows of a burst and of size (default 500000), connections for ebpf (default 20000) and of the
                 scenarios of host
  --rounds N     how often each is measured, in turns: burst (default 5), ebpf (default 10), host (default 1 to 5)
  --modes LIST   only these of host: without, no-ebpf, stopped, whole, tcplife; separated by commas
  --readers LIST only these of burst: flowlog, no-ebpf, bare, pausing, conntrack, ulogd2; separated by commas
  --bursts N     then so many bursts into one flowlog, and its memory after each
  --seconds N    how long each rate of steady takes, and idle (default 10);
                 how long programs of host run that have no number of connections
  --json FILE    write the figures to FILE, too
  --binary FILE  measure this flowlog instead of building one
";

/// What a measurement is told.
#[derive(Default)]
struct Options {
    count: Option<u32>,
    rounds: Option<u32>,
    readers: Option<Vec<Reader>>,
    bursts: Option<u32>,
    seconds: Option<u32>,
    json: Option<PathBuf>,
    binary: Option<PathBuf>,
    modes: Option<Vec<Mode>>,
    scenarios: Vec<&'static Scenario>,
}

impl Options {
    /// The daemon that is measured. Builds it, unless one is named.
    fn flowlog(&self) -> Result<PathBuf> {
        match &self.binary {
            Some(binary) => Ok(binary.clone()),
            None => {
                build::run(Profile::Release)?;
                Ok(workspace::flowlog(Profile::Release))
            }
        }
    }
}

/// Measures something.
type Measure = fn(&Options, &Interrupt) -> Result<Report>;

const MEASUREMENTS: [(&str, Measure); 7] = [
    ("burst", burst::measure),
    ("steady", steady::measure),
    ("idle", idle::measure),
    ("ebpf", ebpf::measure),
    ("host", host::measure),
    ("encode", stages::encode),
    ("size", stages::size),
];

/// Runs the measurement that `arguments` name, and prints its tables.
///
/// # Errors
///
/// When something is missing that cannot be installed, when a part of the measurement fails, and when
/// it is interrupted.
pub(crate) fn run(arguments: &[&str]) -> Result<ExitCode> {
    let (name, arguments) = match arguments {
        [] | ["help" | "-h" | "--help", ..] => {
            print!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        [name, arguments @ ..] => (*name, arguments),
    };
    let Some((_, measure)) = MEASUREMENTS.iter().find(|(known, _)| *known == name) else {
        eprint!("xtask: unknown measurement `{name}`\n\n{USAGE}");
        return Ok(ExitCode::from(2));
    };
    let options = match parse(name, arguments) {
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
    let interrupt = Interrupt::catch()?;
    let measured = measure(&options, &interrupt);
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

fn parse(measurement: &str, mut arguments: &[&str]) -> Result<Options> {
    let number = |name: &str, value: &str| match value.parse() {
        Ok(0) | Err(_) => bail!("`{name} {value}`: expected a number greater than zero"),
        Ok(number) => Ok(number),
    };
    let mut options = Options::default();
    if measurement == "host" {
        let names = arguments.iter().take_while(|name| !name.starts_with("--")).count();
        let (names, rest) = arguments.split_at(names);
        options.scenarios = names.iter().map(|name| host::scenario(name)).collect::<Result<_>>()?;
        arguments = rest;
    }
    while let [name, rest @ ..] = arguments {
        let [value, rest @ ..] = rest else { bail!("`{name}` is unknown, or has no value") };
        match *name {
            "--count" => options.count = Some(number(name, value)?),
            "--rounds" => options.rounds = Some(number(name, value)?),
            "--readers" => options.readers = Some(Reader::parse_list(value)?),
            "--modes" => options.modes = Some(Mode::parse_list(value)?),
            "--bursts" => options.bursts = Some(number(name, value)?),
            "--seconds" => options.seconds = Some(number(name, value)?),
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
        let options = parse("burst", &["--rounds", "3", "--json", "out.json"]).unwrap();
        assert_eq!((options.count, options.rounds, options.json), (None, Some(3), Some("out.json".into())));
        for (arguments, mistake) in [
            (vec!["--count"], "`--count` is unknown, or has no value"),
            (vec!["--count", "0"], "`--count 0`: expected a number greater than zero"),
            (vec!["--rounds", "many"], "`--rounds many`: expected a number greater than zero"),
            (
                vec!["--readers", "bare,perf"],
                "`perf` is no reader, expected one of flowlog, no-ebpf, bare, pausing, conntrack, ulogd2",
            ),
            (vec!["--round", "1"], "unknown option `--round`"),
            (vec!["nginx"], "`nginx` is unknown, or has no value"),
        ] {
            assert_eq!(parse("burst", &arguments).err().unwrap().to_string(), mistake);
        }
    }

    #[test]
    fn scenarios_of_a_host_come_first() {
        let options = parse("host", &["udp", "nginx", "--modes", "whole", "--rounds", "2"]).unwrap();
        let names: Vec<&str> = options.scenarios.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names, ["udp", "nginx"]);
        assert_eq!((options.modes, options.rounds), (Some(vec![Mode::Whole]), Some(2)));
        assert!(parse("host", &[]).unwrap().scenarios.is_empty());
        let mistake = parse("host", &["apache"]).err().unwrap().to_string();
        assert!(mistake.starts_with("`apache` is no scenario, expected some of nginx, "), "{mistake}");
    }
}
