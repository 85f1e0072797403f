//! `cargo xtask test`: formatting, lints, documentation and all tests, cheapest first.
//!
//! A step before the tests that fails ends the run. All tests run even if some fail, the ones
//! against the real kernel last; then one line gives the sums.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::ebpf_toolchain::EbpfToolchain;
use crate::vm_test::{self, Counts};
use crate::{build, fuzz, python, setup, sh, workspace};

/// The user side. The eBPF programs are for another target and are linted on their own.
const USER_SIDE: [&str; 2] = ["--workspace", "--exclude=flowlog-ebpf"];

/// Which tests to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Those that take minutes together.
    Usual,
    /// Also those that take many minutes each.
    Long,
}

/// Runs everything. Failed tests are a failure that has its own last line, not an error.
///
/// # Errors
///
/// When something is missing that cannot be installed, or a step fails for another reason.
pub(crate) fn run(length: Length) -> Result<ExitCode> {
    ensure!(
        workspace::is_root(),
        "the tests make network namespaces and load eBPF programs: run them as root"
    );
    step("setup", || {
        setup::for_build()?;
        setup::for_lints()?;
        setup::for_traffic()?;
        // A listener beside flowlog.
        setup::for_comparison();
        Ok(())
    })?;
    step("formatting", || sh::run(sh::cargo("fmt").args(["--all", "--check"])))?;
    step("lints", || {
        let mut clippy = sh::cargo("clippy");
        sh::run(clippy.args(USER_SIDE).args(["--all-targets", "--", "--deny=warnings"]))
    })?;
    step("lints of the eBPF programs", || {
        lint_programs(&[])?;
        lint_programs(&["--features=log"])
    })?;
    step("documentation", || {
        let mut doc = sh::cargo("doc");
        doc.args(USER_SIDE).args(["--no-deps", "--document-private-items"]);
        sh::run(doc.env("RUSTDOCFLAGS", "--deny=warnings"))
    })?;
    step("build", || sh::run(sh::cargo("build").arg("--package=flowlog")))?;

    let mut sums = Sums::default();
    step("unit and property tests", || {
        let mut test = sh::cargo("test");
        test.args(USER_SIDE).args(["--exclude=flowlog-tests", "--no-fail-fast"]);
        sums.run(&mut test)
    })?;
    step("end-to-end tests", || {
        let mut test = sh::cargo("test");
        test.arg("--package=flowlog-tests")
            .env("FLOWLOG_BIN", workspace::flowlog(build::Profile::Dev))
            .env("FLOWLOG_READERS_PYTHON", python::interpreter());
        sums.run(&mut test)
    })?;
    step("end-to-end tests on the oldest and the newest kernel", || {
        let Counts { passed, failed } = vm_test::on_oldest_and_newest()?;
        sums.passed += passed;
        sums.failed += failed;
        Ok(())
    })?;
    if length == Length::Long {
        step("build for long tests", || {
            sh::run(sh::cargo("build").args(["--package=flowlog", "--release"]))
        })?;
        step("long tests", || {
            let mut test = sh::cargo("test");
            test.args(["--package=flowlog-tests", "--", "--ignored", "--nocapture"])
                .env("FLOWLOG_BIN", workspace::flowlog(build::Profile::Release));
            sums.run(&mut test)
        })?;
        step("fuzzing", fuzz::run_all)?;
    }
    println!("\n{} passed, {} failed", sums.passed, sums.failed);
    Ok(if sums.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Clippy of the compiler that builds the programs, for the target they are built for.
fn lint_programs(features: &[&str]) -> Result<()> {
    let toolchain = EbpfToolchain::find()?;
    // Not `cargo clippy`: that would be the clippy of the compiler of the user side.
    let mut clippy = Command::new(toolchain.sysroot.join("bin/cargo-clippy"));
    clippy.arg("clippy").current_dir(workspace::root());
    let endian = if cfg!(target_endian = "little") { "little" } else { "big" };
    let target_dir = workspace::target_dir().join("ebpf");
    toolchain.complete(&mut clippy, env::consts::ARCH, endian, &target_dir)?;
    sh::run(clippy.args(features).args(["--", "--deny=warnings"]))
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n== {name}");
    let start = Instant::now();
    work().with_context(|| format!("failed: {name}"))?;
    println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Results of all test binaries.
#[derive(Default)]
struct Sums {
    passed: u64,
    failed: u64,
}

impl Sums {
    /// Runs `test`, a call of `cargo test`, shows its output and adds its results.
    fn run(&mut self, test: &mut Command) -> Result<()> {
        let mut child = test.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
        let stdout = child.stdout.take().context("cargo has no output")?;
        let before = (self.passed, self.failed);
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read the output of the tests")?;
            println!("{line}");
            self.add(&line);
        }
        let status = child.wait().context("cannot wait for cargo")?;
        // A failure that no test reports: something does not build, or a test binary crashed.
        ensure!(status.success() || self.failed > before.1, "cargo test ended with {status}");
        if before == (self.passed, self.failed) {
            bail!("no test ran");
        }
        Ok(())
    }

    /// Adds `line`, where it is the closing line of a test binary:
    /// `test result: ok. 3 passed; 0 failed; 0 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let count = |name| {
            let words: Vec<&str> = result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
            let position = words.iter().position(|word| *word == name)?;
            words.get(position.checked_sub(1)?)?.parse::<u64>().ok()
        };
        self.passed += count("passed").unwrap_or(0);
        self.failed += count("failed").unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_summed_and_others_are_not() {
        let mut sums = Sums::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test tests::test_result ... ok",
            "test result: FAILED. 20 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ] {
            sums.add(line);
        }
        assert_eq!((sums.passed, sums.failed), (23, 2));
    }
}
