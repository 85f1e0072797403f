//! Man pages and completions: made by an example of flowlog, so that the daemon has no code for them, and checked by
//! what shows and executes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Release;
use crate::{setup, sh, workspace};

/// Shells, with the completions for each below the directory.
pub(super) const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "bash/flowlog.bash"), ("zsh", "zsh/_flowlog"), ("fish", "fish/flowlog.fish")];

/// Pages that there must be, and words of each.
const PAGES: [(&str, &str); 4] = [
    ("flowlog.1", "flowlog-run(1)"),
    ("flowlog-run.1", "--rotate-interval"),
    ("flowlog-doctor.1", "--fix"),
    ("flowlog-conntrack.1", "--orig-src"),
];

/// Writes them below `directory`, which is made empty.
///
/// # Errors
///
/// When the example does not build, or fails.
pub(crate) fn write(directory: &Path) -> Result<()> {
    workspace::make_empty(directory)?;
    let epoch = Release::new()?.epoch;
    let date = sh::output(Command::new("date").args(["-u", "-d", &format!("@{epoch}"), "+%F"]))?;
    let mut cargo = sh::cargo("run");
    cargo.args(["--quiet", "--locked", "--package=flowlog", "--example=manual", "--"]);
    sh::run(cargo.arg(directory).arg(date.trim_end()))
}

/// Checks what is below `directory`.
///
/// # Errors
///
/// When a page or completion is missing or not valid, or a tool cannot be installed.
pub(crate) fn check(directory: &Path) -> Result<()> {
    setup::for_manual()?;
    let pages = pages(directory)?;
    for page in &pages {
        // Warnings are of macros that have no effect there.
        sh::output(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(page))?;
    }
    for (name, words) in PAGES {
        let page =
            sh::output(Command::new("mandoc").args(["-T", "ascii"]).arg(directory.join("man").join(name)))?;
        // Bold is overstruck.
        let mut plain = String::new();
        for letter in page.chars() {
            if letter == '\u{8}' {
                plain.pop();
            } else {
                plain.push(letter);
            }
        }
        ensure!(plain.contains(words), "the man page {name} does not have `{words}`");
    }
    for (shell, file) in COMPLETIONS {
        sh::output(Command::new(shell).arg("-n").arg(directory.join(file)))?;
    }
    println!("{} man pages and {} completions are valid", pages.len(), COMPLETIONS.len());
    Ok(())
}

/// All man pages.
pub(crate) fn pages(directory: &Path) -> Result<Vec<PathBuf>> {
    let man = directory.join("man");
    let entries = fs::read_dir(&man).with_context(|| format!("cannot read `{}`", man.display()))?;
    let mut pages = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    pages.sort();
    Ok(pages)
}
