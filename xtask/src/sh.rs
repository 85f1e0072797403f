//! Running other programs: every failure names the command and what it said.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// How much of a failed program's output is repeated. The last lines say why, as a rule.
const REPEATED_LINES: usize = 20;

/// The cargo that runs xtask; outside of cargo the one on PATH.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(workspace::root());
    // Written out, because a relative one counts from the directory in which cargo runs.
    command.env("CARGO_TARGET_DIR", workspace::target_dir());
    command
}

/// Runs `command` with the output of xtask.
///
/// # Errors
///
/// When it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_run(command))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs `command` and returns what it writes to its standard output.
///
/// # Errors
///
/// When it cannot be started or fails, with the end of what it said.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| cannot_run(command))?;
    if !status.success() {
        // apt-get, for one, tells half of the story on each of the two.
        let said = [stdout, stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        let end = lines.get(lines.len().saturating_sub(REPEATED_LINES)..).unwrap_or_default();
        bail!("`{}` ended with {status}:\n{}", line(command), end.join("\n"));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Where the program `name` is on PATH.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

fn cannot_run(command: &Command) -> String {
    format!("cannot run `{}`", line(command))
}

/// The command as a person would type it. Long arguments, which are embedded scripts, are cut.
fn line(command: &Command) -> String {
    let word = |word: &OsStr| {
        let word = word.to_string_lossy();
        if word.contains('\n') { "...".to_owned() } else { word.into_owned() }
    };
    let words: Vec<String> =
        [command.get_program()].into_iter().chain(command.get_args()).map(word).collect();
    words.join(" ")
}
