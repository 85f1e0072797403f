//! `cargo xtask vm-test`: the end-to-end tests on kernels of Debian, in virtual machines.
//!
//! The kernels and their modules come from Debian's packages, the tests and flowlog from this workspace, and
//! all else from this machine. No kernel is installed, and nothing of the machine is changed.

mod archive;
mod image;
mod kernels;
mod machine;
mod podman;
mod qemu;
mod report;
mod suite;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};

use self::kernels::{Bootable, Kernel};
use self::machine::{Conditions, Machine, Verdict};
use self::podman::Podman;
use self::qemu::Qemu;
use self::report::Tested;
use self::suite::{Extent, LEFT_OUT, Suite};
use crate::interrupt::Interrupt;
use crate::results::Counts;
use crate::{setup, workspace};

const USAGE: &str = "\
usage: cargo xtask vm-test [OPTIONS] [TEST]...

Runs the end-to-end tests, or those whose names contain one of TEST, on kernels of Debian in virtual machines.

  --kernel VERSION  only on this one, as 5.10, 6.1-amd64 or newest-cloud-amd64 (may be repeated)
  --short           only the tests that `cargo xtask test` runs in virtual machines, or those of TEST, with the
                    programs that it has built
  --clock SOURCE    with this clock source, as acpi_pm or hpet; `default` is what the machine chooses (may be repeated,
                    and then all run with each)
  --load            beside two programs that keep both processors busy
";

/// Reading it takes microseconds, as on hosts whose usual clock is of no use.
const SLOW_CLOCK: &str = "acpi_pm";

/// How many kernels must be there, where none is asked for by name.
const LEAST: usize = 3;

/// What to do.
struct Options<'a> {
    kernels: Vec<Kernel>,
    least: usize,
    extent: Extent,
    filter: Vec<&'a str>,
    clocks: Vec<Option<String>>,
    load: bool,
}

/// Runs what `arguments` ask for, and prints its tables.
///
/// # Errors
///
/// When something is missing that cannot be installed, when too few kernels are there, and when it is
/// interrupted.
pub(crate) fn run(arguments: &[&str]) -> Result<ExitCode> {
    if let ["help" | "-h" | "--help", ..] = arguments {
        print!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    }
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(error) => {
            eprint!("xtask: {error:#}\n\n{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    setup::for_build()?;
    setup::for_machines()?;
    let laboratory = Laboratory::open()?;
    let there: Vec<Bootable> = options.kernels.iter().filter_map(|kernel| laboratory.fetch(kernel)).collect();
    ensure!(!laboratory.interrupt.is_set(), "interrupted");
    ensure!(
        there.len() >= options.least,
        "{} kernels are there, expected {} or more; see above why",
        there.len(),
        options.least
    );
    let under = |clock: &Option<String>| Conditions { clock: clock.clone(), load: options.load };
    let conditions: Vec<Conditions> = options.clocks.iter().map(under).collect();
    let runs: Vec<Run<'_>> = there
        .iter()
        .flat_map(|kernel| {
            conditions.iter().map(move |conditions| Run { kernel, conditions: conditions.clone() })
        })
        .collect();
    let counts = laboratory.test(&runs, &suite::build(options.extent, &options.filter)?)?;
    counts.print();
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A kernel that is to run the tests, and how.
struct Run<'k> {
    kernel: &'k Bootable,
    conditions: Conditions,
}

/// Runs a few tests on the oldest and the newest kernel that Debian has, on the newest with a slow clock, too. What is
/// not to be had is skipped, or fails where all of it is expected to run.
///
/// # Errors
///
/// When the programs cannot be built, and when it is interrupted.
pub(crate) fn on_oldest_and_newest() -> Result<Counts> {
    if let Err(error) = setup::for_machines() {
        return Ok(left_out(&format!("virtual machines are not to be had: {error:#}")));
    }
    let laboratory = match Laboratory::open() {
        Ok(laboratory) => laboratory,
        Err(error) => return Ok(left_out(&format!("virtual machines are not to be had: {error:#}"))),
    };
    let mut kernels = kernels::all().into_iter().filter(Kernel::is_cloud);
    let oldest = kernels.find_map(|kernel| laboratory.fetch(&kernel));
    let newest = kernels.rev().find_map(|kernel| laboratory.fetch(&kernel));
    let mut counts = Counts::default();
    if oldest.is_none() || newest.is_none() {
        counts.add(left_out("two of Debian's kernels are not to be had; see above why"));
    }
    let there: Vec<Bootable> = oldest.into_iter().chain(newest).collect();
    let usual = there.iter().map(|kernel| Run { kernel, conditions: Conditions::default() });
    let slow = Conditions { clock: Some(SLOW_CLOCK.to_owned()), load: false };
    let slow = there.last().map(|kernel| Run { kernel, conditions: slow });
    let runs: Vec<Run<'_>> = usual.chain(slow).collect();
    if !runs.is_empty() {
        counts.add(laboratory.test(&runs, &suite::build(Extent::Short, &[])?)?);
    }
    Ok(counts)
}

/// Tests in virtual machines that are left out. Where `CI` is set that is a failure: nobody reads there what was skipped.
fn left_out(why: &str) -> Counts {
    let what = format!("tests in virtual machines: {why}");
    println!("left out: {what}");
    counted(what, std::env::var_os("CI").is_some_and(|value| !value.is_empty()))
}

fn counted(left_out: String, is_failure: bool) -> Counts {
    if is_failure {
        Counts { failed: 1, failures: vec![left_out], ..Counts::default() }
    } else {
        Counts { skipped: vec![left_out], ..Counts::default() }
    }
}

fn parse<'a>(mut arguments: &[&'a str]) -> Result<Options<'a>> {
    let mut names = Vec::new();
    let mut options = Options {
        kernels: Vec::new(),
        least: 1,
        extent: Extent::Whole,
        filter: Vec::new(),
        clocks: Vec::new(),
        load: false,
    };
    loop {
        arguments = match arguments {
            [] => break,
            ["--kernel", name, rest @ ..] => {
                names.push(*name);
                rest
            }
            ["--short", rest @ ..] => {
                options.extent = Extent::Short;
                rest
            }
            ["--clock", clock, rest @ ..] => {
                options.clocks.push((*clock != "default").then(|| (*clock).to_owned()));
                rest
            }
            ["--load", rest @ ..] => {
                options.load = true;
                rest
            }
            [option, ..] if option.starts_with('-') => bail!("`{option}` is unknown, or has no value"),
            [test, rest @ ..] => {
                options.filter.push(test);
                rest
            }
        };
    }
    if options.clocks.is_empty() {
        options.clocks.push(None);
    }
    options.kernels = kernels::named(&names)?;
    if names.is_empty() {
        (options.kernels, options.least) = (kernels::all(), LEAST);
    }
    Ok(options)
}

/// Where kernels are kept and tested.
struct Laboratory {
    directory: PathBuf,
    qemu: Qemu,
    interrupt: Interrupt,
}

impl Laboratory {
    fn open() -> Result<Self> {
        let directory = workspace::target_dir().join("vm-test");
        fs::create_dir_all(&directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
        let qemu = Qemu::find(&directory)?;
        Ok(Self { directory, qemu, interrupt: Interrupt::catch()? })
    }

    /// A kernel, where it is to be had. Says why not.
    fn fetch(&self, kernel: &Kernel) -> Option<Bootable> {
        kernel
            .fetch(&self.directory)
            .inspect_err(|error| println!("vm-test: left out Linux {}: {error:#}", kernel.name()))
            .ok()
    }

    /// Runs the tests on each kernel, and prints the tables.
    fn test(&self, runs: &[Run<'_>], suite: &Suite) -> Result<Counts> {
        let base = self.directory.join("base.cpio");
        let mut counts = Counts::default();
        let podman = Podman::fetch(&self.directory).and_then(|podman| podman.files());
        let podman = podman
            .inspect_err(|error| counts.skipped.push(format!("Podman in virtual machines: {error:#}")))
            .unwrap_or_default();
        image::make(&self.directory.join("base"), &suite.binaries(), &podman, &suite.arguments, &base)?;
        let mut tested = Vec::new();
        for Run { kernel, conditions } in runs {
            let name = conditions.name(&kernel.release);
            println!("vm-test: {} tests on Linux {name}", suite.names.len());
            let kept = self.directory.join("runs").join(&name);
            // Beside the load they get half of the time, or less.
            let limit = suite.limit * if conditions.load { 3 } else { 1 };
            let machine =
                Machine { qemu: &self.qemu, kernel, conditions, base: &base, directory: &kept, limit };
            let outcome = machine.run(&self.interrupt);
            ensure!(!self.interrupt.is_set(), "interrupted");
            let outcome = outcome
                .inspect(|outcome| println!("vm-test: {} s", outcome.seconds))
                .inspect_err(|error| println!("vm-test: {error:#}"));
            let result = Tested { name, outcome: outcome.unwrap_or_default() };
            for name in &suite.names {
                match result.outcome.verdicts.get(name) {
                    Some(Verdict::Passed) => counts.passed += 1,
                    Some(Verdict::Skipped(why)) => {
                        counts.skipped.push(format!("{name} on Linux {}: {why}", result.name));
                    }
                    Some(Verdict::Failed) | None => {
                        counts.failed += 1;
                        let log = kept.join("results.log");
                        counts.failures.push(format!(
                            "{name} on Linux {}; see `{}`",
                            result.name,
                            log.display()
                        ));
                    }
                }
            }
            tested.push(result);
        }
        println!("\n{}\n", report::tests(&tested, &suite.names));
        println!("{}\n\n{}\n", report::files(&tested, &suite.names), report::features(&tested));
        for line in report::panics(&tested) {
            println!("{line}");
        }
        for (name, why) in LEFT_OUT {
            println!("left out: `{name}` {why}");
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_skipped_and_a_failure_where_all_is_expected() {
        let skipped = counted("no kernels".to_owned(), false);
        assert_eq!((skipped.failed, skipped.skipped), (0, vec!["no kernels".to_owned()]));
        let failed = counted("no kernels".to_owned(), true);
        assert_eq!((failed.failed, failed.skipped.len()), (1, 0));
    }
}
