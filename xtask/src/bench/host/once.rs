//! One load, watched in one way, from its start to the rows.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::mode::{Mode, Watched, Watcher};
use super::place::Place;
use super::{Done, Scenario, Setting};
use crate::bench::Options;
use crate::bench::figures::Section;
use crate::bench::load::Said;
use crate::bench::output::Output;
use crate::bench::programs::{self, Counting};
use crate::bench::run::Tools;
use crate::bench::usage;
use crate::sh;

/// What it came to.
pub(super) struct Outcome {
    pub(super) done: Done,
    /// Of the programs of the load, the watcher, and what the kernel did for them meanwhile.
    pub(super) cpu: Duration,
    /// Of the whole machine, and so also of what else ran on it.
    pub(super) machine: Duration,
    pub(super) watched: Watched,
    pub(super) rows: Option<Rows>,
}

/// What the rows of a daemon know.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rows {
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) gaps: u64,
    pub(super) src: End,
    pub(super) dst: End,
}

/// One end of all rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End {
    pub(super) known: u64,
    pub(super) ambiguous: u64,
    /// Rows that name another process than the witness.
    pub(super) wrong: u64,
    /// Rows that name the same.
    pub(super) confirmed: u64,
}

impl Outcome {
    /// How many microseconds of `time` one of what is counted takes.
    pub(super) fn us_each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.done.count
    }

    /// What the eBPF programs took.
    pub(super) fn programs(self, scenario: &Scenario) -> Section {
        programs::section(
            scenario.keys.programs.into(),
            &format!(
                "{}: eBPF programs, per {}; the counting takes about 60 ns a run",
                scenario.name, scenario.unit
            ),
            self.watched.runs,
            self.done.count,
        )
    }
}

/// Makes the load of `scenario` and watches it as `mode` says; with `counting`, the kernel counts the time of the
/// eBPF programs meanwhile, which itself takes time.
///
/// # Errors
///
/// When something fails, and when a signal came.
pub(super) fn measure(
    scenario: &Scenario,
    mode: Mode,
    counting: bool,
    options: &Options,
    tools: &Tools<'_>,
) -> Result<Outcome> {
    let output = Output::new()?;
    let place = Place::new()?;
    let interrupt = tools.interrupt;
    let mut watcher = Watcher::start(mode, tools, &place, output.path())?;
    let setting = Setting {
        place: &place,
        directory: output.path(),
        tools,
        interrupt,
        count: options.count,
        seconds: options.seconds,
    };
    let mut traffic = (scenario.start)(&setting)?;
    let _counting = counting.then(Counting::start).transpose()?;
    watcher.begin(counting)?;
    let (own, machine) = (usage::cpu_of_own()?, usage::cpu_of_machine()?);
    let done = traffic.run()?;
    watcher.loaded()?;
    let witness = traffic.end()?;
    place.flush(mode.is_flowlog(), interrupt)?;
    let watched = watcher.end(&place)?;
    let machine = usage::cpu_of_machine()?.saturating_sub(machine);
    // The watcher has ended: its start counts as well by now.
    let cpu = usage::cpu_of_own()?.saturating_sub(own).saturating_sub(watched.before);
    let mut rows = None;
    if mode.has_rows() {
        let mut load = Command::new(tools.load.path());
        load.arg("processes").arg(output.path().join("data")).args(witness);
        rows = Some(Rows::of(&Said::of(&sh::output(&mut load)?)?)?);
    }
    Ok(Outcome { done, cpu, machine, watched, rows })
}

impl Rows {
    fn of(said: &Said) -> Result<Self> {
        let end = |name: &str| {
            let said = said.object(name)?;
            anyhow::Ok(End {
                known: said.number("known")?,
                ambiguous: said.number("ambiguous")?,
                wrong: said.number("wrong")?,
                confirmed: said.number("confirmed")?,
            })
        };
        Ok(Self {
            count: said.number("rows")?,
            bytes: said.number("bytes")?,
            gaps: said.number("gaps")?,
            src: end("src")?,
            dst: end("dst")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_from_what_load_says() {
        let said = r#"{"rows": 9, "bytes": 90, "gaps": 1,
            "src": {"known": 8, "ambiguous": 1, "wrong": 0, "confirmed": 8},
            "dst": {"known": 7, "ambiguous": 0, "wrong": 2, "confirmed": 5}}"#;
        let rows = Rows::of(&Said::of(said).unwrap()).unwrap();
        assert_eq!((rows.count, rows.bytes, rows.gaps), (9, 90, 1));
        assert_eq!((rows.src.known, rows.src.ambiguous), (8, 1));
        assert_eq!((rows.dst.wrong, rows.dst.confirmed), (2, 5));
        assert!(Rows::of(&Said::of(r#"{"rows": 9}"#).unwrap()).is_err());
    }
}
