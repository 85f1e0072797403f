//! The program that makes the load, `flowlog/benches/load`: builds it, runs it, reads what it says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::namespace::Namespace;
use crate::{build, sh};

/// The program.
pub(super) struct Load(PathBuf);

/// Entries that were made and removed.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) count: u64,
    /// The same for the same flows, in any order.
    pub(super) fingerprint: u64,
    /// When the first of them was about to be removed.
    pub(super) first_removed: SystemTime,
    /// How long all of it took.
    pub(super) took: Duration,
}

/// What the files of an output directory hold.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) count: u64,
    pub(super) fingerprint: u64,
    pub(super) bytes: u64,
    /// Declared losses.
    pub(super) gaps: u64,
}

impl Load {
    /// Builds it.
    ///
    /// # Errors
    ///
    /// When the build fails.
    pub(super) fn build() -> Result<Self> {
        build::bench("load").map(Self)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes `count` entries in `namespace`, of which `at_once` are there before they are removed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one.
    pub(super) fn make(
        &self,
        namespace: &Namespace,
        count: u32,
        at_once: u32,
        per_second: Option<u32>,
    ) -> Result<Made> {
        let mut command = namespace.command(&self.0.to_string_lossy());
        command.args(["make", "--count", &count.to_string(), "--at-once", &at_once.to_string()]);
        if let Some(per_second) = per_second {
            command.args(["--per-second", &per_second.to_string()]);
        }
        let said = Said::of(&sh::output(&mut command)?)?;
        Ok(Made {
            count: said.number("made")?,
            fingerprint: said.fingerprint()?,
            first_removed: UNIX_EPOCH + Duration::from_nanos(said.text("first_removed_ns")?.parse()?),
            took: Duration::from_secs_f64(said.figure("seconds")?),
        })
    }

    /// What a daemon has written.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub(super) fn rows(&self, output: &Path) -> Result<Rows> {
        let said = Said::of(&sh::output(Command::new(&self.0).arg("rows").arg(output))?)?;
        Ok(Rows {
            count: said.number("rows")?,
            fingerprint: said.fingerprint()?,
            bytes: said.number("bytes")?,
            gaps: said.number("gaps")?,
        })
    }
}

impl Made {
    /// These, and then those.
    pub(super) fn and(self, later: &Self) -> Self {
        Self {
            count: self.count + later.count,
            fingerprint: self.fingerprint.wrapping_add(later.fingerprint),
            first_removed: self.first_removed,
            took: self.took + later.took,
        }
    }
}

/// A line of JSON.
pub(super) struct Said(Value);

impl Said {
    /// # Errors
    ///
    /// When it is none.
    pub(super) fn of(line: &str) -> Result<Self> {
        let value = serde_json::from_str(line).with_context(|| format!("found `{line}`, expected JSON"))?;
        Ok(Self(value))
    }

    /// # Errors
    ///
    /// Like the others: when there is no such value.
    pub(super) fn number(&self, name: &str) -> Result<u64> {
        self.value(name)?.as_u64().with_context(|| format!("`{name}` is no number"))
    }

    pub(super) fn figure(&self, name: &str) -> Result<f64> {
        self.value(name)?.as_f64().with_context(|| format!("`{name}` is no number"))
    }

    pub(super) fn text(&self, name: &str) -> Result<String> {
        Ok(self.value(name)?.as_str().with_context(|| format!("`{name}` is no text"))?.to_owned())
    }

    pub(super) fn object(&self, name: &str) -> Result<Self> {
        Ok(Self(self.value(name)?.clone()))
    }

    fn fingerprint(&self) -> Result<u64> {
        Ok(u64::from_str_radix(&self.text("fingerprint")?, 16)?)
    }

    fn value(&self, name: &str) -> Result<&Value> {
        self.0.get(name).with_context(|| format!("found no `{name}` in {}", self.0))
    }
}
