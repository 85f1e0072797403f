//! A program that runs beside a command of xtask, and never outlives it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::sh;

/// A running program whose output goes to a file. Dropping it kills it.
pub(crate) struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts `command`, with all its output in the file `log`.
    ///
    /// # Errors
    ///
    /// When the file cannot be made or the program not started.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot make `{}`", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("cannot use `{}`", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C is for xtask only, which then ends its programs in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run `{}`", command.get_program().display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the program has written `word`.
    ///
    /// # Errors
    ///
    /// When the program has ended, with all it said.
    pub(crate) fn has_said(&mut self, word: &str) -> Result<bool> {
        let status = self.child.try_wait().context("cannot wait for a program")?;
        let said = self.said();
        if let Some(status) = status {
            bail!("a program that xtask started ended with {status}:\n{said}");
        }
        Ok(said.contains(word))
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    ///
    /// When the program has ended before.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        let status = self.child.try_wait().context("cannot wait for a program")?;
        ensure!(status.is_none(), "a program that xtask started ended too early:\n{}", self.said());
        // The standard library sends SIGKILL only. The number is still ours: nobody waited for it.
        sh::output(Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &self.child.id().to_string()]))?;
        Ok(())
    }

    /// Whether the program has ended, with success.
    ///
    /// # Errors
    ///
    /// When it failed, with all it said.
    pub(crate) fn has_succeeded(&mut self) -> Result<bool> {
        match self.child.try_wait().context("cannot wait for a program")? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => bail!("a program that xtask started ended with {status}:\n{}", self.said()),
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
