//! The container image: the static program, its licences, and nothing else. buildah makes it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Release;
use super::machine::{Linkage, Machine};
use super::program;
use crate::{sh, workspace};

/// buildah, with storage of its own in this directory: nothing stays on the machine.
pub(super) fn buildah(directory: &Path) -> Command {
    let mut buildah = Command::new("buildah");
    for (option, place) in [("--root", "storage"), ("--runroot", "run")] {
        buildah.arg(option).arg(directory.join(place));
    }
    buildah.args(["--storage-driver", "vfs"]);
    buildah
}

/// Makes the image, an archive in OCI's format.
///
/// # Errors
///
/// When buildah fails.
pub(super) fn make(release: &Release, machine: Machine) -> Result<()> {
    println!("dist: making the container image for {}", machine.debian());
    let directory = workspace::target_dir().join("tmp/image");
    workspace::make_empty(&directory)?;
    let buildah = || buildah(&directory);
    let container = sh::output(buildah().args(["from", "--arch", machine.debian(), "scratch"]))?;
    let container = container.trim();
    let built = program::directory(machine, Linkage::Static).join("package/flowlog");
    let licences = program::directory(machine, Linkage::Gnu).join("package/THIRD-PARTY-LICENSES");
    let root = workspace::root();
    let files = [
        (built, "/flowlog", "755"),
        (licences, "/licenses/THIRD-PARTY-LICENSES", "644"),
        (root.join("LICENSE-APACHE"), "/licenses/LICENSE-APACHE", "644"),
        (root.join("LICENSE-MIT"), "/licenses/LICENSE-MIT", "644"),
    ];
    for (file, place, mode) in files {
        sh::output(buildah().args(["copy", "--chmod", mode, container]).arg(file).arg(place))?;
    }
    let mut config = buildah();
    config.args(["config", "--os", "linux", "--arch", machine.debian()]);
    config.args(["--entrypoint", r#"["/flowlog"]"#, "--cmd", "run"]);
    for (name, value) in [
        ("title", "flowlog"),
        ("description", "Log of finished network connections, with their processes, as Parquet"),
        ("version", &release.version),
        ("licenses", "MIT OR Apache-2.0"),
    ] {
        config.arg("--label").arg(format!("org.opencontainers.image.{name}={value}"));
    }
    sh::output(config.arg(container))?;
    let layout = directory.join("layout");
    fs::create_dir(&layout).context("cannot make a directory for the image")?;
    let mut commit = buildah();
    commit.args([
        "commit",
        "--quiet",
        "--disable-compression=false",
        "--format",
        "oci",
        "--timestamp",
        &release.epoch.to_string(),
        container,
    ]);
    sh::output(commit.arg(format!("oci:{}:flowlog:{}", layout.display(), release.version)))?;
    // buildah's own archive has the time at which it is written.
    sh::output(release.tar(&release.image(machine), &layout).arg("."))?;
    Ok(())
}
