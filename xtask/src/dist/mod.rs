//! `cargo xtask dist`: what others install, for each kind of machine. All of it is in `target/dist`:
//!
//! | file | what |
//! |---|---|
//! | `flowlog_VERSION_ARCH.deb`, `flowlog-VERSION.ARCH.rpm` | the packages |
//! | `flowlog-VERSION-TARGET.tar.gz` | the same files, with a program that needs no library |
//! | `flowlog-VERSION-oci-ARCH.tar` | a container image of that program |
//! | `flowlog-VERSION-TARGET.debug` | what a debugger needs to know the lines of a program |
//! | `SHA256SUMS` | of all of them |
//!
//! Two runs give the same bytes, wherever the clones are: times are that of the last commit, and no path of the machine is
//! in it.

mod check;
mod image;
mod licences;
mod machine;
pub(crate) mod manual;
mod packages;
mod program;
mod rpm_root;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use machine::Linkage;
pub(crate) use machine::Machine;

use crate::{setup, sh, workspace};

/// What is made.
struct Release {
    version: String,
    /// When the last commit was made, in seconds since 1970: the time of everything in a package.
    epoch: u64,
    /// Where it goes.
    directory: PathBuf,
}

/// `cargo xtask dist [--target MACHINE]... [--check]`.
///
/// # Errors
///
/// When something is missing that cannot be installed, when a step fails, and when a check does.
pub(crate) fn run(arguments: &[&str]) -> Result<ExitCode> {
    let mut machines = Vec::new();
    let mut is_checked = false;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--target" => {
                let name = rest.next().context("--target needs `x86_64` or `aarch64`")?;
                machines.push(Machine::by_name(name)?);
            }
            "--check" => is_checked = true,
            other => bail!("unknown argument `{other}`, expected `--target x86_64|aarch64` or `--check`"),
        }
    }
    if machines.is_empty() {
        machines.push(Machine::own()?);
    }
    machines.dedup();
    make(&machines)?;
    if is_checked {
        check(&machines)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the packages for all machines, and checks them. Returns where the deb for this machine is.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn make_and_check() -> Result<PathBuf> {
    make(&Machine::ALL)?;
    check(&Machine::ALL)?;
    Ok(Release::new()?.deb(Machine::own()?))
}

fn make(machines: &[Machine]) -> Result<()> {
    setup::for_build()?;
    setup::for_dist(machines)?;
    let release = Release::new()?;
    if release.directory.exists() {
        fs::remove_dir_all(&release.directory).context("cannot empty `target/dist`")?;
    }
    fs::create_dir_all(&release.directory).context("cannot make `target/dist`")?;
    println!("dist: flowlog {}, man pages, completions and licences", release.version);
    let generated = workspace::target_dir().join("tmp/manual");
    manual::write(&generated)?;
    let licences = licences::text()?;
    for machine in machines {
        for linkage in [Linkage::Gnu, Linkage::Static] {
            program::build(&release, *machine, linkage)?;
        }
        packages::stage(&release, *machine, &generated, &licences)?;
        let deb = packages::deb(&release, *machine)?;
        packages::rpm(&release, *machine)?;
        packages::tarball(&release, *machine, &deb)?;
        image::make(&release, *machine)?;
    }
    let mut names = release.files()?;
    names.retain(|name| name != SUMS);
    let sums = sh::output(Command::new("sha256sum").args(&names).current_dir(&release.directory))?;
    fs::write(release.directory.join(SUMS), &sums).context("cannot write the checksums")?;
    print!("{sums}");
    println!("dist: all of it is in `{}`", release.directory.display());
    Ok(())
}

fn check(machines: &[Machine]) -> Result<()> {
    setup::for_dist_check(machines)?;
    check::all(&Release::new()?, machines)
}

/// The name of the file with the checksums.
const SUMS: &str = "SHA256SUMS";

impl Release {
    fn new() -> Result<Self> {
        let epoch = match env::var("SOURCE_DATE_EPOCH") {
            Ok(epoch) => epoch,
            Err(_) => {
                let mut git = Command::new("git");
                git.args(["log", "-1", "--format=%ct"]).current_dir(workspace::root());
                sh::output(&mut git).context("no time of the last commit; set SOURCE_DATE_EPOCH to one")?
            }
        };
        let epoch = epoch.trim().parse().context("SOURCE_DATE_EPOCH is not in seconds")?;
        // The one of the whole workspace.
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Self { version, epoch, directory: workspace::target_dir().join("dist") })
    }

    /// What a debugger needs for one of the programs.
    fn debug_file(&self, machine: Machine, linkage: Linkage) -> PathBuf {
        self.directory.join(format!("{}.debug", self.name(machine, linkage)))
    }

    fn name(&self, machine: Machine, linkage: Linkage) -> String {
        format!("flowlog-{}-{}", self.version, machine.triple(linkage))
    }

    fn tarball(&self, machine: Machine) -> PathBuf {
        self.directory.join(format!("{}.tar.gz", self.name(machine, Linkage::Static)))
    }

    fn image(&self, machine: Machine) -> PathBuf {
        self.directory.join(format!("flowlog-{}-oci-{}.tar", self.version, machine.debian()))
    }

    fn deb(&self, machine: Machine) -> PathBuf {
        self.directory.join(format!("flowlog_{}-1_{}.deb", self.version, machine.debian()))
    }

    fn rpm(&self, machine: Machine) -> PathBuf {
        self.directory.join(format!("flowlog-{}-1.{}.rpm", self.version, machine.name()))
    }

    /// The names of what is there, sorted.
    fn files(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).context("there is no `target/dist`")? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// A call of GNU tar that writes `archive` from what is in `directory`: the same bytes for the same files.
    fn tar(&self, archive: &std::path::Path, directory: &std::path::Path) -> Command {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sort=name", "--format=ustar", "--owner=0", "--group=0", "--numeric-owner"]);
        tar.arg(format!("--mtime=@{}", self.epoch)).arg("--mode=u+rwX,go+rX,go-w,u-s,g-s");
        tar.arg("--file").arg(archive).arg("--directory").arg(directory);
        tar
    }
}
