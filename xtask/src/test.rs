//! `cargo xtask test`: formatting, lints, documentation and all tests, cheapest first.
//!
//! A step before the tests that fails ends the run. All tests run even if some fail, the ones
//! against the real kernel last; then one line gives the sums.

use std::env;
use std::io::BufReader;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::dist::{self, manual};
use crate::ebpf_toolchain::EbpfToolchain;
use crate::results::Counts;
use crate::{build, fuzz, python, setup, sh, vm_test, workspace};

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
    step("formatting", || {
        sh::run(sh::cargo("fmt").args(["--all", "--check"]))?;
        sh::run(build::cargo_lake("fmt").arg("--check"))
    })?;
    step("lints", || {
        let mut clippy = sh::cargo("clippy");
        sh::run(clippy.args(USER_SIDE).args(["--all-targets", "--", "--deny=warnings"]))?;
        sh::run(build::cargo_lake("clippy").args(["--all-targets", "--", "--deny=warnings"]))
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
    step("build", || {
        sh::run(sh::cargo("build").arg("--package=flowlog"))?;
        build::lake(build::Profile::Dev)
    })?;

    step("man pages and completions", || {
        let directory = workspace::target_dir().join("tmp/manual");
        manual::write(&directory)?;
        manual::check(&directory)
    })?;

    let mut counts = Counts::default();
    step("unit and property tests", || {
        let mut test = sh::cargo("test");
        test.args(USER_SIDE).args(["--exclude=flowlog-tests", "--no-fail-fast", "--", "--show-output"]);
        counts.add(run_tests(&mut test)?);
        counts.add(run_tests(build::cargo_lake("test").args(["--", "--show-output"]))?);
        Ok(())
    })?;
    step("end-to-end tests", || {
        let mut test = sh::cargo("test");
        test.args(["--package=flowlog-tests", "--", "--show-output"])
            .env("FLOWLOG_BIN", workspace::flowlog(build::Profile::Dev))
            .env("FLOWLOG_READERS_PYTHON", python::interpreter());
        counts.add(run_tests(&mut test)?);
        Ok(())
    })?;
    step("end-to-end tests on the oldest and the newest kernel", || {
        counts.add(vm_test::on_oldest_and_newest()?);
        Ok(())
    })?;
    if length == Length::Long {
        step("build for long tests", || {
            sh::run(sh::cargo("build").args(["--package=flowlog", "--release"]))
        })?;
        let mut deb = None;
        step("packages", || {
            deb = Some(dist::make_and_check()?);
            Ok(())
        })?;
        step("long tests", || {
            let mut test = sh::cargo("test");
            test.args(["--package=flowlog-tests", "--", "--ignored", "--nocapture"])
                .env("FLOWLOG_BIN", workspace::flowlog(build::Profile::Release));
            test.envs(deb.iter().map(|deb| ("FLOWLOG_DEB", deb)));
            counts.add(run_tests(&mut test)?);
            Ok(())
        })?;
        step("fuzzing", fuzz::run_all)?;
    }
    counts.print();
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

/// Runs `test`, a call of `cargo test`, and shows its output.
fn run_tests(test: &mut Command) -> Result<Counts> {
    let mut child = test.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let counts = Counts::of_libtest(BufReader::new(stdout), |line| println!("{line}"))?;
    let status = child.wait().context("cannot wait for cargo")?;
    // A failure that no test reports: something does not build, or a test binary crashed.
    ensure!(status.success() || counts.failed > 0, "cargo test ended with {status}");
    ensure!(counts.passed + counts.failed > 0, "no test ran");
    Ok(counts)
}
