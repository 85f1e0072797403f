//! `cargo xtask build`: the daemon with its eBPF programs, which `flowlog/build.rs` builds.

use std::path::PathBuf;
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{setup, sh};

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
