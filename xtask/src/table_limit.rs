//! How large the connection tracking table of the machine may be: raised for a while, and set back, at the latest by the
//! next command where one was killed meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// One limit for all namespaces, which only the initial one can set.
const SYSCTL: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// What the limit was, as long as it is raised. A restart of the machine sets it back, and removes the file.
const REMEMBERED: &str = "/run/flowlog-xtask.nf_conntrack_max";

/// A table that may be larger, as long as this lives.
pub(crate) struct Raised<'a> {
    sysctl: &'a Path,
    remembered: &'a Path,
    /// What the limit was, and the file that says so, where it was changed. The file is locked: the kernel lets go of it
    /// when this process is killed.
    before: Option<(String, File)>,
}

impl Raised<'static> {
    /// Makes room for `entries`, and for flowlog to let the kernel hold them: half of the table is for that.
    /// A burst is many times what usually is in a table; on the host that this stands for there is room. Flowlog
    /// remembers as many flows as there is room for, to tell repeated events: its memory is that of such a host.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it, and while another command does so.
    pub(crate) fn to_hold(entries: u32) -> Result<Self> {
        Self::at_least(entries.saturating_mul(4), Path::new(SYSCTL), Path::new(REMEMBERED))
    }
}

impl<'a> Raised<'a> {
    fn at_least(wanted: u32, sysctl: &'a Path, remembered: &'a Path) -> Result<Self> {
        let found =
            fs::read_to_string(sysctl).with_context(|| format!("cannot read `{}`", sysctl.display()))?;
        if found.trim().parse::<u32>()? >= wanted {
            return Ok(Self { sysctl, remembered, before: None });
        }
        let remember = || {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(remembered)?;
            if file.try_lock().is_err() {
                return Ok(None);
            }
            // What a command left that was killed just now is older, and so the right one.
            let mut before = String::new();
            file.read_to_string(&mut before)?;
            if before.trim().parse::<u32>().is_err() {
                before.clone_from(&found);
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(found.as_bytes())?;
                file.sync_all()?;
            }
            Ok::<_, std::io::Error>(Some((before, file)))
        };
        let before = remember().with_context(|| format!("cannot write `{}`", remembered.display()))?;
        if before.is_none() {
            bail!("another command has raised the limit in `{}`: wait until it has ended", sysctl.display());
        }
        let raised = Self { sysctl, remembered, before };
        fs::write(sysctl, wanted.to_string()).with_context(|| {
            format!("cannot write `{}`: run it in the initial network namespace", sysctl.display())
        })?;
        Ok(raised)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        if let Some((before, _)) = &self.before {
            set_back(before, self.sysctl, self.remembered);
        }
    }
}

/// Sets back what a command left that was killed.
pub(crate) fn restore() {
    restore_from(Path::new(REMEMBERED), Path::new(SYSCTL));
}

fn restore_from(remembered: &Path, sysctl: &Path) {
    let Ok(mut file) = File::open(remembered) else { return };
    let mut before = String::new();
    // Who has raised it may still run.
    if file.try_lock().is_err() || file.read_to_string(&mut before).is_err() {
        return;
    }
    if before.trim().parse::<u32>().is_ok() {
        eprintln!(
            "xtask: sets `{}` back to {}, which a killed command had raised",
            sysctl.display(),
            before.trim()
        );
    }
    set_back(&before, sysctl, remembered);
}

fn set_back(before: &str, sysctl: &Path, remembered: &Path) {
    // A file that was cut has no value.
    let is_value = before.trim().parse::<u32>().is_ok();
    let done =
        if is_value { fs::write(sysctl, before) } else { Ok(()) }.and_then(|()| fs::remove_file(remembered));
    if let Err(error) = done {
        eprintln!("xtask: cannot write {} to `{}`: {error}", before.trim(), sysctl.display());
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process;

    use super::*;

    #[test]
    fn the_limit_is_set_back_also_where_the_command_was_killed() {
        let directory = env::temp_dir().join(format!("flowlog-xtask-{}", process::id()));
        fs::create_dir(&directory).unwrap();
        let [sysctl, remembered] = ["max", "remembered"].map(|name| directory.join(name));
        let limit = || fs::read_to_string(&sysctl).unwrap();
        fs::write(&sysctl, "1000\n").unwrap();

        let raised = Raised::at_least(5000, &sysctl, &remembered).unwrap();
        assert_eq!(limit(), "5000");
        // Another command meanwhile.
        restore_from(&remembered, &sysctl);
        assert!(Raised::at_least(6000, &sysctl, &remembered).is_err());
        assert_eq!(limit(), "5000");
        drop(raised);
        assert_eq!((limit().as_str(), remembered.exists()), ("1000\n", false));

        // As the kernel does it with a killed process: nothing but its descriptors is closed.
        let mut raised = Raised::at_least(5000, &sysctl, &remembered).unwrap();
        drop(raised.before.take());
        drop(raised);
        assert_eq!((limit().as_str(), remembered.exists()), ("5000", true));
        restore_from(&remembered, &sysctl);
        assert_eq!((limit().as_str(), remembered.exists()), ("1000\n", false));
        restore_from(&remembered, &sysctl);
        assert_eq!(limit(), "1000\n");
        fs::remove_dir_all(directory).unwrap();
    }
}
