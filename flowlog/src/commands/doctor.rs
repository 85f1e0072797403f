//! Preflight checks: what keeps flows, counters, times or processes out of the log, and the fixes for
//! what can be fixed from here.
//!
//! A check leaves everything as it was. Fixes are separate, say how to undo them, and touch only the
//! sysctls of connection tracking and a table of flowlog's own.

mod fix;
mod host;
mod memory;
mod table;
mod tracking;

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use comfy_table::Table;
use serde::Serialize;

use crate::commands::arguments::Where;
use crate::commands::config;
use crate::commands::terminal;
use crate::host::namespace::{Namespace, Wanted};

pub use fix::{Fixed, add_rules, fix};
pub use host::check_host;
pub use memory::check_memory;
pub use table::check_table;
pub use tracking::{Settings, check_namespace, read_settings};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Flows are logged, but something is missing in them.
    Warning,
    /// Flows, or all their counters or times, are missing.
    Problem,
}

/// The outcome of one check.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at, a short stable name.
    pub check: &'static str,
    /// The network namespace, where the check is about one: as it was given, or `own`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// How bad it is.
    pub level: Level,
    /// What was found, and what follows from it.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, netns: None, level: Level::Ok, found: found.into(), advice: None }
    }

    fn bad(check: &'static str, level: Level, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, netns: None, level, found: found.into(), advice: Some(advice.into()) }
    }
}

/// Arguments of `flowlog doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    place: Where,

    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// `flowlog doctor`: whether all is well.
///
/// # Errors
///
/// Where a check or a fix could not be made at all.
pub fn run(args: &DoctorArgs) -> Result<bool> {
    let DoctorArgs { place: Where { output, netns, fix }, json } = args;
    let output = output.as_deref().unwrap_or(Path::new(config::OUTPUT));
    let mut findings = check_host(output);
    let mut fixes = Vec::new();
    for namespace in Wanted::new(netns)?.open()? {
        let name = namespace.label().to_owned();
        if *fix {
            let fixed = fix_namespace(&namespace, |fixed| fixes.push((name.clone(), fixed)));
            if fixed.is_err() {
                // What was done before it failed has to be known to be undone.
                write_fixes(&fixes)?;
            }
            fixed?;
        }
        let checked = namespace.run(|| {
            let mut checked = check_namespace(namespace.name());
            checked.push(check_table(&name, output));
            checked.push(check_memory());
            checked
        })?;
        findings.extend(checked.into_iter().map(|finding| Finding { netns: Some(name.clone()), ..finding }));
    }
    let well = findings.iter().all(|finding| finding.level != Level::Problem);

    let mut out = io::stdout();
    if *json {
        let fixes: Vec<_> = fixes
            .iter()
            .map(|(netns, Fixed { done, undo })| serde_json::json!({ "netns": netns, "done": done, "undo": undo }))
            .collect();
        let report = serde_json::json!({ "ok": well, "findings": findings, "fixes": fixes });
        writeln!(out, "{report:#}")?;
    } else {
        write_fixes(&fixes)?;
        writeln!(out, "{}", findings_table(&findings))?;
    }
    Ok(well)
}

fn write_fixes(fixes: &[(String, Fixed)]) -> io::Result<()> {
    let mut out = io::stdout();
    fixes.iter().try_for_each(|(netns, Fixed { done, undo })| {
        writeln!(out, "fixed in {netns}: {done}\n    undo: {undo}")
    })
}

fn findings_table(findings: &[Finding]) -> Table {
    let mut table = terminal::table();
    for Finding { check, netns, level, found, advice } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        let check = match netns {
            Some(netns) => format!("{check} ({netns})"),
            None => (*check).to_owned(),
        };
        let found = match advice {
            Some(advice) => format!("{found}\n-> {advice}"),
            None => found.clone(),
        };
        table.add_row([level, &check, &found]);
    }
    table
}

/// Fixes what the checks find in a namespace, and tells of each change when it is made. The rules are
/// added where nothing else is seen to track.
pub(crate) fn fix_namespace(namespace: &Namespace, mut each: impl FnMut(Fixed) + Send) -> Result<()> {
    let enter = match namespace.name() {
        Some(path) if path.contains('/') => format!("nsenter --net={path} "),
        Some(name) => format!("ip netns exec {name} "),
        None => String::new(),
    };
    namespace.run(|| {
        let is_tracked = check_namespace(namespace.name())
            .iter()
            .all(|finding| !finding.check.starts_with("tracking") || finding.level == Level::Ok);
        self::fix(!is_tracked, |Fixed { done, undo }| each(Fixed { done, undo: format!("{enter}{undo}") }))
    })?
}
