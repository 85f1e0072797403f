//! The licences of all that is in the program: of each crate by cargo-about, which fails for one that is not accepted, and
//! of what crates bring along that is not Rust.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::machine::{Linkage, Machine};
use crate::{setup, sh, workspace};

/// Sources of C that crates bring along: name, crate, and the file with the licence there.
const BUNDLED: [(&str, &str, &str); 1] = [("zstd", "zstd-sys", "zstd/LICENSE")];

/// What the compiler adds.
const LIBRARIES: &str = include_str!("../../../packaging/libraries.txt");

/// The text for all of them.
///
/// # Errors
///
/// When a licence is not known or not accepted.
pub(super) fn text() -> Result<String> {
    let packaging = workspace::root().join("packaging");
    let directory = workspace::target_dir().join("tmp");
    fs::create_dir_all(&directory)?;
    // Also what only other systems need: cargo-about asks cargo for all of it, and takes nothing else from the network.
    sh::output(sh::cargo("fetch").arg("--locked"))?;
    let mut text = String::new();
    // The programs for the kernel are no dependency that cargo knows.
    for package in ["flowlog", "flowlog-ebpf"] {
        let output = directory.join(format!("licences-{package}.txt"));
        let mut about = Command::new(setup::cargo_tool("cargo-about"));
        about.current_dir(workspace::root()).args(["about", "generate", "--offline", "--locked", "--fail"]);
        about.arg("--config").arg(packaging.join("about.toml"));
        about.arg("--manifest-path").arg(workspace::root().join(package).join("Cargo.toml"));
        for machine in Machine::ALL {
            about.args(["--target", &machine.triple(Linkage::Gnu)]);
        }
        about.arg("--output-file").arg(&output).arg(packaging.join("about.hbs"));
        sh::output(&mut about)?;
        text.push_str(&format!("==== The licences of what {package} is made of ====\n\n"));
        text.push_str(&read(&output)?);
    }
    for (name, package, file) in BUNDLED {
        text.push_str(&format!("==== {name}, which is part of {package} ====\n\n"));
        text.push_str(&read(&crate_directory(package)?.join(file))?);
    }
    text.push('\n');
    text.push_str(LIBRARIES);
    Ok(text)
}

/// Where cargo has the sources of a crate.
fn crate_directory(name: &str) -> Result<std::path::PathBuf> {
    let metadata = sh::output(sh::cargo("metadata").args(["--format-version=1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo's metadata cannot be read")?;
    let packages = metadata.get("packages").and_then(Value::as_array).context("cargo lists no packages")?;
    let found = packages.iter().find(|package| package.get("name").and_then(Value::as_str) == Some(name));
    let manifest = found.and_then(|package| package.get("manifest_path")?.as_str());
    let manifest = manifest.with_context(|| format!("flowlog does not depend on {name} any more"))?;
    Ok(Path::new(manifest).parent().context("a manifest has no directory")?.to_path_buf())
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))
}
