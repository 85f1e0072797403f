//! Podman for the virtual machines: from packages of this machine's release, which are not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{sh, workspace};

/// What has Podman, what it calls, and the libraries that few machines have. Busybox is what runs in a container: one
/// program without libraries.
const PACKAGES: [&str; 9] = [
    "podman",
    "conmon",
    "crun",
    "golang-github-containers-common",
    "golang-github-containers-image",
    "libgpgme11",
    "libsubid4",
    "libyajl2",
    "busybox-static",
];

/// What is needed of them; a name that ends with `*` stands for all that begin with the rest.
const FILES: [&str; 9] = [
    "usr/bin/podman",
    "usr/bin/conmon",
    "usr/bin/crun",
    "bin/busybox",
    "etc/containers/policy.json",
    "usr/share/containers/seccomp.json",
    "usr/lib/x86_64-linux-gnu/libgpgme.so*",
    "usr/lib/x86_64-linux-gnu/libsubid.so*",
    "usr/lib/x86_64-linux-gnu/libyajl.so*",
];

/// Where the packages were unpacked, with the files in their places.
pub(super) struct Podman(PathBuf);

impl Podman {
    /// Fetches it into `directory`, where it is not there yet.
    ///
    /// # Errors
    ///
    /// When a package is not to be had.
    pub(super) fn fetch(directory: &Path) -> Result<Self> {
        let kept = directory.join("podman");
        let complete = kept.join("packages.txt");
        let wanted = PACKAGES.join("\n");
        if !fs::read_to_string(&complete).is_ok_and(|kept| kept == wanted) {
            println!("vm-test: fetching Podman");
            workspace::make_empty(&kept)?;
            let mut download = Command::new("apt-get");
            sh::output(download.args(["--quiet", "download"]).args(PACKAGES).current_dir(&kept))?;
            for file in fs::read_dir(&kept).context("cannot read what was fetched")? {
                let file = file.context("cannot read what was fetched")?.path();
                sh::output(Command::new("dpkg-deb").arg("--extract").args([&file, &kept]))?;
                fs::remove_file(file).context("cannot remove a package")?;
            }
            fs::write(complete, wanted).context("cannot keep Podman")?;
        }
        Ok(Self(kept))
    }

    /// The files, as pairs of their place below the root and where they are now.
    ///
    /// # Errors
    ///
    /// When one is missing.
    pub(super) fn files(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut files = Vec::new();
        for name in FILES {
            match name.strip_suffix('*') {
                None => files.push(name.to_owned()),
                Some(begin) => {
                    let (directory, begin) = begin.rsplit_once('/').unwrap_or_default();
                    for entry in fs::read_dir(self.0.join(directory)).context("cannot read a package")? {
                        let found = entry.context("cannot read a package")?.file_name();
                        let found = found.to_string_lossy();
                        if found.starts_with(begin) {
                            files.push(format!("{directory}/{found}"));
                        }
                    }
                }
            }
        }
        Ok(files.into_iter().map(|file| (PathBuf::from(&file), self.0.join(&file))).collect())
    }
}
