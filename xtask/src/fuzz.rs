//! `cargo xtask fuzz`: runs the targets of `flowlog/fuzz`, each for some time.
//!
//! A target begins with its seeds and with what earlier runs found to be new, which stays below the target
//! directory. All run even if some fail.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{setup, sh, workspace};

/// How long each target runs.
pub(crate) const DEFAULT_SECONDS: u32 = 60;

/// What an input may take. The largest that is right are the 65 536 rows of a frame, some 100 MiB; a
/// length that is believed asks for gigabytes.
const LIMITS: [&str; 3] = ["-rss_limit_mb=2048", "-malloc_limit_mb=512", "-timeout=20"];

/// Runs what the arguments say: `[--seconds N] [TARGET...]`.
///
/// # Errors
///
/// When there is no such target, or something is missing that cannot be installed.
pub(crate) fn run(arguments: &[&str]) -> Result<ExitCode> {
    let (seconds, wanted) = match arguments {
        ["--seconds", seconds, wanted @ ..] => {
            (seconds.parse().with_context(|| format!("`{seconds}` is not a number of seconds"))?, wanted)
        }
        wanted => (DEFAULT_SECONDS, wanted),
    };
    let known = targets()?;
    if let Some(unknown) = wanted.iter().find(|wanted| !known.iter().any(|known| known == *wanted)) {
        bail!("there is no target `{unknown}`, expected one of {}", known.join(", "));
    }
    let chosen = known.iter().filter(|known| wanted.is_empty() || wanted.contains(&known.as_str()));
    let failed = all(chosen, seconds)?;
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nfailed: {}", failed.join(", "));
    println!("mend it, and keep the input in flowlog/fuzz/corpus, where the tests replay it");
    Ok(ExitCode::FAILURE)
}

/// Runs all targets, and fails where one does.
///
/// # Errors
///
/// Like [`run`].
pub(crate) fn run_all() -> Result<()> {
    let failed = all(&targets()?, DEFAULT_SECONDS)?;
    ensure!(failed.is_empty(), "the fuzzer found something in: {}", failed.join(", "));
    Ok(())
}

/// Runs the targets one after the other, and tells which failed.
fn all<'a>(targets: impl IntoIterator<Item = &'a String>, seconds: u32) -> Result<Vec<String>> {
    setup::for_fuzzing()?;
    sh::run(&mut cargo_fuzz("build"))?;
    let mut failed = Vec::new();
    for target in targets {
        print!("{target}: ");
        let log = state().join(format!("{target}.log"));
        let is_ok = one(target, seconds, &log)?;
        let said = fs::read(&log).with_context(|| format!("cannot read `{}`", log.display()))?;
        let said = String::from_utf8_lossy(&said);
        if is_ok {
            let executed = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
            println!("{} executions in {seconds} s", executed.unwrap_or("unknown").trim());
        } else {
            println!("failed, all of it is in {}", log.display());
            let lines: Vec<&str> = said.lines().collect();
            println!("{}", lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n"));
            failed.push(target.clone());
        }
    }
    Ok(failed)
}

/// Runs a target. Says whether it found nothing.
fn one(target: &str, seconds: u32, log: &Path) -> Result<bool> {
    let found = state().join("corpus").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot make `{}`", found.display()))?;
    let output = File::create(log).with_context(|| format!("cannot write `{}`", log.display()))?;
    let mut run = cargo_fuzz("run");
    run.arg(target).arg(found).arg(directory().join("corpus").join(target));
    run.arg("--").args(LIMITS).args([format!("-max_total_time={seconds}").as_str(), "-print_final_stats=1"]);
    run.stdout(output.try_clone()?).stderr(output);
    Ok(run.status().context("cannot run cargo fuzz")?.success())
}

fn cargo_fuzz(subcommand: &str) -> Command {
    let mut command = sh::cargo("fuzz");
    command.arg(subcommand).arg("--fuzz-dir").arg(directory());
    command.arg("--target-dir").arg(state());
    // The programs are no part of it. The sanitizer is an unstable option of the compiler.
    command.env("AYA_BUILD_SKIP", "1").env("RUSTC_BOOTSTRAP", "1");
    command
}

fn directory() -> PathBuf {
    workspace::root().join("flowlog/fuzz")
}

/// What is built and found.
fn state() -> PathBuf {
    workspace::target_dir().join("fuzz")
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let directory = directory().join("fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot read `{}`", directory.display()))? {
        names.extend(entry?.path().file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}
