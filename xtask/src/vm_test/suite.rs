//! The programs that run in the virtual machines, and which of the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::build::Profile;
use crate::{sh, workspace};

/// What programs are built for: named, so that the flags below are not for build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Tests that do not run in virtual machines, by the beginning of their name, and why.
pub(super) const LEFT_OUT: [(&str, &str); 8] = [
    ("go_server::", "needs a Go compiler; `kinds` has the same kinds of sockets"),
    ("clocks::slow_clocks", "needs a C compiler, and stands in for the clocks that such a machine has"),
    (
        "crash::a_killed_daemon_loses_nothing_that_the_write_ahead_log_had",
        "kills daemons so early that an emulated processor has not begun to write",
    ),
    ("faults::", "needs strace and libfaketime, which answer in the place of the kernel"),
    ("model::two_hundred_random_schedules_are_recorded_exactly", "takes minutes on a fast machine"),
    ("readers::", "needs Python with DuckDB, Polars and pyarrow, which see files, not kernels"),
    (
        "short_lived::ten_thousand_short_processes_are_all_named",
        "waits five minutes for what takes emulated processors longer",
    ),
    ("soak::", "takes ten minutes on a fast machine"),
];

/// A few tests that show the essence in minutes: flows, NAT, processes at their ends, recovery, and what
/// differs between kernels.
const SHORT: [&str; 18] = [
    "clocks::",
    "no_accounting::",
    "addresses::",
    "dumps::",
    "nat::",
    "commands::",
    "containers::the_container_of_a_process_is_named",
    "containers::containers_that_live_for_a_millisecond",
    "handover::",
    "kinds::",
    "older::",
    "processes::",
    "workers::",
    "crash::the_time_without_a_daemon_is_a_gap",
    "full_disk::recovery_waits_for_room",
    "host_watch::a_full_table",
    "requests::",
    "socket_facts::",
];

/// How much is tested.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// What [`SHORT`] names, or the filter, with the programs that `cargo xtask test` has built already.
    Short,
    /// All but what [`LEFT_OUT`] names, with programs that are linked statically.
    Whole,
}

/// What runs in a machine.
pub(super) struct Suite {
    pub(super) flowlog: PathBuf,
    pub(super) tests: PathBuf,
    /// The names of the tests.
    pub(super) names: Vec<String>,
    /// What the program of the tests is told.
    pub(super) arguments: Vec<String>,
    /// How long a machine may run.
    pub(super) limit: Duration,
}

/// Builds the programs.
///
/// # Errors
///
/// When the build fails, or no test is left.
pub(super) fn build(extent: Extent, filter: &[&str]) -> Result<Suite> {
    let cargo = |subcommand: &str, package: &str| {
        let mut cargo = sh::cargo(subcommand);
        cargo.args(["--package", package]);
        if extent == Extent::Whole {
            cargo
                .args(["--target", TARGET])
                .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
                // Emulated processors take half of the time for it.
                .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        }
        cargo
    };
    sh::run(&mut cargo("build", "flowlog"))?;
    let mut tests = cargo("test", "flowlog-tests");
    let told = sh::output(tests.args(["--no-run", "--message-format=json-render-diagnostics"]))?;
    let executable = told.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    let tests = executable.context("cargo told no program with the tests")?;
    let flowlog = match extent {
        Extent::Short => workspace::flowlog(Profile::Dev),
        Extent::Whole => workspace::target_dir().join(TARGET).join("debug/flowlog"),
    };

    let listed = sh::output(Command::new(&tests).args(["--list", "--format=terse"]))?;
    let names: Vec<String> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(|name| is_wanted(name, extent, filter))
        .map(str::to_owned)
        .collect();
    ensure!(!names.is_empty(), "no test has a name with one of {filter:?}");
    // Each by its name: a filter would also take tests that have it inside of theirs. One at a time: what one test
    // forks holds the sockets of another for long there.
    let arguments = ["--show-output", "--exact", "--test-threads=1"]
        .into_iter()
        .map(str::to_owned)
        .chain(names.iter().cloned())
        .collect();
    // The short ones take some minutes on an idle machine, and are not to keep others waiting for an hour.
    let limit = Duration::from_mins(if extent == Extent::Short { 20 } else { 100 });
    Ok(Suite { flowlog, tests, names, arguments, limit })
}

fn is_wanted(name: &str, extent: Extent, filter: &[&str]) -> bool {
    // The harness tests itself on this machine.
    if name.starts_with("harness::") || LEFT_OUT.iter().any(|(left_out, _)| name.starts_with(left_out)) {
        return false;
    }
    if !filter.is_empty() {
        return filter.iter().any(|part| name.contains(part));
    }
    extent == Extent::Whole || SHORT.iter().any(|short| name.starts_with(short))
}

impl Suite {
    /// What goes into the file system.
    pub(super) fn binaries(&self) -> [(&'static str, &Path); 2] {
        [("flowlog", &self.flowlog), ("e2e", &self.tests)]
    }
}
