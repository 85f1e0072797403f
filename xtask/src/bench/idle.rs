//! What flowlog costs where nothing happens.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Options;
use super::figures::{Cell, Report, Section, figure};
use super::reader::Reader;
use super::run::{Run, Tools};
use crate::interrupt::Interrupt;

const DEFAULT_SECONDS: u32 = 10;

/// Measures flowlog with its default settings, and without processes.
///
/// # Errors
///
/// When it fails, and when a signal came.
pub(super) fn measure(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let tools = Tools::build(options, interrupt)?;
    let seconds = options.seconds.unwrap_or(DEFAULT_SECONDS);
    let mut rows = Vec::new();
    for reader in [Reader::Flowlog, Reader::FlowlogNoEbpf] {
        println!("== idle: {} for {seconds} s", reader.name());
        let run = Run::start(reader, &tools)?;
        let (start, before) = (Instant::now(), run.usage()?);
        let wanted = Duration::from_secs(seconds.into());
        interrupt.wait_for("the time to pass", wanted * 2, || Ok(start.elapsed() >= wanted))?;
        let (elapsed_s, after) = (start.elapsed().as_secs_f64(), run.usage()?);
        rows.push(vec![
            Cell::Text(reader.name().to_owned()),
            Cell::Figure(after.rss_mib, 1),
            Cell::Figure(after.anonymous_mib, 1),
            Cell::Figure(after.peak_mib, 1),
            Cell::Figure((after.cpu - before.cpu).as_secs_f64() / elapsed_s * 100.0, 2),
            Cell::Figure(figure(after.waits - before.waits) / elapsed_s, 1),
        ]);
    }
    Ok(Report {
        name: "idle",
        sections: vec![Section {
            title: format!(
                "A namespace in which nothing happens, for {seconds} s; processes of the whole host come and go"
            ),
            key: "idle".into(),
            columns: &["reader", "rss_mib", "anonymous_mib", "peak_mib", "cpu_percent", "wake_ups_per_s"],
            rows,
        }],
    })
}
