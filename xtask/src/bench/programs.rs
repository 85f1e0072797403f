//! What the kernel counts of the eBPF programs of a daemon: how often each ran, and for how long.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::AddAssign;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use super::figures::{Cell, Section, figure};

/// The kernel counts as long as this lives. It needs no setting that would have to be restored.
pub(super) struct Counting {
    _counting: OwnedFd,
}

impl Counting {
    /// Starts to count.
    ///
    /// # Errors
    ///
    /// When the kernel is older than 5.8.
    pub(super) fn start() -> Result<Self> {
        let counting = enable_stats(Stats::RunTime)
            .context("the kernel does not count the time of eBPF programs; that needs Linux 5.8")?;
        Ok(Self { _counting: counting })
    }
}

/// Runs of one program.
#[derive(Clone, Copy, Default)]
pub(super) struct Runs {
    pub(super) count: u64,
    pub(super) time: Duration,
}

impl AddAssign for Runs {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.time += other.time;
    }
}

/// The runs of the programs of a process so far, by the name of the program. The kernel cuts names after
/// 15 letters: what is then the same is one program here.
///
/// # Errors
///
/// When the process is gone or has no programs.
pub(super) fn runs(pid: u32) -> Result<BTreeMap<String, Runs>> {
    let ids = program_ids(pid).with_context(|| format!("cannot list the eBPF programs of process {pid}"))?;
    ensure!(!ids.is_empty(), "process {pid} has no eBPF programs");
    let mut runs: BTreeMap<String, Runs> = BTreeMap::new();
    for program in loaded_programs() {
        // Programs of others may go at any time.
        let Ok(program) = program else { continue };
        if ids.contains(&program.id()) {
            let name = program.name_as_str().unwrap_or("?").to_owned();
            *runs.entry(name).or_default() += Runs { count: program.run_count(), time: program.run_time() };
        }
    }
    Ok(runs)
}

/// The runs of the programs of a process since it had done `before`.
///
/// # Errors
///
/// Those of [`runs`].
pub(super) fn runs_since(pid: u32, before: &BTreeMap<String, Runs>) -> Result<BTreeMap<String, Runs>> {
    let mut runs = runs(pid)?;
    for (name, runs) in &mut runs {
        let before = before.get(name).copied().unwrap_or_default();
        runs.count -= before.count;
        runs.time -= before.time;
    }
    Ok(runs)
}

/// What each program took of `count` connections or the like: runs and time of one.
pub(super) fn section(
    key: Cow<'static, str>,
    title: &str,
    runs: BTreeMap<String, Runs>,
    count: f64,
) -> Section {
    let row = |(name, runs): (String, Runs)| {
        let (times, ns) = (figure(runs.count), runs.time.as_secs_f64() * 1e9);
        vec![
            Cell::Text(name),
            Cell::Figure(times / count, 2),
            Cell::Figure(ns / times.max(1.0), 0),
            Cell::Figure(ns / count, 0),
        ]
    };
    let mut by_time: Vec<(String, Runs)> = runs.into_iter().filter(|(_, runs)| runs.count > 0).collect();
    by_time.sort_by_key(|(_, runs)| std::cmp::Reverse(runs.time));
    let mut sum = Runs::default();
    for (_, runs) in &by_time {
        sum += *runs;
    }
    let rows = by_time.into_iter().chain([("sum".to_owned(), sum)]).map(row).collect();
    Section { title: title.to_owned(), key, columns: &["program", "runs", "ns_per_run", "ns"], rows }
}

/// The ids of the programs that the descriptors of a process stand for.
fn program_ids(pid: u32) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed meanwhile, but the programs stay.
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        // Links to programs have the id, too.
        ids.extend(info.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}
