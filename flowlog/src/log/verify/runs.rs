//! The runs: which began and ended, whether all their rows and gaps are in files, each once.
//!
//! A run is forgotten when it has ended, but for its id.

use std::collections::{BTreeMap, HashSet};

use flowlog_reader::gaps::{Gap, Stage};
use flowlog_reader::ledger::{DeclaredGap, PublishedFile, Recovered, Stopped};
use uuid::Uuid;

use super::ranges::Ranges;
use super::report::{Check, Finding, Findings, GapTotal, Level, add_gap};

/// Rows of a run that lie in more ranges than this are not what flowlog wrote, and are not followed
/// any further: each range takes memory.
const MAX_RANGES: usize = 1 << 20;

/// All runs up to a line.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// The run that began last, and did not stop.
    current: Option<Uuid>,
    open: BTreeMap<Uuid, Run>,
    ended: HashSet<Uuid>,
    /// How many began.
    pub(super) count: u64,
    /// Declared losses.
    pub(super) gaps: Vec<GapTotal>,
}

/// A run that has not ended.
#[derive(Debug, Default)]
struct Run {
    /// Its first line.
    line: u64,
    /// Numbers of its rows in the files.
    rows: Ranges,
    /// Those that may have been in files which cannot be read.
    excused: Ranges,
    /// Rows in its files, as the ledger has it.
    published: u64,
    /// Rows in files that a later run published, and which run that was.
    recovered: (Uuid, u64),
    /// Gaps that no file has, with their lines.
    gaps: BTreeMap<u64, (u64, Gap)>,
    last_gap: u64,
    /// Rows that were numbered and may be declared as lost; `None` where that is not known.
    lost_rows: Option<u64>,
}

impl Runs {
    /// A run begins.
    pub(super) fn start(&mut self, line: u64, run_id: Uuid, findings: &mut Findings) {
        self.count += 1;
        if self.ended.contains(&run_id) || self.open.contains_key(&run_id) {
            let finding = Finding::fault(Check::Run, format!("begins run {run_id} for the second time"));
            findings.add(finding.line(line).expected("a run that is not in the lines before"));
        }
        self.current = Some(run_id);
        self.open.insert(run_id, Run::new(line));
    }

    /// A line of a run: it has begun, and goes on.
    pub(super) fn check_current(&mut self, line: u64, run_id: Uuid, findings: &mut Findings) {
        if self.current == Some(run_id) {
            return;
        }
        let expected = match self.current {
            Some(current) => format!("one of run {current}, or the start of a run"),
            None => "the start of a run".to_owned(),
        };
        findings.add(
            Finding::fault(Check::Run, format!("is a line of run {run_id}")).line(line).expected(expected),
        );
        // Once is enough.
        self.current = Some(run_id);
        if !self.ended.contains(&run_id) {
            self.open.entry(run_id).or_insert_with(|| Run::new(line));
        }
    }

    /// A file with rows of flows.
    pub(super) fn flows(&mut self, line: u64, run_id: Uuid, file: &PublishedFile, findings: &mut Findings) {
        let of_run = file.of_run.unwrap_or(run_id);
        let run = self.run(line, of_run, findings);
        run.published = run.published.saturating_add(file.rows);
        if file.of_run.is_some() {
            let (by, rows) = run.recovered;
            run.recovered = (run_id, if by == run_id { rows.saturating_add(file.rows) } else { file.rows });
        }
    }

    /// Rows of a file, sorted.
    pub(super) fn add_rows(&mut self, of_run: Uuid, numbers: &[i64], doubles: &mut Ranges) {
        if let Some(run) = self.open.get_mut(&of_run)
            && run.is_followed()
        {
            run.rows.insert_sorted(numbers, doubles);
        }
    }

    /// A file with rows of flows that cannot be read: deleted, or named as a fault.
    pub(super) fn excuse(&mut self, of_run: Uuid, file: &PublishedFile) {
        if let (Some(run), Some(first), Some(last)) =
            (self.open.get_mut(&of_run), file.seq_first, file.seq_last)
        {
            run.excused.insert(first, last, &mut Ranges::default());
        }
    }

    /// A loss is declared.
    pub(super) fn gap(&mut self, line: u64, run_id: Uuid, gap: &DeclaredGap, findings: &mut Findings) {
        let DeclaredGap { gap, loss } = gap;
        add_gap(&mut self.gaps, loss);
        let run = self.run(line, run_id, findings);
        let expected = run.last_gap.saturating_add(1);
        if *gap != expected {
            let finding = Finding::fault(Check::Gaps, format!("is gap {gap} of run {run_id}"));
            findings.add(finding.line(line).expected(format!("gap {expected}")));
        }
        run.last_gap = *gap;
        run.gaps.insert(*gap, (line, loss.clone()));
        if matches!(loss.stage, Stage::Write | Stage::Recover) {
            run.lost_rows = run.lost_rows.zip(loss.lost_flows).map(|(one, other)| one.saturating_add(other));
        }
    }

    /// A file with gaps: those that the ledger has of it, in their order.
    pub(super) fn gaps_of(
        &mut self,
        line: u64,
        run_id: Uuid,
        file: &PublishedFile,
        findings: &mut Findings,
    ) -> Vec<Gap> {
        let run = self.run(line, file.of_run.unwrap_or(run_id), findings);
        let (Some(first), Some(last)) = (file.gap_first, file.gap_last) else { return Vec::new() };
        // Numbers from a file may be in any order.
        let numbers: Vec<u64> = run.gaps.keys().copied().filter(|gap| (first..=last).contains(gap)).collect();
        numbers.into_iter().filter_map(|gap| run.gaps.remove(&gap)).map(|(_, gap)| gap).collect()
    }

    /// A run stops.
    pub(super) fn stop(&mut self, line: u64, run_id: Uuid, stopped: &Stopped, findings: &mut Findings) {
        let Stopped { last_seq, rows, complete_until_us: _ } = stopped;
        self.run(line, run_id, findings);
        self.current = None;
        let Some(run) = self.end(run_id) else { return };
        if *rows != run.published {
            let finding =
                Finding::fault(Check::Rows, format!("says that run {run_id} published {rows} rows"));
            findings.add(finding.line(line).expected(format!("{}, which its files have", run.published)));
        }
        let above = run.rows.above(*last_seq);
        if !above.is_empty() {
            let finding = Finding::fault(Check::Rows, format!("files have the rows {above} of run {run_id}"));
            findings
                .add(finding.line(line).expected(format!("none after {last_seq}, with which it stopped")));
        }
        let declared = run.lost_rows.unwrap_or(u64::MAX);
        run.say_missing(line, run_id, *last_seq, declared, findings);
    }

    /// A run that did not stop is recovered.
    pub(super) fn recover(
        &mut self,
        line: u64,
        run_id: Uuid,
        recovered: &Recovered,
        findings: &mut Findings,
    ) {
        let Recovered { of_run, rows, already_published: _, dropped_bytes, dropped_reason: _ } = recovered;
        self.run(line, *of_run, findings);
        if *of_run == run_id {
            let finding = Finding::fault(Check::Run, format!("run {run_id} recovers itself"));
            findings.add(finding.line(line).expected("an earlier run"));
        }
        let Some(run) = self.end(*of_run) else { return };
        // Besides, files without a line can have been found, of a run that was killed before it wrote one.
        let published = if run.recovered.0 == run_id { run.recovered.1 } else { 0 };
        if *rows > published {
            let finding =
                Finding::fault(Check::Rows, format!("says that {rows} rows of run {of_run} were recovered"));
            findings.add(finding.line(line).expected(format!("{published}, which the files have")));
        }
        // The log can have ended earlier than the run: how many rows there were, nobody knows.
        let last = run.rows.last().max(run.excused.last()).unwrap_or(0);
        let declared = if *dropped_bytes > 0 { u64::MAX } else { run.lost_rows.unwrap_or(u64::MAX) };
        run.say_missing(line, *of_run, last, declared, findings);
    }

    /// The ledger ends. Gives the runs that did not, oldest first, with their first lines.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = (Uuid, u64)> {
        self.open.iter().map(|(run_id, run)| (*run_id, run.line))
    }

    /// Whether the run that began last goes on.
    pub(super) fn is_current(&self, run_id: Uuid) -> bool {
        self.current == Some(run_id)
    }

    /// Whether the rows of a run are still followed.
    pub(super) fn is_followed(&self, run_id: Uuid) -> bool {
        self.open.get(&run_id).is_some_and(Run::is_followed)
    }

    /// The run of a line.
    fn run(&mut self, line: u64, run_id: Uuid, findings: &mut Findings) -> &mut Run {
        if self.ended.remove(&run_id) {
            let finding = Finding::fault(Check::Run, format!("is about run {run_id}, which had ended"));
            findings.add(finding.line(line).expected("a run that goes on"));
        } else if !self.open.contains_key(&run_id) {
            // As long as the disk is full, a run can write its log, but not its first line here.
            let found = format!("is about run {run_id}, which could not write a line of its own");
            findings.add(Finding::new(Level::Warning, Check::Run, found).line(line));
        }
        self.open.entry(run_id).or_insert_with(|| Run::new(line))
    }

    fn end(&mut self, run_id: Uuid) -> Option<Run> {
        self.ended.insert(run_id);
        self.open.remove(&run_id)
    }
}

impl Run {
    fn new(line: u64) -> Self {
        Self { line, lost_rows: Some(0), ..Self::default() }
    }

    fn is_followed(&self) -> bool {
        self.rows.len() <= MAX_RANGES
    }

    /// Says which rows and gaps of the run are in no file, at its end.
    fn say_missing(
        &self,
        line: u64,
        run_id: Uuid,
        last_seq: i64,
        declared_rows: u64,
        findings: &mut Findings,
    ) {
        if self.is_followed() {
            let missing = self.rows.missing(last_seq, &self.excused);
            let count = missing.count();
            if count > 0 && count <= declared_rows {
                let found =
                    format!("no file has the rows {missing} of run {run_id}, which are declared as lost");
                findings.add(Finding::new(Level::Warning, Check::Rows, found).line(line));
            } else if count > 0 {
                let finding =
                    Finding::fault(Check::Rows, format!("no file has the rows {missing} of run {run_id}"));
                findings.add(finding.line(line).expected(format!("1-{last_seq}, each once")));
            }
        }
        for (gap, (gap_line, _)) in &self.gaps {
            let finding = Finding::fault(Check::Gaps, format!("no file has gap {gap} of run {run_id}"));
            findings.add(finding.line(*gap_line).expected("one below gaps/"));
        }
    }
}
