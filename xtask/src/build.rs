//! `cargo xtask build`: the daemon with its eBPF programs, which `flowlog/build.rs` builds; and `flowlog-lake` where that
//! is asked for.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{setup, sh, workspace};

/// Which of cargo's profiles to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For tests and the demo.
    Dev,
    /// For real use and for measurements.
    Release,
}

/// Builds the `flowlog` binary.
///
/// # Errors
///
/// When something is missing that cannot be installed, or the build fails.
pub(crate) fn run(profile: Profile) -> Result<()> {
    setup::for_build()?;
    let mut cargo = sh::cargo("build");
    cargo.arg("--package=flowlog");
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    sh::run(&mut cargo)
}

/// Builds `flowlog-lake`, and puts it beside `flowlog`, which executes it.
///
/// # Errors
///
/// When the build fails.
pub(crate) fn lake(profile: Profile) -> Result<()> {
    let mut cargo = cargo_lake("build");
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    sh::run(&mut cargo)?;
    let flowlog = workspace::flowlog(profile);
    let directory = flowlog.parent().context("the path of flowlog has no directory")?;
    let profile = directory.file_name().context("the path of flowlog has no profile")?;
    let built = lake_target_dir().join(profile).join(LAKE);
    fs::create_dir_all(directory)?;
    let beside = directory.join(LAKE);
    // Not over a program that runs.
    let _ = fs::remove_file(&beside);
    fs::copy(&built, &beside).with_context(|| format!("cannot copy `{}`", built.display()))?;
    Ok(())
}

/// A call of cargo for the package of `flowlog-lake`, which is not of the workspace.
pub(crate) fn cargo_lake(subcommand: &str) -> Command {
    let mut cargo = sh::cargo(subcommand);
    cargo.current_dir(workspace::root().join("flowlog/lake")).env("CARGO_TARGET_DIR", lake_target_dir());
    cargo
}

const LAKE: &str = "flowlog-lake";

fn lake_target_dir() -> PathBuf {
    workspace::target_dir().join("lake")
}

/// Builds one of the measurements of `flowlog/benches`, for release. Returns where it is.
///
/// # Errors
///
/// When something is missing that cannot be installed, or the build fails.
pub(crate) fn bench(name: &str) -> Result<PathBuf> {
    setup::for_build()?;
    let mut cargo = sh::cargo("build");
    cargo.args(["--release", "--package=flowlog", "--bench", name]);
    // Cargo puts it where only cargo knows.
    cargo.args(["--quiet", "--message-format=json-render-diagnostics"]);
    // What the compiler says is for whoever waits.
    let Output { status, stdout, .. } =
        cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(status.success(), "cargo could not build the measurement `{name}`");
    let messages = String::from_utf8_lossy(&stdout);
    let executable = messages.lines().rev().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_wanted = message.pointer("/target/name")?.as_str()? == name;
        message.get("executable")?.as_str().filter(|_| is_wanted).map(PathBuf::from)
    });
    executable.with_context(|| format!("cargo does not say where it put the measurement `{name}`"))
}
