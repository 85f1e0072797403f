//! Where things are in the workspace.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context as _, Result};

use crate::build::Profile;

/// The root of the workspace. Cargo tells it to what it runs; with a target directory that two clones
/// share, the path at the build may be that of the other one.
pub(crate) fn root() -> &'static Path {
    static XTASK: LazyLock<PathBuf> = LazyLock::new(|| {
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
    });
    XTASK.parent().unwrap_or(&XTASK)
}

/// Cargo's target directory: what is built and what the commands leave behind.
pub(crate) fn target_dir() -> PathBuf {
    // A relative CARGO_TARGET_DIR counts from where cargo was called, which is where xtask runs.
    env::var_os("CARGO_TARGET_DIR")
        .map(PathBuf::from)
        .and_then(|directory| std::path::absolute(directory).ok())
        .unwrap_or_else(|| root().join("target"))
}

/// Where cargo puts the `flowlog` of a profile.
pub(crate) fn flowlog(profile: Profile) -> PathBuf {
    target_dir().join(match profile {
        Profile::Dev => "debug/flowlog",
        Profile::Release => "release/flowlog",
    })
}

/// True for root: namespaces, conntrack and eBPF are for root only.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of a process's own directory is its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Makes an empty directory, whatever was there.
///
/// # Errors
///
/// When the disk refuses it.
pub(crate) fn make_empty(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove `{}`", directory.display()));
        }
        _ => {}
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot make `{}`", directory.display()))
}
