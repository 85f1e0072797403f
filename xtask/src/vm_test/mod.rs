//! `cargo xtask vm-test`: the end-to-end tests on kernels of Debian, in virtual machines.
//!
//! The kernels and their modules come from Debian's packages, the tests and flowlog from this workspace, and
//! all else from this machine. No kernel is installed, and nothing of the machine is changed.

mod archive;
mod image;
mod kernels;
mod machine;
mod report;
mod suite;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};

use self::kernels::{Bootable, Kernel};
use self::report::Tested;
use self::suite::{Extent, LEFT_OUT, Suite};
use crate::interrupt::Interrupt;
use crate::{setup, workspace};

const USAGE: &str = "\
usage: cargo xtask vm-test [OPTIONS] [TEST]...

Runs the end-to-end tests, or those whose names contain one of TEST, on kernels of Debian in virtual machines.

  --kernel VERSION  only on this one, as 5.10, 6.1-amd64 or newest-cloud-amd64 (may be repeated)
  --short           only the tests that `cargo xtask test` runs in virtual machines
";

/// How many kernels must be there, where none is asked for by name.
const LEAST: usize = 3;

/// What to do.
struct Options<'a> {
    kernels: Vec<Kernel>,
    least: usize,
    extent: Extent,
    filter: Vec<&'a str>,
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
    let counts = laboratory.test(&there, &suite::build(options.extent, &options.filter)?)?;
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Results on all kernels.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    /// Also those without a result.
    pub(crate) failed: u64,
}

/// Runs a few tests on the oldest and the newest kernel that Debian has. Says so where there are none.
///
/// # Errors
///
/// When a machine cannot be made, and when it is interrupted.
pub(crate) fn on_oldest_and_newest() -> Result<Counts> {
    if let Err(error) = setup::for_machines() {
        println!("left out, because virtual machines are not to be had: {error:#}");
        return Ok(Counts::default());
    }
    let laboratory = Laboratory::open()?;
    let mut kernels = kernels::all().into_iter().filter(Kernel::is_cloud);
    let oldest = kernels.find_map(|kernel| laboratory.fetch(&kernel));
    let newest = kernels.rev().find_map(|kernel| laboratory.fetch(&kernel));
    let there: Vec<Bootable> = oldest.into_iter().chain(newest).collect();
    if there.is_empty() {
        println!("left out, because Debian's kernels are not to be had");
        return Ok(Counts::default());
    }
    laboratory.test(&there, &suite::build(Extent::Short, &[])?)
}

fn parse<'a>(mut arguments: &[&'a str]) -> Result<Options<'a>> {
    let mut names = Vec::new();
    let mut options = Options { kernels: Vec::new(), least: 1, extent: Extent::Whole, filter: Vec::new() };
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
            [option, ..] if option.starts_with('-') => bail!("`{option}` is unknown, or has no value"),
            [test, rest @ ..] => {
                options.filter.push(test);
                rest
            }
        };
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
    interrupt: Interrupt,
}

impl Laboratory {
    fn open() -> Result<Self> {
        let directory = workspace::target_dir().join("vm-test");
        fs::create_dir_all(&directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
        Ok(Self { directory, interrupt: Interrupt::catch()? })
    }

    /// A kernel, where it is to be had. Says why not.
    fn fetch(&self, kernel: &Kernel) -> Option<Bootable> {
        kernel
            .fetch(&self.directory)
            .inspect_err(|error| println!("vm-test: left out Linux {}: {error:#}", kernel.name()))
            .ok()
    }

    /// Runs the tests on each kernel, and prints the tables.
    fn test(&self, kernels: &[Bootable], suite: &Suite) -> Result<Counts> {
        let base = self.directory.join("base.cpio");
        image::make(&self.directory.join("base"), &suite.binaries(), &suite.arguments, &base)?;
        let mut counts = Counts::default();
        let mut tested = Vec::new();
        for kernel in kernels {
            println!("vm-test: {} tests on Linux {}", suite.names.len(), kernel.release);
            let kept = self.directory.join("runs").join(&kernel.release);
            let outcome = machine::run(kernel, &base, &kept, suite.limit, &self.interrupt);
            ensure!(!self.interrupt.is_set(), "interrupted");
            let outcome = outcome
                .inspect(|outcome| println!("vm-test: {} s", outcome.seconds))
                .inspect_err(|error| println!("vm-test: {error:#}"));
            let result = Tested { release: kernel.release.clone(), outcome: outcome.unwrap_or_default() };
            for name in &suite.names {
                if result.has_passed(name) {
                    counts.passed += 1;
                } else {
                    counts.failed += 1;
                    println!("vm-test: {name} did not pass; see `{}`", kept.join("results.log").display());
                }
            }
            tested.push(result);
        }
        println!("\n{}\n", report::tests(&tested, &suite.names));
        println!("{}\n\n{}\n", report::files(&tested, &suite.names), report::features(&tested));
        for line in report::lacking(&tested) {
            println!("{line}");
        }
        for (name, why) in LEFT_OUT {
            println!("left out: `{name}` {why}");
        }
        Ok(counts)
    }
}
