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
    loaded_mib: Samples,
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
            loaded_mib: samples(),
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
        self.loaded_mib.extend(watched.loaded_mib);
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
            Cell::Figure(self.loaded_mib.median(), 1),
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
        let src: fn(&Rows) -> End = |rows| rows.src;
        let dst: fn(&Rows) -> End = |rows| rows.dst;
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

    /// The tables. `counted` is a run whose eBPF programs were counted.
    pub(super) fn sections(&self, counted: Option<Outcome>) -> Vec<Section> {
        let programs_us = counted.as_ref().map(|outcome| {
            let time = outcome.watched.runs.values().map(|runs| runs.time).sum();
            outcome.us_each(time)
        });
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
                "loaded_mib",
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
                title: format!("{name}: where the time goes that flowlog takes, in us per {unit}"),
                key: keys.parts.into(),
                columns: &["mode", "part", "cpu_us"],
                rows: with_rows().flat_map(|measured| measured.parts(programs_us)).collect(),
            });
        }
        sections.extend(counted.map(|outcome| outcome.programs(self.scenario)));
        sections
    }
}

impl Measured {
    /// The threads of the daemon, its programs, and what is left of the difference: what the kernel does to run the
    /// programs and to hand on their events, and what both change for others.
    fn parts(&self, programs_us: Option<f64>) -> Vec<Vec<Cell>> {
        let mut parts: Vec<(String, f64)> =
            self.parts.iter().map(|(name, samples)| (format!("daemon: {name}"), samples.median())).collect();
        if self.mode == Mode::Whole {
            parts.extend(programs_us.map(|us| ("eBPF programs".to_owned(), us)));
        }
        let known: f64 = parts.iter().map(|(_, us)| us).sum();
        let all = self.more_us.median();
        parts.extend([("rest".to_owned(), all - known), ("sum".to_owned(), all)]);
        let row = |(name, us): (String, f64)| {
            vec![Cell::Text(self.mode.name().to_owned()), Cell::Text(name), Cell::Figure(us, 2)]
        };
        parts.into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::host::mode::Watched;
    use crate::bench::host::{Done, scenario};

    fn outcome(rate: f64, cpu_us: u64, watcher_us: Option<u64>) -> Outcome {
        let cpu = watcher_us.map(Duration::from_micros);
        let parts = cpu.map(|cpu| ("writer".to_owned(), cpu)).into_iter().collect();
        Outcome {
            done: Done { count: 10.0, rate },
            cpu: Duration::from_micros(cpu_us),
            machine: Duration::from_micros(cpu_us),
            watched: Watched { cpu, parts, ..Watched::default() },
            rows: cpu.map(|_| Rows { count: 4, src: End { known: 3, ..End::default() }, ..Rows::default() }),
        }
    }

    #[test]
    fn what_is_compared_is_within_a_round() {
        let mut compared = Compared::new(scenario("nginx").unwrap(), &[Mode::Without, Mode::Whole], 2);
        // The second round is on a machine that is half as fast.
        for (slow, rate) in [(1, 100.0), (2, 50.0)] {
            compared.add(&[
                (Mode::Whole, outcome(rate * 0.9, 150 * slow, Some(20 * slow))),
                (Mode::Without, outcome(rate, 100 * slow, None)),
            ]);
        }
        let sections = compared.sections(None);
        let figures = |section: usize, row: usize| -> Vec<f64> {
            let cells = sections[section].rows[row].iter();
            cells
                .filter_map(|cell| if let Cell::Figure(figure, _) = cell { Some(*figure) } else { None })
                .collect()
        };
        let close = |one: f64, other: f64| assert!((one - other).abs() < 1e-9, "{one} is not {other}");
        // Rate, percent of that without; 5 and 10 us more, of which 2 and 4 are the watcher's.
        close(figures(0, 1)[1], 90.0);
        close(figures(0, 1)[5], 7.5);
        close(figures(0, 1)[9], 7.5);
        close(figures(0, 1)[10], 3.0);
        // Three of four ends are known.
        close(figures(1, 0)[2], 75.0);
        let parts: Vec<f64> = (0..3).map(|row| figures(2, row)[0]).collect();
        close(parts[0], 3.0);
        close(parts[1], 4.5);
        close(parts[2], 7.5);
    }
}
