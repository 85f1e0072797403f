//! Throw-away network namespaces.

use std::fs::File;
use std::path::Path;
use std::process::{self, Command};
use std::thread;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::sh;

/// A network namespace with a name, and with loopback up. Dropping it removes it.
pub(crate) struct Namespace {
    /// What it is for its maker.
    pub(crate) role: &'static str,
    /// Its name in `/run/netns`.
    pub(crate) name: String,
}

impl Namespace {
    /// Makes it for a command of xtask.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub(crate) fn new(command: &str, role: &'static str) -> Result<Self> {
        // The number sets it apart from those of other runs.
        let name = format!("flowlog-{command}-{}-{role}", process::id());
        sh::output(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { role, name };
        namespace.ip(["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// A call of `program` inside of the namespace. It keeps the process number it is started with.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Does `work` on a thread inside: its sockets, and those of threads that it starts, are made there.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered, and those of `work`.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = Path::new("/run/netns").join(&self.name);
        let enter_and_work = || {
            let namespace = File::open(&path).with_context(|| format!("cannot open `{}`", path.display()))?;
            setns(namespace, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter `{}`", path.display()))?;
            work()
        };
        thread::scope(|scope| scope.spawn(enter_and_work).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `ip` for the namespace.
    ///
    /// # Errors
    ///
    /// With its words, when it fails.
    pub(crate) fn ip<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
        sh::output(Command::new("ip").args(["-n", &self.name]).args(arguments))?;
        Ok(())
    }

    /// Writes a file below `/proc/sys/net`, which shows the namespace of who opens it.
    ///
    /// # Errors
    ///
    /// When there is no such file, or it refuses the value.
    pub(crate) fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/net/{name}");
        self.inside(|| std::fs::write(&file, value).with_context(|| format!("cannot write `{file}`")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = sh::output(Command::new("ip").args(["netns", "delete", &self.name])) {
            eprintln!("xtask: {error:#}");
        }
    }
}
