//! Commands that are programs of their own: `flowlog NAME` executes `flowlog-NAME`, as git does.
//!
//! What is heavy or talks to a network is one of them, and is installed without the daemon, or not at all.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use anyhow::{Context as _, Result};

/// Where they are besides the directory of `flowlog` itself, from there.
const LIBEXEC: &str = "../libexec/flowlog";

/// Commands that flowlog has in other packages: name, what it does, and the package.
const KNOWN: [(&str, &str, &str); 1] =
    [("lake", "List files of a time range, and whether it is complete", "flowlog-lake")];

/// There is no such command.
#[derive(Debug, thiserror::Error)]
#[error("{found}")]
pub struct UnknownCommand {
    found: String,
}

/// Executes `flowlog-NAME` with these arguments, of which the first is the name, in place of this process.
///
/// # Errors
///
/// There is none ([`UnknownCommand`]), or it cannot be executed. Otherwise it does not return.
pub fn run(args: &[OsString]) -> Result<Infallible> {
    let (name, rest) = args.split_first().context("expected a command")?;
    let program = find(name, &places()).ok_or_else(|| unknown(name))?;
    let error = Command::new(&program).args(rest).exec();
    Err(error).with_context(|| format!("cannot execute `{}`", program.display()))
}

/// The lines of `flowlog --help` about them.
pub fn help() -> String {
    let places = places();
    let mut help = String::from("Commands of other packages:");
    for (name, does, package) in KNOWN {
        let missing = match find(OsStr::new(name), &places) {
            Some(_) => String::new(),
            None => format!(" (package {package})"),
        };
        help.push_str(&format!("\n  {name:9}  {does}{missing}"));
    }
    help
}

fn unknown(name: &OsStr) -> UnknownCommand {
    let name = name.display();
    let known = KNOWN.iter().find(|(known, ..)| name.to_string() == *known);
    let found = match known {
        Some((_, _, package)) => format!(
            "`flowlog {name}` is not installed: install the package {package}, or put the program `flowlog-{name}` \
             beside flowlog or on PATH"
        ),
        None => format!(
            "there is no command `{name}`, and no program `flowlog-{name}` beside flowlog or on PATH; \
             `flowlog --help` lists the commands"
        ),
    };
    UnknownCommand { found }
}

/// The directories that may have them: that of this program, its libexec directory, and those of PATH.
fn places() -> Vec<PathBuf> {
    let own = env::current_exe().ok().and_then(|program| program.parent().map(Path::to_owned));
    let libexec = own.as_ref().map(|own| own.join(LIBEXEC));
    let path = env::var_os("PATH").unwrap_or_default();
    // The current directory is none: who calls it as root may be anywhere.
    let places = own.into_iter().chain(libexec).chain(env::split_paths(&path));
    places.filter(|place| place.is_absolute()).collect()
}

fn find(name: &OsStr, places: &[PathBuf]) -> Option<PathBuf> {
    // A name is no path: `flowlog ../x` executes nothing.
    let is_name = name.to_str().is_some_and(|name| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    });
    let mut program = OsString::from("flowlog-");
    program.push(name);
    let mut programs = places.iter().filter(|_| is_name).map(|place| place.join(&program));
    programs.find(|program| is_executable(program).unwrap_or(false))
}

fn is_executable(program: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = program.metadata()?;
    Ok(metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_is_found_in_the_first_place_that_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let places = ["one", "two", "three"].map(|name| dir.path().join(name)).to_vec();
        for (place, mode) in places.iter().zip([0o644, 0o755, 0o755]) {
            fs::create_dir(place).unwrap();
            fs::write(place.join("flowlog-x"), "").unwrap();
            fs::set_permissions(place.join("flowlog-x"), fs::Permissions::from_mode(mode)).unwrap();
        }
        let found = |name: &str| find(OsStr::new(name), &places);
        assert_eq!(found("x"), Some(places[1].join("flowlog-x")), "the first one cannot be executed");
        for name in ["y", "", "x/../flowlog-x", "../two/flowlog-x", "x y"] {
            assert_eq!(found(name), None, "{name}");
        }
    }
}
