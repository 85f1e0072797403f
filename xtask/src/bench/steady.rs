//! Flows that end at a steady rate: whether all are kept, and what share of the machine that takes.

use anyhow::Result;

use super::Options;
use super::figures::{Cell, Report, Section, figure};
use super::reader::Reader;
use super::run::{Run, Tools};
use crate::interrupt::Interrupt;

/// Flows a second.
const RATES: [u32; 4] = [1_000, 10_000, 50_000, 100_000];

const DEFAULT_SECONDS: u32 = 10;

/// Entries come and go in steps of so many a second: what ends by itself ends so too, when the kernel's garbage
/// collection comes by.
const STEPS_PER_SECOND: u32 = 20;

/// Measures flowlog with its default settings at each rate.
///
/// # Errors
///
/// When it fails, and when a signal came.
pub(super) fn measure(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let tools = Tools::build(options, interrupt)?;
    let seconds = options.seconds.unwrap_or(DEFAULT_SECONDS);
    let mut rows = Vec::new();
    for rate in RATES {
        println!("== steady: {rate} a second for {seconds} s");
        let mut run = Run::start(Reader::Flowlog, &tools)?;
        let made = run.burst(rate.saturating_mul(seconds), rate / STEPS_PER_SECOND, Some(rate))?;
        let outcome = run.stop(&made)?;
        rows.push(vec![
            Cell::Figure(f64::from(rate), 0),
            Cell::Figure(figure(made.count) / made.took.as_secs_f64(), 0),
            Cell::Figure(figure(made.count), 0),
            Cell::Text(if outcome.kept.is_exact { "yes" } else { "no" }.to_owned()),
            Cell::Figure(outcome.cpu.as_secs_f64() / made.took.as_secs_f64() * 100.0, 1),
            Cell::Figure(outcome.cpu_us_per_flow(), 2),
            Cell::Figure(outcome.peak_mib, 1),
            Cell::Figure(figure(outcome.refused), 0),
        ]);
    }
    Ok(Report {
        name: "steady",
        sections: vec![Section {
            title: format!("flowlog at a steady rate, for {seconds} s each; the share is of one processor"),
            key: "rates".into(),
            columns: &[
                "wanted_per_s",
                "made_per_s",
                "flows",
                "exact",
                "cpu_percent",
                "cpu_us_per_flow",
                "peak_mib",
                "overrun_messages",
            ],
            rows,
        }],
    })
}
