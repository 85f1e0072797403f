//! The Python environment with the readers of Parquet files, in the target directory.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{debian, sh, workspace};

/// Pinned, so that a test does not change its result by itself.
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// The interpreter of the environment.
pub(crate) fn interpreter() -> PathBuf {
    environment().join("bin/python")
}

/// Makes the environment, where it is missing or has other readers than are pinned.
///
/// # Errors
///
/// When Python cannot make environments, or the readers cannot be fetched.
pub(crate) fn setup() -> Result<()> {
    // Written last: an environment without it is not complete.
    let installed = environment().join("requirements.txt");
    let unchanged = fs::read_to_string(&installed).is_ok_and(|pinned| pinned == REQUIREMENTS);
    if unchanged && interpreter().exists() {
        return Ok(());
    }

    let can_make_environments = sh::output(Command::new("python3").args(["-c", "import ensurepip, venv"]));
    if can_make_environments.is_err() {
        debian::install(&["python3-venv"], "the Python readers of the tests and the demo")?;
    }
    eprintln!("setup: installing DuckDB, Polars and pyarrow into {}", environment().display());
    match fs::remove_dir_all(environment()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove `{}`", environment().display()));
        }
        _ => {}
    }
    fs::create_dir_all(environment()).context("cannot make the Python environment")?;
    let pins = environment().join("wanted.txt");
    sh::output(Command::new("python3").args(["-m", "venv"]).arg(environment()))?;
    fs::write(&pins, REQUIREMENTS).context("cannot write the list of readers")?;
    let mut pip = Command::new(interpreter());
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]);
    sh::output(pip.arg("--requirement").arg(&pins))?;
    fs::rename(&pins, &installed).context("cannot keep the list of readers")
}

fn environment() -> PathBuf {
    workspace::target_dir().join("readers")
}
