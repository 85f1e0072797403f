//! All modes of a scenario in all rounds, and the tables of that.

use std::collections::BTreeMap;

use super::Scenario;
use super::mode::Mode;
use super::once::{End, Outcome, Rows};
use crate::bench::figures::{Cell, Samples, Section, figure};

/// All modes of a scenario.
pub(super) struct Compared<'a> {
    scenario: &'a Scenario,
    rounds: u32,
    modes: Vec<Measured>,
}

/// One mode in all rounds.
struct Measured {
    mode: Mode,
    rate: Samples,
    /// Of each round on its own, like all that is compared: what runs beside it disturbs all alike.
    rate_percent: Samples,
    cpu_us: Samples,
    more_us: Samples,
    machine_us: Samples,
    machine_more_us: Samples,
    watcher_us: Samples,
    peak_mib: Samples,
    parts: BTreeMap<String, Samples>,
    made: Samples,
    rows: Vec<Rows>,
    evicted_sockets: Samples,
    lost_events: Samples,
}

impl Measured {
    fn new(mode: Mode) -> Self {
        let samples = Samples::default;
        Self {
            mode,
            rate: samples(),
            rate_percent: samples(),
            cpu_us: samples(),
            more_us: samples(),
            machine_us: samples(),
            machine_more_us: samples(),
            watcher_us: samples(),
            peak_mib: samples(),
            parts: BTreeMap::new(),
            made: samples(),
            rows: Vec::new(),
            evicted_sockets: samples(),
            lost_events: samples(),
        }
    }

    fn add(&mut self, outcome: &Outcome, without: Option<&Outcome>) {
        let cpu_us = |outcome: &Outcome| outcome.us_each(outcome.cpu);
        let machine_us = |outcome: &Outcome| outcome.us_each(outcome.machine);
        self.rate.push(outcome.done.rate);
        self.cpu_us.push(cpu_us(outcome));
        self.machine_us.push(machine_us(outcome));
        if let Some(without) = without {
            self.rate_percent.push(outcome.done.rate / without.done.rate * 100.0);
            self.more_us.push(cpu_us(outcome) - cpu_us(without));
            self.machine_more_us.push(machine_us(outcome) - machine_us(without));
        }
        let watched = &outcome.watched;
        self.watcher_us.extend(watched.cpu.map(|cpu| outcome.us_each(cpu)));
        self.peak_mib.extend(watched.peak_mib);
        for (name, time) in &watched.parts {
            self.parts.entry(name.clone()).or_default().push(outcome.us_each(*time));
        }
        self.made.push(outcome.done.count);
        self.rows.extend(outcome.rows);
        self.evicted_sockets.extend(watched.evicted_sockets.map(figure));
        self.lost_events.extend(watched.lost_events.map(figure));
    }

    fn cost(&self) -> Vec<Cell> {
        let quartiles = |samples: &Samples| samples.quartiles().unwrap_or([f64::NAN; 3]);
        let [rate_low, rate, rate_high] = quartiles(&self.rate_percent);
        let [more_low, more, more_high] = quartiles(&self.more_us);
        vec![
            Cell::Text(self.mode.name().to_owned()),
            Cell::Figure(self.rate.median(), if self.rate.median() < 100.0 { 2 } else { 0 }),
            Cell::Figure(rate, 1),
            Cell::Figure(rate_low, 1),
            Cell::Figure(rate_high, 1),
            Cell::Figure(self.cpu_us.median(), 1),
            Cell::Figure(more, 1),
            Cell::Figure(more_low, 1),
            Cell::Figure(more_high, 1),
            Cell::Figure(self.machine_us.median(), 1),
            Cell::Figure(self.machine_more_us.median(), 1),
            Cell::Figure(self.watcher_us.median(), 1),
            Cell::Figure(self.peak_mib.median(), 1),
        ]
    }

    /// What the rows know. Wrong ones are summed over all rounds: one is too many.
    fn knowledge(&self) -> Vec<Cell> {
        let median = |of: &dyn Fn(&Rows) -> f64| {
            let mut samples = Samples::default();
            samples.extend(self.rows.iter().map(of));
            samples.median()
        };
        let percent = |end: fn(&Rows) -> End, of: fn(&End) -> u64| {
            median(&|rows| figure(of(&end(rows))) / figure(rows.count) * 100.0)
        };
        let (src, dst): (fn(&Rows) -> End, fn(&Rows) -> End) = (|rows| rows.src, |rows| rows.dst);
        let wrong: u64 = self.rows.iter().map(|rows| rows.src.wrong + rows.dst.wrong).sum();
        let confirmed: u64 = self.rows.iter().map(|rows| rows.src.confirmed + rows.dst.confirmed).sum();
        vec![
            Cell::Text(self.mode.name().to_owned()),
            Cell::Figure(self.made.median(), 0),
            Cell::Figure(median(&|rows| figure(rows.count)), 0),
            Cell::Figure(percent(src, |end| end.known), 2),
            Cell::Figure(percent(src, |end| end.ambiguous), 2),
            Cell::Figure(percent(dst, |end| end.known), 2),
            Cell::Figure(percent(dst, |end| end.ambiguous), 2),
            Cell::Figure(figure(confirmed), 0),
            Cell::Figure(figure(wrong), 0),
            Cell::Figure(self.evicted_sockets.median(), 0),
            Cell::Figure(self.lost_events.median(), 0),
            Cell::Figure(median(&|rows| figure(rows.gaps)), 0),
            Cell::Figure(median(&|rows| figure(rows.bytes) / figure(rows.count)), 1),
        ]
    }
}

impl<'a> Compared<'a> {
    pub(super) fn new(scenario: &'a Scenario, modes: &[Mode], rounds: u32) -> Self {
        Self { scenario, rounds, modes: modes.iter().copied().map(Measured::new).collect() }
    }

    /// Adds a round.
    pub(super) fn add(&mut self, outcomes: &[(Mode, Outcome)]) {
        let of = |wanted: Mode| outcomes.iter().find(|(mode, _)| *mode == wanted).map(|(_, outcome)| outcome);
        for measured in &mut self.modes {
            if let Some(outcome) = of(measured.mode) {
                measured.add(outcome, of(Mode::Without));
            }
        }
    }

    /// The tables.
    pub(super) fn sections(&self) -> Vec<Section> {
        let Scenario { name, keys, title, unit, .. } = self.scenario;
        let mut sections = vec![Section {
            title: format!(
                "{name}: {title}\nper {unit}, {} rounds: medians; ratios and differences are within a round, with quartiles. \
                 `cpu` is of the programs, `machine` of all that ran.",
                self.rounds
            ),
            key: (*name).into(),
            columns: &[
                "mode",
                "rate_per_s",
                "percent_of_without",
                "lower_percent",
                "upper_percent",
                "cpu_us",
                "cpu_us_more",
                "lower_us_more",
                "upper_us_more",
                "machine_us",
                "machine_us_more",
                "watcher_us",
                "peak_mib",
            ],
            rows: self.modes.iter().map(Measured::cost).collect(),
        }];
        let with_rows = || self.modes.iter().filter(|measured| !measured.rows.is_empty());
        if with_rows().next().is_some() {
            sections.push(Section {
                title: format!("{name}: what the rows know of the processes"),
                key: keys.rows.into(),
                columns: &[
                    "mode",
                    "made",
                    "rows",
                    "src_known_percent",
                    "src_ambiguous_percent",
                    "dst_known_percent",
                    "dst_ambiguous_percent",
                    "confirmed",
                    "wrong",
                    "evicted_sockets",
                    "lost_events",
                    "gaps",
                    "bytes_per_row",
                ],
                rows: with_rows().map(Measured::knowledge).collect(),
            });
            sections.push(Section {
                title: format!("{name}: time of flowlog by thread, in us per {unit}"),
                key: keys.parts.into(),
                columns: &["mode", "thread", "cpu_us"],
                rows: with_rows().flat_map(Measured::parts).collect(),
            });
        }
        sections
    }
}

impl Measured {
    fn parts(&self) -> impl Iterator<Item = Vec<Cell>> {
        self.parts.iter().map(|(name, samples)| {
            vec![
                Cell::Text(self.mode.name().to_owned()),
                Cell::Text(name.clone()),
                Cell::Figure(samples.median(), 2),
            ]
        })
    }
}
