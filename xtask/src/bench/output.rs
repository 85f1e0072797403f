//! Where what is measured writes to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result};

use crate::workspace;

/// A directory that nobody needs afterwards. Dropping it removes it.
pub(super) struct Output(PathBuf);

impl Output {
    /// Makes it below the target directory: on a disk, as where a daemon writes.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(super) fn new() -> Result<Self> {
        let directory = workspace::target_dir().join("bench").join(process::id().to_string());
        fs::create_dir_all(&directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
        Ok(Self(directory))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("bench: cannot remove `{}`: {error}", self.0.display());
        }
    }
}
