//! A cgroup with a name that Docker would give it: what flowlog knows a container by.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::sh;

/// Moves itself into the cgroup of its first argument, and runs the rest.
const ENTER: &str = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";

/// The cgroup. Dropping it removes it, which needs that its processes have ended.
pub(super) struct Container {
    directory: PathBuf,
}

impl Container {
    /// Makes it, without processes.
    ///
    /// # Errors
    ///
    /// When no cgroup v2 is mounted, or the kernel refuses the cgroup.
    pub(super) fn new() -> Result<Self> {
        let mut findmnt = Command::new("findmnt");
        findmnt.args(["--noheadings", "--first-only", "--types", "cgroup2", "--output", "TARGET"]);
        let root =
            sh::output(&mut findmnt).context("no cgroup v2 is mounted, where flowlog finds sockets")?;
        // 64 digits, as the ids of Docker.
        let half = || {
            fs::read_to_string("/proc/sys/kernel/random/uuid")
                .map(|uuid| uuid.trim().replace('-', ""))
                .context("cannot read a random number")
        };
        let directory = PathBuf::from(root.trim()).join(format!("docker-{}{}.scope", half()?, half()?));
        fs::create_dir(&directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
        Ok(Self { directory })
    }

    /// The same command inside of the container.
    pub(super) fn contain(&self, command: &Command) -> Command {
        // First of all: a namespace of `ip netns` does not show the file system of cgroups.
        let mut contained = Command::new("sh");
        contained.args(["-c", ENTER, "sh"]).arg(&self.directory);
        contained.arg(command.get_program()).args(command.get_args());
        contained
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.directory) {
            eprintln!("demo: cannot remove `{}`: {error}", self.directory.display());
        }
    }
}
