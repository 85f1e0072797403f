//! `cargo xtask bench host`: what flowlog costs beside programs as hosts run them, and what it knows of their
//! connections.
//!
//! A scenario makes the load, a mode watches it. The modes of a round follow one another on the same machine, so
//! what is compared is within a round.

mod compare;
mod datagrams;
mod exec;
mod iperf;
mod mode;
mod once;
mod open;
mod place;
mod redis;
mod scenarios;
mod web;

use std::path::Path;

use anyhow::{Context as _, Result};

use self::compare::Compared;
pub(super) use self::mode::Mode;
use self::place::Place;
use self::scenarios::SCENARIOS;
use super::Options;
use super::figures::{Report, Section};
use super::run::Tools;
use crate::interrupt::Interrupt;
use crate::setup;
use crate::table_limit::Raised;

/// A kind of load.
pub(super) struct Scenario {
    /// Its name on the command line and in JSON.
    pub(super) name: &'static str,
    /// The names of its other tables in JSON.
    keys: Keys,
    /// The heading of its table.
    title: &'static str,
    /// One of what is counted.
    unit: &'static str,
    /// Programs, and the Debian packages they come from.
    programs: &'static [(&'static str, &'static str)],
    /// The modes that show something, unless others are asked for.
    modes: &'static [Mode],
    rounds: u32,
    /// How many entries the kernel's table then has, unless `--count` asks for more.
    entries: u32,
    /// Whether the eBPF programs are counted in one more run: not if another scenario has the same connections.
    counts_programs: bool,
    start: for<'a> fn(&Setting<'a>) -> Result<Box<dyn Traffic + 'a>>,
}

/// Names of tables in JSON.
struct Keys {
    rows: &'static str,
    parts: &'static str,
    programs: &'static str,
}

/// What a scenario is given.
#[derive(Clone)]
pub(super) struct Setting<'a> {
    place: &'a Place,
    directory: &'a Path,
    tools: &'a Tools<'a>,
    interrupt: &'a Interrupt,
    count: Option<u32>,
    seconds: Option<u32>,
}

/// Programs that run and are ready to make load.
pub(super) trait Traffic {
    /// Makes it.
    fn run(&mut self) -> Result<Done>;

    /// Ends the programs. What is known of their processes, as arguments of `load processes`.
    fn end(self: Box<Self>) -> Result<Vec<String>>;
}

/// What a load came to.
pub(super) struct Done {
    /// In the unit of the scenario.
    count: f64,
    /// In a second.
    rate: f64,
}

/// The scenario of a name.
///
/// # Errors
///
/// When there is none.
pub(super) fn scenario(name: &str) -> Result<&'static Scenario> {
    let names = || SCENARIOS.each_ref().map(|scenario| scenario.name).join(", ");
    SCENARIOS
        .iter()
        .find(|scenario| scenario.name == name)
        .with_context(|| format!("`{name}` is no scenario, expected some of {}", names()))
}

/// Measures the scenarios that are asked for, or all: each in its modes, in turns.
///
/// # Errors
///
/// When a program is missing that cannot be installed, when one fails, and when a signal came.
pub(super) fn measure(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let wanted: Vec<&Scenario> =
        if options.scenarios.is_empty() { SCENARIOS.iter().collect() } else { options.scenarios.clone() };
    for scenario in &wanted {
        setup::for_measurement(scenario.programs)?;
    }
    let tools = Tools::build(options, interrupt)?;
    let entries = wanted.iter().map(|scenario| scenario.entries.max(options.count.unwrap_or(0))).max();
    let _raised = Raised::to_hold(entries.unwrap_or(0))?;
    let mut sections = Vec::new();
    for scenario in wanted {
        sections.extend(compare(scenario, options, &tools)?);
    }
    Ok(Report { name: "host", sections })
}

fn compare(scenario: &Scenario, options: &Options, tools: &Tools<'_>) -> Result<Vec<Section>> {
    let modes = options.modes.as_deref().unwrap_or(scenario.modes);
    let (possible, missing): (Vec<Mode>, Vec<Mode>) = modes.iter().partition(|mode| mode.is_possible());
    for mode in missing {
        eprintln!("bench: `{}` is not installed, and left out", mode.name());
    }
    let rounds = options.rounds.unwrap_or(scenario.rounds);
    let mut turns = possible.clone();
    let mut compared = Compared::new(scenario, &possible, rounds);
    for round in 1..=rounds {
        // Whatever drifts meets all alike.
        turns.rotate_left(1);
        let mut outcomes = Vec::new();
        for mode in &turns {
            println!("== {}: round {round} of {rounds}, {}", scenario.name, mode.name());
            outcomes.push((*mode, once::measure(scenario, *mode, false, options, tools)?));
        }
        compared.add(&outcomes);
    }
    let mut counted = None;
    if scenario.counts_programs && possible.contains(&Mode::Whole) {
        println!("== {}: time of the eBPF programs", scenario.name);
        counted = Some(once::measure(scenario, Mode::Whole, true, options, tools)?);
    }
    Ok(compared.sections(counted))
}
