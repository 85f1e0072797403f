//! deb, rpm and tarball. `flowlog/Cargo.toml` lists the files of the first two; the tarball has those of the deb.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::machine::{Linkage, Machine};
use super::{Release, manual, program};
use crate::{setup, sh, workspace};

/// What the rpm has of the repository, besides the documentation.
const FROM_THE_REPOSITORY: [&str; 7] = [
    "packaging/flowlog.service",
    "packaging/flowlog.sysusers",
    "packaging/flowlog.toml",
    "README.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
];

/// Puts what is generated beside the program, where `flowlog/Cargo.toml` looks for it.
///
/// # Errors
///
/// When it cannot be written.
pub(super) fn stage(release: &Release, machine: Machine, generated: &Path, licences: &str) -> Result<()> {
    let package = program::directory(machine, Linkage::Gnu).join("package");
    workspace::make_empty(&package.join("man"))?;
    for page in manual::pages(generated)? {
        let name = page.file_name().context("a man page has no name")?;
        copy(&page, &package.join("man").join(name))?;
        compress(&package.join("man").join(name))?;
    }
    for (shell, file) in manual::COMPLETIONS {
        workspace::make_empty(&package.join(shell))?;
        copy(&generated.join(file), &package.join(file))?;
    }
    fs::write(package.join("THIRD-PARTY-LICENSES"), licences)?;
    copy(&workspace::root().join("CHANGELOG.md"), &package.join("changelog"))?;
    compress(&package.join("changelog"))?;

    let root = workspace::root();
    for file in FROM_THE_REPOSITORY {
        let file = root.join(file);
        copy(&file, &package.join(file.file_name().context("a file has no name")?))?;
    }
    workspace::make_empty(&package.join("docs"))?;
    for document in fs::read_dir(root.join("flowlog/docs")).context("there is no documentation")? {
        let document = document?;
        copy(&document.path(), &package.join("docs").join(document.file_name()))?;
    }

    let date = sh::output(
        Command::new("date").args(["-u", "-R", "-d", &format!("@{}", release.epoch)]).env("LC_ALL", "C"),
    )?;
    let changelog = format!(
        "flowlog ({}-1) stable; urgency=medium\n\n  * See changelog.gz.\n\n -- {MAINTAINER}  {date}",
        release.version
    );
    fs::write(package.join("changelog.Debian"), changelog)?;
    compress(&package.join("changelog.Debian"))
}

/// As in `flowlog/Cargo.toml`.
const MAINTAINER: &str = "The flowlog authors <flowlog@packages.invalid>";

/// Makes the deb. Returns where it is.
///
/// # Errors
///
/// When cargo-deb fails, or names the package otherwise.
pub(super) fn deb(release: &Release, machine: Machine) -> Result<PathBuf> {
    let mut deb = Command::new(setup::cargo_tool("cargo-deb"));
    complete(&mut deb, release);
    deb.args(["deb", "--package=flowlog", "--no-build", "--no-strip", "--quiet", "--locked", "--offline"]);
    deb.args(["--target", &machine.triple(Linkage::Gnu)]).arg("--output").arg(&release.directory);
    sh::run(&mut deb)?;
    expect(release.deb(machine))
}

/// Makes the rpm. Returns where it is.
///
/// # Errors
///
/// When cargo-generate-rpm fails, or names the package otherwise.
pub(super) fn rpm(release: &Release, machine: Machine) -> Result<PathBuf> {
    let mut rpm = Command::new(setup::cargo_tool("cargo-generate-rpm"));
    complete(&mut rpm, release);
    rpm.args(["generate-rpm", "--package=flowlog", "--target", &machine.triple(Linkage::Gnu)]);
    rpm.arg("--target-dir").arg(workspace::target_dir()).arg("--output").arg(&release.directory);
    sh::run(&mut rpm)?;
    expect(release.rpm(machine))
}

/// Makes the tarball, from what is in the deb.
///
/// # Errors
///
/// When a program fails.
pub(super) fn tarball(release: &Release, machine: Machine, deb: &Path) -> Result<()> {
    let name = release.name(machine, Linkage::Static);
    let directory = workspace::target_dir().join("tmp/tarball");
    workspace::make_empty(&directory)?;
    let root = directory.join(&name);
    sh::output(Command::new("dpkg-deb").arg("--extract").args([deb, &root]))?;
    copy(
        &program::directory(machine, Linkage::Static).join("package/flowlog"),
        &root.join("usr/bin/flowlog"),
    )?;
    let documents = root.join("usr/share/doc/flowlog");
    // A newer tarball is unpacked over an older one, and must not take settings away.
    fs::rename(root.join("etc/flowlog/flowlog.toml"), documents.join("flowlog.toml"))?;
    fs::remove_dir_all(root.join("etc")).context("cannot remove `etc`")?;
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        copy(&workspace::root().join(licence), &documents.join(licence))?;
    }
    // Other distributions look there.
    fs::create_dir_all(root.join("usr/share/zsh/site-functions"))?;
    fs::rename(
        root.join("usr/share/zsh/vendor-completions/_flowlog"),
        root.join("usr/share/zsh/site-functions/_flowlog"),
    )?;
    fs::remove_dir(root.join("usr/share/zsh/vendor-completions"))?;

    let archive = release.tarball(machine).with_extension("");
    sh::output(release.tar(&archive, &directory).arg(&name))?;
    compress(&archive)
}

/// Where tools find what was built, and the time that they write.
fn complete(command: &mut Command, release: &Release) {
    command.current_dir(workspace::root());
    command.env("CARGO_TARGET_DIR", workspace::target_dir());
    command.env("SOURCE_DATE_EPOCH", release.epoch.to_string());
}

fn expect(file: PathBuf) -> Result<PathBuf> {
    ensure!(file.is_file(), "there is no `{}`", file.display());
    Ok(file)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy `{}` to `{}`", from.display(), to.display()))?;
    Ok(())
}

/// Replaces a file by its compressed one: without its name and time in it.
fn compress(file: &Path) -> Result<()> {
    sh::output(Command::new("gzip").args(["--no-name", "--best", "--force"]).arg(file))?;
    Ok(())
}
