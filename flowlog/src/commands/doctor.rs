//! Preflight checks: what keeps flows, counters, times or processes out of the log, and the fixes for
//! what can be fixed from here.
//!
//! A check leaves everything as it was. Fixes are separate, say how to undo them, and touch only the
//! sysctls of connection tracking and a table of flowlog's own.

mod fix;
mod host;
mod table;
mod tracking;

use serde::Serialize;

pub use fix::{Fixed, add_rules, fix};
pub use host::check_host;
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
