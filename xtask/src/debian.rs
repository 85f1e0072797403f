//! Packages of Debian and its kin. Elsewhere, and without root, what is missing is named.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{sh, workspace};

/// Installs `packages`, which are needed for `purpose`. Removes none.
///
/// # Errors
///
/// With the command to run by hand, where there is no apt-get or no root; with the words of apt-get
/// where it fails.
pub(crate) fn install(packages: &[&str], purpose: &str) -> Result<()> {
    let packages = packages.join(" ");
    if sh::find("apt-get").is_none() {
        bail!("{purpose}: missing; install what Debian calls `{packages}` with your package manager");
    }
    if !workspace::is_root() {
        bail!("{purpose}: missing; run `sudo apt-get install {packages}`");
    }
    eprintln!("setup: installing {packages} with apt-get, for {purpose}");
    // Old lists name old versions, which may be gone from the mirror or too old for us. One source
    // that cannot be reached is no reason to stop: the others may have what is wanted.
    if let Err(error) = sh::output(apt_get().arg("update")) {
        eprintln!("setup: {error:#}");
    }
    // A package that replaces another, as `rustc-web` does with `rustc`, is for the user to decide.
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages.split(' '));
    sh::output(&mut install).with_context(|| format!("cannot install {packages} for {purpose}"))?;
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").env("DEBIAN_FRONTEND", "noninteractive");
    command
}
