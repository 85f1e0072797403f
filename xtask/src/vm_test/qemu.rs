//! The emulator: the one of this machine, or one from Debian's packages, which are unpacked and not installed. So no
//! package of the machine is in its way, and nobody has to be root for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::archive::Archive;
use crate::{sh, workspace};

/// The program.
const PROGRAM: &str = "qemu-system-x86_64";

/// The package that has it.
const PACKAGE: &str = "qemu-system-x86";

/// The release that it is taken from, whatever the machine runs: it comes with its own libraries.
const SUITES: [&str; 2] = ["trixie", "trixie-security"];

/// Where Debian's packages have libraries.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// Where Debian's packages have what starts programs.
const LOADERS: [&str; 2] = ["usr/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"];

/// Where Debian's packages have what emulated machines begin with.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// The emulator.
pub(super) enum Qemu {
    /// On PATH.
    Installed,
    /// Below this directory, which has all that it needs.
    Unpacked(PathBuf),
}

impl Qemu {
    /// The one of this machine. Where it has none, fetches one into `directory`, if it is not there yet.
    ///
    /// # Errors
    ///
    /// When the packages are not to be had, or what is in them does not run.
    pub(super) fn find(directory: &Path) -> Result<Self> {
        if sh::find(PROGRAM).is_some() {
            return Ok(Self::Installed);
        }
        let kept = directory.join("qemu");
        let qemu = Self::Unpacked(kept.clone());
        if qemu.is_usable() {
            return Ok(qemu);
        }
        println!("vm-test: fetching QEMU, which is unpacked to `{}` and not installed", kept.display());
        workspace::make_empty(&kept)?;
        Archive::open(&directory.join("apt"), &SUITES)?.unpack_whole(PACKAGE, &kept)?;
        sh::output(qemu.command().arg("--version")).context("QEMU was unpacked and does not run")?;
        Ok(qemu)
    }

    fn is_usable(&self) -> bool {
        sh::output(self.command().arg("--version")).is_ok()
    }

    /// A call of it.
    pub(super) fn command(&self) -> Command {
        let Self::Unpacked(root) = self else { return Command::new(PROGRAM) };
        let loader = LOADERS.map(|path| root.join(path)).into_iter().find(|path| path.exists());
        let libraries = LIBRARIES.map(|path| root.join(path).display().to_string()).join(":");
        // Its libraries may be newer than those of the machine, so it gets its own loader, too.
        let mut command = Command::new(loader.unwrap_or_else(|| root.join(LOADERS[0])));
        command.args(["--library-path", &libraries]).arg(root.join("usr/bin").join(PROGRAM));
        for path in FIRMWARE {
            command.arg("-L").arg(root.join(path));
        }
        command.env("QEMU_MODULE_DIR", root.join(LIBRARIES[0]).join("qemu"));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_runs_with_its_own_loader_libraries_and_firmware() {
        let command = Qemu::Unpacked("/unpacked".into()).command();
        assert_eq!(command.get_program(), "/unpacked/usr/lib64/ld-linux-x86-64.so.2");
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        assert_eq!(
            arguments,
            [
                "--library-path",
                "/unpacked/usr/lib/x86_64-linux-gnu:/unpacked/lib/x86_64-linux-gnu",
                "/unpacked/usr/bin/qemu-system-x86_64",
                "-L",
                "/unpacked/usr/share/qemu",
                "-L",
                "/unpacked/usr/share/seabios",
            ]
        );
        assert_eq!(Qemu::Installed.command().get_program(), PROGRAM);
    }
}
