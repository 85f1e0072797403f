//! `cargo xtask build`: the daemon with its eBPF programs, which `flowlog/build.rs` builds.

use anyhow::Result;

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
