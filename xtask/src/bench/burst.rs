//! A burst of ended flows: what each reader keeps of it, and what that costs.

use anyhow::Result;

use super::Options;
use super::figures::{Cell, Report, Samples, Section, figure};
use super::load::Made;
use super::reader::Reader;
use super::run::{Outcome, Run, Tools};
use crate::interrupt::Interrupt;
use crate::setup;
use crate::table_limit::Raised;

/// As large as a burst can be at once. A larger one is several, one right after the other.
const MAX_AT_ONCE: u32 = 500_000;

const DEFAULT_COUNT: u32 = 500_000;
const DEFAULT_ROUNDS: u32 = 5;

/// Measures bursts: all readers, one at a time, in turns; then several into one flowlog.
///
/// # Errors
///
/// When a reader fails, and when a signal came.
pub(super) fn measure(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    setup::for_comparison();
    let tools = Tools::build(options, interrupt)?;
    let count = options.count.unwrap_or(DEFAULT_COUNT);
    let rounds = options.rounds.unwrap_or(DEFAULT_ROUNDS);
    let readers = options.readers.clone().unwrap_or_else(|| Reader::ALL.to_vec());
    let _raised = Raised::to_hold(count.min(MAX_AT_ONCE))?;
    let mut sections = vec![compare(&tools, &readers, count, rounds)?];
    if let Some(bursts) = options.bursts {
        sections.push(growth(&tools, count, bursts)?);
    }
    Ok(Report { name: "burst", sections })
}

/// One reader in all rounds.
struct Measured {
    reader: Reader,
    kept: Samples,
    cpu_us: Samples,
    /// Of each round on its own: what runs beside it disturbs all alike.
    ratio: Samples,
    peak_mib: Samples,
    bytes: Samples,
    refused: Samples,
    seconds: Samples,
    inexact_rounds: u32,
}

impl Measured {
    fn new(reader: Reader) -> Self {
        let samples = Samples::default;
        Self {
            reader,
            kept: samples(),
            cpu_us: samples(),
            ratio: samples(),
            peak_mib: samples(),
            bytes: samples(),
            refused: samples(),
            seconds: samples(),
            inexact_rounds: 0,
        }
    }

    fn add(&mut self, outcome: &Outcome, bare_us: Option<f64>) {
        let cpu_us = outcome.cpu_us_per_flow();
        self.kept.push(figure(outcome.kept.flows));
        self.cpu_us.push(cpu_us);
        if let Some(bare_us) = bare_us {
            self.ratio.push(cpu_us / bare_us);
        }
        self.peak_mib.push(outcome.peak_mib);
        self.bytes.push(outcome.bytes_per_flow());
        self.refused.push(figure(outcome.refused));
        self.seconds.push(outcome.took.as_secs_f64());
        self.inexact_rounds += u32::from(!outcome.kept.is_exact);
    }

    fn row(&self, rounds: u32) -> Vec<Cell> {
        let [low, cpu_us, high] = self.cpu_us.quartiles().unwrap_or([f64::NAN; 3]);
        let exact = match self.inexact_rounds {
            0 => "yes".to_owned(),
            inexact => format!("no, in {inexact} of {rounds}"),
        };
        vec![
            Cell::Text(self.reader.name().to_owned()),
            Cell::Figure(self.kept.median(), 0),
            Cell::Text(exact),
            Cell::Figure(cpu_us, 2),
            Cell::Figure(low, 2),
            Cell::Figure(high, 2),
            Cell::Figure(self.ratio.median(), 2),
            Cell::Figure(self.peak_mib.median(), 1),
            Cell::Figure(self.bytes.median(), 1),
            Cell::Figure(self.refused.median(), 0),
            Cell::Figure(self.seconds.median(), 1),
        ]
    }
}

fn compare(tools: &Tools<'_>, readers: &[Reader], count: u32, rounds: u32) -> Result<Section> {
    let (present, missing): (Vec<Reader>, Vec<Reader>) =
        readers.iter().partition(|reader| reader.is_installed());
    for reader in missing {
        eprintln!("bench: `{}` is not installed, and left out", reader.name());
    }
    let mut all: Vec<Measured> = present.into_iter().map(Measured::new).collect();
    for round in 1..=rounds {
        let mut outcomes = Vec::new();
        // Whatever drifts meets all alike.
        all.rotate_left(1);
        for Measured { reader, .. } in &all {
            println!("== burst: round {round} of {rounds}, {}", reader.name());
            let mut run = Run::start(*reader, tools)?;
            let made = run.burst(count, MAX_AT_ONCE, None)?;
            outcomes.push((*reader, run.stop(&made)?));
        }
        let bare = outcomes.iter().find(|(reader, _)| *reader == Reader::Bare);
        let bare_us = bare.map(|(_, outcome)| outcome.cpu_us_per_flow());
        for (measured, (_, outcome)) in all.iter_mut().zip(&outcomes) {
            measured.add(outcome, bare_us);
        }
    }
    all.sort_by_key(|measured| Reader::ALL.iter().position(|reader| *reader == measured.reader));
    Ok(Section {
        title: format!("{count} ended flows at once: {rounds} rounds, medians, and quartiles of the time"),
        key: "readers".into(),
        columns: &[
            "reader",
            "kept_flows",
            "exact",
            "cpu_us_per_flow",
            "lower_quartile",
            "upper_quartile",
            "times_bare_recv",
            "peak_mib",
            "bytes_per_flow",
            "overrun_messages",
            "seconds",
        ],
        rows: all.iter().map(|measured| measured.row(rounds)).collect(),
    })
}

/// Whether memory grows: bursts into one daemon, one after the other.
fn growth(tools: &Tools<'_>, count: u32, bursts: u32) -> Result<Section> {
    let mut run = Run::start(Reader::Flowlog, tools)?;
    let mut rows = Vec::new();
    let mut all: Option<Made> = None;
    for burst in 1..=bursts {
        println!("== growth: burst {burst} of {bursts}");
        let made = run.burst(count, MAX_AT_ONCE, None)?;
        let usage = run.usage()?;
        rows.push(vec![
            Cell::Figure(f64::from(burst), 0),
            Cell::Figure(usage.rss_mib, 1),
            Cell::Figure(usage.anonymous_mib, 1),
            Cell::Figure(usage.peak_mib, 1),
        ]);
        all = Some(all.map_or(made.clone(), |all| all.and(&made)));
    }
    let is_exact = match all {
        Some(all) => run.stop(&all)?.kept.is_exact,
        None => true,
    };
    let exact = if is_exact { "exact" } else { "NOT exact" };
    Ok(Section {
        title: format!("Memory of one flowlog after each burst of {count}; all together {exact}"),
        key: "growth".into(),
        columns: &["burst", "rss_mib", "anonymous_mib", "peak_mib"],
        rows,
    })
}
